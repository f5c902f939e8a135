//! What a deterministic simulation lends to the few callers that no [`super::Seams`] can be handed to: the consensus
//! library's runtime, whose calls are static, the end of a process, and blocking work that runs inline. A thread enters a
//! simulation and leaves it again; outside of one, which is everywhere else, nobody finds it.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::clock::BootInstant;
use crate::planted::Bug;

/// The world as the process that is running just now sees it. A simulation runs one of its processes at a time.
pub trait World: fmt::Debug {
    /// The clock of the running process.
    fn now(&self) -> BootInstant;

    /// Randomness from the simulation's seed.
    fn next_u64(&self) -> u64;

    /// How long blocking work of the running process waits before it is done, and how long before its result is known.
    fn blocking_pauses(&self) -> Pauses;

    /// Ends the running process, of which nothing is seen from now on.
    fn abort(&self, message: &str);

    /// Whether every process has this bug.
    fn is_planted(&self, bug: Bug) -> bool;
}

/// Simulated time around blocking work, which takes none itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    pub before: Duration,
    pub after: Duration,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// While this lives, its thread is in a simulation.
#[derive(Debug)]
#[must_use]
pub struct Entered {
    outer: Option<Rc<dyn World>>,
}

/// Puts this thread into `world`.
pub fn enter(world: Rc<dyn World>) -> Entered {
    Entered { outer: CURRENT.replace(Some(world)) }
}

/// The simulation this thread is in.
pub fn current() -> Option<Rc<dyn World>> {
    // None too while the thread ends and its locals are gone.
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.replace(self.outer.take());
    }
}
