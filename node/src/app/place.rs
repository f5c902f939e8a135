//! A node's parts once it has a cluster: made here, and handed to whoever works with them.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::peer;
use berth_shared::report::{Load, NodeState};

use super::replicas::{Parts, Replicas};
use super::stages::Node;
use super::{Error, announce, observe};
use crate::cluster::identity::Identity;
use crate::cluster::membership::{Facts, Gossip, Here};
use crate::cluster::plans::Plans;
use crate::cluster::reconcile::Moves;
use crate::cluster::system;
use crate::config::{Config, SOFTWARE};
use crate::disk::Disk;
use crate::journal::{self, Journal};
use crate::raft::Groups;
use crate::replica_files;
use crate::report::{About, Reporter};
use crate::shard::executor;
use crate::shard::residency::Residency;
use crate::store::{self, Store};
use crate::transport::hosting::{Hosted, Hosting};
use crate::transport::owners::Owners;
use crate::transport::peers::Peers;

#[derive(Debug)]
pub(crate) struct Place {
    /// As it was when the node found its cluster.
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterId,
    pub(crate) journal: Journal,
    pub(crate) peers: Peers,
    pub(crate) owners: Arc<Owners>,
    pub(crate) hosting: Arc<Hosting>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) gossip: Arc<dyn Gossip>,
    pub(crate) plans: Plans,
    pub(crate) moves: Arc<Moves>,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) groups: Groups,
    /// Set for good once the node has been ready.
    pub(crate) was_ready: AtomicBool,
    /// Set for good once it is to give everything away.
    pub(crate) leaves: AtomicBool,
    pub(super) store: Store,
    residency: Arc<Residency>,
    marks: Marks,
}

/// What the data directory is to remember from now on.
#[derive(Debug)]
struct Marks {
    /// Not held: whoever has begun the node gives the directory free when it has ended.
    disk: Weak<dyn Disk>,
    identity: Mutex<Identity>,
}

impl Place {
    /// Estimated bytes of entities in memory.
    pub(super) fn resident_bytes(&self) -> usize {
        self.residency.bytes()
    }

    /// Replicas on this node, that of the system shard included.
    pub(super) fn replica_count(&self) -> usize {
        self.hosting.all().len() + usize::from(self.hosting.system().is_some())
    }

    /// How many of the shards that this node leads do not have exactly the voters that the plan wants, all of them live.
    pub(super) fn unsettled(&self) -> u32 {
        let Some(plan) = self.plans.newest() else { return 0 };
        let connected = self.peers.connected();
        let is_live = |node: NodeId| node == self.identity.node || connected.binary_search(&node).is_ok();
        let is_unsettled = |hosted: &&Arc<Hosted>| {
            hosted.group.term().is_some()
                && !announce::is_settled(&plan, hosted.shard.id(), &hosted.group.status(), is_live)
        };
        let (all, system) = (self.hosting.all(), self.hosting.system());
        all.iter().chain(&system).filter(is_unsettled).count() as u32
    }

    /// Changes what the data directory remembers, before this returns. Blocks.
    pub(super) fn mark(&self, change: impl FnOnce(&mut Identity)) -> Result<(), Error> {
        let mut identity = self.marks.identity.lock();
        let mut changed = identity.clone();
        change(&mut changed);
        if changed != *identity {
            let Some(disk) = self.marks.disk.upgrade() else { return Ok(()) };
            changed.write(&*disk)?;
            *identity = changed;
        }
        Ok(())
    }
}

impl Node {
    /// Opens journal and store, ends what a crash has left half deleted, and prepares for the others and for gateways.
    pub(super) async fn take_place(&self, identity: Identity, cluster: ClusterId) -> Result<Arc<Place>, Error> {
        let (config, seams) = (&self.config, &self.seams);
        let journal = Journal::open(&*self.disk, journal_config(config), seams.clone()).await?;
        let store = Store::open(&*self.disk, journal_barrier(&journal), store_config(config), seams.clone()).await?;
        replica_files::finish_deletions(&journal, &store).await?;
        observe::files(&self.metrics, &journal, &store);
        let peers = Peers::new(seams.clone(), self.speaker(cluster));
        let groups = Groups::new(identity.node, peers.clone(), seams);
        let owners =
            Owners::new(identity.node, config.address().to_owned(), config.cluster.shards, config.zone.clone());
        let hosting = Hosting::new(config.cluster.shards);
        observe::shards(&self.metrics, &owners, &hosting);
        let residency = Residency::new(config.shard.resident_bytes_max.as_usize());
        observe::residency(&self.metrics, &residency);
        for member in identity.record().into_iter().flat_map(|record| &record.members) {
            peers.learn(member.node, &member.address);
        }
        let (plans, moves) = (Plans::default(), Arc::new(Moves::default()));
        observe::moves(&self.metrics, &moves);
        let gossip = self.gossip(&identity, cluster, &peers);
        let reporter = self.reporter(cluster, &owners, &hosting, &plans, &moves, &gossip);
        let replicas = Replicas::new(Parts {
            node: identity.node,
            executor: executor_config(config),
            registry: self.registry.clone(),
            system_registry: Arc::new(system::registry()?),
            journal: journal.clone(),
            store: store.clone(),
            groups: groups.clone(),
            residency: residency.clone(),
            owners: owners.clone(),
            hosting: hosting.clone(),
            peers: peers.clone(),
            batch_records: self.metrics.batch_records.clone(),
            moves_max: config.cluster.moves_per_node,
            seams: seams.clone(),
        });
        let marks = Marks { disk: Arc::downgrade(&self.disk), identity: Mutex::new(identity.clone()) };
        Ok(Arc::new(Place {
            was_ready: AtomicBool::new(identity.was_ready),
            leaves: AtomicBool::new(false),
            identity,
            cluster,
            journal,
            peers,
            owners,
            hosting,
            reporter,
            gossip,
            plans,
            moves,
            replicas: Arc::new(replicas),
            groups,
            store,
            residency,
            marks,
        }))
    }

    fn reporter(
        &self,
        cluster: ClusterId,
        owners: &Arc<Owners>,
        hosting: &Arc<Hosting>,
        plans: &Plans,
        moves: &Arc<Moves>,
        gossip: &Arc<dyn Gossip>,
    ) -> Arc<Reporter> {
        let (node, address) = (self.identity.node, self.config.address().to_owned());
        let (owners, stage) = (owners.clone(), self.stage.subscribe());
        let (gossip, clock, plan) = (gossip.members(), self.seams.clock.clone(), plans.watch());
        let about = move || About {
            node,
            cluster,
            address: address.clone(),
            state: stage.borrow().state(),
            plan: plan.borrow().clone(),
            members: owners.members(),
            sightings: gossip.borrow().sightings(&*clock),
        };
        Arc::new(Reporter::new(about, hosting.clone(), moves.clone()))
    }

    /// Begins to gossip, with whoever is at a seed or was there when the cluster began.
    fn gossip(&self, identity: &Identity, cluster: ClusterId, peers: &Peers) -> Arc<dyn Gossip> {
        let founders = identity.record().into_iter().flat_map(|record| &record.members);
        let mut seeds = self.config.bootstrap().seeds;
        seeds.extend(founders.map(|member| member.address.clone()));
        seeds.sort();
        seeds.dedup();
        let (node, address) = (identity.node, identity.address.clone());
        let here =
            Here { node, cluster, address: address.clone(), seeds, peers: peers.clone(), seams: self.seams.clone() };
        let facts = Facts {
            address,
            zone: self.config.zone.clone(),
            state: NodeState::Joining,
            plan: 0,
            unsettled: 0,
            weight: self.config.weight(),
            version: SOFTWARE.to_owned(),
            load: Load::default(),
            led: Vec::new(),
            system: None,
        };
        self.membership.join(here, facts)
    }

    /// What this node says of itself to its peers.
    pub(super) fn speaker(&self, cluster: ClusterId) -> peer::Identity {
        peer::Identity {
            role: peer::Role::Node,
            node: Some(self.identity.node),
            cluster: Some(cluster),
            software: SOFTWARE.to_owned(),
            credential: self.config.peer.credential(),
        }
    }
}

fn journal_barrier(journal: &Journal) -> store::JournalFlushed {
    let journal = journal.clone();
    Arc::new(move || {
        let journal = journal.clone();
        Box::pin(async move { journal.flushed().await })
    })
}

fn journal_config(config: &Config) -> journal::Config {
    let journal = &config.journal;
    journal::Config {
        cache_bytes: journal.cache_size.as_usize(),
        tail_bytes_max: journal.tail_size.as_usize(),
        queue_bytes_max: journal.queue_size.as_usize(),
        size_bytes_max: journal.live_size.0,
        ..journal::Config::default()
    }
}

fn store_config(config: &Config) -> store::Config {
    let store = &config.store;
    store::Config {
        cache_bytes: store.cache_size.as_usize(),
        queue_bytes_max: store.queue_size.as_usize(),
        flush_interval: store.flush_interval.0,
        checkpoint_interval: store.checkpoint_interval.0,
        ..store::Config::default()
    }
}

fn executor_config(config: &Config) -> executor::Config {
    executor::Config {
        mailbox_max: config.shard.mailbox_max,
        batches_in_flight_max: config.shard.batches_in_flight_max,
        window_keys_max: config.shard.window_keys_max,
    }
}
