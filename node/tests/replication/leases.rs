//! Rule R1: a leader that is cut off neither reads nor decides by the time another one does.

use std::time::Duration;

use berth_node::shard::reader;

use crate::cluster::{Answered, Ask, Cluster};

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_leader_that_is_cut_off_ends_before_another_leads() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    let term = cluster.term_of(0).unwrap();
    cluster.cut_off(0);
    let lease = cluster.until("the lease ends", |cluster| !cluster.node(0).group.holds_lease(term)).await;
    assert!(lease <= Duration::from_millis(541), "{lease:?}");
    assert_eq!(cluster.leader_but(Some(0)), None, "nobody else leads so far");
    let gap = cluster.until("another leads", |cluster| cluster.leader_but(Some(0)).is_some()).await;
    assert!(gap >= Duration::from_millis(40), "{gap:?}");
    assert!(!cluster.node(0).group.holds_lease(term), "it is not held again");
}

/// The members answer an append while their answers do not get through, elect another leader, and then the answers arrive.
/// By then the library makes an append without entries, which tells that the first one is committed; and takes the second
/// member's answer for an answer to that too.
#[tokio::test(start_paused = true)]
async fn answers_that_were_long_under_way_make_no_lease_and_confirm_nothing() {
    for (first, second) in [(1, 2), (2, 1)] {
        for pause in [0, 100, 300].map(Duration::from_micros) {
            let cluster = Cluster::led_by_the_first(3).await;
            let group = cluster.node(0).group.clone();
            let term = cluster.term_of(0).unwrap();
            cluster.increment("a", 3).await;
            let ask = Ask::increment("a");
            let _pending = cluster.send(0, &ask);
            cluster.sleep(Duration::from_millis(1)).await;
            cluster.cut_off(0);
            cluster.until("another leads", |cluster| cluster.leader_but(Some(0)).is_some()).await;
            let arriving = async {
                // They are not answers to what `confirm` asks either.
                cluster.sleep(Duration::from_micros(100)).await;
                cluster.deliver_answers(0, first);
                cluster.sleep(pause).await;
                cluster.deliver_answers(0, second);
                for _ in 0..50 {
                    assert!(!group.holds_lease(term), "{first} answered first, and {pause:?} later {second}");
                    cluster.sleep(Duration::from_micros(100)).await;
                }
            };
            let (confirmed, ()) = tokio::join!(group.confirm(term), arriving);
            assert!(!confirmed, "{first} answered first, and {pause:?} later {second}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_refuses_to_read() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 1).await;
    assert_eq!(cluster.read(0, "a").await.unwrap().0, 1);
    let term = cluster.term_of(0).unwrap();
    cluster.cut_off(0);
    cluster.until("another leads", |cluster| cluster.leader_but(Some(0)).is_some()).await;
    let successor = cluster.leader_but(Some(0)).unwrap();
    assert!(matches!(cluster.ask(successor, Ask::increment("a")).await, Answered::Executed { version: 2, .. }));
    assert!(matches!(cluster.read(0, "a").await, Err(reader::Error::NotOwner)), "it has not seen the second one");
    assert!(!cluster.node(0).group.confirm(term).await, "nor does a quorum confirm it");
    cluster.rejoin(0);
    cluster.agree().await;
    assert!(matches!(cluster.read(0, "a").await, Err(reader::Error::NotOwner)));
    assert_eq!(cluster.read(successor, "a").await.unwrap().0, 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_cut_off_leader_had_in_flight_is_unknown_and_never_applied_twice() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 1).await;
    cluster.cut_off(0);
    let asks: Vec<Ask<'_>> = (0..6).map(|_| Ask::add("a", r#"{"by":100}"#)).collect();
    let pending: Vec<_> = asks.iter().map(|ask| cluster.send(0, ask)).collect();
    cluster.until("another leads", |cluster| cluster.leader_but(Some(0)).is_some()).await;
    let successor = cluster.leader_but(Some(0)).unwrap();
    for value in 2..=5 {
        assert_eq!(cluster.ask(successor, Ask::increment("a")).await, Answered::counted(value, i128::from(value)));
    }
    cluster.rejoin(0);
    cluster.agree().await;
    for answer in pending {
        let answer = answer.0.await.unwrap_or(Answered::Abandoned);
        assert!(!matches!(answer, Answered::Executed { .. }), "nothing was acknowledged: {answer:?}");
    }
    for place in cluster.running() {
        assert_eq!(cluster.applied(place, "a").await, Some(5), "node {place} keeps none of them");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_confirms_the_leader_and_nobody_else() {
    let cluster = Cluster::led_by_the_first(3).await;
    let term = cluster.term_of(0).unwrap();
    assert!(cluster.node(0).group.confirm(term).await);
    assert!(!cluster.node(0).group.confirm(term + 1).await);
    assert!(!cluster.node(1).group.confirm(term).await);
    cluster.cut_off(0);
    assert!(cluster.node(0).group.holds_lease(term), "the lease has not ended yet");
    assert!(!cluster.node(0).group.confirm(term).await, "but there is no quorum");
}
