//! When a replica stands for election. Pure: time, randomness and what is known of the group are passed in.
//!
//! A leader reads from memory for [`super::LEASE`] after a quorum was last heard of, and nobody may be elected before that; so
//! a replica stands when it has not heard of its leader for a whole election timeout. It waits longer while the connection
//! to the leader stands, because a leader that is slow is better than an election. Of several replicas one begins, in an
//! order that differs from shard to shard, and the next ones follow only if that comes to nothing: two that stand at once
//! split the votes, and the shards of a lost node spread over those that are left.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use berth_shared::ids::{NodeId, ShardId};
use berth_shared::seam::BootInstant;

use super::message::Vote;
use super::{ELECTION_TIMEOUT_MAX, ELECTION_TIMEOUT_MIN};

/// How much longer a leader may be silent whose connection stands.
const PATIENCE: Duration = Duration::from_millis(300);
/// Between a replica and the next one in order. Enough for an election, with three writes to disk one after the other.
const RANK_STEP: Duration = Duration::from_millis(150);
/// Spread of the waits of one rank, over the shards of a node.
const JITTER: Duration = Duration::from_millis(30);
/// Between two attempts, as long as the others would not give their vote.
const RETRY: Duration = Duration::from_millis(50);
/// How long an election that is under way is left alone, and the spread of that, which ends a tie.
const ELECTION_MIN: Duration = ELECTION_TIMEOUT_MIN;
const ELECTION_SPREAD: Duration = ELECTION_TIMEOUT_MIN;

/// What a replica knows of its group at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) now: BootInstant,
    /// Whether this replica may stand: it is a voter, and does not lead.
    pub(super) may_stand: bool,
    /// The vote it holds.
    pub(super) vote: Vote,
    /// When it last took an append of its leader.
    pub(super) heard: Option<BootInstant>,
    /// Whether the connection to the node of its vote stands.
    pub(super) is_connected: bool,
}

/// Who stands first, as long as no leader was heard since the start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beginning {
    /// This replica, as the planned owner of a new shard.
    Ours,
    /// The planned owner of a new shard, until then.
    AnothersUntil(BootInstant),
    /// Whoever comes first in order.
    Open,
}

/// Decides for one replica.
#[derive(Debug)]
pub(super) struct Campaigner {
    /// Rule R2.
    not_before: BootInstant,
    beginning: Beginning,
    vote: Option<Vote>,
    /// An election that somebody has begun is left alone until then.
    hold_until: BootInstant,
    /// Since when nothing but the order of the replicas has kept this one from standing. What makes it free to stand may
    /// become known late, and to all of them at once.
    free_since: Option<BootInstant>,
    next_attempt: BootInstant,
}

impl Campaigner {
    pub(super) fn new(not_before: BootInstant, beginning: Beginning) -> Self {
        let start = BootInstant(0);
        Self { not_before, beginning, vote: None, hold_until: start, free_since: None, next_attempt: start }
    }

    /// Whether to stand now; to be asked every few hundredths of a second. `rank` is this replica's place in the order.
    pub(super) fn is_due(&mut self, view: &View, rank: impl FnOnce() -> u32, random: impl Fn() -> u64) -> bool {
        if self.vote.replace(view.vote).is_some_and(|before| before != view.vote) && !view.vote.committed {
            // Somebody stands, perhaps this replica itself.
            self.hold_until = view.now + ELECTION_MIN + below(ELECTION_SPREAD, random());
        }
        let silence_max = if view.is_connected { ELECTION_TIMEOUT_MAX + PATIENCE } else { ELECTION_TIMEOUT_MAX };
        let silent_from = match (view.heard, self.beginning) {
            (Some(heard), _) if view.vote.committed => heard + silence_max,
            (None, Beginning::AnothersUntil(then)) => then,
            _ => BootInstant(0),
        };
        let from = silent_from.max(self.not_before).max(self.hold_until);
        if !view.may_stand || view.now < from {
            self.free_since = None;
            return false;
        }
        let free_since = *self.free_since.get_or_insert_with(|| view.now + below(JITTER, random()));
        let goes_first = view.heard.is_none() && matches!(self.beginning, Beginning::Ours);
        let wait = if goes_first { Duration::ZERO } else { RANK_STEP * rank() };
        if view.now < self.next_attempt || view.now < free_since + wait {
            return false;
        }
        self.next_attempt = view.now + RETRY;
        true
    }
}

fn below(limit: Duration, random: u64) -> Duration {
    Duration::from_nanos(random % limit.as_nanos().max(1) as u64)
}

/// The place of `node` among `candidates`, in the order of `shard`.
pub(super) fn rank(shard: ShardId, node: NodeId, candidates: impl Iterator<Item = NodeId>) -> u32 {
    let ours = weight(shard, node);
    candidates.filter(|other| *other != node && weight(shard, *other) > ours).count() as u32
}

fn weight(shard: ShardId, node: NodeId) -> (u64, NodeId) {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&shard.0.to_le_bytes());
    bytes[2..].copy_from_slice(&node.0.to_le_bytes());
    (xxh3_64(&bytes), node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARD: BootInstant = BootInstant(1_000_000_000_000);
    const LEADER: Vote = Vote { term: 3, node: NodeId(7), committed: true };

    fn view(after_millis: u64) -> View {
        let now = HEARD + Duration::from_millis(after_millis);
        View { now, may_stand: true, vote: LEADER, heard: Some(HEARD), is_connected: false }
    }

    fn fresh() -> Campaigner {
        Campaigner::new(BootInstant(0), Beginning::Open)
    }

    /// The first moment, in milliseconds after the leader was heard, at which a replica stands.
    fn first(campaigner: &mut Campaigner, rank: u32, look: impl Fn(u64) -> View) -> u64 {
        (0..10_000).find(|after| campaigner.is_due(&look(*after), || rank, || 0)).unwrap()
    }

    #[test]
    fn a_replica_stands_once_the_leaders_lease_has_surely_ended() {
        assert_eq!(first(&mut fresh(), 0, view), 600);
        assert_eq!(first(&mut fresh(), 1, view), 750);
        assert_eq!(first(&mut fresh(), 2, view), 900);
    }

    #[test]
    fn a_leader_whose_connection_stands_is_given_longer() {
        let look = |after| View { is_connected: true, ..view(after) };
        assert_eq!(first(&mut fresh(), 0, look), 900);
    }

    #[test]
    fn the_order_holds_too_when_it_is_late_that_the_connection_is_known_to_be_lost() {
        let look = |after| View { is_connected: after < 850, ..view(after) };
        assert_eq!(first(&mut fresh(), 0, look), 850);
        assert_eq!(first(&mut fresh(), 1, look), 1000);
    }

    #[test]
    fn nobody_stands_before_its_time_or_without_a_right_to() {
        let later = HEARD + Duration::from_secs(2);
        let unheard = |after| View { heard: None, ..view(after) };
        assert_eq!(first(&mut Campaigner::new(later, Beginning::Open), 0, view), 2000);
        let second = || Campaigner::new(BootInstant(0), Beginning::AnothersUntil(later));
        assert_eq!(first(&mut second(), 0, unheard), 2000);
        assert_eq!(first(&mut second(), 0, view), 600, "it gives way to a first leader only");
        let mut planned = Campaigner::new(HEARD, Beginning::Ours);
        assert_eq!(first(&mut planned, 2, unheard), 0, "the planned owner waits for nobody");
        let mut campaigner = fresh();
        assert!(!campaigner.is_due(&View { may_stand: false, ..view(5000) }, || 0, || 0));
    }

    #[test]
    fn an_attempt_that_comes_to_nothing_is_repeated_shortly() {
        let mut campaigner = fresh();
        let due: Vec<u64> = (600..800).filter(|after| campaigner.is_due(&view(*after), || 0, || 0)).collect();
        assert_eq!(due, [600, 650, 700, 750]);
    }

    #[test]
    fn an_election_under_way_is_left_alone_for_a_while() {
        let mut campaigner = fresh();
        assert_eq!(first(&mut campaigner, 0, view), 600);
        let candidate = Vote { term: 4, node: NodeId(8), committed: false };
        let look = |after| View { vote: candidate, ..view(after + 650) };
        assert_eq!(first(&mut campaigner, 0, look), 300);
        let mut other = fresh();
        assert!(!other.is_due(&view(10), || 0, || 0));
        assert!(!other.is_due(&look(0), || 0, || 299_000_000));
        let due = (1..1000).find(|after| other.is_due(&look(*after), || 0, || 299_000_000));
        assert_eq!(due, Some(628), "another spread, and its jitter of 29 ms");
    }

    #[test]
    fn the_successors_of_a_node_are_spread() {
        let survivors = [NodeId(11), NodeId(12), NodeId(13), NodeId(14)];
        let first = |shard| survivors.into_iter().find(|node| rank(ShardId(shard), *node, survivors.into_iter()) == 0);
        for node in survivors {
            let count = (0..64).filter(|shard| first(*shard) == Some(node)).count();
            assert!((6..30).contains(&count), "{node} comes first for {count} of 64");
        }
        let mut ranks: Vec<u32> = survivors.map(|node| rank(ShardId(5), node, survivors.into_iter())).to_vec();
        ranks.sort_unstable();
        assert_eq!(ranks, [0, 1, 2, 3]);
    }
}
