//! Tells gateways which shards this node owns: all of them when a gateway connects, and each change as it happens.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use berth_shared::ids::{NodeId, ShardId, Term};
use berth_shared::message::Push;
use berth_shared::peer::{self, PushSender};
use berth_shared::seam::Seams;
use berth_shared::shard_map::ShardOwner;

use crate::shard::Shard;
use crate::shard::group::Group;

/// How often gateways are told again what they should know.
const REPEAT_INTERVAL: Duration = Duration::from_secs(5);

/// What this node knows of owners, and who wants to know.
#[derive(Debug)]
pub struct Owners {
    node: NodeId,
    address: String,
    shards: u16,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The shards this node owns, each with its term.
    owned: Vec<ShardOwner>,
    /// Bounded by the connections that the server takes.
    listeners: Vec<PushSender>,
}

impl Owners {
    pub fn new(node: NodeId, address: String, shards: u16) -> Arc<Self> {
        Arc::new(Self { node, address, shards, state: Mutex::default() })
    }

    /// Follows the leadership of one shard from now on.
    pub fn follow(self: &Arc<Self>, shard: Arc<Shard>, group: &Arc<dyn Group>, seams: &Seams) {
        let (owners, mut leading) = (self.clone(), group.leading());
        seams.spawner.spawn(async move {
            loop {
                let term = *leading.borrow_and_update();
                owners.set(&shard, term);
                if leading.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Sends all owned shards to a gateway that has just connected, and changes from then on.
    pub fn listen(&self, pushes: PushSender) {
        let mut state = self.state.lock();
        state.listeners.retain(|listener| !listener.is_closed());
        if let Some(push) = self.encode(state.owned.clone()) {
            pushes.send(push);
        }
        state.listeners.push(pushes);
    }

    /// Tells every gateway again from time to time, because a push is dropped where a connection is congested.
    pub async fn repeat(self: Arc<Self>, seams: Seams, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = seams.spawner.sleep(REPEAT_INTERVAL) => {}
            }
            let mut state = self.state.lock();
            state.listeners.retain(|listener| !listener.is_closed());
            let Some(push) = self.encode(state.owned.clone()) else { continue };
            for listener in &state.listeners {
                listener.send(push.clone());
            }
        }
    }

    /// The shards this node owns now.
    pub fn owned(&self) -> Vec<ShardId> {
        self.state.lock().owned.iter().map(|owner| owner.shard).collect()
    }

    fn set(&self, shard: &Shard, term: Option<Term>) {
        let mut state = self.state.lock();
        state.owned.retain(|owner| owner.shard != shard.id());
        let Some(term) = term else { return };
        let index = shard.seen().index;
        let owner = ShardOwner { shard: shard.id(), node: self.node, address: self.address.clone(), term, index };
        state.owned.push(owner.clone());
        state.listeners.retain(|listener| !listener.is_closed());
        if let Some(push) = self.encode(vec![owner]) {
            for listener in &state.listeners {
                listener.send(push.clone());
            }
        }
    }

    fn encode(&self, owners: Vec<ShardOwner>) -> Option<Bytes> {
        let encoded = peer::encode(&Push::Owners { shards: self.shards, owners });
        encoded.inspect_err(|error| tracing::error!(%error, "the owned shards cannot be encoded")).ok()
    }
}
