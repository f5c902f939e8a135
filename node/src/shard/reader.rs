//! Reads at the owner: from memory, under a lease that is checked again after the read (rule R1).

use std::sync::Arc;

use bytes::Bytes;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::Seen;

use crate::entity::Registry;
use crate::shard::Shard;
use crate::shard::entities::Resident;
use crate::shard::group::Group;
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
    #[error("the entity has no events")]
    NotFound,
    #[error("the entity was deleted")]
    Deleted,
    #[error("this node cannot read the entity's history")]
    Unreadable,
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Reader {
    /// The state, if the entity is in memory; `None` when it must be loaded.
    pub fn try_read(&self, key: &EntityKey) -> Option<Result<Current, Error>> {
        let term = match self.leased_term() {
            Ok(term) => term,
            Err(error) => return Some(Err(error)),
        };
        let resident = self.shard.resident(key)?;
        Some(self.answer(term, key, resident))
    }

    pub async fn read(&self, key: &EntityKey) -> Result<Current, Error> {
        if let Some(answer) = self.try_read(key) {
            return answer;
        }
        let term = self.leased_term()?;
        let mut loaded = self.shard.load(vec![key.clone()]).await?;
        let resident = loaded.remove(key).ok_or(Error::NotFound)?;
        self.answer(term, key, resident)
    }

    /// At most `limit` events after `after`, and how much of the shard's history they include.
    pub async fn events(&self, key: &EntityKey, after: Version, limit: usize) -> Result<(EventsPage, Seen), Error> {
        let term = self.leased_term()?;
        let page = self.shard.events(key, after, limit).await?;
        // After the page, so that it never says less than the page shows.
        let seen = self.shard.seen();
        self.confirm(term)?;
        Ok((page.ok_or(Error::NotFound)?, seen))
    }

    fn answer(&self, term: u64, key: &EntityKey, resident: Resident) -> Result<Current, Error> {
        let seen = self.shard.seen();
        if resident.version == 0 {
            self.confirm(term)?;
            return Err(Error::NotFound);
        }
        if resident.deleted {
            self.confirm(term)?;
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
        self.confirm(term)?;
        Ok(Current { version: resident.version, state, seen })
    }

    fn leased_term(&self) -> Result<u64, Error> {
        let term = self.group.term().ok_or(Error::NotOwner)?;
        self.confirm(term)?;
        Ok(term)
    }

    fn confirm(&self, term: u64) -> Result<(), Error> {
        if self.group.holds_lease(term) { Ok(()) } else { Err(Error::NotOwner) }
    }
}
