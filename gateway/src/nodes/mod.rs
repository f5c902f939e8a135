//! The gateway's connections to nodes and what the nodes tell it: one data connection per address, those of the
//! configuration, those of the members that nodes tell of, and those of the shard map; and the snapshot of the map that
//! requests are routed by.

mod inquiry;
mod members;
mod polls;
mod replicas;
mod reports;
mod seeds;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwap;
use berth_shared::ids::{ClusterId, ShardId};
use berth_shared::key::EntityKey;
use berth_shared::message::Push;
use berth_shared::peer::{self, Class, Client, Identity, Pushed, Role};
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::seeds::Seeds;
use berth_shared::shard_map::ShardOwner;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::metrics::Metrics;
use crate::router::{self, Table};
use inquiry::Inquiry;
use members::Members;
use polls::Polls;
use replicas::Replicas;

/// The way to the nodes. Tests put a script in its place.
pub(crate) trait Nodes: Send + Sync + 'static {
    /// What is known of the shard map.
    fn table(&self) -> Arc<Table>;

    /// Takes in an owner that a node named.
    fn learn(&self, owner: ShardOwner);

    /// Completes once the known owner of `key` is one that `reached` accepts; looks whenever it changes.
    fn until(
        &self,
        key: &EntityKey,
        reached: impl Fn(Option<&ShardOwner>) -> bool + Send + Sync,
    ) -> impl Future<Output = ()> + Send;

    /// Says that an owner could not be reached where the map has it, or that the map has none: what is newer may have been
    /// missed. Returns at once; what comes of it changes the map.
    fn doubt(&self);

    /// The address of some node; of another one with every `turn`, where there are more.
    fn anyone(&self, turn: u32) -> Option<String>;

    /// The address of a connected node with a replica of `shard` that answers reads: of another one with every attempt of a
    /// request, from 0, and with every `start`, where there are more.
    fn replica(&self, shard: ShardId, start: u64, attempt: u32) -> Option<String>;

    /// The cluster, once a node has said which it is.
    fn cluster(&self) -> Option<ClusterId>;

    /// Asks the node at `address`, until `deadline` or until `given_up` completes.
    fn call(
        &self,
        address: &str,
        payload: Bytes,
        deadline: BootInstant,
        given_up: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send;

    /// The same where the answer may be long in coming, beside the requests that are answered at once.
    fn poll(
        &self,
        address: &str,
        payload: Bytes,
        deadline: BootInstant,
        given_up: impl Future<Output = ()> + Send,
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
    this: Weak<Self>,
    seams: Seams,
    config: Config,
    seeds: Seeds,
    /// Replaced as a whole, so that requests read it without waiting.
    snapshot: ArcSwap<Snapshot>,
    /// Held by whoever replaces the snapshot.
    changing: Mutex<()>,
    /// Told of news, by shard: so that news of one shard wakes only those who wait for it. Made once the number of shards
    /// is known, which never changes.
    news: OnceLock<Box<[Notify]>>,
    pushes: mpsc::Sender<Pushed>,
    /// Whether `news` is made.
    mapped: tokio::sync::watch::Sender<bool>,
    routable: tokio::sync::watch::Sender<bool>,
    /// Whether no node has been connected for a while.
    lost: AtomicBool,
    inquiry: Inquiry,
    polls: Polls,
    metrics: Arc<Metrics>,
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Addresses that are always connected, or names whose addresses are.
    pub(crate) seeds: Vec<String>,
    /// Most addresses connected at once, the seeds included.
    pub(crate) nodes_max: usize,
    pub(crate) credential: Option<String>,
    /// Where this gateway runs; nodes of the same zone are read first.
    pub(crate) zone: Option<String>,
    /// Most questions under way to one node whose answers are long in coming.
    pub(crate) polls_max: usize,
    pub(crate) client: peer::client::Config,
}

#[derive(Clone, Debug, Default)]
struct Snapshot {
    table: Arc<Table>,
    /// By address; ordered, so that a simulation repeats itself.
    clients: BTreeMap<String, Client>,
    members: Arc<Members>,
    replicas: Arc<Replicas>,
    cluster: Option<ClusterId>,
}

/// What a change of the snapshot was about.
enum Change {
    Nothing,
    /// Other things than owners.
    Other,
    /// The owners of these shards, and maybe other things.
    Owners(Vec<ShardId>),
}

/// Why a node is not listened to.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it is of cluster {said}, and this gateway serves {known}")]
    OtherCluster { known: ClusterId, said: ClusterId },
    #[error(transparent)]
    Map(#[from] router::Error),
}

/// Pushes of all nodes that wait to be taken in; more are dropped, and said again by the nodes.
const PUSHES_MAX: usize = 1024;

impl Connections {
    /// Starts to connect to the seeds, and to take in what nodes say until the connections are dropped.
    pub(crate) fn start(config: Config, seams: Seams, metrics: Arc<Metrics>) -> Arc<Self> {
        let (pushes, pushed) = mpsc::channel(PUSHES_MAX);
        let seeds = Seeds::start(&config.seeds, seeds::REFRESH_MAX, &seams);
        let changes = seeds.changes();
        let connections = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            seams: seams.clone(),
            config,
            seeds,
            snapshot: ArcSwap::default(),
            changing: Mutex::new(()),
            news: OnceLock::new(),
            pushes,
            mapped: tokio::sync::watch::Sender::new(false),
            routable: tokio::sync::watch::Sender::new(false),
            lost: AtomicBool::new(false),
            inquiry: Inquiry::default(),
            polls: Polls::default(),
            metrics,
        });
        connections.change(|_| Change::Other);
        seams.spawner.spawn(listen(Arc::downgrade(&connections), pushed));
        seams.spawner.spawn(seeds::follow(Arc::downgrade(&connections), changes));
        seams.spawner.spawn(watch::watch(Arc::downgrade(&connections), seams.clone()));
        connections
    }

    /// How many nodes are connected just now.
    pub(crate) fn connected(&self) -> usize {
        self.snapshot.load().clients.values().filter(|client| client.peer().is_some()).count()
    }

    /// Replaces the snapshot by what `change` makes of it, unless that says that nothing is new.
    fn change(&self, change: impl FnOnce(&mut Snapshot) -> Change) {
        let _changing = self.changing.lock();
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        let moved = match change(&mut snapshot) {
            Change::Nothing => return,
            Change::Other => Vec::new(),
            Change::Owners(shards) => shards,
        };
        self.connect(&mut snapshot);
        let shards = snapshot.table.shards();
        self.snapshot.store(Arc::new(snapshot));
        if let Some(shards) = shards {
            let news = self.news.get_or_init(|| (0..shards).map(|_| Notify::new()).collect());
            self.mapped.send_if_modified(|mapped| !std::mem::replace(mapped, true));
            let of_shard = |shard: &ShardId| news.get(usize::from(shard.0));
            moved.iter().filter_map(of_shard).for_each(Notify::notify_waiters);
        }
        self.judge_routable();
    }

    /// Makes the clients those of the seeds, the owners and the members, as many as are allowed. What only DNS says comes last.
    fn connect(&self, snapshot: &mut Snapshot) {
        let seeds = self.seeds.current();
        let owners = || snapshot.table.owners().map(|owner| &owner.address);
        let (configured, found) = seeds::by_rank(&seeds, &owners().chain(snapshot.members.addresses()).collect());
        let told = configured.into_iter().chain(owners()).chain(snapshot.members.addresses());
        let ranked = told.map(|address| (address, true)).chain(found.into_iter().map(|address| (address, false)));
        let mut clients = BTreeMap::new();
        for (address, is_told) in ranked {
            if clients.contains_key(address) {
                continue;
            }
            if clients.len() >= self.config.nodes_max {
                if is_told {
                    let nodes_max = self.config.nodes_max;
                    tracing::warn!(%address, nodes_max, "too many nodes: this one is not connected");
                }
                break;
            }
            let is_ours = |client: &&Client| match (snapshot.cluster, client.peer().and_then(|peer| peer.cluster)) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => true,
            };
            let known = snapshot.clients.get(address).filter(is_ours).cloned();
            let client = known.unwrap_or_else(|| self.client(address.clone(), snapshot.cluster));
            if let Some(cluster) = snapshot.cluster {
                client.belong(cluster);
            }
            clients.insert(address.clone(), client);
        }
        snapshot.clients = clients;
        self.polls.retain(|address| snapshot.clients.contains_key(address));
    }

    fn client(&self, address: String, cluster: Option<ClusterId>) -> Client {
        let (seams, config) = (self.seams.clone(), self.config.client.clone());
        Client::new(seams, config, address, Class::Data, self.identity(cluster), Some(self.pushes.clone()))
    }

    /// A connection for questions whose answers are long in coming.
    fn poll_client(&self, address: String, cluster: Option<ClusterId>) -> Client {
        let config = peer::client::Config { in_flight_max: self.config.polls_max, ..self.config.client.clone() };
        Client::new(self.seams.clone(), config, address, Class::Bulk, self.identity(cluster), None)
    }

    fn identity(&self, cluster: Option<ClusterId>) -> Identity {
        Identity {
            role: Role::Gateway,
            node: None,
            cluster,
            software: concat!("berth-gateway ", env!("CARGO_PKG_VERSION")).to_owned(),
            credential: self.config.credential.clone(),
        }
    }

    /// Takes in what a node said unasked.
    fn take_in(&self, pushed: &Pushed) {
        match peer::decode(&pushed.payload) {
            Ok(Push::Owners { shards, owners }) => self.take_in_owners(&pushed.from, shards, owners),
            Ok(Push::Members { members }) => {
                self.change_as_told(&pushed.from, |snapshot| {
                    let is_connected =
                        |address: &str| snapshot.clients.get(address).is_some_and(|client| client.peer().is_some());
                    let mut known = Members::clone(&snapshot.members);
                    if !known.hear(&pushed.from, members, is_connected) {
                        return Ok(Change::Nothing);
                    }
                    snapshot.members = Arc::new(known);
                    Ok(Change::Other)
                });
            }
            Ok(Push::Replicas { shards, readable, zone }) => {
                let is_near = zone.is_some() && zone == self.config.zone;
                self.change_as_told(&pushed.from, |snapshot| {
                    let mut known = Replicas::clone(&snapshot.replicas);
                    let is_known = |address: &str| snapshot.clients.contains_key(address);
                    // A count of shards that is not the cluster's makes nothing of it true.
                    if snapshot.table.shards() != Some(shards)
                        || !readable.fits(shards)
                        || !known.hear(&pushed.from, readable, is_near, is_known)
                    {
                        return Ok(Change::Nothing);
                    }
                    snapshot.replicas = Arc::new(known);
                    Ok(Change::Other)
                });
            }
            Err(_) => {
                self.metrics.map_refusals.increment();
                tracing::error!(node = %pushed.from, "a node pushed what is no message of this protocol version");
            }
        }
    }

    /// Takes in the owners that the node at `from` named.
    fn take_in_owners(&self, from: &str, shards: u16, owners: Vec<ShardOwner>) {
        self.change_as_told(from, |snapshot| {
            let first = snapshot.table.shards().is_none();
            let news = Arc::make_mut(&mut snapshot.table).learn(shards, owners)?;
            if news.is_empty() && !first {
                return Ok(Change::Nothing);
            }
            self.metrics.map_changes.increment();
            Ok(Change::Owners(news))
        });
    }

    /// A change that rests on what the node at `from` has said, if that is of the same cluster.
    fn change_as_told(&self, from: &str, change: impl FnOnce(&mut Snapshot) -> Result<Change, Refused>) {
        self.change(|snapshot| {
            let said = snapshot.clients.get(from).and_then(Client::peer).and_then(|peer| peer.cluster);
            let changed = match (snapshot.cluster, said) {
                (Some(known), Some(said)) if known != said => Err(Refused::OtherCluster { known, said }),
                _ => change(snapshot),
            };
            match changed {
                Err(error) => {
                    self.metrics.map_refusals.increment();
                    tracing::error!(node = %from, "a node is not listened to: {error}");
                    Change::Nothing
                }
                Ok(Change::Nothing) if snapshot.cluster.is_some() || said.is_none() => Change::Nothing,
                Ok(changed) => {
                    snapshot.cluster = snapshot.cluster.or(said);
                    if matches!(changed, Change::Nothing) { Change::Other } else { changed }
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
        // Most of what nodes name is known already; that is seen without making a snapshot.
        if self.snapshot.load().table.knows(&owner) {
            return;
        }
        self.change(|snapshot| {
            let shard = owner.shard;
            if !Arc::make_mut(&mut snapshot.table).learn_owner(owner) {
                return Change::Nothing;
            }
            self.metrics.map_changes.increment();
            Change::Owners(vec![shard])
        });
    }

    async fn until(&self, key: &EntityKey, reached: impl Fn(Option<&ShardOwner>) -> bool + Send + Sync) {
        if self.news.get().is_none() && self.mapped.subscribe().wait_for(|mapped| *mapped).await.is_err() {
            return;
        }
        let is_reached = || {
            let snapshot = self.snapshot.load();
            let (shard, owner) = snapshot.table.place(key)?;
            Some((shard, reached(owner)))
        };
        let Some((shard, _)) = is_reached() else { return };
        let Some(news) = self.news.get().and_then(|news| news.get(usize::from(shard.0))) else { return };
        loop {
            let mut changed = pin!(news.notified());
            // From here on no change goes unseen.
            changed.as_mut().enable();
            if is_reached().is_none_or(|(_, reached)| reached) {
                return;
            }
            changed.await;
        }
    }

    fn doubt(&self) {
        self.inquire();
    }

    fn anyone(&self, turn: u32) -> Option<String> {
        let snapshot = self.snapshot.load();
        let connected: Vec<_> = snapshot.clients.values().filter(|client| client.peer().is_some()).collect();
        let candidates = if connected.is_empty() { snapshot.clients.values().collect() } else { connected };
        let position = (turn as usize).checked_rem(candidates.len())?;
        candidates.get(position).map(|client| client.address().to_owned())
    }

    fn replica(&self, shard: ShardId, start: u64, attempt: u32) -> Option<String> {
        let snapshot = self.snapshot.load();
        let is_connected = |address: &str| snapshot.clients.get(address).is_some_and(|client| client.peer().is_some());
        snapshot.replicas.choose(shard, start, attempt, is_connected).cloned()
    }

    fn cluster(&self) -> Option<ClusterId> {
        let snapshot = self.snapshot.load();
        let named = || snapshot.clients.values().find_map(|client| client.peer()?.cluster);
        snapshot.cluster.or_else(named)
    }

    async fn call(
        &self,
        address: &str,
        payload: Bytes,
        deadline: BootInstant,
        given_up: impl Future<Output = ()> + Send,
    ) -> Result<Bytes, CallError> {
        // Clients are made together with the map that names them, except those over the limit.
        let client = self.snapshot.load().clients.get(address).cloned().ok_or(CallError::NotExecuted)?;
        client.call_unless(payload, deadline, given_up).await.map_err(|error| failed(address, &error))
    }

    async fn poll(
        &self,
        address: &str,
        payload: Bytes,
        deadline: BootInstant,
        given_up: impl Future<Output = ()> + Send,
    ) -> Result<Bytes, CallError> {
        let client = {
            let snapshot = self.snapshot.load();
            if !snapshot.clients.contains_key(address) {
                return Err(CallError::NotExecuted);
            }
            self.polls.client(address, || self.poll_client(address.to_owned(), snapshot.cluster))
        };
        client.call_unless(payload, deadline, given_up).await.map_err(|error| failed(address, &error))
    }
}

fn failed(address: &str, error: &peer::CallError) -> CallError {
    tracing::debug!(%address, "a call failed: {error}");
    match error {
        peer::CallError::Overloaded => CallError::Busy,
        error if error.may_have_been_executed() => CallError::MaybeExecuted,
        _ => CallError::NotExecuted,
    }
}

async fn listen(connections: Weak<Connections>, mut pushed: mpsc::Receiver<Pushed>) {
    while let Some(pushed) = pushed.recv().await {
        let Some(connections) = connections.upgrade() else { return };
        connections.take_in(&pushed);
    }
}
