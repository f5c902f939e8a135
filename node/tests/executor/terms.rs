//! Rules W1 to W3: records that are dropped or refused are decided again from what is applied, and nothing is decided
//! before the node leads.

use std::sync::Arc;

use berth_node::record::Batch;
use berth_node::shard::machine::Verdict;
use berth_shared::problem::Code;

use crate::scripted::{Answered, Ask, Options, Stage, TERM};

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_before_the_node_leads() {
    let stage = Stage::following_with(Options::default()).await;
    let early = stage.send(Ask::increment("a")).await;
    assert_eq!(early.unwrap(), Answered::WrongOwner);
    let no_op = stage.send(Ask::no_op("a")).await;
    assert_eq!(no_op.unwrap(), Answered::WrongOwner);
    assert_eq!(stage.group.held(), 0);
    stage.lead(TERM).await;
    assert_eq!(stage.run(Ask::increment("a")).await, Answered::counted(1, 1));
}

#[tokio::test(start_paused = true)]
async fn commands_that_wait_when_leadership_is_lost_are_not_applied() {
    let stage = Stage::leading().await;
    let in_flight = stage.send_all((0..4).map(|_| Ask::increment("a"))).await;
    for _ in 0..3 {
        stage.send(Ask::increment("a")).await;
    }
    let mut waiting = stage.send(Ask::increment("a")).await;
    assert!(waiting.answered().is_none());
    stage.group.say_leading(None);
    stage.settle().await;
    assert_eq!(waiting.answered(), Some(Answered::WrongOwner), "it was never decided");
    assert_eq!(stage.send(Ask::increment("a")).await.unwrap(), Answered::WrongOwner);
    drop(in_flight);
}

#[tokio::test(start_paused = true)]
async fn a_record_decided_in_another_term_leaves_no_trace_and_is_decided_again() {
    let stage = Stage::following_with(Options::default()).await;
    stage.group.say_leading(Some(TERM));
    let mut pending = stage.send(Ask::add("a", r#"{"by":5}"#).key("k")).await;
    let before = stage.shard.machine().head().clone();
    assert_eq!(stage.apply_held_in(TERM - 1, stage.take()).await, [Verdict::WrongTerm]);
    let after = stage.shard.machine().head().clone();
    assert_eq!(after.content_hash, before.content_hash);
    assert_eq!(after.shard_time_micros, before.shard_time_micros);
    assert_eq!(stage.shard.machine().window.len(), 0);
    assert_eq!(stage.counter("a").await, None);
    assert!(pending.answered().is_none());

    assert_eq!(stage.apply_next().await, [Verdict::Applied], "decided again");
    assert_eq!(pending.answered(), Some(Answered::counted(1, 5)));
}

#[tokio::test(start_paused = true)]
async fn a_record_on_another_version_is_decided_again_on_the_new_one() {
    let stage = Stage::leading().await;
    let add = stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    let conditional = stage.send(Ask::increment("a").if_version(1).key("k")).await;
    let (first, second) = (stage.take(), stage.take());
    let lost = first.lose();
    // A batch whose fate was unknown, and another one before it, that this executor did not expect.
    let other = stage.send(Ask::add("b", r#"{"by":1}"#)).await;
    let mut stolen = lost.records()[0].clone();
    stolen.request.scope.0[0] ^= 1;
    let stolen = Arc::new(Batch::new(TERM, vec![stolen.clone(), stolen_after(&stolen)]));
    assert_eq!(stage.apply_in(TERM, &stolen).await.verdicts.to_vec(), [Verdict::Applied; 2]);
    assert_eq!(stage.apply_held_in(TERM, second).await, [Verdict::WrongBase]);
    stage.apply_all().await;
    assert_eq!(add.unwrap(), Answered::Abandoned);
    assert_eq!(conditional.unwrap(), Answered::mismatch(2), "version 1 is not the newest any more");
    assert_eq!(other.unwrap(), Answered::counted(1, 1));
    assert_eq!(stage.counter("a").await, Some((2, r#"{"value":10}"#.to_owned())));
}

/// The same again under another key, one version later.
fn stolen_after(record: &berth_node::record::Record) -> berth_node::record::Record {
    let mut next = record.clone();
    next.request.scope.0[0] ^= 2;
    next.base_version += 1;
    next.time_micros += 1;
    next
}

#[tokio::test(start_paused = true)]
async fn a_record_with_a_known_key_is_answered_with_the_stored_outcome() {
    let stage = Stage::leading().await;
    let ask = || Ask::add("a", r#"{"by":5}"#).key("k").request(1);
    let mut first = stage.send(ask()).await;
    // Its fate becomes unknown, a retry is decided, and then it is applied after all, before the retry.
    let lost = stage.take().lose();
    stage.settle().await;
    assert_eq!(first.answered(), Some(Answered::Abandoned));
    let mut retry = stage.send(ask().attempt(2)).await;
    assert_eq!(stage.apply_in(TERM, &lost).await.verdicts.to_vec(), [Verdict::Applied]);
    assert_eq!(stage.apply_next().await, [Verdict::KnownKey]);
    assert_eq!(retry.answered(), Some(Answered::counted(1, 5).replay()));
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":5}"#.to_owned())), "once");
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_next_decision_starts_from_what_is_applied() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":1}"#)).await;
    let mut refused = stage.send(Ask::add("a", r#"{"by":100}"#)).await;
    let mut on_top = stage.send(Ask::add("a", r#"{"by":1000}"#).if_version(2)).await;
    let (first, second) = (stage.take(), stage.take());
    first.refuse();
    stage.settle().await;
    assert_eq!(stage.group.held(), 0, "nothing is decided while a batch that rested on it is in flight");
    let mut later = stage.send(Ask::add("a", r#"{"by":10}"#)).await;
    assert_eq!(stage.group.held(), 0);
    second.refuse();
    stage.settle().await;
    let again = stage.take();
    assert_eq!(again.batch.records()[0].base_version, 1);
    assert!(again.batch.records()[0].events[0].data.ends_with(b"100}"), "the first is first again");
    stage.apply_held_in(TERM, again).await;
    stage.apply_all().await;
    assert_eq!(refused.answered(), Some(Answered::counted(2, 101)));
    assert_eq!(on_top.answered(), Some(Answered::counted(3, 1101)), "its version is there again");
    assert_eq!(later.answered(), Some(Answered::counted(4, 1111)));
}

#[tokio::test(start_paused = true)]
async fn a_new_term_decides_from_what_is_applied_and_not_from_what_it_had_decided() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":1}"#)).await;
    let lost = stage.send(Ask::add("a", r#"{"by":100}"#)).await;
    let held = stage.take();
    // Another node led meanwhile; what was in flight is truncated, but nobody says so.
    stage.lead(TERM + 2).await;
    let mut next = stage.send(Ask::add("a", r#"{"by":10}"#)).await;
    let again = stage.take();
    assert_eq!((again.term, again.batch.decision_term()), (TERM + 2, TERM + 2));
    assert_eq!(again.batch.records()[0].base_version, 1);
    assert_eq!(stage.apply_held_in(TERM + 2, again).await, [Verdict::Applied]);
    assert_eq!(next.answered(), Some(Answered::counted(2, 11)));
    drop((held, lost));
    stage.settle().await;
    assert_eq!(
        stage.run(Ask::increment("a")).await,
        Answered::counted(3, 12),
        "a late callback of an old term is no harm"
    );
}

#[tokio::test(start_paused = true)]
async fn states_computed_ahead_are_not_taken_for_a_batch_they_were_not_computed_for() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":1}"#)).await;
    // Decided on top of 100, which is lost: its state ahead would be 1101.
    let lost = stage.send(Ask::add("a", r#"{"by":100}"#)).await;
    let on_top = stage.send(Ask::add("a", r#"{"by":1000}"#)).await;
    let (first, second) = (stage.take(), stage.take());
    drop(first.lose());
    stage.settle().await;
    drop((lost, on_top));
    // The other checks keep anything else from bringing the entity to the version that the second batch was decided on;
    // this stands for what they would have missed.
    let other = Arc::new(ten_before(&second.batch));
    assert_eq!(stage.apply_in(TERM, &other).await.verdicts.to_vec(), [Verdict::Applied]);
    assert_eq!(stage.apply_in(TERM, &second.batch).await.verdicts.to_vec(), [Verdict::Applied]);
    assert_eq!(stage.counter("a").await, Some((3, r#"{"value":1011}"#.to_owned())), "folded, not taken from ahead");
}

/// A record that adds 10 at the version before that of `batch`.
fn ten_before(batch: &Batch) -> Batch {
    let mut record = batch.records()[0].clone();
    record.base_version -= 1;
    record.request.scope.0[0] ^= 1;
    record.events[0].data = r#"{"by":10}"#.into();
    Batch::new(TERM, vec![record])
}

#[tokio::test(start_paused = true)]
async fn a_state_computed_ahead_is_taken_for_its_own_batch_only() {
    let stage = Stage::leading().await;
    let mut pending = stage.send(Ask::add("a", r#"{"by":100}"#)).await;
    let held = stage.take();
    let mut other = held.batch.records()[0].clone();
    other.request.scope.0[0] ^= 1;
    other.events[0].data = r#"{"by":10}"#.into();
    let other = Arc::new(Batch::new(TERM, vec![other]));
    assert_eq!(stage.apply_in(TERM, &other).await.verdicts.to_vec(), [Verdict::Applied]);
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":10}"#.to_owned())));
    assert_eq!(stage.apply_held_in(TERM, held).await, [Verdict::WrongBase]);
    stage.apply_all().await;
    assert_eq!(pending.answered(), Some(Answered::counted(2, 110)));
}

#[tokio::test(start_paused = true)]
async fn when_leadership_is_lost_what_is_in_flight_is_unknown_at_once() {
    let stage = Stage::leading().await;
    let mut first = stage.send(Ask::add("a", r#"{"by":5}"#).key("k").request(1)).await;
    let mut joined = stage.send(Ask::add("a", r#"{"by":5}"#).key("k").request(1).attempt(2)).await;
    let mut other = stage.send(Ask::add("a", r#"{"by":5}"#).key("k").request(2)).await;
    assert_eq!(other.answered(), Some(Answered::refused(Code::InProgress)));
    let held = stage.take();
    stage.step_down().await;
    // The consensus library keeps the callback until the entry is applied or truncated, which may take as long as a
    // partition lasts.
    assert_eq!(first.answered(), Some(Answered::Abandoned));
    assert_eq!(
        joined.answered(),
        Some(Answered::WrongOwner),
        "this attempt wrote nothing; the owner knows of the first"
    );
    // The new owner had it committed, and this node applies it as a replica.
    assert_eq!(stage.apply_held_in(TERM, held).await, [Verdict::Applied]);
    stage.lead(TERM + 2).await;
    let retry = stage.run(Ask::add("a", r#"{"by":5}"#).key("k").request(1).attempt(3)).await;
    assert_eq!(retry, Answered::counted(1, 5).replay());
}
