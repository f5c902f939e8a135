//! A shard as the state machine of its group: applies entries in order, and makes checkpoints of the store its snapshots.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use berth_shared::ids::{NodeId, Term};

use super::{Proposal, Runtime, Types, decode_membership, encode_membership, from_raft, to_raft};
use crate::shard::Shard;

pub(super) struct ShardMachine<R> {
    shard: Arc<Shard>,
    /// The term of the newest blank entry that was applied.
    blank: watch::Sender<Term>,
    node: NodeId,
    sole_voter: Arc<AtomicBool>,
    /// Says, when this is dropped, that nothing is applied any more.
    _ended: DropGuard,
    runtime: PhantomData<R>,
}

/// Stands for the shard's rows in the store, which are the snapshot; they are read when it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SnapshotHandle;

pub(super) struct Checkpointer<R> {
    shard: Arc<Shard>,
    runtime: PhantomData<R>,
}

impl<R: Runtime> ShardMachine<R> {
    pub(super) fn new(
        node: NodeId,
        shard: Arc<Shard>,
        blank: watch::Sender<Term>,
        sole_voter: Arc<AtomicBool>,
        ended: DropGuard,
    ) -> io::Result<Self> {
        let machine = Self { shard, blank, node, sole_voter, _ended: ended, runtime: PhantomData };
        let (_, membership) = applied_state::<R>(&machine.shard)?;
        machine.note_members(membership.membership());
        Ok(machine)
    }

    fn note_members(&self, membership: &super::Membership) {
        let alone = membership.get_joint_config().iter().all(|voters| voters.iter().eq([&self.node.0]));
        self.sole_voter.store(alone && membership.voter_ids().next().is_some(), Ordering::Release);
    }
}

impl<R: Runtime> RaftStateMachine<Types<R>> for ShardMachine<R> {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Checkpointer<R>;

    async fn applied_state(&mut self) -> io::Result<AppliedState<R>> {
        applied_state::<R>(&self.shard)
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types<R>>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let log_id = from_raft(&entry.log_id);
            let applied = match entry.payload {
                EntryPayload::Normal(Proposal(batch)) => Some(self.shard.apply(log_id, &batch).await?),
                EntryPayload::Blank => {
                    self.shard.apply_blank(log_id).await?;
                    self.blank.send_replace(log_id.term);
                    None
                }
                EntryPayload::Membership(membership) => {
                    let members = encode_membership(&membership).map_err(io::Error::other)?;
                    self.note_members(&membership);
                    self.shard.apply_membership(log_id, members).await?;
                    None
                }
            };
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Checkpointer<R> {
        Checkpointer { shard: self.shard.clone(), runtime: PhantomData }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMetaOf<Types<R>>, _data: SnapshotHandle) -> io::Result<()> {
        // Only another member could send one, and the group has none.
        Err(io::Error::new(io::ErrorKind::Unsupported, "a group of one voter has nobody to get a snapshot from"))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types<R>, SnapshotHandle>>> {
        if self.shard.machine().head().applied.is_none() {
            return Ok(None);
        }
        snapshot::<R>(&self.shard).map(Some)
    }
}

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Checkpointer<R> {
    type SnapshotData = SnapshotHandle;

    /// A checkpoint makes everything applied durable. The metadata is read before it, so it never says more than is durable.
    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types<R>, SnapshotHandle>> {
        let snapshot = snapshot::<R>(&self.shard)?;
        self.shard.checkpoint().await?;
        Ok(snapshot)
    }
}

fn snapshot<R: Runtime>(shard: &Shard) -> io::Result<SnapshotOf<Types<R>, SnapshotHandle>> {
    let (last_log_id, last_membership) = applied_state::<R>(shard)?;
    let meta = SnapshotMetaOf::<Types<R>> { last_log_id, last_membership };
    Ok(SnapshotOf::<Types<R>, SnapshotHandle> { meta, snapshot: SnapshotHandle })
}

type AppliedState<R> = (Option<LogIdOf<Types<R>>>, StoredMembershipOf<Types<R>>);

fn applied_state<R: Runtime>(shard: &Shard) -> io::Result<AppliedState<R>> {
    let machine = shard.machine();
    let head = machine.head();
    let membership = match &head.membership.log_id {
        None => StoredMembershipOf::<Types<R>>::default(),
        Some(log_id) => {
            let members = decode_membership(&head.membership.bytes)?;
            StoredMembershipOf::<Types<R>>::new(Some(to_raft(*log_id)), members)
        }
    };
    Ok((head.applied.map(to_raft), membership))
}
