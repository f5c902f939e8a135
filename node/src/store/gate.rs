//! A storage backend that can be shut. A store that is dropped without having been closed must not write any more:
//! the storage engine would make everything it holds durable as it goes, without waiting for the journal.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{BackendError, StorageBackend};

use crate::disk::Backend;

#[derive(Debug)]
pub(super) struct Gate {
    backend: Backend,
    switch: GateSwitch,
}

/// Shuts a [`Gate`] for good.
#[derive(Clone, Debug, Default)]
pub(super) struct GateSwitch(Arc<AtomicBool>);

impl Gate {
    pub(super) fn new(backend: Backend, switch: GateSwitch) -> Self {
        Self { backend, switch }
    }

    fn check_open(&self) -> io::Result<()> {
        if self.switch.is_shut() { Err(io::Error::other("the store was dropped without being closed")) } else { Ok(()) }
    }
}

impl GateSwitch {
    pub(super) fn shut(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl StorageBackend for Gate {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_open()?;
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check_open()?;
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_open()?;
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
