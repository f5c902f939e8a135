//! Journal and store together on a disk that loses power, doing what shards do: append a batch, acknowledge it when it is on
//! disk, apply it, checkpoint now and then, purge what a checkpoint holds. Some batches are applied before they are on this
//! disk, as on a follower whose leader has them on two other disks.
//!
//! After every cut both files open, and for every shard: the journal goes on where the store ends, without a gap; every
//! acknowledged batch is there; nothing is that was never appended; and the store holds exactly what the applied batches say.
//!
//! `BERTH_CRASH_SEED=7 cargo test -p berth-node --test crash` replays one seed.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use berth_node::disk::{Faults, SimulatedDisk};
use berth_node::journal::{self, Entry, Journal, Payload};
use berth_node::record::{Batch, EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};
use berth_node::store::{
    self, Changes, EntityChange, HashMark, JournalFlushed, Lane, OutcomeRow, RowBounds, ShardHead, Snapshot, Store,
    StoredEntity, StoredEvent,
};
use berth_shared::ids::{LogId, ShardId, Term, Version};
use berth_shared::key::EntityKey;
use berth_shared::seam::random::SeededRandom;
use berth_shared::seam::{Random, Seams};

const SHARDS: u16 = 3;
const IDS: [&str; 4] = ["a", "b", "c", "hot"];
/// Outcomes of a batch have rows from its index times this.
const ROWS_PER_BATCH: u64 = 8;
const LIVES: usize = 3;

/// What may be wrong with the code under test, planted to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// Checkpoints do not wait for the journal.
    NoBarrier,
    /// Purges follow what is applied, not what a checkpoint holds.
    EagerPurge,
    /// The disk keeps nothing that it was asked to sync.
    LyingDisk,
}

/// One shard's machine: what its log comes to.
#[derive(Clone, Debug, Default)]
struct Machine {
    head: ShardHead,
    entities: BTreeMap<EntityKey, Entity>,
    outcomes: BTreeMap<(Lane, u64), OutcomeRow>,
}

#[derive(Clone, Debug, Default)]
struct Entity {
    events: Vec<StoredEvent>,
    snapshot: Option<Snapshot>,
}

impl Machine {
    /// The effects of the first batches of `log`.
    fn after(log: &[Entry]) -> Self {
        let mut machine = Self::default();
        for entry in log {
            machine.apply(ShardId(0), entry);
        }
        machine
    }

    fn applied(&self) -> usize {
        self.head.applied.map_or(0, |applied| applied.index as usize + 1)
    }

    fn apply(&mut self, shard: ShardId, entry: &Entry) -> Changes {
        let index = entry.log_id.index;
        assert_eq!(self.applied() as u64, index, "batches are applied in order");
        self.head.applied = Some(entry.log_id);
        let mut changes = Changes {
            shard,
            head: ShardHead::default(),
            entities: Vec::new(),
            outcomes: Vec::new(),
            expired: RowBounds::default(),
        };
        let Payload::Batch(batch) = &entry.payload else { panic!("only batches were appended") };
        for (place, record) in batch.records().iter().enumerate() {
            self.head.shard_time_micros = record.time_micros;
            self.head.content_hash = self.head.content_hash.wrapping_mul(31) + u128::from(record.time_micros);
            changes.entities.push(self.apply_events(record));
            let row = outcome(record, index * ROWS_PER_BATCH + place as u64);
            self.outcomes.insert((row.lane, row.row), row.clone());
            changes.outcomes.push(row);
        }
        if index % 4 == 3 {
            self.head.hash_marks.push(HashMark { index, content_hash: self.head.content_hash });
            let gateway = index.saturating_sub(6) * ROWS_PER_BATCH;
            changes.expired = RowBounds { gateway, client: gateway / 2 };
            self.outcomes.retain(|(lane, row), _| *row >= changes.expired.of(*lane));
        }
        changes.head = self.head.clone();
        changes
    }

    fn apply_events(&mut self, record: &Record) -> EntityChange {
        let entity = self.entities.entry(record.key.clone()).or_default();
        assert_eq!(entity.events.len() as Version, record.base_version, "records follow each other");
        let event = |(body, version): (&EventBody, Version)| StoredEvent {
            version,
            time_micros: record.time_micros,
            event_type: body.event_type.clone(),
            data: body.data.clone(),
        };
        let events: Vec<_> = record.events.iter().zip(record.base_version + 1..).map(event).collect();
        entity.events.extend(events.iter().cloned());
        let version = record.version();
        let snapshot = version.is_multiple_of(5).then(|| {
            let bytes: usize = entity.events.iter().map(|event| event.data.len()).sum();
            Snapshot { version, state: bytes.to_string().into() }
        });
        if snapshot.is_some() {
            entity.snapshot.clone_from(&snapshot);
        }
        EntityChange { key: record.key.clone(), version, deleted: false, events, snapshot }
    }

    /// Whether the store answers as this machine does.
    fn check(&self, store: &Store, shard: ShardId) -> Result<(), String> {
        let same = |what: &str, found: String, expected: String| {
            if found == expected { Ok(()) } else { Err(format!("{what}: found {found}\nexpected {expected}")) }
        };
        let read = |error: store::Error| error.to_string();
        let head = store.shard_head(shard).unwrap_or_default();
        same("head", format!("{head:?}"), format!("{:?}", self.head))?;
        for key in IDS.map(|id| EntityKey::new("counter", id).unwrap()) {
            let entity = self.entities.get(&key);
            let found = store.entity(shard, &key).map_err(read)?;
            same(key.as_str(), format!("{found:?}"), format!("{:?}", entity.map(Entity::stored)))?;
            let history = store.events(shard, &key, 0, usize::MAX, usize::MAX).map_err(read)?;
            let history = history.map(|page| page.events);
            same(key.as_str(), format!("{history:?}"), format!("{:?}", entity.map(|entity| &entity.events)))?;
        }
        let mut rows = Vec::new();
        store.outcomes(shard, &mut |row| rows.push((row.lane, row.row))).map_err(read)?;
        rows.sort_unstable();
        same("outcomes", format!("{rows:?}"), format!("{:?}", self.outcomes.keys().collect::<Vec<_>>()))?;
        for ((lane, row), outcome) in &self.outcomes {
            let found = store.outcome(shard, *lane, *row).map_err(read)?;
            same("outcome", format!("{found:?}"), format!("{:?}", Some(outcome)))?;
        }
        Ok(())
    }
}

fn outcome(record: &Record, row: u64) -> OutcomeRow {
    let lane = match record.request.origin {
        KeyOrigin::Client => Lane::Client,
        KeyOrigin::Gateway { .. } => Lane::Gateway,
    };
    OutcomeRow {
        lane,
        row,
        scope: record.request.scope,
        fingerprint: record.request.fingerprint,
        expires_micros: record.time_micros + 1_000,
        version: record.version(),
        outcome: record.outcome.clone(),
    }
}

impl Entity {
    fn stored(&self) -> StoredEntity {
        let after = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.version);
        let events: Vec<_> = self.events.iter().filter(|event| event.version > after).cloned().collect();
        StoredEntity {
            version: self.events.len() as Version,
            deleted: false,
            last_event_time_micros: self.events.last().map_or(0, |event| event.time_micros),
            snapshot: self.snapshot.clone(),
            event_bytes: events.iter().map(StoredEvent::stored_bytes).sum(),
            events,
        }
    }
}

/// One shard as the test knows it.
#[derive(Debug, Default)]
struct Shard {
    /// Everything that was ever appended and not lost in a cut, purged or not. Entry 0 has index 0.
    log: Vec<Entry>,
    /// The owner's newest state, of batches not on disk yet too.
    speculative: Machine,
    /// What was handed to the store.
    applied: Machine,
    /// How many entries were called back as on disk.
    acknowledged: Arc<AtomicUsize>,
}

impl Shard {
    fn next_entry(&mut self, shard: ShardId, term: Term, random: &SeededRandom) -> Entry {
        let below = |limit: u64| random.next_u64() % limit;
        let log_id = LogId { term, index: self.log.len() as u64 };
        let mut versions = BTreeMap::new();
        let records = (0..=below(3)).map(|_| {
            let key = EntityKey::new("counter", IDS[below(4) as usize]).unwrap();
            let stored = self.speculative.entities.get(&key).map_or(0, |entity| entity.events.len() as Version);
            let base_version = versions.get(&key).copied().unwrap_or(stored);
            let event = |_| EventBody {
                event_type: Bytes::from_static(b"added"),
                data: vec![b'0' + below(10) as u8; below(200) as usize].into(),
            };
            let events: SmallVec<[EventBody; 1]> = (0..=below(2)).map(event).collect();
            versions.insert(key.clone(), base_version + events.len() as Version);
            let origin = match below(2) {
                0 => KeyOrigin::Client,
                _ => KeyOrigin::Gateway { created_micros: below(1 << 40) },
            };
            Record {
                key,
                request: RequestKey {
                    scope: Scope(random.next_u128().to_le_bytes()),
                    fingerprint: Fingerprint(random.next_u128().to_le_bytes()),
                    origin,
                },
                base_version,
                time_micros: random.next_u64() >> 20,
                outcome: Outcome {
                    status: Status::Accepted,
                    reply: below(1000).to_string().into(),
                    reason: Bytes::new(),
                },
                events,
            }
        });
        let batch = Batch::new(term, records.collect());
        let entry = Entry { log_id, payload: Payload::Batch(Arc::new(batch)) };
        self.speculative.apply(shard, &entry);
        self.log.push(entry.clone());
        entry
    }

    /// After a start: what there is, is what is left of the log.
    fn restart(&mut self, entries: usize) {
        self.log.truncate(entries);
        self.speculative = Machine::after(&self.log);
        self.applied = self.speculative.clone();
        self.acknowledged = Arc::new(AtomicUsize::new(entries));
    }
}

/// A node: both files, open.
struct Node {
    journal: Journal,
    store: Store,
    seams: Seams,
}

impl Node {
    async fn open(disk: &SimulatedDisk, seed: u64, bug: Bug) -> Result<Self, String> {
        let seams = Seams::simulated(seed);
        let config = journal::Config {
            fatal: Arc::new(|_| {}),
            cache_bytes: 1 << 20,
            tail_bytes_max: 2_000,
            straggler_distance_min: 20,
            ..journal::Config::default()
        };
        let journal = Journal::open(disk, config, seams.clone()).await.map_err(|error| error.to_string())?;
        let config = store::Config {
            fatal: Arc::new(|_| {}),
            cache_bytes: 1 << 20,
            flush_bytes: 3_000,
            queue_bytes_max: 10_000,
            checkpoint_bytes: 12_000,
            checkpoint_interval: Duration::from_millis(300),
            ..store::Config::default()
        };
        let flushed = barrier(&journal, bug);
        let store = Store::open(disk, flushed, config, seams.clone()).await.map_err(|error| error.to_string())?;
        Ok(Self { journal, store, seams })
    }

    /// Checks what was found against what was appended, brings the store up to the journal, and checks again.
    async fn recover(&self, shards: &mut BTreeMap<ShardId, Shard>) -> Result<(), String> {
        for (id, shard) in shards {
            let state = self.journal.log_state(*id);
            let applied = self.store.shard_head(*id).and_then(|head| head.applied);
            let count = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index as usize + 1);
            let (purged, in_store, in_journal) = (count(state.last_purged), count(applied), count(state.last));
            let acknowledged = shard.acknowledged.load(Ordering::SeqCst);
            let counts = format!(
                "shard {id}: purged {purged}, applied {in_store}, in the journal {in_journal}, acknowledged {acknowledged}, appended {}",
                shard.log.len()
            );
            if !(purged <= in_store && in_store <= in_journal && in_journal <= shard.log.len()) {
                return Err(format!("the files do not fit together: {counts}"));
            }
            if in_journal < acknowledged {
                return Err(format!("an acknowledged batch is lost: {counts}"));
            }
            let entries = self.journal.entries(*id, purged as u64..u64::MAX).await;
            let entries = entries.map_err(|error| error.to_string())?;
            if entries != shard.log[purged..in_journal] {
                return Err(format!("other entries than were appended: {counts}"));
            }
            let mut machine = Machine::after(&shard.log[..in_store]);
            machine.check(&self.store, *id).map_err(|wrong| format!("before the replay, {counts}: {wrong}"))?;
            for entry in &entries[in_store - purged..] {
                let write = self.store.write(machine.apply(*id, entry)).await;
                write.map_err(|error| error.to_string())?;
            }
            machine.check(&self.store, *id).map_err(|wrong| format!("after the replay, {counts}: {wrong}"))?;
            shard.restart(in_journal);
        }
        Ok(())
    }

    /// Works until something fails, or for `steps`.
    async fn work(
        &self,
        shards: &mut BTreeMap<ShardId, Shard>,
        term: Term,
        random: &SeededRandom,
        bug: Bug,
        steps: u64,
    ) {
        for _ in 0..steps {
            if self.step(shards, term, random, bug).await.is_none() {
                return;
            }
        }
    }

    /// `None` when something failed.
    async fn step(
        &self,
        shards: &mut BTreeMap<ShardId, Shard>,
        term: Term,
        random: &SeededRandom,
        bug: Bug,
    ) -> Option<()> {
        let below = |limit: u64| random.next_u64() % limit;
        let mut checkpoint = pin!(self.store.checkpoint());
        // Asked for first, so that it takes up even what comes now and is not in the journal's file yet.
        let wants_checkpoint = below(8) == 0;
        if wants_checkpoint && poll_fn(|context| Poll::Ready(checkpoint.as_mut().poll(context))).await.is_ready() {
            // Only a store that has stopped answers at once.
            return None;
        }
        let id = ShardId(below(u64::from(SHARDS)) as u16);
        let shard = shards.get_mut(&id)?;
        let entry = shard.next_entry(id, term, random);
        let (count, acknowledged) = (shard.log.len(), shard.acknowledged.clone());
        let done = Box::new(move |result: std::io::Result<()>| {
            if result.is_ok() {
                acknowledged.fetch_max(count, Ordering::SeqCst);
            }
        });
        self.journal.append(id, vec![entry], done).await.ok()?;
        if below(3) == 0 {
            self.apply(id, shard, count).await?;
        }
        match below(6) {
            0 => self.seams.spawner.sleep(Duration::from_millis(below(100))).await,
            1..4 => tokio::task::yield_now().await,
            _ => {}
        }
        for (id, shard) in &mut *shards {
            let acknowledged = shard.acknowledged.load(Ordering::SeqCst);
            self.apply(*id, shard, acknowledged).await?;
        }
        if wants_checkpoint {
            checkpoint.await.ok()?;
        }
        if below(6) == 0 {
            let applied = shards[&id].applied.head.applied;
            let checkpointed = self.store.checkpointed().applied.get(&id).copied();
            if let Some(upto) = if bug == Bug::EagerPurge { applied } else { checkpointed } {
                self.journal.purge(id, upto).await.ok()?;
            }
        }
        Some(())
    }

    /// Hands the store what the first `count` entries come to.
    async fn apply(&self, id: ShardId, shard: &mut Shard, count: usize) -> Option<()> {
        while shard.applied.applied() < count {
            let changes = shard.applied.apply(id, &shard.log[shard.applied.applied()]);
            self.store.write(changes).await.ok()?;
        }
        Some(())
    }
}

fn barrier(journal: &Journal, bug: Bug) -> JournalFlushed {
    let journal = journal.clone();
    Arc::new(move || {
        let journal = journal.clone();
        Box::pin(async move { if bug == Bug::NoBarrier { Ok(()) } else { journal.flushed().await } })
    })
}

/// How often something happened, so that a test can tell that its cuts came at telling moments.
#[derive(Debug, Default)]
struct Tally {
    appended: usize,
    acknowledged: usize,
    purged: usize,
}

/// Some lives of one node, each ended by a power cut, a kill, or in order.
async fn crash(seed: u64, bug: Bug, tally: &mut Tally) -> Result<(), String> {
    let random = SeededRandom::new(seed);
    let mut disk = SimulatedDisk::new();
    let mut shards: BTreeMap<_, _> = (0..SHARDS).map(|id| (ShardId(id), Shard::default())).collect();
    for life in 0..LIVES {
        disk.set_faults(Faults { sync_lies: bug == Bug::LyingDisk, ..Faults::default() });
        disk.cut_power_after(random.next_u64() % 400);
        match Node::open(&disk, seed, bug).await {
            Ok(node) => {
                let recovered = node.recover(&mut shards).await;
                if !disk.power_is_off() {
                    recovered.map_err(|wrong| format!("life {life}: {wrong}"))?;
                    let steps = 10 + random.next_u64() % 60;
                    node.work(&mut shards, life as Term + 1, &random, bug, steps).await;
                    if random.next_u64().is_multiple_of(8) {
                        let _ = node.store.close().await;
                        node.journal.close().await;
                    }
                }
            }
            Err(error) if !disk.power_is_off() => return Err(format!("life {life}: it does not open: {error}")),
            Err(_) => {}
        }
        for shard in shards.values_mut() {
            // What a journal that goes on in the background calls back from here on is on a disk that is no more.
            let acknowledged = shard.acknowledged.load(Ordering::SeqCst);
            shard.acknowledged = Arc::new(AtomicUsize::new(acknowledged));
            tally.appended += shard.log.len();
            tally.acknowledged += acknowledged;
        }
        disk = match random.next_u64() % 5 {
            0 => disk.process_killed(),
            _ => disk.power_cut(random.next_u64()),
        };
    }
    let node = Node::open(&disk, seed, bug).await.map_err(|error| format!("it does not open: {error}"))?;
    node.recover(&mut shards).await?;
    tally.purged += shards.keys().filter(|id| node.journal.log_state(**id).last_purged.is_some()).count();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whatever_was_acknowledged_survives_power_cuts_and_nothing_else_appears() {
    let replay = std::env::var("BERTH_CRASH_SEED").ok();
    let seeds = match replay.map(|seed| seed.parse::<u64>().expect("BERTH_CRASH_SEED is a number")) {
        Some(seed) => seed..seed + 1,
        None => 0..1_000,
    };
    let (mut tally, is_replay) = (Tally::default(), seeds.end - seeds.start == 1);
    for seed in seeds {
        if let Err(wrong) = crash(seed, Bug::None, &mut tally).await {
            panic!("BERTH_CRASH_SEED={seed} replays this: {wrong}");
        }
    }
    println!("{tally:?}");
    assert!(is_replay || (tally.acknowledged > 60_000 && tally.purged > 1_500), "the cuts came at telling moments");
}

#[tokio::test(start_paused = true)]
async fn planted_bugs_are_noticed() {
    for bug in [Bug::NoBarrier, Bug::EagerPurge, Bug::LyingDisk] {
        let mut noticed = 0;
        for seed in 0..60 {
            noticed += usize::from(crash(seed, bug, &mut Tally::default()).await.is_err());
        }
        println!("{bug:?} was noticed by {noticed} of 60 seeds");
        assert!(noticed > 0, "{bug:?} was not noticed");
    }
}
