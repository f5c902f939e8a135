//! Whole nodes on a network in memory, as far as bootstrap goes: each has a disk that may lose power at any write, is started,
//! killed and started again, and reaches only whom it is allowed to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::ClusterId;
use berth_shared::peer;
use berth_shared::seam::Seams;
use berth_shared::seam::dns::{MemoryResolver, Resolver};
use berth_shared::seam::network::{Listener, MemoryNetwork, Network, Stream};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::answerer::Service;
use super::super::{Config, Error, InitRecord, Joined, Settings, run};
use crate::cluster::identity::{self, Identity, Role};
use crate::disk::{Disk, SimulatedDisk};

/// The network as one node sees it.
#[derive(Clone)]
struct Line {
    from: String,
    network: MemoryNetwork,
    /// Pairs that cannot connect, one way.
    cut: Arc<Mutex<BTreeSet<(String, String)>>>,
    /// Other names of addresses.
    names: Arc<Mutex<BTreeMap<String, String>>>,
    dns: Option<MemoryResolver>,
}

impl Network for Line {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        if self.cut.lock().contains(&(self.from.clone(), address.to_owned())) {
            let error = io::Error::new(io::ErrorKind::HostUnreachable, "the line is cut");
            return Box::pin(std::future::ready(Err(error)));
        }
        let names = self.names.lock();
        let address = names.get(address).cloned().unwrap_or_else(|| address.to_owned());
        let network = self.network.clone();
        Box::pin(async move { network.connect(&address).await })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.network.listen(address)
    }

    fn resolver(&self) -> Option<&dyn Resolver> {
        self.dns.as_ref().map(|dns| dns as &dyn Resolver)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({})", self.from)
    }
}

/// The nodes of one test and what is between them.
pub(super) struct World {
    pub(super) seams: Seams,
    network: MemoryNetwork,
    cut: Arc<Mutex<BTreeSet<(String, String)>>>,
    names: Arc<Mutex<BTreeMap<String, String>>>,
    pub(super) dns: Option<MemoryResolver>,
    pub(super) machines: Vec<Machine>,
}

pub(super) struct Machine {
    pub(super) disk: SimulatedDisk,
    pub(super) config: Config,
    address: String,
    seams: Seams,
    task: Option<JoinHandle<Result<(), Error>>>,
}

impl World {
    /// `count` machines that are not started, all of them seeds, with empty disks.
    pub(super) fn new(seed: u64, count: usize, expect: usize) -> Self {
        let (seams, network) = (Seams::simulated(seed), MemoryNetwork::default());
        let (cut, names) = (Arc::default(), Arc::default());
        let mut world = Self { seams, network, cut, names, dns: None, machines: Vec::new() };
        let seeds: Vec<String> = (0..count).map(address).collect();
        for number in 0..count {
            world.add(address(number), seeds.clone(), expect);
        }
        world
    }

    /// The same with one name as the only seed of all, which has no address yet. What DNS says is believed for a while.
    pub(super) fn named(seed: u64, count: usize, expect: usize) -> Self {
        let mut world = Self::new(seed, 0, 0);
        world.dns = Some(MemoryResolver::new(Duration::from_millis(world.below(6_000))));
        for number in 0..count {
            world.add(format!("{}:7400", ip(number)), vec![SEED_NAME.to_owned()], expect);
        }
        world
    }

    /// From now on the name of the seeds has the addresses of these machines.
    pub(super) fn list(&self, machines: impl IntoIterator<Item = usize>) {
        self.list_addresses(machines.into_iter().map(ip));
    }

    pub(super) fn list_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.dns.as_ref().expect("a world with DNS").set(SEED_HOST, addresses);
    }

    pub(super) fn add(&mut self, address: String, seeds: Vec<String>, expect: usize) -> usize {
        let line = Line {
            from: address.clone(),
            network: self.network.clone(),
            cut: self.cut.clone(),
            names: self.names.clone(),
            dns: self.dns.clone(),
        };
        let settings = Settings { shards: 64, replicas: 3, expect: expect as u16 };
        let config = Config { seeds, settings, init: None, credential: None, software: "test".to_owned() };
        let seams = Seams { network: Arc::new(line), ..self.seams.clone() };
        self.machines.push(Machine { disk: SimulatedDisk::new(), config, address, seams, task: None });
        self.machines.len() - 1
    }

    /// Gives a machine's address another name as well.
    pub(super) fn rename(&self, number: usize, name: &str) {
        self.names.lock().insert(name.to_owned(), self.machines[number].address.clone());
    }

    pub(super) async fn pass(&self, time: Duration) {
        self.seams.spawner.sleep(time).await;
    }

    pub(super) fn below(&self, choices: u64) -> u64 {
        self.seams.random.next_u64() % choices
    }

    pub(super) fn set_cut(&self, one: usize, other: usize, is_cut: bool) {
        let mut cut = self.cut.lock();
        for (from, to) in [(one, other), (other, one)] {
            let pair = (self.machines[from].address.clone(), self.machines[to].address.clone());
            if is_cut {
                cut.insert(pair);
            } else {
                cut.remove(&pair);
            }
        }
    }

    pub(super) fn heal(&self) {
        self.cut.lock().clear();
    }

    pub(super) fn start(&mut self, number: usize) {
        self.machines[number].start();
    }

    pub(super) fn start_all(&mut self) {
        self.machines.iter_mut().for_each(Machine::start);
    }

    /// Starts machines again that lost their power, with what a power cut left on their disks.
    pub(super) async fn restart_after_power_cuts(&mut self) {
        for number in 0..self.machines.len() {
            if self.machines[number].disk.power_is_off() {
                let seed = self.seams.random.next_u64();
                let machine = &mut self.machines[number];
                machine.kill().await;
                machine.disk = machine.disk.power_cut(seed);
                machine.start();
            }
        }
    }

    /// What the disks say, without a node that never wrote.
    pub(super) fn identities(&self) -> Vec<Identity> {
        self.machines.iter().filter_map(Machine::identity).collect()
    }

    pub(super) fn clusters(&self) -> BTreeSet<ClusterId> {
        self.identities().iter().filter_map(|identity| identity.cluster).collect()
    }

    pub(super) fn all_joined(&self) -> bool {
        let identities = self.identities();
        identities.len() == self.machines.len() && identities.iter().all(|identity| identity.cluster.is_some())
    }

    /// Whether every machine is part of a cluster before `time` is up.
    pub(super) async fn joins_within(&mut self, time: Duration) -> bool {
        let deadline = self.seams.clock.now() + time;
        while !self.all_joined() {
            if self.seams.clock.now() >= deadline {
                return false;
            }
            self.pass(Duration::from_millis(50)).await;
            self.restart_after_power_cuts().await;
        }
        true
    }

    /// The record that all machines began with: the same one, of all of them.
    pub(super) fn common_record(&self) -> InitRecord {
        let identities = self.identities();
        let records: Vec<&InitRecord> = identities.iter().filter_map(Identity::record).collect();
        assert_eq!(records.len(), self.machines.len(), "{identities:?}");
        assert!(records.iter().all(|record| *record == records[0]), "{records:?}");
        assert!(identities.iter().all(|identity| identity.role() == Some(Role::Member)));
        let mut members: Vec<_> = identities.iter().map(|identity| identity.node).collect();
        members.sort_unstable();
        assert_eq!(records[0].members.iter().map(|member| member.node).collect::<Vec<_>>(), members);
        records[0].clone()
    }
}

impl Machine {
    pub(super) fn start(&mut self) {
        assert!(!self.is_running());
        let (address, disk, config, seams) =
            (self.address.clone(), Arc::new(self.disk.clone()), self.config.clone(), self.seams.clone());
        self.task = Some(self.seams.spawner.spawn(live(address, disk, config, seams)));
    }

    pub(super) fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// As kill -9 would. What it has written stays.
    pub(super) async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// A new machine at the old address.
    pub(super) async fn lose_disk(&mut self) {
        self.kill().await;
        self.disk = SimulatedDisk::new();
    }

    /// Why the node ended by itself.
    pub(super) async fn failure(&mut self) -> Error {
        self.task.take().expect("it was started").await.expect("it was not killed").expect_err("it ended")
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        let disk = if self.disk.power_is_off() { self.disk.process_killed() } else { self.disk.clone() };
        let bytes = disk.read_small(identity::FILE).unwrap()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.identity()?.cluster
    }
}

/// What the machines of [`World::named`] have among their seeds.
const SEED_HOST: &str = "nodes.test";
pub(super) const SEED_NAME: &str = "nodes.test:7400";

/// Where a machine of [`World::named`] is, at port 7400.
pub(super) fn ip(number: usize) -> IpAddr {
    [10, 0, 0, number as u8].into()
}

pub(super) fn address(number: usize) -> String {
    format!("n{number}:7400")
}

/// A node that does nothing but what this room does: it finds its cluster and then answers those who have not.
async fn live(address: String, disk: Arc<SimulatedDisk>, config: Config, seams: Seams) -> Result<(), Error> {
    let identity = Identity::open(&*disk, &*seams.random, &address, &[])?;
    let listener = seams.network.listen(&address).await.map_err(identity::Error::Disk)?;
    let credential = config.credential.clone();
    let Joined { identity, cluster, listener, answerer, .. } =
        run(config, identity, disk, listener, seams.clone()).await?;
    let speaker = peer::Identity {
        role: peer::Role::Node,
        node: Some(identity.node),
        cluster: Some(cluster),
        software: "test".to_owned(),
        credential,
    };
    let (server, service) = (peer::server::Config::default(), Arc::new(Service(answerer)));
    peer::serve(seams, server, listener, speaker, service, CancellationToken::new()).await;
    Ok(())
}
