//! Changes of voters that a leader has begun and did not live to finish: whoever leads next sees two sets of voters, or one,
//! and takes the group out of it.

use std::time::Duration;

use berth_node::shard::group::{Change, ChangeError};
use futures_util::FutureExt;

use crate::cluster::Cluster;
use crate::writing::Writers;

/// What the next leader found, and did first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Old,
    Both,
    New,
}

/// Three voters, of which the last is to be replaced by the fourth node, which has caught up.
async fn about_to_change() -> Cluster {
    let cluster = Cluster::with_spares(3, 1).await;
    cluster.increment("a", 20).await;
    cluster.change(0, cluster.learner(3)).await.unwrap();
    cluster.caught_up(0, 3).await;
    cluster
}

/// Begins the change, kills the leader at some moment, and finishes or reverts what it has left. Nothing is lost, and in the
/// end there is one set of voters. Returns what the next leader found.
async fn killed_at(moment: usize, revert: bool) -> Found {
    let mut cluster = about_to_change().await;
    let writers = Writers::start(&cluster, 2);
    take_steps(&cluster, moment, |_| false).await;
    cluster.kill(0);
    writers.follow(&cluster);
    let leader = cluster.leader().await;
    assert!(cluster.observed(leader).is_committed, "its own blank entry is applied, and all before it");
    let (old, new) = ([0, 1, 2], [0, 1, 3]);
    let (sets, _) = cluster.seen_members(leader);
    let found = match &sets[..] {
        [one] if one == &old => Found::Old,
        [one] if one == &new => Found::New,
        [one, two] if (&one[..], &two[..]) == (&old, &new) => Found::Both,
        other => panic!("{other:?} at moment {moment}"),
    };
    let goal = if revert { old } else { new };
    if found == Found::Both && !goal.contains(&leader) {
        // It stays a leader; the way out for it is the other one, or to hand over.
        let refused = cluster.change(leader, cluster.voters(&goal)).await;
        assert!(matches!(refused, Err(ChangeError::Refused(_))), "{refused:?}");
        assert!(cluster.node(leader).group.transfer(cluster.id(1)).await);
        cluster.until("the other one leads", |cluster| cluster.leader_but(None) == Some(1)).await;
    }
    let leader = cluster.leader().await;
    if found == Found::Both {
        cluster.change(leader, cluster.voters(&goal)).await.unwrap();
        assert_eq!(cluster.seen_members(leader).0, [goal]);
    }
    cluster.run(0).await;
    writers.follow(&cluster);
    writers.end(&cluster).await;
    let leader = cluster.leader().await;
    let (sets, learners) = cluster.seen_members(leader);
    assert_eq!(sets.len(), 1, "{sets:?} at moment {moment}");
    for place in [2, 3] {
        if !sets[0].contains(&place) && !learners.contains(&place) {
            cluster.stop(place).await;
        }
    }
    cluster.agree().await;
    cluster.increment("a", 1).await;
    assert_eq!(cluster.read(leader, "a").await.unwrap().0, 21);
    found
}

/// The moments reach from before the first step to after the last, and lie close together where the outcome changes.
#[test]
fn the_next_leader_takes_a_group_out_of_a_change_that_was_left_half_done() {
    let runtime = runtime();
    let killed_at = |moment: usize| runtime.block_on(killed_at(moment, moment % 2 == 1));
    assert_eq!(killed_at(0), Found::Old);
    let found: Vec<Found> = (0..260).step_by(13).map(killed_at).collect();
    for expected in [Found::Old, Found::Both, Found::New] {
        assert!(found.contains(&expected), "{expected:?} did not come about: {found:?}");
    }
}

/// The leader lives, but does not get through: it is deposed in the middle of the change, and told so.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_deposed_in_the_middle_of_a_change_learns_it() {
    let cluster = about_to_change().await;
    let group = cluster.node(0).group.clone();
    let changing = group.change(group.term().unwrap(), cluster.voters(&[0, 1, 3]));
    tokio::pin!(changing);
    assert!(changing.as_mut().now_or_never().is_none());
    cluster.cut_off(0);
    cluster.until("another leads", |cluster| cluster.leader_but(Some(0)).is_some()).await;
    cluster.rejoin(0);
    let result = cluster.seams.spawner.timeout(Duration::from_secs(2), changing).await;
    assert!(matches!(result, Some(Err(ChangeError::NotLeader))), "{result:?}");
    let leader = cluster.leader().await;
    assert_ne!(leader, 0);
    if cluster.seen_members(leader).0.len() > 1 {
        cluster.change(leader, cluster.voters(&[0, 1, 2])).await.unwrap();
    }
    cluster.increment("a", 3).await;
}

/// Takes so many steps of the change, and lets every task have its turns.
async fn take_steps(cluster: &Cluster, steps: usize, until: impl Fn(&Cluster) -> bool) {
    let group = cluster.node(0).group.clone();
    let changing = group.change(group.term().unwrap(), cluster.voters(&[0, 1, 3]));
    tokio::pin!(changing);
    let mut done = false;
    for step in 0..steps {
        done = done || changing.as_mut().now_or_never().is_some();
        if until(cluster) {
            return;
        }
        if step.is_multiple_of(20) {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        tokio::task::yield_now().await;
    }
}

/// With this interval a test has its turn after every step of every task.
fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).event_interval(1).build().unwrap()
}

/// The first half of the change from the first three to another set is done, and the leader is killed. The second node ends it.
async fn ends_in(goal: [usize; 3]) {
    let mut cluster = Cluster::with_spares(3, 2).await;
    cluster.increment("a", 10).await;
    for place in [3, 4] {
        cluster.change(0, cluster.learner(place)).await.unwrap();
        cluster.caught_up(0, place).await;
    }
    let is_half_done = |cluster: &Cluster| cluster.seen_members(0).0.len() == 2 && cluster.observed(0).is_committed;
    take_steps(&cluster, 10_000, is_half_done).await;
    assert!(is_half_done(&cluster));
    cluster.kill(0);
    let leader = cluster.leader().await;
    if leader != 1 {
        assert!(cluster.node(leader).group.transfer(cluster.id(1)).await);
        cluster.until("the second leads", |cluster| cluster.leader_but(None) == Some(1)).await;
    }
    cluster.run(0).await;
    cluster.until("the first is back", |cluster| cluster.applied_index(0) == cluster.applied_index(1)).await;
    assert_eq!(cluster.seen_members(1).0, [[0, 1, 2], [0, 1, 3]]);
    let refused = cluster.change(1, Change::RemoveLearner(cluster.id(4))).await;
    assert!(matches!(refused, Err(ChangeError::Refused(_))), "it would end the change on the way: {refused:?}");
    cluster.change(1, cluster.voters(&goal)).await.unwrap();
    let (sets, learners) = cluster.seen_members(1);
    assert_eq!(sets, [goal]);
    assert_eq!(learners, if goal.contains(&4) { vec![] } else { vec![4] });
    cluster.increment("a", 5).await;
    for place in (0..4).filter(|place| !goal.contains(place)) {
        cluster.stop(place).await;
    }
    cluster.agree().await;
}

#[test]
fn a_change_that_was_left_half_done_ends_in_any_set_of_voters() {
    for goal in [[0, 1, 2], [0, 1, 3], [1, 2, 3], [0, 1, 4], [1, 2, 4]] {
        runtime().block_on(ends_in(goal));
    }
}
