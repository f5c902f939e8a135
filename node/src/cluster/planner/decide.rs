//! Who the next plan may place replicas on, and whether it is time for it. Pure: time is passed in, and what is remembered from
//! look to look is in [`Decider`].
//!
//! A change of members should make one plan, and what is none should make none. So a node that comes must be there for
//! [`SETTLE`] first; one that falls silent is replaced only when gossip has not heard of it and no connection to it stood for
//! `replace_after` on end; and what changes within [`GATHER`] goes into one plan. Only a node that says that it leaves is out at
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::report::{self, NodeState};
use berth_shared::seam::BootInstant;

use crate::cluster::membership::{Facts, Members};
use crate::cluster::plan::{Candidate, MEMBERS_MAX, Plan};

/// How long a node that comes must be heard and connected to before it is given anything.
pub const SETTLE: Duration = Duration::from_millis(1500);
/// How long nothing more must change before there is a plan …
pub const GATHER: Duration = Duration::from_secs(1);
/// … unless it has gone on for so long.
pub const GATHER_MAX: Duration = Duration::from_secs(5);
/// From one plan to another in which only addresses differ.
pub const ADDRESS_PAUSE: Duration = Duration::from_secs(10);
/// Nodes that a reason names of each sort; more are counted.
const NAMED_MAX: usize = 5;

/// What the node that plans sees at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub now: BootInstant,
    /// The one in force.
    pub plan: &'a Plan,
    /// By gossip.
    pub members: &'a Members,
    /// The nodes to which control connections stand.
    pub connected: &'a BTreeSet<NodeId>,
}

/// The memory of one leader of the system shard, from when it began to lead.
#[derive(Debug)]
pub struct Decider {
    node: NodeId,
    replace_after: Duration,
    began: BootInstant,
    /// The members of the plan and those that gossip knows.
    traces: BTreeMap<NodeId, Trace>,
    /// Of which plan it is known that it is right for which candidates.
    placed: Option<(u64, Vec<Candidate>)>,
    change: Option<Change>,
    /// When the last plan was made.
    planned: Option<BootInstant>,
    concerns: Concerns,
}

/// What is proposed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub candidates: Vec<Candidate>,
    pub reason: Reason,
}

/// What differs from the plan in force. Displayed, it is a line for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    pub joined: Vec<NodeId>,
    pub left: Vec<NodeId>,
    pub died: Vec<NodeId>,
    /// They want to leave and are needed again.
    pub recalled: Vec<NodeId>,
    /// To another address.
    pub moved: Vec<NodeId>,
}

/// What an operator should know of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concerns {
    /// Nodes that want to leave and must stay, because too few others would be left.
    pub kept: Vec<NodeId>,
    /// How many more nodes there are than a plan takes.
    pub beyond_max: usize,
}

/// What is remembered of a node.
#[derive(Debug)]
struct Trace {
    /// The newest that was heard of it.
    facts: Option<Arc<Facts>>,
    /// Since when it has been both heard and connected to.
    here_since: Option<BootInstant>,
    /// Since when it has been neither.
    silent_since: Option<BootInstant>,
    /// Whether a plan of this memory has named it.
    was_planned: bool,
}

/// Candidates that the plan in force may not be right for.
#[derive(Debug)]
struct Change {
    candidates: Vec<Candidate>,
    since: BootInstant,
    /// When they were others last.
    newest: BootInstant,
}

/// One look at all nodes.
#[derive(Debug, Default)]
struct Sorted {
    candidates: Vec<Candidate>,
    reason: Reason,
    kept: Vec<NodeId>,
    /// Who of the plan says that it leaves, and who else that was in an earlier one.
    leaving: Vec<Candidate>,
    leaving_others: Vec<Candidate>,
    /// How many of the candidates are not silent.
    live: usize,
    /// Whether some node is about to become a candidate, or to be none any more.
    is_unsettled: bool,
}

impl Decider {
    /// For `node`, which begins to lead now.
    pub fn new(node: NodeId, replace_after: Duration, now: BootInstant) -> Self {
        Self {
            node,
            replace_after,
            began: now,
            traces: BTreeMap::new(),
            placed: None,
            change: None,
            planned: None,
            concerns: Concerns::default(),
        }
    }

    /// The candidates of the next plan when it is time to make it: again and again, until [`Self::placed`] or [`Self::adopted`] says what came
    /// of it.
    pub fn decide(&mut self, seen: Seen<'_>) -> Option<Proposal> {
        self.observe(seen);
        let sorted = self.sort(seen);
        let beyond_max = sorted.candidates.len().saturating_sub(MEMBERS_MAX);
        self.concerns = Concerns { kept: sorted.kept, beyond_max };
        let (candidates, reason) = (sorted.candidates, sorted.reason);
        let is_placed = self.placed.as_ref().is_some_and(|(epoch, of)| *epoch == seen.plan.epoch && *of == candidates);
        if is_placed || candidates.is_empty() || !self.may_plan(seen) {
            self.change = None;
            return None;
        }
        let change = self.gather(seen.now, &candidates);
        let (since, newest) = (seen.now.since(change.since), seen.now.since(change.newest));
        let is_time = since >= GATHER_MAX || (newest >= GATHER && !sorted.is_unsettled);
        let is_too_soon = self.only_moves(&candidates, &reason)
            && self.planned.is_some_and(|planned| seen.now.since(planned) < ADDRESS_PAUSE);
        (is_time && !is_too_soon).then_some(Proposal { candidates, reason })
    }

    /// Says that the plan of `epoch` is right for these candidates: it stays, or is what [`Self::adopted`] tells of.
    pub fn placed(&mut self, epoch: u64, candidates: Vec<Candidate>) {
        self.placed = Some((epoch, candidates));
        self.change = None;
    }

    /// Says that the plan of `epoch` was made of these candidates.
    pub fn adopted(&mut self, epoch: u64, candidates: Vec<Candidate>, now: BootInstant) {
        self.placed(epoch, candidates);
        self.planned = Some(now);
    }

    /// As of the last decision.
    pub fn concerns(&self) -> &Concerns {
        &self.concerns
    }

    fn observe(&mut self, seen: Seen<'_>) {
        let in_plan = seen.plan.members().iter().map(|member| member.node);
        let nodes: BTreeSet<NodeId> = in_plan.chain(seen.members.iter().map(|member| member.node)).collect();
        self.traces.retain(|node, _| nodes.contains(node));
        for node in nodes {
            let member = seen.members.get(node);
            let is_us = node == self.node;
            let is_heard = is_us || member.is_some_and(|member| member.suspected.is_none());
            let is_connected = is_us || seen.connected.contains(&node);
            let nothing = || Trace { facts: None, here_since: None, silent_since: None, was_planned: false };
            let trace = self.traces.entry(node).or_insert_with(nothing);
            if let Some(member) = member {
                trace.facts = Some(member.facts.clone());
            }
            trace.was_planned |= planned(seen.plan, node).is_some();
            let since = |before: Option<BootInstant>, is_so: bool| is_so.then(|| before.unwrap_or(seen.now));
            trace.here_since = since(trace.here_since, is_heard && is_connected);
            trace.silent_since = since(trace.silent_since, !is_heard && !is_connected);
        }
    }

    /// Whether enough is known. Of a plan member that was never heard neither zone nor weight is known, without which the
    /// others would be given other shares; and who founds the cluster must begin the groups of the first plan, not of a later
    /// one. It is waited for until it counts as dead.
    fn may_plan(&self, seen: Seen<'_>) -> bool {
        let has_waited = seen.now.since(self.began) >= self.replace_after;
        let has_begun = |facts: &Facts| seen.plan.epoch > 1 || facts.state != NodeState::Joining;
        seen.plan.members().iter().all(|member| {
            let Some(trace) = self.traces.get(&member.node) else { return false };
            match &trace.facts {
                Some(facts) => has_begun(facts) || self.is_gone(member, trace, seen.now),
                None => has_waited,
            }
        })
    }

    fn sort(&self, seen: Seen<'_>) -> Sorted {
        let mut sorted = Sorted::default();
        self.sort_planned(seen, &mut sorted);
        self.sort_others(seen, &mut sorted);
        let majority = usize::from(seen.plan.replicas) / 2 + 1;
        if sorted.live < majority {
            let planned = std::mem::take(&mut sorted.leaving);
            sorted.keep(planned);
        }
        if sorted.candidates.len() < majority {
            let others = std::mem::take(&mut sorted.leaving_others);
            sorted.reason.recalled = others.iter().map(|candidate| candidate.member.node).collect();
            sorted.keep(others);
        }
        sorted.reason.left = sorted.leaving.iter().map(|candidate| candidate.member.node).collect();
        sorted.candidates.sort_unstable_by_key(|candidate| candidate.member.node);
        let is_moved = |candidate: &&Candidate| {
            let planned = planned(seen.plan, candidate.member.node);
            planned.is_some_and(|member| member.address != candidate.member.address)
        };
        let moved = sorted.candidates.iter().filter(is_moved).map(|candidate| candidate.member.node).collect();
        sorted.reason.moved = moved;
        sorted
    }

    fn sort_planned(&self, seen: Seen<'_>, sorted: &mut Sorted) {
        for member in seen.plan.members() {
            let Some(trace) = self.traces.get(&member.node) else { continue };
            let candidate = trace.candidate(member.node, &member.address);
            if self.is_gone(member, trace, seen.now) {
                sorted.reason.died.push(member.node);
            } else if trace.is_leaving() {
                sorted.leaving.push(candidate);
            } else {
                sorted.live += usize::from(trace.silent_since.is_none());
                sorted.is_unsettled |= self.is_dead(trace, seen.now + SETTLE);
                sorted.candidates.push(candidate);
            }
        }
    }

    fn sort_others(&self, seen: Seen<'_>, sorted: &mut Sorted) {
        for member in seen.members.iter().filter(|member| planned(seen.plan, member.node).is_none()) {
            let Some(trace) = self.traces.get(&member.node) else { continue };
            let candidate = trace.candidate(member.node, &member.facts.address);
            if trace.is_leaving() {
                // Who never had anything has nothing to keep. Who went before others died counts as dead when they do.
                let may_have = trace.was_planned && !self.is_dead(trace, seen.now);
                sorted.leaving_others.extend(may_have.then_some(candidate));
                continue;
            }
            let Some(here_since) = trace.here_since else { continue };
            if seen.now.since(here_since) < SETTLE || self.is_taken(&member.facts.address, seen) {
                sorted.is_unsettled = true;
            } else {
                sorted.live += 1;
                sorted.reason.joined.push(member.node);
                sorted.candidates.push(candidate);
            }
        }
    }

    /// Whether a plan member will not come back, as far as can be told: it has been silent for long, or another node is at its
    /// address, as after a start with a fresh disk.
    fn is_gone(&self, member: &report::Member, trace: &Trace, now: BootInstant) -> bool {
        self.is_dead(trace, now) || (trace.silent_since.is_some() && self.is_succeeded(member, trace, now))
    }

    fn is_dead(&self, trace: &Trace, at: BootInstant) -> bool {
        trace.silent_since.is_some_and(|since| at.since(since) >= self.replace_after)
    }

    fn is_succeeded(&self, member: &report::Member, trace: &Trace, now: BootInstant) -> bool {
        let address = trace.address(&member.address);
        self.traces.iter().any(|(node, other)| {
            let is_here = other.here_since.is_some_and(|since| now.since(since) >= SETTLE);
            *node != member.node && is_here && other.facts.as_ref().is_some_and(|facts| facts.address == address)
        })
    }

    /// Whether a plan member that is not silent yet is at this address. It cannot be any more.
    fn is_taken(&self, address: &str, seen: Seen<'_>) -> bool {
        seen.plan.members().iter().any(|member| {
            let trace = self.traces.get(&member.node);
            trace.is_some_and(|trace| trace.silent_since.is_none() && trace.address(&member.address) == address)
        })
    }

    fn gather(&mut self, now: BootInstant, candidates: &[Candidate]) -> &Change {
        let fresh = || Change { candidates: candidates.to_vec(), since: now, newest: now };
        let change = self.change.get_or_insert_with(fresh);
        if change.candidates != candidates {
            change.candidates = candidates.to_vec();
            change.newest = now;
        }
        change
    }

    /// Whether nothing but addresses is different from what the plan was made of.
    fn only_moves(&self, candidates: &[Candidate], reason: &Reason) -> bool {
        let Some((_, placed)) = &self.placed else { return false };
        let same = |(one, other): (&Candidate, &Candidate)| {
            (one.member.node, &one.zone, one.weight) == (other.member.node, &other.zone, other.weight)
        };
        !reason.moved.is_empty() && placed.len() == candidates.len() && placed.iter().zip(candidates).all(same)
    }
}

fn planned(plan: &Plan, node: NodeId) -> Option<&report::Member> {
    let place = plan.members().binary_search_by_key(&node, |member| member.node).ok()?;
    plan.members().get(place)
}

impl Trace {
    fn is_leaving(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.state == NodeState::Leaving)
    }

    /// Where it was last, by its own word, or else by the plan.
    fn address<'a>(&'a self, planned: &'a str) -> &'a str {
        self.facts.as_ref().map_or(planned, |facts| &facts.address)
    }

    fn candidate(&self, node: NodeId, planned: &str) -> Candidate {
        Candidate {
            member: report::Member { node, address: self.address(planned).to_owned() },
            zone: self.facts.as_ref().and_then(|facts| facts.zone.clone()),
            weight: self.facts.as_ref().map_or(NonZeroU32::MIN, |facts| facts.weight),
        }
    }
}

impl Sorted {
    /// Makes candidates of nodes that want to leave.
    fn keep(&mut self, leaving: Vec<Candidate>) {
        for candidate in leaving {
            self.kept.push(candidate.member.node);
            self.candidates.push(candidate);
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorts = [
            (&self.joined, "joined"),
            (&self.left, "left"),
            (&self.died, "died"),
            (&self.recalled, "needed again"),
            (&self.moved, "changed address"),
        ];
        let mut separator = "";
        for (nodes, what) in sorts.iter().filter(|(nodes, _)| !nodes.is_empty()) {
            write!(f, "{separator}{} {what} (", nodes.len())?;
            for (place, node) in nodes.iter().take(NAMED_MAX).enumerate() {
                write!(f, "{}{node}", if place == 0 { "" } else { " " })?;
            }
            f.write_str(if nodes.len() > NAMED_MAX { " …)" } else { ")" })?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("zones, weights or the copies of the system shard") } else { Ok(()) }
    }
}
