//! Rule R3: leadership is offered only when the lease has been given up, and an offer that comes to nothing ends in another
//! term, never in the one it was made in.

use std::sync::Arc;
use std::time::Duration;

use berth_node::record::{Batch, EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};
use berth_node::shard::group::Proposed;
use berth_shared::key::EntityKey;
use tokio::sync::oneshot;

use crate::cluster::{Answered, Ask, Cluster};

fn holders(cluster: &Cluster) -> Vec<usize> {
    let holds =
        |place: &usize| cluster.term_of(*place).is_some_and(|term| cluster.node(*place).group.holds_lease(term));
    cluster.running().into_iter().filter(holds).collect()
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_to_the_one_it_is_offered_to() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    for (from, to) in [(0, 2), (2, 1), (1, 0)] {
        let begun = cluster.now();
        let term = cluster.term_of(from).unwrap();
        let offer = {
            let (group, to) = (cluster.node(from).group.clone(), cluster.id(to));
            cluster.seams.spawner.spawn(async move { group.transfer(to).await })
        };
        cluster
            .until("it leads", |cluster| {
                let holders = holders(cluster);
                assert!(holders.len() <= 1, "{holders:?} lead at once");
                holders == [to]
            })
            .await;
        assert!(offer.await.unwrap());
        assert!(!cluster.node(from).group.holds_lease(term));
        assert!(cluster.now().since(begun) < Duration::from_millis(150));
        let answer = cluster.ask(to, Ask::increment("a")).await;
        assert!(matches!(answer, Answered::Executed { .. }), "{answer:?}");
    }
    cluster.agree().await;
    assert_eq!(cluster.applied(1, "a").await, Some(6));
}

#[tokio::test(start_paused = true)]
async fn from_the_offer_on_the_leader_neither_reads_nor_decides() {
    let cluster = Cluster::led_by_the_first(3).await;
    let term = cluster.term_of(0).unwrap();
    let offer = cluster.node(0).group.transfer(cluster.id(1));
    tokio::pin!(offer);
    assert!(futures_util::poll!(&mut offer).is_pending());
    assert_eq!(cluster.term_of(0), None);
    assert!(!cluster.node(0).group.holds_lease(term));
    assert!(offer.await);
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_does_not_arrive_ends_in_another_term() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    let term = cluster.term_of(0).unwrap();
    cluster.links.cut(&cluster.node(0).address, &cluster.node(1).address);
    let taken = cluster.node(0).group.transfer(cluster.id(1)).await;
    assert!(!taken || cluster.node(0).group.status().leader != Some(cluster.id(0)));
    cluster.until("somebody leads", |cluster| cluster.leader_but(None).is_some()).await;
    let leader = cluster.leader().await;
    assert!(cluster.term_of(leader).unwrap() > term);
    cluster.increment("a", 3).await;
    // The offer arrives after all.
    cluster.links.mend(&cluster.node(0).address, &cluster.node(1).address);
    for _ in 0..2000 {
        let holders = holders(&cluster);
        assert!(holders.len() <= 1, "{holders:?} lead at once");
        cluster.sleep(Duration::from_millis(1)).await;
    }
    cluster.increment("a", 3).await;
    cluster.agree().await;
    assert_eq!(cluster.applied(1, "a").await, Some(9));
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_nobody_hears_is_taken_back() {
    let cluster = Cluster::led_by_the_first(3).await;
    let term = cluster.term_of(0).unwrap();
    cluster.cut_off(0);
    let begun = cluster.now();
    assert!(!cluster.node(0).group.transfer(cluster.id(1)).await);
    assert!(cluster.now().since(begun) <= Duration::from_millis(1100));
    assert_eq!(cluster.term_of(0), None);
    let status = cluster.node(0).group.status();
    assert!(status.term > term && status.leader.is_none(), "it is a replica that may stand again: {status:?}");
    cluster.rejoin(0);
    cluster.increment("a", 3).await;
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn leadership_is_offered_to_voters_only() {
    let cluster = Cluster::led_by_the_first(3).await;
    let term = cluster.term_of(0);
    assert!(!cluster.node(0).group.transfer(cluster.id(0)).await);
    assert!(!cluster.node(0).group.transfer(berth_shared::ids::NodeId(9)).await);
    assert!(!cluster.node(1).group.transfer(cluster.id(2)).await, "it does not lead");
    assert_eq!(cluster.term_of(0), term);
}

/// Rule W1. What was decided in a term may rest on what that term had in flight, and was truncated when it ended; the same
/// node leads again by the time it is proposed.
#[tokio::test(start_paused = true)]
async fn what_was_decided_in_an_earlier_term_is_not_appended_in_a_later_one_of_the_same_leader() {
    let cluster = Cluster::led_by_the_first(3).await;
    let earlier = cluster.term_of(0).unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        assert!(cluster.node(from).group.transfer(cluster.id(to)).await);
        cluster.until("it leads", |cluster| holders(cluster) == [to]).await;
    }
    assert!(cluster.term_of(0).unwrap() > earlier);
    let group = &cluster.node(0).group;
    let before = group.status().last;
    let (sender, proposed) = oneshot::channel();
    let done = Box::new(|result| drop(sender.send(result)));
    group.propose(earlier, Arc::new(Batch::new(earlier, vec![record()])), done).await;
    let proposed = proposed.await.unwrap();
    assert!(matches!(proposed, Proposed::NotLeader), "{proposed:?}");
    assert_eq!(group.status().last, before);
}

fn record() -> Record {
    let key = EntityKey::new("counter", "a").unwrap();
    Record {
        request: RequestKey {
            scope: Scope::new("", &key, "k"),
            fingerprint: Fingerprint::new("add", b"{}", b""),
            origin: KeyOrigin::Client,
        },
        key,
        base_version: 0,
        time_micros: 1,
        outcome: Outcome { status: Status::Accepted, reply: "1".into(), reason: "".into() },
        events: [EventBody { event_type: "added".into(), data: r#"{"by":1}"#.into() }].into(),
    }
}
