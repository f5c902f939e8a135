//! What a node takes on of one entity, so that there is room for the others.

mod support;

use std::sync::Arc;

use berth_node::disk::SimulatedDisk;
use berth_shared::key::EntityKey;
use berth_shared::message::Response;
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use bytes::Bytes;
use futures_util::future::join_all;
use support::{Call, Caller, config, decode, start};

const SHARDS: u16 = 64;
const QUEUE_MAX: usize = 8;

/// Ids of counters in the shard of the hot one.
fn neighbours(count: usize) -> Vec<String> {
    let shard_of = |id: &str| EntityKey::new("counter", id).unwrap().shard(SHARDS);
    let ids = (0..).map(|number| format!("cold-{number}"));
    ids.filter(|id| shard_of(id) == shard_of("hot")).take(count).collect()
}

/// Sends one command to each of these, all at once; how many were executed, and how many were refused as too many.
async fn send(caller: &Caller, ids: &[&str], round: usize) -> Vec<Result<u64, Code>> {
    let keys: Vec<String> = (0..ids.len()).map(|number| format!("{round}-{number}")).collect();
    let calls: Vec<Call<'_>> =
        ids.iter().zip(&keys).map(|(id, key)| Call::new("counter", id, "add", "{}", key)).collect();
    let answers = join_all(calls.iter().map(|call| caller.execute(call))).await;
    let outcome = |answer: Bytes| match decode(&answer) {
        Response::Executed(executed) => Ok(executed.version),
        Response::Refused(refusal) => Err(refusal.code),
        other => panic!("{other:?}"),
    };
    answers.into_iter().map(|answer| outcome(answer.unwrap())).collect()
}

#[tokio::test(start_paused = true)]
async fn an_entity_that_everybody_wants_leaves_its_shard_to_the_others() {
    let seams = Seams::simulated(1);
    let mut settings = config();
    settings.shard.entity_queue_max = QUEUE_MAX;
    // The hot entity alone could fill it many times.
    settings.shard.mailbox_max = 64;
    let node = start(settings, Arc::new(SimulatedDisk::new()), &seams).await;
    let caller = Caller::new(&seams, SHARDS);
    send(&caller, &["hot"], 0).await;
    let cold = neighbours(10);
    for round in 1..=5 {
        let ids: Vec<&str> = std::iter::repeat_n("hot", 500).chain(cold.iter().map(String::as_str)).collect();
        let outcomes = send(&caller, &ids, round).await;
        let (hot, others) = outcomes.split_at(500);
        let executed = hot.iter().filter(|outcome| outcome.is_ok()).count();
        assert!((1..=100).contains(&executed), "round {round}: {executed}");
        assert!(hot.iter().all(|outcome| outcome.is_ok() || *outcome == Err(Code::Overloaded)), "{hot:?}");
        assert!(others.iter().all(|outcome| *outcome == Ok(round as u64)), "round {round}: {others:?}");
    }
    let last = send(&caller, &["hot"], 9).await;
    assert!(
        last[0].is_ok_and(|version| version > 5 * QUEUE_MAX as u64),
        "what is answered gives its place back: {last:?}"
    );
    node.shutdown().await.unwrap();
}
