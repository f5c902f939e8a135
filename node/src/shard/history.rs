//! An entity's past: pages of its events, and its state at an earlier version.

use bytes::Bytes;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;

use crate::record::EventBody;
use crate::shard::Shard;
use crate::shard::machine::fold;
use crate::store::{self, EventsPage};

/// Bytes of event data per page, past which it is cut; one event is always given.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Events folded per read of the store.
const FOLDED_AT_ONCE: usize = 1024;

impl Shard {
    /// At most `limit` events after version `after`; `None` when the entity has none at all.
    pub async fn events(
        &self,
        key: &EntityKey,
        after: Version,
        limit: usize,
    ) -> Result<Option<EventsPage>, store::Error> {
        self.events_within(key, after, limit, PAGE_BYTES_MAX).await
    }

    /// The same of at most `bytes_max` together, but one in any case.
    pub async fn events_within(
        &self,
        key: &EntityKey,
        after: Version,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Option<EventsPage>, store::Error> {
        let (store, id, key) = (self.store.clone(), self.id, key.clone());
        self.blocking(move || store.events(id, &key, after, limit, bytes_max.min(PAGE_BYTES_MAX))).await
    }

    /// The state as JSON at `version`, folded from the first event unless it is the one in memory; `None` where it cannot be read.
    pub async fn state_at(&self, key: &EntityKey, version: Version) -> Result<Option<Bytes>, store::Error> {
        let Some(kind) = self.registry.get(key.kind()) else { return Ok(None) };
        if let Some(resident) = self.resident(key).filter(|resident| resident.version == version && !resident.deleted) {
            return Ok(resident.json.or_else(|| kind.state_json(&resident.state?).ok()));
        }
        let mut state = kind.initial();
        let mut folded: Version = 0;
        while folded < version {
            let wanted = usize::try_from(version - folded).unwrap_or(usize::MAX).min(FOLDED_AT_ONCE);
            let Some(page) = self.events(key, folded, wanted).await? else { return Ok(None) };
            let Some(last) = page.events.last() else { return Ok(None) };
            folded = last.version;
            let bodies = page.events.into_iter().map(|e| EventBody { event_type: e.event_type, data: e.data });
            let Some(next) = fold(&self.registry, key, state, bodies) else { return Ok(None) };
            state = next;
        }
        Ok(kind.state_json(&state).ok())
    }
}
