//! A replica is two things on disk, a log in the journal and content in the store, in two files that no commit spans. This is
//! where both go together: which replicas there are, and how one is deleted as a whole.
//!
//! No order of the two alone would do. A store that has applied entries without a journal is taken, at a start, for one that
//! has lost its journal; and a journal that was purged without a store for one that has lost its store. Both are refused,
//! because that is what they mean after a failure of a disk. So a mark in the journal comes first, on disk before anything
//! is deleted: from there on there is no replica, whatever is still to be seen of it. Then the store's content goes, then the
//! journal's, and with the last of it the mark. A start finishes what has its mark before it does anything else.
//!
//! Only a node that is no member of the shard's group any more may delete its replica: the group's leader must have said so,
//! of a membership that is committed, and the group must have stopped here. What the replica had promised its group stays
//! even so; see the journal's section on deletion.

use std::io;

use berth_shared::ids::ShardId;

use crate::journal::Journal;
use crate::store::{self, Store};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the log of shard {shard} is not deleted: {source}")]
    Journal { shard: ShardId, source: io::Error },
    #[error("the content of shard {shard} is not deleted: {source}")]
    Store { shard: ShardId, source: store::Error },
}

/// The shards of which this node has a replica, ascending. [`finish_deletions`] comes first.
pub fn replicas(journal: &Journal, store: &Store) -> Vec<ShardId> {
    let mut shards = [journal.shards(), store.shards()].concat();
    shards.sort_unstable();
    shards.dedup();
    shards
}

/// Deletes this node's replica of `shard`, if it has one. When this returns the replica is gone for good, and the shard may be
/// hosted here anew, blank. After an error, or when this future is dropped, some of it may be left: calling this again
/// goes on, and so does the next start.
pub async fn delete_replica(journal: &Journal, store: &Store, shard: ShardId) -> Result<(), Error> {
    let applied = store.shard_head(shard).and_then(|head| head.applied);
    journal.begin_delete(shard, applied).await.map_err(|source| Error::Journal { shard, source })?;
    delete_marked(journal, store, shard).await
}

/// At the start, before any replica is taken up: deletes what was being deleted when the node stopped. Returns the shards.
pub async fn finish_deletions(journal: &Journal, store: &Store) -> Result<Vec<ShardId>, Error> {
    let shards = journal.deleting();
    for shard in &shards {
        delete_marked(journal, store, *shard).await?;
    }
    Ok(shards)
}

async fn delete_marked(journal: &Journal, store: &Store, shard: ShardId) -> Result<(), Error> {
    store.delete(shard).await.map_err(|source| Error::Store { shard, source })?;
    journal.delete(shard).await.map_err(|source| Error::Journal { shard, source })
}
