//! How fresh nodes become one cluster, once. This file is what nodes say to each other about it, and why it is safe;
//! [`decide`] is the pure core, which says what a node should do after what it has seen; [`run`] is the shell around it;
//! [`Answerer`] answers the questions of others. Nothing here knows consensus, journal or store: they begin after it.
//!
//! # What happens
//!
//! A node that has joined no cluster asks all seeds for their [`Status`], again and again. Where it sees a cluster it joins
//! that one and founds none. Otherwise the lowest id that sees `expect` fresh nodes, itself included, makes an
//! [`InitRecord`] of the nodes it sees, accepts it, and proposes it to the others. A node accepts one record for ever, and
//! persists that before it says so. Whoever has accepted a record proposes it to the members that have accepted none. Whoever sees
//! that all members have accepted their record, or that somebody has joined its cluster, joins that too.
//!
//! # Why there is one cluster at most
//!
//! Call a record complete when all its members have accepted it at some time. Somebody joins the cluster of a record, as the
//! first, only after seeing all members accept it; so a cluster that anybody has joined has a complete record.
//!
//! Two complete records have no member in common, because a member accepts one record for ever. Each record has at least
//! `expect` members, and `expect` is more than half of all nodes that start fresh before the cluster is seen. So two records do
//! have a member in common, and at most one of them is complete.
//!
//! Taking an acceptance back would break this: somebody may have counted it, joined, and begun to write, and the one who took
//! it back would complete another record with the others. Safety never needs it either, only progress: after a duel of two
//! proposers, or when a member loses its disk between accepting and joining, no record can be completed any more. No data
//! can exist then, because nobody has joined, and an operator starts over, with empty disks or with `--init`.
//!
//! One kind of node goes on by itself: one whose record has a member that has joined another cluster. That member accepts no
//! record any more and did not accept this one (the first member of a record to go elsewhere cannot have, because it joined
//! as a member of another record, or fresh), so the record never becomes complete. The node joins the cluster it sees, and
//! keeps its acceptance: nobody who counts it can be misled.
//!
//! # What an operator takes on with `--init`
//!
//! `--init --members …` makes nodes that have accepted a record and not joined accept another in its place. The argument above
//! then rests on the operator's word that nobody has joined the old one. It is refused where a cluster is seen, at the seeds,
//! the members of the old record, or the nodes it names. Should a member of the old record have joined unseen, it takes a
//! majority of that record's members to write anything.
//!
//! # Names among the seeds
//!
//! A name stands for what DNS has of it at the moment, so nodes see different candidates, and none of the argument above rests
//! on which they see: only on `expect`, which is therefore configured and not counted. What a name changes is how likely that
//! is to be put to the test. Pods that come later are fresh and may be `expect` or more, so a node waits longer before it
//! founds while an address of the name is silent, behind which there may be a cluster. Views that differ make duels, so it
//! waits a little in any case until nothing changes, and then takes all fresh nodes it sees into the record, however many more
//! than `expect` they are: who is left out of it has no shards at first.
//!
//! A node counts by its id, at however many addresses it answers, and knows itself by that too: its own address need not be
//! one that DNS has, but it must be reached through the name before it founds anything.
//!
//! # Fewer than the seeds
//!
//! A new disk is a node that starts fresh. Where `expect` is smaller than the number of seeds, `expect` nodes that lose their
//! disks, while all others are unreachable, are taken for a first deployment: they found a second cluster. Where it equals
//! that number, this takes the loss of all disks.

mod answerer;
mod decide;
mod run;
#[cfg(test)]
mod tests;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::report::Member;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::written;

pub use answerer::Answerer;
pub use decide::Obstacle;
pub use run::{Config, Error, Joined, run};

/// What the cluster begins with. Accepted once by each of its members, persistently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InitRecord {
    #[serde(with = "written::cluster")]
    #[schemars(with = "String")]
    pub cluster: ClusterId,
    /// Ascending by id.
    #[serde(with = "written::members")]
    #[schemars(with = "Vec<written::Row>")]
    pub members: Vec<Member>,
    pub shards: u16,
    pub replicas: u16,
}

/// What one node asks another about bootstrap; answered with [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    Status,
    /// Accept this record. With `force`, in place of one that was accepted and not yet acted on.
    Propose {
        record: InitRecord,
        force: bool,
    },
}

/// Where a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeId,
    pub address: String,
    /// The cluster that the node is part of for good.
    pub cluster: Option<ClusterId>,
    /// The record that the node has accepted.
    pub accepted: Option<InitRecord>,
    pub settings: Settings,
}

/// What all nodes of a first deployment must be configured with alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub shards: u16,
    pub replicas: u16,
    /// How many fresh nodes a first deployment has at least.
    pub expect: u16,
}

impl InitRecord {
    /// Whether `node` is one of the members.
    pub fn names(&self, node: NodeId) -> bool {
        self.members.iter().any(|member| member.node == node)
    }
}
