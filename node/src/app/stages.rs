//! The life of a node once its ports are taken: it finds its cluster, takes up the replicas that its disk has, learns the
//! plan, and hosts what owners bring to it; at the end it takes everything apart again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{join_all, try_join_all};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use berth_shared::entity_places::EntityPlaces;
use berth_shared::ids::ShardId;
use berth_shared::peer;
use berth_shared::report::{Load, Member, NodeState};
use berth_shared::seam::Seams;
use berth_shared::seam::network::Listener;
use berth_shared::telemetry::Tracing;

use super::announce::{self, Announcer};
use super::place::Place;
use super::{Error, compaction, drain, readiness, system_shard};
use crate::cluster::bootstrap::{self, Answerer, Joined};
use crate::cluster::identity::Identity;
use crate::cluster::membership;
use crate::cluster::plan::Plan;
use crate::cluster::plans;
use crate::cluster::reconcile::{Departing, Reconciler};
use crate::cluster::system::{self, SYSTEM_SHARD};
use crate::config::Config;
use crate::disk::Disk;
use crate::entity::Registry;
use crate::metrics::Metrics;
use crate::replica_files;
use crate::shard::group::Group;
use crate::transport::backlog::Backlog;
use crate::transport::hosting::Hosted;
use crate::transport::service::Service;

/// How far a node has come.
#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    /// It looks for its cluster.
    #[default]
    Alone,
    /// It is part of a cluster, and does not know the plan yet, or does not host yet what it founds.
    Joined(Arc<Place>),
    /// It hosts whatever comes to it.
    Hosting(Arc<Place>),
    /// It is told to stop.
    Stopping(Arc<Place>),
}

impl Stage {
    /// Ready is a node that has been (see [`readiness`]) and whose replicas all serve, that of the system shard as well.
    pub(crate) fn state(&self) -> NodeState {
        let place = match self {
            Self::Alone | Self::Joined(_) => return NodeState::Joining,
            Self::Hosting(place) => place,
            Self::Stopping(_) => return NodeState::Leaving,
        };
        let is_planned = |plan: Arc<Plan>| plan.members().iter().any(|member| member.node == place.identity.node);
        if place.leaves.load(Ordering::Relaxed) {
            NodeState::Leaving
        } else if !place.plans.newest().is_some_and(is_planned) {
            NodeState::Joining
        } else if place.was_ready.load(Ordering::Relaxed) && readiness::serves(place) {
            NodeState::Ready
        } else {
            NodeState::Recovering
        }
    }

    pub(crate) fn place(&self) -> Option<&Arc<Place>> {
        match self {
            Self::Alone => None,
            Self::Joined(place) | Self::Hosting(place) | Self::Stopping(place) => Some(place),
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
    /// Cancelled when the node is to give everything away.
    pub(super) drain: CancellationToken,
    pub(super) shutdown: CancellationToken,
    /// Cancelled after `shutdown`, when the others have heard of it: the node answers until then.
    pub(super) closing: CancellationToken,
}

impl Drop for Node {
    /// The place says of itself how far its node has come, and so would keep itself, if the stage went on having it.
    fn drop(&mut self) {
        self.stage.send_replace(Stage::Alone);
    }
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
            self.stage.send_replace(Stage::Stopping(place.clone()));
            let load = Load::default();
            place.gossip.leave(announce::facts(place, &self.config, NodeState::Leaving, load)).await;
        }
        if let Some(place) = &running.place {
            // Who waits for events is sent elsewhere, and does not hold up the end.
            place.hosting.all().iter().for_each(|hosted| hosted.shard.waiting().close());
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
        self.mark(&place, |identity| identity.hosted = true).await?;
        running.server = Some(self.serve(listener, &place, answerer));
        self.while_running(place.owners.clone().repeat(self.seams.clone(), self.shutdown.clone()));
        self.stage.send_replace(Stage::Joined(place.clone()));
        self.announce(&place);
        let (drain, leaving, stage) = (self.drain.clone(), place.clone(), self.stage.clone());
        self.while_running(async move {
            drain.cancelled_owned().await;
            drain::begin(&leaving, &stage);
        });
        self.while_running(system_shard::run(place.clone(), self.config.clone(), self.seams.clone()));
        tracing::info!(node = %place.identity.node, cluster = %place.cluster, ?role, "the node has its cluster");
        self.take_up(&place).await?;
        let Some(()) = self.shutdown.run_until_cancelled(self.found(&place)).await.transpose()? else { return Ok(()) };
        self.stage.send_replace(Stage::Hosting(place.clone()));
        let (shards, epoch) = (place.hosting.all().len(), place.plans.epoch());
        tracing::info!(node = %place.identity.node, epoch, shards, "the node hosts its shards");
        self.compact(&place);
        self.reconcile(&place);
        self.while_running(self.become_ready(&place));
        self.shutdown.cancelled().await;
        Ok(())
    }

    fn while_running(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.seams.spawner.spawn(self.shutdown.clone().run_until_cancelled_owned(work));
    }

    async fn mark(&self, place: &Arc<Place>, change: impl FnOnce(&mut Identity) + Send + 'static) -> Result<(), Error> {
        let of = place.clone();
        self.seams.spawner.blocking(move || of.mark(change)).await
    }

    /// Keeps what gossip says of this node true, and hears what it says of others, the plan among it.
    fn announce(&self, place: &Arc<Place>) {
        let announcer = Announcer {
            place: place.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            stage: self.stage.subscribe(),
            seams: self.seams.clone(),
        };
        self.while_running(announcer.run());
        self.while_running(announce::follow(place.clone()));
        let (plans, members) = (place.plans.clone(), place.gossip.members());
        self.while_running(plans::pull(plans, members, place.peers.clone(), self.seams.clone()));
        self.while_running(pass_on(place.plans.watch(), place.clone()));
    }

    /// Serves gateways and other nodes; returns the server's task.
    fn serve(&self, listener: Box<dyn Listener>, place: &Arc<Place>, answerer: Answerer) -> JoinHandle<()> {
        let (replicas, held) = (place.replicas.clone(), place.replicas.clone());
        let service = Service {
            seams: self.seams.clone(),
            tracing: self.tracing,
            registry: self.registry.clone(),
            hosting: place.hosting.clone(),
            owners: place.owners.clone(),
            metrics: self.metrics.clone(),
            journal: place.journal.clone(),
            backlog: Backlog::new(self.config.shard.commands_size.as_usize()),
            places: EntityPlaces::new(self.config.shard.entity_queue_max),
            groups: place.groups.clone(),
            answerer,
            reporter: place.reporter.clone(),
            gossip: place.gossip.clone(),
            plans: place.plans.clone(),
            admit: Arc::new(move |shard, plan| {
                let replicas = replicas.clone();
                Box::pin(async move { replicas.admit(shard, plan.as_deref()).await })
            }),
            holdings: Arc::new(move |shards| {
                let held = held.clone();
                Box::pin(async move { held.holdings(&shards).await })
            }),
            polls: Arc::new(Semaphore::new(self.config.shard.polls_max)),
        };
        let (config, speaker) = (peer::server::Config::default(), self.speaker(place.cluster));
        let (seams, closing) = (self.seams.clone(), self.closing.clone());
        self.seams.spawner.spawn(peer::serve(seams, config, listener, speaker, Arc::new(service), closing))
    }

    /// Takes up every replica that the disk has.
    async fn take_up(&self, place: &Arc<Place>) -> Result<(), Error> {
        let shards = replica_files::replicas(&place.journal, &place.store);
        // Together, so that their first votes and entries share commits.
        try_join_all(shards.iter().map(|shard| place.replicas.open(*shard, &[], false))).await?;
        Ok(())
    }

    /// Waits until the plan is known. Of a cluster that this node is one of the first members of, it also begins the groups
    /// that the first plan gives it: once, because a group must never begin a second time.
    async fn found(&self, place: &Arc<Place>) -> Result<(), Error> {
        let founder = place.identity.record().filter(|_| !place.identity.founded);
        if let Some(record) = founder {
            // The lowest of them stands first.
            let is_first = record.members.first().is_some_and(|member| member.node == place.identity.node);
            place.replicas.open(SYSTEM_SHARD, &record.members, is_first).await?;
        }
        let plan = match place.plans.watch().wait_for(Option::is_some).await {
            Ok(plan) => plan.clone(),
            Err(_) => None,
        };
        if let Some(plan) = &plan {
            let (shards, replicas) = (self.config.cluster.shards, self.config.cluster.replicas);
            place.identity.check_plan((plan.shards(), plan.replicas), (shards, replicas))?;
        }
        if founder.is_some() {
            self.begin_groups(place).await?;
            self.mark(place, |identity| identity.founded = true).await?;
        }
        Ok(())
    }

    /// Begins the groups of the shards that the first plan gives to this node. The newest plan may be another one by now.
    async fn begin_groups(&self, place: &Arc<Place>) -> Result<(), Error> {
        let Some(system) = place.hosting.system() else { return Ok(()) };
        let first = loop {
            match system::first_plan(&system.shard).await {
                Ok(Some(plan)) => break plan,
                // The newest plan came from another member, and this one's replica has not caught up.
                Ok(None) => {}
                Err(error) => tracing::error!("the first plan cannot be read: {error}"),
            }
            self.seams.spawner.sleep(FIRST_PLAN_PAUSE).await;
        };
        let ours = first.hosted_by(place.identity.node).into_iter().filter(|shard| *shard != SYSTEM_SHARD);
        let (first, replicas) = (&first, &place.replicas);
        let begin = |shard: ShardId| async move {
            let voters: Vec<Member> = first.replicas_of(shard).cloned().collect();
            let is_first = first.owner_of(shard).is_some_and(|owner| owner.node == place.identity.node);
            replicas.open(shard, &voters, is_first).await
        };
        try_join_all(ours.map(begin)).await?;
        Ok(())
    }

    /// Moves shards to where the plan wants them, from now on.
    fn reconcile(&self, place: &Arc<Place>) {
        let (node, peers, seams) = (place.identity.node, place.peers.clone(), self.seams.clone());
        let (hosting, plan) = (place.hosting.clone(), place.plans.watch());
        let replicas = place.replicas.clone();
        let departing = Departing {
            node,
            hosting: hosting.clone(),
            plan: plan.clone(),
            members: place.gossip.members(),
            peers: peers.clone(),
            let_go: Arc::new(move |shard, last| {
                let replicas = replicas.clone();
                Box::pin(async move {
                    match replicas.let_go(shard, last).await {
                        Ok(true) => tracing::info!(%shard, "a replica was let go"),
                        Ok(false) => {}
                        Err(error) => tracing::error!(%shard, "a replica cannot be deleted: {error}"),
                    }
                })
            }),
            seams: seams.clone(),
        };
        self.while_running(departing.run());
        let (members, moves, metrics) = (place.gossip.members(), place.moves.clone(), self.metrics.clone());
        self.while_running(Reconciler { node, hosting, plan, members, peers, moves, metrics, seams }.run());
    }

    /// Waits until this node is ready for the first time, and remembers that.
    fn become_ready(&self, place: &Arc<Place>) -> impl Future<Output = ()> + Send + 'static {
        let (place, seams, stage) = (place.clone(), self.seams.clone(), self.stage.clone());
        async move {
            if !place.was_ready.load(Ordering::Relaxed) {
                readiness::first_time(&place, &seams).await;
                let of = place.clone();
                let marked = seams.spawner.blocking(move || of.mark(|identity| identity.was_ready = true)).await;
                if let Err(error) = marked {
                    tracing::error!("that the node was ready cannot be written: {error}");
                }
                place.was_ready.store(true, Ordering::Relaxed);
                tracing::info!(node = %place.identity.node, "the node is ready");
                // It is looked at again by whoever follows it.
                stage.send_modify(|_| {});
            }
        }
    }

    /// Keeps the journal small from now on.
    fn compact(&self, place: &Arc<Place>) {
        let hosting = place.hosting.clone();
        let group = move |shard: ShardId| hosting.any(shard).map(|hosted| hosted.group.clone());
        let compact_at = self.config.journal.live_size.0 / 2;
        let (journal, seams, shutdown) = (place.journal.clone(), self.seams.clone(), self.shutdown.clone());
        self.seams.spawner.spawn(compaction::run(journal, compact_at, group, seams, shutdown));
    }
}

/// Between two attempts to read the first plan.
const FIRST_PLAN_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

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
        place.replicas.close().await;
        let hosted = place.hosting.clear();
        let groups: Vec<(ShardId, Arc<dyn Group>)> =
            hosted.iter().map(|hosted: &Arc<Hosted>| (hosted.shard.id(), hosted.group.clone())).collect();
        join_all(groups.iter().map(|(shard, group)| place.groups.stop(*shard, &**group))).await;
        drop((groups, hosted));
        if let Err(error) = place.store.clone().close().await {
            tracing::error!(%error, "the store did not close cleanly; it is recovered at the next start");
        }
        place.journal.clone().close().await;
    }
}
