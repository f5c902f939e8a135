//! The members of a group: what its leader sees of them, and how they change. Voters change by joint consensus, which the
//! library takes through both of its steps; this room decides which changes are begun, and what is safe to begin.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, PreconditionFailed, RaftError};
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftLeaderId;
use openraft::{ChangeMembers, Precondition, ReadPolicy};

use berth_shared::ids::{LogId, NodeId, Term};
use berth_shared::peer::Class;
use berth_shared::seam::BootInstant;

use super::group::RaftGroup;
use super::{Member, Membership, Runtime, Types};
use crate::shard::group::{Change, ChangeError, ConfirmedMembership, Follower, Observed};
use crate::transport::peers::Peers;

/// A member that was not heard of for so long is taken for silent. Heartbeats come ten times as often.
const ANSWERED_MAX: Duration = Duration::from_secs(1);
/// Entries that a member may lack that is to vote: so few that it has them before anybody waits for it.
const BEHIND_MAX: u64 = 2048;

type Metrics<R> = openraft::RaftMetrics<Types<R>>;

/// What a change comes to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Everything is so already.
    Nothing,
    Take(ChangeMembers<u64, Member>),
}

impl<R: Runtime> RaftGroup<R> {
    pub(super) fn observed(&self) -> Option<Observed> {
        self.observed_in(self.leadership.term()?).map(|(_, observed)| observed)
    }

    /// All of it from one report, so that it fits together.
    fn observed_in(&self, term: Term) -> Option<(Metrics<R>, Observed)> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if !metrics.state.is_leader() || metrics.current_term != term || self.leadership.term() != Some(term) {
            return None;
        }
        let answered = self.leadership.acknowledged().answered(term);
        let matched = metrics.replication.clone().unwrap_or_default();
        let membership = metrics.membership_config.membership();
        let follower = |node: NodeId| Follower {
            matched: matched.get(&node.0).and_then(|matched| matched.as_ref()).map(openraft::LogId::index),
            answered: answered.get(&node).copied(),
        };
        let others = membership.nodes().map(|(node, _)| NodeId(*node)).filter(|node| *node != self.node);
        let observed = Observed {
            term,
            configurations: membership.get_joint_config().iter().map(nodes).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            is_committed: metrics.membership_config.log_id() == metrics.committed_membership_config.log_id(),
            last: metrics.last_log_index.unwrap_or_default(),
            followers: others.map(|node| (node, follower(node))).collect(),
        };
        Some((metrics, observed))
    }

    /// The library keeps whoever asked waiting when this node is deposed, so the leadership is watched beside it.
    pub(super) async fn change_members(&self, term: Term, change: Change) -> Result<(), ChangeError> {
        let mut leading = self.leadership.leading();
        let deposed = leading.wait_for(|leading| *leading != Some(term));
        tokio::select! {
            biased;
            result = self.take_step(term, change) => result,
            _ = deposed => Err(ChangeError::NotLeader),
        }
    }

    async fn take_step(&self, term: Term, change: Change) -> Result<(), ChangeError> {
        let (metrics, observed) = self.observed_in(term).ok_or(ChangeError::NotLeader)?;
        if let Change::AddLearner { node, address } = &change {
            self.peers.learn(*node, address);
        }
        let step = step(self.node, &observed, &change, self.seams.clock.now())?;
        let Step::Take(members) = step else { return Ok(()) };
        if let Change::AddLearner { node, .. } = &change {
            self.granted.add(*node, term);
        }
        tracing::info!(shard = %self.shard, term, ?change, "changing the members of the group");
        // What was decided holds for these members, in this term, and not for others that came in between.
        let preconditions = [
            Precondition::CommittedLeaderId {
                committed_leader_id: LeaderId { term, voted_for: self.node.0 }.to_committed(),
            },
            Precondition::LastMembershipLogId { last_membership_log_id: *metrics.membership_config.log_id() },
        ];
        let changed = self.raft.change_membership_if(members, false, preconditions).await;
        changed.map(drop).map_err(refusal)
    }

    pub(super) async fn confirmed_members(&self) -> Option<ConfirmedMembership> {
        let term = self.leadership.term()?;
        if !self.confirm_leadership(term).await {
            return None;
        }
        let observed = self.observed_in(term)?.1;
        // From the blank entry on, all of a leader's log is of its term. Were this of another report than the members, an entry
        // between the two could add members that it seems to leave out.
        let last = LogId { term, index: observed.last };
        match &observed.configurations[..] {
            [voters] if observed.is_committed => {
                Some(ConfirmedMembership { voters: voters.clone(), learners: observed.learners, last })
            }
            _ => None,
        }
    }

    pub(super) async fn reach_member(&self, term: Term, node: NodeId) -> bool {
        let asked_at = self.seams.clock.now();
        let (mut leading, mut answers) = (self.leadership.leading(), self.leadership.acknowledged().changes());
        let deposed = leading.wait_for(|leading| *leading != Some(term));
        let answered = async {
            while self.leadership.acknowledged().answered(term).get(&node).is_none_or(|sent| *sent < asked_at) {
                if answers.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        // Sends a heartbeat to everybody at once, to those as well whom the next one in turn would spare.
        let asking = async {
            let _ = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
            std::future::pending::<()>().await;
        };
        let reached = async {
            tokio::select! {
                biased;
                () = answered => {}
                () = asking => {}
            }
            self.has_everything(node).await;
        };
        tokio::select! {
            biased;
            _ = deposed => false,
            () = self.lost(node) => false,
            () = reached => true,
        }
    }

    /// Returns once the member's log is known to be as long as ours.
    async fn has_everything(&self, node: NodeId) {
        let mut metrics = self.raft.data_metrics();
        loop {
            let is_whole = {
                let metrics = metrics.borrow_watched();
                let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&node.0));
                matched.is_some_and(|matched| *matched == metrics.last_log)
            };
            if is_whole {
                return;
            }
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Connects to these members. The address that one had when it came is good enough as long as no newer one is known.
pub(super) fn meet(peers: &Peers, membership: &Membership) {
    for (node, member) in membership.nodes() {
        if !peers.knows(NodeId(*node)) {
            peers.learn(NodeId(*node), &member.address);
        }
        peers.prepare(NodeId(*node), Class::Data);
    }
}

fn nodes(ids: &BTreeSet<u64>) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// What is to be done for `change`, or why not: what would stop the group, or leave it without its leader, is refused here.
fn step(ours: NodeId, observed: &Observed, change: &Change, now: BootInstant) -> Result<Step, ChangeError> {
    if !observed.is_committed {
        return Err(ChangeError::InProgress);
    }
    let (is_joint, is_member) = (observed.configurations.len() > 1, |node| is_member(ours, observed, node));
    // The library would end a change of voters on the way.
    let refuse_while_joint = || match is_joint {
        true => Err(ChangeError::Refused("the voters of the group are being changed".to_owned())),
        false => Ok(()),
    };
    match change {
        Change::AddLearner { node, .. } if is_member(*node) => Ok(Step::Nothing),
        Change::AddLearner { node, address } => {
            refuse_while_joint()?;
            let member = Member { address: address.clone() };
            Ok(Step::Take(ChangeMembers::AddNodes(BTreeMap::from([(node.0, member)]))))
        }
        Change::RemoveLearner(node) if !is_member(*node) => Ok(Step::Nothing),
        Change::RemoveLearner(node) if observed.is_voter(*node) => {
            Err(ChangeError::Refused(format!("node {node} is a voter of the group")))
        }
        Change::RemoveLearner(node) => {
            refuse_while_joint()?;
            Ok(Step::Take(ChangeMembers::RemoveNodes(BTreeSet::from([node.0]))))
        }
        Change::Voters(voters) if !is_joint && observed.configurations.first() == Some(voters) => Ok(Step::Nothing),
        Change::Voters(voters) => {
            check_voters(ours, observed, voters, now)?;
            Ok(Step::Take(ChangeMembers::ReplaceAllVoters(voters.iter().map(|node| node.0).collect())))
        }
    }
}

fn is_member(ours: NodeId, observed: &Observed, node: NodeId) -> bool {
    node == ours || observed.followers.contains_key(&node)
}

/// From the moment the change is appended nothing is committed without a majority of `voters`, so one must be there, with
/// nearly all of the log. And a leader that is no voter any more has nobody to give way to in order.
fn check_voters(
    ours: NodeId,
    observed: &Observed,
    voters: &BTreeSet<NodeId>,
    now: BootInstant,
) -> Result<(), ChangeError> {
    let refused = |why: String| Err(ChangeError::Refused(why));
    if let Some(stranger) = voters.iter().find(|node| !is_member(ours, observed, **node)) {
        return refused(format!("node {stranger} is to vote, and is no member of the group"));
    }
    if !voters.contains(&ours) {
        return refused("the leader of the group is not among its voters to be; it has to hand over first".to_owned());
    }
    let is_able = |node: &&NodeId| {
        let answered = observed.followers.get(node).and_then(|follower| follower.answered);
        **node == ours
            || (answered.is_some_and(|answered| now.since(answered) < ANSWERED_MAX)
                && observed.behind(**node).is_some_and(|behind| behind <= BEHIND_MAX))
    };
    let able = voters.iter().filter(is_able).count();
    if able <= voters.len() / 2 {
        return refused(format!("only {able} of the {} voters to be answer and are up to date", voters.len()));
    }
    Ok(())
}

fn refusal<R: Runtime>(error: RaftError<Types<R>, ClientWriteError<Types<R>>>) -> ChangeError {
    let error = match error {
        RaftError::APIError(error) => error,
        RaftError::Fatal(_) => return ChangeError::NotLeader,
    };
    match error {
        ClientWriteError::ForwardToLeader(_)
        | ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::PreconditionFailed(PreconditionFailed::CommittedLeaderIdMismatch { .. }) => {
            ChangeError::NotLeader
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))
        | ClientWriteError::PreconditionFailed(_) => ChangeError::InProgress,
        ClientWriteError::ChangeMembershipError(error) => ChangeError::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: NodeId = NodeId(1);
    const NOW: BootInstant = BootInstant(60_000_000_000);
    const LAST: u64 = 100_000;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// A group of nodes 1 to 3, led by the first, which the learners 4 to 6 follow, as fast as the test says.
    fn observed() -> Observed {
        let follower = Follower { matched: Some(LAST), answered: Some(BootInstant(NOW.0 - 100_000_000)) };
        Observed {
            term: 7,
            configurations: vec![set(&[1, 2, 3])],
            learners: set(&[4, 5, 6]),
            is_committed: true,
            last: LAST,
            followers: (2..=6).map(|node| (NodeId(node), follower)).collect(),
        }
    }

    fn voters(observed: &Observed, nodes: &[u64]) -> Result<Step, ChangeError> {
        step(OURS, observed, &Change::Voters(set(nodes)), NOW)
    }

    fn is_taken(result: &Result<Step, ChangeError>) -> bool {
        matches!(result, Ok(Step::Take(_)))
    }

    fn is_refused(result: &Result<Step, ChangeError>) -> bool {
        matches!(result, Err(ChangeError::Refused(_)))
    }

    #[test]
    fn voters_are_changed_when_a_majority_of_them_is_there() {
        let mut observed = observed();
        assert_eq!(voters(&observed, &[1, 2, 3]), Ok(Step::Nothing));
        assert!(is_taken(&voters(&observed, &[1, 2, 4])) && is_taken(&voters(&observed, &[1, 4, 5])));
        assert!(is_refused(&voters(&observed, &[])) && is_refused(&voters(&observed, &[2, 3, 4])));
        assert!(is_refused(&voters(&observed, &[1, 2, 7])), "it is no member");
        observed.followers.get_mut(&NodeId(4)).unwrap().answered = Some(BootInstant(NOW.0 - 1_000_000_000));
        assert!(is_taken(&voters(&observed, &[1, 2, 4])) && is_refused(&voters(&observed, &[1, 4])));
        observed.followers.get_mut(&NodeId(5)).unwrap().matched = Some(LAST - BEHIND_MAX - 1);
        assert!(is_refused(&voters(&observed, &[1, 4, 5])), "one is silent, and one is far behind");
        observed.followers.get_mut(&NodeId(5)).unwrap().matched = Some(LAST - BEHIND_MAX);
        assert!(is_taken(&voters(&observed, &[1, 4, 5])));
        observed.followers.insert(NodeId(5), Follower::default());
        assert!(is_refused(&voters(&observed, &[1, 4, 5])), "nothing is known of either");
    }

    #[test]
    fn learners_come_and_go_once() {
        let observed = observed();
        let add = |node| Change::AddLearner { node: NodeId(node), address: "a:1".to_owned() };
        let take = |change: &Change| step(OURS, &observed, change, NOW);
        for member in 1..=6 {
            assert_eq!(take(&add(member)), Ok(Step::Nothing), "{member}");
        }
        assert!(is_taken(&take(&add(7))) && is_taken(&take(&Change::RemoveLearner(NodeId(4)))));
        assert_eq!(take(&Change::RemoveLearner(NodeId(7))), Ok(Step::Nothing));
        assert!(
            is_refused(&take(&Change::RemoveLearner(NodeId(2)))) && is_refused(&take(&Change::RemoveLearner(OURS)))
        );
    }

    #[test]
    fn nothing_begins_before_the_change_before_is_committed() {
        let observed = Observed { is_committed: false, ..observed() };
        for change in
            [Change::Voters(set(&[1, 2, 3])), Change::RemoveLearner(NodeId(4)), Change::RemoveLearner(NodeId(9))]
        {
            assert_eq!(step(OURS, &observed, &change, NOW), Err(ChangeError::InProgress), "{change:?}");
        }
    }

    #[test]
    fn between_two_sets_of_voters_there_is_only_the_way_out() {
        let observed = Observed { configurations: vec![set(&[1, 2, 3]), set(&[1, 2, 4])], ..observed() };
        for goal in [[1, 2, 3], [1, 2, 4], [1, 2, 5]] {
            assert!(is_taken(&voters(&observed, &goal)), "{goal:?}");
        }
        assert!(is_refused(&step(OURS, &observed, &Change::RemoveLearner(NodeId(5)), NOW)));
        let add = Change::AddLearner { node: NodeId(7), address: "a:1".to_owned() };
        assert!(is_refused(&step(OURS, &observed, &add, NOW)));
    }
}
