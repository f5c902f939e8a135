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
            // Where it was prepared for entries it is again.
            if peers.get(&node).is_some_and(|before| before.data.get().is_some()) {
                self.shared.client_of(&peer, Class::Data);
            }
            peers.insert(node, Arc::new(peer));
        }
    }

    /// Makes a connection of `class` to a known node already, and keeps it.
    pub fn prepare(&self, node: NodeId, class: Class) {
        if let Some(peer) = self.peer(node) {
            self.shared.client_of(&peer, class);
        }
    }

    /// Ends the connections to `node`. Only for who has no part in any group of this node.
    pub fn forget(&self, node: NodeId) {
        self.shared.peers.write().remove(&node);
    }

    /// The control connection to a known node at `address`.
    pub fn control_at(&self, address: &str) -> Option<Client> {
        let peers = self.shared.peers.read();
        peers.values().find(|peer| peer.address == address).map(|peer| peer.control.clone())
    }

    /// A control connection to whoever is at `address`, for as long as its holder keeps it.
    pub fn connect(&self, address: &str) -> Client {
        self.shared.client(address, Class::Control)
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

    /// Waits, for as long as it takes, until the control connection to `node` stands; not at all when no address is known.
    pub async fn until_connected(&self, node: NodeId) {
        while let Some(mut connected) = self.watch(node) {
            if connected.wait_for(|connected| *connected).await.is_ok() {
                return;
            }
            // It has another address by now.
        }
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

    /// Made on first use, or when it is prepared, but for control.
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

#[cfg(test)]
mod tests {
    use berth_shared::ids::ClusterId;
    use berth_shared::peer::{self, Handler, Incoming, Role, server};
    use tokio_util::sync::CancellationToken;

    use super::*;

    const OURS: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const ADDRESS: &str = "other:7400";

    fn identity(node: NodeId) -> Identity {
        let (software, cluster) = ("test".to_owned(), Some(ClusterId(1)));
        Identity { role: Role::Node, node: Some(node), cluster, software, credential: None }
    }

    /// Answers with what it was asked, but for nothing, which it leaves unanswered as long as it lives.
    #[derive(Default)]
    struct Echo(parking_lot::Mutex<Vec<peer::Reply>>);

    impl Handler for Echo {
        fn handle(&self, incoming: Incoming) {
            match incoming.payload.is_empty() {
                true => self.0.lock().push(incoming.reply),
                false => incoming.reply.send(incoming.payload),
            }
        }
    }

    /// A node that answers at [`ADDRESS`] until the token is cancelled.
    async fn serve(seams: &Seams, node: NodeId) -> CancellationToken {
        let listener = seams.network.listen(ADDRESS).await.unwrap();
        let shutdown = CancellationToken::new();
        let config = server::Config { drain_timeout: Duration::ZERO, ..server::Config::default() };
        let (echo, until) = (Arc::new(Echo::default()), shutdown.clone());
        seams.spawner.spawn(peer::serve(seams.clone(), config, listener, identity(node), echo, until));
        shutdown
    }

    async fn ask(peers: &Peers, class: Class, payload: &'static [u8]) -> Result<Bytes, CallError> {
        let deadline = peers.shared.seams.clock.now() + Duration::from_millis(300);
        peers.call(OTHER, class, Bytes::from_static(payload), deadline).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_asked_on_a_connection_of_each_class() {
        let seams = Seams::simulated(1);
        let _node = serve(&seams, OTHER).await;
        let peers = Peers::new(seams, identity(OURS));
        assert!(matches!(ask(&peers, Class::Data, b"a").await, Err(CallError::NotSent(_))), "nobody knows where");
        peers.learn(OTHER, ADDRESS);
        for class in [Class::Control, Class::Data, Class::Bulk] {
            assert!(peers.reach(OTHER, class).await);
            assert_eq!(ask(&peers, class, b"a").await.unwrap(), "a");
        }
        assert_eq!(peers.connected(), [OTHER]);
        let unanswered = ask(&peers, Class::Data, b"").await;
        assert_eq!(unanswered, Err(CallError::DeadlinePassed { sent: true }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_lost_is_told_of_and_made_again() {
        let seams = Seams::simulated(1);
        let node = serve(&seams, OTHER).await;
        let peers = Peers::new(seams.clone(), identity(OURS));
        peers.learn(OTHER, ADDRESS);
        let mut connected = peers.watch(OTHER).unwrap();
        connected.wait_for(|connected| *connected).await.unwrap();
        node.cancel();
        let from = seams.clock.now();
        connected.wait_for(|connected| !*connected).await.unwrap();
        assert!(seams.clock.now().since(from) < Duration::from_millis(50));
        assert!(!peers.is_connected(OTHER));
        seams.spawner.sleep(Duration::from_secs(5)).await;
        let _node = serve(&seams, OTHER).await;
        connected.wait_for(|connected| *connected).await.unwrap();
        assert!(seams.clock.now().since(from) < Duration::from_millis(5300), "it is dialled in short steps");
        assert!(peers.is_connected(OTHER));
    }

    #[tokio::test(start_paused = true)]
    async fn another_node_at_the_address_is_no_connection() {
        let seams = Seams::simulated(1);
        let _node = serve(&seams, NodeId(3)).await;
        let peers = Peers::new(seams, identity(OURS));
        peers.learn(OTHER, ADDRESS);
        peers.watch(OTHER).unwrap().wait_for(|connected| *connected).await.unwrap();
        assert!(!peers.is_connected(OTHER));
        assert!(!peers.reach(OTHER, Class::Control).await);
        assert_eq!(peers.connected(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn room_for_data_is_given_in_order_and_comes_back() {
        let seams = Seams::simulated(1);
        let peers = Peers::new(seams.clone(), identity(OURS));
        assert!(peers.data_room(OTHER, 1).await.is_none(), "the node is not known");
        peers.learn(OTHER, ADDRESS);
        let all = peers.data_room(OTHER, usize::MAX).await.unwrap();
        let waiting = seams.spawner.timeout(Duration::from_secs(1), peers.data_room(OTHER, 1)).await;
        assert!(waiting.is_none(), "there is no room left");
        drop(all);
        assert!(peers.data_room(OTHER, 1).await.is_some());
    }
}
