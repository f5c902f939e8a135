//! What the groups of one shard say to each other, encoded with postcard. Terms, votes and entries are spelt out here and not
//! taken from the consensus library, whose own encoding may change with its versions. Pure.
//!
//! A request travels inside [`crate::transport::wire::NodeRequest::Raft`], and its answer is an [`Answer`]. The bytes of a
//! batch are those that lie in the journal: they are written as they are, checked where they arrive, and share the memory
//! they were received in.
//!
//! A change of any type here is a change of the wire: raise [`berth_shared::peer::PROTOCOL_VERSION`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest,
};
use serde::{Deserialize, Serialize};

use berth_shared::ids::{LogId, LogIndex, NodeId, Term};

use super::{Proposal, RaftLogId, Runtime, Types, decode_membership, encode_membership, from_raft, to_raft};
use crate::record::Batch;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Request<'a> {
    /// Answered with [`Answer::Append`].
    #[serde(borrow)]
    Append(Append<'a>),
    /// Answered with [`Answer::Vote`].
    Vote(Campaign),
    /// Answered with [`Answer::Vote`]; changes nothing.
    PreVote(Campaign),
    /// Answered with [`Answer::Transfer`].
    Transfer(Transfer),
    /// A part of a snapshot, answered with [`Answer::SnapshotPart`] once it is taken, and the last one with
    /// [`Answer::Installed`] once all of it is the shard's durable content.
    #[serde(borrow)]
    Snapshot(SnapshotPart<'a>),
}

impl Request<'_> {
    /// The term that it was sent in, or asks for.
    pub(super) fn term(&self) -> Term {
        match self {
            Self::Append(append) => append.vote.term,
            Self::Vote(campaign) | Self::PreVote(campaign) => campaign.vote.term,
            Self::Transfer(transfer) => transfer.from.term,
            Self::Snapshot(part) => part.vote.term,
        }
    }

    /// Who sends it, by its own word.
    pub(super) fn sender(&self) -> NodeId {
        match self {
            Self::Append(append) => append.vote.node,
            Self::Vote(campaign) | Self::PreVote(campaign) => campaign.vote.node,
            Self::Transfer(transfer) => transfer.from.node,
            Self::Snapshot(part) => part.vote.node,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    Append(Appended),
    Vote {
        vote: Vote,
        granted: bool,
        last: Option<LogId>,
    },
    Transfer(Transferred),
    /// The part was taken.
    SnapshotPart,
    /// The vote that the receiver holds; where it is higher than the sender's, nothing was installed.
    Installed(Vote),
    /// This node hosts no group of the shard.
    NotHosted,
    /// The request was meant for another node.
    WrongNode,
    /// Not done, for a reason that people may want to read.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vote {
    pub(super) term: Term,
    pub(super) node: NodeId,
    /// Whether a quorum has granted it: the vote of a leader.
    pub(super) committed: bool,
}

/// A heartbeat when there are no entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Append<'a> {
    pub(super) vote: Vote,
    /// The entry before the first of `entries`.
    pub(super) previous: Option<LogId>,
    pub(super) committed: Option<LogId>,
    #[serde(borrow)]
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) level: Option<Level>,
}

/// What a leader says of how new its log is, for reads of its followers: whatever was acknowledged to a client longer ago than
/// this is among the entries up to `applied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Level {
    /// What the leader itself has applied.
    pub(super) applied: LogIndex,
    /// How long ago it sent what a quorum has answered since, so that nobody else can have led then.
    pub(super) age_micros: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry<'a> {
    pub(super) term: Term,
    pub(super) index: LogIndex,
    #[serde(borrow)]
    pub(super) payload: Payload<'a>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Payload<'a> {
    Blank,
    /// As laid out in [`crate::record`].
    Batch(&'a [u8]),
    /// Members as they lie in the journal.
    Membership(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Appended {
    Success,
    /// The entry before the first one is another here, or none.
    Conflict,
    HigherVote(Vote),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Campaign {
    pub(super) vote: Vote,
    /// The last entry of the candidate's log.
    pub(super) last: Option<LogId>,
    /// The leader itself has asked for this, so its lease is no reason to refuse.
    pub(super) leadership_transfer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) from: Vote,
    pub(super) to: NodeId,
    pub(super) last: Option<LogId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Transferred {
    Accepted,
    VoteChanged { expected: Vote, actual: Vote },
    NotFlushed { expected: Option<LogId>, actual: Option<LogId> },
}

/// Parts of one snapshot carry the same number, which the sender makes at random.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SnapshotPart<'a> {
    pub(super) stream: u64,
    pub(super) vote: Vote,
    /// In the store's encoding, which numbers the chunks and says which one is the last.
    pub(super) chunk: &'a [u8],
}

type RaftVote<R> = <Types<R> as openraft::RaftTypeConfig>::Vote;
type RaftEntry<R> = <Types<R> as openraft::RaftTypeConfig>::Entry;

impl Vote {
    pub(super) fn from_raft<R: Runtime>(vote: &RaftVote<R>) -> Self {
        let LeaderId { term, voted_for } = *vote.leader_id();
        Self { term, node: NodeId(voted_for), committed: vote.is_committed() }
    }

    pub(super) fn to_raft<R: Runtime>(self) -> RaftVote<R> {
        RaftVote::<R> { leader_id: LeaderId { term: self.term, voted_for: self.node.0 }, committed: self.committed }
    }
}

impl Campaign {
    pub(super) fn from_raft<R: Runtime>(request: &VoteRequest<Types<R>>) -> Self {
        Self {
            vote: Vote::from_raft::<R>(&request.vote),
            last: request.last_log_id.as_ref().map(from_raft),
            leadership_transfer: request.leadership_transfer,
        }
    }

    pub(super) fn to_raft<R: Runtime>(self) -> VoteRequest<Types<R>> {
        let mut request = VoteRequest::new(self.vote.to_raft::<R>(), self.last.map(to_raft));
        request.leadership_transfer = self.leadership_transfer;
        request
    }
}

impl Transfer {
    pub(super) fn from_raft<R: Runtime>(request: &TransferLeaderRequest<Types<R>>) -> Self {
        Self {
            from: Vote::from_raft::<R>(request.from_leader()),
            to: NodeId(*request.to_node_id()),
            last: request.last_log_id().map(from_raft),
        }
    }

    pub(super) fn to_raft<R: Runtime>(self) -> TransferLeaderRequest<Types<R>> {
        TransferLeaderRequest::new(self.from.to_raft::<R>(), self.to.0, self.last.map(to_raft))
    }
}

impl Transferred {
    pub(super) fn from_raft<R: Runtime>(response: &TransferLeaderResponse<Types<R>>) -> Self {
        let log_id = |id: &Option<RaftLogId>| id.as_ref().map(from_raft);
        match response {
            Ok(()) => Self::Accepted,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                let (expected, actual) = (Vote::from_raft::<R>(expected), Vote::from_raft::<R>(actual));
                Self::VoteChanged { expected, actual }
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Self::NotFlushed { expected: log_id(expected), actual: log_id(actual) }
            }
        }
    }

    pub(super) fn to_raft<R: Runtime>(self) -> TransferLeaderResponse<Types<R>> {
        match self {
            Self::Accepted => Ok(()),
            Self::VoteChanged { expected, actual } => {
                let (expected, actual) = (expected.to_raft::<R>(), actual.to_raft::<R>());
                Err(TransferLeaderError::VoteChanged { expected, actual })
            }
            Self::NotFlushed { expected, actual } => {
                let (expected, actual) = (expected.map(to_raft), actual.map(to_raft));
                Err(TransferLeaderError::LogNotFlushed { expected, actual })
            }
        }
    }
}

impl Answer {
    /// A sender that reads success counts all entries of its request as taken, so one that was taken in part is none. (The
    /// library takes a request as a whole today.)
    pub(super) fn from_append<R: Runtime>(response: &AppendEntriesResponse<Types<R>>) -> Self {
        Self::Append(match response {
            AppendEntriesResponse::Success => Appended::Success,
            AppendEntriesResponse::PartialSuccess(upto) => {
                let upto = upto.as_ref().map(from_raft);
                return Self::Failed(format!("entries were taken up to {upto:?} only"));
            }
            AppendEntriesResponse::Conflict => Appended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(Vote::from_raft::<R>(vote)),
        })
    }
}

/// Members of the entries that are membership changes, encoded; an [`Append`] borrows from them.
pub(super) fn memberships<R: Runtime>(request: &AppendEntriesRequest<Types<R>>) -> io::Result<Vec<Bytes>> {
    let of_entry = |entry: &RaftEntry<R>| match &entry.payload {
        EntryPayload::Membership(membership) => Some(encode_membership(membership).map_err(io::Error::other)),
        EntryPayload::Blank | EntryPayload::Normal(_) => None,
    };
    request.entries.iter().filter_map(of_entry).collect()
}

impl<'a> Append<'a> {
    /// `memberships` come from the function of that name.
    pub(super) fn from_raft<R: Runtime>(
        request: &'a AppendEntriesRequest<Types<R>>,
        memberships: &'a [Bytes],
        level: Option<Level>,
    ) -> Self {
        let mut memberships = memberships.iter();
        let entry = |entry: &'a RaftEntry<R>| {
            let LogId { term, index } = from_raft(&entry.log_id);
            let payload = match &entry.payload {
                EntryPayload::Blank => Payload::Blank,
                EntryPayload::Normal(Proposal(batch)) => Payload::Batch(batch.bytes()),
                EntryPayload::Membership(_) => Payload::Membership(memberships.next().map_or(&[][..], Bytes::as_ref)),
            };
            Entry { term, index, payload }
        };
        Self {
            vote: Vote::from_raft::<R>(&request.vote),
            previous: request.prev_log_id.as_ref().map(from_raft),
            committed: request.leader_commit.as_ref().map(from_raft),
            entries: request.entries.iter().map(entry).collect(),
            level,
        }
    }

    /// Checks every entry. `message` is what the request was decoded from; batches share its memory.
    pub(super) fn to_raft<R: Runtime>(&self, message: &Bytes) -> io::Result<AppendEntriesRequest<Types<R>>> {
        let first = self.previous.map_or(Some(0), |previous| previous.index.checked_add(1));
        let first =
            first.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "nothing can follow the last index"))?;
        let mut entries = Vec::with_capacity(self.entries.len());
        for (position, entry) in (0..).zip(&self.entries) {
            let expected = first.saturating_add(position);
            if entry.index != expected {
                let gap = format!("entry {} is not the one after {:?}", entry.index, expected.checked_sub(1));
                return Err(io::Error::new(io::ErrorKind::InvalidData, gap));
            }
            let payload = match entry.payload {
                Payload::Blank => EntryPayload::Blank,
                Payload::Batch(bytes) => {
                    let batch = Batch::decode(message.slice_ref(bytes)).map_err(io::Error::other)?;
                    EntryPayload::Normal(Proposal(Arc::new(batch)))
                }
                Payload::Membership(bytes) => EntryPayload::Membership(decode_membership(bytes)?),
            };
            let log_id = to_raft(LogId { term: entry.term, index: entry.index });
            entries.push(openraft::Entry { log_id, payload });
        }
        Ok(AppendEntriesRequest {
            vote: self.vote.to_raft::<R>(),
            prev_log_id: self.previous.map(to_raft),
            entries,
            leader_commit: self.committed.map(to_raft),
        })
    }
}

#[cfg(test)]
mod tests {
    use berth_shared::key::EntityKey;
    use berth_shared::peer;
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;
    use crate::raft::{Member, Membership, SimulatedRuntime};
    use crate::record::{EventBody, Fingerprint, KeyOrigin, Outcome, Record, RequestKey, Scope, Status};

    type Tested = SimulatedRuntime;

    fn batch() -> Batch {
        let record = Record {
            key: EntityKey::new("counter", "a").unwrap(),
            request: RequestKey { scope: Scope([1; 16]), fingerprint: Fingerprint([2; 16]), origin: KeyOrigin::Client },
            base_version: 3,
            time_micros: 4,
            outcome: Outcome { status: Status::Accepted, reply: Bytes::from_static(b"1"), reason: Bytes::new() },
            events: smallvec![EventBody {
                event_type: Bytes::from_static(b"added"),
                data: Bytes::from_static(br#"{"by":1}"#),
            }],
        };
        Batch::new(5, vec![record])
    }

    fn request() -> AppendEntriesRequest<Types<Tested>> {
        let members = [7, 8].map(|node| (node, Member { address: format!("node-{node}") }));
        let membership = Membership::new(vec![[7, 8].into()], std::collections::BTreeMap::from(members)).unwrap();
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal(Arc::new(batch()))),
            EntryPayload::Membership(membership),
        ];
        let entry = |(payload, index)| openraft::Entry { log_id: to_raft(LogId { term: 5, index }), payload };
        AppendEntriesRequest {
            vote: Vote { term: 5, node: NodeId(7), committed: true }.to_raft::<Tested>(),
            prev_log_id: Some(to_raft(LogId { term: 4, index: 9 })),
            entries: payloads.into_iter().zip(10..).map(entry).collect(),
            leader_commit: Some(to_raft(LogId { term: 4, index: 8 })),
        }
    }

    fn encoded() -> Bytes {
        let request = request();
        let members = memberships::<Tested>(&request).unwrap();
        peer::encode(&Request::Append(Append::from_raft::<Tested>(&request, &members, None))).unwrap()
    }

    fn arrived(message: &Bytes) -> io::Result<AppendEntriesRequest<Types<Tested>>> {
        match peer::decode(message).map_err(io::Error::other)? {
            Request::Append(append) => append.to_raft::<Tested>(message),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    #[test]
    fn entries_arrive_as_they_were_sent_without_a_copy() {
        let message = encoded();
        let arrived = arrived(&message).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{:?}", request()));
        let EntryPayload::Normal(Proposal(batch)) = &arrived.entries[1].payload else { panic!("{arrived:?}") };
        assert!(message.as_ptr_range().contains(&batch.bytes().as_ptr()), "its bytes are those of the message");
    }

    #[test]
    fn a_damaged_batch_is_refused() {
        let message = encoded();
        let batch = batch();
        let place = message.windows(batch.bytes().len()).position(|part| part == batch.bytes()).unwrap();
        for bit in 0..batch.bytes().len() * 8 {
            let mut damaged = message.to_vec();
            damaged[place + bit / 8] ^= 1 << (bit % 8);
            assert!(arrived(&damaged.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn entries_with_a_gap_are_refused() {
        let mut request = request();
        request.entries.remove(0);
        let members = memberships::<Tested>(&request).unwrap();
        let append = Append::from_raft::<Tested>(&request, &members, None);
        assert!(append.to_raft::<Tested>(&Bytes::new()).is_err());
    }

    #[test]
    fn votes_transfers_and_answers_arrive_as_they_were_sent() {
        let vote = Vote { term: 3, node: NodeId(7), committed: false };
        let last = Some(LogId { term: 2, index: 11 });
        let campaign = Campaign { vote, last, leadership_transfer: true };
        assert_eq!(Campaign::from_raft::<Tested>(&campaign.to_raft::<Tested>()), campaign);
        let transfer = Transfer { from: vote, to: NodeId(8), last };
        assert_eq!(Transfer::from_raft::<Tested>(&transfer.to_raft::<Tested>()), transfer);
        for transferred in [
            Transferred::Accepted,
            Transferred::VoteChanged { expected: vote, actual: Vote { committed: true, ..vote } },
            Transferred::NotFlushed { expected: last, actual: None },
        ] {
            assert_eq!(Transferred::from_raft::<Tested>(&transferred.to_raft::<Tested>()), transferred);
        }
    }

    #[test]
    fn nothing_follows_the_last_index_there_can_be() {
        let vote = Vote { term: 5, node: NodeId(7), committed: true };
        for (previous, index) in [(u64::MAX, 0), (u64::MAX - 1, u64::MAX)] {
            let entry = |index| Entry { term: 5, index, payload: Payload::Blank };
            let previous = Some(LogId { term: 5, index: previous });
            let append = Append { vote, previous, committed: None, entries: vec![entry(index), entry(0)], level: None };
            assert!(append.to_raft::<Tested>(&Bytes::new()).is_err());
        }
    }

    #[test]
    fn an_append_that_was_taken_in_part_is_no_success() {
        let last = to_raft(LogId { term: 2, index: 11 });
        for part in [None, Some(last)] {
            let answer = Answer::from_append::<Tested>(&AppendEntriesResponse::PartialSuccess(part));
            assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
        }
        let answer = Answer::from_append::<Tested>(&AppendEntriesResponse::Success);
        assert_eq!(answer, Answer::Append(Appended::Success));
    }

    proptest! {
        #[test]
        fn hostile_messages_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), of_append: bool) {
            if of_append {
                // Far enough into an append that its entries are read.
                bytes.splice(..0, encoded()[..20].iter().copied());
            }
            let _ = arrived(&Bytes::from(bytes));
        }
    }
}
