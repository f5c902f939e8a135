//! By when members have acknowledged that this replica leads, by our own count. The library's is too new at times: it keeps
//! the moments at which appends were made, and takes the answer to one for the answer to every later one that ends at the same
//! entry, such as one without entries that has not even been sent. That is harmless while answers come soon; but the answer
//! that was under way while this node was stopped would make a lease for another half second, long after another replica was
//! elected.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::sync::watch;

use berth_shared::ids::{NodeId, Term};
use berth_shared::seam::BootInstant;

/// What the members of one group have answered.
#[derive(Debug)]
pub(super) struct Acknowledged {
    newest: Mutex<Newest>,
    changed: watch::Sender<()>,
}

/// Of one term only: a leader needs no other. So there are as many as members have been asked in it.
#[derive(Debug, Default)]
struct Newest {
    term: Term,
    /// When the newest append was sent that the member has answered.
    sent: BTreeMap<NodeId, BootInstant>,
}

impl Acknowledged {
    pub(super) fn new() -> Self {
        Self { newest: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// The member has answered an append of the leader of `term` that was sent at `sent` or later, and followed it.
    pub(super) fn note(&self, member: NodeId, term: Term, sent: BootInstant) {
        let is_awaited = {
            let mut newest = self.newest.lock();
            if term < newest.term {
                return;
            }
            if term > newest.term {
                *newest = Newest { term, sent: BTreeMap::new() };
            }
            let before = newest.sent.entry(member).or_insert(sent);
            *before = sent.max(*before);
            // Seldom, and to tell nobody costs something too. Who asks for changes after this sees this one.
            self.changed.receiver_count() > 0
        };
        if is_awaited {
            self.changed.send_replace(());
        }
    }

    /// The latest time such that a majority of each of `configurations` has answered something that `leader` sent then, or
    /// later, as the leader of `term`. Itself it need not ask.
    pub(super) fn quorum(&self, term: Term, leader: NodeId, configurations: &[BTreeSet<u64>]) -> Option<BootInstant> {
        let newest = self.newest.lock();
        let sent = |voter: &u64| match NodeId(*voter) {
            voter if voter == leader => Some(BootInstant(u64::MAX)),
            voter if newest.term == term => newest.sent.get(&voter).copied(),
            _ => None,
        };
        let majority = |voters: &BTreeSet<u64>| {
            let mut times: Vec<Option<BootInstant>> = voters.iter().map(sent).collect();
            times.sort_unstable();
            // Nobody's answer is the least, so a majority is at or above the one in the middle, the lower of two.
            *times.get((times.len().checked_sub(1)?) / 2)?
        };
        configurations.iter().map(majority).try_fold(BootInstant(u64::MAX), |least, time| Some(least.min(time?)))
    }

    /// When the newest append was sent that each member has answered to the leader of `term`.
    pub(super) fn answered(&self, term: Term) -> BTreeMap<NodeId, BootInstant> {
        let newest = self.newest.lock();
        if newest.term == term { newest.sent.clone() } else { BTreeMap::new() }
    }

    /// Told of every answer after this call.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: NodeId = NodeId(1);

    fn voters<const N: usize>(ids: [u64; N]) -> BTreeSet<u64> {
        BTreeSet::from(ids)
    }

    fn noted(answers: &[(u64, Term, u64)]) -> Acknowledged {
        let acknowledged = Acknowledged::new();
        answers.iter().for_each(|(member, term, sent)| acknowledged.note(NodeId(*member), *term, BootInstant(*sent)));
        acknowledged
    }

    #[test]
    fn a_majority_counts_from_the_oldest_answer_that_it_needs() {
        let quorum = |answers, voters| noted(answers).quorum(7, OURS, &[voters]).map(|at| at.0);
        assert_eq!(quorum(&[], voters([1, 2, 3])), None);
        assert_eq!(quorum(&[(2, 7, 50)], voters([1, 2, 3])), Some(50), "ours and one more");
        assert_eq!(quorum(&[(2, 7, 50), (3, 7, 60)], voters([1, 2, 3])), Some(60));
        assert_eq!(quorum(&[(2, 7, 50), (3, 7, 60)], voters([1, 2, 3, 4, 5])), Some(50));
        assert_eq!(quorum(&[(2, 7, 50)], voters([1, 2, 3, 4])), None, "two of four are no majority");
        assert_eq!(quorum(&[(2, 7, 50), (3, 7, 60)], voters([1, 2, 3, 4])), Some(50));
        assert_eq!(quorum(&[(2, 7, 50), (3, 7, 60)], voters([2, 3, 4])), Some(50), "a leader that is no voter");
        assert_eq!(quorum(&[(9, 7, 50)], voters([1, 2, 3])), None, "who is no voter does not count");
        assert_eq!(quorum(&[], voters([1])), Some(u64::MAX), "alone it needs nobody");
    }

    #[test]
    fn both_configurations_of_a_change_must_agree() {
        let acknowledged = noted(&[(2, 7, 50), (4, 7, 40)]);
        let both = [voters([1, 2, 3]), voters([1, 4, 5])];
        assert_eq!(acknowledged.quorum(7, OURS, &both), Some(BootInstant(40)));
        assert_eq!(acknowledged.quorum(7, OURS, &[voters([1, 2, 3]), voters([3, 5, 6])]), None);
    }

    #[test]
    fn answers_count_in_their_term_and_never_make_it_older() {
        let three = [voters([1, 2, 3])];
        let acknowledged = noted(&[(2, 7, 50), (2, 7, 30), (2, 6, 90)]);
        assert_eq!(acknowledged.quorum(7, OURS, &three), Some(BootInstant(50)));
        assert_eq!(acknowledged.quorum(6, OURS, &three), None);
        acknowledged.note(NodeId(3), 8, BootInstant(70));
        assert_eq!(acknowledged.quorum(7, OURS, &three), None);
        assert_eq!(acknowledged.quorum(8, OURS, &three), Some(BootInstant(70)));
    }
}
