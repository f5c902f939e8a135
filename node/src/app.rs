//! Wires the rooms of a node together, and takes them apart again in order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use berth_shared::ids::{NodeId, ShardId};
use berth_shared::peer::{self, Role};
use berth_shared::seam::Seams;
use berth_shared::telemetry::{self, Tracing};

use crate::admin;
use crate::cluster::identity::{self, Identity};
use crate::cluster::plan;
use crate::config::Config;
use crate::disk::Disk;
use crate::entity::Registry;
use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::raft;
use crate::shard::Shard;
use crate::shard::executor::{self, Executor};
use crate::shard::group::Group;
use crate::shard::reader::Reader;
use crate::shard::residency::Residency;
use crate::store::{self, Store};
use crate::transport::owners::Owners;
use crate::transport::service::{Hosted, Service};

/// How often the journal's size is looked at.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(1);
/// Shards compacted per look; a checkpoint serves them all.
const COMPACTED_AT_ONCE: usize = 8;

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
    journal: Journal,
    store: Store,
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
    let registry = Arc::new(registry);
    let spawner = seams.spawner;
    let (name, shards) = (&config.cluster.name, config.cluster.shards);
    let members = config.members();
    let identity = Identity::open(&*disk, &*seams.random, name, shards, &members, config.address())?;
    let metrics = Metrics::new(&identity.node.to_string())?;
    let journal = Journal::open(&*disk, journal_config(&config), seams.clone()).await?;
    let barrier = journal_barrier(&journal);
    let store = Store::open(&*disk, barrier, store_config(&config), seams.clone()).await?;
    let residency = Residency::new(config.shard.resident_bytes_max.as_usize());
    let owners = Owners::new(identity.node, config.address().to_owned(), shards);

    let ours: Vec<ShardId> = plan::owners(&members, shards)
        .into_iter()
        .filter_map(|(shard, owner)| (owner == config.address()).then_some(shard))
        .collect();
    let opened = {
        let (registry, store, residency, seams) = (registry.clone(), store.clone(), residency.clone(), seams.clone());
        let open = move |id| Shard::open(id, registry.clone(), store.clone(), residency.clone(), seams.clone());
        let open_all = move || ours.into_iter().map(open).collect::<Result<Vec<_>, _>>();
        spawner.blocking(open_all).await?
    };
    let start_group = |shard: &Arc<Shard>| {
        let (shard, journal) = (shard.clone(), journal.clone());
        let (node, address, seams) = (identity.node, config.address(), &seams);
        async move { raft::start(node, address, shard, journal, seams).await }
    };
    // Together, so that their first votes and entries share commits.
    let groups = try_join_all(opened.iter().map(start_group)).await?;

    let full = Arc::new(AtomicBool::new(false));
    let mut hosted: Vec<Option<Hosted>> = (0..shards).map(|_| None).collect();
    for (shard, group) in opened.iter().zip(&groups) {
        owners.follow(shard.clone(), group, &seams);
        let mailbox = Executor::start(
            executor_config(&config),
            shard.clone(),
            group.clone(),
            metrics.batch_records.clone(),
            seams.clone(),
        );
        let reader = Reader { shard: shard.clone(), group: group.clone(), registry: registry.clone() };
        hosted[usize::from(shard.id().0)] = Some(Hosted { reader, mailbox });
    }
    observe(&metrics, &journal, &store, &residency, &owners);
    let shutdown = CancellationToken::new();
    let by_shard = hosted_groups(&opened, &groups);
    let compact_at = config.journal.live_size.0 / 2;
    spawner.spawn(compact(journal.clone(), compact_at, by_shard, full.clone(), seams.clone(), shutdown.clone()));

    let listen_error = |address: &str| {
        let address = address.to_owned();
        move |source| Error::Listen { address, source }
    };
    let listener = seams.network.listen(&config.listen).await.map_err(listen_error(&config.listen))?;
    let address = listener.local_address().map_err(listen_error(&config.listen))?;
    let service = Service {
        seams: seams.clone(),
        tracing,
        registry,
        hosted,
        owners: owners.clone(),
        metrics: metrics.clone(),
        journal_full: full,
    };
    let server = spawner.spawn(peer::serve(
        seams.clone(),
        peer::server::Config::default(),
        listener,
        peer::Identity {
            role: Role::Node,
            node: Some(identity.node),
            cluster: Some(identity.cluster),
            software: concat!("berth-node/", env!("CARGO_PKG_VERSION")).to_owned(),
            credential: None,
        },
        Arc::new(service),
        shutdown.clone(),
    ));
    let ready: admin::Readiness = {
        let (owners, hosted) = (owners.clone(), groups.len());
        Arc::new(move || owners.owned().len() == hosted)
    };
    let admin = admin::start(&config.admin_listen, ready, metrics.clone(), &seams, shutdown.clone())
        .await
        .map_err(listen_error(&config.admin_listen))?;
    tracing::info!(node = %identity.node, %address, admin = admin.address, shards = groups.len(), "the node has started");
    Ok(Handle {
        node: identity.node,
        address,
        admin_address: admin.address,
        owners,
        metrics,
        groups,
        journal,
        store,
        shutdown,
        server,
        disk,
    })
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
        drop(self.groups);
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "the store did not close cleanly; it is recovered at the next start");
        }
        self.journal.close().await;
        drop(self.disk);
        tracing::info!(node = %self.node, "the node has stopped");
    }
}

type HostedGroup = (ShardId, Arc<dyn Group>);

fn hosted_groups(shards: &[Arc<Shard>], groups: &[Arc<dyn Group>]) -> Vec<HostedGroup> {
    shards.iter().map(|shard| shard.id()).zip(groups.iter().cloned()).collect()
}

/// Keeps the journal small: when its live bytes pass half of its limit, the shards that hold most are compacted. Sets `full`
/// while the limit itself is passed, so that commands are refused before they reach a log that cannot take them.
async fn compact(
    journal: Journal,
    compact_at: u64,
    groups: Vec<HostedGroup>,
    full: Arc<AtomicBool>,
    seams: Seams,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = seams.spawner.sleep(COMPACTION_INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
        full.store(journal.is_full(), Ordering::Relaxed);
        if journal.live_bytes() < compact_at {
            continue;
        }
        for size in journal.shard_sizes().iter().take(COMPACTED_AT_ONCE) {
            if let Some((_, group)) = groups.iter().find(|(shard, _)| *shard == size.shard) {
                group.compact().await;
            }
        }
    }
}

fn observe(metrics: &Metrics, journal: &Journal, store: &Store, residency: &Arc<Residency>, owners: &Arc<Owners>) {
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
    let of = residency.clone();
    let help = "Estimated bytes of entities in memory.";
    page.observed_gauge("berth_node_resident_bytes", help, &[], move || of.bytes() as f64);
    let of = residency.clone();
    let help = "Entities dropped from memory since the start.";
    page.observed_gauge("berth_node_passivated_entities", help, &[], move || of.passivated() as f64);
    let of = owners.clone();
    page.observed_gauge("berth_node_owned_shards", "Shards this node owns.", &[], move || of.owned().len() as f64);
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
