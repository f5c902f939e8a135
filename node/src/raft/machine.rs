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
use berth_shared::planted::{self, Bug};

use super::snapshot::{self, SnapshotHandle};
use super::{Proposal, Runtime, Types, encode_membership, from_raft};
use crate::shard::Shard;

/// Entries that are applied before others have a turn: whoever catches up has many at once, and nothing to wait for.
const APPLIED_AT_ONCE: usize = 64;

pub(super) struct ShardMachine<R> {
    shard: Arc<Shard>,
    /// The term of the newest blank entry that was applied.
    blank: watch::Sender<Term>,
    node: NodeId,
    sole_voter: Arc<AtomicBool>,
    /// Whether this node is a voter by the members that are applied.
    voter: Arc<AtomicBool>,
    /// Says, when this is dropped, that nothing is applied any more.
    _ended: DropGuard,
    runtime: PhantomData<R>,
}

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
        voter: Arc<AtomicBool>,
        ended: DropGuard,
    ) -> io::Result<Self> {
        let machine = Self { shard, blank, node, sole_voter, voter, _ended: ended, runtime: PhantomData };
        let (_, membership) = applied_state::<R>(&machine.shard)?;
        machine.note_members(membership.membership());
        Ok(machine)
    }

    fn note_members(&self, membership: &super::Membership) {
        let alone = membership.get_joint_config().iter().all(|voters| voters.iter().eq([&self.node.0]));
        self.sole_voter.store(alone && membership.voter_ids().next().is_some(), Ordering::Release);
        self.voter.store(membership.voter_ids().any(|voter| voter == self.node.0), Ordering::Release);
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
        let mut applied_at_once = 0;
        while let Some(item) = entries.next().await {
            applied_at_once += 1;
            if applied_at_once % APPLIED_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
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

    /// Returns when the snapshot is durable, because the log is purged up to it next.
    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types<R>>, data: SnapshotHandle) -> io::Result<()> {
        let SnapshotHandle::Received(staging) = data else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a shard is no snapshot of itself"));
        };
        self.shard.install(*staging).await.map_err(io::Error::other)?;
        self.note_members(meta.last_membership.membership());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types<R>, SnapshotHandle>>> {
        if self.shard.machine().head().applied.is_none() {
            return Ok(None);
        }
        current::<R>(&self.shard).map(Some)
    }
}

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Checkpointer<R> {
    type SnapshotData = SnapshotHandle;

    /// A checkpoint makes everything applied durable. The metadata is read before it, so it never says more than is durable.
    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types<R>, SnapshotHandle>> {
        let snapshot = current::<R>(&self.shard)?;
        if !planted::is(Bug::PurgePastCheckpoint) {
            self.shard.checkpoint().await?;
        }
        Ok(snapshot)
    }
}

fn current<R: Runtime>(shard: &Arc<Shard>) -> io::Result<SnapshotOf<Types<R>, SnapshotHandle>> {
    let meta = snapshot::meta::<R>(shard.machine().head())?;
    Ok(SnapshotOf::<Types<R>, SnapshotHandle> { meta, snapshot: SnapshotHandle::Ours(shard.clone()) })
}

type AppliedState<R> = (Option<LogIdOf<Types<R>>>, StoredMembershipOf<Types<R>>);

fn applied_state<R: Runtime>(shard: &Shard) -> io::Result<AppliedState<R>> {
    let meta = snapshot::meta::<R>(shard.machine().head())?;
    Ok((meta.last_log_id, meta.last_membership))
}
