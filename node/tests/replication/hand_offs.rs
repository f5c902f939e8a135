//! Shards that are handed over while commands go on, to replicas that take them, die, or are not able to.

use std::time::Duration;

use berth_node::shard::hand_off::{self, Error, hand_off};
use berth_shared::ids::NodeId;
use tokio::task::JoinHandle;

use crate::cluster::{Answered, Ask, Cluster};
use crate::writing::Writers;

type Handing = JoinHandle<Result<Duration, hand_off::Error>>;

impl Cluster {
    fn begin_hand_off(&self, from: usize, to: NodeId) -> Handing {
        let (group, hold) = (self.node(from).group.clone(), self.node(from).hold.clone());
        let seams = self.seams.clone();
        self.seams.spawner.spawn(async move { hand_off(&*group, &hold, to, &seams).await })
    }

    async fn hand_off(&self, from: usize, to: usize) -> Result<Duration, Error> {
        self.begin_hand_off(from, self.id(to)).await.unwrap()
    }

    async fn leads(&self, place: usize) {
        self.until("it leads", |cluster| cluster.leader_but(None) == Some(place)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn writers_notice_hand_offs_by_a_short_pause_only() {
    let cluster = Cluster::led_by_the_first(3).await;
    let writers = Writers::start(&cluster, 8);
    cluster.sleep(Duration::from_millis(500)).await;
    let mut held_max = Duration::ZERO;
    for round in 0..60 {
        let (from, to) = (round % 3, (round + 1 + round / 3 % 2) % 3);
        if cluster.leader().await != from {
            cluster.hand_off(cluster.leader().await, from).await.unwrap();
            cluster.leads(from).await;
        }
        let term = cluster.term_of(from).unwrap();
        held_max = held_max.max(cluster.hand_off(from, to).await.unwrap());
        assert!(!cluster.node(from).group.holds_lease(term));
        cluster.leads(to).await;
        assert_eq!(cluster.term_of(to), Some(term + 1), "nobody else stood");
        cluster.sleep(Duration::from_millis(u64::try_from(round).unwrap() % 7 * 10)).await;
    }
    let (pause, count) = writers.end(&cluster).await;
    println!("{count} writes, decisions held for {held_max:?} and the longest pause of a writer {pause:?}");
    assert!(pause < Duration::from_millis(40), "{pause:?}");
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_during_a_hand_off_is_sent_to_the_next_owner_and_nothing_is_in_doubt() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 1).await;
    let asks: Vec<Ask<'_>> = (0..100).map(|_| Ask::increment("a")).collect();
    let accepted: Vec<_> = asks.iter().map(|ask| cluster.send(0, ask)).collect();
    cluster.sleep(Duration::from_micros(10)).await;
    let handing = cluster.begin_hand_off(0, cluster.id(1));
    cluster.sleep(Duration::from_micros(10)).await;
    let waiting: Vec<_> = asks.iter().map(|ask| cluster.send(0, ask)).collect();
    handing.await.unwrap().unwrap();
    for pending in accepted {
        assert!(matches!(pending.0.await, Ok(Answered::Executed { .. })), "what was accepted is answered");
    }
    for pending in waiting {
        assert_eq!(pending.0.await, Ok(Answered::WrongOwner));
    }
    cluster.leads(1).await;
    assert_eq!(cluster.read(1, "a").await.unwrap().0, 101);
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_a_replica_that_is_not_able() {
    let mut cluster = Cluster::with_spares(3, 2).await;
    cluster.change(0, cluster.learner(3)).await.unwrap();
    cluster.increment("a", 10).await;
    let term = cluster.term_of(0);
    assert_eq!(cluster.hand_off(1, 2).await, Err(Error::NotOwner));
    for place in [0, 3, 4] {
        let not_voter = Err(Error::NotVoter(cluster.id(place)));
        assert_eq!(cluster.hand_off(0, place).await, not_voter);
    }
    cluster.kill(2);
    cluster.sleep(Duration::from_millis(500)).await;
    assert_eq!(cluster.hand_off(0, 2).await, Err(Error::Silent(cluster.id(2))));
    cluster.kill(1);
    assert_eq!(cluster.term_of(0), term);
}

/// The connection stands, but nothing gets through: all that can be known is that the time is over.
#[tokio::test(start_paused = true)]
async fn a_replica_that_falls_silent_costs_no_more_than_the_preparation() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 10).await;
    let writers = Writers::start(&cluster, 4);
    cluster.sleep(Duration::from_millis(100)).await;
    let term = cluster.term_of(0);
    cluster.links.cut(&cluster.node(0).address, &cluster.node(1).address);
    let begun = cluster.now();
    assert_eq!(cluster.hand_off(0, 1).await, Err(Error::NotReached(cluster.id(1))));
    assert!(cluster.now().since(begun) <= Duration::from_millis(201));
    assert_eq!(cluster.term_of(0), term, "it leads on");
    cluster.sleep(Duration::from_millis(100)).await;
    let (pause, _) = writers.end(&cluster).await;
    assert!(pause < Duration::from_millis(230), "{pause:?}");
}

#[tokio::test(start_paused = true)]
async fn decisions_that_do_not_settle_end_the_preparation() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 1).await;
    cluster.cut_off(0);
    let ask = Ask::increment("a");
    let _unsettled = cluster.send(0, &ask);
    cluster.sleep(Duration::from_millis(5)).await;
    let begun = cluster.now();
    assert_eq!(cluster.hand_off(0, 1).await, Err(Error::NotSettled));
    assert!(cluster.now().since(begun) <= Duration::from_millis(201));
    cluster.rejoin(0);
    cluster.increment("a", 2).await;
    cluster.agree().await;
}

/// Lets the tasks run that many times, and time pass in between.
async fn run_tasks(times: usize) {
    for time in 0..times {
        if time.is_multiple_of(20) {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::task::yield_now().await;
    }
}

/// What came of a hand-off in which somebody died.
#[derive(Debug)]
struct Left {
    result: Result<Duration, Error>,
    leader: usize,
    /// The longest one of a writer.
    pause: Duration,
}

/// The first node hands over to the second, and the one at `place` is killed at some moment. Afterwards the shard has one
/// owner, and no write was lost.
async fn killed_at(moment: usize, place: usize) -> Left {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 10).await;
    let writers = Writers::start(&cluster, 2);
    cluster.sleep(Duration::from_millis(50)).await;
    let handing = cluster.begin_hand_off(0, cluster.id(1));
    run_tasks(moment).await;
    cluster.kill(place);
    writers.follow(&cluster);
    let result = cluster.seams.spawner.timeout(Duration::from_secs(3), handing).await;
    let result = result.expect("it ends by itself").unwrap();
    cluster.until("it is led by one that lives", |cluster| cluster.leader_but(Some(place)).is_some()).await;
    let leader = cluster.leader().await;
    cluster.run(place).await;
    writers.follow(&cluster);
    let (pause, _) = writers.end(&cluster).await;
    cluster.agree().await;
    Left { result, leader, pause }
}

/// Kills the one at `place` at moments from before a hand-off until after it.
fn killed_at_any_moment(place: usize) -> Vec<Left> {
    let killed_at = |moment| {
        // With this interval the test has its turn after every step of every task.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).event_interval(1).build().unwrap();
        runtime.block_on(killed_at(moment, place))
    };
    let left: Vec<Left> = (0..140).step_by(6).map(killed_at).collect();
    let pause_max = left.iter().map(|left| left.pause).max().unwrap();
    println!("node {place} killed: {left:?}");
    assert!(pause_max < Duration::from_millis(1500), "{pause_max:?}");
    left
}

#[test]
fn an_owner_that_dies_in_the_middle_of_a_hand_off_is_succeeded() {
    assert!(killed_at_any_moment(0).iter().all(|left| left.leader != 0));
}

#[test]
fn an_owner_whose_successor_dies_in_the_middle_of_a_hand_off_goes_on() {
    let left = killed_at_any_moment(1);
    assert!(left.iter().all(|left| left.leader != 1));
    let failed = left.iter().filter(|left| left.result.is_err()).count();
    assert!(failed > 0 && failed < left.len(), "some were killed before they led, and some after: {left:?}");
    assert!(left.iter().all(|left| left.result.is_ok() || left.leader == 0), "{left:?}");
}

#[test]
fn a_hand_off_does_not_mind_a_third_one_that_dies() {
    let left = killed_at_any_moment(2);
    assert!(left.iter().all(|left| left.result.is_ok() && left.leader == 1), "{left:?}");
}
