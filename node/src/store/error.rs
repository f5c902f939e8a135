//! Why the store cannot do what it is asked.

use std::io;
use std::sync::Arc;

use berth_shared::ids::ShardId;

use super::chunk::SnapshotError;
use super::layer::SequenceError;
use super::layout::RowError;

/// Why the store cannot do what it is asked. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the store's file: {0}")]
    File(Arc<redb::Error>),
    #[error("the store's file: {0}")]
    Disk(Arc<io::Error>),
    #[error("the store's file is damaged: table {table}, row {key}: {error}")]
    Damaged {
        table: &'static str,
        /// Hexadecimal.
        key: String,
        error: RowError,
    },
    /// These changes do not follow what the store holds. They were not taken.
    #[error("the store refuses changes: {0}")]
    Sequence(#[from] SequenceError),
    /// A snapshot, or the chunk of one that was just given. Nothing of the chunk was taken.
    #[error("a snapshot is not sound: {0}")]
    Snapshot(#[from] SnapshotError),
    #[error("nothing of shard {0} was ever written")]
    Absent(ShardId),
    /// Without the journal there is no checkpoint; the store stops, as it was after the last one.
    #[error("the journal cannot confirm its entries: {0}")]
    Journal(Arc<io::Error>),
    #[error("the store is stopped: {0}")]
    Stopped(Arc<str>),
}

impl Error {
    pub(super) fn damaged(table: &'static str, key: &[u8], error: RowError) -> Self {
        use std::fmt::Write;
        let mut hex = String::with_capacity(key.len() * 2);
        for byte in key {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self::Damaged { table, key: hex, error }
    }
}

impl From<redb::Error> for Error {
    fn from(error: redb::Error) -> Self {
        Self::File(Arc::new(error))
    }
}

impl From<redb::StorageError> for Error {
    fn from(error: redb::StorageError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
