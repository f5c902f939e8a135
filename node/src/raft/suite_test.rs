//! openraft's own suite for log stores, run over our journal. The state machine beside it is a plain one in memory, because
//! the suite installs snapshots of made-up membership.

use std::io;

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError};

use berth_shared::ids::ShardId;
use berth_shared::seam::Seams;

use super::log::ShardLog;
use super::{SimulatedRuntime, Types};
use crate::disk::SimulatedDisk;
use crate::journal::{Config, Journal};

type Tested = Types<SimulatedRuntime>;

#[derive(Clone, Debug, Default)]
struct MemoryMachine {
    applied: Option<LogIdOf<Tested>>,
    membership: StoredMembershipOf<Tested>,
    snapshot: Option<SnapshotMetaOf<Tested>>,
}

impl RaftStateMachine<Tested> for MemoryMachine {
    type SnapshotData = SnapshotMetaOf<Tested>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Tested>>, StoredMembershipOf<Tested>)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Tested>>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembershipOf::<Tested>::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(None);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        let snapshot = SnapshotMetaOf::<Tested> { last_log_id: self.applied, last_membership: self.membership.clone() };
        self.snapshot = Some(snapshot);
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Tested>, _: Self::SnapshotData) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Tested, Self::SnapshotData>>> {
        Ok(self.snapshot.clone().map(|meta| SnapshotOf::<Tested, _> { snapshot: meta.clone(), meta }))
    }
}

impl RaftSnapshotBuilder<Tested> for MemoryMachine {
    type SnapshotData = SnapshotMetaOf<Tested>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Tested, Self::SnapshotData>> {
        let built = self.get_current_snapshot().await?;
        built.ok_or_else(|| io::Error::other("the builder was made without a snapshot"))
    }
}

struct Builder;

impl StoreBuilder<Tested, ShardLog<SimulatedRuntime>, MemoryMachine, SimulatedDisk> for Builder {
    async fn build(&self) -> Result<(SimulatedDisk, ShardLog<SimulatedRuntime>, MemoryMachine), StorageError<Tested>> {
        let disk = SimulatedDisk::new();
        let journal = Journal::open(&disk, Config::default(), Seams::simulated(1)).await.unwrap();
        Ok((disk, ShardLog::new(ShardId(3), journal), MemoryMachine::default()))
    }
}

#[tokio::test]
async fn the_journal_passes_the_suite_for_log_stores() {
    Suite::test_all(Builder).await.unwrap();
}
