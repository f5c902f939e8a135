//! A shard that has lost its quorum goes on from the replica that is left, as the next incarnation.

use std::time::Duration;

use berth_node::recovery::{self, Error, Recovered, Survivor};
use berth_shared::ids::LogId;

use crate::cluster::{Ask, Cluster, SHARD, open_files};

impl Cluster {
    /// What an operator does on a node that is down.
    async fn recover(&mut self, place: usize) -> Recovered {
        let (id, seams) = (self.id(place), self.seams.clone());
        let (journal, store) = open_files(self.disk(place), &seams).await.unwrap();
        let survivor = recovery::survivor(&journal, &store, SHARD).await.unwrap();
        let recovered = recovery::recover(&journal, &store, SHARD, (id, "here:1"), survivor.last).await.unwrap();
        assert_eq!(recovered.survivor, survivor);
        assert_eq!(journal.log_state(SHARD).last, Some(recovered.last));
        // As a node that is killed right afterwards.
        let disk = self.disk(place);
        *disk = disk.power_cut(7);
        recovered
    }

    fn hash(&self, place: usize) -> (Option<LogId>, u128) {
        let machine = self.node(place).shard.machine();
        (machine.head().applied, machine.head().content_hash)
    }

    fn incarnations(&self) -> Vec<u32> {
        self.running().iter().map(|place| self.node(*place).shard.seen().incarnation).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_is_left_goes_on_and_later_members_are_of_its_incarnation() {
    let mut cluster = Cluster::with_spares(3, 2).await;
    cluster.increment("a", 20).await;
    cluster.until("the third has it all", |cluster| cluster.applied_index(2) == cluster.applied_index(0)).await;
    cluster.stop(2).await;
    cluster.increment("a", 5).await;
    cluster.kill(0);
    cluster.kill(1);
    let Recovered { survivor, incarnation, last } = cluster.recover(2).await;
    assert_eq!((incarnation, survivor.incarnation), (1, 0));
    assert!(survivor.shard_time_micros > 0 && survivor.applied <= Some(survivor.last), "{survivor:?}");
    assert!(last.index == survivor.last.index + 2 && last.term > survivor.last.term + 1000, "{survivor:?} {last:?}");

    cluster.run(2).await;
    cluster.until("it leads", |cluster| cluster.term_of(2).is_some()).await;
    assert_eq!(cluster.seen_members(2), (vec![vec![2]], vec![]));
    assert_eq!(cluster.read(2, "a").await.unwrap().0, 20, "what the others had acknowledged without it is lost");
    cluster.increment("a", 10).await;
    assert_eq!(cluster.node(2).shard.seen().incarnation, 1);

    cluster.change(2, cluster.learner(3)).await.unwrap();
    cluster.caught_up(2, 3).await;
    assert_eq!(cluster.log_begins(3), 0, "by the log");
    cluster.increment_at_once("b", 3000).await;
    cluster.node(2).group.compact().await;
    cluster.until("the beginning is purged", |cluster| cluster.log_begins(2) > last.index).await;
    cluster.change(2, cluster.learner(4)).await.unwrap();
    cluster.caught_up(2, 4).await;
    assert!(cluster.log_begins(4) > last.index, "by a snapshot");
    cluster.change(2, cluster.voters(&[2, 3, 4])).await.unwrap();
    cluster.agree().await;
    assert_eq!(cluster.incarnations(), [1, 1, 1]);

    for place in 2..5 {
        cluster.kill(place);
    }
    for place in 2..5 {
        cluster.run(place).await;
    }
    cluster.increment("a", 1).await;
    cluster.agree().await;
    assert_eq!(cluster.incarnations(), [1, 1, 1]);
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 31);
}

#[tokio::test(start_paused = true)]
async fn what_the_replica_had_appended_stays_although_nobody_knows_whether_it_was_committed() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 3).await;
    cluster.cut_off(0);
    let pending: Vec<_> = (0..4).map(|_| cluster.send(0, &Ask::increment("a"))).collect();
    cluster.sleep(Duration::from_millis(50)).await;
    drop(pending);
    for place in 0..3 {
        cluster.kill(place);
    }
    let recovered = cluster.recover(0).await;
    assert!(recovered.survivor.applied < Some(recovered.survivor.last));
    cluster.run(0).await;
    let took = cluster.until("it leads", |cluster| cluster.term_of(0).is_some()).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(cluster.read(0, "a").await.unwrap().0, 7);
    // The same once more, where the incarnation of before is applied, and once more at once, where it is not.
    cluster.stop(0).await;
    assert_eq!(cluster.recover(0).await.incarnation, 2);
    assert_eq!(cluster.recover(0).await.incarnation, 3);
    cluster.run(0).await;
    cluster.increment("a", 1).await;
    assert_eq!((cluster.incarnations(), cluster.read(0, "a").await.unwrap().0), (vec![3], 8));
}

#[tokio::test(start_paused = true)]
async fn only_what_was_confirmed_is_recovered() {
    let mut cluster = Cluster::led_by_the_first(1).await;
    cluster.increment("a", 3).await;
    cluster.stop(0).await;
    let (id, seams) = (cluster.id(0), cluster.seams.clone());
    let (journal, store) = open_files(cluster.disk(0), &seams).await.unwrap();
    let Survivor { last, .. } = recovery::survivor(&journal, &store, SHARD).await.unwrap();
    let before = (journal.log_state(SHARD), journal.vote(SHARD));
    let confirmed = LogId { index: last.index - 1, ..last };
    let refused = recovery::recover(&journal, &store, SHARD, (id, ""), confirmed).await;
    assert!(matches!(refused, Err(Error::Changed { found, .. }) if found == last), "{refused:?}");
    let other = berth_shared::ids::ShardId(9);
    assert!(matches!(recovery::survivor(&journal, &store, other).await, Err(Error::Absent(_))));
    let absent = recovery::recover(&journal, &store, other, (id, ""), last).await;
    assert!(matches!(absent, Err(Error::Absent(_))), "{absent:?}");
    assert_eq!((journal.log_state(SHARD), journal.vote(SHARD)), before);
    assert_eq!(journal.shards(), [SHARD]);
}

/// The power goes at every operation of the disk in turn.
#[tokio::test(start_paused = true)]
async fn a_recovery_that_is_cut_short_leaves_the_replica_as_it_was_or_recovered() {
    let mut cluster = Cluster::led_by_the_first(2).await;
    cluster.increment("a", 5).await;
    cluster.kill(1);
    cluster.kill(0);
    let (id, seams, before) = (cluster.id(0), cluster.seams.clone(), cluster.disk(0).process_killed());
    let (mut untouched, mut unknown, mut seeds) = (0, 0, 0..);
    for operations in (0..).flat_map(|operations| [operations; 4]) {
        let disk = before.process_killed();
        let (journal, store) = open_files(&disk, &seams).await.unwrap();
        let survivor = recovery::survivor(&journal, &store, SHARD).await.unwrap();
        let vote = journal.vote(SHARD);
        disk.cut_power_after(operations);
        let recovered = recovery::recover(&journal, &store, SHARD, (id, "here:1"), survivor.last).await;
        let is_over = recovered.is_ok() && !disk.power_is_off();
        let disk = disk.power_cut(seeds.next().unwrap());

        let (journal, store) = open_files(&disk, &seams).await.unwrap();
        let found = recovery::survivor(&journal, &store, SHARD).await.unwrap();
        let is_recovered = found.last.index == survivor.last.index + 2;
        assert!(is_recovered || (recovered.is_err() && found == survivor), "{found:?} of {survivor:?}, {recovered:?}");
        assert_eq!(journal.vote(SHARD) == vote, !is_recovered, "the vote goes with the entries");
        untouched += usize::from(!is_recovered);
        unknown += usize::from(is_recovered && recovered.is_err());
        drop((journal, store));
        *cluster.disk(0) = disk.process_killed();
        if !is_recovered {
            cluster.recover(0).await;
        }
        cluster.run(0).await;
        cluster.until("it leads", |cluster| cluster.term_of(0).is_some()).await;
        cluster.increment("a", 1).await;
        assert_eq!((cluster.incarnations(), cluster.read(0, "a").await.unwrap().0), (vec![1], 6));
        cluster.kill(0);
        if is_over {
            break;
        }
    }
    assert!(untouched > 4 && unknown > 0, "the cuts came at telling moments: {untouched} {unknown}");
}

/// They may come back with more than the survivor had, and elect each other by the membership of before.
#[tokio::test(start_paused = true)]
async fn members_of_before_that_come_back_cannot_disturb_the_recovered_shard() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 20).await;
    cluster.stop(2).await;
    cluster.increment("a", 50).await;
    cluster.kill(0);
    cluster.kill(1);
    cluster.recover(2).await;
    cluster.run(2).await;
    cluster.until("it leads", |cluster| cluster.term_of(2).is_some()).await;
    cluster.increment("a", 1).await;
    let (term, applied) = (cluster.term_of(2), cluster.applied_index(2));
    cluster.run(0).await;
    cluster.run(1).await;
    for _ in 0..200 {
        cluster.sleep(Duration::from_millis(50)).await;
        assert!(cluster.term_of(2) == term && cluster.node(2).group.holds_lease(term.unwrap()));
    }
    assert_eq!(cluster.ask(2, Ask::increment("a")).await.version(), 22);
    assert!(cluster.applied_index(2) > applied);
    // A hash of before is none of after, even at the same entry.
    let (ours, theirs) = (cluster.hash(2), cluster.hash(0));
    assert_ne!(ours, theirs);
    // They are members of a former incarnation, which their replicas still say.
    assert_eq!(cluster.incarnations(), [0, 0, 1]);
}

/// The recovered shard may get members of before again. What they have contradicts it, and is never mixed with it: they take
/// nothing of the later incarnation before they have begun anew.
#[tokio::test(start_paused = true)]
async fn a_member_of_before_takes_nothing_of_the_recovered_shard_until_it_has_begun_anew() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    cluster.increment("a", 20).await;
    cluster.until("the third has it all", |cluster| cluster.applied_index(2) == cluster.applied_index(0)).await;
    cluster.stop(2).await;
    cluster.increment("a", 50).await;
    cluster.kill(1);
    cluster.kill(0);
    cluster.recover(2).await;
    cluster.run(2).await;
    cluster.increment("a", 100).await;
    cluster.run(0).await;
    cluster.sleep(Duration::from_millis(100)).await;
    let (before, log) = (cluster.hash(0), cluster.node(0).group.status().last);
    let of_first = |cluster: &Cluster| cluster.node(0).group.status();
    assert_eq!(of_first(&cluster).outlived_by, None, "it is not told before it is a member again");
    cluster.change(2, cluster.learner(0)).await.unwrap();
    cluster.until("it is told", |cluster| of_first(cluster).outlived_by == Some(cluster.id(2))).await;
    for _ in 0..100 {
        cluster.sleep(Duration::from_millis(50)).await;
        assert_eq!((cluster.hash(0), of_first(&cluster).last), (before, log));
        assert!(cluster.node(0).group.term().is_none() && of_first(&cluster).leader != Some(cluster.id(2)));
    }
    assert_eq!(cluster.ask(2, Ask::increment("a")).await.version(), 121, "and disturbs nobody");

    cluster.delete_replica(0).await;
    cluster.caught_up(2, 0).await;
    assert_eq!((cluster.incarnations(), of_first(&cluster).outlived_by), (vec![1, 1], None));
    cluster.change(2, cluster.voters(&[0, 2])).await.unwrap();
    cluster.agree().await;
    cluster.stop(0).await;
    cluster.run(0).await;
    cluster.increment("a", 1).await;
    cluster.agree().await;
    assert_eq!(of_first(&cluster).outlived_by, None);
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 122);
}
