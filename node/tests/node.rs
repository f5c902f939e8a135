//! A whole node through its peer protocol: commands, retries, reads and history, and all of it again after a restart.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::disk::{DirectoryDisk, Disk, SimulatedDisk};
use berth_node::entity::Registry;
use berth_shared::config::ByteSize;
use berth_shared::ids::ShardId;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, List, Moment, Precondition, Request, Response};
use berth_shared::peer::{CallError, NotSent, security};
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::telemetry::Tracing;
use bytes::Bytes;
use parking_lot::Mutex;
use support::{Call, Caller, config, decode, start};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

fn refused(response: &Response<'_>) -> Code {
    match response {
        Response::Refused(refusal) => refusal.code,
        other => panic!("{other:?} is not a refusal"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_answered_read_and_listed() {
    let seams = Seams::simulated(1);
    let node = start(config(), Arc::new(SimulatedDisk::new()), &seams).await;
    let caller = Caller::new(&seams, 64);

    let answer = caller.execute(&Call::new("counter", "a", "add", r#"{"by":5}"#, "k1")).await.unwrap();
    let Response::Executed(executed) = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((executed.version, executed.state), (1, Some(&br#"{"value":5}"#[..])));
    assert!(!executed.replayed);

    let answer = caller.read("counter", "a").await.unwrap();
    let Response::State { version, state, .. } = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((version, state), (1, &br#"{"value":5}"#[..]));

    let answer = caller.events("counter", "a", 0).await.unwrap();
    let Response::Events { events, next, .. } = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((events.len(), events[0].version, next), (1, 1, None));

    assert_eq!(refused(&decode(&caller.read("counter", "none").await.unwrap())), Code::NotFound);
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_returns_the_first_outcome_and_changes_nothing_also_after_a_restart() {
    let seams = Seams::simulated(2);
    let disk = Arc::new(SimulatedDisk::new());
    let node = start(config(), disk.clone(), &seams).await;
    let caller = Caller::new(&seams, 64);
    let open = Call::new("account", "a", "open", "{}", "k-open");
    let deposit = Call::new("account", "a", "deposit", r#"{"amountCents":100}"#, "k-deposit");
    let withdraw = Call::new("account", "a", "withdraw", r#"{"amountCents":500}"#, "k-withdraw");
    caller.execute(&open).await.unwrap();
    let first = caller.execute(&deposit).await.unwrap();
    assert_eq!(refused(&decode(&caller.execute(&withdraw).await.unwrap())), Code::Rejected);
    caller.execute(&Call::new("account", "a", "deposit", r#"{"amountCents":900}"#, "k-more")).await.unwrap();

    check_retries(&caller, &first, &deposit, &withdraw).await;
    node.shutdown().await.unwrap();
    let node = start(config(), disk, &seams).await;
    check_retries(&Caller::new(&seams, 64), &first, &deposit, &withdraw).await;
    node.shutdown().await.unwrap();
}

/// Counters that the node lists, of all its shards.
async fn listed(caller: &Caller, prefix: &str, limit: u32) -> (Vec<(String, u64)>, Option<String>) {
    let shards = (0..64).map(ShardId).collect();
    let list = List { shards, kind: "counter", prefix, after: "", limit, traceparent: "" };
    let answer = caller.request(&Request::List(list)).await.unwrap();
    let Response::Listed(listed) = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((listed.not_owned.len(), listed.owners.len()), (0, 0));
    let entities = listed.entities.iter().map(|entity| (entity.id.to_owned(), entity.version));
    (entities.collect(), listed.more_after.map(str::to_owned))
}

async fn past(caller: &Caller, id: &str, moment: Moment) -> Result<(u64, String), Code> {
    let (shard, consistency) = (EntityKey::new("counter", id).unwrap().shard(64), Consistency::Linearizable);
    let past = Request::Past { shard, kind: "counter", id, moment, consistency, traceparent: "" };
    let answer = caller.request(&past).await.unwrap();
    match decode(&answer) {
        Response::State { version, state, .. } => Ok((version, String::from_utf8(state.to_vec()).unwrap())),
        other => Err(refused(&other)),
    }
}

#[tokio::test(start_paused = true)]
async fn deletions_earlier_states_and_listings_are_the_same_after_a_restart() {
    let seams = Seams::simulated(8);
    let disk = Arc::new(SimulatedDisk::new());
    let node = start(config(), disk.clone(), &seams).await;
    let caller = Caller::new(&seams, 64);
    for (id, key) in [("a", "1"), ("b", "2"), ("c", "3"), ("ca", "4"), ("b", "5")] {
        caller.execute(&Call::new("counter", id, "add", r#"{"by":5}"#, key)).await.unwrap();
    }
    let delete = Call::new("counter", "b", "", "", "6");
    let none = Call { id: "nobody", ..delete.clone() };
    assert_eq!(refused(&decode(&caller.delete(&none).await.unwrap())), Code::NotFound);
    let answer = caller.delete(&delete).await.unwrap();
    let Response::Executed(executed) = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((executed.version, executed.reply, executed.replayed), (3, &b"null"[..], false));
    seams.spawner.sleep(Duration::from_secs(60)).await;
    // Nothing was written since, so that the shard's time has to pass it first.
    let lately = seams.clock.wall_micros() - 2_000_000;

    let check = async |caller: &Caller| {
        let answer = caller.delete(&delete).await.unwrap();
        let Response::Executed(executed) = decode(&answer) else { panic!("{:?}", decode(&answer)) };
        assert_eq!((executed.version, executed.replayed), (3, true));
        assert_eq!(refused(&decode(&caller.read("counter", "b").await.unwrap())), Code::Deleted);
        let one = r#"{"value":5}"#.to_owned();
        assert_eq!(past(caller, "b", Moment::Version(1)).await, Ok((1, one.clone())));
        assert_eq!(past(caller, "b", Moment::Version(2)).await, Ok((2, r#"{"value":10}"#.to_owned())));
        assert_eq!(past(caller, "b", Moment::Version(3)).await, Err(Code::Deleted));
        assert_eq!(past(caller, "b", Moment::Version(4)).await, Err(Code::NotFound));
        assert_eq!(past(caller, "b", Moment::Time(lately)).await, Err(Code::Deleted));
        assert_eq!(past(caller, "a", Moment::Time(lately)).await, Ok((1, one)));
        assert_eq!(past(caller, "nobody", Moment::Time(lately)).await, Err(Code::NotFound));
        let later = Moment::Time(seams.clock.wall_micros() + 60_000_000);
        assert_eq!(past(caller, "a", later).await, Err(Code::InvalidRequest));
        let entities = [("a", 1), ("c", 1), ("ca", 1)].map(|(id, version)| (id.to_owned(), version));
        assert_eq!(listed(caller, "", 10).await, (entities.to_vec(), None));
        assert_eq!(listed(caller, "", 2).await, (entities[..2].to_vec(), Some("c".to_owned())));
        assert_eq!(listed(caller, "c", 2).await, (entities[1..].to_vec(), None));
    };
    check(&caller).await;
    node.shutdown().await.unwrap();
    let node = start(config(), disk, &seams).await;
    check(&Caller::new(&seams, 64)).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_no_gateway_asks_for_is_refused() {
    let seams = Seams::simulated(9);
    let node = start(config(), Arc::new(SimulatedDisk::new()), &seams).await;
    let caller = Caller::new(&seams, 64);
    let long = "x".repeat(513);
    let list = |shards: &[u16], kind, prefix| {
        let shards = shards.iter().copied().map(ShardId).collect();
        Request::List(List { shards, kind, prefix, after: "", limit: u32::MAX, traceparent: "" })
    };
    for (request, code) in [
        (list(&[64], "counter", ""), Code::InvalidRequest),
        (list(&[0; 65], "counter", ""), Code::InvalidRequest),
        (list(&[0], "counter", "\n"), Code::InvalidRequest),
        (list(&[0], "counter", &long), Code::InvalidRequest),
        (list(&[0], "boat", ""), Code::UnknownKind),
    ] {
        assert_eq!(refused(&decode(&caller.request(&request).await.unwrap())), code, "{request:?}");
    }
    let none = caller.request(&list(&[], "counter", "")).await.unwrap();
    assert!(matches!(decode(&none), Response::Listed(listed) if listed.entities.is_empty()));
    node.shutdown().await.unwrap();
}

async fn check_retries(caller: &Caller, first: &Bytes, deposit: &Call<'_>, withdraw: &Call<'_>) {
    let again = caller.execute(deposit).await.unwrap();
    let (Response::Executed(first), Response::Executed(again)) = (decode(first), decode(&again)) else {
        panic!("{:?}", decode(&again));
    };
    assert!(again.replayed && !first.replayed);
    assert_eq!((again.version, again.reply, again.state), (first.version, first.reply, first.state));
    let again = caller.execute(withdraw).await.unwrap();
    let Response::Refused(refusal) = decode(&again) else { panic!("{:?}", decode(&again)) };
    assert_eq!((refusal.code, refusal.reason), (Code::Rejected, Some("insufficient-funds")));
    assert!(refusal.replayed, "although by now there is enough");
    let other = Call { body: r#"{"amountCents":7}"#, ..deposit.clone() };
    assert_eq!(refused(&decode(&caller.execute(&other).await.unwrap())), Code::KeyReused);
    let read = caller.read("account", "a").await.unwrap();
    let Response::State { version, state, .. } = decode(&read) else { panic!("{:?}", decode(&read)) };
    assert_eq!((version, state), (3, &br#"{"balanceCents":1000,"open":true}"#[..]));
}

#[tokio::test(start_paused = true)]
async fn preconditions_hold_or_nothing_is_written() {
    let seams = Seams::simulated(3);
    let node = start(config(), Arc::new(SimulatedDisk::new()), &seams).await;
    let caller = Caller::new(&seams, 64);
    let add = |key, precondition| Call { precondition, ..Call::new("counter", "a", "add", "{}", key) };
    let answer = caller.execute(&add("1", Precondition::Exists)).await.unwrap();
    assert_eq!(refused(&decode(&answer)), Code::VersionMismatch);
    assert!(matches!(decode(&caller.execute(&add("2", Precondition::Absent)).await.unwrap()), Response::Executed(_)));
    let answer = caller.execute(&add("3", Precondition::Versions(vec![7]))).await.unwrap();
    let Response::Refused(refusal) = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((refusal.code, refusal.current_version), (Code::VersionMismatch, Some(1)));
    let matching = add("4", Precondition::Versions(vec![7, 1]));
    assert!(matches!(decode(&caller.execute(&matching).await.unwrap()), Response::Executed(_)));
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_journal_drops_what_the_store_holds_and_nothing_is_missing_after_a_restart() {
    const COMMANDS: u64 = 300;
    let seams = Seams::simulated(4);
    let disk = Arc::new(SimulatedDisk::new());
    let mut small = config();
    small.cluster.shards = 2;
    small.journal.live_size = ByteSize(1 << 20);
    let node = start(small.clone(), disk.clone(), &seams).await;
    let caller = Caller::new(&seams, 2);
    let body = format!(r#"{{"value":"{}"}}"#, "x".repeat(10_000));
    let mut live_bytes_most = 0;
    for n in 0..COMMANDS {
        let (id, key) = (format!("d{}", n % 7), format!("k{n}"));
        let body = body.replace("xx", &format!("{n}x"));
        let put = Call::new("document", &id, "put", &body, &key);
        loop {
            match decode(&caller.execute(&put).await.unwrap()) {
                Response::Executed(_) => break,
                // The journal is full until the next look at it.
                Response::Refused(refusal) if refusal.code == Code::Overloaded => {
                    seams.spawner.sleep(Duration::from_millis(100)).await;
                }
                other => panic!("{other:?}"),
            }
        }
        live_bytes_most = live_bytes_most.max(node.journal_live_bytes());
        seams.spawner.sleep(Duration::from_millis(20)).await;
    }
    assert!(live_bytes_most < 3 << 20, "{live_bytes_most} of the 3 MB written were live at once");
    node.shutdown().await.unwrap();

    let node = start(small, disk, &seams).await;
    let caller = Caller::new(&seams, 2);
    for id in 0..7 {
        let wanted = (0..COMMANDS).filter(|n| n % 7 == id).count();
        let events = caller.events("document", &format!("d{id}"), 0).await.unwrap();
        let Response::Events { events, .. } = decode(&events) else { panic!("{:?}", decode(&events)) };
        assert_eq!(events.len(), wanted);
    }
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_with_a_credential_answers_only_those_who_share_it() {
    let seams = Seams::simulated(5);
    let peer = security::Config {
        security: security::Mode::Secret,
        secret: Some(security::Secret("secret".to_owned())),
        ..security::Config::default()
    };
    let secret = berth_node::config::Config { peer, ..config() };
    let node = start(secret, Arc::new(SimulatedDisk::new()), &seams).await;
    for credential in [None, Some("wrong".to_owned())] {
        let refused = Caller::with_credential(&seams, 64, credential).read("counter", "a").await;
        assert!(matches!(refused, Err(CallError::NotSent(NotSent::Refused(_)))), "{refused:?}");
    }
    let caller = Caller::with_credential(&seams, 64, Some("secret".to_owned()));
    assert_eq!(refused(&decode(&caller.read("counter", "a").await.unwrap())), Code::NotFound);
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_is_not_started_on_a_part_of_its_data() {
    let seams = Seams::simulated(6);
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(DirectoryDisk::open(folder.path()).unwrap());
    let node = start(config(), open(), &seams).await;
    let caller = Caller::new(&seams, 64);
    caller.execute(&Call::new("counter", "a", "add", "{}", "k")).await.unwrap();
    node.shutdown().await.unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["identity.json"], "identity.json is missing"),
        (&["journal.redb"], "journal.redb is missing"),
        (&["store.redb"], "store.redb is missing"),
        (&["journal.redb", "store.redb"], "remove the whole data directory and start as a new node"),
    ];
    for (missing, reason) in cases {
        for file in missing {
            rename(&folder.path().join(file), &folder.path().join(format!("{file}.aside")));
        }
        let error = refusal(open(), &seams).await;
        assert!(error.contains(reason), "{error}");
        for file in missing {
            rename(&folder.path().join(format!("{file}.aside")), &folder.path().join(file));
        }
    }
    // One that is there, and is not the one that was.
    rename(&folder.path().join("journal.redb"), &folder.path().join("journal.aside"));
    drop(open().open("journal.redb").unwrap());
    let error = refusal(open(), &seams).await;
    assert!(error.contains("its journal ends at None"), "{error}");
    rename(&folder.path().join("journal.aside"), &folder.path().join("journal.redb"));
    let node = start(config(), open(), &seams).await;
    let caller = Caller::new(&seams, 64);
    assert!(matches!(decode(&caller.read("counter", "a").await.unwrap()), Response::State { version: 1, .. }));
    node.shutdown().await.unwrap();
}

#[expect(clippy::disallowed_methods, reason = "somebody loses a file")]
fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}

/// Why a node does not start, or ends by itself.
async fn refusal(disk: Arc<dyn Disk>, seams: &Seams) -> String {
    let started =
        app::start(config(), Registry::built_in(), disk, Arc::new(Chitchat), seams.clone(), Tracing::OFF).await;
    let refused = match started {
        Ok(node) => {
            let ended = seams.spawner.timeout(Duration::from_secs(10), node.ended()).await;
            assert!(ended.is_some(), "the node goes on");
            node.shutdown().await.unwrap_err()
        }
        Err(error) => error,
    };
    berth_shared::cause::in_one_line(&refused)
}

/// Keeps the messages of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Visit for Warnings {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().push(format!("{value:?}"));
        }
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().starts_with("berth_node")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_cluster_with_fewer_copies_than_asked_for_says_so_once() {
    // While there is only one, tracing asks that of whichever thread comes first to a line, and the other tests have none.
    let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    for (replicas, lines) in [(3, 1), (1, 0)] {
        let (seams, warnings) = (Seams::simulated(7), Warnings::default());
        let _here = tracing::subscriber::set_default(warnings.clone());
        let mut few = config();
        few.cluster.replicas = replicas;
        let disk = Arc::new(SimulatedDisk::new());
        start(few.clone(), disk.clone(), &seams).await.shutdown().await.unwrap();
        let node = start(few, disk, &seams).await;
        seams.spawner.sleep(Duration::from_secs(10)).await;
        let said = warnings.0.lock().clone();
        assert_eq!(said.len(), lines, "{said:?}");
        assert!(said.iter().all(|line| line.contains("1 instead of 3 copies (cluster.replicas)")), "{said:?}");
        node.shutdown().await.unwrap();
    }
}

/// As in a simulation, where processes come and go within one: nothing is left of it, neither when it has ended nor when it was
/// ended.
#[test]
fn a_node_that_ended_or_was_ended_keeps_nothing() {
    for is_asked in [true, false] {
        let (disk, seams) = (Arc::new(SimulatedDisk::new()), Seams::simulated(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let node = start(config(), disk.clone(), &seams).await;
            Caller::new(&seams, 64).execute(&Call::new("counter", "a", "add", r#"{"by":5}"#, "k")).await.unwrap();
            if is_asked {
                node.shutdown().await.unwrap();
            }
        });
        drop(runtime);
        assert_eq!((Arc::strong_count(&disk), disk.is_free()), (1, true), "asked to end: {is_asked}");
    }
}
