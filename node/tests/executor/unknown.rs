//! Proposals whose fate nobody knows: never refused, found again under their key, and executed once.

use berth_node::shard::machine::Verdict;

use crate::scripted::{Answered, Ask, Stage, TERM};

fn ask() -> Ask<'static> {
    Ask::add("a", r#"{"by":5}"#).key("k").request(1)
}

#[tokio::test(start_paused = true)]
async fn a_lost_callback_abandons_its_commands_and_refuses_none() {
    let stage = Stage::leading().await;
    let pending = stage.send_all((0..20).map(|_| Ask::increment("a"))).await;
    drop(stage.take().lose());
    stage.settle().await;
    for pending in pending {
        assert_eq!(pending.unwrap(), Answered::Abandoned);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_owner_an_unknown_write_that_was_applied_is_found() {
    let stage = Stage::leading().await;
    let first = stage.send(ask()).await;
    let lost = stage.take().lose();
    stage.step_down().await;
    assert_eq!(first.unwrap(), Answered::Abandoned);
    assert_eq!(stage.send(ask().attempt(2)).await.unwrap(), Answered::WrongOwner);
    assert_eq!(stage.apply_in(TERM, &lost).await.verdicts.to_vec(), [Verdict::Applied]);
    stage.lead(TERM + 2).await;
    assert_eq!(stage.run(ask().attempt(3)).await, Answered::counted(1, 5).replay());
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":5}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn after_a_change_of_owner_an_unknown_write_that_was_truncated_is_executed_by_its_retry() {
    let stage = Stage::leading().await;
    let first = stage.send(ask()).await;
    drop(stage.take().lose());
    stage.step_down().await;
    assert_eq!(first.unwrap(), Answered::Abandoned);
    stage.lead(TERM + 2).await;
    assert_eq!(stage.run(ask().attempt(2)).await, Answered::counted(1, 5));
    assert_eq!(stage.run(ask().attempt(3)).await, Answered::counted(1, 5).replay());
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":5}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_comes_after_a_change_of_owner_disturbs_nothing() {
    let stage = Stage::leading().await;
    let first = stage.send(ask()).await;
    let held = stage.take();
    stage.step_down().await;
    assert_eq!(stage.apply_in(TERM, &held.batch).await.verdicts.to_vec(), [Verdict::Applied]);
    stage.lead(TERM + 2).await;
    let mut add = stage.send(Ask::add("a", r#"{"by":1}"#)).await;
    let mut no_op = stage.send(Ask::no_op("a")).await;
    held.refuse();
    stage.settle().await;
    assert_eq!(
        first.unwrap(),
        Answered::Abandoned,
        "it was answered when leadership was lost, and is not decided again"
    );
    stage.apply_all().await;
    assert_eq!(add.answered(), Some(Answered::counted(2, 6)));
    assert_eq!(no_op.answered(), Some(Answered::counted(2, 6)));
    assert_eq!(stage.counter("a").await, Some((2, r#"{"value":6}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_new_term_does_not_wait_for_callbacks_of_an_old_one() {
    let stage = Stage::leading().await;
    let keys = ["1", "2", "3", "4"];
    for key in keys {
        stage.send(Ask::increment("a").key(key).request(1)).await;
    }
    let kept: Vec<_> = keys.map(|_| stage.take()).into();
    stage.step_down().await;
    // The first two reached a majority, the others did not; no callback has come.
    for held in &kept[..2] {
        assert_eq!(stage.apply_in(TERM, &held.batch).await.verdicts.to_vec(), [Verdict::Applied]);
    }
    stage.lead(TERM + 2).await;
    let retry = |key| Ask::increment("a").key(key).request(1).attempt(2);
    assert_eq!(stage.run(retry("1")).await, Answered::counted(1, 1).replay());
    assert_eq!(stage.run(retry("4")).await, Answered::counted(3, 3));
    assert_eq!(stage.run(retry("2")).await, Answered::counted(2, 2).replay());
    drop(kept);
    stage.settle().await;
    assert_eq!(stage.run(retry("3")).await, Answered::counted(4, 4));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_joined_a_lost_one_executes_it_if_it_was_not_applied() {
    let stage = Stage::leading().await;
    let first = stage.send(ask()).await;
    let mut second = stage.send(ask().attempt(2)).await;
    drop(stage.take().lose());
    stage.settle().await;
    assert_eq!(first.unwrap(), Answered::Abandoned);
    assert_eq!(stage.apply_next().await, [Verdict::Applied]);
    assert_eq!(second.answered(), Some(Answered::counted(1, 5)));
}

#[tokio::test(start_paused = true)]
async fn batches_behind_a_lost_one_are_decided_again_if_they_rested_on_it() {
    let stage = Stage::leading().await;
    let lost = stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    let on_top = stage.send(Ask::add("a", r#"{"by":3}"#)).await;
    let beside = stage.send(Ask::add("b", r#"{"by":2}"#)).await;
    drop(stage.take().lose());
    stage.settle().await;
    assert_eq!(stage.apply_next().await, [Verdict::WrongBase]);
    assert_eq!(stage.group.held(), 1, "decided again only once all that was in flight is settled");
    assert_eq!(stage.apply_next().await, [Verdict::Applied]);
    assert_eq!(stage.apply_next().await, [Verdict::Applied]);
    assert_eq!(lost.unwrap(), Answered::Abandoned);
    assert_eq!(on_top.unwrap(), Answered::counted(1, 3));
    assert_eq!(beside.unwrap(), Answered::counted(1, 2));
}
