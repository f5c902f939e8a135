//! Wires the rooms of a node together, and takes them apart again in order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use berth_shared::cluster_view::Gathered;
use berth_shared::ids::{NodeId, ShardId};
use berth_shared::peer::{self, Role};
use berth_shared::report::{NodeReport, NodeState};
use berth_shared::seam::Seams;
use berth_shared::seam::network::Listener;
use berth_shared::telemetry::{self, Tracing};

use crate::admin::{self, Admin};
use crate::cluster::identity::{self, Identity};
use crate::cluster::plan;
use crate::config::Config;
use crate::disk::Disk;
use crate::entity::Registry;
use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::raft::{self, Groups};
use crate::report::{self, About, Reporter};
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

/// How often the journal's size is looked at.
const COMPACTION_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("the store cannot be opened: {0}")]
    Store(#[from] store::Error),
    #[error(transparent)]
    Raft(#[from] raft::Error),
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
}

/// A running node. Dropping it leaves it running; [`Handle::shutdown`] stops it.
#[derive(Debug)]
pub struct Handle {
    pub node: NodeId,
    address: String,
    admin_address: String,
    owners: Arc<Owners>,
    pub metrics: Metrics,
    groups: Vec<Arc<dyn Group>>,
    /// Keeps the groups going as long as it lives.
    consensus: Groups,
    journal: Journal,
    store: Store,
    reporter: Arc<Reporter>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    /// Held until everything is closed, because a real directory is locked as long as its disk lives.
    disk: Arc<dyn Disk>,
}

/// Starts a node on `disk` that runs the kinds of `registry`. Returns once it takes connections; [`Handle::is_ready`] says
/// when it owns all its shards.
pub async fn start(
    config: Config,
    registry: Registry,
    disk: Arc<dyn Disk>,
    seams: Seams,
    tracing: Tracing,
) -> Result<Handle, Error> {
    let (spawner, registry) = (seams.spawner, Arc::new(registry));
    // Ports come first, so that a node which cannot have them begins nothing.
    let (listener, address) = listen(&config.listen, &seams).await?;
    let (admin_listener, admin_address) = listen(&config.admin_listen, &seams).await?;
    let members = config.members();
    let identity = open_identity(&config, &*disk, &seams, &members)?;
    let metrics = Metrics::new(&identity.node.to_string())?;
    let journal = Journal::open(&*disk, journal_config(&config), seams.clone()).await?;
    let store = Store::open(&*disk, journal_barrier(&journal), store_config(&config), seams.clone()).await?;
    let shards = open_shards(&config, &members, registry.clone(), &store, &metrics, &seams).await?;
    let peers = Peers::new(seams.clone(), speaker(&identity, config.credential.clone()));
    let consensus = Groups::new(identity.node, peers, &seams);
    let voters = [(identity.node, config.address().to_owned())];
    let start_group = |shard: &Arc<Shard>| {
        let (shard, journal, voters, consensus) = (shard.clone(), journal.clone(), &voters, &consensus);
        async move { consensus.start(shard, journal, voters, true).await }
    };
    // Together, so that their first votes and entries share commits.
    let groups = try_join_all(shards.iter().map(start_group)).await?;
    let owners = Owners::new(identity.node, config.address().to_owned(), config.cluster.shards);
    observe(&metrics, &journal, &store, &owners);
    let shutdown = CancellationToken::new();
    let by_shard: Vec<HostedGroup> = shards.iter().map(|shard| shard.id()).zip(groups.iter().cloned()).collect();
    let compact_at = config.journal.live_size.0 / 2;
    spawner.spawn(compact(journal.clone(), compact_at, by_shard, seams.clone(), shutdown.clone()));
    spawner.spawn(owners.clone().repeat(seams.clone(), shutdown.clone()));

    let reporter = reporter(&config, &identity, &owners);
    let service = Service {
        seams: seams.clone(),
        tracing,
        registry,
        hosting: host(&config, &shards, &groups, &owners, &reporter, &metrics, &seams),
        owners: owners.clone(),
        metrics: metrics.clone(),
        journal: journal.clone(),
        backlog: Backlog::new(config.shard.commands_size.as_usize()),
        reporter: reporter.clone(),
    };
    let server = serve(listener, speaker(&identity, config.credential.clone()), service, &seams, &shutdown);
    let ready: admin::Readiness = {
        let (owners, hosted) = (owners.clone(), groups.len());
        Arc::new(move || owners.owned().len() == hosted)
    };
    let told = reporter.clone();
    let gather: admin::Gather = Arc::new(move || {
        let reports = vec![told.report()];
        Box::pin(async move { Gathered { reports, silent: Vec::new() } })
    });
    let shown = Admin { ready, metrics: metrics.clone(), gather, shards: config.cluster.shards, seams: seams.clone() };
    admin::start(admin_listener, admin_address.clone(), shown, shutdown.clone());
    let node = identity.node;
    tracing::info!(%node, %address, admin = admin_address, shards = groups.len(), "the node has started");
    Ok(Handle {
        node,
        address,
        admin_address,
        owners,
        metrics,
        groups,
        consensus,
        journal,
        store,
        reporter,
        shutdown,
        server,
        disk,
    })
}

fn open_identity(config: &Config, disk: &dyn Disk, seams: &Seams, members: &[String]) -> Result<Identity, Error> {
    let files = [journal::Config::default().file_name, store::Config::default().file_name];
    let files = [files[0].as_str(), files[1].as_str()];
    let cluster = &config.cluster;
    let random = &*seams.random;
    Ok(Identity::open(disk, random, &cluster.name, cluster.shards, members, config.address(), &files)?)
}

/// The shards that the plan gives to this node, as the store left them.
async fn open_shards(
    config: &Config,
    members: &[String],
    registry: Arc<Registry>,
    store: &Store,
    metrics: &Metrics,
    seams: &Seams,
) -> Result<Vec<Arc<Shard>>, Error> {
    let owners = plan::owners(members, config.cluster.shards).into_iter();
    let ours = owners.filter_map(|(shard, owner)| (owner == config.address()).then_some(shard));
    let ours: Vec<ShardId> = ours.collect();
    let residency = Residency::new(config.shard.resident_bytes_max.as_usize());
    observe_residency(metrics, &residency);
    let (store, shard_seams) = (store.clone(), seams.clone());
    let open = move |id| Shard::open(id, registry.clone(), store.clone(), residency.clone(), shard_seams.clone());
    let open_all = move || ours.into_iter().map(open).collect::<Result<Vec<_>, _>>();
    Ok(seams.spawner.blocking(open_all).await?)
}

fn reporter(config: &Config, identity: &Identity, owners: &Arc<Owners>) -> Arc<Reporter> {
    let (node, cluster, address) = (identity.node, identity.cluster, config.address().to_owned());
    let owners = owners.clone();
    Reporter::new(move || About {
        node,
        cluster,
        address: address.clone(),
        state: NodeState::Ready,
        plan_epoch: 0,
        members: owners.members(),
    })
}

/// Starts the executors.
fn host(
    config: &Config,
    shards: &[Arc<Shard>],
    groups: &[Arc<dyn Group>],
    owners: &Arc<Owners>,
    reporter: &Reporter,
    metrics: &Metrics,
    seams: &Seams,
) -> Arc<Hosting> {
    let mut hosted = Vec::with_capacity(shards.len());
    for (shard, group) in shards.iter().zip(groups) {
        owners.follow(shard.clone(), group, seams);
        let (executor, records) = (executor_config(config), metrics.batch_records.clone());
        let mailbox = Executor::start(executor, shard.clone(), group.clone(), records, seams.clone());
        reporter.host(shard, group, &mailbox);
        let reader = Reader { shard: shard.clone(), group: group.clone(), registry: shard.registry().clone() };
        hosted.push(Hosted { shard: shard.clone(), group: group.clone(), reader, mailbox });
    }
    let hosting = Hosting::new(config.cluster.shards);
    hosting.add(hosted);
    hosting
}

/// What this node says of itself to its peers.
fn speaker(identity: &Identity, credential: Option<String>) -> peer::Identity {
    peer::Identity {
        role: Role::Node,
        node: Some(identity.node),
        cluster: Some(identity.cluster),
        software: report::SOFTWARE.to_owned(),
        credential,
    }
}

/// Serves peers; returns the server's task.
fn serve(
    listener: Box<dyn Listener>,
    speaker: peer::Identity,
    service: Service,
    seams: &Seams,
    shutdown: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let config = peer::server::Config::default();
    let served = peer::serve(seams.clone(), config, listener, speaker, Arc::new(service), shutdown.clone());
    seams.spawner.spawn(served)
}

/// A listener and its address, with the port that was picked.
async fn listen(address: &str, seams: &Seams) -> Result<(Box<dyn Listener>, String), Error> {
    let listen_error = |source| Error::Listen { address: address.to_owned(), source };
    let listener = seams.network.listen(address).await.map_err(listen_error)?;
    let local_address = listener.local_address().map_err(listen_error)?;
    Ok((listener, local_address))
}

impl Handle {
    /// Where gateways connect.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn admin_address(&self) -> &str {
        &self.admin_address
    }

    /// Whether the node owns every shard that it hosts.
    pub fn is_ready(&self) -> bool {
        self.owners.owned().len() == self.groups.len()
    }

    /// What the node says of itself at this moment.
    pub fn report(&self) -> NodeReport {
        self.reporter.report()
    }

    /// Bytes of live rows in the node's journal.
    pub fn journal_live_bytes(&self) -> u64 {
        self.journal.live_bytes()
    }

    /// Lets running requests answer, stops the groups, and closes journal and store.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the peer server failed");
        }
        join_all(self.groups.iter().map(|group| group.stop())).await;
        drop((self.groups, self.consensus));
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "the store did not close cleanly; it is recovered at the next start");
        }
        self.journal.close().await;
        drop(self.disk);
        tracing::info!(node = %self.node, "the node has stopped");
    }
}

type HostedGroup = (ShardId, Arc<dyn Group>);

/// Keeps the journal small: when its live bytes pass `compact_at`, the shards that hold half of them are compacted.
async fn compact(
    journal: Journal,
    compact_at: u64,
    groups: Vec<HostedGroup>,
    seams: Seams,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = seams.spawner.sleep(COMPACTION_INTERVAL) => {}
        }
        let live_bytes = journal.live_bytes();
        if live_bytes < compact_at {
            continue;
        }
        let mut compacted = 0;
        for size in journal.shard_sizes() {
            if compacted >= live_bytes / 2 || size.bytes == 0 {
                break;
            }
            compacted += size.bytes;
            if let Some((_, group)) = groups.iter().find(|(shard, _)| *shard == size.shard) {
                group.compact().await;
            }
        }
    }
}

fn observe(metrics: &Metrics, journal: &Journal, store: &Store, owners: &Arc<Owners>) {
    let page = &metrics.page;
    let of = journal.clone();
    page.observed_gauge("berth_node_journal_live_bytes", "Bytes of live journal rows.", &[], move || {
        of.live_bytes() as f64
    });
    let of = journal.clone();
    page.observed_gauge("berth_node_journal_file_bytes", "Size of the journal's file.", &[], move || {
        of.file_bytes() as f64
    });
    let of = store.clone();
    let help = "Size of the store's file.";
    page.observed_gauge("berth_node_store_file_bytes", help, &[], move || of.statistics().file_bytes as f64);
    let of = store.clone();
    let help = "Bytes of applied changes that wait to be written to the store.";
    page.observed_gauge("berth_node_store_queued_bytes", help, &[], move || of.statistics().queued_bytes as f64);
    let of = owners.clone();
    page.observed_gauge("berth_node_owned_shards", "Shards this node owns.", &[], move || of.owned().len() as f64);
}

fn observe_residency(metrics: &Metrics, residency: &Arc<Residency>) {
    let page = &metrics.page;
    let of = residency.clone();
    let help = "Estimated bytes of entities in memory.";
    page.observed_gauge("berth_node_resident_bytes", help, &[], move || of.bytes() as f64);
    let of = residency.clone();
    let help = "Entities dropped from memory since the start.";
    page.observed_gauge("berth_node_passivated_entities", help, &[], move || of.passivated() as f64);
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
