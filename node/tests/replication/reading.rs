//! Reads at any replica: never older than what the client has seen, honest about how far behind they may be, and never of a
//! replica that lacks what has long been there.

use std::time::Duration;

use berth_node::shard::reader;
use berth_shared::key::EntityKey;
use berth_shared::message::Seen;

use crate::cluster::{Answered, Ask, Cluster};

impl Cluster {
    fn seen(&self, place: usize) -> Seen {
        self.node(place).shard.seen()
    }

    /// A counter's version at the node, once it has applied `at_least`.
    async fn read_here(
        &self,
        place: usize,
        id: &str,
        at_least: Option<Seen>,
        patience: Duration,
    ) -> Result<(u64, Seen), reader::Error> {
        let key = EntityKey::new("counter", id).unwrap();
        let current = self.node(place).reader.read_here(&key, at_least, patience).await?;
        Ok((current.version, current.seen))
    }

    fn may_be_read(&self, place: usize) -> bool {
        self.node(place).group.level().is_some()
    }

    /// How far behind the node says that it may be.
    fn lag(&self, place: usize) -> Option<Duration> {
        let at = self.node(place).group.level().expect("it may be read").at?;
        Some(self.now().since(at))
    }
}

/// A client that writes, and reads at every replica with what it has seen, while owners die and hand over and replicas are cut
/// off. What it reads is never older than what it has seen, by its token or by itself.
#[tokio::test(start_paused = true)]
async fn a_session_read_is_never_older_than_its_token_whatever_happens() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    let (mut written, mut answered, mut refused) = (0, 0, 0);
    for round in 0..60_usize {
        // Something happens, and is over some rounds later.
        match round % 6 {
            1 => cluster.cut_off(follower(&cluster).await),
            3 => (0..3).for_each(|place| cluster.rejoin(place)),
            4 if round % 12 == 4 => {
                let leader = cluster.leader().await;
                cluster.kill(leader);
                cluster.run(leader).await;
            }
            4 => {
                let (leader, to) = (cluster.leader().await, follower(&cluster).await);
                cluster.node(leader).group.transfer(cluster.id(to)).await;
            }
            _ => {}
        }
        let leader = cluster.leader().await;
        if let Answered::Executed { version, .. } = cluster.ask(leader, Ask::increment("a")).await {
            assert!(version > written);
            written = version;
        } else {
            continue;
        }
        // The owner answers once it has applied, so this is what the token of the answer says, or a little more.
        let mut token = cluster.seen(leader);
        for turn in 0..6 {
            let place = (round + turn) % 3;
            match cluster.read_here(place, "a", Some(token), Duration::from_millis(50)).await {
                Ok((version, seen)) => {
                    assert!(version >= written, "round {round}, node {place}: {version} after {written}");
                    assert!((seen.incarnation, seen.index) >= (token.incarnation, token.index));
                    token = seen;
                    answered += 1;
                }
                Err(reader::Error::Behind | reader::Error::NotOwner) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    println!("{answered} session reads answered, {refused} left to the owner, {written} writes");
    assert!(answered > 200 && refused > 20 && written > 40, "{answered} {refused} {written}");
}

async fn follower(cluster: &Cluster) -> usize {
    let leader = cluster.leader().await;
    (leader + 1) % 3
}

#[tokio::test(start_paused = true)]
async fn a_session_read_waits_for_a_follower_that_comes_back_in_time() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    cluster.cut_off(2);
    cluster.increment("a", 2).await;
    let token = cluster.seen(0);
    let behind = cluster.read_here(2, "a", Some(token), Duration::from_millis(300)).await;
    assert!(matches!(behind, Err(reader::Error::Behind)), "{behind:?}");
    cluster.rejoin(2);
    let (version, seen) = cluster.read_here(2, "a", Some(token), Duration::from_secs(10)).await.unwrap();
    assert_eq!((version, seen.incarnation), (5, token.incarnation));
    assert!(seen.index >= token.index);
}

/// Nothing but what is committed is read anywhere: here of an owner without a quorum, by itself.
#[tokio::test(start_paused = true)]
async fn what_is_not_committed_is_read_at_no_replica() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    cluster.until("all may be read", |cluster| (0..3).all(|place| cluster.may_be_read(place))).await;
    cluster.agree().await;
    cluster.cut_off(0);
    let mut pending = cluster.send(0, &Ask::increment("a"));
    cluster.sleep(Duration::from_millis(200)).await;
    assert!(pending.answered().is_none());
    for place in 0..3 {
        assert_eq!(cluster.read_here(place, "a", None, Duration::ZERO).await.unwrap().0, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn the_replicas_of_an_idle_group_are_hardly_behind() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    cluster.sleep(Duration::from_secs(1)).await;
    for _ in 0..500 {
        assert_eq!(cluster.lag(0), Some(Duration::ZERO), "under its lease nobody else can have written");
        for place in [1, 2] {
            let lag = cluster.lag(place).unwrap();
            assert!(lag < Duration::from_millis(350), "{place}: {lag:?}");
        }
        cluster.sleep(Duration::from_millis(7)).await;
    }
}

/// Whatever was acknowledged longer ago than the replica says is there.
#[tokio::test(start_paused = true)]
async fn a_replica_is_never_further_behind_than_it_says() {
    let mut cluster = Cluster::led_by_the_first(5).await;
    cluster.until("all may be read", |cluster| (0..5).all(|place| cluster.may_be_read(place))).await;
    let (mut acknowledged, mut checked, mut longest) = (Vec::new(), 0, Duration::ZERO);
    for round in 0..150_usize {
        match round % 30 {
            // The owner and one follower are left to themselves: it goes on telling that one that nothing is new.
            5 => {
                let leader = cluster.leader().await;
                isolate_pair(&cluster, leader, (leader + 1) % 5);
            }
            15 => (0..5).for_each(|place| cluster.rejoin(place)),
            20 => {
                let leader = cluster.leader().await;
                cluster.kill(leader);
                cluster.run(leader).await;
            }
            _ => {}
        }
        let writer = cluster.leader().await;
        let ask = Ask::increment("a");
        let answer = cluster.seams.spawner.timeout(Duration::from_millis(300), cluster.send(writer, &ask).0).await;
        if let Some(Ok(Answered::Executed { version, .. })) = answer {
            acknowledged.push((cluster.now(), version));
        }
        cluster.sleep(Duration::from_millis(20)).await;
        for place in cluster.running() {
            let Some(level) = cluster.node(place).group.level() else { continue };
            let version = cluster.applied(place, "a").await.unwrap_or_default();
            let Some(at) = level.at else { continue };
            let owed = acknowledged.iter().rev().find(|(when, _)| *when < at).map_or(0, |(_, version)| *version);
            assert!(version >= owed, "round {round}, node {place}: {version}, and {owed} was acknowledged before");
            longest = longest.max(cluster.now().since(at));
            checked += 1;
        }
    }
    println!("{checked} checked, {} writes, the longest lag {longest:?}", acknowledged.len());
    assert!(checked > 400 && longest > Duration::from_millis(150), "{checked} {longest:?}");
}

/// The two hear each other, and nobody else.
fn isolate_pair(cluster: &Cluster, one: usize, other: usize) {
    for place in [one, other] {
        for outside in (0..5).filter(|outside| ![one, other].contains(outside)) {
            cluster.links.cut(&cluster.node(place).address, &cluster.node(outside).address);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hears_nobody_says_for_how_long() {
    let cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    cluster.sleep(Duration::from_secs(1)).await;
    cluster.cut_off(2);
    cluster.sleep(Duration::from_secs(20)).await;
    let lag = cluster.lag(2).unwrap();
    assert!((Duration::from_secs(20)..Duration::from_millis(20_400)).contains(&lag), "{lag:?}");
    assert_eq!(cluster.read_here(2, "a", None, Duration::ZERO).await.unwrap().0, 3, "it answers all the same");
    cluster.rejoin(2);
    cluster
        .until("it is new again", |cluster| cluster.lag(2).is_some_and(|lag| lag < Duration::from_millis(350)))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_heard_nobody_since_its_start_cannot_say_how_far_behind_it_is() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    cluster.sleep(Duration::from_secs(1)).await;
    for place in 0..3 {
        cluster.stop(place).await;
    }
    cluster.run(2).await;
    cluster.sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.lag(2), None);
    assert!(cluster.read_here(2, "a", None, Duration::ZERO).await.unwrap().0 <= 3);
}

#[tokio::test(start_paused = true)]
async fn a_learner_and_a_blank_replica_are_not_read() {
    let cluster = Cluster::with_spares(3, 2).await;
    cluster.increment("a", 20).await;
    cluster.until("all voters may be read", |cluster| (0..3).all(|place| cluster.may_be_read(place))).await;
    assert!(!cluster.may_be_read(3) && !cluster.may_be_read(4));
    for id in ["a", "none"] {
        let blank = cluster.read_here(3, id, None, Duration::ZERO).await;
        assert!(matches!(blank, Err(reader::Error::NotOwner)), "{blank:?}");
    }
    cluster.change(0, cluster.learner(3)).await.unwrap();
    cluster.caught_up(0, 3).await;
    cluster.sleep(Duration::from_secs(1)).await;
    assert!(!cluster.may_be_read(3), "it is none that counts");
    cluster.change(0, cluster.voters(&[0, 1, 3])).await.unwrap();
    cluster.until("it may be read", |cluster| cluster.may_be_read(3)).await;
    assert_eq!(cluster.read_here(3, "a", None, Duration::ZERO).await.unwrap().0, 20);
}

/// The members that it goes through on its way name it as a voter.
#[tokio::test(start_paused = true)]
async fn a_replica_that_begins_anew_is_not_read_before_it_has_what_it_had() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    cluster.increment("a", 40).await;
    cluster.change(0, cluster.learner(3)).await.unwrap();
    cluster.caught_up(0, 3).await;
    cluster.change(0, cluster.voters(&[0, 1, 3])).await.unwrap();
    cluster.delete_replica(2).await;
    assert!(!cluster.may_be_read(2));
    cluster.change(0, cluster.learner(2)).await.unwrap();
    for _ in 0..2000 {
        let applied = cluster.applied(2, "a").await.unwrap_or_default();
        assert!(!cluster.may_be_read(2) || applied == 40, "{applied}");
        cluster.sleep(Duration::from_micros(100)).await;
    }
    cluster.caught_up(0, 2).await;
    cluster.change(0, cluster.voters(&[0, 1, 2])).await.unwrap();
    cluster.until("it may be read", |cluster| cluster.may_be_read(2)).await;
    assert_eq!(cluster.read_here(2, "a", None, Duration::ZERO).await.unwrap().0, 40);
}
