//! A node that loses power while it deletes replicas and takes up new ones of the same shards. After every cut there is of each
//! replica all or nothing: what a start refuses, or what is half of one and half of another, never comes about. What the
//! deleted replicas had promised is still known, and the replica beside them is as it was.
//!
//! `BERTH_DELETION_SEED=7 cargo test -p berth-node --test deletion` replays one seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_node::disk::{Faults, SimulatedDisk};
use berth_node::entity::Registry;
use berth_node::journal::{self, Entry, Journal, LogState, Payload, Vote};
use berth_node::record::{Batch, EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};
use berth_node::replica_files;
use berth_node::shard::Shard;
use berth_node::shard::residency::Residency;
use berth_node::store::{self, Store};
use berth_shared::ids::{LogId, NodeId, ShardId, Term, Version};
use berth_shared::key::EntityKey;
use berth_shared::seam::random::SeededRandom;
use berth_shared::seam::{Random, Seams};
use bytes::Bytes;

const MOVING: ShardId = ShardId(2);
const STAYING: ShardId = ShardId(5);
const IDS: [&str; 3] = ["a", "b", "hot"];
const LIVES: usize = 4;

/// What may be wrong with the code under test, planted to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    /// The store goes first, and the journal knows of nothing.
    StoreFirst,
    /// The journal goes first, with all that it knows of the deletion.
    JournalFirst,
    /// A start does not finish what was begun.
    Forgetful,
    /// The disk keeps nothing that it was asked to sync.
    LyingDisk,
}

/// One life of a replica: what its group has, index 1 first.
#[derive(Clone, Debug, Default)]
struct Stay {
    log: Vec<Entry>,
    versions: BTreeMap<&'static str, Version>,
    /// Entries that this node has said to have on disk.
    acknowledged: Arc<AtomicUsize>,
}

impl Stay {
    /// No two stays have an entry in common, because each has terms of its own.
    fn push(&mut self, term: Term, random: &SeededRandom) -> Entry {
        let id = IDS[(random.next_u64() % 3) as usize];
        let version = self.versions.entry(id).or_default();
        let index = self.log.len() as u64 + 1;
        let record = Record {
            key: EntityKey::new("counter", id).unwrap(),
            request: RequestKey {
                scope: Scope(random.next_u128().to_le_bytes()),
                fingerprint: Fingerprint([1; 16]),
                origin: KeyOrigin::Client,
            },
            base_version: *version,
            time_micros: index * 1_000_000 + term,
            outcome: Outcome { status: Status::Accepted, reply: index.to_string().into(), reason: Bytes::new() },
            events: std::iter::once(EventBody { event_type: "added".into(), data: r#"{"by":1}"#.into() }).collect(),
        };
        *version += 1;
        let batch = Arc::new(Batch::new(term, vec![record]));
        let entry = Entry { log_id: LogId { term, index }, payload: Payload::Batch(batch) };
        self.log.push(entry.clone());
        entry
    }
}

async fn apply(shard: &Shard, entry: &Entry) -> Option<()> {
    let Payload::Batch(batch) = &entry.payload else { panic!("only batches were appended") };
    let batch = Arc::new(Batch::decode(batch.bytes().clone()).unwrap());
    shard.apply(entry.log_id, &batch).await.ok().map(drop)
}

fn open_shard(id: ShardId, store: &Store, seams: &Seams) -> Arc<Shard> {
    let registry = Arc::new(Registry::built_in());
    Shard::open(id, registry, store.clone(), Residency::new(1 << 20), seams.clone()).unwrap()
}

/// A shard that has applied `log` on a node of its own.
async fn shard_with(id: ShardId, log: &[Entry]) -> (Store, Arc<Shard>) {
    let seams = Seams::simulated(1);
    let flushed: store::JournalFlushed = Arc::new(|| Box::pin(async { Ok(()) }));
    let store = Store::open(&SimulatedDisk::new(), flushed, store::Config::default(), seams.clone()).await.unwrap();
    let shard = open_shard(id, &store, &seams);
    for entry in log {
        apply(&shard, entry).await.unwrap();
    }
    (store, shard)
}

/// All that the shard says of what it has applied.
async fn content(shard: &Shard) -> String {
    let mut said = {
        let machine = shard.machine();
        let head = machine.head();
        let (applied, time, hash) = (head.applied, head.shard_time_micros, head.content_hash);
        vec![format!("{applied:?} {time} {hash} {}", machine.window.len())]
    };
    for id in IDS {
        let key = EntityKey::new("counter", id).unwrap();
        let version = shard.load(vec![key.clone()]).await.unwrap().remove(&key).map(|resident| resident.version);
        let page = shard.events(&key, 0, 1_000).await.unwrap();
        said.push(format!("{id} {version:?} {page:?}"));
    }
    said.join("\n")
}

/// How far the deletion of a stay has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Deletion {
    #[default]
    None,
    /// It was asked for, and did not end before the power went.
    Asked,
    /// It has ended, and the shard begins anew.
    Done,
}

/// A replica as the test knows it, over all lives of its node.
#[derive(Debug, Default)]
struct Replica {
    stay: Stay,
    stays: u64,
    deletion: Deletion,
    /// The least that the node must remember of the votes and logs that it had.
    term: Term,
    floor: Option<LogId>,
}

impl Replica {
    fn term_of_stay(&self) -> Term {
        10 * (self.stays + 1)
    }

    fn begin_anew(&mut self) {
        self.floor = self.floor.max(self.promised());
        (self.stay, self.deletion) = (Stay::default(), Deletion::Done);
        self.stays += 1;
    }

    /// The last entry that this node has said to have.
    fn promised(&self) -> Option<LogId> {
        self.stay.acknowledged.load(Ordering::SeqCst).checked_sub(1).map(|last| self.stay.log[last].log_id)
    }
}

/// A running node.
struct Node {
    journal: Journal,
    store: Store,
    seams: Seams,
    /// As groups would hold them.
    shards: BTreeMap<ShardId, Arc<Shard>>,
}

impl Node {
    async fn open(disk: &SimulatedDisk, bug: Bug) -> Result<Self, String> {
        let seams = Seams::simulated(1);
        let config = journal::Config {
            fatal: Arc::new(|_| {}),
            cache_bytes: 1 << 20,
            tail_bytes_max: 2_000,
            straggler_distance_min: 20,
            ..journal::Config::default()
        };
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
        if bug != Bug::Forgetful {
            replica_files::finish_deletions(&journal, &store).await.map_err(|error| error.to_string())?;
        }
        Ok(Self { journal, store, seams, shards: BTreeMap::new() })
    }

    /// Checks what a start finds of a replica, and takes it up.
    async fn take_up(&mut self, id: ShardId, replica: &mut Replica) -> Result<(), String> {
        let (state, head) = (self.journal.log_state(id), self.store.shard_head(id).unwrap_or_default());
        let (vote, floor) = (self.journal.vote(id), self.journal.vote_floor(id));
        let found = format!("shard {id}: {state:?}, {vote:?}, applied {:?}, {:?}", head.applied, replica.deletion);
        if vote.map_or(0, |vote| vote.term) < replica.term {
            return Err(format!("the vote is lost: {found}"));
        }
        let is_listed = replica_files::replicas(&self.journal, &self.store).contains(&id);
        let is_gone = state == LogState::default() && head.applied.is_none();
        if !is_listed && !is_gone {
            return Err(format!("nothing is said to be there: {found}"));
        }
        if is_gone && replica.deletion == Deletion::Asked {
            replica.begin_anew();
        }
        if floor < replica.floor || (is_gone && floor < replica.promised()) {
            return Err(format!(
                "the floor {floor:?} is below {:?} or {:?}: {found}",
                replica.floor,
                replica.promised()
            ));
        }
        self.check_start(id, &state, &head).await.map_err(|wrong| format!("{wrong}: {found}"))?;
        let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index as usize);
        let last = index(self.journal.log_state(id).last);
        let acknowledged = replica.stay.acknowledged.load(Ordering::SeqCst);
        if last < acknowledged {
            return Err(format!("{acknowledged} entries were acknowledged: {found}"));
        }
        let entries = self.journal.entries(id, 0..u64::MAX).await.map_err(|error| error.to_string())?;
        let first = index(self.journal.log_state(id).last_purged);
        if replica.stay.log.get(first..last) != Some(&entries) {
            return Err(format!("these are not the entries of this stay: {found}"));
        }
        let shard = open_shard(id, &self.store, &self.seams);
        let applied = index(head.applied);
        let expected = content(&shard_with(id, &replica.stay.log[..applied]).await.1).await;
        if content(&shard).await != expected {
            return Err(format!("{found}: it is {}\ninstead of {expected}", content(&shard).await));
        }
        for entry in &entries[applied - first..] {
            apply(&shard, entry).await.ok_or("it does not go on")?;
        }
        self.shards.insert(id, shard);
        replica.stay.log.truncate(last);
        replica.stay.versions.clear();
        for entry in &replica.stay.log {
            let Payload::Batch(batch) = &entry.payload else { panic!("only batches were appended") };
            for id in batch.records().iter().filter_map(|record| IDS.iter().find(|id| **id == record.key.id())) {
                *replica.stay.versions.entry(id).or_default() += 1;
            }
        }
        replica.stay.acknowledged = Arc::new(AtomicUsize::new(last));
        replica.deletion = Deletion::None;
        Ok(())
    }

    /// What the start of a group checks, and the library behind it.
    async fn check_start(&self, id: ShardId, state: &LogState, head: &store::ShardHead) -> Result<(), String> {
        if head.applied.is_some() && self.journal.vote(id).is_none() {
            return Err("it has applied entries, and no vote".to_owned());
        }
        if state.last_purged > head.applied {
            return Err("the store is behind what was purged".to_owned());
        }
        if head.applied > state.last {
            if !head.is_as_installed() {
                return Err("the store is ahead of its journal".to_owned());
            }
            let applied = head.applied.unwrap_or_default();
            self.journal.purge(id, applied).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn append(&self, id: ShardId, replica: &mut Replica, random: &SeededRandom) -> Option<()> {
        if self.journal.vote(id).is_none_or(|vote| vote.term < replica.term_of_stay()) {
            let term = replica.term_of_stay();
            self.journal.save_vote(id, Vote { term, node: NodeId(7), committed: true }).await.ok()?;
            replica.term = term;
        }
        let entry = replica.stay.push(replica.term_of_stay(), random);
        let (count, acknowledged) = (replica.stay.log.len(), replica.stay.acknowledged.clone());
        let done = Box::new(move |result: std::io::Result<()>| {
            if result.is_ok() {
                acknowledged.fetch_max(count, Ordering::SeqCst);
            }
        });
        self.journal.append(id, vec![entry.clone()], done).await.ok()?;
        apply(&self.shards[&id], &entry).await
    }

    /// A replica that begins anew gets what others have of it as a snapshot.
    async fn install(&mut self, id: ShardId, replica: &mut Replica, random: &SeededRandom) -> Option<()> {
        let term = replica.term_of_stay();
        self.journal.save_vote(id, Vote { term, node: NodeId(7), committed: true }).await.ok()?;
        replica.term = term;
        let last = (0..20).map(|_| replica.stay.push(term, random).log_id).last()?;
        let source = shard_with(id, &replica.stay.log).await.0;
        let mut reader = source.snapshot(id).await.unwrap();
        let mut staging = self.store.stage(id).await.ok()?;
        while let Some(chunk) = reader.next_chunk().await.unwrap() {
            staging.add(chunk).await.ok()?;
        }
        self.shards[&id].install(staging).await.ok()?;
        replica.stay.acknowledged.store(20, Ordering::SeqCst);
        self.journal.purge(id, last).await.ok()
    }

    /// The files of one replica, while others go on.
    async fn delete(&self, id: ShardId, bug: Bug) -> Option<()> {
        match bug {
            Bug::StoreFirst => {
                self.store.delete(id).await.ok()?;
                // Between the two there may be any time.
                self.seams.spawner.sleep(Duration::from_secs(1)).await;
                self.journal.delete(id).await.ok()
            }
            Bug::JournalFirst => {
                self.journal.delete(id).await.ok()?;
                self.seams.spawner.sleep(Duration::from_secs(1)).await;
                self.store.delete(id).await.ok()
            }
            _ => replica_files::delete_replica(&self.journal, &self.store, id).await.ok(),
        }
    }

    async fn maintain(&self, id: ShardId, random: &SeededRandom) -> Option<()> {
        self.store.checkpoint().await.ok()?;
        match self.store.checkpointed().applied.get(&id) {
            Some(upto) if random.next_u64().is_multiple_of(2) => self.journal.purge(id, *upto).await.ok(),
            _ => Some(()),
        }
    }

    /// `None` when the power is gone.
    async fn work(
        &mut self,
        [moving, staying]: [&mut Replica; 2],
        random: &SeededRandom,
        bug: Bug,
        tally: &mut Tally,
    ) -> Option<()> {
        let below = |limit: u64| random.next_u64() % limit;
        for _ in 0..below(120) {
            match below(24) {
                0 if !moving.stay.log.is_empty() => {
                    // Its group has stopped.
                    self.shards.remove(&MOVING);
                    moving.deletion = Deletion::Asked;
                    let others = async {
                        for _ in 0..below(6) {
                            self.append(STAYING, staying, random).await?;
                        }
                        Some(())
                    };
                    let (deleted, others) = futures_util::join!(self.delete(MOVING, bug), others);
                    deleted?;
                    others?;
                    tally.deleted += 1;
                    moving.begin_anew();
                    self.shards.insert(MOVING, open_shard(MOVING, &self.store, &self.seams));
                    if below(2) == 0 {
                        self.install(MOVING, moving, random).await?;
                    }
                }
                1 => self.maintain(if below(2) == 0 { MOVING } else { STAYING }, random).await?,
                2 => self.seams.spawner.sleep(Duration::from_millis(below(100))).await,
                3..16 => self.append(MOVING, moving, random).await?,
                _ => self.append(STAYING, staying, random).await?,
            }
        }
        Some(())
    }
}

/// How often something happened, so that a test can tell that its cuts came at telling moments.
#[derive(Debug, Default)]
struct Tally {
    deleted: usize,
    cut_short: usize,
    whole: usize,
    gone: usize,
    unfinished: usize,
}

/// Some lives of one node, each ended by a power cut, a kill, or in order.
async fn crash(seed: u64, bug: Bug, tally: &mut Tally) -> Result<(), String> {
    let random = SeededRandom::new(seed);
    let mut disk = SimulatedDisk::new();
    let (mut moving, mut staying) = (Replica::default(), Replica::default());
    for life in 0..=LIVES {
        // On a copy, so that nobody but the node opens its files.
        let unfinished = match Node::open(&disk.process_killed(), Bug::Forgetful).await {
            Ok(node) => node.journal.deleting().len(),
            Err(error) => return Err(format!("life {life}: it does not open: {error}")),
        };
        disk.set_faults(Faults { sync_lies: bug == Bug::LyingDisk, ..Faults::default() });
        if life < LIVES {
            disk.cut_power_after(random.next_u64() % 700);
        }
        match Node::open(&disk, bug).await {
            Ok(mut node) => {
                let was_asked = moving.deletion == Deletion::Asked;
                let stays = moving.stays;
                let mut taken_up = node.take_up(MOVING, &mut moving).await;
                if taken_up.is_ok() {
                    taken_up = node.take_up(STAYING, &mut staying).await;
                }
                if !disk.power_is_off() {
                    taken_up.map_err(|wrong| format!("life {life}: {wrong}"))?;
                    tally.cut_short += usize::from(was_asked);
                    tally.whole += usize::from(was_asked && moving.stays == stays);
                    tally.gone += usize::from(was_asked && moving.stays > stays);
                    tally.unfinished += unfinished;
                    let _ = node.work([&mut moving, &mut staying], &random, bug, tally).await;
                    if random.next_u64().is_multiple_of(8) {
                        let _ = node.store.clone().close().await;
                        node.journal.clone().close().await;
                    }
                }
            }
            Err(error) if !disk.power_is_off() => return Err(format!("life {life}: it does not open: {error}")),
            Err(_) => {}
        }
        for replica in [&mut moving, &mut staying] {
            // What a journal that goes on in the background calls back from here on is on a disk that is no more.
            let acknowledged = replica.stay.acknowledged.load(Ordering::SeqCst);
            replica.stay.acknowledged = Arc::new(AtomicUsize::new(acknowledged));
        }
        disk = match random.next_u64() % 5 {
            0 => disk.process_killed(),
            _ => disk.power_cut(random.next_u64()),
        };
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_leaves_all_of_a_replica_or_nothing() {
    let replay = std::env::var("BERTH_DELETION_SEED").ok();
    let seeds = match replay.map(|seed| seed.parse::<u64>().expect("BERTH_DELETION_SEED is a number")) {
        Some(seed) => seed..seed + 1,
        None => 0..120,
    };
    let (mut tally, is_replay) = (Tally::default(), seeds.end - seeds.start == 1);
    for seed in seeds {
        if let Err(wrong) = crash(seed, Bug::None, &mut tally).await {
            panic!("BERTH_DELETION_SEED={seed} replays this: {wrong}");
        }
    }
    println!("{tally:?}");
    let telling = tally.deleted > 500 && tally.whole > 5 && tally.gone > 40 && tally.unfinished > 40;
    assert!(is_replay || telling, "the cuts came at telling moments: {tally:?}");
}

#[tokio::test(start_paused = true)]
async fn planted_bugs_are_noticed() {
    for bug in [Bug::StoreFirst, Bug::JournalFirst, Bug::Forgetful, Bug::LyingDisk] {
        let mut noticed = 0;
        for seed in 0..40 {
            noticed += usize::from(crash(seed, bug, &mut Tally::default()).await.is_err());
        }
        println!("{bug:?} was noticed by {noticed} of 40 seeds");
        assert!(noticed > 0, "{bug:?} was not noticed");
    }
}
