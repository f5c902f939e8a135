//! A system shard on two replicas, whose group leads when it is told to: for the tests of this room and of the planner.

use std::fmt;
use std::sync::Arc;

use berth_shared::ids::{LogId, NodeId, Term};
use berth_shared::seam::Seams;
use berth_shared::telemetry::{Metrics, SIZE_COUNTS};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::SYSTEM_SHARD;
use crate::disk::SimulatedDisk;
use crate::entity::Registry;
use crate::record::Batch;
use crate::shard::Shard;
use crate::shard::executor::{self, Executor, Mailbox};
use crate::shard::group::{Change, ChangeError, ConfirmedMembership, Done, Group, Level, Observed, Proposed, Status};
use crate::shard::residency::Residency;
use crate::store::{self, Store};

/// The owner's side of it, and the other replica.
pub(in crate::cluster) struct System {
    pub(in crate::cluster) group: Arc<Pair>,
    pub(in crate::cluster) mailbox: Mailbox,
    pub(in crate::cluster) registry: Arc<Registry>,
    /// The owner's first.
    pub(in crate::cluster) shards: [Arc<Shard>; 2],
    pub(in crate::cluster) stores: [Store; 2],
}

impl System {
    pub(in crate::cluster) async fn open(disks: &[SimulatedDisk; 2], seams: &Seams) -> Self {
        let registry = Arc::new(super::registry().unwrap());
        let (owner, owner_store) = open_shard(&disks[0], &registry, seams).await;
        let (follower, follower_store) = open_shard(&disks[1], &registry, seams).await;
        let shards = [owner.clone(), follower];
        let group = Arc::new(Pair { leading: watch::Sender::new(None), log: Mutex::new(0), shards: shards.clone() });
        let metrics = Metrics::new(&[]).unwrap();
        let records = metrics.histogram("batch_records", "Records per batch.", &SIZE_COUNTS, &[]);
        let config = executor::Config { mailbox_max: 8, batches_in_flight_max: 4, window_keys_max: 1000 };
        let mailbox = Executor::start(config, owner, group.clone(), records, seams.clone()).mailbox;
        Self { group, mailbox, registry, shards, stores: [owner_store, follower_store] }
    }
}

/// A group that leads when it is told to and commits what it is given, to its own shard and to a follower's.
pub(in crate::cluster) struct Pair {
    leading: watch::Sender<Option<Term>>,
    log: Mutex<u64>,
    shards: [Arc<Shard>; 2],
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair")
    }
}

impl Pair {
    fn next(&self, term: Term) -> LogId {
        let mut index = self.log.lock();
        *index += 1;
        LogId { term, index: *index }
    }

    pub(in crate::cluster) async fn lead(&self, term: Option<Term>) {
        if let Some(term) = term {
            let log_id = self.next(term);
            for shard in &self.shards {
                shard.apply_blank(log_id).await.unwrap();
            }
        }
        self.leading.send_replace(term);
    }
}

impl Group for Pair {
    fn leading(&self) -> watch::Receiver<Option<Term>> {
        self.leading.subscribe()
    }

    fn holds_lease(&self, term: Term) -> bool {
        self.term() == Some(term)
    }

    fn propose(&self, term: Term, batch: Arc<Batch>, done: Done) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let log_id = self.next(term);
            let applied = self.shards[0].apply(log_id, &batch).await.unwrap();
            self.shards[1].apply(log_id, &batch).await.unwrap();
            done(Proposed::Applied(applied));
        })
    }

    fn confirm(&self, term: Term) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(self.holds_lease(term)))
    }

    fn transfer(&self, _to: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    fn status(&self) -> Status {
        Status::default()
    }

    fn observe(&self) -> Option<Observed> {
        None
    }

    fn change(&self, _term: Term, _change: Change) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(std::future::ready(Err(ChangeError::NotLeader)))
    }

    fn confirmed_membership(&self) -> BoxFuture<'_, Option<ConfirmedMembership>> {
        Box::pin(std::future::ready(None))
    }

    fn reach(&self, _term: Term, _node: NodeId) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    fn is_serving(&self) -> bool {
        self.term().is_some_and(|term| self.holds_lease(term))
    }

    fn level(&self) -> Option<Level> {
        Some(Level::default())
    }

    fn compact(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

pub(in crate::cluster) async fn open_shard(
    disk: &SimulatedDisk,
    registry: &Arc<Registry>,
    seams: &Seams,
) -> (Arc<Shard>, Store) {
    let journal: store::JournalFlushed = Arc::new(|| Box::pin(std::future::ready(Ok(()))));
    let config = store::Config { fatal: Arc::new(|line| panic!("{line}")), ..store::Config::default() };
    let store = Store::open(disk, journal, config, seams.clone()).await.unwrap();
    let residency = Residency::new(64 << 20);
    let shard = Shard::open(SYSTEM_SHARD, registry.clone(), store.clone(), residency, seams.clone()).unwrap();
    (shard, store)
}
