//! The store against the plainest thing that does the same: maps in memory. Random changes, and between them random steps
//! of the way into the file; after every one all reads must answer as the maps do.

use std::collections::BTreeMap;

use proptest::prelude::*;

use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use super::*;

const SHARDS: u16 = 2;
const IDS: [&str; 5] = ["a", "a b", "b", "ü", "hot"];

/// Everything that was written, as plainly as it can be said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) shards: BTreeMap<ShardId, ModelShard>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ModelShard {
    pub(super) head: ShardHead,
    entities: BTreeMap<EntityKey, ModelEntity>,
    outcomes: BTreeMap<(Lane, u64), OutcomeRow>,
    rows: RowBounds,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelEntity {
    events: Vec<StoredEvent>,
    deleted: bool,
    snapshot: Option<Snapshot>,
}

impl Model {
    /// How many times changes have been applied.
    pub(super) fn applied(&self) -> u64 {
        self.shards.values().filter_map(|shard| Some(shard.head.applied?.index)).sum()
    }

    /// Changes that make sense now, applied here already.
    pub(super) fn random_changes(&mut self, random: &SeededRandom) -> Changes {
        let below = |limit: u64| random.next_u64() % limit;
        let shard_id = ShardId(below(u64::from(SHARDS)) as u16);
        self.random_changes_of(shard_id, random)
    }

    pub(super) fn random_changes_of(&mut self, shard_id: ShardId, random: &SeededRandom) -> Changes {
        let below = |limit: u64| random.next_u64() % limit;
        let shard = self.shards.entry(shard_id).or_default();
        let index = shard.head.applied.map_or(0, |applied| applied.index) + 1;
        shard.head.applied = Some(LogId { term: 1 + index / 10, index });
        shard.head.shard_time_micros += 1 + below(10);
        shard.head.content_hash = random.next_u128();
        if below(4) == 0 {
            shard.head.hash_marks.push(HashMark { index, content_hash: random.next_u128() });
            shard.head.membership.bytes = vec![1; below(20) as usize].into();
        }
        let count = below(4);
        let entities = (0..count).map(|_| shard.random_entity(random)).collect();
        let outcomes = (0..below(4)).map(|_| shard.random_outcome(random)).collect();
        let expired = shard.random_expiry(random);
        Changes { shard: shard_id, head: shard.head.clone(), entities, outcomes, expired }
    }
}

impl ModelShard {
    fn random_entity(&mut self, random: &SeededRandom) -> EntityChange {
        let below = |limit: u64| random.next_u64() % limit;
        let key = EntityKey::new(["counter", "cart"][below(2) as usize], IDS[below(5) as usize]).unwrap();
        let time = self.head.shard_time_micros;
        let entity = self.entities.entry(key.clone()).or_default();
        let version = entity.events.len() as Version;
        let count = if version == 0 { 1 + below(3) } else { below(4) };
        // Now and then one that is larger than a row.
        let bytes = if below(40) == 0 { 70_000 } else { below(300) };
        let data = || Bytes::from(vec![random.next_u64() as u8; bytes as usize]);
        let new: Vec<_> = (version + 1..=version + count)
            .map(|version| StoredEvent {
                version,
                time_micros: time + version,
                event_type: Bytes::from_static(b"changed"),
                data: data(),
            })
            .collect();
        entity.events.extend(new.iter().cloned());
        if count > 0 {
            entity.deleted = below(5) == 0;
        }
        let version = version + count;
        let snapshot = (below(5) == 0).then(|| {
            let at = version.saturating_sub(below(3)).max(1);
            Snapshot { version: at, state: Bytes::from(format!("{at} {}", below(1 << 30))) }
        });
        // A later snapshot of the same version holds the same state, so the first may stay.
        if let Some(new) = &snapshot
            && entity.snapshot.as_ref().is_none_or(|old| old.version < new.version)
        {
            entity.snapshot = Some(new.clone());
        }
        let snapshot = snapshot.map(|new| match &entity.snapshot {
            Some(kept) if kept.version == new.version => kept.clone(),
            _ => new,
        });
        EntityChange { key, version, deleted: entity.deleted, events: new, snapshot }
    }

    fn random_outcome(&mut self, random: &SeededRandom) -> OutcomeRow {
        let lane = Lane::ALL[(random.next_u64() % 2) as usize];
        let row = 1 + self.outcomes.range((lane, 0)..=(lane, u64::MAX)).next_back().map_or(0, |((_, row), _)| *row);
        let row = OutcomeRow { row: row.max(self.rows.of(lane)), ..outcome(lane, row) };
        self.outcomes.insert((lane, row.row), row.clone());
        row
    }

    fn random_expiry(&mut self, random: &SeededRandom) -> RowBounds {
        if !random.next_u64().is_multiple_of(3) {
            return RowBounds::default();
        }
        self.rows.gateway += random.next_u64() % 4;
        self.rows.client += random.next_u64() % 3;
        let rows = self.rows;
        self.outcomes.retain(|(lane, row), _| *row >= rows.of(*lane));
        rows
    }
}

/// All that `store` answers, next to what it should answer.
pub(super) fn check(store: &Store, model: &Model) -> Result<(), String> {
    for shard in (0..SHARDS).map(ShardId) {
        check_shard(store, shard, &model.shards.get(&shard).cloned().unwrap_or_default())?;
    }
    Ok(())
}

pub(super) fn check_shard(store: &Store, shard: ShardId, expected: &ModelShard) -> Result<(), String> {
    let same = |what: &str, found: String, expected: String| {
        if found == expected { Ok(()) } else { Err(format!("{what}: found {found}\nexpected {expected}")) }
    };
    let read = |error: Error| format!("unreadable: {error}");
    let head = store.shard_head(shard);
    same("head", format!("{:?}", head.unwrap_or_default()), format!("{:?}", expected.head))?;

    let keys: Vec<_> = ["counter", "cart", "cat"]
        .into_iter()
        .flat_map(|kind| IDS.map(|id| EntityKey::new(kind, id).unwrap()))
        .collect();
    let entities = store.entities(shard, &keys).map_err(read)?;
    for (key, found) in keys.iter().zip(entities) {
        let entity = expected.entities.get(key);
        let wanted = entity.map(ModelEntity::stored);
        same(key.as_str(), format!("{found:?}"), format!("{wanted:?}"))?;
        let mut history = Vec::new();
        let mut after = Some(0);
        while let Some(from) = after {
            let page = store.events(shard, key, from, 3, 500).map_err(read)?;
            after = page.as_ref().and_then(|page| page.next);
            history.extend(page.into_iter().flat_map(|page| page.events));
        }
        let wanted = entity.map(|entity| entity.events.clone()).unwrap_or_default();
        same(key.as_str(), format!("{history:?}"), format!("{wanted:?}"))?;
    }

    for (kind, prefix, after, rows_max) in [("counter", "", "", 1), ("counter", "a", "a", 2), ("cart", "", "a b", 9)] {
        let span = Span { kind: kind.to_owned(), prefix: prefix.to_owned() };
        let (mut listed, mut next) = (Vec::new(), Some(after.to_owned()));
        while let Some(from) = next {
            let stretch = store.list(&span, &[(shard, from)], rows_max).map_err(read)?.remove(0);
            listed.extend(stretch.entities);
            next = stretch.more_after;
        }
        let wanted = expected.entities.iter().filter(|(key, entity)| {
            !entity.deleted && key.kind() == kind && key.id().starts_with(prefix) && key.id() > after
        });
        let wanted: Vec<_> =
            wanted.map(|(key, entity)| (key.id().to_owned(), entity.events.len() as Version)).collect();
        same("listing", format!("{listed:?}"), format!("{wanted:?}"))?;
    }

    let rows = outcome_index_checked(store, shard).map_err(read)?;
    same("rows", format!("{rows:?}"), format!("{:?}", expected.outcomes.keys().collect::<Vec<_>>()))?;
    for (lane, row) in Lane::ALL.into_iter().flat_map(|lane| (0..12).map(move |row| (lane, row))) {
        let found = store.outcome(shard, lane, row).map_err(read)?;
        same("outcome", format!("{found:?}"), format!("{:?}", expected.outcomes.get(&(lane, row)).cloned()))?;
    }
    Ok(())
}

fn outcome_index_checked(store: &Store, shard: ShardId) -> Result<Vec<(Lane, u64)>, Error> {
    let mut rows = Vec::new();
    store.outcomes(shard, &mut |row| rows.push((row.lane, row.row)))?;
    rows.sort_unstable();
    Ok(rows)
}

impl ModelEntity {
    fn stored(&self) -> StoredEntity {
        let after = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.version);
        let events: Vec<_> = self.events.iter().filter(|event| event.version > after).cloned().collect();
        StoredEntity {
            version: self.events.len() as Version,
            deleted: self.deleted,
            last_event_time_micros: self.events.last().map_or(0, |event| event.time_micros),
            snapshot: self.snapshot.clone(),
            event_bytes: events.iter().map(StoredEvent::stored_bytes).sum(),
            events,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write,
    /// The three steps of a flush; readers may come in between.
    TakeLayer,
    WriteLayer,
    DropLayer,
    Checkpoint,
    PowerCut,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => Just(Step::Write),
        3 => Just(Step::TakeLayer),
        3 => Just(Step::WriteLayer),
        3 => Just(Step::DropLayer),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Restart),
    ]
}

/// The store and the model, and the layer on its way into the file.
struct Run {
    disk: SimulatedDisk,
    store: Store,
    random: SeededRandom,
    now: Model,
    durable: Model,
    taken: Option<Arc<layer::Layer>>,
    is_written: bool,
}

impl Run {
    async fn step(&mut self, step: Step) {
        match step {
            Step::Write => self.store.write(self.now.random_changes(&self.random)).await.unwrap(),
            Step::TakeLayer if self.taken.is_none() => self.taken = self.store.take_layer(),
            Step::WriteLayer if !self.is_written => {
                if let Some(layer) = &self.taken {
                    self.store.write_layer(layer);
                    self.is_written = true;
                }
            }
            Step::DropLayer if self.is_written => {
                self.store.drop_layer();
                (self.taken, self.is_written) = (None, false);
            }
            Step::Checkpoint if self.taken.is_none() => {
                self.store.checkpoint().await.unwrap();
                self.durable = self.now.clone();
            }
            Step::PowerCut => {
                self.disk = self.disk.power_cut(self.random.next_u64());
                self.now = self.durable.clone();
                (self.taken, self.is_written) = (None, false);
                self.store = open_with(&self.disk, idle_config()).await;
            }
            Step::Restart if self.taken.is_none() => {
                self.store.clone().close().await.unwrap();
                self.durable = self.now.clone();
                self.store = open_with(&self.disk, idle_config()).await;
            }
            _ => {}
        }
    }
}

async fn run(seed: u64, steps: Vec<Step>) -> Result<(), String> {
    let disk = SimulatedDisk::new();
    let store = open_with(&disk, idle_config()).await;
    let random = SeededRandom::new(seed);
    let (now, durable) = (Model::default(), Model::default());
    let mut run = Run { disk, store, random, now, durable, taken: None, is_written: false };
    for (number, step) in steps.into_iter().enumerate() {
        run.step(step).await;
        check(&run.store, &run.now).map_err(|wrong| format!("after step {number}, {step:?}: {wrong}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_answer_the_same_wherever_the_changes_are(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        prop_assert_eq!(runtime.block_on(run(seed, steps)), Ok(()));
    }
}
