//! The machine on random interleavings of owners: records of another term, on another version or under a known key are
//! dropped, alike on a replica that computed the states itself, one that was told them, and one that restarts all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_node::entity::Registry;
use berth_node::record::{Batch, EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};
use berth_node::shard::machine::{After, Machine, Verdict, rehydrate};
use berth_node::shard::window::Window;
use berth_node::store::{Changes, ShardHead, StoredEntity, StoredEvent};
use berth_shared::ids::{LogId, ShardId};
use berth_shared::key::EntityKey;
use bytes::Bytes;
use proptest::prelude::*;
use smallvec::smallvec;

/// One proposed record, in small numbers so that collisions happen.
#[derive(Clone, Debug)]
struct Proposal {
    entity: u8,
    base_offset: i64,
    request: u8,
    events: u8,
}

#[derive(Clone, Debug)]
struct Entry {
    /// How far the log's term goes ahead before this entry.
    term_step: u64,
    /// How far the decision lags behind the log's term.
    decided_before: u64,
    proposals: Vec<Proposal>,
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let base_offset = prop_oneof![8 => Just(0_i64), 1 => Just(-1), 1 => Just(1)];
    let proposal = (0..4_u8, base_offset, 0..40_u8, 0..3_u8)
        .prop_map(|(entity, base_offset, request, events)| Proposal { entity, base_offset, request, events });
    let decided_before = prop_oneof![6 => Just(0_u64), 1 => Just(1), 1 => Just(2)];
    let term_step = prop_oneof![4 => Just(0_u64), 1 => Just(1)];
    let entry = (term_step, decided_before, prop::collection::vec(proposal, 1..5))
        .prop_map(|(term_step, decided_before, proposals)| Entry { term_step, decided_before, proposals });
    prop::collection::vec(entry, 1..25)
}

/// What the checks mean, written down once more in the plainest way.
#[derive(Default)]
struct Reference {
    versions: BTreeMap<String, u64>,
    keys: BTreeSet<[u8; 16]>,
    values: BTreeMap<String, i64>,
}

impl Reference {
    fn apply(&mut self, term: u64, batch: &Batch) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for record in batch.records() {
            let version = self.versions.get(record.key.as_str()).copied().unwrap_or(0);
            let verdict = if batch.decision_term() != term {
                Verdict::WrongTerm
            } else if self.keys.contains(&record.request.scope.0) {
                Verdict::KnownKey
            } else if version != record.base_version {
                Verdict::WrongBase
            } else {
                self.keys.insert(record.request.scope.0);
                self.versions.insert(record.key.to_string(), record.version());
                *self.values.entry(record.key.to_string()).or_default() += i64::try_from(record.events.len()).unwrap();
                Verdict::Applied
            };
            verdicts.push(verdict);
        }
        verdicts
    }
}

/// A machine with what its store would hold.
struct Replica {
    machine: Machine,
    registry: Arc<Registry>,
    stored: BTreeMap<EntityKey, Vec<StoredEvent>>,
    restarts: bool,
}

impl Replica {
    fn new(registry: &Arc<Registry>, restarts: bool) -> Self {
        let machine = Machine::new(ShardId(0), registry.clone(), ShardHead::default(), Window::default());
        Self { machine, registry: registry.clone(), stored: BTreeMap::new(), restarts }
    }

    fn apply(&mut self, log_id: LogId, batch: &Arc<Batch>) -> Vec<Verdict> {
        if self.restarts {
            while self.machine.entities.passivate_oldest().is_some() {}
        }
        for key in self.machine.missing(batch) {
            let resident = rehydrate(&self.registry, &key, self.stored(&key));
            self.machine.entities.put(key, resident, log_id.index);
        }
        let (applied, changes) = self.machine.apply(log_id, batch, log_id.index);
        self.store(changes);
        applied.verdicts.to_vec()
    }

    fn stored(&self, key: &EntityKey) -> Option<StoredEntity> {
        let events = self.stored.get(key)?.clone();
        let last = events.last()?;
        Some(StoredEntity {
            version: last.version,
            deleted: false,
            last_event_time_micros: last.time_micros,
            snapshot: None,
            event_bytes: 0,
            events,
        })
    }

    fn store(&mut self, changes: Changes) {
        for change in changes.entities {
            let events = self.stored.entry(change.key).or_default();
            events.extend(change.events);
            assert!(events.iter().map(|event| event.version).eq(1..=change.version), "versions have a gap");
        }
    }

    fn value(&mut self, key: &EntityKey) -> (u64, Bytes) {
        let resident = match self.machine.entities.peek(key) {
            Some(resident) => resident.clone(),
            None => rehydrate(&self.registry, key, self.stored(key)),
        };
        let kind = self.registry.get(key.kind()).unwrap();
        (resident.version, kind.state_json(&resident.state.unwrap()).unwrap())
    }
}

fn batch(entry: &Entry, term: u64, time: &mut u64, reference: &Reference) -> Arc<Batch> {
    // A real owner decides the records of a batch on top of each other.
    let mut versions = reference.versions.clone();
    let mut records = Vec::new();
    for proposal in &entry.proposals {
        let key = EntityKey::new("counter", &format!("e{}", proposal.entity)).unwrap();
        let version = versions.entry(key.to_string()).or_default();
        let base_version = version.saturating_add_signed(proposal.base_offset);
        *version += u64::from(proposal.events);
        *time += 1;
        let event = EventBody { event_type: "added".into(), data: r#"{"by":1}"#.into() };
        records.push(Record {
            key,
            request: RequestKey {
                scope: Scope([proposal.request; 16]),
                fingerprint: Fingerprint([0; 16]),
                origin: KeyOrigin::Client,
            },
            base_version,
            time_micros: *time,
            outcome: Outcome { status: Status::Accepted, reply: "null".into(), reason: Bytes::new() },
            events: std::iter::repeat_n(event, proposal.events.into()).collect(),
        });
    }
    Arc::new(Batch::new(term.saturating_sub(entry.decided_before), records))
}

/// What an owner that decided the batch on the applied state would have computed.
fn computed(replica: &Replica, batch: &Batch) -> Vec<Option<After>> {
    let kind = replica.registry.get("counter").unwrap();
    let mut states = BTreeMap::new();
    let after = batch.records().iter().map(|record| {
        let start = || rehydrate(&replica.registry, &record.key, replica.stored(&record.key)).state.unwrap();
        let mut state = states.remove(&record.key).unwrap_or_else(start);
        for event in &record.events {
            state = kind.evolve(state, event).unwrap();
        }
        states.insert(record.key.clone(), state.clone());
        let json = kind.state_json(&state).unwrap();
        (!record.events.is_empty()).then_some(After { state, json })
    });
    after.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_replica_drops_the_same_records_and_ends_with_the_same_content(entries in entries()) {
        let registry = Arc::new(Registry::built_in());
        let mut reference = Reference::default();
        let mut plain = Replica::new(&registry, false);
        let mut told = Replica::new(&registry, false);
        let mut restarting = Replica::new(&registry, true);
        let (mut term, mut time) = (3, 1_767_225_600_000_000);
        for (index, entry) in (1_u64..).zip(&entries) {
            term += entry.term_step;
            let batch = batch(entry, term, &mut time, &reference);
            let log_id = LogId { term, index };
            let expected = reference.apply(term, &batch);
            let after = computed(&told, &batch);
            told.machine.expect(batch.clone(), after);
            // Others read the entry from disk or from a peer.
            let read = Arc::new(Batch::decode(batch.bytes().clone()).unwrap());
            prop_assert_eq!(&plain.apply(log_id, &read), &expected);
            prop_assert_eq!(&told.apply(log_id, &batch), &expected);
            prop_assert_eq!(&restarting.apply(log_id, &read), &expected);
            prop_assert_eq!(plain.machine.head(), told.machine.head());
            prop_assert_eq!(plain.machine.head(), restarting.machine.head());
        }
        for (key, version) in &reference.versions {
            let (kind, id) = key.split_once('/').unwrap();
            let key = EntityKey::new(kind, id).unwrap();
            let value = format!("{{\"value\":{}}}", reference.values.get(key.as_str()).unwrap_or(&0));
            for replica in [&mut plain, &mut told, &mut restarting] {
                prop_assert_eq!(replica.value(&key), (*version, Bytes::from(value.clone())));
            }
        }
    }
}

/// Rule W1. The fate of a command was unknown, and its retry was decided when it was applied after all. What comes behind
/// the retry passes every check, but was computed on top of what the retry had decided: that may have been something else,
/// because a kind may look at the time.
#[test]
fn states_computed_on_top_of_a_dropped_record_are_not_taken() {
    let registry = Arc::new(Registry::built_in());
    let key = EntityKey::new("counter", "a").unwrap();
    let batch = |request, base_version, by: u8| {
        let event = EventBody { event_type: "added".into(), data: format!("{{\"by\":{by}}}").into() };
        let scope = Scope([request; 16]);
        let record = Record {
            key: key.clone(),
            request: RequestKey { scope, fingerprint: Fingerprint([request; 16]), origin: KeyOrigin::Client },
            base_version,
            time_micros: 5,
            outcome: Outcome { status: Status::Accepted, reply: "null".into(), reason: Bytes::new() },
            events: smallvec![event],
        };
        Arc::new(Batch::new(1, vec![record]))
    };
    let kind = registry.get("counter").unwrap();
    let after = |value: u8| {
        let json = Bytes::from(format!("{{\"value\":{value}}}"));
        vec![Some(After { state: kind.state_from_json(&json).unwrap(), json })]
    };
    let mut owner = Replica::new(&registry, false);
    let (lost, retry, on_top) = (batch(1, 0, 10), batch(1, 0, 5), batch(2, 1, 3));
    assert_eq!(owner.apply(LogId { term: 1, index: 1 }, &lost), [Verdict::Applied]);
    owner.machine.expect(retry.clone(), after(5));
    owner.machine.expect(on_top.clone(), after(8));
    assert_eq!(owner.apply(LogId { term: 1, index: 2 }, &retry), [Verdict::KnownKey]);
    assert_eq!(owner.apply(LogId { term: 1, index: 3 }, &on_top), [Verdict::Applied]);
    assert_eq!(owner.value(&key), (2, Bytes::from(r#"{"value":13}"#)), "as on every other replica");
}

#[test]
fn replicas_with_different_histories_have_different_content_hashes() {
    let registry = Arc::new(Registry::built_in());
    let hash = |by: &str| {
        let mut replica = Replica::new(&registry, false);
        let record = Record {
            key: EntityKey::new("counter", "a").unwrap(),
            request: RequestKey { scope: Scope([1; 16]), fingerprint: Fingerprint([1; 16]), origin: KeyOrigin::Client },
            base_version: 0,
            time_micros: 5,
            outcome: Outcome { status: Status::Accepted, reply: "null".into(), reason: Bytes::new() },
            events: smallvec![EventBody { event_type: "added".into(), data: Bytes::copy_from_slice(by.as_bytes()) }],
        };
        replica.apply(LogId { term: 1, index: 1 }, &Arc::new(Batch::new(1, vec![record])));
        replica.machine.head().content_hash
    };
    assert_eq!(hash(r#"{"by":1}"#), hash(r#"{"by":1}"#));
    assert_ne!(hash(r#"{"by":1}"#), hash(r#"{"by":2}"#));
}

/// An operator's recovery is applied alike by all, and only where its log has it.
#[test]
fn an_incarnation_begins_with_its_batch_and_never_goes_back() {
    let registry = Arc::new(Registry::built_in());
    let mut machine = Machine::new(ShardId(1), registry, ShardHead::default(), Window::default());
    let mut apply = |index: u64, term: u64, batch: Batch| {
        let log_id = LogId { term, index };
        let (applied, changes) = machine.apply(log_id, &Arc::new(batch), 1);
        assert_eq!((applied.verdicts.len(), applied.incarnation), (0, changes.head.incarnation));
        assert_eq!(changes.head.applied, Some(log_id));
        (changes.head.incarnation, changes.head.content_hash)
    };
    assert_eq!(apply(1, 5, Batch::new(5, Vec::new())), (0, 0));
    assert_eq!(apply(2, 6, Batch::of_incarnation(5, 1)), (0, 0), "decided in another term");
    let (incarnation, first) = apply(3, 6, Batch::of_incarnation(6, 1));
    assert_eq!(incarnation, 1);
    assert_ne!(first, 0, "it counts in the content hash");
    assert_eq!(apply(4, 6, Batch::of_incarnation(6, 1)), (1, first));
    let (incarnation, second) = apply(5, 6, Batch::of_incarnation(6, 3));
    assert!(incarnation == 3 && second != first);
    assert_eq!(apply(6, 6, Batch::of_incarnation(6, 2)), (3, second));
}
