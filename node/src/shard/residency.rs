//! The node's memory budget for entities: over all shards, the least recently used are passivated when it is exceeded.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use berth_shared::seam::Spawner;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::shard::Shard;

#[derive(Debug)]
pub struct Residency {
    bytes_max: usize,
    bytes: AtomicUsize,
    ticks: AtomicU64,
    passivated: AtomicU64,
    shards: RwLock<Vec<Weak<Shard>>>,
    /// Reads of the store that run at the same time.
    reads: Arc<Semaphore>,
    /// Earlier states that are folded at the same time.
    pub(super) folds: Semaphore,
    /// Listings that are put together at the same time.
    pub(super) listings: Semaphore,
    /// One task at a time makes room.
    making_room: Mutex<()>,
}

/// Reads of the store at the same time, over all shards of the node; more wait.
const READS_MAX: usize = 16;
/// Earlier states folded at the same time, over all shards of the node; more wait. Each takes one read of the store after
/// the other, so that most of those are left to others.
const FOLDS_MAX: usize = 4;
/// Listings put together at the same time, which read likewise; more wait.
const LISTINGS_MAX: usize = 4;
/// Residents passivated per look at which shard has the oldest.
const PASSIVATED_AT_ONCE: usize = 16;

impl Residency {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            bytes: AtomicUsize::new(0),
            ticks: AtomicU64::new(1),
            passivated: AtomicU64::new(0),
            shards: RwLock::default(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            folds: Semaphore::new(FOLDS_MAX),
            listings: Semaphore::new(LISTINGS_MAX),
            making_room: Mutex::default(),
        })
    }

    pub(super) fn register(&self, shard: &Arc<Shard>) {
        let mut shards = self.shards.write();
        shards.retain(|shard| shard.strong_count() > 0);
        shards.push(Arc::downgrade(shard));
    }

    /// Runs a read of the store where it may block, a bounded number at a time, so that commits of the journal never queue
    /// behind them. Whoever waits for it may be dropped; what has begun goes on and keeps its place as long.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        spawner: Spawner,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        // Nobody closes it.
        let place = self.reads.clone().acquire_owned().await.ok();
        let read = move || {
            let _place = place;
            read()
        };
        spawner.blocking(read).await
    }

    /// The node's count of uses, by which residents of different shards are compared.
    pub(super) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn changed(&self, before: usize, after: usize) {
        if before == after {
            return;
        }
        self.bytes.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Estimated bytes of all residents.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Residents passivated since the start.
    pub fn passivated(&self) -> u64 {
        self.passivated.load(Ordering::Relaxed)
    }

    /// Passivates until the budget holds. Called without any shard's lock.
    pub(super) fn enforce(&self) {
        if self.bytes() <= self.bytes_max {
            return;
        }
        let Some(_turn) = self.making_room.try_lock() else { return };
        while self.bytes() > self.bytes_max {
            let oldest = {
                let shards = self.shards.read();
                let alive = shards.iter().filter_map(Weak::upgrade);
                alive.min_by_key(|shard| shard.oldest_use.load(Ordering::Relaxed))
            };
            let Some(shard) = oldest else { return };
            let mut machine = shard.machine();
            let won = (0..PASSIVATED_AT_ONCE).filter_map(|_| machine.entities.passivate_oldest()).count();
            shard.report(&machine);
            self.passivated.fetch_add(won as u64, Ordering::Relaxed);
            if won == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_read_that_nobody_waits_for_keeps_its_place_until_it_is_done() {
        let residency = Residency::new(0);
        let (begun, all_begun) = mpsc::channel();
        let mut ends = Vec::new();
        let stalled: Vec<_> = (0..READS_MAX)
            .map(|_| {
                let (begun, (end, ended)) = (begun.clone(), mpsc::channel::<()>());
                ends.push(end);
                residency.read(Spawner::Threads, move || {
                    begun.send(()).unwrap();
                    let _ = ended.recv();
                })
            })
            .collect();
        let mut stalled = Box::pin(join_all(stalled));
        assert!(poll!(&mut stalled).is_pending());
        drop(stalled);
        (0..READS_MAX).for_each(|_| all_begun.recv().unwrap());
        let mut next = Box::pin(residency.read(Spawner::Threads, || ()));
        assert!(poll!(&mut next).is_pending());
        assert_eq!(residency.reads.available_permits(), 0);
        drop(ends);
        next.await;
    }
}
