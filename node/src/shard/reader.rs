//! Reads at the owner: from memory, under a lease that is checked again after the read (rule R1), or after a quorum has
//! confirmed that this node still leads (rule R4, ReadIndex), which rests on no clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use berth_shared::ids::{Term, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Moment, Seen};
use berth_shared::planted::{self, Bug};
use berth_shared::seam::BootInstant;

use crate::entity::Registry;
use crate::shard::Shard;
use crate::shard::entities::Resident;
use crate::shard::group::Group;
use crate::shard::history::{PAGE_BYTES_MAX, Past};
use crate::shard::polling::Poll;
use crate::store::{self, EventsPage};

/// Reads one shard.
#[derive(Clone, Debug)]
pub struct Reader {
    pub shard: Arc<Shard>,
    pub group: Arc<dyn Group>,
    pub registry: Arc<Registry>,
}

/// The newest state of an entity that has one.
#[derive(Clone, Debug)]
pub struct Current {
    pub version: Version,
    /// JSON.
    pub state: Bytes,
    pub seen: Seen,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this node does not own the shard")]
    NotOwner,
    #[error("no quorum confirmed in time that this node owns the shard")]
    Unconfirmed,
    #[error("this replica did not reach in time what the client has seen")]
    Behind,
    #[error("the entity has no events")]
    NotFound,
    #[error("the entity was deleted")]
    Deleted,
    #[error("this node cannot read the entity's history")]
    Unreadable,
    #[error("the history up to there is too long to be folded within the deadline")]
    Late,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What a read of one term rests on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Warrant {
    /// No other node can lead while the lease lasts, which must still do so after the read.
    Lease(Term),
    /// A quorum has confirmed this term after the read was asked for, and what was committed by then is applied. What is
    /// read from here on cannot be too old, whoever leads by then; that the term is still ours is only the cheap proof that
    /// the replica was not replaced under the read.
    Quorum(Term),
    /// Nothing but that the replica is one that may answer, also after the read: one that is let go meanwhile would not find
    /// what it has had.
    Replica,
}

impl Reader {
    /// The state, if the entity is in memory; `None` when it must be loaded.
    pub fn try_read(&self, key: &EntityKey) -> Option<Result<Current, Error>> {
        let warrant = match self.lease() {
            Ok(warrant) => warrant,
            Err(error) => return Some(Err(error)),
        };
        let resident = self.shard.resident(key)?;
        Some(self.answer(warrant, key, resident))
    }

    pub async fn read(&self, key: &EntityKey) -> Result<Current, Error> {
        if let Some(answer) = self.try_read(key) {
            return answer;
        }
        let warrant = self.lease()?;
        self.load(warrant, key).await
    }

    /// The state, read after a quorum has confirmed that this node leads.
    pub async fn read_strict(&self, key: &EntityKey) -> Result<Current, Error> {
        let warrant = self.quorum().await?;
        match self.shard.resident(key) {
            Some(resident) => self.answer(warrant, key, resident),
            None => self.load(warrant, key).await,
        }
    }

    /// At most `limit` events after `after`, and how much of the shard's history they include. It waits for nothing.
    pub async fn events(
        &self,
        key: &EntityKey,
        after: Version,
        limit: usize,
        consistency: Consistency,
    ) -> Result<(EventsPage, Seen), Error> {
        let (bytes_max, wait, patience) = (PAGE_BYTES_MAX, Duration::ZERO, Duration::ZERO);
        let polled = self.poll(key, &Poll { after, limit, bytes_max, consistency, wait, patience }).await?;
        Ok((polled.page, polled.seen))
    }

    /// An earlier state. Whoever asks for that at a time sees to it that the shard's time has passed it.
    pub async fn past(
        &self,
        key: &EntityKey,
        moment: Moment,
        consistency: Consistency,
        deadline: BootInstant,
    ) -> Result<Current, Error> {
        let warrant = self.warrant(consistency, Duration::ZERO).await?;
        let past = self.shard.past(key, moment, deadline).await?;
        let seen = self.shard.seen();
        self.check(warrant)?;
        match past {
            Past::State { version, json } => Ok(Current { version, state: json, seen }),
            Past::NotYet => Err(Error::NotFound),
            Past::Deleted => Err(Error::Deleted),
            Past::Unreadable => Err(Error::Unreadable),
            Past::Late => Err(Error::Late),
        }
    }

    /// The term that this node owns the shard in, if it surely does now.
    pub fn owned_in(&self) -> Option<Term> {
        self.group.term().filter(|term| self.group.holds_lease(*term))
    }

    pub(super) async fn load(&self, warrant: Warrant, key: &EntityKey) -> Result<Current, Error> {
        let mut loaded = self.shard.load(vec![key.clone()]).await?;
        let resident = loaded.remove(key).ok_or(Error::NotFound)?;
        self.answer(warrant, key, resident)
    }

    pub(super) fn answer(&self, warrant: Warrant, key: &EntityKey, resident: Resident) -> Result<Current, Error> {
        let seen = self.shard.seen();
        if resident.version == 0 {
            self.check(warrant)?;
            return Err(Error::NotFound);
        }
        if resident.deleted {
            self.check(warrant)?;
            return Err(Error::Deleted);
        }
        let state = match resident.json {
            Some(json) => json,
            None => {
                let kind = self.registry.get(key.kind()).ok_or(Error::Unreadable)?;
                let state = resident.state.ok_or(Error::Unreadable)?;
                let json = kind.state_json(&state).map_err(|_| Error::Unreadable)?;
                self.shard.keep_json(key, resident.version, &json);
                json
            }
        };
        self.check(warrant)?;
        Ok(Current { version: resident.version, state, seen })
    }

    pub(super) fn lease(&self) -> Result<Warrant, Error> {
        let warrant = Warrant::Lease(self.group.term().ok_or(Error::NotOwner)?);
        self.check(warrant)?;
        Ok(warrant)
    }

    pub(super) async fn quorum(&self) -> Result<Warrant, Error> {
        let term = self.group.term().ok_or(Error::NotOwner)?;
        if self.group.confirm(term).await { Ok(Warrant::Quorum(term)) } else { Err(Error::Unconfirmed) }
    }

    pub(super) fn check(&self, warrant: Warrant) -> Result<(), Error> {
        let holds = match warrant {
            Warrant::Lease(term) if planted::is(Bug::ReadWithoutLease) => self.group.term() == Some(term),
            Warrant::Lease(term) => self.group.holds_lease(term),
            Warrant::Quorum(term) => self.group.term() == Some(term),
            Warrant::Replica => !self.shard.waiting().is_closed() && self.group.level().is_some(),
        };
        if holds { Ok(()) } else { Err(Error::NotOwner) }
    }
}
