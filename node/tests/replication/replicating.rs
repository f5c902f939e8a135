//! Commands reach every member, and nobody answers for another.

use std::time::Duration;

use crate::cluster::{Answered, Ask, Cluster};

#[tokio::test(start_paused = true)]
async fn commands_are_applied_by_every_member() {
    for size in [1, 3, 5] {
        let cluster = Cluster::led_by_the_first(size).await;
        for value in 1..=20 {
            assert_eq!(cluster.ask(0, Ask::increment("a")).await, Answered::counted(value, i128::from(value)));
        }
        cluster.agree().await;
        for place in cluster.running() {
            assert_eq!(cluster.applied(place, "a").await, Some(20), "node {place} of {size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_commands_at_once_are_all_applied_once() {
    let cluster = Cluster::led_by_the_first(3).await;
    let ids: Vec<String> = (0..50).map(|number| format!("counter-{number}")).collect();
    let asks = ids.iter().flat_map(|id| [Ask::increment(id), Ask::add(id, r#"{"by":10}"#)]);
    let pending: Vec<_> = asks.map(|ask| cluster.send(0, &ask)).collect();
    for answer in pending {
        let answer = answer.0.await.unwrap();
        assert!(matches!(answer, Answered::Executed { .. }), "{answer:?}");
    }
    cluster.agree().await;
    for id in &ids {
        assert_eq!(cluster.read(0, id).await.unwrap(), (2, r#"{"value":11}"#.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn large_entries_pass() {
    let cluster = Cluster::led_by_the_first(3).await;
    let body = format!(r#"{{"value":{{"text":"{}"}}}}"#, "x".repeat(500_000));
    for number in 0..8 {
        let id = format!("large-{number}");
        let answer = cluster.ask(0, Ask::new("document", &id, "put", &body)).await;
        assert!(matches!(answer, Answered::Executed { .. } | Answered::Refused { .. }), "{answer:?}");
    }
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_does_not_answer_what_is_meant_for_another() {
    let mut cluster = Cluster::of(5);
    cluster.run(0).await;
    cluster.run(1).await;
    // The addresses of three nodes that are away have been given to one that runs.
    for absent in 2..5 {
        cluster.node(0).peers.learn(cluster.id(absent), &cluster.node(1).address);
    }
    for _ in 0..1000 {
        cluster.sleep(Duration::from_millis(10)).await;
        assert_eq!(cluster.leader_but(None), None, "two of five are no quorum");
        assert_eq!(cluster.node(0).group.status().leader, None);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_nothing_is_acknowledged() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 1).await;
    cluster.kill(1);
    cluster.kill(2);
    let pending = cluster.send(0, &Ask::increment("a"));
    let answer = cluster.seams.spawner.timeout(Duration::from_secs(30), pending.0).await;
    assert!(!matches!(answer, Some(Ok(Answered::Executed { .. }))), "{answer:?}");
    cluster.run(1).await;
    cluster.increment("b", 1).await;
}
