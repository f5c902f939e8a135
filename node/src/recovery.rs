//! What an operator can do about a shard that has lost its quorum for good: make the replica that is left on this node the
//! group's only member, as it is. This breaks the promise that an acknowledged write is not lost, if a write was on the disks
//! that are gone and not on this one; so it is never done without an operator who has been told by [`Survivor`] what this
//! replica has.
//!
//! The replica's group must have stopped. Everything that its log holds stays, whether or not it was ever committed: what was
//! acknowledged may be among it. Two entries follow, written to the journal in one transaction, so that a crash leaves both or
//! none: the new membership, and a batch that begins the next *incarnation* of the shard. When the group is started again, it
//! elects itself, as its only voter, and applies all of that like anything else. Members that it gets later have the
//! incarnation by the log or in a snapshot, like all else. Session tokens of before name another incarnation, so nobody takes
//! an index of before for one of after.
//!
//! Terms tell incarnations apart: each recovery begins a new block of them, far above any term that the replica has seen,
//! because members that are gone may have seen later ones than it has. Members of before may come back all the same, with
//! entries that contradict those of the new incarnation and a majority of the old membership. They learn no term of the new
//! block, because a replica does not answer messages of an earlier incarnation ([`is_of_earlier_incarnation`]); so they cannot
//! depose anybody in it, and wherever terms are compared they come second. They must not serve either: their replicas are to
//! be stopped and deleted as soon as they see a later block.

pub mod survey;

use std::io;

use berth_shared::ids::{LogId, LogIndex, NodeId, ShardId, Term};

use crate::journal::{Entry, Journal, LogState, Payload, Vote};
use crate::raft;
use crate::record::Batch;
use crate::store::{ShardHead, Store};

/// Terms of one block, as a power of two: more elections than one incarnation ever holds. The consensus adapter takes terms
/// up to 2³² above its own, so a new member understands some thousands of incarnations.
const BLOCK_BITS: u32 = 20;
/// Bytes of the log that are read at once.
const READ_BYTES_MAX: u64 = 1 << 20;

/// A replica as it is before a recovery: what an operator confirms. What the group has acknowledged after `last` is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The last entry of its log.
    pub last: LogId,
    /// The last entry that its store holds. The later ones are applied when the group is started, though it may not be known
    /// whether they were ever committed.
    pub applied: Option<LogId>,
    /// The shard's time at `last`: when its last write was decided, about. Microseconds since 1970.
    pub shard_time_micros: u64,
    /// How often the shard was recovered before.
    pub incarnation: u32,
}

/// What a recovery has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// What the replica was.
    pub survivor: Survivor,
    /// The incarnation that begins when the group is started.
    pub incarnation: u32,
    /// The entry that begins it: the last one of the log now.
    pub last: LogId,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this node has no replica of shard {0}")]
    Absent(ShardId),
    /// It was looked at, and confirmed by an operator, as it is no more.
    #[error("the replica of shard {shard} has entries up to {found:?}, and {confirmed:?} was confirmed")]
    Changed { shard: ShardId, found: LogId, confirmed: LogId },
    #[error(
        "shard {shard} cannot be recovered: its store holds entries up to {applied:?}, and its journal from {log:?}"
    )]
    Unsound { shard: ShardId, applied: Option<LogId>, log: LogState },
    #[error("shard {shard} is not recovered: {source}")]
    Journal { shard: ShardId, source: io::Error },
}

/// What this node's replica of `shard` has. Its group may be running.
pub async fn survivor(journal: &Journal, store: &Store, shard: ShardId) -> Result<Survivor, Error> {
    let head = store.shard_head(shard).unwrap_or_default();
    let ShardHead { applied, shard_time_micros, incarnation, .. } = head;
    let log = journal.log_state(shard);
    let is_ahead = applied > log.last && !head.is_as_installed();
    if is_ahead || log.last_purged > applied {
        return Err(Error::Unsound { shard, applied, log });
    }
    let last = log.last.max(applied).ok_or(Error::Absent(shard))?;
    let survivor = Survivor { last, applied, shard_time_micros, incarnation };
    with_tail(journal, shard, survivor).await.map_err(|source| Error::Journal { shard, source })
}

/// Makes this node's replica of `shard`, whose group has stopped, the only member of a new incarnation. `only_voter` is this
/// node. `confirmed` is the `last` of the [`Survivor`] that the operator has seen. When this returns it is on disk, and the
/// group can be started, like that of any replica that has a log.
///
/// After an error, or a crash, the replica is as it was, or recovered. To recover it again does no harm either: it begins one
/// more incarnation.
pub async fn recover(
    journal: &Journal,
    store: &Store,
    shard: ShardId,
    only_voter: (NodeId, &str),
    confirmed: LogId,
) -> Result<Recovered, Error> {
    let survivor = survivor(journal, store, shard).await?;
    if survivor.last != confirmed {
        return Err(Error::Changed { shard, found: survivor.last, confirmed });
    }
    let failed = |source: io::Error| Error::Journal { shard, source };
    if survivor.applied > journal.log_state(shard).last {
        // A snapshot came, and the power went before the log was purged up to it: the next start would do that.
        journal.purge(shard, survivor.last).await.map_err(failed)?;
    }
    let (node, address) = only_voter;
    let seen = journal.vote(shard).map_or(0, |vote| vote.term).max(survivor.last.term);
    let term = (block(seen) + 1) << BLOCK_BITS;
    let incarnation = survivor.incarnation.saturating_add(1);
    let [members, begins] = [1, 2].map(|offset| LogId { term, index: survivor.last.index + offset });
    let membership = Payload::Membership(raft::sole_voter(node, address).map_err(failed)?);
    let batch = Payload::Batch(Batch::of_incarnation(term, incarnation).into());
    let entries = vec![Entry { log_id: members, payload: membership }, Entry { log_id: begins, payload: batch }];
    // As the leader of that term would have written them.
    let vote = Vote { term, node, committed: true };
    journal.append_and_vote(shard, entries, vote).await.map_err(failed)?;
    tracing::warn!(%shard, incarnation, last = ?survivor.last, "a shard without its quorum is recovered from this replica alone");
    Ok(Recovered { survivor, incarnation, last: begins })
}

/// Whether a term is of an earlier incarnation of a shard than another term of it. Who has seen the later one does not answer
/// messages of the earlier.
pub fn is_of_earlier_incarnation(term: Term, than: Term) -> bool {
    block(term) < block(than)
}

fn block(term: Term) -> u64 {
    term >> BLOCK_BITS
}

/// With what the log says that is not applied yet.
async fn with_tail(journal: &Journal, shard: ShardId, mut survivor: Survivor) -> io::Result<Survivor> {
    let mut next = survivor.applied.map_or(0, |applied| applied.index + 1);
    loop {
        let entries = journal.entries_within(shard, next..LogIndex::MAX, READ_BYTES_MAX).await?;
        let Some(last) = entries.last() else { return Ok(survivor) };
        next = last.log_id.index + 1;
        for entry in &entries {
            let Payload::Batch(batch) = &entry.payload else { continue };
            let newest = batch.records().iter().map(|record| record.time_micros).max().unwrap_or(0);
            survivor.shard_time_micros = survivor.shard_time_micros.max(newest);
            survivor.incarnation = survivor.incarnation.max(batch.incarnation().unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_of_a_recovered_shard_is_of_a_later_incarnation_than_any_before() {
        let begins = |seen| (block(seen) + 1) << BLOCK_BITS;
        for seen in [0, 1, 700, (1 << 20) - 1, 1 << 20, (5 << 20) + 3] {
            let begun = begins(seen);
            assert!(is_of_earlier_incarnation(seen, begun) && !is_of_earlier_incarnation(begun, seen));
            // What members that are gone may have seen, and what is held later.
            assert!(is_of_earlier_incarnation(seen | 0xf_ffff, begun + 50));
            assert!(!is_of_earlier_incarnation(begun, begun + 50));
        }
    }
}
