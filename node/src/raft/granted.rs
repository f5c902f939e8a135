//! What the logs of those ended with who have elected this replica. A new leader searches each member's log for the last entry
//! that both have, halving the range with every question; behind a long log that is a dozen round trips before the first
//! entry of its term goes out, and nobody owns the shard meanwhile. But who grants its vote says what its log ends with, and
//! where the leader has that entry as well, both have all that comes before it, too (log matching, Ongaro 2014, §3.5). So
//! the leader can answer these questions itself.
//!
//! That stays true for the term: once a member has granted its vote in it, nobody but the leader of that term, or of a later
//! one, can change its log. Its log was on its disk when it answered, because its vote was, and both are written in order.
//!
//! Unless it stops being a member: then it deletes its log, and may become a member again with none, in the same term and
//! under the same leader. So whoever is made a member is asked, whatever it had when it voted.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use berth_shared::ids::{LogId, NodeId, ShardId, Term};

use crate::journal::Journal;

/// Of one group.
#[derive(Debug)]
pub(super) struct Granted {
    shard: ShardId,
    journal: Journal,
    newest: Mutex<Newest>,
}

/// Of one term only. Bounded by the voters.
#[derive(Debug, Default)]
struct Newest {
    term: Term,
    last: BTreeMap<NodeId, LogId>,
    /// Members again, or for the first time, since this replica leads in the term.
    added: BTreeSet<NodeId>,
}

impl Granted {
    pub(super) fn new(shard: ShardId, journal: Journal) -> Self {
        Self { shard, journal, newest: Mutex::default() }
    }

    /// `voter`, whose log ends with `last`, has granted this replica its vote in `term`.
    pub(super) fn note(&self, voter: NodeId, term: Term, last: LogId) {
        if !self.journal.has(self.shard, last) {
            return;
        }
        let mut newest = self.newest.lock();
        newest.begin(term);
        if term == newest.term && !newest.added.contains(&voter) {
            newest.last.insert(voter, last);
        }
    }

    /// This replica, which leads in `term`, is about to make `member` one. From here on nothing is known of its log but what it
    /// answers, also when a vote of it is still on its way.
    pub(super) fn add(&self, member: NodeId, term: Term) {
        let mut newest = self.newest.lock();
        newest.begin(term);
        if term == newest.term {
            newest.last.remove(&member);
            newest.added.insert(member);
        }
    }

    /// Whether `member` is known to have all entries of this replica's log up to `upto`, which leads in `term`.
    pub(super) fn has(&self, member: NodeId, term: Term, upto: LogId) -> bool {
        let newest = self.newest.lock();
        newest.term == term && newest.last.get(&member).is_some_and(|last| upto.index <= last.index)
    }
}

impl Newest {
    fn begin(&mut self, term: Term) {
        if term > self.term {
            *self = Self { term, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use berth_shared::seam::Seams;

    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::journal::{self, Entry, Payload};

    const SHARD: ShardId = ShardId(3);
    const VOTER: NodeId = NodeId(2);

    fn id(term: Term, index: u64) -> LogId {
        LogId { term, index }
    }

    /// Of a replica whose log has the entries 1 to 4 of term 1 and 5 and 6 of term 2, and has lost the first two.
    async fn granted() -> Granted {
        let config = journal::Config { fatal: Arc::new(|line| panic!("{line}")), ..Default::default() };
        let journal = Journal::open(&SimulatedDisk::new(), config, Seams::simulated(1)).await.unwrap();
        let entry = |index| Entry { log_id: id(1 + u64::from(index > 4), index), payload: Payload::Blank };
        journal.append(SHARD, (1..=6).map(entry).collect(), Box::new(|_| {})).await.unwrap();
        journal.purge(SHARD, id(1, 2)).await.unwrap();
        Granted::new(SHARD, journal)
    }

    #[tokio::test(start_paused = true)]
    async fn a_voter_has_what_its_log_ended_with_and_all_before_it() {
        let granted = granted().await;
        assert!(!granted.has(VOTER, 3, id(1, 1)));
        granted.note(VOTER, 3, id(2, 5));
        for (upto, expected) in [(id(1, 1), true), (id(1, 4), true), (id(2, 5), true), (id(2, 6), false)] {
            assert_eq!(granted.has(VOTER, 3, upto), expected, "{upto:?}");
        }
        assert!(!granted.has(NodeId(9), 3, id(1, 1)), "another has not voted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_ends_with_what_ours_has_not_says_nothing() {
        let granted = granted().await;
        // Of another term than ours; after the end of ours; before its beginning.
        for last in [id(1, 5), id(2, 4), id(2, 7), id(1, 1), id(2, 2)] {
            granted.note(VOTER, 3, last);
            assert!(!granted.has(VOTER, 3, id(1, 1)), "{last:?}");
        }
        granted.note(VOTER, 3, id(1, 2));
        assert!(granted.has(VOTER, 3, id(1, 2)), "the last one that was purged is still known");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_known_of_the_log_of_who_is_made_a_member_again() {
        let granted = granted().await;
        granted.note(VOTER, 3, id(2, 6));
        granted.add(VOTER, 3);
        assert!(!granted.has(VOTER, 3, id(1, 1)));
        granted.note(VOTER, 3, id(2, 6));
        assert!(!granted.has(VOTER, 3, id(1, 1)), "a vote that comes late");
        granted.note(VOTER, 4, id(2, 6));
        assert!(granted.has(VOTER, 4, id(1, 1)), "a vote in another term");
        granted.add(VOTER, 5);
        granted.note(VOTER, 5, id(2, 6));
        assert!(!granted.has(VOTER, 5, id(1, 1)), "the first word of a term");
    }

    #[tokio::test(start_paused = true)]
    async fn a_vote_counts_in_its_term() {
        let granted = granted().await;
        granted.note(VOTER, 3, id(2, 6));
        assert!(!granted.has(VOTER, 2, id(1, 1)) && !granted.has(VOTER, 4, id(1, 1)));
        granted.note(NodeId(9), 4, id(2, 6));
        assert!(
            !granted.has(VOTER, 3, id(1, 1)) && !granted.has(VOTER, 4, id(1, 1)) && granted.has(NodeId(9), 4, id(2, 6))
        );
        granted.note(VOTER, 3, id(2, 6));
        assert!(!granted.has(VOTER, 3, id(1, 1)), "an answer that comes late");
    }
}
