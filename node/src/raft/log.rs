//! The journal as the log store of one group.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::alias::{LogIdOf, VoteOf};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};

use berth_shared::ids::{LogIndex, NodeId, ShardId};

use super::{Proposal, Runtime, Types, decode_membership, encode_membership, from_raft, to_raft};
use crate::journal::{Entry, Journal, Payload, Vote};

/// Bytes of entries read at once for replication: one append, which must fit into one frame between nodes, and should not keep
/// others waiting on the same connection. A larger entry goes alone.
const READ_BYTES_MAX: u64 = 256 << 10;

#[derive(Debug)]
pub(super) struct ShardLog<R> {
    shard: ShardId,
    journal: Journal,
    runtime: PhantomData<R>,
}

type RaftEntry<R> = <Types<R> as openraft::RaftTypeConfig>::Entry;

impl<R: Runtime> ShardLog<R> {
    pub(super) fn new(shard: ShardId, journal: Journal) -> Self {
        Self { shard, journal, runtime: PhantomData }
    }
}

impl<R: Runtime> RaftLogReader<Types<R>> for ShardLog<R> {
    async fn try_get_log_entries<B: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: B,
    ) -> io::Result<Vec<RaftEntry<R>>> {
        let start: LogIndex = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end: LogIndex = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => LogIndex::MAX,
        };
        let entries = self.journal.entries(self.shard, start..end).await?;
        entries.into_iter().map(to_raft_entry::<R>).collect()
    }

    /// At most [`READ_BYTES_MAX`], so that catching up from far behind takes bounded memory. None where the first of them is
    /// purged already, which the library takes for nothing to send: the member gets a snapshot next.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry<R>>> {
        let entries = self.journal.entries_within(self.shard, start..end, READ_BYTES_MAX).await?;
        if entries.first().is_some_and(|first| first.log_id.index != start) {
            return Ok(Vec::new());
        }
        entries.into_iter().map(to_raft_entry::<R>).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types<R>>>> {
        Ok(self.journal.vote(self.shard).map(|vote| {
            if vote.committed {
                VoteOf::<Types<R>>::new_committed(vote.term, vote.node.0)
            } else {
                VoteOf::<Types<R>>::new(vote.term, vote.node.0)
            }
        }))
    }
}

impl<R: Runtime> RaftLogStorage<Types<R>> for ShardLog<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<R>>> {
        let state = self.journal.log_state(self.shard);
        Ok(LogState { last_purged_log_id: state.last_purged.map(to_raft), last_log_id: state.last.map(to_raft) })
    }

    async fn get_log_reader(&mut self) -> Self {
        Self::new(self.shard, self.journal.clone())
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types<R>>) -> io::Result<()> {
        let leader = vote.leader_id();
        let vote = Vote { term: leader.term, node: NodeId(leader.voted_for), committed: vote.is_committed() };
        // What must not be forgotten is whom we have voted for in a term. That this one was elected is known again from its
        // next message; and where an entry of the term is on disk, so is this.
        if vote.committed && self.journal.vote(self.shard) == Some(Vote { committed: false, ..vote }) {
            return self.journal.commit_vote(self.shard);
        }
        self.journal.save_vote(self.shard, vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types<R>>>) -> io::Result<()> {
        self.journal.save_committed(self.shard, committed.as_ref().map(from_raft));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<Types<R>>>> {
        Ok(self.journal.committed(self.shard).map(to_raft))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry<R>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(from_raft_entry::<R>).collect::<io::Result<Vec<_>>>()?;
        let done = Box::new(move |result| callback.io_completed(result));
        self.journal.append(self.shard, entries, done).await
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types<R>>>) -> io::Result<()> {
        self.journal.truncate_after(self.shard, last.as_ref().map(from_raft)).await
    }

    async fn purge(&mut self, upto: LogIdOf<Types<R>>) -> io::Result<()> {
        self.journal.purge(self.shard, from_raft(&upto)).await
    }
}

fn to_raft_entry<R: Runtime>(entry: Entry) -> io::Result<RaftEntry<R>> {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Batch(batch) => EntryPayload::Normal(Proposal(batch)),
        Payload::Membership(bytes) => EntryPayload::Membership(decode_membership(&bytes)?),
    };
    Ok(openraft::Entry { log_id: to_raft(entry.log_id), payload })
}

fn from_raft_entry<R: Runtime>(entry: RaftEntry<R>) -> io::Result<Entry> {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(Proposal(batch)) => Payload::Batch(batch),
        EntryPayload::Membership(membership) => {
            Payload::Membership(encode_membership(&membership).map_err(io::Error::other)?)
        }
    };
    Ok(Entry { log_id: from_raft(&entry.log_id), payload })
}
