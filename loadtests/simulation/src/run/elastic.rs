//! Members that come and go in a run, what happens to them in the middle of a move, and what is noted of it for the checks.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::report::{NodeReport, ReplicaReport};

use super::Run;
use crate::cluster;
use crate::history::{Absence, Departure, Violation};
use crate::plan::{Action, Ambush, Flaw, Part, Scheduled, Stop};

/// Copies of a shard, of which one may be lost.
const REPLICAS: usize = 3;

impl Run<'_> {
    pub(super) fn join(&mut self, name: &str) {
        let Some(number) = self.node_number(name).filter(|_| !self.there.contains(name)) else { return };
        self.changes.joined += 1;
        self.add_node(number);
    }

    /// It is told again after every start until it has left.
    pub(super) fn leave(&mut self, name: &str) -> Result<(), Violation> {
        let Some(number) = self.node_number(name).filter(|_| self.is_there(name)) else { return Ok(()) };
        if self.leaving.borrow_mut().insert(number) {
            self.changes.left += 1;
        }
        if self.plan.flaw == Some(Flaw::LeavesAtOnce) {
            return self.end_at_once(name, number);
        }
        if let Some(node) = &self.nodes.borrow()[number] {
            node.drain();
        }
        Ok(())
    }

    fn end_at_once(&mut self, name: &str, number: usize) -> Result<(), Violation> {
        let last = self.nodes.borrow()[number].as_ref().and_then(|node| node.report());
        self.stop(name, Stop::Wipe)?;
        let Some(last) = last else { return Ok(()) };
        self.departures.borrow_mut().push((number, Departure { node: last.node, hosted: vec![], counted_on: vec![] }));
        self.note_departures();
        Ok(())
    }

    pub(super) fn cut_gossip(&mut self, name: &str, is_cut: bool) {
        let Some(number) = self.node_number(name) else { return };
        self.gossip.set_cut(&cluster::peer_address(number), is_cut);
        if is_cut {
            self.goes_away(name);
        } else {
            self.comes_back(name);
        }
    }

    /// Whether the host has come, and has not left for good.
    pub(super) fn is_there(&self, name: &str) -> bool {
        let has_left = |number| self.departures.borrow().iter().any(|(other, _)| *other == number);
        self.there.contains(name) && !self.node_number(name).is_some_and(has_left)
    }

    /// The number of the node on the host `name`, if there is one.
    pub(super) fn node_number(&self, name: &str) -> Option<usize> {
        (0..self.plan.machines.len()).find(|number| cluster::node_name(*number) == name)
    }

    /// From now on somebody may not hear the host.
    pub(super) fn goes_away(&mut self, name: &str) {
        let from = self.now();
        self.away.push(Absence { host: name.to_owned(), from, until: from });
    }

    /// One thing less keeps it from being heard; which, does not matter.
    pub(super) fn comes_back(&mut self, name: &str) {
        let Some(place) = self.away.iter().position(|absence| absence.host == name) else { return };
        let absence = self.away.remove(place);
        self.changes.absences.push(Absence { until: self.now(), ..absence });
    }

    /// What follows from what the nodes said last.
    pub(super) fn follow_up(&mut self) -> Result<(), Violation> {
        let now = self.sim.elapsed();
        let ambushes = std::mem::take(&mut self.ambushes);
        for ambush in ambushes {
            match self.victim(&ambush) {
                Some(host) => {
                    let Ambush { step, part, how, after, down } = ambush;
                    self.note(&format!("at {step} the {part:?} is {host}"));
                    let stop = Action::Stop { host: host.clone(), how };
                    self.soon.push(Scheduled { at: now + after, action: stop });
                    self.soon.push(Scheduled { at: now + after + down, action: Action::Start { host } });
                }
                None => self.ambushes.push(ambush),
            }
        }
        let replacing = std::mem::take(&mut self.replacing);
        for (host, down) in replacing {
            if self.may_lose(&host) {
                self.act(&Action::Stop { host: host.clone(), how: Stop::Wipe })?;
                self.soon.push(Scheduled { at: now + down, action: Action::Start { host } });
            } else {
                self.replacing.push((host, down));
            }
        }
        let (due, soon) = std::mem::take(&mut self.soon).into_iter().partition(|scheduled| scheduled.at <= now);
        self.soon = soon;
        let due: Vec<Scheduled> = due;
        due.iter().try_for_each(|scheduled| self.act(&scheduled.action))
    }

    /// The host that an ambush waits for, if some shard is at its step.
    fn victim(&self, ambush: &Ambush) -> Option<String> {
        self.reports.iter().find_map(|report| {
            report.replicas.iter().find_map(|replica| {
                let movement = replica.movement.as_ref().filter(|movement| movement.step == ambush.step)?;
                let node = match ambush.part {
                    Part::Source => report.node,
                    Part::Target => movement.target,
                    Part::Third => {
                        *replica.voters.iter().find(|node| **node != report.node && **node != movement.target)?
                    }
                };
                self.host_of(node)
            })
        })
    }

    fn host_of(&self, node: NodeId) -> Option<String> {
        let report = self.reports.iter().find(|report| report.node == node)?;
        report.address.split_once(':').map(|(host, _)| host.to_owned())
    }

    /// Whether the node's disk can be lost and nothing with it. That is so while each shard that it has a vote with has all
    /// of its voters there, and all of them agree who they are.
    fn may_lose(&self, name: &str) -> bool {
        let is_it = |report: &&NodeReport| report.address.split_once(':').is_some_and(|(host, _)| host == name);
        let Some(victim) = self.reports.iter().find(is_it) else { return false };
        let replicas = self.reports.iter().flat_map(|report| &report.replicas);
        let mut of_groups = replicas.filter(|replica| replica.voters.contains(&victim.node));
        self.is_there(name) && of_groups.all(|replica| self.is_whole(replica))
    }

    fn is_whole(&self, of: &ReplicaReport) -> bool {
        let voters: BTreeSet<NodeId> = of.voters.iter().copied().collect();
        let agrees = |node: &NodeId| {
            let report = self.reports.iter().find(|report| report.node == *node);
            report.and_then(|report| replica(report, of.shard)).is_some_and(|replica| {
                !replica.is_joint && replica.voters.iter().copied().collect::<BTreeSet<_>>() == voters
            })
        };
        voters.len() >= REPLICAS && voters.iter().all(agrees)
    }

    /// Takes in who has left since the last look, and who still counts on it.
    pub(super) fn note_departures(&mut self) {
        for (_, departure) in self.departures.borrow_mut().iter_mut().skip(self.departed) {
            self.departed += 1;
            let owned = self.reports.iter().flat_map(|report| &report.replicas).filter(|replica| replica.owns);
            let counts = |replica: &&ReplicaReport| {
                replica.voters.contains(&departure.node) || replica.learners.contains(&departure.node)
            };
            departure.counted_on = owned.filter(counts).map(|replica| replica.shard).collect();
        }
    }

    fn unrested(&self) -> Vec<Violation> {
        let mut wrong = crate::check::unplaced(&self.reports);
        wrong.extend(crate::check::incomplete(&self.reports));
        wrong
    }

    /// Steps on until every shard is where it should be and who should leave has left, but no longer than `patience`.
    pub(super) fn come_to_rest(&mut self, patience: Duration) -> Result<(), Violation> {
        let until = self.sim.elapsed() + patience;
        loop {
            let have_left = self.leaving.borrow().len() == self.departures.borrow().len();
            if have_left && self.unrested().is_empty() {
                self.note("everything is where it should be");
                return Ok(());
            }
            if self.sim.elapsed() > until {
                let staying: Vec<usize> = self.leaving.borrow().iter().copied().collect();
                let wrong = self.unrested();
                let what = format!("of the nodes {staying:?} not all leave, or shards are elsewhere: {wrong:?}");
                return Err(Violation::new("comes to rest", what));
            }
            for _ in 0..STEPS_PER_CHECK {
                self.step()?;
                self.take_ends(true)?;
            }
        }
    }
}

/// How many steps it takes until it is looked again whether everything has come to rest.
const STEPS_PER_CHECK: u64 = 48;

fn replica(report: &NodeReport, shard: berth_shared::ids::ShardId) -> Option<&ReplicaReport> {
    report.replicas.iter().find(|replica| replica.shard == shard)
}
