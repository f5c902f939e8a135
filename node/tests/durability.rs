//! Nothing is shown before it is durable: with a journal whose fsync never finishes, no reader, refusal, no-op or 412 sees
//! what is pending; and one hot entity shares commits without losing its order.

mod support;

use std::sync::Arc;
use std::time::Duration;

use berth_node::disk::SimulatedDisk;
use berth_shared::message::{KeyOrigin, Precondition, Response};
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use berth_shared::seam::network::MemoryNetwork;
use futures_util::future::join_all;
use futures_util::poll;
use support::{Call, Caller, config, decode, start};

/// Blocking work on threads, because a held fsync blocks its thread.
fn seams() -> Seams {
    let network = Arc::new(MemoryNetwork::default());
    Seams { network, ..Seams::system() }
}

fn one_shard() -> berth_node::config::Config {
    let mut config = config();
    config.cluster.shards = 1;
    config
}

/// A command whose key a gateway made, so that an outcome without events is not stored.
fn unstored<'a>(seams: &Seams, id: &'a str, body: &'a str, key: &'a str) -> Call<'a> {
    let origin = KeyOrigin::Gateway { created_micros: seams.clock.wall_micros() };
    Call { origin, ..Call::new("counter", id, "add", body, key) }
}

/// Until an fsync waits at the gate.
async fn wait_for_sync(seams: &Seams, disk: &SimulatedDisk) {
    let disk = disk.clone();
    assert!(seams.spawner.blocking(move || disk.wait_for_sync(Duration::from_secs(30))).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_not_durable_is_shown() {
    let seams = seams();
    let disk = SimulatedDisk::new();
    let node = start(one_shard(), Arc::new(disk.clone()), &seams).await;
    let caller = Caller::new(&seams, 1);
    caller.execute(&unstored(&seams, "a", r#"{"by":1}"#, "k1")).await.unwrap();

    let gate = disk.hold_syncs();
    let add = unstored(&seams, "a", r#"{"by":5}"#, "k2");
    let no_op = unstored(&seams, "a", r#"{"by":0}"#, "k3");
    let mismatch = Call { precondition: Precondition::Versions(vec![1]), ..unstored(&seams, "a", "{}", "k4") };
    let overflow = unstored(&seams, "a", r#"{"by":9223372036854775807}"#, "k5");
    let fence = unstored(&seams, "other", r#"{"by":0}"#, "k6");
    let (mut add, mut no_op) = (Box::pin(caller.execute(&add)), Box::pin(caller.execute(&no_op)));
    let (mut mismatch, mut overflow) = (Box::pin(caller.execute(&mismatch)), Box::pin(caller.execute(&overflow)));
    // One look at each sends them in this order.
    assert!(poll!(add.as_mut()).is_pending() && poll!(no_op.as_mut()).is_pending());
    assert!(poll!(mismatch.as_mut()).is_pending() && poll!(overflow.as_mut()).is_pending());
    // The shard decides in order: once the last is answered, which rests on nothing pending, the others are decided.
    let fence = caller.execute(&fence).await.unwrap();
    assert!(matches!(decode(&fence), Response::Executed(executed) if executed.version == 0));
    wait_for_sync(&seams, &disk).await;
    assert!(poll!(add.as_mut()).is_pending(), "the write is not durable");
    assert!(poll!(no_op.as_mut()).is_pending(), "its reply is the pending value");
    assert!(poll!(mismatch.as_mut()).is_pending(), "it compares with the pending version");
    assert!(poll!(overflow.as_mut()).is_pending(), "it is rejected because of the pending value");
    let read = caller.read("counter", "a").await.unwrap();
    assert!(
        matches!(decode(&read), Response::State { version: 1, state: br#"{"value":1}"#, .. }),
        "{:?}",
        decode(&read)
    );
    let events = caller.events("counter", "a", 0).await.unwrap();
    assert!(matches!(decode(&events), Response::Events { events, .. } if events.len() == 1));

    drop(gate);
    let (add, no_op) = (add.await.unwrap(), no_op.await.unwrap());
    assert!(matches!(decode(&add), Response::Executed(executed) if executed.version == 2 && executed.reply == b"6"));
    assert!(matches!(decode(&no_op), Response::Executed(executed) if executed.version == 2 && executed.reply == b"6"));
    let mismatch = mismatch.await.unwrap();
    let Response::Refused(refusal) = decode(&mismatch) else { panic!("{:?}", decode(&mismatch)) };
    assert_eq!((refusal.code, refusal.current_version), (Code::VersionMismatch, Some(2)));
    let overflow = overflow.await.unwrap();
    assert!(matches!(decode(&overflow), Response::Refused(refusal) if refusal.reason == Some("overflow")));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_a_hot_entity_share_commits_and_keep_their_order() {
    const COMMANDS: usize = 500;
    let seams = seams();
    let disk = SimulatedDisk::new();
    let mut config = one_shard();
    config.shard.entity_queue_max = COMMANDS;
    let node = start(config, Arc::new(disk.clone()), &seams).await;
    let caller = Caller::new(&seams, 1);
    let keys: Vec<String> = (0..COMMANDS).map(|n| format!("k{n}")).collect();
    // Once there is a connection, one look at a call sends it.
    caller.read("counter", "hot").await.unwrap();
    let operations = disk.operations();
    let gate = disk.hold_syncs();
    let calls: Vec<_> = keys.iter().map(|key| unstored(&seams, "hot", "{}", key)).collect();
    let mut answers = Box::pin(join_all(calls.iter().map(|call| caller.execute(call))));
    assert!(poll!(answers.as_mut()).is_pending());
    wait_for_sync(&seams, &disk).await;
    drop(gate);
    let answers = answers.await;
    let version = |answer: &bytes::Bytes| match decode(answer) {
        Response::Executed(executed) => {
            assert_eq!(executed.reply, executed.version.to_string().as_bytes(), "each sees exactly those before it");
            executed.version
        }
        other => panic!("{other:?}"),
    };
    let mut versions: Vec<u64> = answers.iter().map(|answer| version(answer.as_ref().unwrap())).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=COMMANDS as u64).collect::<Vec<_>>(), "one version each, without a gap");
    let events = caller.events("counter", "hot", 0).await.unwrap();
    let Response::Events { events, .. } = decode(&events) else { panic!("{:?}", decode(&events)) };
    assert!(events.iter().map(|event| event.version).eq(1..=COMMANDS as u64));
    assert!(events.is_sorted_by(|a, b| a.time_micros < b.time_micros));
    // A commit takes at least two syncs and a few writes, so one commit per command would be thousands of operations.
    let operations = disk.operations() - operations;
    assert!(operations < COMMANDS as u64, "{operations} disk operations");
    node.shutdown().await.unwrap();
}
