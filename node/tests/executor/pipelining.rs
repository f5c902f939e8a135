//! Deciding ahead: batches in flight, what later commands see, and when they are answered.

use std::time::Duration;

use berth_node::shard::executor;
use berth_node::shard::machine::Verdict;

use crate::scripted::{Answered, Ask, Options, Stage, TERM};

#[tokio::test(start_paused = true)]
async fn later_commands_see_what_earlier_ones_decided_and_none_is_answered_before_it_is_applied() {
    let stage = Stage::leading().await;
    let mut first = stage.send(Ask::add("a", r#"{"by":5}"#)).await;
    let mut second = stage.send(Ask::add("a", r#"{"by":3}"#)).await;
    assert_eq!(stage.group.held(), 2, "the second batch does not wait for the first");
    assert_eq!(stage.counter("a").await, None);
    assert!(first.answered().is_none() && second.answered().is_none());

    assert_eq!(stage.apply_next().await, [Verdict::Applied]);
    assert_eq!(first.answered(), Some(Answered::counted(1, 5)));
    assert!(second.answered().is_none(), "its own batch is not applied");
    assert_eq!(stage.apply_next().await, [Verdict::Applied]);
    assert_eq!(second.answered(), Some(Answered::counted(2, 8)));
    assert_eq!(stage.counter("a").await, Some((2, r#"{"value":8}"#.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn commands_that_arrive_together_share_a_batch_in_their_order() {
    let stage = Stage::leading().await;
    let asks = (0..40).map(|n| Ask::increment(if n % 2 == 0 { "even" } else { "odd" }));
    let pending = stage.send_all(asks).await;
    assert_eq!(stage.group.held(), 1);
    assert_eq!(stage.apply_next().await, [Verdict::Applied; 40]);
    for (n, pending) in (0_u64..).zip(pending) {
        assert_eq!(pending.unwrap(), Answered::counted(n / 2 + 1, n / 2 + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_batches_are_in_flight_than_configured_and_what_waits_is_decided_together() {
    let config = executor::Config { batches_in_flight_max: 3, ..Options::default().executor };
    let stage = Stage::leading_with(Options { executor: config, ..Options::default() }).await;
    let mut pending = Vec::new();
    for _ in 0..13 {
        pending.push(stage.send(Ask::increment("a")).await);
    }
    assert_eq!(stage.group.held(), 3, "ten more commands wait");
    assert_eq!(stage.apply_next().await, [Verdict::Applied]);
    assert_eq!(stage.group.held(), 3, "room for one more batch");
    let records: Vec<usize> = std::iter::from_fn(|| stage.group.take()).map(|held| held.records()).collect();
    assert_eq!(records, [1, 1, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_cut_into_batches_and_answered_in_the_order_of_versions() {
    let stage = Stage::leading().await;
    let pending = stage.send_all((0..600).map(|_| Ask::increment("a"))).await;
    // What comes back all at once is cut again.
    let (first, second) = (stage.take(), stage.take());
    first.refuse();
    second.refuse();
    stage.apply_held_in(TERM, stage.take()).await;
    let mut records = Vec::new();
    while stage.group.held() > 0 {
        records.push(stage.apply_next().await.len());
    }
    assert_eq!(records, [256, 256, 88]);
    let versions: Vec<u64> = pending.into_iter().map(|pending| pending.unwrap().version()).collect();
    assert_eq!(versions, (1..=600).collect::<Vec<_>>(), "the order did not change");
}

#[tokio::test(start_paused = true)]
async fn a_batch_holds_few_states_when_they_are_large() {
    let stage = Stage::leading().await;
    let large = format!(r#"{{"value":{{"text":"{}"}}}}"#, "x".repeat(900 * 1024));
    stage.run(Ask::new("document", "a", "put", &large)).await;
    let patches: Vec<String> = (0..100).map(|n| format!(r#"{{"patch":{{"n":{n}}}}}"#)).collect();
    let pending = stage.send_all(patches.iter().map(|patch| Ask::new("document", "a", "merge", patch))).await;
    // The executor keeps every state that it decided until it is applied.
    let held = stage.take();
    assert!((2..=16).contains(&held.records()), "{} states of 900 KiB wait with one batch", held.records());
    stage.apply_held_in(TERM, held).await;
    stage.apply_all().await;
    let versions: Vec<u64> = pending.into_iter().map(|pending| pending.unwrap().version()).collect();
    assert_eq!(versions, (2..=101).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_time_of_records_grows_although_the_clock_stands_still() {
    let stage = Stage::leading().await;
    stage.send_all((0..50).map(|_| Ask::increment("a"))).await;
    let first = stage.take();
    assert!(first.batch.records().is_sorted_by(|a, b| a.time_micros < b.time_micros));
    let last_time = first.batch.records().last().unwrap().time_micros;
    // A batch that is lost leaves its times behind.
    first.refuse();
    stage.settle().await;
    assert!(stage.take().batch.records()[0].time_micros > last_time);
    stage.seams.spawner.sleep(Duration::from_secs(1)).await;
}
