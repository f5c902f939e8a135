//! While decisions are held, what is in flight settles and what comes waits; afterwards it is decided, or refused where the
//! leadership has gone.

use std::time::Duration;

use berth_node::shard::hold::Held;
use berth_shared::problem::Code;
use tokio::task::JoinHandle;

use crate::scripted::{Answered, Ask, Options, Pending, Stage, TERM};

/// Begins to hold, beside the test.
fn begin(stage: &Stage) -> JoinHandle<Option<Held>> {
    let hold = stage.hold.clone();
    stage.seams.spawner.spawn(async move { hold.begin().await })
}

#[tokio::test(start_paused = true)]
async fn what_is_held_waits_and_is_decided_afterwards() {
    let stage = Stage::leading().await;
    assert_eq!(stage.run(Ask::increment("a")).await, Answered::counted(1, 1));
    let held = stage.hold.begin().await.unwrap();
    let mut waiting = stage.send_all((0..3).map(|_| Ask::increment("a"))).await;
    let mut no_op = stage.send(Ask::no_op("a")).await;
    stage.seams.spawner.sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.group.held(), 0, "nothing is decided");
    assert!(waiting.iter_mut().all(|pending| pending.answered().is_none()) && no_op.answered().is_none());
    assert_eq!(stage.read("counter", "a").await.unwrap().0, 1, "reads go on");
    drop(held);
    stage.apply_all().await;
    let answers: Vec<Answered> = waiting.into_iter().map(Pending::unwrap).collect();
    assert_eq!(answers, [Answered::counted(2, 2), Answered::counted(3, 3), Answered::counted(4, 4)]);
    assert!(matches!(no_op.unwrap(), Answered::Executed { version: 4, .. }));
}

#[tokio::test(start_paused = true)]
async fn holding_begins_when_everything_in_flight_has_settled() {
    let stage = Stage::leading().await;
    let mut first = stage.send(Ask::increment("a")).await;
    // It has no record, and rests on the one that is in flight.
    let mut no_op = stage.send(Ask::no_op("a")).await;
    let second = stage.send(Ask::increment("a")).await;
    let begun = begin(&stage);
    stage.settle().await;
    let mut late = stage.send(Ask::increment("a")).await;
    assert!(!begun.is_finished());
    stage.apply_next().await;
    assert_eq!(first.answered(), Some(Answered::counted(1, 1)));
    assert!(no_op.answered().is_some(), "what was accepted is answered");
    assert!(!begun.is_finished(), "one is still in flight");
    stage.apply_next().await;
    let held = begun.await.unwrap().unwrap();
    assert_eq!((second.unwrap(), stage.group.held()), (Answered::counted(2, 2), 0));
    assert!(late.answered().is_none());
    drop(held);
    stage.apply_all().await;
    assert_eq!(late.unwrap(), Answered::counted(3, 3));
}

/// What was dropped when it was applied is decided again, but not before the hold ends.
#[tokio::test(start_paused = true)]
async fn what_is_to_be_decided_again_waits_too() {
    let stage = Stage::leading().await;
    let mut refused = stage.send(Ask::increment("a")).await;
    let begun = begin(&stage);
    stage.settle().await;
    stage.take().refuse();
    let held = begun.await.unwrap().unwrap();
    assert_eq!((stage.group.held(), refused.answered()), (0, None));
    drop(held);
    stage.apply_all().await;
    assert_eq!(refused.unwrap(), Answered::counted(1, 1));
}

#[tokio::test(start_paused = true)]
async fn when_leadership_goes_all_that_waits_is_sent_away() {
    let stage = Stage::leading().await;
    let held = stage.hold.begin().await.unwrap();
    let waiting = stage.send_all((0..600).map(|_| Ask::increment("a"))).await;
    stage.step_down().await;
    for pending in waiting {
        assert_eq!(pending.unwrap(), Answered::WrongOwner);
    }
    assert_eq!(stage.send(Ask::increment("a")).await.unwrap(), Answered::WrongOwner);
    // It is back before the hand-over has noticed.
    stage.lead(TERM + 1).await;
    let mut next = stage.send(Ask::increment("a")).await;
    assert!(next.answered().is_none());
    drop(held);
    stage.apply_all().await;
    assert_eq!(next.unwrap(), Answered::counted(1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_during_a_hold_sends_what_waits_away() {
    let stage = Stage::leading().await;
    let _held = stage.hold.begin().await.unwrap();
    let mut waiting = stage.send(Ask::increment("a")).await;
    stage.group.lose_lease();
    stage.seams.spawner.sleep(Duration::from_millis(150)).await;
    assert_eq!(waiting.answered(), Some(Answered::WrongOwner));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_during_a_hold_is_respected() {
    let stage = Stage::leading().await;
    let held = stage.hold.begin().await.unwrap();
    let late = stage.send(Ask::increment("a").within(Duration::from_millis(20))).await;
    let patient = stage.send(Ask::increment("b").within(Duration::from_millis(900))).await;
    stage.seams.spawner.sleep(Duration::from_millis(100)).await;
    drop(held);
    stage.apply_all().await;
    assert_eq!(late.unwrap(), Answered::refused(Code::Unavailable));
    assert_eq!(patient.unwrap(), Answered::counted(1, 1));
    assert_eq!(stage.counter("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_is_bounded_during_a_hold_too() {
    let mut options = Options::default();
    options.executor.mailbox_max = 8;
    let stage = Stage::leading_with(options).await;
    let held = stage.hold.begin().await.unwrap();
    let sent: Vec<bool> = (0..20).map(|_| stage.try_send(&Ask::increment("a")).is_ok()).collect();
    assert_eq!(sent.iter().filter(|sent| **sent).count(), 8);
    drop(held);
    stage.apply_all().await;
    assert_eq!(stage.counter("a").await.unwrap().0, 8);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_is_given_up_before_it_began_holds_nothing() {
    let stage = Stage::leading().await;
    let first = stage.send(Ask::increment("a")).await;
    let given_up = stage.seams.spawner.timeout(Duration::from_millis(50), stage.hold.begin()).await;
    assert!(given_up.is_none(), "one is in flight");
    let second = stage.send(Ask::increment("a")).await;
    assert_eq!(stage.group.held(), 2, "it is decided");
    stage.apply_all().await;
    assert_eq!([first.unwrap(), second.unwrap()], [Answered::counted(1, 1), Answered::counted(2, 2)]);
    // One that comes after it does not take its word for the other's.
    let third = stage.send(Ask::increment("a")).await;
    let begun = begin(&stage);
    stage.settle().await;
    assert!(!begun.is_finished());
    stage.apply_all().await;
    drop((begun.await.unwrap(), third));
}

#[tokio::test(start_paused = true)]
async fn two_that_hold_must_both_let_go() {
    let stage = Stage::leading().await;
    let (one, other) = (stage.hold.begin().await.unwrap(), stage.hold.begin().await.unwrap());
    let mut waiting = stage.send(Ask::increment("a")).await;
    drop(one);
    stage.apply_all().await;
    assert!(waiting.answered().is_none());
    drop(other);
    stage.apply_all().await;
    assert_eq!(waiting.answered(), Some(Answered::counted(1, 1)));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_an_executor_that_has_ended() {
    let stage = Stage::leading().await;
    let (hold, seams) = (stage.hold.clone(), stage.seams.clone());
    drop(stage);
    seams.spawner.sleep(Duration::from_millis(1)).await;
    assert!(hold.begin().await.is_none());
}
