//! Deletion: a tombstone by the way of every command, and what is there before and after it.

use berth_node::shard::reader;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Precondition};
use berth_shared::problem::Code;

use crate::scripted::{Answered, Ask, Options, Stage, TERM};

fn delete() -> Ask<'static> {
    Ask::delete("counter", "a")
}

/// A deletion that brought the counter to `version`, or found it there.
fn deleted(version: u64) -> Answered {
    let (reply, state) = ("null".to_owned(), r#"{"value":0}"#.to_owned());
    Answered::Executed { version, reply, state, replayed: false }
}

async fn events(stage: &Stage) -> Vec<(u64, String)> {
    let key = EntityKey::new("counter", "a").unwrap();
    let (page, _) = stage.reader.events(&key, 0, 100, Consistency::Linearizable).await.unwrap();
    let event_type = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    page.events.iter().map(|event| (event.version, event_type(&event.event_type))).collect()
}

fn history(types: &[&str]) -> Vec<(u64, String)> {
    (1..).zip(types).map(|(version, name)| (version, (*name).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deleted_entity_keeps_its_history_and_begins_anew_with_the_versions_going_on() {
    for resident_bytes_max in [256 << 20, 1] {
        let stage = Stage::leading_with(Options { resident_bytes_max, ..Options::default() }).await;
        stage.run(Ask::add("a", r#"{"by":5}"#)).await;
        assert_eq!(stage.run(delete()).await, deleted(2));
        assert!(matches!(stage.read("counter", "a").await, Err(reader::Error::Deleted)));
        assert_eq!(stage.run(delete()).await, deleted(2), "again, without an event");
        assert_eq!(events(&stage).await, history(&["added", "berth-deleted"]));

        assert_eq!(stage.run(Ask::add("a", r#"{"by":1}"#)).await, Answered::counted(3, 1));
        assert_eq!(stage.read("counter", "a").await.unwrap(), (3, r#"{"value":1}"#.to_owned()));
        assert_eq!(stage.run(delete()).await, deleted(4));
        assert_eq!(events(&stage).await, history(&["added", "berth-deleted", "added", "berth-deleted"]));
    }
}

/// A snapshot may hold the state of before or after a tombstone, and events may come before and after it.
#[tokio::test(start_paused = true)]
async fn an_entity_is_folded_over_its_tombstones_wherever_its_snapshot_is() {
    let stage = Stage::leading_with(Options { resident_bytes_max: 1, ..Options::default() }).await;
    let (mut version, mut value) = (0, 0);
    for step in 1..=900_u64 {
        version += 1;
        if step % 127 == 0 {
            assert_eq!(stage.run(delete()).await, deleted(version));
            assert!(matches!(stage.read("counter", "a").await, Err(reader::Error::Deleted)));
            value = 0;
        } else {
            value += 2;
            assert_eq!(stage.run(Ask::add("a", r#"{"by":2}"#)).await, Answered::counted(version, value));
        }
    }
    assert_eq!(stage.read("counter", "a").await.unwrap(), (900, format!("{{\"value\":{value}}}")));
}

#[tokio::test(start_paused = true)]
async fn what_never_existed_is_not_found_and_that_is_an_outcome_like_any_other() {
    let stage = Stage::leading().await;
    assert_eq!(stage.run(delete()).await, Answered::refused(Code::NotFound));
    assert_eq!(stage.group.held(), 0);
    let conditions = [Precondition::Exists, Precondition::Versions(vec![3]), Precondition::Absent];
    for precondition in conditions {
        let answer = stage.run(Ask { precondition, ..delete() }).await;
        assert_eq!(answer, Answered::refused(Code::NotFound), "a condition hides nothing");
    }
    // A retry that comes late must not delete what came to be after the first attempt was answered.
    let keyed = delete().key("k").request(1);
    assert_eq!(stage.run(keyed.clone()).await, Answered::refused(Code::NotFound));
    assert_eq!(stage.run(Ask::increment("a")).await, Answered::counted(1, 1));
    assert_eq!(stage.run(keyed.attempt(2)).await, Answered::refused(Code::NotFound).replay());
    assert_eq!(stage.counter("a").await, Some((1, r#"{"value":1}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_deletion_has_the_conditions_of_a_command() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let only_if = |precondition| Ask { precondition, ..delete() };
    assert_eq!(stage.run(delete().if_version(7)).await, Answered::mismatch(1));
    assert_eq!(stage.run(only_if(Precondition::Absent)).await, Answered::mismatch(1));
    assert_eq!(stage.run(delete().if_version(1)).await, deleted(2));
    assert_eq!(stage.run(delete().if_version(2)).await, Answered::mismatch(2), "there is nothing to match");
    assert_eq!(stage.run(only_if(Precondition::Exists)).await, Answered::mismatch(2));
    assert_eq!(stage.run(only_if(Precondition::Absent)).await, deleted(2));

    let create = || Ask { precondition: Precondition::Absent, ..Ask::increment("a") };
    assert_eq!(stage.run(create()).await, Answered::counted(3, 1), "a deleted one is absent");
    assert_eq!(stage.run(create()).await, Answered::mismatch(3));
}

#[tokio::test(start_paused = true)]
async fn commands_after_a_deletion_in_flight_are_decided_on_what_it_leaves() {
    let stage = Stage::leading().await;
    let add = stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    let first = stage.send(delete()).await;
    let mut again = stage.send(delete()).await;
    let anew = stage.send(Ask { precondition: Precondition::Absent, ..Ask::increment("a") }).await;
    assert!(again.answered().is_none(), "it rests on the first one");
    stage.apply_all().await;
    assert_eq!(
        [add.unwrap(), first.unwrap(), anew.unwrap()],
        [Answered::counted(1, 5), deleted(2), Answered::counted(3, 1),]
    );
    assert_eq!(again.answered(), Some(deleted(2)));
}

/// Rules W1 and G1: whoever owns the shard next knows the key, and a deletion of an earlier term changes nothing.
#[tokio::test(start_paused = true)]
async fn a_retry_at_the_next_owner_returns_the_first_deletion_and_deletes_nothing_more() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":5}"#)).await;
    let keyed = delete().key("k").request(1);
    let lost = stage.send(keyed.clone()).await;
    let batch = stage.take().lose();
    stage.step_down().await;
    assert_eq!(lost.unwrap(), Answered::Abandoned);
    // The next owner finds it in its log.
    stage.apply_in(TERM, &batch).await;
    stage.lead(TERM + 1).await;
    assert_eq!(stage.run(Ask::increment("a")).await, Answered::counted(3, 1));
    assert_eq!(stage.run(keyed.attempt(2)).await, deleted(2).replay());
    assert_eq!(stage.counter("a").await, Some((3, r#"{"value":1}"#.to_owned())));

    // And of one that did not get there, nothing is left.
    let lost = stage.send(delete().key("other").request(2)).await;
    let batch = stage.take().lose();
    stage.step_down().await;
    stage.lead(TERM + 2).await;
    stage.apply_in(TERM + 2, &batch).await;
    assert_eq!(lost.unwrap(), Answered::Abandoned);
    assert_eq!(stage.counter("a").await, Some((3, r#"{"value":1}"#.to_owned())));
    assert_eq!(stage.run(delete().key("other").request(2).attempt(2)).await, deleted(4));
}

#[tokio::test(start_paused = true)]
async fn the_key_of_a_command_is_not_one_for_a_deletion() {
    let stage = Stage::leading().await;
    stage.run(Ask::add("a", r#"{"by":5}"#).key("k")).await;
    assert_eq!(stage.run(delete().key("k")).await, Answered::refused(Code::KeyReused));
    stage.run(delete().key("d")).await;
    assert_eq!(stage.run(Ask::increment("a").key("d")).await, Answered::refused(Code::KeyReused));
}
