//! Receiving a snapshot: its rows are written under a generation that no head names, and in the end one commit makes that
//! generation the shard's content. Until then the shard is as it was, whatever happens.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use berth_shared::ids::ShardId;

use super::chunk::{Received, SnapshotError, Taken};
use super::model::{OutcomeIndexRow, ShardHead};
use super::{Error, Shared, Store, generation};

/// A snapshot on its way into the store. When it is dropped it is given up, and its rows are deleted.
pub struct Staging {
    store: Store,
    reservation: Arc<Reservation>,
    received: Received,
    /// Bounded by what the sender's window may hold.
    outcomes: Vec<OutcomeIndexRow>,
}

/// A snapshot that is on disk as the content of its shard, and that readers do not see yet. See [`Self::publish`].
pub struct Installed {
    shared: Arc<Shared>,
    reservation: Arc<Reservation>,
    outcomes: Vec<OutcomeIndexRow>,
}

/// Keeps a generation from being cleared, and from being used again.
struct Reservation {
    shared: Arc<Shared>,
    shard: ShardId,
    generation: u32,
}

impl Store {
    /// Begins to receive a snapshot of `shard`. Waits until the rows of those that were given up before are deleted, so that
    /// the file holds no more than one, for each that is received at the same time.
    pub async fn stage(&self, shard: ShardId) -> Result<Staging, Error> {
        loop {
            // Made before looking, so that progress made in between is noticed.
            let progress = self.shared.progress.notified();
            {
                let mut queue = self.shared.queue.lock();
                queue.check_open()?;
                if let Some(generation) = queue.begin_generation(shard) {
                    let reservation = Reservation { shared: self.shared.clone(), shard, generation };
                    return Ok(Staging {
                        store: self.clone(),
                        reservation: Arc::new(reservation),
                        received: Received::new(shard, generation),
                        outcomes: Vec::new(),
                    });
                }
            }
            progress.await;
        }
    }
}

impl Staging {
    pub fn shard(&self) -> ShardId {
        self.reservation.shard
    }

    /// What this is the snapshot of, once the first chunk has come. The generation is the sender's.
    pub fn head(&self) -> Option<&ShardHead> {
        self.received.head()
    }

    /// Whether the last chunk has come.
    pub fn is_whole(&self) -> bool {
        self.received.is_whole()
    }

    /// Checks the next chunk and writes it, without an fsync. One that is refused counts as not given; and a call that was
    /// given up can be repeated.
    pub async fn add(&mut self, chunk: Bytes) -> Result<(), Error> {
        let (received, reservation) = (self.received.clone(), self.reservation.clone());
        // The closure holds the reservation: were this future dropped, the rows must not come after they were cleared.
        let work = move || {
            let taken = received.take(&chunk)?;
            let bytes = reservation.shared.write_beside(|database| generation::stage(database, &taken.rows))?.bytes;
            let now = reservation.shared.seams.clock.now();
            reservation.shared.queue.lock().wrote(bytes, now);
            reservation.shared.work.notify_one();
            Ok(taken)
        };
        let taken: Result<Taken, Error> = self.store.shared.seams.spawner.blocking(work).await;
        let Taken { received, outcomes, .. } = taken?;
        self.received = received;
        self.outcomes.extend(outcomes);
        Ok(())
    }

    /// Makes what was received the durable content of the shard, once all of it has come and the journal has flushed what it
    /// was given. Readers and writers go on with the former content until [`Installed::publish`], and the shard takes no
    /// changes any more until then. An error leaves the shard as it was, unless the store has stopped.
    ///
    /// If this future, or what it returns, is dropped, the shard takes no changes until the store is opened again.
    pub async fn commit(self) -> Result<Installed, Error> {
        let Self { store, reservation, received, outcomes } = self;
        let head = received.head().filter(|_| received.is_whole()).ok_or(SnapshotError::Unfinished)?;
        let head = ShardHead { generation: reservation.generation, installed: head.applied, ..head.clone() };
        let shared = store.shared.clone();
        let answer = shared.queue.lock().install(reservation.shard, head)?;
        shared.work.notify_one();
        answer.await.unwrap_or_else(|_| Err(shared.stopped()))?;
        Ok(Installed { shared, reservation, outcomes })
    }
}

impl Installed {
    /// The index of the shard's new outcomes, in the store's order.
    pub fn take_outcomes(&mut self) -> Vec<OutcomeIndexRow> {
        std::mem::take(&mut self.outcomes)
    }

    /// From here on the store answers with the new content, and takes changes that follow it. Returns the shard's head.
    ///
    /// Does not wait for anything, so that who keeps something of the shard in memory can change both under one lock.
    pub fn publish(self) -> ShardHead {
        let head = self.shared.queue.lock().publish(self.reservation.shard).unwrap_or_default();
        self.shared.work.notify_one();
        head
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.queue.lock().end_generation(self.shard, self.generation);
        self.shared.work.notify_one();
    }
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reservation { shard, generation, .. } = &*self.reservation;
        f.debug_struct("Staging").field("shard", shard).field("generation", generation).finish_non_exhaustive()
    }
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed").field("shard", &self.reservation.shard).finish_non_exhaustive()
    }
}
