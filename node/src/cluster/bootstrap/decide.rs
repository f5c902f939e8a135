//! What a node that has joined no cluster should do after what it has seen, and whether it should accept a record. Pure: no
//! clock, randomness, I/O or async; the shell asks the questions and carries out the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::planted::{self, Bug};
use berth_shared::report::Member;

use super::{InitRecord, Settings, Status};
use crate::cluster::identity::Identity;
use crate::cluster::plan::MEMBERS_MAX;

/// What came of asking one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Answered(Status),
    /// Why there is no answer.
    Silent(String),
}

/// Everything that a decision rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) own: &'a Identity,
    pub(super) settings: Settings,
    /// What the seeds stand for now.
    pub(super) seeds: &'a [String],
    /// Seeds that are names without an address so far, each with the reason.
    pub(super) unresolved: &'a [(String, String)],
    /// Whether `seeds` will always be these, because none of them is a name.
    pub(super) is_fixed: bool,
    /// The addresses of the record that the operator wants; `None` without `--init`.
    pub(super) init: Option<&'a [String]>,
    /// One round of answers, by the address that was asked. This node's own address is not among them.
    pub(super) seen: &'a BTreeMap<String, Seen>,
    /// Whether the same nodes have been fresh, and the seeds stood for the same, for a while.
    pub(super) is_settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Wait(Vec<Obstacle>),
    /// Accept a new record of these members, with a new cluster id, in place of any that was accepted.
    Found(Vec<Member>),
    /// Ask these addresses to accept the record that this node has accepted.
    Propose {
        to: Vec<String>,
        force: bool,
        /// What else stands in the way.
        obstacles: Vec<Obstacle>,
    },
    /// The accepted record is complete, or its cluster is in use.
    JoinAsMember(InitRecord),
    /// There is a cluster that began without this node.
    JoinLater(ClusterId),
    /// `--init` must not be.
    Refuse(Obstacle),
}

/// Why a node has not joined a cluster yet. Displayed as one clause of a line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    Unresolved { seed: String, reason: String },
    Silent { address: String, reason: String },
    TooFewFresh { fresh: usize, expect: u16 },
    NotASeed { address: String },
    AwaitsProposal { node: NodeId, address: String },
    Settling { fresh: usize, seeds: usize },
    NotAccepted { member: Member },
    AcceptedOther { member: Member, cluster: ClusterId },
    Gone { member: Member, by: NodeId },
    Settings { address: String, ours: Settings, theirs: Settings },
    SeveralClusters { first: (String, ClusterId), second: (String, ClusterId) },
    CopiedDirectory { node: NodeId, addresses: [String; 2] },
    Forgotten { cluster: ClusterId },
    ClusterExists { address: String, cluster: ClusterId },
}

pub(super) fn decide(view: &View<'_>) -> Decision {
    if let Some(decision) = join(view) {
        return decision;
    }
    if let Some(obstacle) = copied(view) {
        return Decision::Wait(vec![obstacle]);
    }
    match (&view.own.accepted, view.init) {
        (Some(record), None) => pursue(view, record, false),
        (accepted, Some(addresses)) => match named(view, addresses) {
            Err(obstacles) => Decision::Wait(obstacles),
            Ok(members) => match accepted {
                // What an earlier start with the same `--init` began is finished, not begun anew.
                Some(record) if record.members == members && agrees(view, record) => pursue(view, record, true),
                _ => Decision::Found(members),
            },
        },
        (None, None) => found(view),
    }
}

/// Whether a node in this state accepts `record`; says in words why not.
pub(super) fn may_accept(
    own: &Identity,
    settings: Settings,
    record: &InitRecord,
    force: bool,
) -> Result<(), &'static str> {
    let is_sound = record.members.is_sorted_by(|a, b| a.node < b.node) && record.members.len() <= MEMBERS_MAX;
    let names_us = record.members.iter().any(|member| member.node == own.node && member.address == own.address);
    match &own.accepted {
        _ if own.cluster.is_some() => Err("this node has joined a cluster"),
        Some(accepted) if accepted == record => Ok(()),
        Some(_) if !force => Err("this node has accepted another record"),
        _ if !is_sound || !names_us => Err("the record does not name this node"),
        _ if (record.shards, record.replicas) != (settings.shards, settings.replicas) => {
            Err("this node is configured for another number of shards or replicas")
        }
        _ if record.members.len() < usize::from(settings.expect) && !force => {
            Err("the record has fewer members than cluster.expect says")
        }
        _ => Ok(()),
    }
}

/// Joining what can be seen to exist.
fn join(view: &View<'_>) -> Option<Decision> {
    let own = view.own;
    let joined: Vec<(&String, &Status, ClusterId)> = answered(view)
        .filter_map(|(address, status)| status.cluster.map(|cluster| (address, status, cluster)))
        .collect();
    if let Some(addresses) = view.init {
        let (address, _, cluster) = joined.first()?;
        let accepted = own.accepted.as_ref();
        let carried_out = accepted.filter(|record| record.cluster == *cluster && are_at(&record.members, addresses));
        return Some(match carried_out {
            Some(record) => Decision::JoinAsMember(record.clone()),
            None => Decision::Refuse(Obstacle::ClusterExists { address: (*address).clone(), cluster: *cluster }),
        });
    }
    if let Some(record) = &own.accepted
        && joined.iter().any(|(_, _, cluster)| *cluster == record.cluster)
    {
        return Some(Decision::JoinAsMember(record.clone()));
    }
    // A record that names this node was accepted by it, or it would not be complete.
    let naming_us = joined.iter().find_map(|(_, status, cluster)| {
        let record = status.accepted.as_ref()?;
        (record.cluster == *cluster && record.names(own.node)).then_some(record)
    });
    match naming_us {
        Some(record) if own.accepted.is_some() => return Some(Decision::JoinAsMember(record.clone())),
        Some(record) => return Some(Decision::Wait(vec![Obstacle::Forgotten { cluster: record.cluster }])),
        None => {}
    }
    // A member that is part of another cluster will never accept: then this node is as free as a fresh one. See the room's
    // header.
    let is_void = |record: &InitRecord| joined.iter().any(|(_, status, _)| record.names(status.node));
    if own.accepted.as_ref().is_some_and(|record| !is_void(record)) {
        return None;
    }
    let (address, status, cluster) = *joined.first()?;
    if let Some((second_address, _, second)) = joined.iter().find(|(_, _, other)| *other != cluster) {
        let (first, second) = ((address.clone(), cluster), ((*second_address).clone(), *second));
        return Some(Decision::Wait(vec![Obstacle::SeveralClusters { first, second }]));
    }
    if let Some(obstacle) = differing(view, address, status, false) {
        return Some(Decision::Wait(vec![obstacle]));
    }
    Some(Decision::JoinLater(cluster))
}

/// A fresh node without a cluster to join.
fn found(view: &View<'_>) -> Decision {
    let own = view.own;
    if planted::is(Bug::TwoClusters) {
        return Decision::Found(vec![us(view)]);
    }
    // A seed may be another name of this node's own address.
    let is_us = |(address, status): (&String, &Status)| status.node == own.node && view.seeds.contains(address);
    if !view.seeds.contains(&own.address) && !answered(view).any(is_us) {
        let silent = view.seen.iter().filter_map(|(address, seen)| match seen {
            Seen::Silent(reason) => Some(silent(address, reason)),
            Seen::Answered(_) => None,
        });
        let not_a_seed = Obstacle::NotASeed { address: own.address.clone() };
        return Decision::Wait(std::iter::once(not_a_seed).chain(unresolved(view)).chain(silent).collect());
    }
    let mut obstacles: Vec<Obstacle> = unresolved(view).collect();
    let mut fresh = BTreeSet::from([us(view)]);
    for address in view.seeds.iter().filter(|address| **address != own.address) {
        match view.seen.get(address) {
            Some(Seen::Answered(status)) => match (differing(view, address, status, true), &status.accepted) {
                (Some(obstacle), _) => obstacles.push(obstacle),
                // It proposes its record to us as soon as it sees us.
                (None, Some(record)) if record.names(own.node) => {
                    obstacles.push(Obstacle::AwaitsProposal { node: status.node, address: address.clone() });
                    return Decision::Wait(obstacles);
                }
                (None, Some(record)) => {
                    let member = Member { node: status.node, address: address.clone() };
                    obstacles.push(Obstacle::AcceptedOther { member, cluster: record.cluster });
                }
                (None, None) => _ = fresh.insert(member(status)),
            },
            Some(Seen::Silent(reason)) => obstacles.push(silent(address, reason)),
            None => {}
        }
    }
    let enough = fresh.len() >= usize::from(view.settings.expect);
    match fresh.first() {
        _ if !enough => {
            obstacles.insert(0, Obstacle::TooFewFresh { fresh: fresh.len(), expect: view.settings.expect });
            Decision::Wait(obstacles)
        }
        Some(first) if first.node != own.node => {
            obstacles.insert(0, Obstacle::AwaitsProposal { node: first.node, address: first.address.clone() });
            Decision::Wait(obstacles)
        }
        // Two nodes that see different nodes would propose different records. Where all seeds are fresh there is one view,
        // unless DNS is about to name more of them.
        _ if (fresh.len() < view.seeds.len() || !view.is_fixed) && !view.is_settled => {
            obstacles.insert(0, Obstacle::Settling { fresh: fresh.len(), seeds: view.seeds.len() });
            Decision::Wait(obstacles)
        }
        // All that are here, not only as many as are expected: the record overlaps with others the more.
        _ => Decision::Found(fresh.into_iter().take(MEMBERS_MAX).collect()),
    }
}

/// The nodes at the addresses that the operator has named, or what is wrong with them.
fn named(view: &View<'_>, addresses: &[String]) -> Result<Vec<Member>, Vec<Obstacle>> {
    let mut members = BTreeSet::from([us(view)]);
    let mut obstacles = Vec::new();
    for address in addresses.iter().filter(|address| **address != view.own.address) {
        match view.seen.get(address) {
            Some(Seen::Answered(status)) => match differing(view, address, status, false) {
                Some(obstacle) => obstacles.push(obstacle),
                None => _ = members.insert(member(status)),
            },
            Some(Seen::Silent(reason)) => obstacles.push(silent(address, reason)),
            None => obstacles.push(silent(address, "it was not asked yet")),
        }
    }
    if obstacles.is_empty() { Ok(members.into_iter().collect()) } else { Err(obstacles) }
}

/// Brings the accepted record to completion.
fn pursue(view: &View<'_>, record: &InitRecord, force: bool) -> Decision {
    let (mut to, mut obstacles) = (Vec::new(), Vec::new());
    for member in others(view, record) {
        match view.seen.get(&member.address) {
            Some(Seen::Answered(status)) if status.node != member.node => {
                obstacles.push(Obstacle::Gone { member: member.clone(), by: status.node });
            }
            Some(Seen::Answered(status)) => match &status.accepted {
                Some(accepted) if accepted == record => {}
                Some(accepted) if !force => {
                    let (member, cluster) = (member.clone(), accepted.cluster);
                    obstacles.push(Obstacle::AcceptedOther { member, cluster });
                }
                _ => match differing(view, &member.address, status, false) {
                    Some(obstacle) => obstacles.push(obstacle),
                    None => {
                        to.push(member.address.clone());
                        obstacles.push(Obstacle::NotAccepted { member: member.clone() });
                    }
                },
            },
            Some(Seen::Silent(reason)) => obstacles.push(silent(&member.address, reason)),
            None => obstacles.push(silent(&member.address, "it was not asked yet")),
        }
    }
    match (to.is_empty(), obstacles.is_empty()) {
        (true, true) => Decision::JoinAsMember(record.clone()),
        (true, false) => Decision::Wait(obstacles),
        (false, _) => Decision::Propose { to, force, obstacles },
    }
}

/// One data directory on two machines: whatever either of them accepts, the other has not.
fn copied(view: &View<'_>) -> Option<Obstacle> {
    let own = view.own;
    let mut addresses = BTreeMap::from([(own.node, &own.address)]);
    for (_, status) in answered(view) {
        let known = *addresses.entry(status.node).or_insert(&status.address);
        if *known != status.address {
            let addresses = [known.clone(), status.address.clone()];
            return Some(Obstacle::CopiedDirectory { node: status.node, addresses });
        }
    }
    None
}

fn answered<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a String, &'a Status)> + use<'a> {
    view.seen.iter().filter_map(|(address, seen)| match seen {
        Seen::Answered(status) => Some((address, status)),
        Seen::Silent(_) => None,
    })
}

fn others<'a>(view: &View<'_>, record: &'a InitRecord) -> impl Iterator<Item = &'a Member> + use<'a> {
    let own = view.own.node;
    record.members.iter().filter(move |member| member.node != own)
}

/// Whether these are the nodes at `addresses`.
pub(super) fn are_at(members: &[Member], addresses: &[String]) -> bool {
    let set = |addresses: &mut dyn Iterator<Item = &String>| addresses.cloned().collect::<BTreeSet<_>>();
    set(&mut members.iter().map(|member| &member.address)) == set(&mut addresses.iter())
}

fn us(view: &View<'_>) -> Member {
    Member { node: view.own.node, address: view.own.address.clone() }
}

fn member(status: &Status) -> Member {
    Member { node: status.node, address: status.address.clone() }
}

fn silent(address: &str, reason: &str) -> Obstacle {
    Obstacle::Silent { address: address.to_owned(), reason: reason.to_owned() }
}

fn unresolved(view: &View<'_>) -> impl Iterator<Item = Obstacle> {
    view.unresolved.iter().map(|(seed, reason)| Obstacle::Unresolved { seed: seed.clone(), reason: reason.clone() })
}

fn agrees(view: &View<'_>, record: &InitRecord) -> bool {
    (record.shards, record.replicas) == (view.settings.shards, view.settings.replicas)
}

/// `expect` says something about first deployments only.
fn differing(view: &View<'_>, address: &str, status: &Status, is_first: bool) -> Option<Obstacle> {
    let (ours, theirs) = (view.settings, status.settings);
    let differ = (ours.shards, ours.replicas) != (theirs.shards, theirs.replicas);
    (differ || (is_first && ours.expect != theirs.expect)).then(|| Obstacle::Settings {
        address: address.to_owned(),
        ours,
        theirs,
    })
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved { seed, reason } => write!(f, "the seed {seed} does not resolve: {reason}"),
            Self::Silent { address, reason } => write!(f, "{address} does not answer ({reason})"),
            Self::TooFewFresh { fresh, expect } => {
                write!(f, "{fresh} of the {expect} fresh nodes that cluster.expect asks for are here")
            }
            Self::NotASeed { address } => {
                write!(
                    f,
                    "no seed is part of a cluster, and this node founds none: its address {address} is none of the seeds'"
                )
            }
            Self::AwaitsProposal { node, address } => write!(f, "node {node} at {address} is about to propose"),
            Self::Settling { fresh, seeds } => {
                write!(f, "{fresh} of {seeds} seeds are here, which is enough; the others are waited for a little")
            }
            Self::NotAccepted { member: Member { node, address } } => {
                write!(f, "node {node} at {address} has not accepted the record yet")
            }
            Self::AcceptedOther { member: Member { node, address }, cluster } => write!(
                f,
                "node {node} at {address} has accepted the record of another cluster, {cluster}: start with empty data \
                 directories, or with --init"
            ),
            Self::Gone { member: Member { node, address }, by } => write!(
                f,
                "node {node} has accepted or should accept, but is gone: node {by} answers at its address {address}; start \
                 with --init, or with empty data directories"
            ),
            Self::Settings { address, ours, theirs } => {
                write!(f, "{address} is configured differently:")?;
                let rows = [
                    ("cluster.shards", ours.shards, theirs.shards),
                    ("cluster.replicas", ours.replicas, theirs.replicas),
                    ("cluster.expect", ours.expect, theirs.expect),
                ];
                let mut rows = rows.iter().filter(|(_, ours, theirs)| ours != theirs).peekable();
                while let Some((key, ours, theirs)) = rows.next() {
                    let end = if rows.peek().is_some() { "," } else { "" };
                    write!(f, " {key} is {theirs} there and {ours} here{end}")?;
                }
                Ok(())
            }
            Self::SeveralClusters { first, second } => write!(
                f,
                "the seeds belong to different clusters: {} to {}, {} to {}",
                first.0, first.1, second.0, second.1
            ),
            Self::CopiedDirectory { node, addresses: [one, other] } => write!(
                f,
                "{one} and {other} both say that they are node {node}: one data directory is a copy of the other"
            ),
            Self::Forgotten { cluster } => write!(
                f,
                "cluster {cluster} began with this node, but its data directory knows nothing of it: it is an old copy; start \
                 with an empty one"
            ),
            Self::ClusterExists { address, cluster } => write!(f, "{address} is part of cluster {cluster}"),
        }
    }
}
