//! A cluster of one shard, and what tests do to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_node::journal::{self, Journal};
use berth_node::raft::Groups;
use berth_node::record::{Fingerprint, KeyOrigin, RequestKey, Scope};
use berth_node::shard::Shard;
use berth_node::shard::command::{Answer, Command};
use berth_node::shard::executor::{self, Executor, Mailbox};
use berth_node::shard::group::Group;
use berth_node::shard::hold::Hold;
use berth_node::shard::reader::{self, Reader};
use berth_node::shard::residency::Residency;
use berth_node::store::{self, Store};
use berth_node::transport::peers::Peers;
use berth_node::transport::wire::NodeRequest;
use berth_shared::ids::{ClusterId, LogIndex, NodeId, RequestId, ShardId, Term};
use berth_shared::key::EntityKey;
use berth_shared::peer::{self, Handler, Identity, Incoming, Role};
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::telemetry::{Metrics, SIZE_COUNTS};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) use crate::asking::{Answered, Ask, Pending};
pub(crate) use crate::links::Links;

pub(crate) const SHARD: ShardId = ShardId(0);

/// Nodes by place, from 0: those that the group begins with, then others. A node that is down has its disk only.
pub(crate) struct Cluster {
    pub(crate) seams: Seams,
    pub(crate) links: Links,
    nodes: Vec<Node>,
    voters: Vec<(NodeId, String)>,
    last_request: AtomicU64,
}

struct Node {
    id: NodeId,
    disk: SimulatedDisk,
    process: Option<Process>,
    /// Processes it has had, which all have addresses of their own.
    starts: u32,
}

/// A running node.
pub(crate) struct Process {
    pub(crate) address: String,
    pub(crate) shard: Arc<Shard>,
    pub(crate) group: Arc<dyn Group>,
    pub(crate) reader: Reader,
    pub(crate) peers: Peers,
    pub(crate) journal: Journal,
    pub(crate) mailbox: Mailbox,
    pub(crate) hold: Hold,
    store: Store,
    groups: Groups,
    shutdown: CancellationToken,
}

/// Hands what nodes send to the groups, as a node's service does.
struct Service(Groups);

impl Handler for Service {
    fn handle(&self, incoming: Incoming) {
        let Incoming { payload, reply, .. } = incoming;
        match peer::decode(&payload).unwrap() {
            NodeRequest::Raft { to, shard, message } => self.0.handle(to, shard, payload.slice_ref(message), reply),
            other => panic!("{other:?} is not asked here"),
        }
    }
}

impl Cluster {
    /// Nodes that all run, of whose group the first one is to be the owner.
    pub(crate) async fn start(size: usize) -> Self {
        let mut cluster = Self::of(size);
        for place in 0..size {
            cluster.run(place).await;
        }
        cluster
    }

    /// The same, once the first one leads.
    pub(crate) async fn led_by_the_first(size: usize) -> Self {
        let cluster = Self::start(size).await;
        cluster.until("the first node leads", |cluster| cluster.term_of(0).is_some()).await;
        cluster
    }

    /// The same with `spares` more nodes that run, and begin with an empty log and without members.
    pub(crate) async fn with_spares(size: usize, spares: usize) -> Self {
        let mut cluster = Self::of(size);
        for _ in 0..spares {
            cluster.add_spare();
        }
        for place in 0..size + spares {
            cluster.run(place).await;
        }
        cluster.until("the first node leads", |cluster| cluster.term_of(0).is_some()).await;
        cluster
    }

    /// One more node, which begins with an empty log and without members. It does not run yet. Returns its place.
    pub(crate) fn add_spare(&mut self) -> usize {
        let place = self.nodes.len();
        let node = Node { id: NodeId(100 + place as u64), disk: SimulatedDisk::new(), process: None, starts: 0 };
        self.nodes.push(node);
        place
    }

    /// The node, which is down, has deleted its replica, and would begin with nothing.
    pub(crate) fn delete(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        assert!(node.process.is_none(), "the node is down");
        node.disk = SimulatedDisk::new();
        self.voters.retain(|voter| voter.0 != node.id);
    }

    /// The disk of a node that is down.
    pub(crate) fn disk(&mut self, place: usize) -> &mut SimulatedDisk {
        let node = &mut self.nodes[place];
        assert!(node.process.is_none(), "the node is down");
        &mut node.disk
    }

    /// None of the nodes runs yet.
    pub(crate) fn of(size: usize) -> Self {
        let id = |place| NodeId(100 + place as u64);
        let node = |place| Node { id: id(place), disk: SimulatedDisk::new(), process: None, starts: 0 };
        let nodes: Vec<Node> = (0..size).map(node).collect();
        let voters = nodes.iter().map(|node| (node.id, address(node.id, 1))).collect();
        Self { seams: Seams::simulated(7), links: Links::default(), nodes, voters, last_request: AtomicU64::new(0) }
    }

    /// Starts a node on its disk. Every node that runs is told its address.
    pub(crate) async fn run(&mut self, place: usize) {
        self.run_unannounced(place).await;
        let (id, process) = (self.nodes[place].id, self.node(place));
        for other in self.nodes.iter().filter_map(|node| node.process.as_ref().map(|process| (node.id, process))) {
            other.1.peers.learn(id, &process.address);
            process.peers.learn(other.0, &other.1.address);
        }
    }

    /// The same, but nobody is told.
    pub(crate) async fn run_unannounced(&mut self, place: usize) {
        let (id, disk) = (self.nodes[place].id, self.nodes[place].disk.clone());
        self.nodes[place].starts += 1;
        let address = address(id, self.nodes[place].starts);
        if let Some(voter) = self.voters.iter_mut().find(|voter| voter.0 == id) {
            voter.1.clone_from(&address);
        }
        let process = self.process(id, &address, &disk, place == 0).await;
        self.nodes[place].process = Some(process);
    }

    async fn process(&self, id: NodeId, address: &str, disk: &SimulatedDisk, first_owner: bool) -> Process {
        let seams = self.links.seams(&self.seams, address);
        let (journal, store) = open_files(disk, &seams).await.unwrap();
        let registry = Arc::new(Registry::built_in());
        let residency = Residency::new(256 << 20);
        let shard = Shard::open(SHARD, registry.clone(), store.clone(), residency, seams.clone()).unwrap();
        let software = "test".to_owned();
        let cluster = Some(ClusterId(1));
        let identity = Identity { role: Role::Node, node: Some(id), cluster, software, credential: None };
        let peers = Peers::new(seams.clone(), identity.clone());
        let groups = Groups::new(id, peers.clone(), &seams);
        let shutdown = CancellationToken::new();
        let listener = seams.network.listen(address).await.unwrap();
        let service = Arc::new(Service(groups.clone()));
        let served =
            peer::serve(seams.clone(), peer::server::Config::default(), listener, identity, service, shutdown.clone());
        seams.spawner.spawn(served);
        let founds = self.voters.iter().any(|voter| voter.0 == id);
        let voters = if founds { &self.voters[..] } else { &[] };
        let group = groups.start(shard.clone(), journal.clone(), voters, first_owner).await.unwrap();
        let metrics = Metrics::new(&[]).unwrap();
        let records = metrics.histogram("batch_records", "Records per batch.", &SIZE_COUNTS, &[]);
        let config = executor::Config { mailbox_max: 4096, batches_in_flight_max: 4, window_keys_max: 100_000 };
        let executor::Handle { mailbox, hold } =
            Executor::start(config, shard.clone(), group.clone(), records, seams.clone());
        let reader = Reader { shard: shard.clone(), group: group.clone(), registry };
        let address = address.to_owned();
        Process { address, shard, group, reader, peers, journal, mailbox, hold, store, groups, shutdown }
    }

    pub(crate) fn node(&self, place: usize) -> &Process {
        self.nodes[place].process.as_ref().expect("the node runs")
    }

    pub(crate) fn id(&self, place: usize) -> NodeId {
        self.nodes[place].id
    }

    /// Of all nodes, whether they run or not.
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The places of all nodes that run.
    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|place| self.nodes[*place].process.is_some()).collect()
    }

    /// The process is gone at once, as by kill -9: what it has written is on its disk, and its connections are reset.
    pub(crate) fn kill(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let process = node.process.take().expect("the node runs");
        // What is left of it runs on a disk of its own, and reaches nobody.
        node.disk = node.disk.process_killed();
        self.links.kill(&process.address);
        process.shutdown.cancel();
        let spawner = self.seams.spawner;
        spawner.spawn(async move {
            process.groups.stop(SHARD, &*process.group).await;
        });
    }

    /// The node stops in order.
    pub(crate) async fn stop(&mut self, place: usize) {
        let process = self.nodes[place].process.take().expect("the node runs");
        process.shutdown.cancel();
        process.groups.stop(SHARD, &*process.group).await;
        let Process { address, shard, group, reader, mailbox, hold, journal, store, groups, .. } = process;
        drop((shard, group, reader, mailbox, hold, groups));
        store.close().await.unwrap();
        journal.close().await;
        self.links.kill(&address);
    }

    /// Nothing passes between the node and the others.
    pub(crate) fn cut_off(&self, place: usize) {
        for other in self.running() {
            if other != place {
                self.links.cut(&self.node(place).address, &self.node(other).address);
            }
        }
    }

    pub(crate) fn rejoin(&self, place: usize) {
        for other in self.running() {
            if other != place {
                self.links.mend(&self.node(place).address, &self.node(other).address);
            }
        }
    }

    /// What `to` has answered before the link was cut, and `from` has not read, arrives now. What `to` itself asks does not.
    pub(crate) fn deliver_answers(&self, from: usize, to: usize) {
        self.links.mend_connections(&self.node(from).address, &self.node(to).address);
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.seams.spawner.sleep(time).await;
    }

    pub(crate) fn now(&self) -> BootInstant {
        self.seams.clock.now()
    }

    /// Waits, a minute at most, until `holds`, and returns how long that took.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let from = self.now();
        while !holds(self) {
            assert!(self.now().since(from) < Duration::from_secs(60), "it did not come about that {what}");
            self.sleep(Duration::from_millis(1)).await;
        }
        self.now().since(from)
    }

    /// The term in which the node leads and may decide.
    pub(crate) fn term_of(&self, place: usize) -> Option<Term> {
        self.node(place).group.term()
    }

    /// A node other than `not` that holds a lease.
    pub(crate) fn leader_but(&self, not: Option<usize>) -> Option<usize> {
        let leads = |place: &usize| self.term_of(*place).is_some_and(|term| self.node(*place).group.holds_lease(term));
        self.running().into_iter().filter(|place| Some(*place) != not).find(leads)
    }

    /// A node that holds a lease, once there is one.
    pub(crate) async fn leader(&self) -> usize {
        self.until("there is a leader", |cluster| cluster.leader_but(None).is_some()).await;
        self.leader_but(None).expect("it was there a moment ago")
    }

    pub(crate) fn send(&self, place: usize, ask: &Ask<'_>) -> Pending {
        let number = self.last_request.fetch_add(1, Ordering::Relaxed);
        let process = self.node(place);
        let (command, answer) = command(&self.seams, process.shard.registry(), number, ask);
        assert!(process.mailbox.try_send(command).is_ok(), "the mailbox takes it");
        answer
    }

    /// Sends a command to the node and waits for its answer, 5 s at most.
    pub(crate) async fn ask(&self, place: usize, ask: Ask<'_>) -> Answered {
        let pending = self.send(place, &ask);
        let answer = self.seams.spawner.timeout(Duration::from_secs(5), pending.0).await;
        answer.expect("it is answered in time").unwrap_or(Answered::Abandoned)
    }

    /// Increments a counter as often, through whoever leads, one after the other.
    pub(crate) async fn increment(&self, id: &str, times: usize) {
        let leader = self.leader().await;
        for _ in 0..times {
            let answer = self.ask(leader, Ask::increment(id)).await;
            assert!(matches!(answer, Answered::Executed { .. }), "{answer:?}");
        }
    }

    /// The same with all of them under way together.
    pub(crate) async fn increment_at_once(&self, id: &str, times: usize) {
        let leader = self.leader().await;
        let pending: Vec<_> = (0..times).map(|_| self.send(leader, &Ask::increment(id))).collect();
        for answer in pending {
            let answer = answer.0.await;
            assert!(matches!(answer, Ok(Answered::Executed { .. })), "{answer:?}");
        }
    }

    /// A counter's state and version at the node, if it may read.
    pub(crate) async fn read(&self, place: usize, id: &str) -> Result<(u64, String), reader::Error> {
        let key = EntityKey::new("counter", id).unwrap();
        let current = self.node(place).reader.read(&key).await?;
        Ok((current.version, String::from_utf8(current.state.to_vec()).unwrap()))
    }

    /// What the node has applied of a counter, whoever leads.
    pub(crate) async fn applied(&self, place: usize, id: &str) -> Option<u64> {
        let key = EntityKey::new("counter", id).unwrap();
        let loaded = self.node(place).shard.load(vec![key.clone()]).await.unwrap();
        loaded.get(&key).map(|resident| resident.version)
    }

    pub(crate) fn applied_index(&self, place: usize) -> LogIndex {
        self.node(place).shard.machine().head().applied.map_or(0, |applied| applied.index)
    }

    /// The first entry that the node's log still has.
    pub(crate) fn log_begins(&self, place: usize) -> LogIndex {
        self.node(place).journal.log_state(SHARD).last_purged.map_or(0, |purged| purged.index + 1)
    }

    /// Waits until all running nodes have applied the same, and checks that it is the same (promise 7).
    pub(crate) async fn agree(&self) {
        self.until("all have applied the same entries", |cluster| {
            let indexes: Vec<LogIndex> = cluster.running().iter().map(|place| cluster.applied_index(*place)).collect();
            indexes.windows(2).all(|pair| pair[0] == pair[1]) && indexes.iter().all(|index| *index > 0)
        })
        .await;
        let mut hashes = BTreeMap::new();
        for place in self.running() {
            let machine = self.node(place).shard.machine();
            let head = machine.head();
            hashes.entry((head.applied, head.content_hash)).or_insert_with(Vec::new).push(place);
        }
        assert_eq!(hashes.len(), 1, "replicas differ: {hashes:?}");
    }
}

/// Journal and store of a node.
pub(crate) async fn open_files(disk: &SimulatedDisk, seams: &Seams) -> Result<(Journal, Store), String> {
    // After a power cut, which the caller knows of, everything fails.
    let fatal = |disk: &SimulatedDisk| {
        let disk = disk.clone();
        Arc::new(move |line: &str| assert!(disk.power_is_off(), "{line}"))
    };
    let journal_config = journal::Config { fatal: fatal(disk), ..Default::default() };
    let journal = Journal::open(disk, journal_config, seams.clone()).await.map_err(|error| error.to_string())?;
    let store_config = store::Config { fatal: fatal(disk), ..Default::default() };
    let flushed: store::JournalFlushed = {
        let journal = journal.clone();
        Arc::new(move || {
            let journal = journal.clone();
            Box::pin(async move { journal.flushed().await })
        })
    };
    let store = Store::open(disk, flushed, store_config, seams.clone()).await.map_err(|error| error.to_string())?;
    Ok((journal, store))
}

/// A command as an executor takes it, and where its answer comes. `number` stands for what a test does not say.
pub(crate) fn command(seams: &Seams, registry: &Registry, number: u64, ask: &Ask<'_>) -> (Command, Pending) {
    let (sender, answer) = oneshot::channel();
    let kind = registry.get(ask.kind).unwrap();
    let key = EntityKey::new(ask.kind, ask.id).unwrap();
    let own_key = format!("made-{number}");
    let idempotency_key = ask.key.unwrap_or(&own_key);
    let made_now = KeyOrigin::Gateway { created_micros: seams.clock.wall_micros() };
    let origin = ask.origin.unwrap_or(if ask.key.is_some() { KeyOrigin::Client } else { made_now });
    let command = Command {
        kind: kind.clone(),
        action: ask.action(kind.as_ref()),
        precondition: ask.precondition.clone(),
        principal: String::new(),
        request: RequestKey {
            scope: Scope::new("", &key, idempotency_key),
            fingerprint: Fingerprint::new(ask.command, ask.body.as_bytes(), b""),
            origin,
        },
        request_id: RequestId(ask.request_id.unwrap_or(1_000_000 + u128::from(number))),
        attempt: ask.attempt,
        wants_state: true,
        deadline: seams.clock.now() + ask.time,
        // Nobody listens any more where a test has dropped its end.
        answer: Answer::new(move |response| drop(sender.send(Answered::from(response)))),
        key,
    };
    (command, Pending(answer))
}

fn address(id: NodeId, start: u32) -> String {
    format!("node-{}-{start}:7400", id.0)
}
