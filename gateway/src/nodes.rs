//! The gateway's connections to nodes and what the nodes tell it: one data connection per address, those of the
//! configuration and those of the shard map, and the snapshot of the map that requests are routed by.

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use berth_shared::ids::ClusterId;
use berth_shared::message::Push;
use berth_shared::peer::{self, Class, Client, Identity, Pushed, Role};
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::shard_map::ShardOwner;
use bytes::Bytes;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::metrics::Metrics;
use crate::router::Table;

/// The way to the nodes. Tests put a script in its place.
pub(crate) trait Nodes: Send + Sync + 'static {
    /// What is known of the shard map.
    fn table(&self) -> Arc<Table>;

    /// Takes in an owner that a node named.
    fn learn(&self, owner: ShardOwner);

    /// The address of some node; of another one with every `turn`, where there are more.
    fn anyone(&self, turn: u32) -> Option<String>;

    /// The cluster, once a node has said which it is.
    fn cluster(&self) -> Option<ClusterId>;

    fn call(
        &self,
        address: &str,
        payload: Bytes,
        deadline: BootInstant,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send;
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// Too many are in flight to this node. Surely not executed.
    Busy,
    /// Surely not executed.
    NotExecuted,
    /// Sent, and nothing is known of it.
    MaybeExecuted,
}

/// The real connections.
#[derive(Debug)]
pub(crate) struct Connections {
    seams: Seams,
    config: Config,
    /// Replaced as a whole, so that requests read it without waiting.
    snapshot: ArcSwap<Snapshot>,
    /// Held by whoever replaces the snapshot.
    changing: Mutex<()>,
    pushes: mpsc::Sender<Pushed>,
    complete: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Addresses that are always connected.
    pub(crate) seeds: Vec<String>,
    /// Most addresses connected at once, the seeds included.
    pub(crate) nodes_max: usize,
    pub(crate) credential: Option<String>,
    pub(crate) client: peer::client::Config,
}

#[derive(Clone, Debug, Default)]
struct Snapshot {
    table: Arc<Table>,
    clients: HashMap<String, Client>,
    cluster: Option<ClusterId>,
}

/// Pushes of all nodes that wait to be taken in; more are dropped, and said again by the nodes.
const PUSHES_MAX: usize = 1024;

impl Connections {
    /// Starts to connect to the seeds, and to take in what nodes say until the connections are dropped.
    pub(crate) fn start(config: Config, seams: Seams, metrics: Arc<Metrics>) -> Arc<Self> {
        let (pushes, pushed) = mpsc::channel(PUSHES_MAX);
        let connections = Arc::new(Self {
            seams: seams.clone(),
            config,
            snapshot: ArcSwap::default(),
            changing: Mutex::new(()),
            pushes,
            complete: watch::Sender::new(false),
            metrics,
        });
        connections.change(|_| true);
        seams.spawner.spawn(listen(Arc::downgrade(&connections), pushed));
        connections
    }

    /// True once an owner of every shard is known.
    pub(crate) fn completeness(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// How many nodes are connected just now.
    pub(crate) fn connected(&self) -> usize {
        self.snapshot.load().clients.values().filter(|client| client.peer().is_some()).count()
    }

    /// Replaces the snapshot by what `change` makes of it, unless that says that nothing is new.
    fn change(&self, change: impl FnOnce(&mut Snapshot) -> bool) {
        let _changing = self.changing.lock();
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        if !change(&mut snapshot) {
            return;
        }
        self.connect(&mut snapshot);
        let complete = snapshot.table.is_complete();
        self.snapshot.store(Arc::new(snapshot));
        self.complete.send_if_modified(|known| std::mem::replace(known, complete) != complete);
    }

    /// Makes the clients those of the seeds and the owners, as many as are allowed.
    fn connect(&self, snapshot: &mut Snapshot) {
        let mut clients = HashMap::new();
        let owners = snapshot.table.owners().map(|owner| &owner.address);
        for address in self.config.seeds.iter().chain(owners) {
            if clients.contains_key(address) {
                continue;
            }
            if clients.len() >= self.config.nodes_max {
                tracing::warn!(%address, nodes_max = self.config.nodes_max, "too many nodes: this one is not connected");
                break;
            }
            let known = snapshot.clients.get(address).cloned();
            let client = known.unwrap_or_else(|| self.client(address.clone(), snapshot.cluster));
            clients.insert(address.clone(), client);
        }
        snapshot.clients = clients;
    }

    fn client(&self, address: String, cluster: Option<ClusterId>) -> Client {
        let identity = Identity {
            role: Role::Gateway,
            node: None,
            cluster,
            software: concat!("berth-gateway ", env!("CARGO_PKG_VERSION")).to_owned(),
            credential: self.config.credential.clone(),
        };
        let (seams, config) = (self.seams.clone(), self.config.client.clone());
        Client::new(seams, config, address, Class::Data, identity, Some(self.pushes.clone()))
    }

    /// Takes in what a node said unasked.
    fn take_in(&self, pushed: &Pushed) {
        let push = peer::decode(&pushed.payload);
        if let Ok(Push::Members { .. }) = push {
            return;
        }
        let Ok(Push::Owners { shards, owners }) = push else {
            self.metrics.map_refusals.increment();
            tracing::error!(node = %pushed.from, "a node pushed what is no message of this protocol version");
            return;
        };
        self.change(|snapshot| {
            let said = snapshot.clients.get(&pushed.from).and_then(Client::peer).and_then(|peer| peer.cluster);
            if let (Some(known), Some(said)) = (snapshot.cluster, said)
                && known != said
            {
                self.metrics.map_refusals.increment();
                tracing::error!(node = %pushed.from, %known, %said, "a node of another cluster is not listened to");
                return false;
            }
            let named = snapshot.cluster.is_none() && said.is_some();
            match Arc::make_mut(&mut snapshot.table).learn(shards, owners) {
                Ok(news) => {
                    self.metrics.map_changes.add(news.into());
                    snapshot.cluster = snapshot.cluster.or(said);
                    news || named
                }
                Err(error) => {
                    self.metrics.map_refusals.increment();
                    tracing::error!(node = %pushed.from, "a node is not listened to: {error}");
                    false
                }
            }
        });
    }
}

impl Nodes for Connections {
    fn table(&self) -> Arc<Table> {
        self.snapshot.load().table.clone()
    }

    fn learn(&self, owner: ShardOwner) {
        self.change(|snapshot| {
            let news = Arc::make_mut(&mut snapshot.table).learn_owner(owner);
            self.metrics.map_changes.add(news.into());
            news
        });
    }

    fn anyone(&self, turn: u32) -> Option<String> {
        let snapshot = self.snapshot.load();
        let connected: Vec<_> = snapshot.clients.values().filter(|client| client.peer().is_some()).collect();
        let candidates = if connected.is_empty() { snapshot.clients.values().collect() } else { connected };
        let position = (turn as usize).checked_rem(candidates.len())?;
        candidates.get(position).map(|client| client.address().to_owned())
    }

    fn cluster(&self) -> Option<ClusterId> {
        let snapshot = self.snapshot.load();
        let named = || snapshot.clients.values().find_map(|client| client.peer()?.cluster);
        snapshot.cluster.or_else(named)
    }

    async fn call(&self, address: &str, payload: Bytes, deadline: BootInstant) -> Result<Bytes, CallError> {
        // Clients are made together with the map that names them, except those over the limit.
        let client = self.snapshot.load().clients.get(address).cloned().ok_or(CallError::NotExecuted)?;
        client.call(payload, deadline).await.map_err(|error| {
            tracing::debug!(%address, "a call failed: {error}");
            match error {
                peer::CallError::Overloaded => CallError::Busy,
                error if error.may_have_been_executed() => CallError::MaybeExecuted,
                _ => CallError::NotExecuted,
            }
        })
    }
}

async fn listen(connections: std::sync::Weak<Connections>, mut pushed: mpsc::Receiver<Pushed>) {
    while let Some(pushed) = pushed.recv().await {
        let Some(connections) = connections.upgrade() else { return };
        connections.take_in(&pushed);
    }
}
