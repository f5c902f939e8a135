//! The groups of a node: starts them, finds the one that a message is for, and keeps them all going with one task.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};

use berth_shared::ids::{NodeId, ShardId};
use berth_shared::peer::Reply;
use berth_shared::seam::{Seams, Spawner};

use super::arrival::{self, Arrived};
use super::group::{Paced, RaftGroup, Start};
use super::message::Answer;
use super::{Error, HEARTBEAT, Runtime, SimulatedRuntime, SystemRuntime, snapshot};
use crate::journal::Journal;
use crate::shard::Shard;
use crate::shard::group::Group;
use crate::transport::peers::Peers;

/// How often the groups are looked after; heartbeats and elections are late by as much.
const PULSE: Duration = Duration::from_millis(25);

/// Cheap to clone; clones are the same groups.
#[derive(Clone)]
pub struct Groups {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    peers: Peers,
    seams: Seams,
    snapshot_turns: Arc<Semaphore>,
    /// Bounded by the shards of the cluster.
    hosted: RwLock<BTreeMap<ShardId, Hosted>>,
}

struct Hosted {
    inbox: mpsc::Sender<Arrived>,
    group: Arc<dyn Paced>,
}

impl Groups {
    /// Starts the task that keeps the groups going; it ends with the last clone.
    pub fn new(node: NodeId, peers: Peers, seams: &Seams) -> Self {
        let snapshot_turns = Arc::new(Semaphore::new(snapshot::SENDS_MAX));
        let shared = Arc::new(Shared { node, peers, seams: seams.clone(), snapshot_turns, hosted: RwLock::default() });
        seams.spawner.spawn(pulse(Arc::downgrade(&shared), seams.clone()));
        Self { shared }
    }

    /// Starts the group of `shard` on this node. A group without a log begins with `voters`, which must be the same, from the
    /// same plan, on each of them; `first_owner` stands for election at once, the others only if it does not come about.
    pub async fn start(
        &self,
        shard: Arc<Shard>,
        journal: Journal,
        voters: &[(NodeId, String)],
        first_owner: bool,
    ) -> Result<Arc<dyn Group>, Error> {
        for (node, address) in voters {
            self.shared.peers.learn(*node, address);
        }
        let Shared { node, peers, seams, snapshot_turns, .. } = &*self.shared;
        let (node, peers, seams, snapshot_turns) = (*node, peers.clone(), seams.clone(), snapshot_turns.clone());
        let (id, spawner) = (shard.id(), seams.spawner);
        let start = Start { node, shard, journal, peers, seams, snapshot_turns, voters, first_owner };
        match spawner {
            Spawner::Threads => self.host::<SystemRuntime>(id, start).await,
            Spawner::Inline => self.host::<SimulatedRuntime>(id, start).await,
        }
    }

    async fn host<R: Runtime>(&self, shard: ShardId, start: Start<'_>) -> Result<Arc<dyn Group>, Error> {
        let started = RaftGroup::<R>::start(start).await?;
        let hosted = Hosted { inbox: started.inbox, group: started.group.clone() };
        self.shared.hosted.write().insert(shard, hosted);
        Ok(started.group)
    }

    /// Takes a message that was sent to the node `to`, for its group of `shard`. Returns at once; the answer follows, or none
    /// where the sender must learn nothing (rule R2) or too much waits.
    pub fn handle(&self, to: NodeId, shard: ShardId, message: Bytes, reply: Reply) {
        if to != self.shared.node {
            return arrival::answer(reply, &Answer::WrongNode);
        }
        let refused = match self.shared.hosted.read().get(&shard) {
            None => Some(reply),
            Some(hosted) => match hosted.inbox.try_send(Arrived { message, reply }) {
                Ok(()) => None,
                Err(TrySendError::Closed(arrived)) => Some(arrived.reply),
                Err(TrySendError::Full(_)) => {
                    tracing::debug!(%shard, "too many messages wait for the group");
                    None
                }
            },
        };
        if let Some(reply) = refused {
            arrival::answer(reply, &Answer::NotHosted);
        }
    }

    /// Ends the group of `shard`: [`Group::stop`], after which its messages are not taken any more.
    pub async fn stop(&self, shard: ShardId, group: &dyn Group) {
        self.shared.hosted.write().remove(&shard);
        group.stop().await;
    }
}

/// Looks after every group, in the order of their shards.
async fn pulse(shared: Weak<Shared>, seams: Seams) {
    let mut next_heartbeat = seams.clock.now();
    let mut connected_before: Vec<NodeId> = Vec::new();
    loop {
        seams.spawner.sleep(PULSE).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = seams.clock.now();
        let heartbeat = now >= next_heartbeat;
        if heartbeat {
            // From the time it was due, so that lateness does not add up; but a node that slept owes no heartbeats.
            next_heartbeat = (next_heartbeat + HEARTBEAT).max(now + HEARTBEAT - PULSE);
        }
        let connected = shared.peers.connected();
        let hosted = shared.hosted.read();
        for node in connected.iter().filter(|node| connected_before.binary_search(node).is_err()) {
            hosted.values().for_each(|hosted| hosted.group.returned(*node));
        }
        for hosted in hosted.values() {
            hosted.group.pulse(now, heartbeat, &connected);
        }
        drop(hosted);
        connected_before = connected;
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosted = self.shared.hosted.read();
        f.debug_struct("Groups").field("node", &self.shared.node).field("hosted", &hosted.keys()).finish()
    }
}
