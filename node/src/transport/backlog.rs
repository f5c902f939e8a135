//! The memory of commands that are not answered yet, bounded over all shards of a node. A mailbox bounds their number; one
//! command may be a thousand times as large as another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Debug)]
pub struct Backlog {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// Room for one command, given back when this is dropped.
#[derive(Debug)]
pub struct Room {
    backlog: Backlog,
    bytes: usize,
}

/// What a command costs besides its arguments.
const COMMAND_BYTES: usize = 1024;
/// Arguments that are read into a tree of values take up to this many times their length.
const PARSED_FACTOR: usize = 20;

impl Backlog {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Arc::default(), bytes_max }
    }

    /// Room for a command with so many bytes of arguments; `None` when there is none left.
    pub fn enter(&self, body_bytes: usize) -> Option<Room> {
        let bytes = COMMAND_BYTES + PARSED_FACTOR * body_bytes;
        // Made before looking, so that what does not fit is given back.
        let room = Room { backlog: self.clone(), bytes };
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        (before + bytes <= self.bytes_max).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.backlog.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_takes_no_room_and_what_is_answered_gives_it_back() {
        let backlog = Backlog::new(3 * COMMAND_BYTES);
        let first = backlog.enter(0).unwrap();
        let _second = backlog.enter(0).unwrap();
        assert!(backlog.enter(COMMAND_BYTES).is_none());
        let third = backlog.enter(0).unwrap();
        assert!(backlog.enter(0).is_none());
        drop((first, third));
        assert!(backlog.enter(COMMAND_BYTES / PARSED_FACTOR).is_some());
    }
}
