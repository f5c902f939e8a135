//! Nodes as a planner sees them: by gossip and by connections, each of which a test switches.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::report::{self, Edition, Load, NodeState};
use berth_shared::seam::BootInstant;

use crate::cluster::membership::{Facts, Member, Members};
use crate::cluster::plan::{Candidate, Plan};
use crate::cluster::planner::decide::{Decider, Proposal, Seen};

/// How often the planner looks.
pub(super) const LOOK: Duration = Duration::from_millis(200);
pub(super) const REPLACE_AFTER: Duration = Duration::from_secs(30);
/// The node that plans.
pub(super) const US: u64 = 1;

/// A node as it is seen.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Gossip lists whom it has heard of in the last minutes.
    pub(super) is_listed: bool,
    pub(super) is_heard: bool,
    pub(super) is_connected: bool,
    pub(super) state: NodeState,
    pub(super) address: String,
    pub(super) zone: Option<String>,
    pub(super) weight: u32,
}

impl Node {
    pub(super) fn new(number: u64) -> Self {
        Self {
            is_listed: true,
            is_heard: true,
            is_connected: true,
            state: NodeState::Ready,
            address: format!("n{number}:7400"),
            zone: None,
            weight: 1,
        }
    }

    pub(super) fn set_silent(&mut self, is_silent: bool) {
        (self.is_heard, self.is_connected) = (!is_silent, !is_silent);
    }
}

/// What a plan was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) at: Duration,
    pub(super) reason: String,
}

pub(super) struct World {
    began: BootInstant,
    pub(super) now: BootInstant,
    pub(super) plan: Plan,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) decider: Decider,
    /// All plans since the beginning.
    pub(super) made: Vec<Made>,
}

impl World {
    /// Nodes 1 to `count` with a plan that all agree with, and a planner that has just begun.
    pub(super) fn new(count: u64) -> Self {
        let nodes: BTreeMap<u64, Node> = (1..=count).map(|number| (number, Node::new(number))).collect();
        Self::founded_by(nodes.keys().copied().collect(), nodes, 2)
    }

    /// Nodes with the first plan of these founders, or the one that it comes to by itself.
    pub(super) fn founded_by(founders: Vec<u64>, nodes: BTreeMap<u64, Node>, epoch: u64) -> Self {
        let candidates: Vec<Candidate> = founders
            .iter()
            .map(|number| Candidate::from(report::Member { node: NodeId(*number), address: format!("n{number}:7400") }))
            .collect();
        let mut plan = Plan::first(&candidates, 64, 3);
        if epoch > 1 {
            plan = plan.next(&candidates).unwrap_or(plan);
            plan.epoch = epoch;
        }
        let began = BootInstant(1_000_000_000_000);
        let decider = Decider::new(NodeId(US), REPLACE_AFTER, began);
        Self { began, now: began, plan, nodes, decider, made: Vec::new() }
    }

    pub(super) fn node(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&number).unwrap()
    }

    pub(super) fn planned(&self) -> Vec<u64> {
        self.plan.members().iter().map(|member| member.node.0).collect()
    }

    /// Another node begins to lead, with nothing remembered.
    pub(super) fn lead_anew(&mut self) {
        self.decider = Decider::new(NodeId(US), REPLACE_AFTER, self.now);
    }

    /// Lets time pass and the planner look, and puts in force what it makes. Returns how many plans that were.
    pub(super) fn pass(&mut self, time: Duration) -> usize {
        let (end, before) = (self.now + time, self.made.len());
        while self.now < end {
            self.now = self.now + LOOK;
            if let Some(proposal) = self.look() {
                self.put_in_force(proposal);
            }
        }
        self.made.len() - before
    }

    pub(super) fn seconds(&mut self, seconds: u64) -> usize {
        self.pass(Duration::from_secs(seconds))
    }

    pub(super) fn look(&mut self) -> Option<Proposal> {
        let member = |(number, node): (&u64, &Node)| Member {
            node: NodeId(*number),
            facts: Arc::new(Facts {
                address: node.address.clone(),
                zone: node.zone.clone(),
                state: node.state,
                plan: 0,
                unsettled: 0,
                weight: NonZeroU32::new(node.weight).unwrap(),
                version: "test/1".to_owned(),
                load: Load::default(),
                led: vec![],
                system: None,
            }),
            edition: Edition::default(),
            suspected: (!node.is_heard).then_some(self.now),
        };
        let members: Members = self.nodes.iter().filter(|(_, node)| node.is_listed).map(member).collect();
        let connected = self.nodes.iter().filter(|(_, node)| node.is_connected);
        let connected: BTreeSet<NodeId> = connected.map(|(number, _)| NodeId(*number)).collect();
        self.decider.decide(Seen { now: self.now, plan: &self.plan, members: &members, connected: &connected })
    }

    fn put_in_force(&mut self, proposal: Proposal) {
        let Some(next) = self.plan.next(&proposal.candidates) else {
            return self.decider.placed(self.plan.epoch, proposal.candidates);
        };
        self.decider.adopted(next.epoch, proposal.candidates, self.now);
        self.made.push(Made { at: self.now.since(self.began), reason: proposal.reason.to_string() });
        self.plan = next;
    }
}
