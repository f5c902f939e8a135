//! Listings at the owner: of what is applied, under a lease that is looked at before and after.

use std::time::Duration;

use berth_node::shard::listing::{self, Part, Wanted};
use berth_node::store::Span;
use berth_shared::ids::ShardId;
use berth_shared::message::Seen;

use crate::scripted::{Ask, Stage, TERM};

async fn list(stage: &Stage, time: Duration) -> Part {
    let span = Span { kind: "counter".to_owned(), prefix: String::new() };
    let wanted = Wanted { span, after: String::new(), limit: 10 };
    listing::list(vec![stage.reader.clone()], wanted, stage.seams.clock.now() + time).await.unwrap()
}

fn ids(part: &Part) -> Vec<&str> {
    part.entries.iter().map(|entry| entry.id.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_applied_is_listed_and_nothing_that_is_in_flight() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    stage.run(Ask::increment("b")).await;
    stage.send(Ask::delete("counter", "a")).await;
    stage.send(Ask::increment("c")).await;
    let part = list(&stage, Duration::from_secs(1)).await;
    assert_eq!((ids(&part), part.more_after.clone(), part.not_owned.len()), (vec!["a", "b"], None, 0));
    let seen = part.seen[0].1.index;
    stage.apply_all().await;
    let part = list(&stage, Duration::from_secs(1)).await;
    assert_eq!(ids(&part), ["b", "c"]);
    assert_eq!(part.seen, [(ShardId(0), Seen { index: seen + 2, ..part.seen[0].1 })], "two records more");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_not_owned_all_the_time_is_named_and_not_listed() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let elsewhere = Part { entries: vec![], more_after: None, not_owned: vec![ShardId(0)], seen: vec![] };
    stage.group.lose_lease();
    assert_eq!(list(&stage, Duration::from_secs(1)).await, elsewhere);
    for successor in [None, Some(TERM + 2)] {
        stage.group.say_leading(Some(TERM));
        stage.group.pass_lease_after(1, successor);
        assert_eq!(list(&stage, Duration::from_secs(1)).await, elsewhere, "lost meanwhile");
    }
    stage.group.say_leading(Some(TERM));
    assert_eq!(ids(&list(&stage, Duration::from_secs(1)).await), ["a"]);
}

/// The gateway goes on from there, and finds that nothing was listed.
#[tokio::test(start_paused = true)]
async fn without_time_nothing_is_listed_and_everything_may_be_left() {
    let stage = Stage::leading().await;
    stage.run(Ask::increment("a")).await;
    let part = list(&stage, Duration::ZERO).await;
    assert_eq!((part.entries, part.more_after, part.not_owned), (vec![], Some(String::new()), vec![]));
}
