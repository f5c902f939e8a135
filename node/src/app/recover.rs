//! Recovering shards that have lost their quorum, for an operator: what is here of them, what other nodes have, and the
//! recovery itself. What it means is in [`crate::recovery`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use berth_shared::cluster_view::time_of;
use berth_shared::ids::{NodeId, ShardId};
use berth_shared::peer::{self, Class};
use berth_shared::recovery_view::{LostShard, OtherReplica, RecoveredView, RecoveryView};
use berth_shared::seam::Seams;

use super::place::Place;
use super::replicas::sees_quorum;
use crate::admin::recovery::{Refusal, path_name};
use crate::cluster::plan::SYSTEM_SHARD;
use crate::recovery::survey::{Holding, Obstacle, obstacle, phrase};
use crate::recovery::{self, Survivor};
use crate::shard::group::Status;
use crate::transport::hosting::Hosted;
use crate::transport::wire::NodeRequest;

/// How long other nodes have to say what they hold.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What other nodes have of some shards.
struct Asked {
    held: BTreeMap<ShardId, Vec<(NodeId, Holding)>>,
    silent: BTreeSet<NodeId>,
}

/// A replica here, and what speaks against its recovery.
struct Found {
    survivor: Survivor,
    obstacle: Option<Obstacle>,
}

/// All shards that have a replica here and no quorum, the system shard first.
pub(super) async fn survey(place: &Place, seams: &Seams) -> RecoveryView {
    let hosted = place.hosting.system().into_iter().chain(place.hosting.all());
    let lost: Vec<Arc<Hosted>> = hosted.filter(|hosted| !sees_quorum(hosted)).collect();
    let asked = ask_all(place, seams, &lost).await;
    let mut shards = Vec::new();
    for hosted in &lost {
        let (shard, status) = (hosted.shard.id(), hosted.group.status());
        match find(place, hosted, &asked).await {
            Ok(found) => shards.push(shown(place, shard, &status, &found, &asked)),
            // One that has nothing is waiting for an owner.
            Err(recovery::Error::Absent(_)) => {}
            Err(error) => tracing::error!(%shard, "what is here of a shard cannot be told: {error}"),
        }
    }
    let silent = asked.silent.iter().map(|node| address(place, *node).unwrap_or_else(|| node.to_string())).collect();
    RecoveryView { node: place.identity.node, address: place.identity.address.clone(), shards, silent }
}

/// Recovers one shard, if it has lost its quorum, nobody has more of it, and `confirm` says what is lost.
pub(super) async fn recover(
    place: &Place,
    seams: &Seams,
    shard: ShardId,
    confirm: &str,
) -> Result<RecoveredView, Refusal> {
    let node = place.identity.node;
    let hosted = place.hosting.any(shard).ok_or(Refusal::NotHosted)?;
    let asked = ask_all(place, seams, std::slice::from_ref(&hosted)).await;
    let found = match find(place, &hosted, &asked).await {
        Err(recovery::Error::Absent(_)) => return Err(Refusal::NotHosted),
        found => found.map_err(|error| Refusal::Failed(error.to_string()))?,
    };
    drop(hosted);
    if let Some(obstacle) = found.obstacle {
        return Err(Refusal::Obstacle(obstacle.to_string()));
    }
    let Survivor { last, .. } = found.survivor;
    let expected = phrase(shard, node, last);
    if confirm != expected {
        return Err(Refusal::Confirm(expected));
    }
    match place.replicas.recover(shard, &place.identity.address, last).await {
        Ok(Some(recovered)) => Ok(RecoveredView {
            shard: path_name(shard),
            node,
            incarnation: recovered.incarnation,
            kept: recovered.survivor.last.into(),
            begins: recovered.last.into(),
        }),
        Ok(None) => Err(Refusal::Busy),
        // It got more after it was looked at.
        Err(super::Error::Recovery(recovery::Error::Changed { found, .. })) => {
            Err(Refusal::Confirm(phrase(shard, node, found)))
        }
        Err(error) => Err(Refusal::Failed(error.to_string())),
    }
}

async fn find(place: &Place, hosted: &Hosted, asked: &Asked) -> Result<Found, recovery::Error> {
    let shard = hosted.shard.id();
    let survivor = recovery::survivor(&place.journal, &place.store, shard).await?;
    let Survivor { last, incarnation, .. } = survivor;
    let ours = Holding { shard, last, incarnation, sees_quorum: sees_quorum(hosted) };
    let others = asked.held.get(&shard).map_or(&[][..], Vec::as_slice);
    let obstacle = obstacle(place.identity.node, &ours, others, led_by_silent(place, shard, asked));
    Ok(Found { survivor, obstacle })
}

/// A node that gossip hears, that says that it leads the shard, and that did not say what it has.
fn led_by_silent(place: &Place, shard: ShardId, asked: &Asked) -> Option<NodeId> {
    let members = place.gossip.members().borrow().clone();
    let mut live = members.iter().filter(|member| member.suspected.is_none() && asked.silent.contains(&member.node));
    let leads = live.find(|member| match shard {
        SYSTEM_SHARD => member.facts.system.is_some(),
        shard => member.facts.led.binary_search_by_key(&shard, |(led, _)| *led).is_ok(),
    });
    leads.map(|member| member.node)
}

/// Asks every node that is there, and every one that should be: who is a member of a group may be unknown to a replica that
/// is far behind.
async fn ask_all(place: &Place, seams: &Seams, lost: &[Arc<Hosted>]) -> Asked {
    let shards: Vec<ShardId> = lost.iter().map(|hosted| hosted.shard.id()).collect();
    let mut nodes: BTreeSet<NodeId> = place.peers.connected().into_iter().collect();
    if shards.is_empty() {
        return Asked { held: BTreeMap::new(), silent: BTreeSet::new() };
    }
    nodes.extend(place.owners.members().iter().map(|member| member.node));
    for status in lost.iter().map(|hosted| hosted.group.status()) {
        nodes.extend(status.voters.into_iter().chain(status.learners));
    }
    nodes.remove(&place.identity.node);
    let request = peer::encode(&NodeRequest::Holdings { shards });
    let deadline = seams.clock.now() + ANSWER_MAX;
    let ask = |node: NodeId| {
        let request = request.clone();
        async move {
            let answer = place.peers.call(node, Class::Control, request.ok()?, deadline).await.ok()?;
            peer::decode::<Vec<Holding>>(&answer).ok()
        }
    };
    let answers = join_all(nodes.iter().map(|node| ask(*node))).await;
    let mut asked = Asked { held: BTreeMap::new(), silent: BTreeSet::new() };
    for (node, answer) in nodes.into_iter().zip(answers) {
        let Some(holdings) = answer else {
            asked.silent.insert(node);
            continue;
        };
        for holding in holdings {
            asked.held.entry(holding.shard).or_default().push((node, holding));
        }
    }
    asked
}

fn shown(place: &Place, shard: ShardId, status: &Status, found: &Found, asked: &Asked) -> LostShard {
    let Found { survivor, obstacle } = found;
    let connected = place.peers.connected();
    let is_missing = |node: &&NodeId| **node != place.identity.node && connected.binary_search(node).is_err();
    let other = |(node, holding): &(NodeId, Holding)| OtherReplica {
        node: *node,
        address: address(place, *node),
        last: holding.last.into(),
        incarnation: holding.incarnation,
        sees_quorum: holding.sees_quorum,
    };
    LostShard {
        shard: path_name(shard),
        last: survivor.last.into(),
        applied_index: survivor.applied.map_or(0, |applied| applied.index),
        incarnation: survivor.incarnation,
        last_write: Some(survivor.shard_time_micros).filter(|micros| *micros > 0).and_then(time_of),
        voters: status.voters.clone(),
        missing: status.voters.iter().filter(is_missing).copied().collect(),
        others: asked.held.get(&shard).into_iter().flatten().map(other).collect(),
        obstacle: obstacle.map(|obstacle| obstacle.to_string()),
        confirm: obstacle.is_none().then(|| phrase(shard, place.identity.node, survivor.last)),
    }
}

fn address(place: &Place, node: NodeId) -> Option<String> {
    place.owners.members().into_iter().find(|member| member.node == node).map(|member| member.address)
}
