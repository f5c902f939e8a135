//! Reads that any replica may answer, and reads of an entity's history that wait for the next event.
//!
//! A replica answers from what it has applied, which is committed, and so on the disks of a majority. It does not answer where
//! it may lack what has long been there: see [`crate::shard::group::Level`].

use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Seen};
use berth_shared::planted::{self, Bug};
use berth_shared::seam::BootInstant;

use super::reader::{Current, Error, Reader, Warrant};
use super::waiting::Awaited;
use crate::store::EventsPage;

/// An owner that waits for events looks this often whether it still has its lease. It is told when it loses its leadership,
/// but not when nobody answers it any more.
const LEASE_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Which part of an entity's history is wanted, how surely the newest, and how long it may be waited for.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    /// The page begins after this version.
    pub after: Version,
    pub limit: usize,
    /// Bytes of events past which the page is cut; one is always given.
    pub bytes_max: usize,
    pub consistency: Consistency,
    /// How long to wait for an event where there is none.
    pub wait: Duration,
    /// How long a replica may take to reach what the client has seen.
    pub patience: Duration,
}

impl Poll {
    /// Whether only the owner may answer it.
    fn rests_on_leading(&self) -> bool {
        matches!(self.consistency, Consistency::Linearizable | Consistency::Strict)
    }
}

/// What a poll came to.
#[derive(Clone, Debug)]
pub struct Polled {
    pub page: EventsPage,
    pub seen: Seen,
    /// As [`Reader::level_at`] said before the page was read; only where a stale read asks for it.
    pub level_at: Option<BootInstant>,
}

impl Reader {
    /// The state as this replica has it, once it has applied `at_least`, for which it waits no longer than `patience`.
    pub async fn read_here(
        &self,
        key: &EntityKey,
        at_least: Option<Seen>,
        patience: Duration,
    ) -> Result<Current, Error> {
        let warrant = self.here(at_least, patience).await?;
        match self.shard.resident(key) {
            Some(resident) => self.answer(warrant, key, resident),
            None => self.load(warrant, key).await,
        }
    }

    /// How long ago everything was acknowledged that is surely applied here; `None` where that cannot be told. It is to be asked
    /// for before a read, which then is at least as new.
    pub fn level_at(&self) -> Option<BootInstant> {
        self.group.level()?.at
    }

    /// A page of the history. Where it is empty, and the entity has a history at all, the next event is waited for.
    pub async fn poll(&self, key: &EntityKey, poll: &Poll) -> Result<Polled, Error> {
        if poll.wait.is_zero() {
            return self.page(key, poll).await;
        }
        let seams = self.shard.seams();
        let until = seams.clock.now() + poll.wait;
        let mut leading = self.group.leading();
        // From here on no event is missed.
        let begun = self.shard.waiting().begin(Awaited::Entity(key.clone()));
        let mut waiter = begun.ok_or(Error::NotOwner)?;
        loop {
            let polled = self.page(key, poll).await?;
            if !polled.page.events.is_empty() || seams.clock.now() >= until {
                return Ok(polled);
            }
            loop {
                let left = until.since(seams.clock.now());
                let woken = async {
                    tokio::select! {
                        biased;
                        () = waiter.woken() => true,
                        _ = leading.changed(), if poll.rests_on_leading() => false,
                    }
                };
                match seams.spawner.timeout(left.min(LEASE_LOOK_INTERVAL), woken).await {
                    Some(true) => break,
                    _ if left <= LEASE_LOOK_INTERVAL && seams.clock.now() >= until => break,
                    _ => self.check_still(poll)?,
                }
            }
        }
    }

    async fn page(&self, key: &EntityKey, poll: &Poll) -> Result<Polled, Error> {
        let level_at = if poll.consistency == Consistency::Stale { self.level_at() } else { None };
        let warrant = self.warrant(poll.consistency, poll.patience).await?;
        let page = self.shard.events_within(key, poll.after, poll.limit, poll.bytes_max).await?;
        // After the page, so that it never says less than the page shows.
        let seen = self.shard.seen();
        self.check(warrant)?;
        Ok(Polled { page: page.ok_or(Error::NotFound)?, seen, level_at })
    }

    pub(super) async fn warrant(&self, consistency: Consistency, patience: Duration) -> Result<Warrant, Error> {
        match consistency {
            Consistency::Linearizable => self.lease(),
            Consistency::Strict => self.quorum().await,
            Consistency::Session { at_least } => self.here(at_least, patience).await,
            Consistency::Stale => self.here(None, patience).await,
        }
    }

    /// Whether who waits may go on: an owner that is none any more sends its waiters to the next one.
    fn check_still(&self, poll: &Poll) -> Result<(), Error> {
        if poll.rests_on_leading() { self.lease().map(|_| ()) } else { self.check(Warrant::Replica) }
    }

    /// Waits until this replica has applied `at_least`.
    async fn here(&self, at_least: Option<Seen>, patience: Duration) -> Result<Warrant, Error> {
        self.check(Warrant::Replica)?;
        let Some(wanted) = at_least.filter(|_| !planted::is(Bug::IgnoreSessionToken)) else {
            return Ok(Warrant::Replica);
        };
        let has_it = || {
            let seen = self.shard.seen();
            // What an index of another incarnation means, only the owner can tell.
            if seen.incarnation == wanted.incarnation { Ok(seen.index >= wanted.index) } else { Err(Error::NotOwner) }
        };
        if has_it()? {
            return Ok(Warrant::Replica);
        }
        let seams = self.shard.seams();
        let until = seams.clock.now() + patience;
        let begun = self.shard.waiting().begin(Awaited::Index(wanted.index));
        let mut waiter = begun.ok_or(Error::NotOwner)?;
        while !has_it()? {
            let left = until.since(seams.clock.now());
            if left.is_zero() || seams.spawner.timeout(left, waiter.woken()).await.is_none() {
                return Err(Error::Behind);
            }
            self.check(Warrant::Replica)?;
        }
        Ok(Warrant::Replica)
    }
}
