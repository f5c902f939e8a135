//! What a cluster is waiting for, in words: whatever keeps it from being as its plan wants it. Pure.

use std::collections::BTreeMap;

use berth_shared::cluster_view::{GroupView, MemberView};
use berth_shared::ids::NodeId;
use berth_shared::report::NodeState;

use super::show::brief;
use super::{Seen, is_placed};

/// Names that are listed before it is only said how many there are.
const NAMED_MAX: usize = 5;

/// Each is something to wait for; the most urgent come first. Empty when there is nothing.
pub(super) fn waiting(seen: &Seen) -> Vec<String> {
    let mut found = foundations(seen);
    let without_owner = names(seen, |group| group.owner.is_none());
    if !without_owner.is_empty() {
        found.push(format!("an owner of {}: requests wait until it is elected", list(&without_owner)));
    }
    let counts = Counts::of(seen);
    found.extend(seen.cluster.members.iter().filter_map(|member| of_member(seen, &counts, member)));
    let incomplete = names(seen, |group| {
        group.planned.as_ref().is_some_and(|planned| group.replicas.len() < planned.replicas.len())
    });
    if !incomplete.is_empty() {
        found.push(format!("the missing copies of {}", list(&incomplete)));
    }
    let (misplaced, moving) =
        (names(seen, |group| is_placed(group) == Some(false)).len(), names(seen, |group| group.moving.is_some()).len());
    match (misplaced, moving) {
        (0, 0) => {}
        (0, moving) => found.push(format!("{} to finish", counted(moving, "move"))),
        (misplaced, moving) => {
            found.push(format!(
                "{} to be where the plan wants them; {moving} of them move just now",
                counted(misplaced, "shard")
            ));
        }
    }
    found
}

/// What comes before everything else.
fn foundations(seen: &Seen) -> Vec<String> {
    if seen.cluster.cluster.is_none() {
        return vec!["nodes to form a cluster: none that answers belongs to one".to_owned()];
    }
    if seen.cluster.plan_epoch == 0 {
        return vec!["the first plan".to_owned()];
    }
    Vec::new()
}

/// How many replicas each node has, and how many it should have.
struct Counts {
    held: BTreeMap<NodeId, usize>,
    planned: BTreeMap<NodeId, usize>,
}

impl Counts {
    fn of(seen: &Seen) -> Self {
        let mut counts = Self { held: BTreeMap::new(), planned: BTreeMap::new() };
        for (_, group) in seen.groups() {
            group.replicas.iter().for_each(|node| *counts.held.entry(*node).or_default() += 1);
            let planned = group.planned.iter().flat_map(|planned| &planned.replicas);
            planned.for_each(|node| *counts.planned.entry(*node).or_default() += 1);
        }
        counts
    }
}

fn of_member(seen: &Seen, counts: &Counts, member: &MemberView) -> Option<String> {
    let Some(node) = member.id else { return Some(format!("an answer from {}", member.address)) };
    let (held, planned) = (counts.held.get(&node).copied(), counts.planned.get(&node).copied());
    let held = held.unwrap_or(0);
    if let Some(since) = &member.suspected_since {
        let ago = seen.since(Some(since)).map_or_else(String::new, |ago| format!(", silent for {}", brief(ago)));
        let then = match held {
            0 => "it holds nothing".to_owned(),
            held => format!("if it stays silent, its {} are made elsewhere", counted(held, "replica")),
        };
        return Some(format!("a word from node {node}{ago}; {then}"));
    }
    if !member.answered {
        return Some(format!("an answer from node {node} at {}", member.address));
    }
    match (member.state?, held) {
        (NodeState::Leaving, 0) => Some(format!("node {node} to end: it leaves, and holds nothing any more")),
        (NodeState::Leaving, held) => {
            Some(format!("node {node} to leave: {} to move away from it", counted(held, "replica")))
        }
        (NodeState::Joining, held) => Some(match planned {
            None => format!("node {node} to have a place in a plan"),
            Some(planned) => format!("node {node} to join: it has {held} of {}", counted(planned, "planned replica")),
        }),
        (NodeState::Recovering, _) => Some(format!("node {node} to catch up with its owners")),
        (NodeState::Ready, _) => {
            let known = member.plan_epoch.filter(|known| *known < seen.cluster.plan_epoch)?;
            Some(format!("node {node} to learn of plan {}: it knows plan {known}", seen.cluster.plan_epoch))
        }
    }
}

fn names(seen: &Seen, is_meant: impl Fn(&GroupView) -> bool) -> Vec<String> {
    seen.groups().filter(|(_, group)| is_meant(group)).map(|(name, _)| name).collect()
}

fn list(names: &[String]) -> String {
    match names.split_at_checked(NAMED_MAX) {
        Some((some, rest)) if !rest.is_empty() => format!("{} and {} more", some.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
