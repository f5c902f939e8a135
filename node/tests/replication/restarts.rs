//! Nodes that stop, are killed, and come back with their disks.

use std::time::Duration;

use crate::cluster::{Answered, Ask, Cluster};

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_shortly_catches_up_from_the_log() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 5).await;
    cluster.stop(2).await;
    cluster.increment("a", 300).await;
    cluster.run(2).await;
    cluster.agree().await;
    assert_eq!(cluster.applied(2, "a").await, Some(305));
    assert_eq!(cluster.log_begins(2), 0, "no snapshot was needed");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_missed_much_catches_up_from_the_log_in_parts() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.stop(2).await;
    for number in 0..24 {
        let (id, text) = (format!("document-{number}"), "x".repeat(400_000));
        let body = format!(r#"{{"value":"{text}"}}"#);
        let answer = cluster.ask(0, Ask::new("document", &id, "put", &body)).await;
        assert!(matches!(answer, Answered::Executed { .. }), "{answer:?}");
    }
    cluster.run(2).await;
    cluster.agree().await;
    assert_eq!(cluster.log_begins(2), 0, "no snapshot was needed");
}

#[tokio::test(start_paused = true)]
async fn everything_acknowledged_is_there_after_all_were_killed_at_once() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 25).await;
    for place in 0..3 {
        cluster.kill(place);
    }
    for place in 0..3 {
        cluster.run(place).await;
    }
    let took = cluster.until("somebody leads", |cluster| cluster.leader_but(None).is_some()).await;
    assert!(took < Duration::from_millis(1200), "{took:?}");
    cluster.agree().await;
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 25);
}

#[tokio::test(start_paused = true)]
async fn members_stopped_and_started_one_after_the_other_lose_nothing() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    for round in 0..6 {
        cluster.increment("a", 10).await;
        cluster.stop(round % 3).await;
        cluster.increment("a", 10).await;
        cluster.run(round % 3).await;
        cluster.agree().await;
    }
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 120);
}

/// Rule R2. The second node is all that the leader's lease rests on, because the third one does not hear the leader and
/// asks for votes as often as it may. When the second is started anew it knows nothing of the lease it has helped to give.
#[tokio::test(start_paused = true)]
async fn a_member_started_anew_helps_nobody_to_lead_while_its_promise_may_last() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    let term = cluster.term_of(0).unwrap();
    cluster.links.cut(&cluster.node(0).address, &cluster.node(2).address);
    cluster.sleep(Duration::from_secs(5)).await;
    assert!(cluster.node(0).group.holds_lease(term), "the second node hears the leader");

    cluster.kill(1);
    cluster.run(1).await;
    cluster.links.cut(&cluster.node(0).address, &cluster.node(1).address);
    let mut still_held = false;
    for _ in 0..3000 {
        let holders: Vec<usize> = (0..3)
            .filter(|place| cluster.term_of(*place).is_some_and(|term| cluster.node(*place).group.holds_lease(term)))
            .collect();
        assert!(holders.len() <= 1, "{holders:?} lead at once");
        still_held |= holders == [0];
        cluster.sleep(Duration::from_millis(1)).await;
    }
    assert!(still_held, "the lease outlived the second node");
    let successor = cluster.leader_but(Some(0));
    assert!(successor.is_some(), "in the end the two that hear each other elect one of them");
}
