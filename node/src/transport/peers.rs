//! Connections to other nodes, by node id: one per node and class, kept up in the background. It knows addresses and
//! connections, and nothing of what travels on them.
//!
//! Everything here is impatient, because elections are decided within half a second: a node that says nothing for a second,
//! not even to a ping, loses its connection, so that nothing waits for TCP to come back after a network was away, and it is
//! dialled again and again in short steps. What a process that hangs keeps open is bounded by the deadlines of the calls.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use berth_shared::ids::NodeId;
use berth_shared::peer::client::Config;
use berth_shared::peer::{CallError, Class, Client, Identity, NotSent};
use berth_shared::seam::{BootInstant, Seams};

/// Bytes of entries on their way to one node, whose answers have not come. Less than a client queues, so that a group which
/// catches up waits here, in order, and is not refused there.
const DATA_BYTES_MAX: u32 = 12 << 20;

/// Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    seams: Seams,
    identity: Identity,
    /// Bounded by the members of the cluster.
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
}

struct Peer {
    node: NodeId,
    address: String,
    control: Client,
    data: OnceLock<Client>,
    bulk: OnceLock<Client>,
    data_room: Arc<Semaphore>,
}

impl Peers {
    /// `identity` is what this node says of itself.
    pub fn new(seams: Seams, identity: Identity) -> Self {
        Self { shared: Arc::new(Shared { seams, identity, peers: RwLock::default() }) }
    }

    /// Says where `node` is reached, and keeps a control connection to it from now on. A changed address replaces its
    /// connections.
    pub fn learn(&self, node: NodeId, address: &str) {
        let known = |peers: &BTreeMap<NodeId, Arc<Peer>>| peers.get(&node).is_some_and(|peer| peer.address == address);
        if Some(node) == self.shared.identity.node || known(&self.shared.peers.read()) {
            return;
        }
        let mut peers = self.shared.peers.write();
        if !known(&peers) {
            let peer = Peer {
                node,
                address: address.to_owned(),
                control: self.shared.client(address, Class::Control),
                data: OnceLock::new(),
                bulk: OnceLock::new(),
                data_room: Arc::new(Semaphore::new(DATA_BYTES_MAX as usize)),
            };
            peers.insert(node, Arc::new(peer));
        }
    }

    pub fn knows(&self, node: NodeId) -> bool {
        self.shared.peers.read().contains_key(&node)
    }

    /// Asks `node` and waits for its answer, until `deadline` at most.
    pub async fn call(
        &self,
        node: NodeId,
        class: Class,
        payload: Bytes,
        deadline: BootInstant,
    ) -> Result<Bytes, CallError> {
        let peer =
            self.peer(node).ok_or_else(|| CallError::NotSent(NotSent::Unreachable("no address is known".into())))?;
        self.shared.client_of(&peer, class).call(payload, deadline).await
    }

    /// Whether the control connection to `node` stands, and it is that node which answers there.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.peer(node).is_some_and(|peer| peer.stands(&peer.control))
    }

    /// The nodes to which control connections stand, ascending.
    pub fn connected(&self) -> Vec<NodeId> {
        let peers = self.shared.peers.read();
        peers.values().filter(|peer| peer.stands(&peer.control)).map(|peer| peer.node).collect()
    }

    /// Whether there is a control connection to `node`, as it changes. It ends when the node is given another address.
    pub fn watch(&self, node: NodeId) -> Option<watch::Receiver<bool>> {
        Some(self.peer(node)?.control.connected())
    }

    /// Waits, no longer than a call would, until there is a connection of `class` to `node`, and says whether there is.
    pub async fn reach(&self, node: NodeId, class: Class) -> bool {
        let Some(peer) = self.peer(node) else { return false };
        let client = self.shared.client_of(&peer, class);
        if peer.stands(client) {
            return true;
        }
        let mut connected = client.connected();
        let wait = config(class).connection_wait;
        let _ = self.shared.seams.spawner.timeout(wait, connected.wait_for(|connected| *connected)).await;
        peer.stands(client)
    }

    /// Waits until `bytes` more may be on their way to `node`, in the order of these calls. The room is free again when the
    /// permit is dropped.
    pub async fn data_room(&self, node: NodeId, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let peer = self.peer(node)?;
        let bytes = u32::try_from(bytes).unwrap_or(DATA_BYTES_MAX).min(DATA_BYTES_MAX);
        peer.data_room.clone().acquire_many_owned(bytes).await.ok()
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.shared.peers.read().get(&node).cloned()
    }
}

impl Shared {
    fn client(&self, address: &str, class: Class) -> Client {
        let (seams, identity) = (self.seams.clone(), self.identity.clone());
        Client::new(seams, config(class), address.to_owned(), class, identity, None)
    }

    /// Made on first use, but for control.
    fn client_of<'a>(&self, peer: &'a Peer, class: Class) -> &'a Client {
        match class {
            Class::Control => &peer.control,
            Class::Data => peer.data.get_or_init(|| self.client(&peer.address, class)),
            Class::Bulk => peer.bulk.get_or_init(|| self.client(&peer.address, class)),
        }
    }
}

impl Peer {
    fn stands(&self, client: &Client) -> bool {
        client.peer().is_some_and(|identity| identity.node == Some(self.node))
    }
}

/// Short in everything, see the head of this file. Bulk gives a node longer, because it carries no news.
fn config(class: Class) -> Config {
    let silence_max = match class {
        Class::Control | Class::Data => Duration::from_secs(1),
        Class::Bulk => Duration::from_secs(3),
    };
    Config {
        connect_timeout: Duration::from_millis(500),
        handshake_timeout: Duration::from_millis(500),
        connection_wait: Duration::from_millis(250),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(250),
        ping_after: silence_max / 2,
        silence_max,
        ..Config::default()
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("known", &self.shared.peers.read().keys()).finish_non_exhaustive()
    }
}
