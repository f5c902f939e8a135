//! An entity's past: pages of its events, and its state at an earlier version or time. The work of one request is done in
//! slices, each of them a bounded read of the store with the fold of what it gave, off the tasks that serve others.

use std::sync::Arc;

use bytes::Bytes;

use berth_shared::ids::{ShardId, Version};
use berth_shared::key::EntityKey;
use berth_shared::message::Moment;
use berth_shared::seam::BootInstant;

use crate::entity::Registry;
use crate::entity::erased::State;
use crate::record::{EventBody, is_tombstone};
use crate::shard::Shard;
use crate::shard::machine::fold;
use crate::store::{self, EventsPage, Store, StoredEntity, StoredEvent};

/// Bytes of event data per page, past which it is cut; one event is always given.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Events folded per read of the store.
const FOLDED_AT_ONCE: usize = 1024;

/// What an entity was at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Past {
    State {
        version: Version,
        json: Bytes,
    },
    Deleted,
    /// It had no event yet at that time, or has not had so many.
    NotYet,
    /// This program cannot read a kind or an event.
    Unreadable,
    /// The deadline came first.
    Late,
}

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

    /// What the entity was at `moment`. At a time, this is final only once the shard's time has passed it.
    ///
    /// A few of these run at the same time, and more wait for their turn. One that is not through by `deadline` is given up.
    pub async fn past(&self, key: &EntityKey, moment: Moment, deadline: BootInstant) -> Result<Past, store::Error> {
        let Some(kind) = self.registry.get(key.kind()).cloned() else { return Ok(Past::Unreadable) };
        let clock = &self.seams.clock;
        let turn = self.seams.spawner.timeout(deadline.since(clock.now()), self.residency.folds.acquire());
        let Some(_turn) = turn.await else { return Ok(Past::Late) };
        let history = self.history(key);
        let found = self.blocking(move || history.find(moment)).await?;
        let mut folding = match found {
            Found::NotYet => return Ok(Past::NotYet),
            Found::Deleted => return Ok(Past::Deleted),
            Found::At(folding) => folding,
        };
        while let Some(Folding { folded, until, .. }) = folding
            && folded < until
        {
            if clock.now() >= deadline {
                return Ok(Past::Late);
            }
            folding = self.fold_on(key, folding).await?;
        }
        let json = folding.and_then(|folding| Some((folding.until, kind.state_json(&folding.state).ok()?)));
        Ok(json.map_or(Past::Unreadable, |(version, json)| Past::State { version, json }))
    }

    /// The state as JSON at `version`, which is the first one where it is deleted then; `None` where it cannot be read.
    pub async fn state_at(&self, key: &EntityKey, version: Version) -> Result<Option<Bytes>, store::Error> {
        let Some(kind) = self.registry.get(key.kind()).cloned() else { return Ok(None) };
        if let Some(resident) = self.resident(key).filter(|resident| resident.version == version) {
            return Ok(resident.json.or_else(|| kind.state_json(&resident.state?).ok()));
        }
        let history = self.history(key);
        let begin = move || Ok::<_, store::Error>(history.begin(history.stored()?, version));
        let mut folding = self.blocking(begin).await?;
        while folding.as_ref().is_some_and(|folding| folding.folded < folding.until) {
            folding = self.fold_on(key, folding).await?;
        }
        Ok(folding.and_then(|folding| kind.state_json(&folding.state).ok()))
    }

    /// One slice more.
    async fn fold_on(&self, key: &EntityKey, folding: Option<Folding>) -> Result<Option<Folding>, store::Error> {
        let Some(folding) = folding else { return Ok(None) };
        let history = self.history(key);
        self.blocking(move || history.fold_some(folding)).await
    }

    fn history(&self, key: &EntityKey) -> History {
        History { store: self.store.clone(), registry: self.registry.clone(), shard: self.id, key: key.clone() }
    }
}

/// One entity's history, for reads that block.
struct History {
    store: Store,
    registry: Arc<Registry>,
    shard: ShardId,
    key: EntityKey,
}

/// A fold on its way.
struct Folding {
    state: State,
    /// What `state` is the state at.
    folded: Version,
    /// Where it ends.
    until: Version,
}

enum Found {
    NotYet,
    Deleted,
    /// `None` where an event is unreadable.
    At(Option<Folding>),
}

impl History {
    /// Which version is meant, and as much of its fold as one read gives.
    fn find(&self, moment: Moment) -> Result<Found, store::Error> {
        let Some(stored) = self.stored()? else { return Ok(Found::NotYet) };
        let version = match moment {
            Moment::Version(version) if version <= stored.version => version,
            Moment::Version(_) => return Ok(Found::NotYet),
            Moment::Time(time_micros) => self.version_at(&stored, time_micros)?,
        };
        let Some(last) = self.event(version)? else { return Ok(Found::NotYet) };
        if is_tombstone(&last.event_type) {
            return Ok(Found::Deleted);
        }
        Ok(Found::At(self.begin(Some(stored), version)))
    }

    /// The version after all events up to a time. Times never decrease from event to event.
    fn version_at(&self, stored: &StoredEntity, time_micros: u64) -> Result<Version, store::Error> {
        if stored.last_event_time_micros <= time_micros {
            return Ok(stored.version);
        }
        // The version is at least `low` and below `high`.
        let (mut low, mut high) = (0, stored.version);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.event(middle)? {
                Some(event) if event.time_micros <= time_micros => low = middle,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The event with which the entity came to be at `version`.
    fn event(&self, version: Version) -> Result<Option<StoredEvent>, store::Error> {
        let Some(before) = version.checked_sub(1) else { return Ok(None) };
        let page = self.store.events(self.shard, &self.key, before, 1, 0)?;
        Ok(page.and_then(|page| page.events.into_iter().next()))
    }

    fn stored(&self) -> Result<Option<StoredEntity>, store::Error> {
        self.store.entity(self.shard, &self.key)
    }

    /// Begins at the stored snapshot, if that is early enough, with the events that come with it; else before the first event.
    fn begin(&self, stored: Option<StoredEntity>, until: Version) -> Option<Folding> {
        let kind = self.registry.get(self.key.kind())?;
        let start = Folding { state: kind.initial(), folded: 0, until };
        let Some(StoredEntity { snapshot, events, .. }) = stored else { return Some(start) };
        match snapshot {
            None => self.fold_events(start, events),
            Some(snapshot) if snapshot.version <= until => {
                let read = kind.state_from_json(&snapshot.state);
                let unreadable =
                    |error: &_| tracing::error!(kind = self.key.kind(), %error, "a snapshot is unreadable");
                let state = read.inspect_err(unreadable).ok()?;
                self.fold_events(Folding { state, folded: snapshot.version, until }, events)
            }
            Some(_) => Some(start),
        }
    }

    fn fold_some(&self, folding: Folding) -> Result<Option<Folding>, store::Error> {
        let wanted = usize::try_from(folding.until - folding.folded).unwrap_or(usize::MAX).min(FOLDED_AT_ONCE);
        let page = self.store.events(self.shard, &self.key, folding.folded, wanted, PAGE_BYTES_MAX)?;
        let events = page.map(|page| page.events).filter(|events| !events.is_empty());
        Ok(events.and_then(|events| self.fold_events(folding, events)))
    }

    /// Of `events`, which follow what is folded, those that belong to it.
    fn fold_events(&self, folding: Folding, events: Vec<StoredEvent>) -> Option<Folding> {
        let Folding { state, mut folded, until } = folding;
        let wanted = events.into_iter().take_while(|event| event.version <= until).inspect(|event| {
            folded = event.version;
        });
        let bodies = wanted.map(|event| EventBody { event_type: event.event_type, data: event.data });
        let state = fold(&self.registry, &self.key, state, bodies)?;
        Some(Folding { state, folded, until })
    }
}
