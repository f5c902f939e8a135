//! Members that come and go: learners catch up and become voters, and voters are replaced, while commands go on.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_node::shard::group::{Change, ChangeError, ConfirmedMembership, Observed};
use berth_shared::ids::NodeId;

use crate::cluster::{Answered, Ask, Cluster};
use crate::writing::Writers;

/// A change that nobody is missing for takes no longer.
const CHANGE_MAX: Duration = Duration::from_secs(5);

impl Cluster {
    pub(crate) fn ids(&self, places: &[usize]) -> BTreeSet<NodeId> {
        places.iter().map(|place| self.id(*place)).collect()
    }

    pub(crate) fn observed(&self, place: usize) -> Observed {
        self.node(place).group.observe().expect("it leads")
    }

    /// The places of the members that the leader sees: each set of voters, and learners.
    pub(crate) fn seen_members(&self, leader: usize) -> (Vec<Vec<usize>>, Vec<usize>) {
        let places = |ids: &BTreeSet<NodeId>| (0..self.size()).filter(|place| ids.contains(&self.id(*place))).collect();
        let observed = self.observed(leader);
        (observed.configurations.iter().map(places).collect(), places(&observed.learners))
    }

    /// Changes the members through whoever leads, which it does in time.
    pub(crate) async fn change(&self, leader: usize, change: Change) -> Result<(), ChangeError> {
        let group = &self.node(leader).group;
        let changing = group.change(group.term().expect("it leads"), change);
        self.seams.spawner.timeout(CHANGE_MAX, changing).await.expect("it is changed in time")
    }

    pub(crate) fn learner(&self, place: usize) -> Change {
        Change::AddLearner { node: self.id(place), address: self.node(place).address.clone() }
    }

    pub(crate) fn voters(&self, places: &[usize]) -> Change {
        Change::Voters(self.ids(places))
    }

    /// Waits until the leader knows the member to have nearly everything.
    pub(crate) async fn caught_up(&self, leader: usize, place: usize) {
        let is_close =
            |cluster: &Self| cluster.observed(leader).behind(cluster.id(place)).is_some_and(|entries| entries < 5);
        self.until("the learner has caught up", is_close).await;
    }

    async fn make_voter(&self, leader: usize, place: usize, voters: &[usize]) {
        self.change(leader, self.learner(place)).await.unwrap();
        self.caught_up(leader, place).await;
        self.change(leader, self.voters(voters)).await.unwrap();
    }

    fn serves(&self, place: usize) -> bool {
        self.node(place).group.is_serving()
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_grows_to_three_while_commands_go_on() {
    let cluster = Cluster::with_spares(1, 2).await;
    let writers = Writers::start(&cluster, 4);
    cluster.sleep(Duration::from_millis(200)).await;
    assert_eq!(cluster.seen_members(0), (vec![vec![0]], vec![]));
    let term = cluster.term_of(0).unwrap();
    cluster.make_voter(0, 1, &[0, 1]).await;
    assert_eq!(cluster.seen_members(0), (vec![vec![0, 1]], vec![]));
    cluster.make_voter(0, 2, &[0, 1, 2]).await;
    assert_eq!(cluster.seen_members(0), (vec![vec![0, 1, 2]], vec![]));
    let observed = cluster.observed(0);
    assert!(observed.is_committed && observed.term == term);
    assert_eq!(observed.followers.len(), 2);
    cluster.until("all serve", |cluster| (0..3).all(|place| cluster.serves(place))).await;
    let (pause, count) = writers.end(&cluster).await;
    assert!(pause < Duration::from_millis(30) && count > 200, "{count} writes, the longest pause {pause:?}");
    cluster.agree().await;
}

/// Alone, a leader needs no lease; with others it does.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_alone_loses_its_lease_as_others_do_once_it_has_voters_beside_it() {
    let cluster = Cluster::with_spares(1, 2).await;
    let term = cluster.term_of(0).unwrap();
    cluster.change(0, cluster.learner(1)).await.unwrap();
    cluster.caught_up(0, 1).await;
    cluster.cut_off(0);
    cluster.sleep(Duration::from_millis(700)).await;
    assert!(cluster.node(0).group.holds_lease(term), "a learner does not count");
    cluster.rejoin(0);
    cluster.make_voter(0, 2, &[0, 1, 2]).await;
    cluster.cut_off(0);
    let lease = cluster.until("the lease ends", |cluster| !cluster.node(0).group.holds_lease(term)).await;
    assert!(lease <= Duration::from_millis(541), "{lease:?}");
    assert_eq!(cluster.leader_but(Some(0)), None);
    cluster.until("another leads", |cluster| cluster.leader_but(Some(0)).is_some()).await;
    cluster.rejoin(0);
    cluster.increment("a", 3).await;
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_live_voter_is_replaced_while_commands_go_on() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    cluster.increment("a", 20).await;
    let writers = Writers::start(&cluster, 4);
    cluster.make_voter(0, 3, &[0, 1, 3]).await;
    assert_eq!(cluster.seen_members(0), (vec![vec![0, 1, 3]], vec![]));
    // It has not heard that it was removed, and asks for votes in vain.
    let term = cluster.term_of(0).unwrap();
    cluster.sleep(Duration::from_secs(3)).await;
    assert!(!cluster.serves(2));
    assert_eq!(cluster.term_of(0), Some(term));
    assert!((0..3).all(|place| cluster.node(place).group.status().term == term), "no term is begun in vain");
    let (pause, _) = writers.end(&cluster).await;
    assert!(pause < Duration::from_millis(30), "{pause:?}");
    cluster.stop(2).await;
    cluster.agree().await;
    cluster.kill(0);
    cluster.increment("a", 3).await;
    cluster.agree().await;
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 23);
}

#[tokio::test(start_paused = true)]
async fn a_silent_voter_is_replaced_while_commands_go_on() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    let writers = Writers::start(&cluster, 4);
    cluster.sleep(Duration::from_millis(100)).await;
    cluster.kill(2);
    writers.follow(&cluster);
    cluster.sleep(Duration::from_secs(2)).await;
    let answered = |place| cluster.observed(0).followers[&cluster.id(place)].answered;
    assert!(answered(2).is_none_or(|sent| cluster.now().since(sent) > Duration::from_secs(1)));
    assert!(cluster.now().since(answered(1).unwrap()) < Duration::from_millis(250));
    cluster.make_voter(0, 3, &[0, 1, 3]).await;
    let (pause, _) = writers.end(&cluster).await;
    assert!(pause < Duration::from_millis(50), "{pause:?}");
    // What is left of it comes back, and disturbs nobody.
    cluster.run(2).await;
    cluster.sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.leader().await, 0);
    assert!(!cluster.serves(2));
    cluster.stop(2).await;
    cluster.agree().await;
}

/// Nobody but the leader is told where it is, and the leader by the change only. The others learn it from their log.
#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_knew_becomes_a_voter_and_an_owner() {
    let mut cluster = Cluster::led_by_the_first(3).await;
    let place = cluster.add_spare();
    cluster.run_unannounced(place).await;
    cluster.increment("a", 5).await;
    cluster.make_voter(0, place, &[0, 1, 3]).await;
    let knows = |cluster: &Cluster, one, other| cluster.node(one).peers.knows(cluster.id(other));
    let they_know = |cluster: &Cluster| knows(cluster, place, 1) && knows(cluster, 1, place);
    let took = cluster.until("they know each other", they_know).await;
    assert!(took < Duration::from_millis(50), "{took:?}");
    cluster.kill(2);
    assert!(cluster.node(0).group.transfer(cluster.id(place)).await);
    cluster.until("it leads", |cluster| cluster.leader_but(None) == Some(3)).await;
    cluster.increment("a", 5).await;
    cluster.kill(0);
    cluster.increment("a", 5).await;
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_the_log_does_not_reach_gets_a_snapshot_and_becomes_a_voter() {
    let mut cluster = Cluster::with_spares(3, 0).await;
    cluster.increment_at_once("a", 300).await;
    assert_eq!(cluster.ask(0, Ask::increment("b").key("k")).await, Answered::counted(1, 1));
    cluster.node(0).group.compact().await;
    cluster.until("the log is purged", |cluster| cluster.log_begins(0) > 0).await;
    let place = cluster.add_spare();
    cluster.run(place).await;
    let writers = Writers::start(&cluster, 2);
    cluster.change(0, cluster.learner(place)).await.unwrap();
    cluster.caught_up(0, place).await;
    assert!(cluster.log_begins(place) > 0, "its log begins with the snapshot");
    assert!(!cluster.serves(place), "a learner does not serve");
    cluster.change(0, cluster.voters(&[0, 1, place])).await.unwrap();
    cluster.until("it serves", |cluster| cluster.serves(place)).await;
    writers.end(&cluster).await;
    cluster.stop(2).await;
    cluster.kill(1);
    cluster.run(1).await;
    cluster.agree().await;
    assert!(cluster.node(0).group.transfer(cluster.id(place)).await);
    cluster.until("it leads", |cluster| cluster.leader_but(None) == Some(place)).await;
    assert_eq!(cluster.ask(place, Ask::increment("b").key("k")).await, Answered::counted(1, 1).replay());
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_is_started_anew_goes_on_learning() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    cluster.change(0, cluster.learner(3)).await.unwrap();
    for round in 0..5 {
        cluster.increment("a", 20).await;
        if round % 2 == 0 {
            cluster.kill(3);
        } else {
            cluster.stop(3).await;
        }
        cluster.increment("a", 20).await;
        cluster.run(3).await;
        cluster.agree().await;
        assert!(!cluster.serves(3));
    }
    // It never stands, not even when nobody else is there.
    let term = cluster.node(3).group.status().term;
    (0..3).for_each(|place| cluster.kill(place));
    cluster.sleep(Duration::from_secs(10)).await;
    let status = cluster.node(3).group.status();
    assert_eq!((status.term, status.learners), (term, vec![cluster.id(3)]));
}

/// A change that adds a learner whose node is gone is done all the same, and so is one that removes it.
#[tokio::test(start_paused = true)]
async fn a_learner_that_never_comes_is_removed() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    let away = cluster.learner(3);
    cluster.kill(3);
    cluster.change(0, away.clone()).await.unwrap();
    cluster.change(0, away).await.unwrap();
    assert_eq!(cluster.seen_members(0), (vec![vec![0, 1, 2]], vec![3]));
    cluster.increment("a", 10).await;
    assert_eq!(cluster.observed(0).followers[&cluster.id(3)].matched, None);
    assert_eq!(cluster.observed(0).behind(cluster.id(3)), None);
    for _ in 0..2 {
        cluster.change(0, Change::RemoveLearner(cluster.id(3))).await.unwrap();
        assert_eq!(cluster.seen_members(0), (vec![vec![0, 1, 2]], vec![]));
    }
    // It comes after all, and nobody minds it.
    cluster.run(3).await;
    cluster.sleep(Duration::from_secs(2)).await;
    assert_eq!((cluster.applied_index(3), cluster.leader().await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_nobody_has_added_is_quiet() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    let before = cluster.node(3).group.status();
    cluster.sleep(Duration::from_secs(20)).await;
    let status = cluster.node(3).group.status();
    assert_eq!((status.term, &status), (0, &before));
    assert_eq!((status.leader, status.last), (None, None));
    assert!(!cluster.serves(3) && cluster.node(3).group.observe().is_none());
    cluster.kill(3);
    cluster.run(3).await;
    cluster.sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.node(3).group.status(), before);
}

#[tokio::test(start_paused = true)]
async fn what_would_stop_a_group_is_refused() {
    let mut cluster = Cluster::with_spares(3, 3).await;
    let refused =
        |result: Result<(), ChangeError>| assert!(matches!(result, Err(ChangeError::Refused(_))), "{result:?}");
    let members = cluster.seen_members(0);
    refused(cluster.change(0, cluster.voters(&[])).await);
    refused(cluster.change(0, cluster.voters(&[0, 1, 3])).await);
    refused(cluster.change(0, cluster.voters(&[1, 2])).await);
    refused(cluster.change(0, Change::RemoveLearner(cluster.id(1))).await);
    assert_eq!(cluster.seen_members(0), members);
    for place in [3, 4, 5] {
        cluster.change(0, cluster.learner(place)).await.unwrap();
        cluster.caught_up(0, place).await;
    }
    cluster.kill(3);
    cluster.kill(4);
    cluster.sleep(Duration::from_millis(1200)).await;
    refused(cluster.change(0, cluster.voters(&[0, 3, 4])).await);
    cluster.change(0, cluster.voters(&[0, 1, 2])).await.unwrap();
    cluster.change(0, cluster.voters(&[0, 1, 5])).await.unwrap();
    cluster.increment("a", 3).await;
    let term = cluster.term_of(0).unwrap();
    let of_another = cluster.node(0).group.change(term - 1, cluster.voters(&[0, 1])).await;
    assert_eq!(of_another, Err(ChangeError::NotLeader));
    let elsewhere = cluster.node(1).group.change(term, cluster.voters(&[0, 1])).await;
    assert_eq!(elsewhere, Err(ChangeError::NotLeader));
    assert_eq!(cluster.seen_members(0), (vec![vec![0, 1, 5]], vec![3, 4]));
}

/// Nothing is committed without a majority, so the caller gives up; whoever leads then has what came of it.
#[tokio::test(start_paused = true)]
async fn a_change_that_is_given_up_stops_nothing() {
    let cluster = Cluster::with_spares(3, 1).await;
    cluster.change(0, cluster.learner(3)).await.unwrap();
    cluster.caught_up(0, 3).await;
    for (cut, first) in [(&[1, 3][..], 0), (&[1, 2, 3], 0)] {
        let term = cluster.term_of(first).unwrap();
        let group = cluster.node(first).group.clone();
        let changing = group.change(term, cluster.voters(&[0, 1, 3]));
        for place in cut {
            cluster.links.cut(&cluster.node(first).address, &cluster.node(*place).address);
        }
        let given_up = cluster.seams.spawner.timeout(Duration::from_millis(150), changing).await;
        assert!(!matches!(given_up, Some(Ok(()))), "{given_up:?}");
        let (sets, _) = cluster.seen_members(first);
        assert!(!cluster.observed(first).is_committed && sets.len() == 2, "{sets:?}");
        let again = group.change(term, cluster.voters(&[0, 1, 2])).await;
        assert_eq!(again, Err(ChangeError::InProgress));
        for place in cut {
            cluster.links.mend(&cluster.node(first).address, &cluster.node(*place).address);
        }
        let leader = cluster.leader().await;
        cluster.until("it is committed", |cluster| cluster.observed(leader).is_committed).await;
        assert_eq!(leader, first, "it was not away for long");
        cluster.change(leader, cluster.voters(&[0, 1, 2])).await.unwrap();
        cluster.change(leader, cluster.learner(3)).await.unwrap();
        cluster.caught_up(leader, 3).await;
        cluster.increment("a", 3).await;
        cluster.agree().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_confirms_who_the_members_are() {
    let cluster = Cluster::with_spares(3, 2).await;
    cluster.change(0, cluster.learner(3)).await.unwrap();
    cluster.increment("a", 3).await;
    let confirmed = cluster.node(0).group.confirmed_membership().await.unwrap();
    let ConfirmedMembership { voters, learners, last } = confirmed;
    assert_eq!((voters, learners), (cluster.ids(&[0, 1, 2]), cluster.ids(&[3])));
    assert_eq!(Some(last), cluster.node(0).group.status().last);
    assert_eq!(cluster.node(1).group.confirmed_membership().await, None, "it does not lead");
    cluster.cut_off(0);
    assert_eq!(cluster.node(0).group.confirmed_membership().await, None, "there is no quorum");
}

/// Its term is the first thing that is counted: the leader of an old one counts nobody's votes, and a node that is added
/// again after it was removed and wiped begins with nothing.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_removed_and_deleted_is_added_again() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    cluster.increment("a", 30).await;
    cluster.make_voter(0, 3, &[0, 1, 3]).await;
    cluster.stop(2).await;
    cluster.delete(2);
    cluster.run(2).await;
    cluster.make_voter(0, 2, &[0, 1, 2]).await;
    cluster.stop(3).await;
    cluster.kill(0);
    cluster.increment("a", 3).await;
    cluster.agree().await;
}
