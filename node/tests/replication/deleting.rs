//! Replicas that were deleted, and begin anew on the same node.

use std::time::Duration;

use berth_node::replica_files;

use crate::cluster::{Ask, Cluster, SHARD, open_files};

impl Cluster {
    /// The node stops, deletes its replica, and goes on with nothing but what a deletion leaves.
    pub(crate) async fn delete_replica(&mut self, place: usize) {
        self.stop(place).await;
        let seams = self.seams.clone();
        let (journal, store) = open_files(self.disk(place), &seams).await.unwrap();
        replica_files::delete_replica(&journal, &store, SHARD).await.unwrap();
        store.close().await.unwrap();
        journal.close().await;
        self.run(place).await;
    }

    async fn replace(&self, leader: usize, learner: usize, voters: &[usize]) {
        self.change(leader, self.learner(learner)).await.unwrap();
        self.caught_up(leader, learner).await;
        self.change(leader, self.voters(voters)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_begins_anew_catches_up_and_votes_like_any() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    cluster.increment("a", 20).await;
    cluster.replace(0, 3, &[0, 1, 3]).await;
    cluster.delete_replica(2).await;
    cluster.sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.applied_index(2), 0, "it founds nothing, although it is one of the first members");
    cluster.increment("a", 20).await;
    cluster.replace(0, 2, &[0, 1, 2]).await;
    cluster.until("it has it all", |cluster| cluster.applied_index(2) == cluster.applied_index(0)).await;
    cluster.kill(0);
    cluster.increment("a", 1).await;
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 41);
}

/// The second node believes in the members of before, of which the third one was another. With its vote it would lead, and lack
/// what the first one has acknowledged since.
#[tokio::test(start_paused = true)]
async fn a_replica_that_begins_anew_helps_nobody_to_lead_whom_the_deleted_one_would_not_have_helped() {
    let mut cluster = Cluster::with_spares(3, 2).await;
    cluster.increment("a", 20).await;
    cluster.cut_off(1);
    cluster.increment("a", 5).await;
    cluster.replace(0, 3, &[0, 2, 3]).await;
    cluster.replace(0, 4, &[0, 3, 4]).await;
    cluster.increment("a", 5).await;
    let term = cluster.term_of(0).unwrap();
    // At its new address it is reached by all, and so by the second one.
    cluster.delete_replica(2).await;
    for _ in 0..200 {
        cluster.sleep(Duration::from_millis(50)).await;
        assert_eq!((cluster.term_of(1), cluster.term_of(0)), (None, Some(term)));
    }
    assert_eq!(cluster.ask(0, Ask::increment("a")).await.version(), 31);
    cluster.rejoin(1);
    cluster.sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.term_of(0), Some(term));
}

/// The owner has been elected with the vote of a replica that had a log then. What it knew of that log holds no more when the
/// replica has deleted it and is a member again, under the same owner in the same term.
#[tokio::test(start_paused = true)]
async fn a_replica_that_begins_anew_is_sent_everything_by_the_owner_that_it_has_elected() {
    let mut cluster = Cluster::with_spares(3, 1).await;
    cluster.increment("a", 40).await;
    assert!(cluster.node(0).group.transfer(cluster.id(1)).await);
    cluster.until("the next one leads", |cluster| cluster.term_of(1).is_some()).await;
    let term = cluster.term_of(1);
    cluster.replace(1, 3, &[0, 1, 3]).await;
    cluster.delete_replica(2).await;
    cluster.increment("a", 10).await;
    cluster.replace(1, 2, &[0, 1, 2]).await;
    cluster.increment("a", 10).await;
    cluster.until("it has it all", |cluster| cluster.applied_index(2) == cluster.applied_index(1)).await;
    assert_eq!(cluster.term_of(1), term);
    cluster.kill(1);
    cluster.increment("a", 1).await;
    assert_eq!(cluster.read(cluster.leader().await, "a").await.unwrap().0, 61);
}
