//! A shard that gets a snapshot in place of the entries it missed. Its machine, window and residents change with its store;
//! and whatever a power cut leaves of journal and store while that happens, the node can start on it.
//!
//! `BERTH_INSTALL_SEED=7 cargo test -p berth-node --test install` replays one seed of the power cuts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_node::disk::{Faults, SimulatedDisk};
use berth_node::entity::Registry;
use berth_node::journal::{self, Entry, Journal, Payload, Vote};
use berth_node::record::{Batch, EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};
use berth_node::shard::Shard;
use berth_node::shard::machine::Verdict;
use berth_node::shard::residency::Residency;
use berth_node::store::{self, Staging, Store};
use berth_shared::ids::{LogId, NodeId, ShardId, Term, Version};
use berth_shared::key::EntityKey;
use berth_shared::seam::random::SeededRandom;
use berth_shared::seam::{Random, Seams};
use bytes::Bytes;

const SHARD: ShardId = ShardId(2);
const IDS: [&str; 5] = ["a", "b", "c", "d", "hot"];

fn key(id: &str) -> EntityKey {
    EntityKey::new("counter", id).unwrap()
}

fn log_id(term: Term, index: u64) -> LogId {
    LogId { term, index }
}

/// Which key the record of an entry was sent under: one per entry.
fn scope(index: u64) -> Scope {
    Scope(u128::from(index).to_le_bytes())
}

/// A log in which every entry adds 1 to one counter. Time goes a second per entry.
#[derive(Clone, Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    versions: BTreeMap<String, Version>,
}

impl Log {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id)
    }

    fn push(&mut self, term: Term, id: &str, origin: KeyOrigin) -> Entry {
        let index = self.entries.len() as u64 + 1;
        let version = self.versions.entry(id.to_owned()).or_default();
        let record = Record {
            key: key(id),
            request: RequestKey { scope: scope(index), fingerprint: Fingerprint([1; 16]), origin },
            base_version: *version,
            time_micros: index * 1_000_000,
            outcome: Outcome { status: Status::Accepted, reply: index.to_string().into(), reason: Bytes::new() },
            events: std::iter::once(EventBody { event_type: "added".into(), data: r#"{"by":1}"#.into() }).collect(),
        };
        *version += 1;
        let batch = Arc::new(Batch::new(term, vec![record]));
        let entry = Entry { log_id: log_id(term, index), payload: Payload::Batch(batch) };
        self.entries.push(entry.clone());
        entry
    }

    fn push_random(&mut self, term: Term, random: &SeededRandom) -> Entry {
        let id = IDS[(random.next_u64() % 5) as usize];
        let origin = match random.next_u64() % 2 {
            0 => KeyOrigin::Client,
            _ => KeyOrigin::Gateway { created_micros: self.entries.len() as u64 * 1_000_000 },
        };
        self.push(term, id, origin)
    }
}

async fn apply(shard: &Shard, entry: &Entry) -> Option<()> {
    let Payload::Batch(batch) = &entry.payload else { panic!("only batches were appended") };
    // Read from a log, it is not the batch that anybody expects.
    let batch = Arc::new(Batch::decode(batch.bytes().clone()).unwrap());
    let applied = shard.apply(entry.log_id, &batch).await.ok()?;
    assert_eq!(applied.verdicts.as_slice(), [Verdict::Applied]);
    Some(())
}

fn flushed_journal() -> store::JournalFlushed {
    Arc::new(|| Box::pin(async { Ok(()) }))
}

fn open_shard(store: &Store, seams: &Seams) -> Arc<Shard> {
    let registry = Arc::new(Registry::built_in());
    Shard::open(SHARD, registry, store.clone(), Residency::new(1 << 20), seams.clone()).unwrap()
}

/// A shard that has applied `log`, alone on its node.
async fn shard_with(log: &Log) -> (Store, Arc<Shard>) {
    let seams = Seams::simulated(1);
    let store = Store::open(&SimulatedDisk::new(), flushed_journal(), store::Config::default(), seams.clone()).await;
    let store = store.unwrap();
    let shard = open_shard(&store, &seams);
    for entry in &log.entries {
        apply(&shard, entry).await.unwrap();
    }
    (store, shard)
}

/// Everything that `from` has of the shard, received by `to`.
async fn transfer(from: &Store, to: &Store) -> Result<Staging, store::Error> {
    let mut reader = from.snapshot(SHARD).await?;
    let mut staging = to.stage(SHARD).await?;
    while let Some(chunk) = reader.next_chunk().await? {
        staging.add(chunk).await?;
    }
    Ok(staging)
}

/// All that the shard says of what it has applied.
async fn content(shard: &Shard) -> String {
    let mut said = {
        let machine = shard.machine();
        let head = machine.head();
        let keys: Vec<_> = (1..200).filter_map(|index| machine.window.get(&scope(index))).collect();
        let (applied, time, hash) = (head.applied, head.shard_time_micros, head.content_hash);
        vec![format!("{applied:?} {time} {hash} {:?} {} {keys:?}", head.hash_marks, machine.window.len())]
    };
    let rows = (1..200).filter_map(|index| shard.machine().window.get(&scope(index))).collect();
    said.push(format!("{:?}", shard.outcomes(rows).await.unwrap()));
    for id in IDS {
        let versions = shard.load(vec![key(id)]).await.unwrap().remove(&key(id)).map(|resident| resident.version);
        let state = shard.state_at(&key(id), versions.unwrap_or(0)).await.unwrap();
        let page = shard.events(&key(id), 0, 1_000).await.unwrap();
        said.push(format!("{id} {versions:?} {state:?} {page:?}"));
    }
    said.join("\n")
}

#[tokio::test(start_paused = true)]
async fn a_shard_with_a_snapshot_is_like_one_that_applied_the_entries_and_goes_on_like_it() {
    let random = SeededRandom::new(3);
    let mut log = Log::default();
    for _ in 0..20 {
        log.push_random(1, &random);
    }
    let short = log.clone();
    // Far enough for keys of gateways to expire.
    for _ in 0..160 {
        log.push_random(2, &random);
    }
    let (leading_store, leading) = shard_with(&log).await;
    assert!(leading.machine().window.len() < 150, "keys have expired");
    for behind in [Log::default(), short] {
        let (store, shard) = shard_with(&behind).await;
        for id in IDS {
            shard.load(vec![key(id)]).await.unwrap();
        }
        let before = content(&shard).await;
        shard.machine().expect(Arc::new(Batch::new(1, Vec::new())), Vec::new());
        let staging = transfer(&leading_store, &store).await.unwrap();
        assert_eq!(content(&shard).await, before, "nothing has changed yet");
        shard.install(staging).await.unwrap();
        assert!(shard.machine().entities.is_empty(), "residents are of the past");
        assert!(shard.machine().head().is_as_installed());
        assert_eq!(content(&shard).await, content(&leading).await);
        assert_eq!(shard.seen(), leading.seen());

        let mut log = log.clone();
        for _ in 0..40 {
            apply(&shard, &log.push_random(3, &random)).await.unwrap();
        }
        assert_eq!(content(&shard).await, content(&shard_with(&log).await.1).await);
        assert!(!shard.machine().head().is_as_installed());
    }
}

/// On threads: entities are loaded and forgotten while snapshots come in. Every entry adds to one counter, so its version
/// tells of which entry it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_an_entity_of_before_a_snapshot_after_it() {
    const INSTALLS: usize = 40;
    let seams = Seams::system();
    let mut log = Log::default();
    let (leading_store, leading) = shard_with(&log).await;
    let directory = tempfile::tempdir().unwrap();
    let disk = berth_node::disk::DirectoryDisk::open(directory.path()).unwrap();
    let config = store::Config { flush_interval: Duration::from_millis(1), ..store::Config::default() };
    let store = Store::open(&disk, flushed_journal(), config, seams.clone()).await.unwrap();
    let registry = Arc::new(Registry::built_in());
    // Nothing fits into the budget, so every read is a load.
    let shard = Shard::open(SHARD, registry, store.clone(), Residency::new(0), seams.clone()).unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let shard = shard.clone();
            seams.spawner.spawn(async move {
                let (mut seen, mut reads) = (0, 0);
                while seen < INSTALLS as u64 {
                    seen = shard.seen().index;
                    let loaded = shard.load(vec![key("hot")]).await.unwrap().remove(&key("hot")).unwrap();
                    assert!(loaded.version >= seen, "version {} after entry {seen}", loaded.version);
                    let resident = shard.resident(&key("hot"));
                    assert!(resident.is_none_or(|resident| resident.version >= seen));
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for _ in 0..INSTALLS {
        apply(&leading, &log.push(1, "hot", KeyOrigin::Client)).await.unwrap();
        shard.install(transfer(&leading_store, &store).await.unwrap()).await.unwrap();
    }
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

/// What may be wrong with the code under test, planted to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// The journal is purged before the store has the snapshot on disk.
    EagerPurge,
    /// The disk keeps nothing that it was asked to sync.
    LyingDisk,
}

/// A node that has missed entries.
struct Node {
    journal: Journal,
    store: Store,
    shard: Arc<Shard>,
}

impl Node {
    async fn open(disk: &SimulatedDisk) -> Result<Self, String> {
        let seams = Seams::simulated(1);
        let config = journal::Config { fatal: Arc::new(|_| {}), cache_bytes: 1 << 20, ..journal::Config::default() };
        let journal = Journal::open(disk, config, seams.clone()).await.map_err(|error| error.to_string())?;
        let flushed: store::JournalFlushed = {
            let journal = journal.clone();
            Arc::new(move || {
                let journal = journal.clone();
                Box::pin(async move { journal.flushed().await })
            })
        };
        let config = store::Config {
            fatal: Arc::new(|_| {}),
            cache_bytes: 1 << 20,
            flush_bytes: 3_000,
            queue_bytes_max: 10_000,
            checkpoint_bytes: 12_000,
            checkpoint_interval: Duration::from_millis(300),
            ..store::Config::default()
        };
        let store = Store::open(disk, flushed, config, seams.clone()).await.map_err(|error| error.to_string())?;
        let shard = open_shard(&store, &seams);
        Ok(Self { journal, store, shard })
    }

    fn applied(&self) -> Option<LogId> {
        self.shard.machine().head().applied
    }

    /// Not waiting for the disk, as openraft does not either.
    async fn append(&self, entries: Vec<Entry>) -> Option<()> {
        self.journal.append(SHARD, entries, Box::new(|_| {})).await.ok()
    }

    async fn vote(&self, term: Term) -> Option<()> {
        self.journal.save_vote(SHARD, Vote { term, node: NodeId(7), committed: true }).await.ok()
    }

    /// Some entries of the log, of which some are applied; then maybe some that never were committed.
    async fn follow(&self, log: &Log, random: &SeededRandom) -> Option<()> {
        let below = |limit: u64| random.next_u64() % limit;
        self.vote(1).await?;
        let appended = below(30) as usize;
        let applied = below(appended as u64 + 1) as usize;
        self.append(log.entries[..appended].to_vec()).await?;
        if below(2) == 0 {
            let mut other = Log { entries: log.entries[..appended].to_vec(), ..Log::default() };
            let term = other.last().map_or(1, |last| last.term) + 1;
            let tail = (0..below(60)).map(|_| other.push(term, "never", KeyOrigin::Client)).collect();
            self.append(tail).await?;
        }
        for entry in &log.entries[..applied] {
            apply(&self.shard, entry).await?;
        }
        if below(2) == 0 {
            self.store.checkpoint().await.ok()?;
            if let Some(upto) = self.store.checkpointed().applied.get(&SHARD) {
                self.journal.purge(SHARD, *upto).await.ok()?;
            }
        }
        Some(())
    }

    /// What openraft does with a snapshot up to `last`: in this order, waiting only for the vote and for the install.
    async fn install(&self, from: &Store, last: LogId, bug: Bug) -> Option<()> {
        self.vote(9).await?;
        let at = self.journal.entries(SHARD, last.index..last.index + 1).await.ok()?;
        if at.first().is_some_and(|entry| entry.log_id != last) {
            self.journal.truncate_after(SHARD, self.applied()).await.ok()?;
        }
        let mut reader = from.snapshot(SHARD).await.ok()?;
        let mut staging = self.store.stage(SHARD).await.ok()?;
        while let Some(chunk) = reader.next_chunk().await.ok()? {
            staging.add(chunk).await.ok()?;
        }
        if bug == Bug::EagerPurge {
            self.journal.purge(SHARD, last).await.ok()?;
        }
        self.shard.install(staging).await.ok()?;
        self.journal.purge(SHARD, last).await.ok()
    }

    /// Everything that the log has and the node has not.
    async fn catch_up(&self, log: &Log, random: &SeededRandom) -> Option<()> {
        let applied = self.applied().map_or(0, |applied| applied.index as usize);
        let mut appended = self.journal.log_state(SHARD).last.map_or(0, |last| last.index as usize);
        for (count, entry) in (1..).zip(&log.entries).skip(applied) {
            if count > appended {
                self.append(vec![entry.clone()]).await?;
                appended = count;
            }
            apply(&self.shard, entry).await?;
            if random.next_u64().is_multiple_of(10) {
                self.store.checkpoint().await.ok()?;
                if let Some(upto) = self.store.checkpointed().applied.get(&SHARD) {
                    self.journal.purge(SHARD, *upto).await.ok()?;
                }
            }
        }
        Some(())
    }

    /// What a start checks, ours and openraft's, and what openraft then does about a journal that ends too early.
    async fn recover(&self, log: &Log) -> Result<(), String> {
        let head = self.shard.machine().head().clone();
        let (applied, state) = (head.applied, self.journal.log_state(SHARD));
        let found = format!("applied {applied:?}, installed {:?}, journal {state:?}", head.installed);
        if applied.is_some() && self.journal.vote(SHARD).is_none() {
            return Err(format!("the vote is lost: {found}"));
        }
        if state.last_purged > applied {
            return Err(format!("the store is behind what was purged: {found}"));
        }
        if applied > state.last {
            let is_hole = state.last.map_or(0, |last| last.index) < applied.map_or(0, |applied| applied.index);
            if !head.is_as_installed() || !is_hole {
                return Err(format!("the store is ahead of its journal: {found}"));
            }
            self.journal.purge(SHARD, applied.unwrap_or_default()).await.map_err(|error| error.to_string())?;
        }
        // The leader tells which entries are not its own.
        let entries = self.journal.entries(SHARD, 0..u64::MAX).await.map_err(|error| error.to_string())?;
        let common = |entry: &&Entry| log.entries.get(entry.log_id.index as usize - 1) == Some(*entry);
        let last_common = entries.iter().take_while(common).last().map(|entry| entry.log_id);
        let last_common = last_common.or(self.journal.log_state(SHARD).last_purged);
        if last_common < applied {
            return Err(format!("an applied entry contradicts the journal: {found}"));
        }
        self.journal.truncate_after(SHARD, last_common).await.map_err(|error| error.to_string())
    }
}

/// How often something happened, so that a test can tell that its cuts came at telling moments.
#[derive(Debug, Default)]
struct Tally {
    before: usize,
    holes: usize,
    installed: usize,
    ended: usize,
}

async fn crash(seed: u64, bug: Bug, tally: &mut Tally) -> Result<(), String> {
    let random = SeededRandom::new(seed);
    let mut log = Log::default();
    for index in 0..60 {
        log.push_random(1 + index / 15 * 2, &random);
    }
    let (leading_store, _leading) = shard_with(&log).await;
    let snapshot = log.last().unwrap_or_default();
    for _ in 0..20 {
        log.push_random(9, &random);
    }

    let disk = SimulatedDisk::new();
    disk.set_faults(Faults { sync_lies: bug == Bug::LyingDisk, ..Faults::default() });
    disk.cut_power_after(30 + random.next_u64() % 400);
    let mut durable = None;
    if let Ok(node) = Node::open(&disk).await {
        let work = async {
            node.follow(&log, &random).await?;
            node.install(&leading_store, snapshot, bug).await?;
            node.catch_up(&log, &random).await
        };
        tally.ended += usize::from(work.await.is_some());
        durable = node.store.checkpointed().applied.get(&SHARD).copied();
    }
    let disk = match random.next_u64() % 5 {
        0 => disk.process_killed(),
        _ => disk.power_cut(random.next_u64()),
    };
    disk.set_faults(Faults::default());
    let node = Node::open(&disk).await.map_err(|error| format!("it does not open: {error}"))?;
    let applied = node.applied();
    if applied < durable {
        return Err(format!("{durable:?} was durable, and {applied:?} is there"));
    }
    let before =
        Log { entries: log.entries[..applied.map_or(0, |applied| applied.index as usize)].to_vec(), ..log.clone() };
    let expected = content(&shard_with(&before).await.1).await;
    if content(&node.shard).await != expected {
        return Err(format!("at {applied:?} it is {}\ninstead of {expected}", content(&node.shard).await));
    }
    tally.before += usize::from(applied < Some(snapshot));
    tally.installed += usize::from(applied >= Some(snapshot));
    tally.holes += usize::from(applied > node.journal.log_state(SHARD).last);
    node.recover(&log).await?;
    node.catch_up(&log, &random).await.ok_or("it does not go on")?;
    let expected = content(&shard_with(&log).await.1).await;
    if content(&node.shard).await == expected { Ok(()) } else { Err("it went on to something else".to_owned()) }
}

#[tokio::test(start_paused = true)]
async fn a_node_starts_on_whatever_a_power_cut_leaves_of_an_install() {
    let replay = std::env::var("BERTH_INSTALL_SEED").ok();
    let seeds = match replay.map(|seed| seed.parse::<u64>().expect("BERTH_INSTALL_SEED is a number")) {
        Some(seed) => seed..seed + 1,
        None => 0..400,
    };
    let (mut tally, is_replay) = (Tally::default(), seeds.end - seeds.start == 1);
    for seed in seeds {
        if let Err(wrong) = crash(seed, Bug::None, &mut tally).await {
            panic!("BERTH_INSTALL_SEED={seed} replays this: {wrong}");
        }
    }
    println!("{tally:?}");
    let telling = tally.before > 40 && tally.holes > 5 && tally.installed > 40 && tally.ended > 5;
    assert!(is_replay || telling, "the cuts came at telling moments: {tally:?}");
}

#[tokio::test(start_paused = true)]
async fn planted_bugs_are_noticed() {
    for bug in [Bug::EagerPurge, Bug::LyingDisk] {
        let mut noticed = 0;
        for seed in 0..100 {
            noticed += usize::from(crash(seed, bug, &mut Tally::default()).await.is_err());
        }
        println!("{bug:?} was noticed by {noticed} of 100 seeds");
        assert!(noticed > 0, "{bug:?} was not noticed");
    }
}
