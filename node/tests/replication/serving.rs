//! Whether a replica serves, which is what makes a node ready: it hears a leader that has a quorum, and has caught up.

use std::time::Duration;

use crate::cluster::{Answered, Ask, Cluster};

fn serves(cluster: &Cluster, place: usize) -> bool {
    cluster.node(place).group.is_serving()
}

#[tokio::test(start_paused = true)]
async fn the_replicas_of_an_idle_group_all_serve_all_the_time() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.until("all serve", |cluster| (0..3).all(|place| serves(cluster, place))).await;
    for _ in 0..3000 {
        for place in 0..3 {
            assert!(serves(&cluster, place), "{place}");
        }
        cluster.sleep(Duration::from_millis(7)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_alone_keeps_no_replica_from_serving() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.until("all serve", |cluster| (0..3).all(|place| serves(cluster, place))).await;
    cluster.kill(0);
    for _ in 0..3000 {
        assert!(serves(&cluster, 1) && serves(&cluster, 2));
        cluster.sleep(Duration::from_millis(1)).await;
    }
    assert!(cluster.leader_but(None).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_started_anew_does_not_serve_before_it_has_caught_up() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 5).await;
    cluster.stop(2).await;
    for number in 0..24 {
        let (id, text) = (format!("document-{number}"), "x".repeat(400_000));
        let body = format!(r#"{{"value":"{text}"}}"#);
        let answer = cluster.ask(0, Ask::new("document", &id, "put", &body)).await;
        assert!(matches!(answer, Answered::Executed { .. }), "{answer:?}");
    }
    let committed = cluster.applied_index(0);
    cluster.run(2).await;
    // It has the leader's vote from its disk.
    cluster.until("a leader is known", |cluster| cluster.node(2).group.status().leader.is_some()).await;
    assert!(!serves(&cluster, 2));
    let caught_up_or_not = |cluster: &Cluster| {
        assert!(!serves(cluster, 2) || cluster.applied_index(2) >= committed);
        serves(cluster, 2)
    };
    cluster.until("the third one serves", caught_up_or_not).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_caught_up_once_serves_while_more_is_written() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.until("all serve", |cluster| (0..3).all(|place| serves(cluster, place))).await;
    for _ in 0..200 {
        cluster.increment_at_once("a", 20).await;
        assert!((0..3).all(|place| serves(&cluster, place)));
    }
}

/// With five copies, the leader and a replica may be left, and the leader tries again and again whether its quorum is back.
#[tokio::test(start_paused = true)]
async fn nobody_serves_without_a_quorum() {
    for (size, killed) in [(3, &[1, 2][..]), (3, &[0, 1]), (5, &[1, 2, 3]), (5, &[0, 1, 2])] {
        let mut cluster = Cluster::led_by_the_first(size).await;
        cluster.until("all serve", |cluster| (0..size).all(|place| serves(cluster, place))).await;
        killed.iter().for_each(|place| cluster.kill(*place));
        cluster.sleep(Duration::from_millis(1600)).await;
        let left = cluster.running();
        assert!(
            left.iter().any(|place| cluster.node(*place).group.status().leader.is_some()),
            "by what the library says"
        );
        for _ in 0..8000 {
            assert!(!left.iter().any(|place| serves(&cluster, *place)), "{killed:?} of {size} are lost");
            cluster.sleep(Duration::from_millis(1)).await;
        }
        cluster.run(killed[0]).await;
        let back = |cluster: &Cluster| cluster.running().iter().all(|place| serves(cluster, *place));
        cluster.until("those that are there again serve", back).await;
    }
}

/// As above, but what is lost is lost without a word.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_cut_off_stops_serving() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.until("all serve", |cluster| (0..3).all(|place| serves(cluster, place))).await;
    for place in [2, 0] {
        cluster.cut_off(place);
        let took = cluster.until("it stops serving", |cluster| !serves(cluster, place)).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        cluster.sleep(Duration::from_secs(3)).await;
        assert!(!serves(&cluster, place));
        cluster.rejoin(place);
        cluster.until("all serve again", |cluster| (0..3).all(|place| serves(cluster, place))).await;
    }
}
