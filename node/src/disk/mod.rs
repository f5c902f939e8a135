//! The disk seam: the only way to files. A disk is one flat directory that holds databases, which redb reads and writes
//! through a [`Backend`], and small files, which are replaced whole. [`DirectoryDisk`] is a real directory;
//! [`SimulatedDisk`] is its twin in memory, which can lose power, flip bits, fail, and never finish an fsync.
//! Calls block: run them through the task seam.

mod directory;
mod simulated;

use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};

use berth_shared::planted::{self, Bug};

pub use directory::DirectoryDisk;
pub use simulated::{Faults, SimulatedDisk, SyncGate};

pub trait Disk: Send + Sync + Debug {
    /// Opens a database file. An absent one is created, empty but whole: a power cut leaves it absent or whole, where a redb
    /// file that loses power in its first moments is refused ever after.
    fn open(&self, name: &str) -> io::Result<Backend>;

    /// A small file, whole. `None` when it was never written.
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Replaces a small file. A power cut leaves the old bytes or the new ones, and the new ones once this has returned.
    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Whether the database file `name` was ever opened here.
    fn holds(&self, name: &str) -> io::Result<bool>;

    /// How people find the file `name`: for messages only.
    fn describe(&self, name: &str) -> String;
}

/// A database file of any disk, in the sized shape that redb asks for.
#[derive(Debug)]
pub struct Backend {
    storage: Box<dyn StorageBackend>,
    size: FileSize,
}

/// The size of a database file, known without asking the disk. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FileSize(Arc<AtomicU64>);

impl Backend {
    pub fn new(storage: impl StorageBackend) -> io::Result<Self> {
        let size = FileSize(Arc::new(AtomicU64::new(storage.len()?)));
        Ok(Self { storage: Box::new(storage), size })
    }

    pub fn size(&self) -> FileSize {
        self.size.clone()
    }
}

impl FileSize {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.set_len(len)?;
        self.size.0.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if planted::is(Bug::SkipFsync) {
            return Ok(());
        }
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.storage.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.storage.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.storage.query_lock_range(start, end)
    }
}

/// Makes an empty file an empty database, and syncs it.
fn initialise(storage: impl StorageBackend) -> io::Result<()> {
    let mut builder = redb::Builder::new();
    let database = builder.set_cache_size(0).create_with_backend(storage).map_err(io::Error::other)?;
    database.close().map_err(io::Error::other)
}

/// The name of a file that is not whole yet.
fn name_of_new(name: &str) -> String {
    format!("{name}.new")
}

/// Names are chosen by this program; one that leaves the directory is a mistake of ours.
fn check_name(name: &str) -> io::Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a plain file name")))
    }
}
