//! Members that are behind: they catch up from the log as far as it reaches back, and by a snapshot beyond that.

use std::cell::Cell;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use crate::cluster::{Answered, Ask, Cluster};

/// Purges the leader's log, but for its newest part.
async fn compact(cluster: &Cluster, place: usize) {
    cluster.node(place).group.compact().await;
    cluster.until("the log is purged", |cluster| cluster.log_begins(place) > 0).await;
}

/// Three members, of which the last one is away and farther behind than the log of the leader, the first one, reaches back.
async fn one_is_far_behind() -> Cluster {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 5).await;
    cluster.agree().await;
    cluster.stop(2).await;
    assert_eq!(cluster.ask(0, Ask::increment("b").key("k")).await, Answered::counted(1, 1));
    cluster.increment_at_once("a", 200).await;
    compact(&cluster, 0).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_member_that_the_log_does_not_reach_gets_a_snapshot() {
    let mut cluster = one_is_far_behind().await;
    cluster.run(2).await;
    cluster.agree().await;
    assert_eq!(cluster.applied(2, "a").await, Some(205));
    assert!(cluster.log_begins(2) > 7, "its log begins with the snapshot");
    let answer = cluster.ask(0, Ask::increment("a")).await;
    assert_eq!(answer, Answered::counted(206, 206));
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_compaction_leaves_enough_for_a_member_that_was_away_shortly() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 200).await;
    cluster.agree().await;
    cluster.stop(2).await;
    cluster.increment("a", 20).await;
    compact(&cluster, 0).await;
    cluster.run(2).await;
    cluster.agree().await;
    assert_eq!(cluster.applied(2, "a").await, Some(220));
    assert_eq!(cluster.log_begins(2), 0, "no snapshot was needed");
}

#[tokio::test(start_paused = true)]
async fn a_member_with_a_snapshot_is_as_good_as_any() {
    let mut cluster = one_is_far_behind().await;
    cluster.run(2).await;
    cluster.agree().await;
    for round in 0..2 {
        cluster.stop(2).await;
        cluster.run(2).await;
        cluster.increment("a", 5).await;
        cluster.agree().await;
        assert_eq!(cluster.applied(2, "a").await, Some(210 + 5 * round));
    }
    // It replays outcomes that came with the snapshot.
    cluster.sleep(Duration::from_secs(1)).await;
    assert!(cluster.node(0).group.transfer(cluster.id(2)).await);
    cluster.until("it leads", |cluster| cluster.leader_but(None) == Some(2)).await;
    assert_eq!(cluster.ask(2, Ask::increment("b").key("k")).await, Answered::counted(1, 1).replay());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_many_chunks_arrives_while_commands_go_on() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.stop(2).await;
    for number in 0..30 {
        let (id, text) = (format!("document-{number}"), "x".repeat(200_000 + number));
        let body = format!(r#"{{"value":"{text}"}}"#);
        let answer = cluster.ask(0, Ask::new("document", &id, "put", &body)).await;
        assert!(matches!(answer, Answered::Executed { .. }), "{answer:?}");
    }
    compact(&cluster, 0).await;
    cluster.run(2).await;
    for _ in 0..50 {
        cluster.increment("a", 1).await;
        cluster.sleep(Duration::from_millis(1)).await;
    }
    cluster.agree().await;
    assert!(cluster.log_begins(2) > 0);
    assert_eq!(cluster.applied(2, "a").await, Some(50));
}

thread_local! {
    /// Snapshots that were begun to be sent, by the test that runs on this thread.
    static SENDS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the lines that say so. One for all threads: whether a line is wanted is remembered for the whole process.
struct CountSends;

impl Visit for &CountSends {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" && format!("{value:?}") == "sending a snapshot" {
            SENDS.set(SENDS.get() + 1);
        }
    }
}

impl Subscriber for CountSends {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().ends_with("raft::snapshot")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut &*self);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_for_a_member_that_is_away_until_it_is_back() {
    tracing::subscriber::set_global_default(CountSends).unwrap();
    let mut cluster = one_is_far_behind().await;
    cluster.sleep(Duration::from_secs(20)).await;
    assert_eq!(SENDS.get(), 0);
    cluster.run(2).await;
    let took = cluster.until("it has caught up", |cluster| cluster.applied_index(2) >= cluster.applied_index(0)).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    cluster.agree().await;
    assert_eq!((SENDS.get(), cluster.applied(2, "a").await), (1, Some(205)));
}

/// Lets the tasks run that many times, and time pass in between. Waiting for a timer would let all of them run until nothing
/// is left to do, and a snapshot from its first byte to its last.
async fn run_tasks(times: usize) {
    for time in 0..times {
        if time.is_multiple_of(20) {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Kills the receiver of a snapshot at some moment and starts it again. Returns whether its log was purged before, which is
/// the last step.
async fn killed_at(moment: usize) -> bool {
    let mut cluster = one_is_far_behind().await;
    cluster.run(2).await;
    run_tasks(moment).await;
    let was_taken = cluster.log_begins(2) > 0;
    cluster.kill(2);
    cluster.run(2).await;
    cluster.increment("a", 1).await;
    cluster.agree().await;
    assert_eq!(cluster.applied(2, "a").await, Some(206), "killed at moment {moment}");
    was_taken
}

/// It is killed at moments from before the first chunk until after the last, and at each one between the first steps of
/// putting the snapshot in the shard's place and the last.
#[test]
fn a_member_killed_while_it_takes_a_snapshot_starts_again() {
    // With this interval the test has its turn after every step of every task.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).event_interval(1).build().unwrap();
    let killed_at = |moment| runtime.block_on(killed_at(moment));
    let (mut before, mut after) = (0, 20_000);
    assert!(killed_at(after));
    while after - before > 1 {
        let moment = before.midpoint(after);
        *(if killed_at(moment) { &mut after } else { &mut before }) = moment;
    }
    for moment in before.saturating_sub(25)..after + 5 {
        killed_at(moment);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_sender_is_killed_is_sent_by_the_next_leader() {
    for moment in [0, 200, 400, 600, 800] {
        let mut cluster = one_is_far_behind().await;
        compact(&cluster, 1).await;
        cluster.run(2).await;
        run_tasks(moment).await;
        cluster.kill(0);
        let leader = cluster.leader().await;
        cluster.increment("a", 2).await;
        cluster.agree().await;
        assert_eq!(cluster.applied(leader, "a").await, Some(207), "killed at moment {moment}");
    }
}

/// Nothing passes in the middle of a snapshot; what had come of it is given up, and it comes again.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_stalls_is_begun_anew() {
    let mut cluster = one_is_far_behind().await;
    cluster.run(2).await;
    run_tasks(300).await;
    cluster.cut_off(2);
    cluster.sleep(Duration::from_secs(30)).await;
    cluster.rejoin(2);
    cluster.increment("a", 1).await;
    cluster.agree().await;
    assert_eq!(cluster.applied(2, "a").await, Some(206));
}
