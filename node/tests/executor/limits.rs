//! What is too much, too late, too large, or panics: each a clear answer, and the shard goes on.

use std::convert::Infallible;
use std::time::Duration;

use berth_node::entity::{Context, Decision, Entity, Registry};
use berth_node::shard::executor;
use berth_shared::problem::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scripted::{Answered, Ask, Options, Pending, Stage};

/// Misbehaves on request.
struct Rogue;

#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
struct State {
    events: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Command {
    Behave,
    Panic,
    PanicInEvolve,
    ReplyLong,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Event {
    Behaved,
    Misfolded,
}

impl Entity for Rogue {
    const KIND: &'static str = "rogue";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = String;
    type Rejection = Infallible;

    fn decide(
        &self,
        _state: &State,
        command: &Command,
        _context: &Context<'_>,
    ) -> Result<Decision<Event, String>, Infallible> {
        match command {
            Command::Behave => Ok(Decision::event(Event::Behaved).reply(String::new())),
            Command::Panic => panic!("as asked"),
            Command::PanicInEvolve => Ok(Decision::event(Event::Misfolded).reply(String::new())),
            Command::ReplyLong => Ok(Decision::event(Event::Behaved).reply("x".repeat(16 * 1024))),
        }
    }

    fn evolve(state: &mut State, event: &Event) {
        match event {
            Event::Behaved => state.events += 1,
            Event::Misfolded => panic!("as asked"),
        }
    }
}

fn rogue(command: &'static str) -> Ask<'static> {
    Ask::new("rogue", "a", command, "{}")
}

async fn stage_with_rogue() -> Stage {
    let registry = Registry::built_in().add(Rogue).unwrap();
    Stage::leading_with(Options { registry, ..Options::default() }).await
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_panics_costs_one_command_and_not_the_shard() {
    let stage = stage_with_rogue().await;
    let asks =
        [rogue("behave"), rogue("panic"), rogue("panic-in-evolve").key("k"), rogue("behave"), Ask::increment("a")];
    let pending = stage.send_all(asks).await;
    stage.apply_all().await;
    let answers: Vec<Answered> = pending.into_iter().map(Pending::unwrap).collect();
    assert_eq!(answers[0].version(), 1);
    assert_eq!(answers[1..3], [Answered::refused(Code::Internal), Answered::refused(Code::Internal)]);
    assert_eq!((answers[3].version(), &answers[4]), (2, &Answered::counted(1, 1)));
    assert_eq!(stage.applied("rogue", "a").await, Some((2, r#"{"events":2}"#.to_owned())));
    assert_eq!(stage.run(rogue("panic").key("k")).await, Answered::refused(Code::Internal), "nothing was stored");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_too_long_is_refused_and_nothing_is_written() {
    let stage = stage_with_rogue().await;
    stage.run(rogue("behave")).await;
    assert_eq!(stage.run(rogue("reply-long")).await, Answered::refused(Code::TooLarge));
    assert_eq!(stage.run(rogue("reply-long").key("k")).await, Answered::refused(Code::TooLarge));
    assert_eq!(stage.run(rogue("reply-long").key("k")).await, Answered::refused(Code::TooLarge).replay());
    assert_eq!(stage.applied("rogue", "a").await, Some((1, r#"{"events":1}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_state_that_would_be_too_large_is_refused_and_nothing_is_written() {
    let stage = Stage::leading().await;
    let text = "x".repeat(700 * 1024);
    let part = |name: &str| format!(r#"{{"patch":{{"{name}":"{text}"}}}}"#);
    let (first, second) = (part("first"), part("second"));
    assert_eq!(stage.run(Ask::new("document", "a", "merge", &first)).await.version(), 1);
    let too_large = Ask::new("document", "a", "merge", &second);
    assert_eq!(stage.run(too_large.clone()).await, Answered::refused(Code::TooLarge));
    assert_eq!(stage.run(too_large.key("k")).await, Answered::refused(Code::TooLarge));
    let (version, state) = stage.applied("document", "a").await.unwrap();
    assert!(version == 1 && !state.contains("second"));
    let smaller = Ask::new("document", "a", "merge", r#"{"patch":{"first":null}}"#);
    assert_eq!(stage.run(smaller).await.version(), 2, "the way back is open");
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_deadline_has_passed_is_not_decided() {
    let config = executor::Config { batches_in_flight_max: 1, ..Options::default().executor };
    let stage = Stage::leading_with(Options { executor: config, ..Options::default() }).await;
    let first = stage.send(Ask::increment("a")).await;
    let mut late = stage.send(Ask::increment("a").within(Duration::from_secs(1))).await;
    let mut patient = stage.send(Ask::increment("a").within(Duration::from_secs(9))).await;
    stage.seams.spawner.sleep(Duration::from_secs(2)).await;
    stage.apply_all().await;
    assert_eq!(first.unwrap(), Answered::counted(1, 1));
    assert_eq!(late.answered(), Some(Answered::refused(Code::Unavailable)));
    assert_eq!(patient.answered(), Some(Answered::counted(2, 2)));
}

/// While a batch does not come back, or a hand-over holds the shard, nothing is decided, and nothing would look at them.
#[tokio::test(start_paused = true)]
async fn what_has_expired_gives_its_place_back_while_nothing_is_decided() {
    let config = executor::Config { mailbox_max: 2, batches_in_flight_max: 1, ..Options::default().executor };
    let stage = Stage::leading_with(Options { executor: config, ..Options::default() }).await;
    let first = stage.send(Ask::increment("a")).await;
    for _ in 0..20 {
        let soon = || Ask::increment("a").within(Duration::from_secs(1));
        let expiring = [stage.send(soon()).await, stage.send(soon()).await];
        assert!(stage.try_send(&Ask::increment("a")).is_err(), "two wait already");
        stage.seams.spawner.sleep(Duration::from_millis(1200)).await;
        for mut expired in expiring {
            assert_eq!(expired.answered(), Some(Answered::refused(Code::Unavailable)), "nothing was applied meanwhile");
        }
    }
    let patient = stage.send(Ask::increment("a").within(Duration::from_secs(9))).await;
    stage.seams.spawner.sleep(Duration::from_millis(500)).await;
    stage.apply_all().await;
    assert_eq!((first.unwrap(), patient.unwrap()), (Answered::counted(1, 1), Answered::counted(2, 2)));

    let held = stage.hold.begin().await.unwrap();
    let mut expired = stage.send(Ask::increment("a").within(Duration::from_secs(1))).await;
    stage.seams.spawner.sleep(Duration::from_millis(1200)).await;
    assert_eq!(expired.answered(), Some(Answered::refused(Code::Unavailable)));
    drop(held);
    assert_eq!(stage.run(Ask::increment("a")).await, Answered::counted(3, 3));
}

/// Whatever waits for the shard is looked at once in a while, and what is kept is bounded all the same.
#[tokio::test(start_paused = true)]
async fn looking_for_what_has_expired_makes_no_room_without_end() {
    let config = executor::Config { mailbox_max: 4, batches_in_flight_max: 1, ..Options::default().executor };
    let stage = Stage::leading_with(Options { executor: config, ..Options::default() }).await;
    let patient = || Ask::increment("a").within(Duration::from_secs(60));
    let mut taken = vec![stage.send(patient()).await];
    for _ in 0..100 {
        taken.extend(stage.try_send(&patient()));
        stage.seams.spawner.sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(taken.len(), 1 + 2 * 4);
    stage.apply_all().await;
    let versions: Vec<u64> = taken.into_iter().map(|pending| pending.unwrap().version()).collect();
    assert_eq!(versions, (1..=9).collect::<Vec<_>>(), "in the order in which they came");
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_takes_no_more_and_keeps_what_it_has() {
    let config = executor::Config { mailbox_max: 8, batches_in_flight_max: 1, ..Options::default().executor };
    let stage = Stage::leading_with(Options { executor: config, ..Options::default() }).await;
    let mut taken = vec![stage.send(Ask::increment("a")).await];
    for _ in 0..8 {
        taken.push(stage.send(Ask::increment("a")).await);
    }
    for _ in 0..3 {
        assert!(stage.try_send(&Ask::increment("a")).is_err(), "eight wait already");
        stage.settle().await;
    }
    stage.apply_all().await;
    let versions: Vec<u64> = taken.into_iter().map(|pending| pending.unwrap().version()).collect();
    assert_eq!(versions, (1..=9).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn outcomes_that_wait_are_bounded() {
    let config = executor::Config { mailbox_max: 20_000, ..Options::default().executor };
    let stage = Stage::leading_with(Options { executor: config, ..Options::default() }).await;
    stage.send(Ask::increment("a")).await;
    let mut waiting = stage.send_all((0..6000).map(|_| Ask::no_op("a"))).await;
    let mut behind = stage.send(Ask::no_op("b")).await;
    assert!(behind.answered().is_none(), "no more is decided while so many outcomes wait");
    stage.apply_all().await;
    assert_eq!(behind.answered(), Some(Answered::counted(0, 0)));
    assert!(waiting.iter_mut().all(|pending| pending.answered() == Some(Answered::counted(1, 1))));
}
