//! Wires the rooms of a node together, and takes them apart again in order. The only place where they meet.

mod announce;
mod claims;
mod compaction;
mod drain;
mod gather;
mod observe;
mod place;
mod readiness;
mod recover;
mod replicas;
mod stages;
mod system_shard;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use berth_shared::auth::{self, Guard};
use berth_shared::cluster_view::Gathered;
use berth_shared::ids::{NodeId, ShardId};
use berth_shared::peer::security;
use berth_shared::recovery_view::{RecoveredView, RecoveryView};
use berth_shared::report::{NodeReport, NodeState};
use berth_shared::seam::Seams;
use berth_shared::seam::network::Listener;
use berth_shared::telemetry::{self, Tracing};

use crate::admin::recovery::Refusal;
use crate::admin::{self, Admin};
use crate::cluster::bootstrap;
use crate::cluster::identity::{self, Identity};
use crate::cluster::membership;
use crate::config::Config;
use crate::disk::Disk;
use crate::entity::{Registry, registry};
use crate::journal;
use crate::metrics::{Metrics, REFUSALS};
use crate::raft;
use crate::recovery;
use crate::replica_files;
use crate::store;
use stages::{Node, Stage};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("the store cannot be opened: {0}")]
    Store(#[from] store::Error),
    #[error(transparent)]
    ReplicaFiles(#[from] replica_files::Error),
    #[error(transparent)]
    Raft(#[from] raft::Error),
    #[error(transparent)]
    Recovery(#[from] recovery::Error),
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    #[error(transparent)]
    Peer(#[from] security::Error),
    #[error("admin_auth: {0}")]
    Auth(#[from] auth::Error),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("the kinds of the system shard: {0}")]
    Kinds(#[from] registry::Error),
    #[error("the task that runs the node panicked")]
    Panicked,
}

/// A node that has begun: its ports are taken, and it goes on to find its cluster and take up its shards by itself. Dropping
/// this leaves it running; [`Handle::shutdown`] stops it.
#[derive(Debug)]
pub struct Handle {
    pub node: NodeId,
    address: String,
    admin_address: String,
    pub metrics: Metrics,
    stage: watch::Receiver<Stage>,
    seams: Seams,
    drain_deadline: Duration,
    /// Whether there were replicas on the disk when the node started.
    had_data: bool,
    drain: CancellationToken,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), Error>>,
    /// Held until everything is closed, because a real directory is locked as long as its disk lives.
    disk: Arc<dyn Disk>,
}

/// Starts a node on `disk` that runs the kinds of `registry` and follows members by `membership`. Returns once its ports are taken; [`Handle::is_ready`] says when
/// its replicas serve, and [`Handle::ended`] that something keeps it from going on.
pub async fn start(
    mut config: Config,
    registry: Registry,
    disk: Arc<dyn Disk>,
    membership: Arc<dyn membership::Engine>,
    seams: Seams,
    tracing: Tracing,
) -> Result<Handle, Error> {
    // The way to other nodes, and no other: the admin port is served as it is.
    let (peer, peer_seams) = std::mem::take(&mut config.peer).start(&seams).await?;
    config.peer = peer;
    // Ports come first, so that a node which cannot have them begins nothing.
    let (listener, address) = listen(&config.listen, &peer_seams).await?;
    let (admin_listener, admin_address) = listen(&config.admin_listen, &seams).await?;
    let identity = open_identity(&config, &*disk, &seams)?;
    let metrics = Metrics::new(&identity.node.to_string())?;
    let guard = Guard::start(&config.admin_auth, &metrics.page, REFUSALS, "admin", &seams).await?;
    let (stage_sender, stage) = watch::channel(Stage::default());
    let (shutdown, drain) = (CancellationToken::new(), CancellationToken::new());
    let drain_deadline = config.cluster.drain_deadline.0;
    let (node, had_data) = (identity.node, identity.hosted);
    let admin = shown(&config, guard, &metrics, &stage, &drain, &seams);
    admin::start(admin_listener, admin, shutdown.clone())
        .map_err(|source| Error::Listen { address: admin_address.clone(), source })?;
    tracing::info!(%node, %address, admin = admin_address, "the node has started");
    let running = Node {
        config,
        registry: Arc::new(registry),
        disk: disk.clone(),
        membership,
        seams: peer_seams,
        tracing,
        identity,
        metrics: metrics.clone(),
        stage: stage_sender,
        drain: drain.clone(),
        shutdown: shutdown.clone(),
        closing: CancellationToken::new(),
    };
    let task = seams.spawner.spawn(running.run(listener));
    Ok(Handle {
        node,
        address,
        admin_address,
        metrics,
        stage,
        seams,
        drain_deadline,
        had_data,
        drain,
        shutdown,
        task,
        disk,
    })
}

impl Handle {
    /// Where gateways and other nodes connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// Whether every replica that this node hosts serves: it owns its shard under a lease, or has caught up with an owner
    /// that it hears.
    pub fn is_ready(&self) -> bool {
        self.stage.borrow().state() == NodeState::Ready
    }

    /// Shards that this node owns now.
    pub fn owned(&self) -> Vec<ShardId> {
        self.stage.borrow().place().map(|place| place.owners.owned()).unwrap_or_default()
    }

    /// Bytes of live rows in the node's journal; 0 before it is open.
    pub fn journal_live_bytes(&self) -> u64 {
        self.stage.borrow().place().map_or(0, |place| place.journal.live_bytes())
    }

    /// What the node says of itself; `None` before it has a cluster.
    pub fn report(&self) -> Option<NodeReport> {
        let place = self.stage.borrow().place().cloned();
        place.map(|place| place.reporter.report())
    }

    /// Has the node give everything away. This cannot be undone.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Returns when the node was told to give everything away, by [`Self::drain`] or on its admin port, and hosts nothing any
    /// more: [`Self::shutdown`] is due then. A new one that has not found a cluster yet has nothing to give away.
    pub async fn left(&self) {
        self.drain.cancelled().await;
        drain::until_empty(self.stage.clone(), self.had_data, self.drain_deadline, self.seams.clone()).await;
    }

    /// Resolves when the node has ended by itself, which it does only when it cannot go on; [`Self::shutdown`] says why.
    pub async fn ended(&self) {
        let mut stage = self.stage.clone();
        while stage.changed().await.is_ok() {}
    }

    /// Tells the others, lets running requests answer, stops the groups, and closes journal and store. An error is why the node had ended
    /// before.
    pub async fn shutdown(self) -> Result<(), Error> {
        self.shutdown.cancel();
        let ended = self.task.await.unwrap_or(Err(Error::Panicked));
        drop(self.disk);
        tracing::info!(node = %self.node, "the node has stopped");
        ended
    }
}

/// What the admin port shows, whatever the node's stage is.
fn shown(
    config: &Config,
    guard: Guard,
    metrics: &Metrics,
    stage: &watch::Receiver<Stage>,
    drain: &CancellationToken,
    seams: &Seams,
) -> Admin {
    let of = stage.clone();
    let ready: admin::Readiness = Arc::new(move || of.borrow().state() == NodeState::Ready);
    let (of, asking) = (stage.clone(), seams.clone());
    let gather: admin::Gather = Arc::new(move || {
        let (place, seams) = (of.borrow().place().cloned(), asking.clone());
        Box::pin(async move {
            match place {
                Some(place) => gather::gather(&place, &seams, admin::GATHER_MAX).await,
                None => Gathered { reports: Vec::new(), silent: Vec::new() },
            }
        })
    });
    let (of, asked) = (stage.clone(), drain.clone());
    let drain: admin::Drain = Arc::new(move || {
        asked.cancel();
        of.borrow().place().map_or(0, |place| place.replica_count())
    });
    let recovery = Arc::new(Recovery { stage: stage.clone(), seams: seams.clone() });
    let (metrics, shards, seams) = (metrics.clone(), config.cluster.shards, seams.clone());
    let metrics_open = config.admin_metrics_open;
    Admin { ready, metrics, gather, drain, recovery, guard: Arc::new(guard), metrics_open, shards, seams }
}

/// What the admin port needs for recoveries, whatever the node's stage is.
struct Recovery {
    stage: watch::Receiver<Stage>,
    seams: Seams,
}

impl admin::recovery::Recovery for Recovery {
    fn survey(&self) -> BoxFuture<'static, Option<RecoveryView>> {
        let (place, seams) = (self.stage.borrow().place().cloned(), self.seams.clone());
        Box::pin(async move { Some(recover::survey(&*place?, &seams).await) })
    }

    fn recover(&self, shard: ShardId, confirm: String) -> BoxFuture<'static, Result<RecoveredView, Refusal>> {
        let (place, seams) = (self.stage.borrow().place().cloned(), self.seams.clone());
        Box::pin(async move {
            let place = place.ok_or(Refusal::NotHosted)?;
            recover::recover(&place, &seams, shard, &confirm).await
        })
    }
}

fn open_identity(config: &Config, disk: &dyn Disk, seams: &Seams) -> Result<Identity, Error> {
    let files = [journal::Config::default().file_name, store::Config::default().file_name];
    let files = [files[0].as_str(), files[1].as_str()];
    Ok(Identity::open(disk, &*seams.random, config.address(), &files)?)
}

/// A listener and its address, with the port that was picked.
async fn listen(address: &str, seams: &Seams) -> Result<(Box<dyn Listener>, String), Error> {
    let listen_error = |source| Error::Listen { address: address.to_owned(), source };
    let listener = seams.network.listen(address).await.map_err(listen_error)?;
    let local_address = listener.local_address().map_err(listen_error)?;
    Ok((listener, local_address))
}
