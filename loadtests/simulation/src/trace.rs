//! What happened in a run, in order, as one hash: two runs of a seed are the same run if their traces are. The lines behind
//! the hash can be kept, to find the first at which two runs part.

use std::fmt;

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

/// Everything that is seen of a run: bytes that arrive, what clients were told, faults, processes that end.
pub struct Trace {
    state: Mutex<State>,
}

struct State {
    hasher: Xxh3,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub fn new(keeps_lines: bool) -> Self {
        Self { state: Mutex::new(State { hasher: Xxh3::new(), events: 0, lines: keeps_lines.then(Vec::new) }) }
    }

    /// Takes in that `what` happened on `host`, `nanos` after the start. `bytes` are hashed and not kept.
    pub fn note(&self, nanos: u64, host: &str, what: fmt::Arguments<'_>, bytes: &[u8]) {
        let mut state = self.state.lock();
        state.events += 1;
        let line = format!("{nanos} {host} {what}");
        state.hasher.update(line.as_bytes());
        state.hasher.update(&(bytes.len() as u64).to_le_bytes());
        state.hasher.update(bytes);
        let hash = state.hasher.digest128();
        if let Some(lines) = &mut state.lines {
            lines.push(format!("{line} [{} bytes] {:08x}", bytes.len(), hash as u32));
        }
    }

    pub fn hash(&self) -> u128 {
        self.state.lock().hasher.digest128()
    }

    pub fn events(&self) -> u64 {
        self.state.lock().events
    }

    /// The lines, if they were kept.
    pub fn take_lines(&self) -> Vec<String> {
        self.state.lock().lines.take().unwrap_or_default()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:032x})", self.hash())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_time_host_and_bytes_all_count() {
        let hash = |events: &[(u64, &str, &str, &[u8])]| {
            let trace = Trace::new(false);
            events.iter().for_each(|(at, host, what, bytes)| trace.note(*at, host, format_args!("{what}"), bytes));
            trace.hash()
        };
        let one: &[_] = &[(1, "a", "x", b"1".as_slice()), (1, "b", "y", b"2")];
        assert_eq!(hash(one), hash(one));
        for other in [
            [(1, "b", "y", b"2".as_slice()), (1, "a", "x", b"1")],
            [(2, "a", "x", b"1"), (1, "b", "y", b"2")],
            [(1, "c", "x", b"1"), (1, "b", "y", b"2")],
            [(1, "a", "z", b"1"), (1, "b", "y", b"2")],
            [(1, "a", "x", b"3"), (1, "b", "y", b"2")],
        ] {
            assert_ne!(hash(one), hash(&other));
        }
    }
}
