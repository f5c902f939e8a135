//! Rule W4: outcomes without events, which rest on what is in flight.

use std::time::Duration;

use berth_node::shard::machine::Verdict;
use berth_shared::problem::Code;

use crate::scripted::{Answered, Ask, Stage, TERM};

#[tokio::test(start_paused = true)]
async fn outcomes_without_events_wait_for_the_records_they_rest_on() {
    let stage = Stage::leading().await;
    stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    let mut no_op = stage.send(Ask::no_op("a")).await;
    let mut mismatch = stage.send(Ask::increment("a").if_version(7)).await;
    let mut rejected = stage.send(Ask::add("a", r#"{"by":9223372036854775807}"#)).await;
    let mut elsewhere = stage.send(Ask::no_op("b")).await;
    assert_eq!(elsewhere.answered(), Some(Answered::counted(0, 0)), "it rests on nothing in flight");
    assert!(no_op.answered().is_none() && mismatch.answered().is_none() && rejected.answered().is_none());
    assert_eq!(stage.group.held(), 1, "none of them is a record");
    stage.apply_next().await;
    assert_eq!(no_op.answered(), Some(Answered::counted(1, 5)));
    assert_eq!(mismatch.answered(), Some(Answered::mismatch(1)));
    assert_eq!(rejected.answered(), Some(Answered::rejected("overflow")));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_waits_for_the_last_of_several_batches_that_change_its_entity() {
    let stage = Stage::leading().await;
    stage.send(Ask::increment("a")).await;
    stage.send(Ask::increment("a")).await;
    let mut no_op = stage.send(Ask::no_op("a")).await;
    stage.send(Ask::increment("a")).await;
    stage.apply_next().await;
    assert!(no_op.answered().is_none());
    stage.apply_next().await;
    assert_eq!(no_op.answered(), Some(Answered::counted(2, 2)), "the third was decided after it");
}

#[tokio::test(start_paused = true)]
async fn outcomes_that_rested_on_a_dropped_record_are_decided_again() {
    let stage = Stage::leading().await;
    let add = stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    let no_op = stage.send(Ask::no_op("a")).await;
    let mismatch = stage.send(Ask::increment("a").if_version(0)).await;
    let rejected = stage.send(Ask::add("a", r#"{"by":9223372036854775807}"#)).await;
    let held = stage.take();
    drop(held.lose());
    stage.apply_all().await;
    assert_eq!(add.unwrap(), Answered::Abandoned);
    assert_eq!(no_op.unwrap(), Answered::counted(0, 0));
    assert_eq!(mismatch.unwrap(), Answered::mismatch(0), "there is no version 0 to match");
    assert_eq!(rejected.unwrap(), Answered::counted(1, i64::MAX), "it overflowed only on top of what was lost");
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_rested_on_a_lost_batch_is_decided_again_although_others_are_in_flight() {
    let stage = Stage::leading().await;
    stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    stage.send(Ask::increment("b")).await;
    let mut no_op = stage.send(Ask::no_op("a")).await;
    let (a, b) = (stage.take(), stage.take());
    a.refuse();
    stage.settle().await;
    assert!(no_op.answered().is_none(), "nothing is decided before all in flight is settled");
    stage.apply_held_in(TERM, b).await;
    stage.apply_next().await;
    assert_eq!(no_op.answered(), Some(Answered::counted(1, 5)), "the write was decided again before it");
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_nothing_is_answered_that_was_not_written() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":5}"#)).await;
    let mut write = stage.send(Ask::increment("a")).await;
    let mut resting = stage.send(Ask::no_op("a")).await;
    stage.group.lose_lease();
    assert_eq!(stage.send(Ask::no_op("b")).await.unwrap(), Answered::WrongOwner);
    assert_eq!(stage.send(Ask::increment("b").if_version(3)).await.unwrap(), Answered::WrongOwner);
    stage.apply_next().await;
    assert_eq!(write.answered(), Some(Answered::counted(2, 6)), "it is committed, whoever leads now");
    assert_eq!(resting.answered(), Some(Answered::WrongOwner));
    stage.group.regain_lease();
    assert_eq!(stage.run(Ask::no_op("a")).await, Answered::counted(2, 6));
}

/// The lease is confirmed before a command is decided and not after it, when another owner may have written.
#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_while_a_command_is_decided_spoils_its_outcome() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":5}"#)).await;
    for (ask, answer) in [
        (Ask::no_op("a"), Answered::counted(1, 5)),
        (Ask::increment("a").if_version(7), Answered::mismatch(1)),
        (Ask::add("a", r#"{"by":9223372036854775807}"#), Answered::rejected("overflow")),
    ] {
        for successor in [None, Some(TERM + 2)] {
            stage.group.pass_lease_after(1, successor);
            assert_eq!(stage.send(ask.clone()).await.unwrap(), Answered::WrongOwner, "{ask:?}");
            stage.group.say_leading(Some(TERM));
        }
        assert_eq!(stage.run(ask).await, answer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_under_a_clients_key_is_stored_and_replayed() {
    let stage = Stage::leading().await;
    let ask = || Ask::increment("a").if_version(1).key("k");
    let mut refused = stage.send(ask().request(1)).await;
    assert_eq!(stage.held_records(), 1, "the refusal is a record");
    assert!(refused.answered().is_none());
    stage.apply_all().await;
    assert_eq!(refused.answered(), Some(Answered::mismatch(0)));
    // By now the entity is at version 1.
    stage.run(Ask::increment("a")).await;
    assert_eq!(stage.run(ask().request(2)).await, Answered::mismatch(0).replay());
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":1}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_refused_later_attempt_keeps_a_delayed_first_one_from_executing() {
    let stage = Stage::leading().await;
    let created_micros = stage.seams.clock.wall_micros();
    let origin = berth_node::record::KeyOrigin::Gateway { created_micros };
    let ask = || Ask::increment("a").if_version(1).key("made").origin(origin).request(9);
    // The second attempt arrives first.
    let mut second = stage.send(ask().attempt(2)).await;
    assert_eq!(stage.group.held(), 1);
    stage.apply_all().await;
    assert_eq!(second.answered(), Some(Answered::mismatch(0)));
    stage.run(Ask::increment("a")).await;
    assert_eq!(stage.run(ask().attempt(1)).await, Answered::mismatch(0).replay());
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":1}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_stored_refusal_whose_ground_is_dropped_is_decided_again() {
    let stage = Stage::leading().await;
    stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    let mut mismatch = stage.send(Ask::increment("a").if_version(7).key("k")).await;
    let (add, refusal) = (stage.take(), stage.take());
    drop(add.lose());
    assert_eq!(stage.apply_held_in(TERM, refusal).await, [Verdict::WrongBase]);
    assert_eq!(stage.apply_next().await, [Verdict::Applied]);
    assert_eq!(mismatch.answered(), Some(Answered::mismatch(0)));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_outcome_is_not_answered_when_leadership_is_lost() {
    let stage = Stage::leading().await;
    stage.send(Ask::increment("a")).await;
    let mut no_op = stage.send(Ask::no_op("a")).await;
    let held = stage.take();
    stage.step_down().await;
    assert_eq!(no_op.answered(), Some(Answered::WrongOwner));
    stage.apply_held_in(TERM, held).await;
    let mut too_early = stage.send(Ask::no_op("a")).await;
    assert_eq!(too_early.answered(), Some(Answered::WrongOwner));
    stage.lead(TERM + 1).await;
    assert_eq!(stage.run(Ask::no_op("a")).await, Answered::counted(1, 1));
    assert_eq!(stage.run(Ask::increment("a").if_version(9)).await, Answered::mismatch(1));
    assert_ne!(stage.run(Ask::increment("a").if_version(1)).await, Answered::refused(Code::VersionMismatch));
}

#[tokio::test(start_paused = true)]
async fn an_owner_without_a_lease_refuses_what_it_has_not_decided_instead_of_leaving_it_in_doubt() {
    let stage = Stage::leading().await;
    // As many batches as may be in flight, and a command that waits for room.
    let mut proposed = Vec::new();
    for _ in 0..4 {
        proposed.push(stage.send(Ask::increment("a")).await);
    }
    let mut waiting = stage.send(Ask::increment("a")).await;
    stage.group.lose_lease();
    assert!(waiting.answered().is_none());
    stage.seams.spawner.sleep(Duration::from_millis(150)).await;
    assert_eq!(waiting.answered(), Some(Answered::WrongOwner));
    assert!(proposed.iter_mut().all(|command| command.answered().is_none()), "these may yet be applied");
    stage.apply_all().await;
    assert_eq!(stage.send(Ask::increment("a")).await.unwrap(), Answered::WrongOwner);
    assert_eq!(stage.group.held(), 0, "nothing is proposed without a lease");
    stage.group.regain_lease();
    assert_eq!(stage.run(Ask::increment("a")).await, Answered::counted(5, 5));
}
