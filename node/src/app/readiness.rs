//! When a node is ready. One that has been ready is so again as soon as its replicas serve. A new one has to wait until the
//! cluster has taken it in as a whole: it is this that paces a rollout, which stops the next old node when the new one says
//! that it is ready.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{NodeId, ShardId};
use berth_shared::report::NodeState;
use berth_shared::seam::Seams;

use super::place::Place;
use crate::cluster::membership::{Member, Members};
use crate::cluster::plan::Plan;
use crate::transport::hosting::Hosted;

/// How often it is looked whether the node has become ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is said what it waits for.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// Whether every replica serves that the plan wants here and that has a vote: one that is on its way here has none yet, and one
/// that goes elsewhere may have lost it unawares.
pub(super) fn serves(place: &Place) -> bool {
    let (node, plan) = (place.identity.node, place.plans.newest());
    let is_planned =
        |shard: ShardId| plan.as_ref().is_none_or(|plan| plan.replicas_of(shard).any(|member| member.node == node));
    let serves = |hosted: &Arc<Hosted>| {
        hosted.group.is_serving() || !is_planned(hosted.shard.id()) || !hosted.group.status().voters.contains(&node)
    };
    place.hosting.all().iter().chain(&place.hosting.system()).all(serves)
}

/// Returns when a new node is ready.
pub(super) async fn first_time(place: &Place, seams: &Seams) {
    let mut said = seams.clock.now();
    loop {
        let obstacle = match place.plans.newest() {
            Some(plan) => obstacle(place, &plan),
            None => Some("the plan is not known here".to_owned()),
        };
        let Some(obstacle) = obstacle else { return };
        let now = seams.clock.now();
        if now.since(said) >= SAY_INTERVAL {
            tracing::info!(node = %place.identity.node, "not ready yet: {obstacle}");
            said = now;
        }
        seams.spawner.sleep(LOOK_INTERVAL).await;
    }
}

/// What keeps a new node from being ready.
fn obstacle(place: &Place, plan: &Plan) -> Option<String> {
    let node = place.identity.node;
    let is_voter = |shard: ShardId| place.hosting.any(shard).is_some_and(|h| h.group.status().voters.contains(&node));
    let lacking = plan.hosted_by(node).into_iter().filter(|shard| !is_voter(*shard)).count();
    if lacking > 0 {
        return Some(format!("{lacking} replicas are not here yet"));
    }
    if !serves(place) {
        return Some("a replica does not serve yet".to_owned());
    }
    unsettled(node, plan, &place.gossip.members().borrow())
}

/// What the cluster as a whole still has to do, as far as gossip knows: nobody leaves, everybody follows the same plan, and
/// every shard has an owner and its full number of voters, all of which live. Pure.
fn unsettled(node: NodeId, plan: &Plan, members: &Members) -> Option<String> {
    if !plan.members().iter().any(|member| member.node == node) {
        return Some("the plan does not name this node yet".to_owned());
    }
    let live: Vec<&Member> = members.iter().filter(|member| member.suspected.is_none()).collect();
    if let Some(leaving) = live.iter().find(|member| member.facts.state == NodeState::Leaving) {
        return Some(format!("the node at {} leaves", leaving.facts.address));
    }
    let is_live = |node: NodeId| live.iter().any(|member| member.node == node);
    if let Some(absent) = plan.members().iter().find(|member| !is_live(member.node)) {
        return Some(format!("the node at {} is not there", absent.address));
    }
    if let Some(behind) = live.iter().find(|member| member.facts.plan != plan.epoch) {
        return Some(format!("the node at {} follows another plan", behind.facts.address));
    }
    if let Some(moving) = live.iter().find(|member| member.facts.unsettled > 0) {
        let count = moving.facts.unsettled;
        return Some(format!("{count} shards of the node at {} lack replicas", moving.facts.address));
    }
    let led: BTreeSet<ShardId> = live.iter().flat_map(|member| &member.facts.led).map(|(shard, _)| *shard).collect();
    let lacking = usize::from(plan.shards()).saturating_sub(led.len());
    (lacking > 0).then(|| format!("{lacking} shards have no owner"))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use berth_shared::report::{self, Edition, Load};
    use berth_shared::seam::BootInstant;

    use super::*;
    use crate::cluster::membership::Facts;
    use crate::cluster::plan::Candidate;

    const SHARDS: u16 = 6;

    fn plan() -> Plan {
        let member = |number| report::Member { node: NodeId(number), address: format!("n{number}:1") };
        let candidates: Vec<Candidate> = (1..=3).map(|number| Candidate::from(member(number))).collect();
        Plan::first(&candidates, SHARDS, 3)
    }

    /// Three nodes that have everything, of which each leads a third of the shards, after `change` of the second one.
    fn members(change: impl Fn(&mut Facts, &mut Option<BootInstant>)) -> Members {
        let member = |number: u64| {
            let led = (0..SHARDS).filter(|shard| u64::from(shard % 3) + 1 == number).map(|shard| (ShardId(shard), 1));
            let mut facts = Facts {
                address: format!("n{number}:1"),
                zone: None,
                state: NodeState::Ready,
                plan: 1,
                unsettled: 0,
                weight: NonZeroU32::MIN,
                version: "test".to_owned(),
                load: Load::default(),
                led: led.collect(),
                system: None,
            };
            let mut suspected = None;
            if number == 2 {
                change(&mut facts, &mut suspected);
            }
            Member { node: NodeId(number), facts: Arc::new(facts), edition: Edition::default(), suspected }
        };
        (1..=3).map(member).collect()
    }

    fn obstacle_of(node: u64, change: impl Fn(&mut Facts, &mut Option<BootInstant>)) -> String {
        unsettled(NodeId(node), &plan(), &members(change)).unwrap_or_default()
    }

    #[test]
    fn a_new_node_is_ready_when_the_whole_cluster_is_settled() {
        assert_eq!(obstacle_of(1, |_, _| {}), "");
        assert_eq!(obstacle_of(4, |_, _| {}), "the plan does not name this node yet");
    }

    #[test]
    fn whatever_any_member_still_has_to_do_keeps_a_new_node_from_being_ready() {
        assert_eq!(obstacle_of(1, |facts, _| facts.state = NodeState::Leaving), "the node at n2:1 leaves");
        assert_eq!(obstacle_of(1, |facts, _| facts.plan = 2), "the node at n2:1 follows another plan");
        assert_eq!(obstacle_of(1, |facts, _| facts.unsettled = 3), "3 shards of the node at n2:1 lack replicas");
        assert_eq!(obstacle_of(1, |facts, _| facts.led.truncate(1)), "1 shards have no owner");
        let silent = |_: &mut Facts, suspected: &mut Option<BootInstant>| *suspected = Some(BootInstant(1));
        assert_eq!(obstacle_of(1, silent), "the node at n2:1 is not there");
    }
}
