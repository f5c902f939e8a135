//! Earlier states: at every version and time they are the fold of what had happened by then, and stay so.

use std::time::Duration;

use berth_node::entity::Registry;
use berth_node::record::{EventBody, Fingerprint, KeyOrigin, RequestKey, Scope};
use berth_node::shard::command::{Action, Answer, Command};
use berth_node::shard::reader;
use berth_shared::ids::RequestId;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Moment, Precondition};
use berth_shared::problem::Code;
use proptest::prelude::*;
use tokio::sync::oneshot;

use crate::scripted::{Answered, Ask, Options, Pending, Stage, TERM};

/// What is known of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Was {
    Absent,
    Deleted,
    State(u64, String),
}

async fn was(stage: &Stage, kind: &str, moment: Moment) -> Was {
    let key = EntityKey::new(kind, "a").unwrap();
    let deadline = stage.seams.clock.now() + Duration::from_secs(5);
    match stage.reader.past(&key, moment, Consistency::Linearizable, deadline).await {
        Ok(past) => Was::State(past.version, String::from_utf8(past.state.to_vec()).unwrap()),
        Err(reader::Error::NotFound) => Was::Absent,
        Err(reader::Error::Deleted) => Was::Deleted,
        Err(error) => panic!("{error}"),
    }
}

/// The whole history, folded in the plainest way: when each event happened, and what was then.
async fn moments(stage: &Stage, kind: &str) -> Vec<(u64, Was)> {
    let key = EntityKey::new(kind, "a").unwrap();
    let registry = Registry::built_in();
    let of_kind = registry.get(kind).unwrap();
    let (mut state, mut moments, mut after) = (of_kind.initial(), Vec::new(), Some(0));
    while let Some(from) = after {
        let Ok((page, _)) = stage.reader.events(&key, from, 1000, Consistency::Linearizable).await else { break };
        for event in page.events {
            if event.event_type == "berth-deleted" {
                state = of_kind.initial();
                moments.push((event.time_micros, Was::Deleted));
                continue;
            }
            state = of_kind.evolve(state, &EventBody { event_type: event.event_type, data: event.data }).unwrap();
            let json = String::from_utf8(of_kind.state_json(&state).unwrap().to_vec()).unwrap();
            moments.push((event.time_micros, Was::State(event.version, json)));
        }
        after = page.next;
    }
    moments
}

async fn check(stage: &Stage, kind: &str) {
    let moments = moments(stage, kind).await;
    assert_eq!(was(stage, kind, Moment::Version(0)).await, Was::Absent);
    assert_eq!(was(stage, kind, Moment::Version(moments.len() as u64 + 1)).await, Was::Absent);
    let mut before = Was::Absent;
    for (version, (time, expected)) in (1..).zip(&moments) {
        assert_eq!(was(stage, kind, Moment::Version(version)).await, *expected, "version {version}");
        let last_of_its_time = moments.iter().rev().find(|(other, _)| other == time).unwrap();
        assert_eq!(was(stage, kind, Moment::Time(*time)).await, last_of_its_time.1, "at version {version}");
        let first_of_its_time = moments.iter().position(|(other, _)| other == time).unwrap() as u64 + 1;
        if first_of_its_time == version {
            assert_eq!(was(stage, kind, Moment::Time(*time - 1)).await, before, "just before version {version}");
        }
        before.clone_from(expected);
    }
    assert_eq!(was(stage, kind, Moment::Time(u64::MAX)).await, before);
    assert_eq!(was(stage, kind, Moment::Time(0)).await, Was::Absent);
}

#[tokio::test(start_paused = true)]
async fn an_entity_with_snapshots_and_tombstones_is_known_at_every_version_and_time() {
    for resident_bytes_max in [256 << 20, 1] {
        let stage = Stage::leading_with(Options { resident_bytes_max, ..Options::default() }).await;
        assert_eq!(was(&stage, "counter", Moment::Version(1)).await, Was::Absent);
        for step in 1..=400_u64 {
            let ask = if step % 150 == 0 { Ask::delete("counter", "a") } else { Ask::add("a", r#"{"by":2}"#) };
            stage.run(ask).await;
        }
        check(&stage, "counter").await;
        // One more, so that the newest is not a snapshot, and a tombstone is the newest.
        stage.run(Ask::delete("counter", "a")).await;
        check(&stage, "counter").await;
    }
}

/// More events than one slice folds.
#[tokio::test(start_paused = true)]
async fn a_long_history_is_folded_in_slices_and_not_past_the_deadline() {
    let stage = Stage::leading().await;
    let asks = |count: u64| (0..count).map(|_| Ask::increment("a"));
    for _ in 0..30 {
        stage.send_all(asks(100)).await;
        stage.apply_all().await;
    }
    assert_eq!(stage.counter("a").await.unwrap().0, 3000);
    for version in [1, 1023, 1024, 1025, 2049, 2600, 2999, 3000] {
        let expected = Was::State(version, format!("{{\"value\":{version}}}"));
        assert_eq!(was(&stage, "counter", Moment::Version(version)).await, expected);
    }
    let key = EntityKey::new("counter", "a").unwrap();
    let passed = stage.seams.clock.now();
    let late = stage.reader.past(&key, Moment::Version(2500), Consistency::Linearizable, passed).await;
    assert!(matches!(late, Err(reader::Error::Late)), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn an_earlier_state_needs_the_warrant_of_a_read() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    stage.run(Ask::increment("a")).await;
    let key = EntityKey::new("counter", "a").unwrap();
    let read = async |moment, consistency| {
        let deadline = stage.seams.clock.now() + Duration::from_secs(5);
        stage.reader.past(&key, moment, consistency, deadline).await.map(|past| past.version)
    };
    for moment in [Moment::Version(1), Moment::Version(9), Moment::Time(0)] {
        stage.group.lose_lease();
        assert!(matches!(read(moment, Consistency::Linearizable).await, Err(reader::Error::NotOwner)));
        stage.group.regain_lease();
        stage.group.pass_lease_after(1, None);
        assert!(
            matches!(read(moment, Consistency::Linearizable).await, Err(reader::Error::NotOwner)),
            "lost meanwhile"
        );
        stage.group.say_leading(Some(TERM));
        stage.group.lose_quorum();
        assert!(matches!(read(moment, Consistency::Strict).await, Err(reader::Error::Unconfirmed)));
        stage.group.say_leading(Some(TERM));
    }
    stage.group.lose_lease();
    assert_eq!(read(Moment::Version(1), Consistency::Strict).await.unwrap(), 1);
}

/// Has the shard's time pass `time_micros`.
async fn pass_time(stage: &Stage, time_micros: u64) -> Pending {
    let (sender, answer) = oneshot::channel();
    let key = EntityKey::new("counter", "a").unwrap();
    let command = Command {
        kind: Registry::built_in().get("counter").unwrap().clone(),
        action: Action::PassTime(time_micros),
        precondition: Precondition::None,
        principal: String::new(),
        request: RequestKey {
            scope: Scope::new("", &key, &format!("pass {time_micros}")),
            fingerprint: Fingerprint::new("", b"", b""),
            origin: KeyOrigin::Gateway { created_micros: 0 },
        },
        request_id: RequestId(u128::from(time_micros)),
        attempt: 1,
        wants_state: false,
        deadline: stage.seams.clock.now() + Duration::from_secs(5),
        answer: Answer::new(move |response| drop(sender.send(Answered::from(response)))),
        key,
    };
    stage.mailbox().try_send(command).unwrap();
    stage.settle().await;
    Pending(answer)
}

/// Without that, a successor whose clock is behind could give an event a time at which the state was already told.
#[tokio::test(start_paused = true)]
async fn a_time_that_has_passed_is_before_every_later_event_whoever_decides_it() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    stage.seams.spawner.sleep(Duration::from_secs(60)).await;
    let asked = stage.seams.clock.wall_micros() - 1_000_000;
    assert!(stage.shard.time_micros() < asked, "nothing was written since");
    let mut passed = pass_time(&stage, asked).await;
    assert!(passed.answered().is_none(), "not before it is applied");
    stage.apply_all().await;
    assert!(matches!(passed.answered(), Some(Answered::Executed { version: 1, .. })));
    assert!(stage.shard.time_micros() > asked);
    let told = was(&stage, "counter", Moment::Time(asked)).await;
    assert_eq!(told, Was::State(1, r#"{"value":1}"#.to_owned()));

    stage.step_down().await;
    stage.lead(TERM + 1).await;
    stage.run(Ask::increment("a")).await;
    assert!(moments(&stage, "counter").await[1].0 > asked);
    assert_eq!(was(&stage, "counter", Moment::Time(asked)).await, told);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_not_past_yet_is_refused_and_writes_nothing() {
    let stage = Stage::leading().await;
    let later = stage.seams.clock.wall_micros() + 10_000_000;
    assert_eq!(pass_time(&stage, later).await.unwrap(), Answered::refused(Code::InvalidRequest));
    assert_eq!(stage.group.held(), 0);
}

/// A command that decides on what is in flight waits for it, and so does what must pass it.
#[tokio::test(start_paused = true)]
async fn an_event_in_flight_is_applied_before_its_time_has_passed() {
    let stage = Stage::leading().await;
    let add = stage.send(Ask::increment("a")).await;
    stage.seams.spawner.sleep(Duration::from_secs(2)).await;
    let asked = stage.seams.clock.wall_micros() - 1_000_000;
    let mut passed = pass_time(&stage, asked).await;
    stage.apply_next().await;
    assert_eq!(add.unwrap(), Answered::counted(1, 1));
    assert!(passed.answered().is_none());
    stage.apply_all().await;
    assert!(passed.answered().is_some());
    assert_eq!(was(&stage, "counter", Moment::Time(asked)).await, Was::State(1, r#"{"value":1}"#.to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Documents, so that events are of many sizes and snapshots come by bytes, too.
    #[test]
    fn any_history_is_known_at_every_moment(
        steps in prop::collection::vec((0_u8..10, 1_usize..3000), 1..60),
        resident_bytes_max in prop_oneof![Just(1_usize), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let stage = Stage::leading_with(Options { resident_bytes_max, ..Options::default() }).await;
            for (step, bytes) in &steps {
                let put = format!(r#"{{"value":"{}"}}"#, "x".repeat(*bytes));
                let ask = if *step == 0 { Ask::delete("document", "a") } else { Ask::new("document", "a", "put", &put) };
                stage.run(ask).await;
                if *step == 1 {
                    stage.seams.spawner.sleep(Duration::from_millis(700)).await;
                }
            }
            check(&stage, "document").await;
        });
    }
}
