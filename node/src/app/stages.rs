//! The life of a node once its ports are taken: it finds its cluster, opens its files, takes part in the system shard, hosts
//! the shards that the plan gives it, and at the end takes everything apart again.

use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::peer;
use berth_shared::report::{Load, Member, NodeState};
use berth_shared::seam::Seams;
use berth_shared::seam::network::Listener;
use berth_shared::telemetry::Tracing;

use super::announce::{self, Announcer};
use super::{Error, compaction, observe};
use crate::cluster::bootstrap::{self, Answerer, InitRecord, Joined};
use crate::cluster::identity::{Identity, Role};
use crate::cluster::membership::{self, Facts, Gossip, Here};
use crate::cluster::plan::Plan;
use crate::cluster::plans::{self, Plans};
use crate::cluster::system::{self, SYSTEM_SHARD};
use crate::config::{Config, SOFTWARE};
use crate::disk::Disk;
use crate::entity::Registry;
use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::raft::Groups;
use crate::report::{About, Reporter};
use crate::shard::Shard;
use crate::shard::executor::{self, Executor};
use crate::shard::group::Group;
use crate::shard::reader::Reader;
use crate::shard::residency::Residency;
use crate::store::{self, Store};
use crate::transport::backlog::Backlog;
use crate::transport::hosting::{Hosted, Hosting};
use crate::transport::owners::Owners;
use crate::transport::peers::Peers;
use crate::transport::service::Service;

/// How far a node has come.
#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    /// It looks for its cluster.
    #[default]
    Alone,
    /// It is part of a cluster, and hosts no shards yet.
    Joined(Arc<Place>),
    /// It hosts the shards that the plan gives it.
    Hosting(Arc<Place>),
    /// It is told to stop.
    Leaving(Arc<Place>),
}

/// A node's parts once it has a cluster.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) identity: Identity,
    pub(crate) cluster: ClusterId,
    pub(crate) journal: Journal,
    pub(crate) peers: Peers,
    pub(crate) owners: Arc<Owners>,
    pub(crate) hosting: Arc<Hosting>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) gossip: Arc<dyn Gossip>,
    pub(crate) plans: Plans,
    store: Store,
    groups: Groups,
    residency: Arc<Residency>,
}

impl Place {
    /// Estimated bytes of entities in memory.
    pub(super) fn resident_bytes(&self) -> usize {
        self.residency.bytes()
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
}

impl Stage {
    /// Ready is a node whose replicas all serve, that of the system shard as well.
    pub(crate) fn state(&self) -> NodeState {
        let place = match self {
            Self::Alone | Self::Joined(_) => return NodeState::Joining,
            Self::Hosting(place) => place,
            Self::Leaving(_) => return NodeState::Leaving,
        };
        let serves = |hosted: &Arc<Hosted>| hosted.group.is_serving();
        if place.hosting.all().iter().chain(&place.hosting.system()).all(serves) {
            NodeState::Ready
        } else {
            NodeState::Recovering
        }
    }

    pub(crate) fn place(&self) -> Option<&Arc<Place>> {
        match self {
            Self::Alone => None,
            Self::Joined(place) | Self::Hosting(place) | Self::Leaving(place) => Some(place),
        }
    }
}

/// What a node works with, whatever stage it is in.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) registry: Arc<Registry>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) membership: Arc<dyn membership::Engine>,
    pub(super) seams: Seams,
    pub(super) tracing: Tracing,
    pub(super) identity: Identity,
    pub(super) metrics: Metrics,
    /// Dropped when the node has ended, in whatever way.
    pub(super) stage: watch::Sender<Stage>,
    pub(super) shutdown: CancellationToken,
    /// Cancelled after `shutdown`, when the others have heard of it: the node answers until then.
    pub(super) closing: CancellationToken,
}

/// What has been started and must be stopped.
#[derive(Default)]
struct Running {
    server: Option<JoinHandle<()>>,
    place: Option<Arc<Place>>,
}

impl Node {
    /// Until it is told to stop, or cannot go on. Whichever it is, everything is stopped and closed afterwards.
    pub(super) async fn run(self, listener: Box<dyn Listener>) -> Result<(), Error> {
        let mut running = Running::default();
        let lived = self.live(listener, &mut running).await;
        self.shutdown.cancel();
        if let Some(place) = &running.place {
            self.stage.send_replace(Stage::Leaving(place.clone()));
            let load = Load::default();
            place.gossip.leave(announce::facts(place, &self.config, NodeState::Leaving, load)).await;
        }
        self.closing.cancel();
        running.stop().await;
        lived
    }

    async fn live(&self, listener: Box<dyn Listener>, running: &mut Running) -> Result<(), Error> {
        let (identity, disk) = (self.identity.clone(), self.disk.clone());
        let joining = bootstrap::run(self.config.bootstrap(), identity, disk, listener, self.seams.clone());
        let Some(joined) = self.shutdown.run_until_cancelled(joining).await.transpose()? else { return Ok(()) };
        let Joined { identity, cluster, role, listener, answerer } = joined;
        let place = self.take_place(identity, cluster).await?;
        running.place = Some(place.clone());
        running.server = Some(self.serve(listener, &place, answerer));
        self.seams.spawner.spawn(place.owners.clone().repeat(self.seams.clone(), self.shutdown.clone()));
        self.stage.send_replace(Stage::Joined(place.clone()));
        self.announce(&place);
        tracing::info!(node = %place.identity.node, cluster = %place.cluster, ?role, "the node has its cluster");
        if let (Role::Member, Some(record)) = (role, place.identity.record()) {
            let Some(plan) = self.find_plan(&place, record).await? else { return Ok(()) };
            self.host_planned(&place, &plan).await?;
            self.stage.send_replace(Stage::Hosting(place.clone()));
            self.compact(&place);
        }
        self.shutdown.cancelled().await;
        Ok(())
    }

    /// Opens journal and store, and prepares for the others and for gateways.
    async fn take_place(&self, identity: Identity, cluster: ClusterId) -> Result<Arc<Place>, Error> {
        let (config, seams) = (&self.config, &self.seams);
        let journal = Journal::open(&*self.disk, journal_config(config), seams.clone()).await?;
        let store = Store::open(&*self.disk, journal_barrier(&journal), store_config(config), seams.clone()).await?;
        observe::files(&self.metrics, &journal, &store);
        let peers = Peers::new(seams.clone(), self.speaker(cluster));
        let groups = Groups::new(identity.node, peers.clone(), seams);
        let owners = Owners::new(identity.node, config.address().to_owned(), config.cluster.shards);
        let hosting = Hosting::new(config.cluster.shards);
        observe::shards(&self.metrics, &owners, &hosting);
        let residency = Residency::new(config.shard.resident_bytes_max.as_usize());
        observe::residency(&self.metrics, &residency);
        for member in identity.record().into_iter().flat_map(|record| &record.members) {
            peers.learn(member.node, &member.address);
        }
        let plans = Plans::default();
        let gossip = self.gossip(&identity, cluster, &peers);
        let reporter = self.reporter(cluster, &owners, &hosting, &plans, &gossip);
        Ok(Arc::new(Place {
            identity,
            cluster,
            journal,
            peers,
            owners,
            hosting,
            reporter,
            gossip,
            plans,
            store,
            groups,
            residency,
        }))
    }

    fn reporter(
        &self,
        cluster: ClusterId,
        owners: &Arc<Owners>,
        hosting: &Arc<Hosting>,
        plans: &Plans,
        gossip: &Arc<dyn Gossip>,
    ) -> Arc<Reporter> {
        let (node, address) = (self.identity.node, self.config.address().to_owned());
        let (owners, plans, stage) = (owners.clone(), plans.clone(), self.stage.subscribe());
        let (gossip, clock) = (gossip.members(), self.seams.clock.clone());
        let about = move || About {
            node,
            cluster,
            address: address.clone(),
            state: stage.borrow().state(),
            plan_epoch: plans.epoch(),
            members: owners.members(),
            sightings: gossip.borrow().sightings(&*clock),
        };
        Arc::new(Reporter::new(about, hosting.clone()))
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
        };
        self.membership.join(here, facts)
    }

    /// Keeps what gossip says of this node true, and hears what it says of others.
    fn announce(&self, place: &Arc<Place>) {
        let announcer = Announcer {
            place: place.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            stage: self.stage.subscribe(),
            seams: self.seams.clone(),
        };
        let (spawner, shutdown) = (self.seams.spawner, &self.shutdown);
        spawner.spawn(shutdown.clone().run_until_cancelled_owned(announcer.run()));
        spawner.spawn(shutdown.clone().run_until_cancelled_owned(announce::follow(place.clone())));
        let (plans, members) = (place.plans.clone(), place.gossip.members());
        let pull = plans::pull(plans, members, place.peers.clone(), self.seams.clone());
        spawner.spawn(shutdown.clone().run_until_cancelled_owned(pull));
        spawner.spawn(shutdown.clone().run_until_cancelled_owned(pass_on(place.plans.watch(), place.clone())));
    }

    /// What this node says of itself to its peers.
    fn speaker(&self, cluster: ClusterId) -> peer::Identity {
        peer::Identity {
            role: peer::Role::Node,
            node: Some(self.identity.node),
            cluster: Some(cluster),
            software: SOFTWARE.to_owned(),
            credential: self.config.credential.clone(),
        }
    }

    /// Serves gateways and other nodes; returns the server's task.
    fn serve(&self, listener: Box<dyn Listener>, place: &Arc<Place>, answerer: Answerer) -> JoinHandle<()> {
        let service = Service {
            seams: self.seams.clone(),
            tracing: self.tracing,
            registry: self.registry.clone(),
            hosting: place.hosting.clone(),
            owners: place.owners.clone(),
            metrics: self.metrics.clone(),
            journal: place.journal.clone(),
            backlog: Backlog::new(self.config.shard.commands_size.as_usize()),
            groups: place.groups.clone(),
            answerer,
            reporter: place.reporter.clone(),
            gossip: place.gossip.clone(),
            plans: place.plans.clone(),
        };
        let (config, speaker) = (peer::server::Config::default(), self.speaker(place.cluster));
        let (seams, closing) = (self.seams.clone(), self.closing.clone());
        self.seams.spawner.spawn(peer::serve(seams, config, listener, speaker, Arc::new(service), closing))
    }

    /// Takes part in the system shard and waits for a plan in it; nothing when told to stop before.
    async fn find_plan(&self, place: &Arc<Place>, record: &InitRecord) -> Result<Option<Arc<Plan>>, Error> {
        let (seams, shutdown) = (&self.seams, &self.shutdown);
        let registry = Arc::new(system::registry()?);
        // The lowest of them stands first.
        let is_first = record.members.first().is_some_and(|member| member.node == self.identity.node);
        let (of, disk) = (place.clone(), self.disk.clone());
        seams.spawner.blocking(move || of.identity.mark_hosting(&*disk)).await?;
        let hosted = self.host(place, SYSTEM_SHARD, registry.clone(), &record.members, is_first).await?;
        system::follow(hosted.shard.clone(), place.plans.clone(), seams, shutdown.clone());
        let mut plan = place.plans.watch();
        let (group, mailbox) = (hosted.group.clone(), hosted.mailbox.clone());
        let (record, seams_of, stop) = (record.clone(), seams.clone(), shutdown.clone());
        let make_plan = system::initialise(record, group, mailbox, registry, plan.clone(), seams_of, stop);
        seams.spawner.spawn(make_plan);
        place.hosting.set_system(Arc::new(hosted));
        let found = shutdown.run_until_cancelled(plan.wait_for(Option::is_some)).await;
        Ok(found.and_then(Result::ok).and_then(|plan| plan.clone()))
    }

    /// Starts a replica of every shard that the plan gives to this node.
    async fn host_planned(&self, place: &Arc<Place>, plan: &Plan) -> Result<(), Error> {
        let mut ours = plan.hosted_by(self.identity.node);
        ours.retain(|shard| *shard != SYSTEM_SHARD);
        let host = |shard: ShardId| async move {
            let voters: Vec<Member> = plan.replicas_of(shard).cloned().collect();
            let is_first = plan.owner_of(shard).is_some_and(|owner| owner.node == self.identity.node);
            self.host(place, shard, self.registry.clone(), &voters, is_first).await
        };
        // Together, so that their first votes and entries share commits.
        let hosted = try_join_all(ours.into_iter().map(host)).await?;
        for hosted in &hosted {
            place.owners.follow(hosted.shard.clone(), &hosted.group, &self.seams);
        }
        tracing::info!(node = %self.identity.node, epoch = plan.epoch, shards = hosted.len(), "the node hosts its shards");
        place.hosting.add(hosted);
        Ok(())
    }

    /// One replica: as the store left it, or new, with these voters.
    async fn host(
        &self,
        place: &Place,
        id: ShardId,
        registry: Arc<Registry>,
        voters: &[Member],
        is_first: bool,
    ) -> Result<Hosted, Error> {
        let (store, residency, seams) = (place.store.clone(), place.residency.clone(), self.seams.clone());
        let (of, kinds) = (registry.clone(), seams.clone());
        let shard = self.seams.spawner.blocking(move || Shard::open(id, of, store, residency, kinds)).await?;
        let voters: Vec<(NodeId, String)> = voters.iter().map(|m| (m.node, m.address.clone())).collect();
        let group = place.groups.start(shard.clone(), place.journal.clone(), &voters, is_first).await?;
        let (config, records) = (executor_config(&self.config), self.metrics.batch_records.clone());
        let executor::Handle { mailbox, hold } = Executor::start(config, shard.clone(), group.clone(), records, seams);
        let reader = Reader { shard: shard.clone(), group: group.clone(), registry };
        Ok(Hosted { shard, group, reader, mailbox, hold })
    }

    /// Keeps the journal small from now on.
    fn compact(&self, place: &Arc<Place>) {
        let hosting = place.hosting.clone();
        let group = move |shard: ShardId| {
            let hosted = if shard == SYSTEM_SHARD { hosting.system() } else { hosting.get(shard) };
            hosted.map(|hosted| hosted.group.clone())
        };
        let compact_at = self.config.journal.live_size.0 / 2;
        let (journal, seams, shutdown) = (place.journal.clone(), self.seams.clone(), self.shutdown.clone());
        self.seams.spawner.spawn(compaction::run(journal, compact_at, group, seams, shutdown));
    }
}

/// Tells the rooms that need to know of each plan: who the members are, and where.
async fn pass_on(mut plan: watch::Receiver<Option<Arc<Plan>>>, place: Arc<Place>) {
    loop {
        let newest = plan.borrow_and_update().clone();
        if let Some(plan) = &newest {
            place.owners.set_planned(plan.members());
            plan.members().iter().for_each(|member| place.peers.learn(member.node, &member.address));
        }
        if plan.changed().await.is_err() {
            return;
        }
    }
}

impl Running {
    /// Lets running requests answer, stops the groups, and closes journal and store.
    async fn stop(self) {
        if let Some(server) = self.server
            && let Err(error) = server.await
        {
            tracing::error!(%error, "the peer server failed");
        }
        let Some(place) = self.place else { return };
        place.gossip.stop().await;
        let hosted = place.hosting.clear();
        let groups: Vec<(ShardId, Arc<dyn Group>)> =
            hosted.iter().map(|hosted| (hosted.shard.id(), hosted.group.clone())).collect();
        join_all(groups.iter().map(|(shard, group)| place.groups.stop(*shard, &**group))).await;
        drop((groups, hosted));
        if let Err(error) = place.store.clone().close().await {
            tracing::error!(%error, "the store did not close cleanly; it is recovered at the next start");
        }
        place.journal.clone().close().await;
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
