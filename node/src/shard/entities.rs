//! The entities of a shard that are in memory, least recently used first. Pure: passivation is dropping one, because the
//! store holds everything that was applied.

use bytes::Bytes;
use hashbrown::HashMap;
use lru::LruCache;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;

use crate::entity::erased::State;

/// An entity in memory, as of the last applied record. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Resident {
    pub version: Version,
    pub deleted: bool,
    /// `None` where this program cannot fold the entity's events: its kind is unknown here, or an event is not readable.
    pub state: Option<State>,
    /// The state as JSON, made at the first need for this version.
    pub json: Option<Bytes>,
    /// Bytes of the JSON that the state was folded from: of an earlier state, and of the events after it.
    pub folded_bytes: usize,
    /// Events and bytes of events since the last stored snapshot.
    pub unsnapshotted: Unsnapshotted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsnapshotted {
    pub events: u32,
    pub bytes: u64,
}

/// Bytes a resident costs beyond its key and state: map entry, list node, reference counts.
const OVERHEAD_BYTES: usize = 320;

impl Resident {
    pub fn absent(state: Option<State>) -> Self {
        let unsnapshotted = Unsnapshotted::default();
        Self { version: 0, deleted: false, state, json: None, folded_bytes: 0, unsnapshotted }
    }

    /// An estimate: typed state and cached JSON are each taken to be as large as the JSON. While there is none, the state is
    /// taken to be as large as what it was folded from.
    fn weight(&self, key: &EntityKey) -> usize {
        let json = self.json.as_ref().map_or(self.folded_bytes.max(128), Bytes::len);
        OVERHEAD_BYTES + key.as_str().len() + 2 * json
    }
}

#[derive(Debug)]
pub struct Entities {
    /// Bounded in bytes over all shards of the node, by [`crate::shard::residency`].
    residents: LruCache<EntityKey, Slot>,
    bytes: usize,
    /// Invariant: an entity that is being read from the store is here; applying a record to it is counted, because what is
    /// read by those who began before may be older than that record.
    loads: HashMap<EntityKey, Loads>,
}

/// Says when a load began, among the changes of its entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadTicket {
    changes: u64,
}

#[derive(Debug)]
struct Slot {
    resident: Resident,
    weight: usize,
    used_at: u64,
}

#[derive(Debug, Default)]
struct Loads {
    readers: usize,
    /// Since the first of these readers began.
    changes: u64,
}

impl Default for Entities {
    fn default() -> Self {
        Self { residents: LruCache::unbounded(), bytes: 0, loads: HashMap::new() }
    }
}

impl Entities {
    /// The resident, marked as used at `tick`.
    pub fn touch(&mut self, key: &EntityKey, tick: u64) -> Option<&mut Resident> {
        let slot = self.residents.get_mut(key)?;
        slot.used_at = tick;
        Some(&mut slot.resident)
    }

    pub fn peek(&self, key: &EntityKey) -> Option<&Resident> {
        self.residents.peek(key).map(|slot| &slot.resident)
    }

    pub fn put(&mut self, key: EntityKey, resident: Resident, tick: u64) {
        if let Some(loads) = self.loads.get_mut(&key) {
            loads.changes += 1;
        }
        let weight = resident.weight(&key);
        self.bytes += weight;
        if let Some((_, old)) = self.residents.push(key, Slot { resident, weight, used_at: tick }) {
            self.bytes -= old.weight;
        }
    }

    /// Keeps the JSON of `version` for the next reader.
    pub fn keep_json(&mut self, key: &EntityKey, version: Version, json: &Bytes) {
        let Some(slot) = self.residents.peek_mut(key) else { return };
        if slot.resident.version != version || slot.resident.json.is_some() {
            return;
        }
        slot.resident.json = Some(json.clone());
        let weight = slot.resident.weight(key);
        self.bytes = self.bytes - slot.weight + weight;
        slot.weight = weight;
    }

    /// Announces that `key` is about to be read from the store.
    pub fn begin_load(&mut self, key: &EntityKey) -> LoadTicket {
        let loads = self.loads.entry(key.clone()).or_default();
        loads.readers += 1;
        LoadTicket { changes: loads.changes }
    }

    /// Takes in what was read, unless it is resident already or a record was applied meanwhile. Says whether what was read
    /// is still the newest; if not, the caller looks again.
    pub fn finish_load(&mut self, key: &EntityKey, ticket: LoadTicket, loaded: Option<Resident>, tick: u64) -> bool {
        let Some(loads) = self.loads.get_mut(key) else { return false };
        loads.readers -= 1;
        let spoilt = loads.changes != ticket.changes;
        if loads.readers == 0 {
            self.loads.remove(key);
        }
        let Some(resident) = loaded.filter(|_| !spoilt) else { return !spoilt };
        if !self.residents.contains(key) {
            let weight = resident.weight(key);
            self.bytes += weight;
            self.residents.push(key.clone(), Slot { resident, weight, used_at: tick });
        }
        true
    }

    /// The most recently used residents, the newest use first. It looks at no others.
    pub fn busiest(&self, count: usize) -> Vec<EntityKey> {
        self.residents.iter().take(count).map(|(key, _)| key.clone()).collect()
    }

    /// Bytes that the entity takes in memory; 0 where it is not resident.
    pub fn bytes_of(&self, key: &EntityKey) -> usize {
        self.residents.peek(key).map_or(0, |slot| slot.weight)
    }

    /// When the least recently used resident was last used.
    pub fn oldest_use(&self) -> Option<u64> {
        self.residents.peek_lru().map(|(_, slot)| slot.used_at)
    }

    /// Passivates the least recently used resident; returns the bytes won.
    pub fn passivate_oldest(&mut self) -> Option<usize> {
        let (_, slot) = self.residents.pop_lru()?;
        self.bytes -= slot.weight;
        Some(slot.weight)
    }

    /// Passivates all, because the store holds something else now. What is being read from it may be neither.
    pub fn clear(&mut self) {
        self.residents.clear();
        self.bytes = 0;
        for loads in self.loads.values_mut() {
            loads.changes += 1;
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Residents.
    pub fn len(&self) -> usize {
        self.residents.len()
    }

    pub fn is_empty(&self) -> bool {
        self.residents.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> EntityKey {
        EntityKey::new("counter", id).unwrap()
    }

    fn at(version: Version) -> Resident {
        Resident { version, ..Resident::absent(None) }
    }

    #[test]
    fn the_least_recently_used_is_passivated_and_the_bytes_add_up() {
        let mut entities = Entities::default();
        entities.put(key("a"), at(1), 1);
        entities.put(key("b"), at(1), 2);
        entities.touch(&key("a"), 3);
        assert_eq!(entities.oldest_use(), Some(2));
        entities.passivate_oldest();
        assert!(entities.peek(&key("b")).is_none() && entities.peek(&key("a")).is_some());
        entities.put(key("a"), at(2), 4);
        entities.keep_json(&key("a"), 1, &Bytes::from_static(b"an older version"));
        assert!(entities.peek(&key("a")).unwrap().json.is_none());
        entities.passivate_oldest();
        assert_eq!((entities.bytes(), entities.len()), (0, 0));
    }

    #[test]
    fn the_busiest_are_the_most_recently_used() {
        let mut entities = Entities::default();
        for (tick, id) in (1..).zip(["a", "b", "c", "d"]) {
            entities.put(key(id), at(1), tick);
        }
        entities.touch(&key("b"), 5);
        assert_eq!(entities.busiest(3), [key("b"), key("d"), key("c")]);
        assert_eq!((entities.busiest(0).len(), entities.busiest(9).len()), (0, 4));
        let sum: usize = entities.busiest(9).iter().map(|key| entities.bytes_of(key)).sum();
        assert_eq!((sum, entities.bytes_of(&key("e"))), (entities.bytes(), 0));
    }

    #[test]
    fn a_load_that_a_record_overtook_is_not_taken_in() {
        let mut entities = Entities::default();
        let ticket = entities.begin_load(&key("a"));
        entities.put(key("a"), at(5), 1);
        entities.passivate_oldest();
        assert!(!entities.finish_load(&key("a"), ticket, Some(at(4)), 2), "the caller must look again");
        assert!(entities.peek(&key("a")).is_none());
        let ticket = entities.begin_load(&key("a"));
        assert!(entities.finish_load(&key("a"), ticket, Some(at(5)), 3));
        assert_eq!(entities.peek(&key("a")).map(|r| r.version), Some(5));
    }

    #[test]
    fn nothing_that_was_loaded_before_a_snapshot_is_there_after_it() {
        let mut entities = Entities::default();
        entities.put(key("a"), at(5), 1);
        let early = entities.begin_load(&key("b"));
        entities.clear();
        assert_eq!((entities.bytes(), entities.len(), entities.oldest_use()), (0, 0, None));
        let late = entities.begin_load(&key("b"));
        assert!(!entities.finish_load(&key("b"), early, Some(at(1)), 2), "it may be of the former content");
        assert!(entities.peek(&key("b")).is_none());
        assert!(entities.finish_load(&key("b"), late, Some(at(9)), 3));
        assert_eq!(entities.peek(&key("b")).map(|resident| resident.version), Some(9));
    }

    #[test]
    fn a_load_that_began_after_the_record_is_taken_in_although_an_earlier_one_still_runs() {
        let mut entities = Entities::default();
        let early = entities.begin_load(&key("a"));
        entities.put(key("a"), at(5), 1);
        entities.passivate_oldest();
        let late = entities.begin_load(&key("a"));
        assert!(entities.finish_load(&key("a"), late, Some(at(5)), 2), "or readers that overlap would look for ever");
        entities.passivate_oldest();
        assert!(!entities.finish_load(&key("a"), early, Some(at(4)), 3));
        assert!(entities.peek(&key("a")).is_none() && entities.loads.is_empty());
    }
}
