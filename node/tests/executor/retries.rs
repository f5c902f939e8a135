//! Idempotency keys: running, stored, reused, too old, too new, and too many.

use std::time::Duration;

use berth_node::record::{KeyOrigin, Scope};
use berth_node::shard::executor;
use berth_node::shard::window::RowId;
use berth_node::store::Lane;
use berth_shared::key::EntityKey;
use berth_shared::problem::Code;

use crate::scripted::{Answered, Ask, Options, Pending, Stage, TERM};

fn ask() -> Ask<'static> {
    Ask::add("a", r#"{"by":5}"#).key("k").request(1)
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_the_running_request_joins_it_and_others_are_told_that_it_runs() {
    let stage = Stage::leading().await;
    let first = stage.send(ask()).await;
    let mut joined = stage.send(ask().attempt(2)).await;
    let other_request = stage.send(ask().request(2)).await;
    let other_body = stage.send(Ask::add("a", r#"{"by":6}"#).key("k").request(1)).await;
    assert_eq!(other_request.unwrap(), Answered::refused(Code::InProgress));
    assert_eq!(other_body.unwrap(), Answered::refused(Code::KeyReused));
    assert!(joined.answered().is_none());
    assert_eq!(stage.held_records(), 1);
    stage.apply_all().await;
    assert_eq!(first.unwrap(), Answered::counted(1, 5));
    assert_eq!(joined.answered(), Some(Answered::counted(1, 5).replay()));
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":5}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_retry_in_the_same_batch_joins_too() {
    let stage = Stage::leading().await;
    let pending = stage.send_all([ask(), ask().attempt(2), ask().attempt(3)]).await;
    assert_eq!(stage.held_records(), 1);
    stage.apply_all().await;
    let answers: Vec<Answered> = pending.into_iter().map(Pending::unwrap).collect();
    let outcome = Answered::counted(1, 5);
    assert_eq!(answers, [outcome.clone(), outcome.clone().replay(), outcome.replay()]);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_attempts_join_one_request() {
    let stage = Stage::leading().await;
    let pending = stage.send_all((1..=100).map(|attempt| ask().attempt(attempt))).await;
    stage.apply_all().await;
    let answers: Vec<Answered> = pending.into_iter().map(Pending::unwrap).collect();
    let refused = answers.iter().filter(|answer| **answer == Answered::refused(Code::InProgress)).count();
    assert_eq!(refused, 35, "one runs, 64 wait for it");
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":5}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_replay_shows_version_reply_and_state_as_they_were() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":1}"#)).await;
    let first = stage.run(ask()).await;
    assert_eq!(first, Answered::counted(2, 6));
    for _ in 0..600 {
        stage.send(Ask::increment("a")).await;
        stage.apply_all().await;
    }
    assert_eq!(stage.run(ask().request(2)).await, first.replay());
    assert_eq!(stage.counter("a").await, Some((602, r#"{"value":606}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_stored_key_is_not_used_for_another_request() {
    let stage = Stage::leading().await;
    stage.run(ask()).await;
    let other = Ask::add("a", r#"{"by":6}"#).key("k");
    assert_eq!(stage.run(other).await, Answered::refused(Code::KeyReused));
    let elsewhere = Ask::add("b", r#"{"by":6}"#).key("k");
    assert_eq!(stage.run(elsewhere).await, Answered::counted(1, 6), "the same key of another entity is another key");
}

#[tokio::test(start_paused = true)]
async fn a_replay_needs_a_lease() {
    let stage = Stage::leading().await;
    stage.run(ask()).await;
    stage.group.lose_lease();
    assert_eq!(stage.run(ask().attempt(2)).await, Answered::WrongOwner);
}

/// Whoever leads by then may have forgotten the outcome, with its key, and executed the command anew.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_while_an_outcome_is_read_spoils_its_replay() {
    let stage = Stage::leading().await;
    stage.run(ask()).await;
    for successor in [None, Some(TERM + 2)] {
        stage.group.pass_lease_after(1, successor);
        assert_eq!(stage.run(ask().attempt(2)).await, Answered::WrongOwner);
        stage.group.say_leading(Some(TERM));
    }
    assert_eq!(stage.run(ask().attempt(2)).await, Answered::counted(1, 5).replay());
}

#[tokio::test(start_paused = true)]
async fn a_full_window_refuses_new_keys_and_forgets_none_until_they_expire() {
    let config = executor::Config { window_keys_max: 3, ..Options::default().executor };
    let stage = Stage::leading_with(Options { executor: config, ..Options::default() }).await;
    let made = |number: &'static str| {
        let created_micros = stage.seams.clock.wall_micros();
        Ask::increment("a").key(number).origin(KeyOrigin::Gateway { created_micros }).request(1)
    };
    let asks = [made("1"), made("2"), made("3"), made("4")];
    let pending = stage.send_all(asks.clone()).await;
    assert_eq!(stage.held_records(), 3, "running keys count");
    stage.apply_all().await;
    let answers: Vec<Answered> = pending.into_iter().map(Pending::unwrap).collect();
    assert_eq!(answers[3], Answered::refused(Code::Overloaded));
    assert_eq!(stage.run(made("5")).await, Answered::refused(Code::Overloaded));
    assert_eq!(stage.run(asks[0].clone().attempt(2)).await, Answered::counted(1, 1).replay(), "none was forgotten");

    stage.seams.spawner.sleep(Duration::from_secs(119)).await;
    assert_eq!(stage.run(made("6")).await, Answered::refused(Code::Overloaded));
    // The keys have expired by the clock. Shard time stands still while nothing is applied, and must not keep them for ever.
    stage.seams.spawner.sleep(Duration::from_secs(2)).await;
    let pending = stage.send_all([made("7"), made("8"), made("9"), made("10")]).await;
    assert_eq!(stage.held_records(), 3);
    stage.apply_all().await;
    let answers: Vec<Answered> = pending.into_iter().map(Pending::unwrap).collect();
    assert_eq!(answers[0], Answered::counted(4, 4));
    assert_eq!(answers[3], Answered::refused(Code::Overloaded));
    assert_eq!(stage.shard.machine().window.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn keys_that_a_gateway_made_too_long_ago_or_in_the_future_are_refused() {
    let stage = Stage::leading().await;
    let now = stage.seams.clock.wall_micros();
    let made = |created_micros| Ask::increment("a").key("g").origin(KeyOrigin::Gateway { created_micros });
    let invalid = Answered::refused(Code::KeyExpired);
    assert_eq!(stage.run(made(now - 120_000_000)).await, invalid);
    assert_eq!(stage.run(made(now + 31_000_000)).await, invalid);
    assert_eq!(stage.counter("a").await, None);
    assert_eq!(stage.run(made(now - 119_000_000)).await, Answered::counted(1, 1));
    stage.seams.spawner.sleep(Duration::from_secs(2)).await;
    assert_eq!(
        stage.run(made(now - 119_000_000)).await,
        Answered::counted(1, 1).replay(),
        "too old to be executed, but its outcome is still known"
    );
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_the_store_has_lost_costs_one_command_and_not_the_shard() {
    let stage = Stage::leading().await;
    let scope = Scope::new("", &EntityKey::new("counter", "a").unwrap(), "k");
    stage.shard.machine().window.insert(RowId::new(Lane::Client, 1, 0), scope, u64::MAX);
    assert_eq!(stage.run(ask()).await, Answered::Abandoned, "it was executed, nobody knows with what outcome");
    assert_eq!(stage.run(Ask::increment("a")).await, Answered::counted(1, 1));
}
