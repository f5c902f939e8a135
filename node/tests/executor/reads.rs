//! Reads at the owner: from what is applied, under a lease that is looked at before and after; and residents that come and
//! go under a tiny budget.

use std::time::Duration;

use berth_node::shard::reader;
use berth_shared::key::EntityKey;
use berth_shared::message::Consistency;

use crate::scripted::{Answered, Ask, Options, Stage, TERM};

#[tokio::test(start_paused = true)]
async fn a_read_sees_what_is_applied_and_never_what_is_in_flight() {
    let stage = Stage::leading().await;
    assert!(matches!(stage.read("counter", "a").await, Err(reader::Error::NotFound)));
    let write = stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    assert!(matches!(stage.read("counter", "a").await, Err(reader::Error::NotFound)));
    stage.apply_all().await;
    assert_eq!(write.unwrap(), Answered::counted(1, 5));
    assert_eq!(stage.read("counter", "a").await.unwrap(), (1, r#"{"value":5}"#.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_read_without_a_lease_is_refused() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let key = EntityKey::new("counter", "a").unwrap();
    let is_refused = async || {
        let events = stage.reader.events(&key, 0, 10, Consistency::Linearizable).await;
        let refused = [stage.read("counter", "a").await.err(), stage.read("counter", "none").await.err(), events.err()];
        refused.iter().all(|error| matches!(error, Some(reader::Error::NotOwner)))
    };
    assert!(!is_refused().await);
    stage.group.lose_lease();
    assert!(is_refused().await);
    stage.group.regain_lease();
    assert_eq!(stage.read("counter", "a").await.unwrap().0, 1);
    stage.step_down().await;
    assert!(is_refused().await);
}

/// Rule R4: a strict read asks a quorum, and neither needs a lease nor believes in one.
#[tokio::test(start_paused = true)]
async fn a_strict_read_rests_on_a_quorum_and_not_on_the_lease() {
    let stage = Stage::leading_with(Options { resident_bytes_max: 1, ..Options::default() }).await;
    stage.run(Ask::increment("a")).await;
    let key = EntityKey::new("counter", "a").unwrap();
    let none = EntityKey::new("counter", "none").unwrap();
    let events =
        async || stage.reader.events(&key, 0, 10, Consistency::Strict).await.map(|(page, _)| page.events.len());
    stage.group.lose_lease();
    assert_eq!(stage.reader.read_strict(&key).await.unwrap().version, 1);
    assert!(matches!(stage.reader.read_strict(&none).await, Err(reader::Error::NotFound)));
    assert_eq!(events().await.unwrap(), 1);
    stage.group.regain_lease();
    stage.group.lose_quorum();
    assert!(matches!(stage.reader.read_strict(&key).await, Err(reader::Error::Unconfirmed)));
    assert!(matches!(stage.reader.read_strict(&none).await, Err(reader::Error::Unconfirmed)));
    assert!(matches!(events().await, Err(reader::Error::Unconfirmed)));
    assert!(stage.read("counter", "a").await.is_ok(), "the lease still stands");
    stage.step_down().await;
    assert!(matches!(stage.reader.read_strict(&key).await, Err(reader::Error::NotOwner)));
    assert!(matches!(events().await, Err(reader::Error::NotOwner)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_during_a_read_spoils_it() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let key = EntityKey::new("counter", "a").unwrap();
    let not_owner = |error: Option<reader::Error>| matches!(error, Some(reader::Error::NotOwner));
    // Of an entity in memory: the lease is confirmed before the read and looked at after it.
    stage.group.pass_lease_after(1, None);
    assert!(not_owner(stage.read("counter", "a").await.err()));
    stage.group.say_leading(Some(TERM));
    stage.group.pass_lease_after(1, None);
    assert!(not_owner(stage.reader.events(&key, 0, 10, Consistency::Linearizable).await.err()));
    // Of one that must be loaded, and of one that does not exist.
    stage.group.say_leading(Some(TERM));
    stage.group.pass_lease_after(2, None);
    assert!(not_owner(stage.read("counter", "none").await.err()), "its absence is an answer too");
    stage.group.say_leading(Some(TERM));
    stage.group.pass_lease_after(2, None);
    assert_eq!(stage.read("counter", "a").await.unwrap().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_ends_during_a_read_spoils_it_although_the_next_has_a_lease() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    stage.group.pass_lease_after(1, Some(TERM + 2));
    assert!(matches!(stage.read("counter", "a").await, Err(reader::Error::NotOwner)));
}

#[tokio::test(start_paused = true)]
async fn passivated_entities_come_back_as_they_were_with_snapshot_and_later_events() {
    let stage = Stage::leading_with(Options { resident_bytes_max: 1, ..Options::default() }).await;
    // A snapshot is stored after 256 events.
    for events in 1..=600_u64 {
        let answer = stage.run(Ask::add("a", r#"{"by":2}"#)).await;
        assert_eq!(answer, Answered::counted(events, 2 * events));
        assert!(stage.shard.machine().entities.is_empty(), "nothing fits into the budget");
        if events % 50 == 0 {
            assert_eq!(stage.run(Ask::increment("b")).await.version(), events / 50);
            assert_eq!(stage.read("counter", "a").await.unwrap(), (events, format!("{{\"value\":{}}}", 2 * events)));
        }
    }
    assert!(stage.residency.passivated() > 600 && stage.residency.bytes() == 0);
}

#[tokio::test(start_paused = true)]
async fn commands_of_many_passivated_entities_are_decided_together() {
    let stage = Stage::leading_with(Options { resident_bytes_max: 1500, ..Options::default() }).await;
    let ids: Vec<String> = (0..200).map(|n| format!("e{n}")).collect();
    for round in 1..=3_u64 {
        let pending = stage.send_all(ids.iter().map(|id| Ask::increment(id))).await;
        stage.apply_all().await;
        for pending in pending {
            assert_eq!(pending.unwrap(), Answered::counted(round, round));
        }
        assert!(stage.residency.bytes() <= 1500);
    }
}

#[tokio::test(start_paused = true)]
async fn large_entities_count_with_their_size_although_only_a_command_looked_at_them() {
    const LARGE: usize = 200 * 1024;
    let stage = Stage::leading_with(Options { resident_bytes_max: 4 * LARGE, ..Options::default() }).await;
    let put = format!(r#"{{"value":"{}"}}"#, "x".repeat(LARGE));
    let ids: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
    for id in &ids {
        stage.run(Ask::new("document", id, "put", &put)).await;
    }
    for id in &ids {
        let look = Ask::new("document", id, "put", &put).if_version(7);
        assert_eq!(stage.run(look).await, Answered::mismatch(1));
    }
    let residents = stage.shard.machine().entities.len();
    assert!(residents <= 4, "{residents} states of 200 KiB are in memory");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_gone_counts_no_more_against_the_budget() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let (residency, spawner) = (stage.residency.clone(), stage.seams.spawner);
    assert!(residency.bytes() > 0);
    // The executor ends with its mailbox and lets go of the shard.
    drop(stage);
    spawner.sleep(Duration::from_secs(1)).await;
    assert_eq!(residency.bytes(), 0);
}
