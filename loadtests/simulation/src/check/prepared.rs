//! A node gets a vote, or a shard, when it has almost everything: until it has, a vote that cannot count makes the group
//! easier to lose, and a shard that it cannot serve yet is nobody's.

use berth_shared::ids::LogIndex;

use crate::history::{History, Move, Violation};

const PROMISE: &str = "moves are prepared";
/// The steps that are not to be taken before.
const STEPS: [&str; 2] = ["promote", "hand-off"];
/// How many entries a node may lack, by the documents …
const BEHIND_MAX: LogIndex = 256;
/// … and how many more may have come until the step is seen.
const SLACK: LogIndex = 32;

pub(super) fn check(history: &History) -> Vec<Violation> {
    let is_early = |step: &&Move| STEPS.contains(&step.step.as_str()) && step.behind > BEHIND_MAX + SLACK;
    history.observed.moves.iter().filter(is_early).map(|step| Violation::new(PROMISE, format!("{step:?}"))).collect()
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::{NodeId, ShardId};

    use super::*;

    fn check_one(step: &str, behind: LogIndex) -> usize {
        let step = Move { shard: ShardId(1), by: NodeId(1), step: step.into(), target: NodeId(2), behind };
        let mut history = History::default();
        history.observed.moves.push(step);
        check(&history).len()
    }

    #[test]
    fn a_step_that_comes_too_early_is_noticed() {
        assert_eq!((check_one("promote", 256), check_one("promote", 400)), (0, 1));
        assert_eq!((check_one("hand-off", 0), check_one("hand-off", 400)), (0, 1));
        assert_eq!(check_one("catch-up", 400), 0, "that is what it is for");
    }
}
