//! How a store is set up, and what it is given to call.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

/// Resolves when the journal has flushed everything it had been given when this was called. An error means that it never
/// will.
pub type JournalFlushed = Arc<dyn Fn() -> BoxFuture<'static, io::Result<()>> + Send + Sync>;

pub type FatalHandler = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Clone)]
pub struct Config {
    /// Name of the file on its disk.
    pub file_name: String,
    /// Memory for pages of the file.
    pub cache_bytes: usize,
    /// Memory for changes that are not in the file yet; beyond it writers wait. One [`Changes`] may exceed it.
    pub queue_bytes_max: usize,
    /// Changes are written to the file when they have waited this long,
    pub flush_interval: Duration,
    /// or when this many have gathered.
    pub flush_bytes: usize,
    /// Changes are made durable after this long,
    pub checkpoint_interval: Duration,
    /// or when about this many bytes have been written since the last time.
    pub checkpoint_bytes: usize,
    /// Verifies every page in use when the file is opened, which reads them all. See the room's section on damage.
    pub check_integrity_on_open: bool,
    /// Called once with one clear line when the store can no longer be written. The default ends the process.
    pub fatal: FatalHandler,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file_name: "store.redb".to_owned(),
            cache_bytes: 32 << 20,
            queue_bytes_max: 32 << 20,
            flush_interval: Duration::from_millis(200),
            flush_bytes: 4 << 20,
            checkpoint_interval: Duration::from_secs(5),
            checkpoint_bytes: 64 << 20,
            check_integrity_on_open: true,
            fatal: Arc::new(crate::fatal::abort),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("cache_bytes", &self.cache_bytes)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("flush_interval", &self.flush_interval)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .finish_non_exhaustive()
    }
}
