//! The plan: which nodes hold a replica of each shard, and which of them owns it. A plan is a function of the plan before it
//! and of the members now, because a function of the members alone cannot have both evenness and little movement. All in here
//! is pure, and the same wherever it is computed: [`Plan::next`] says what holds of a plan, `next` places the replicas by the
//! shares that `shares` computes, `owners` chooses among them, and both pass shards on along what `chain` finds. The system
//! shard is beside them all: `system` places it.
//!
//! # Size
//!
//! As JSON a plan is a table of members and, for each shard, the numbers of its replicas in that table. With
//! [`MEMBERS_MAX`] members, 16,384 shards and 5 replicas the numbers take at most 22 bytes a shard, 361 kB, and a member 42
//! bytes and its address. A host name has at most 253 bytes, so the largest plan has 665 kB, and the largest state of an
//! entity is 1 MiB.

mod chain;
mod next;
mod owners;
mod shares;
mod system;

use std::num::NonZeroU32;

use berth_shared::ids::{NodeId, ShardId};
use berth_shared::report::Member;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::written;

/// Most members of a plan.
pub const MEMBERS_MAX: usize = 1000;
/// The group that holds the plan itself. No shard of a user has this number: they are counted from 0, and there are at most
/// 16,384.
pub const SYSTEM_SHARD: ShardId = ShardId(u16::MAX);

/// A node that a plan may place replicas on: it is there and it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub member: Member,
    /// Where it runs: nodes of one zone may fail together. One without a zone counts as a zone by itself.
    pub zone: Option<String>,
    /// How much of the replicas it should hold, relative to the others.
    pub weight: NonZeroU32,
}

impl From<Member> for Candidate {
    fn from(member: Member) -> Self {
        Self { member, zone: None, weight: NonZeroU32::MIN }
    }
}

/// Which node holds what. Epoch 0 is no plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Counts the plans of a cluster, from 1.
    pub epoch: u64,
    /// How many replicas a shard should have. Where there are fewer members, it has as many as there are members.
    pub replicas: u16,
    /// Ascending by id. Whoever was a candidate, with replicas or without.
    #[serde(with = "written::members")]
    #[schemars(with = "Vec<written::Row>")]
    members: Vec<Member>,
    /// Of each shard, its replicas as places in `members`, the owner first and the others ascending.
    ///
    /// Invariant: never empty, no place twice, and every place is one.
    shards: Vec<Vec<u16>>,
    /// The same of the system shard.
    system: Vec<u16>,
}

/// What a plan changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Replicas that are on a node that did not have that shard before: what is copied.
    pub replicas: usize,
    /// Shards that were owned by another node before.
    pub owners: usize,
    /// Replicas of the system shard that are on a node that did not have it before.
    pub system: usize,
}

impl Plan {
    /// The first plan of a cluster: the one after a plan of shards without replicas. Without candidates it has no shards.
    ///
    /// The system shard is on all members, the first of them its owner, because that is how its group begins: before there is
    /// a plan, with whoever founds the cluster. The plan after it has no more replicas of it than of any other shard.
    pub fn first(candidates: &[Candidate], shards: u16, replicas: u16) -> Self {
        let nothing = Self { replicas, shards: vec![Vec::new(); usize::from(shards)], ..Self::default() };
        let mut first = nothing.next(candidates).unwrap_or(Self { epoch: 1, replicas, ..Self::default() });
        first.system = (0..first.members.len()).map(|place| place as u16).collect();
        first
    }

    /// The plan after this one, if the cluster now consists of these nodes: of any that are not among them, everything moves
    /// away. Nothing when it would be the same, or when there is nobody to place anything on. The order of the candidates does
    /// not matter. Of more than [`MEMBERS_MAX`], those that are members already are taken, and then the lowest ids.
    ///
    /// What holds of it, the first before the second and so on:
    ///
    /// 1. Every shard has `replicas` replicas on different nodes, or as many as there are nodes.
    /// 2. Its replicas are in as many different zones as possible, and no more of them in one zone than necessary: as even
    ///    over zones as the number of their nodes allows, up to one.
    /// 3. Every node holds its share of the replicas, rounded down or up. The share is proportional to weight, but no node
    ///    holds more than all shards, and no zone more or less than 2 allows. Where that takes effect, those nodes share what
    ///    it leaves them, by weight, and the other nodes share the rest, by weight. So nodes of equal weight hold equally
    ///    many within one if there are no zones, if these have equally many nodes, or if both are in the same zone.
    /// 4. Every node owns its share of the shards, proportional to weight, rounded down or up; or one beside that where a
    ///    zone or a node is at a limit by 2 or 3.
    /// 5. Few replicas move: those whose nodes are gone, those that a zone may not keep, those above the share of their node,
    ///    and what has to make way for them where they cannot be given directly. Then, few owners change. Where several nodes
    ///    would do, the highest rendezvous weight wins (Thaler and Ravishankar 1998), so that any two nodes share about as
    ///    many shards, and the shards of one that fails pass to many.
    ///
    /// The system shard is placed beside all that, without a share: 1 and 2 hold of it too, then few replicas move, and its
    /// owner stays where it is there. The weights do not matter to it.
    ///
    /// The plan after the next one, with the same candidates, is none: what holds already is left as it is.
    pub fn next(&self, candidates: &[Candidate]) -> Option<Self> {
        let candidates = self.chosen(candidates);
        if candidates.is_empty() || self.shards.is_empty() || self.replicas == 0 {
            return None;
        }
        let place = |before: &u16| {
            let node = self.members.get(usize::from(*before))?.node;
            candidates.binary_search_by_key(&node, |candidate| candidate.member.node).ok()
        };
        let before = |row: &Vec<u16>| next::Before {
            replicas: row.iter().filter_map(place).collect(),
            owner: row.first().and_then(place),
        };
        let rows_before: Vec<next::Before> = self.shards.iter().map(before).collect();
        let row = |places: Vec<usize>| -> Vec<u16> { places.into_iter().map(|place| place as u16).collect() };
        let shards = next::place(&candidates, &rows_before, self.replicas.into()).into_iter().map(row).collect();
        let system = row(system::place(&candidates, &before(&self.system), self.replicas.into()));
        let members: Vec<Member> = candidates.into_iter().map(|candidate| candidate.member).collect();
        let changes = (&members, &shards, &system) != (&self.members, &self.shards, &self.system);
        changes.then(|| Self { epoch: self.epoch + 1, replicas: self.replicas, members, shards, system })
    }

    /// Ascending by id, each node once.
    fn chosen(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        let mut chosen = candidates.to_vec();
        chosen.sort_unstable_by(|one, other| one.member.cmp(&other.member));
        chosen.dedup_by_key(|candidate| candidate.member.node);
        if chosen.len() > MEMBERS_MAX {
            let is_member = |node: NodeId| self.members.binary_search_by_key(&node, |member| member.node).is_ok();
            chosen.sort_by_key(|candidate| !is_member(candidate.member.node));
            chosen.truncate(MEMBERS_MAX);
            chosen.sort_unstable_by_key(|candidate| candidate.member.node);
        }
        chosen
    }

    /// What this plan changes in what the plan before it had.
    pub fn changes_since(&self, before: &Self) -> Changes {
        let copied = |shard: ShardId| {
            let had = |node: NodeId| before.replicas_of(shard).any(|member| member.node == node);
            self.replicas_of(shard).filter(|member| !had(member.node)).count()
        };
        let mut changes = Changes { system: copied(SYSTEM_SHARD), ..Changes::default() };
        for shard in (0..self.shards()).map(ShardId) {
            changes.replicas += copied(shard);
            let owners = [before, self].map(|plan| plan.owner_of(shard).map(|member| member.node));
            changes.owners += usize::from(owners[0].is_some() && owners[0] != owners[1]);
        }
        changes
    }

    /// Whether what was read can be a plan at all.
    pub fn is_sound(&self) -> bool {
        let sound = |row: &Vec<u16>| {
            let mut places = row.clone();
            places.sort_unstable();
            places.dedup();
            !row.is_empty() && places.len() == row.len() && row.iter().all(|p| usize::from(*p) < self.members.len())
        };
        let is_table =
            self.members.is_sorted_by(|one, other| one.node < other.node) && self.members.len() <= MEMBERS_MAX;
        self.epoch > 0 && is_table && self.shards.iter().chain([&self.system]).all(sound)
    }

    /// How many shards the cluster has, without the system shard.
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Ascending by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The nodes that hold `shard`, the owner first; none for a shard that there is not. [`SYSTEM_SHARD`] is one.
    pub fn replicas_of(&self, shard: ShardId) -> impl Iterator<Item = &Member> {
        let row = match shard {
            SYSTEM_SHARD => &self.system,
            _ => self.shards.get(usize::from(shard.0)).unwrap_or(const { &Vec::new() }),
        };
        row.iter().filter_map(|place| self.members.get(usize::from(*place)))
    }

    /// The nodes that hold the system shard, the owner first.
    pub fn system_replicas(&self) -> impl Iterator<Item = &Member> {
        self.replicas_of(SYSTEM_SHARD)
    }

    /// The node that should own `shard`.
    pub fn owner_of(&self, shard: ShardId) -> Option<&Member> {
        self.replicas_of(shard).next()
    }

    /// The shards of which `node` holds a replica, ascending: the system shard comes last.
    pub fn hosted_by(&self, node: NodeId) -> Vec<ShardId> {
        let hosts = |shard: &ShardId| self.replicas_of(*shard).any(|member| member.node == node);
        (0..self.shards()).map(ShardId).chain([SYSTEM_SHARD]).filter(hosts).collect()
    }
}

#[cfg(test)]
mod tests;
