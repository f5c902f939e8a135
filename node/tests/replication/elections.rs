//! Who stands for election, when, and who votes.

use std::time::Duration;

use crate::cluster::{Ask, Cluster};

#[tokio::test(start_paused = true)]
async fn a_new_group_is_led_by_the_one_planned_for_it() {
    let cluster = Cluster::start(3).await;
    let took = cluster.until("somebody leads", |cluster| cluster.leader_but(None).is_some()).await;
    assert_eq!(cluster.leader().await, 0);
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_group_is_led_by_another_where_the_one_planned_for_it_stays_away() {
    let mut cluster = Cluster::of(3);
    cluster.run(1).await;
    cluster.run(2).await;
    let took = cluster.until("somebody leads", |cluster| cluster.leader_but(None).is_some()).await;
    assert!(took >= Duration::from_secs(3), "{took:?}");
    cluster.increment("a", 3).await;
    cluster.run(0).await;
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_succeeded_shortly_after_its_lease() {
    for size in [3, 5] {
        let mut cluster = Cluster::led_by_the_first(size).await;
        cluster.increment("a", 2).await;
        cluster.kill(0);
        let took = cluster.until("another leads", |cluster| cluster.leader_but(None).is_some()).await;
        assert!(took >= Duration::from_millis(450) && took < Duration::from_millis(750), "{took:?} with {size}");
        cluster.increment("a", 2).await;
        cluster.agree().await;
        assert_eq!(cluster.applied(cluster.leader().await, "a").await, Some(4));
    }
}

#[tokio::test(start_paused = true)]
async fn one_killed_leader_after_another_is_succeeded() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    for round in 0..10 {
        let leader = cluster.leader().await;
        cluster.increment("a", 5).await;
        cluster.kill(leader);
        let took = cluster.until("another leads", |cluster| cluster.leader_but(None).is_some()).await;
        assert!(took < Duration::from_millis(1500), "{took:?} in round {round}");
        cluster.run(leader).await;
        cluster.agree().await;
    }
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 50);
}

/// Its connections stand, and nothing is heard of it: a process that was stopped, or a network that drops packets.
#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_succeeded_too() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.cut_off(0);
    let took = cluster.until("another leads", |cluster| cluster.leader_but(Some(0)).is_some()).await;
    assert!(took < Duration::from_millis(1300), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_alone_misses_the_leader_disturbs_nobody() {
    let cluster = Cluster::led_by_the_first(3).await;
    let term = cluster.term_of(0).unwrap();
    cluster.links.cut(&cluster.node(0).address, &cluster.node(1).address);
    for _ in 0..100 {
        cluster.sleep(Duration::from_millis(50)).await;
        assert!(cluster.node(0).group.holds_lease(term), "the third one hears it, and refuses its vote");
        assert_eq!(cluster.node(1).group.status().term, term, "and no term is begun in vain");
    }
    cluster.increment("a", 3).await;
    cluster.links.mend(&cluster.node(0).address, &cluster.node(1).address);
    cluster.agree().await;
    assert_eq!(cluster.term_of(0), Some(term));
}

#[tokio::test(start_paused = true)]
async fn after_a_blackout_of_everything_one_leads_again() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    for place in 0..3 {
        cluster.cut_off(place);
    }
    cluster.sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.leader_but(None), None);
    for place in 0..3 {
        cluster.rejoin(place);
    }
    let took = cluster.until("somebody leads", |cluster| cluster.leader_but(None).is_some()).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The old leader may have been heard again while the others were already electing.
    cluster.sleep(Duration::from_secs(1)).await;
    cluster.increment("a", 3).await;
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_is_told_of_as_such_by_every_member() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.ask(0, Ask::increment("a")).await;
    cluster.agree().await;
    for place in 0..3 {
        let status = cluster.node(place).group.status();
        assert_eq!((status.leader, status.voters.len()), (Some(cluster.id(0)), 3), "node {place}");
        assert_eq!(status.last.map(|last| last.index), Some(cluster.applied_index(place)));
    }
}
