//! Looks into the running nodes and writes down what changed: who owns which shard, and what every replica has applied.

use std::collections::BTreeMap;

use berth_shared::ids::{LogIndex, NodeId, ShardId, Term};
use berth_shared::report::{Movement, NodeReport, ReplicaReport};

use crate::history::{Applied, Changes, Departure, Group, Move, Observed, Ownership};
use crate::trace::Trace;

#[derive(Debug, Default)]
pub struct Observer {
    /// Places of the ownerships that go on.
    owning: BTreeMap<(NodeId, ShardId), usize>,
    applied: BTreeMap<(NodeId, ShardId), LogIndex>,
    /// When the step that goes on began, by the clock of its node.
    moving: BTreeMap<(NodeId, ShardId), u64>,
    /// Who belongs to a group, by the word of its newest owner.
    groups: BTreeMap<ShardId, (Term, Vec<NodeId>)>,
    observed: Observed,
}

impl Observer {
    /// Takes in the reports of all nodes that run, as of `now` in nanoseconds since the start.
    pub fn look(&mut self, now: u64, reports: &[NodeReport], trace: &Trace) {
        let mut owning = BTreeMap::new();
        for report in reports {
            self.observed.clusters.insert(report.cluster);
            self.observed.plan_epoch = self.observed.plan_epoch.max(report.plan_epoch);
            for replica in &report.replicas {
                let key = (report.node, replica.shard);
                if replica.owns {
                    owning.insert(key, self.owns(key, replica.term, now, trace));
                    self.belong(replica, now);
                }
                self.takes_step(key, replica);
                if self.applied.insert(key, replica.applied) != Some(replica.applied) {
                    let (index, content_hash) = (replica.applied, replica.content_hash);
                    let applied = Applied { node: report.node, shard: replica.shard, index, content_hash };
                    trace.note(now, "observer", format_args!("{applied:?}"), &[]);
                    self.observed.applied.push(applied);
                }
            }
        }
        self.owning = owning;
    }

    fn belong(&mut self, replica: &ReplicaReport, now: u64) {
        let members: Vec<NodeId> = replica.voters.iter().chain(&replica.learners).copied().collect();
        let known = self.groups.entry(replica.shard).or_default();
        if replica.term < known.0 || (replica.term, &members) == (known.0, &known.1) {
            return;
        }
        *known = (replica.term, members.clone());
        let (shard, term) = (replica.shard, replica.term);
        self.observed.groups.push(Group { shard, term, from: now, members });
    }

    /// Only an owner knows what others have.
    fn takes_step(&mut self, key: (NodeId, ShardId), replica: &ReplicaReport) {
        let Some(Movement { step, target, from_micros, matched, last }) =
            replica.movement.as_ref().filter(|_| replica.owns)
        else {
            return;
        };
        if self.moving.insert(key, *from_micros) != Some(*from_micros) {
            let (by, shard) = key;
            let (step, behind) = (step.clone(), last.saturating_sub(*matched));
            self.observed.moves.push(Move { shard, by, step, target: *target, behind });
        }
    }

    /// The place of the ownership, which goes on or begins.
    fn owns(&mut self, key: (NodeId, ShardId), term: Term, now: u64, trace: &Trace) -> usize {
        let going_on = self.owning.get(&key).copied();
        if let Some(place) = going_on.filter(|place| self.observed.ownerships[*place].term == term) {
            self.observed.ownerships[place].until = now;
            return place;
        }
        let ownership = Ownership { node: key.0, shard: key.1, term, from: now, until: now };
        trace.note(now, "observer", format_args!("{ownership:?}"), &[]);
        self.observed.ownerships.push(ownership);
        self.observed.ownerships.len() - 1
    }

    /// With what is known otherwise.
    pub fn finish(self, departures: Vec<Departure>, changes: Changes, last: Vec<NodeReport>) -> Observed {
        Observed { departures, changes, last, ..self.observed }
    }
}
