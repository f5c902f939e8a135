//! Which moves have to wait for others, as far as gossip tells: copying replicas takes processors and disks, and makes a hand-off
//! that happens meanwhile longer. So a node that leaves first gives away what it owns; then replicas are copied; and when all are
//! where they should be, shards go to their planned owners. Pure. A preference only: it is given up after a while, and what a
//! silent node needs never waits.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::report::NodeState;
use berth_shared::seam::BootInstant;

use crate::cluster::membership::Members;

/// How long a node that leaves is given to hand over what it owns.
const LEAVING_MAX: Duration = Duration::from_secs(5);
/// How long shards wait for replicas of other shards, from when the plan is known.
const COPYING_MAX: Duration = Duration::from_secs(60);

/// Who comes first at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turns {
    /// New replicas wait for a node that leaves.
    pub(super) copies_wait: bool,
    /// Shards whose owner may stay for now wait for replicas.
    pub(super) owners_wait: bool,
}

/// Since when something is so.
#[derive(Debug)]
pub(super) struct Since {
    epoch: u64,
    known: BootInstant,
    leaving: BTreeMap<NodeId, BootInstant>,
}

impl Since {
    pub(super) fn new(now: BootInstant) -> Self {
        Self { epoch: 0, known: now, leaving: BTreeMap::new() }
    }

    pub(super) fn turns(&mut self, epoch: u64, members: &Members, now: BootInstant) -> Turns {
        if self.epoch != epoch {
            (self.epoch, self.known) = (epoch, now);
        }
        let live = || members.iter().filter(|member| member.suspected.is_none());
        let is_leaving =
            |node: &NodeId| live().any(|member| member.node == *node && member.facts.state == NodeState::Leaving);
        self.leaving.retain(|node, _| is_leaving(node));
        let mut copies_wait = false;
        for member in live().filter(|member| member.facts.state == NodeState::Leaving) {
            let since = *self.leaving.entry(member.node).or_insert(now);
            copies_wait |= !member.facts.led.is_empty() && now.since(since) < LEAVING_MAX;
        }
        let is_copying = live().any(|member| member.facts.plan != epoch || member.facts.unsettled > 0);
        Turns { copies_wait, owners_wait: is_copying && now.since(self.known) < COPYING_MAX }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use berth_shared::ids::ShardId;
    use berth_shared::report::{Edition, Load};

    use super::*;
    use crate::cluster::membership::{Facts, Member};

    const EPOCH: u64 = 7;

    fn at(second: u64) -> BootInstant {
        BootInstant(0) + Duration::from_secs(100 + second)
    }

    /// Two nodes, of which the second is changed.
    fn members(change: impl Fn(&mut Facts, &mut Option<BootInstant>)) -> Members {
        let member = |number: u64| {
            let mut facts = Facts {
                address: format!("n{number}:1"),
                zone: None,
                state: NodeState::Ready,
                plan: EPOCH,
                unsettled: 0,
                weight: NonZeroU32::MIN,
                version: "berth-node/0".to_owned(),
                load: Load::default(),
                led: vec![(ShardId(number as u16), 1)],
                system: None,
            };
            let mut suspected = None;
            if number == 2 {
                change(&mut facts, &mut suspected);
            }
            Member { node: NodeId(number), facts: Arc::new(facts), edition: Edition::default(), suspected }
        };
        (1..=2).map(member).collect()
    }

    fn turns(since: &mut Since, second: u64, members: &Members) -> (bool, bool) {
        let Turns { copies_wait, owners_wait } = since.turns(EPOCH, members, at(second));
        (copies_wait, owners_wait)
    }

    #[test]
    fn nothing_waits_where_everything_is_in_its_place() {
        let mut since = Since::new(at(0));
        assert_eq!(turns(&mut since, 0, &members(|_, _| {})), (false, false));
        assert_eq!(turns(&mut since, 0, &Members::default()), (false, false));
    }

    #[test]
    fn owners_wait_for_replicas_and_for_who_does_not_know_the_plan_but_not_for_ever() {
        let mut since = Since::new(at(0));
        let lacking = members(|facts, _| facts.unsettled = 1);
        let behind = members(|facts, _| facts.plan = EPOCH - 1);
        for second in [0, 30, 59] {
            assert_eq!(turns(&mut since, second, &lacking), (false, true));
            assert_eq!(turns(&mut since, second, &behind), (false, true));
        }
        assert_eq!(turns(&mut since, 60, &lacking), (false, false));
        assert!(since.turns(EPOCH + 1, &lacking, at(61)).owners_wait, "for another plan they wait anew");
        let silent = members(|facts, suspected| (facts.unsettled, *suspected) = (1, Some(at(0))));
        assert_eq!(turns(&mut Since::new(at(0)), 0, &silent), (false, false), "nobody waits for a silent node");
    }

    #[test]
    fn replicas_wait_for_who_leaves_and_still_owns_something_but_not_for_ever() {
        let mut since = Since::new(at(0));
        let leaving = members(|facts, _| facts.state = NodeState::Leaving);
        assert_eq!(turns(&mut since, 10, &leaving), (true, false));
        assert_eq!(turns(&mut since, 14, &leaving), (true, false));
        assert_eq!(turns(&mut since, 15, &leaving), (false, false));
        let without = members(|facts, _| (facts.state, facts.led) = (NodeState::Leaving, Vec::new()));
        assert_eq!(turns(&mut Since::new(at(0)), 10, &without), (false, false));
        assert_eq!(turns(&mut since, 16, &members(|_, _| {})), (false, false));
        assert_eq!(turns(&mut since, 17, &leaving), (true, false), "it leaves anew");
    }
}
