//! Which attempts say something of how busy nodes are, by how long they took. Pure.

use berth_shared::problem::Code;

use super::verdict::{Attempt, Operation};

/// What kind of attempt it was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nature {
    pub(super) operation: Operation,
    /// Not where the node may have waited before it answered, for what is yet to happen.
    pub(super) is_timed: bool,
}

/// Whether an attempt was answered, in which case its time is that of the node's work, or given up, in which case it is the
/// least that the work would have taken. `None` where the time says nothing: what takes long by its nature, as a wait for what
/// is yet to happen does, and what nobody has worked on.
pub(super) fn is_answer(nature: Nature, attempt: Attempt) -> Option<bool> {
    match nature.operation {
        Operation::Command | Operation::Read if !nature.is_timed => return None,
        Operation::Command | Operation::Read => {}
        Operation::LongRead => return None,
    }
    match attempt {
        // A refusal that comes at once says nothing of how long others wait.
        Attempt::Refused { code: Code::Overloaded | Code::Unavailable | Code::UnknownOutcome, .. }
        | Attempt::WrongOwner
        | Attempt::NoOwner
        | Attempt::NodeBusy
        | Attempt::NotExecuted => None,
        Attempt::Answered | Attempt::Refused { .. } => Some(true),
        Attempt::MaybeExecuted => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nodes_have_worked_on_is_timed() {
        let refused = |code| Attempt::Refused { code, decided: false };
        for (attempt, expected) in [
            (Attempt::Answered, Some(true)),
            (refused(Code::Rejected), Some(true)),
            (refused(Code::NotFound), Some(true)),
            (refused(Code::Overloaded), None),
            (refused(Code::Unavailable), None),
            (Attempt::MaybeExecuted, Some(false)),
            (Attempt::NodeBusy, None),
            (Attempt::NoOwner, None),
            (Attempt::WrongOwner, None),
            (Attempt::NotExecuted, None),
        ] {
            let nature = |operation| Nature { operation, is_timed: true };
            assert_eq!(is_answer(nature(Operation::Command), attempt), expected, "{attempt:?}");
            assert_eq!(is_answer(nature(Operation::Read), attempt), expected, "{attempt:?}");
            assert_eq!(is_answer(nature(Operation::LongRead), attempt), None, "{attempt:?}");
            let waiting = Nature { is_timed: false, ..nature(Operation::Read) };
            assert_eq!(is_answer(waiting, attempt), None, "{attempt:?}");
        }
    }
}
