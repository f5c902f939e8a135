//! The flusher: the one task that writes the store's file. It writes what has gathered in batches that need no fsync, and
//! checkpoints: all of it at once durable, once the journal has everything that went into it. In between it clears away rows
//! that are no shard's content any more. Rows of snapshots that are being received are written beside it, by who receives.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::watch;

use berth_shared::ids::ShardId;

use super::layer::Layer;
use super::model::{Checkpointed, ShardHead};
use super::queue::{CheckpointTask, Step};
use super::{Error, Shared, file, generation};

/// Runs until the store is closed, dropped or broken. A panic breaks it.
pub(super) async fn run(shared: Arc<Shared>, ended: watch::Sender<bool>) {
    match AssertUnwindSafe(steps(&shared)).catch_unwind().await {
        Ok(Ok(())) => {}
        // The journal has said what is wrong and what comes of it. The file stays as it is: see `Abandon`.
        Ok(Err(Error::Journal(error))) => {
            tracing::error!(%error, "the store stops: the journal cannot confirm what a checkpoint would hold");
            shared.stop("the journal has failed or is closed");
        }
        Ok(Err(error)) => shared.fail(error),
        Err(_) => shared.fail(Error::Stopped("the task that writes it panicked".into())),
    }
    ended.send_replace(true);
}

async fn steps(shared: &Arc<Shared>) -> Result<(), Error> {
    loop {
        let step = shared.queue.lock().next_step(shared.seams.clock.now(), &shared.config);
        match step {
            Step::Wait(None) => shared.work.notified().await,
            Step::Wait(Some(duration)) => {
                let _ = shared.seams.spawner.timeout(duration, shared.work.notified()).await;
            }
            Step::Flush => flush(shared).await?,
            Step::Checkpoint => checkpoint(shared).await?,
            Step::Clear(shard, generation) => clear(shared, shard, generation).await?,
            Step::Close => return close(shared).await,
            Step::Stop => return Ok(()),
        }
    }
}

async fn flush(shared: &Arc<Shared>) -> Result<(), Error> {
    let layer = shared.queue.lock().take_to_write();
    match layer {
        Some(layer) => write(shared, layer).await,
        None => Ok(()),
    }
}

async fn write(shared: &Arc<Shared>, layer: Arc<Layer>) -> Result<(), Error> {
    let blocking = shared.clone();
    let work = move || blocking.with_database(|database| file::write(database, &layer));
    let written = shared.seams.spawner.blocking(work).await?;
    let layer = shared.queue.lock().written();
    drop(layer);
    shared.progress.notify_waiters();
    shared.counters.count_flush(written);
    Ok(())
}

/// Makes everything that has come until now durable.
///
/// The order matters: first the content is fixed and written, then the journal confirms that it has flushed what it was
/// given until then, which includes the log entries of that content, and only then does the content become durable.
/// A store whose applied entries were missing in the journal could not start.
///
/// Staged generations become content in that same commit, and empty ones that of deleted shards. What they hold is not in the journal, but what the journal was
/// given about them is: the vote for whom they come from, and the removal of entries that contradict them.
async fn checkpoint(shared: &Arc<Shared>) -> Result<(), Error> {
    let CheckpointTask { dirty, layer, requests, waiters, checkpointed } = shared.queue.lock().begin_checkpoint();
    let heads: BTreeMap<_, _> = requests.iter().map(|request| (request.shard, request.head.clone())).collect();
    let made = if dirty { make_durable(shared, layer, heads, checkpointed).await } else { Ok(checkpointed) };
    if made.is_ok() {
        let mut queue = shared.queue.lock();
        for deleted in requests.iter().filter(|request| request.is_deletion) {
            queue.publish(deleted.shard);
        }
    }
    for waiter in waiters {
        // Who does not wait any more does not mind.
        let _ = waiter.send(made.clone());
    }
    for request in requests {
        let _ = request.answer.send(made.clone().map(drop));
    }
    made.map(drop)
}

async fn make_durable(
    shared: &Arc<Shared>,
    layer: Option<Arc<Layer>>,
    heads: BTreeMap<ShardId, ShardHead>,
    checkpointed: Checkpointed,
) -> Result<Checkpointed, Error> {
    let started = shared.seams.clock.now();
    if let Some(layer) = layer {
        write(shared, layer).await?;
    }
    (shared.journal_flushed)().await.map_err(|error| Error::Journal(Arc::new(error)))?;
    let blocking = shared.clone();
    shared
        .seams
        .spawner
        .blocking(move || blocking.with_database(|database| generation::sync(database, &heads)))
        .await?;
    shared.queue.lock().finish_checkpoint(checkpointed.clone());
    shared.counters.count_checkpoint(shared.seams.clock.now().since(started));
    Ok(checkpointed)
}

/// Deletes some rows that are no shard's content, and lets others have their turn.
async fn clear(shared: &Arc<Shared>, shard: ShardId, generation: u32) -> Result<(), Error> {
    let blocking = shared.clone();
    let work = move || blocking.with_database(|database| generation::clear(database, shard, generation));
    let cleared = shared.seams.spawner.blocking(work).await?;
    let now = shared.seams.clock.now();
    shared.queue.lock().cleared(shard, generation, cleared.bytes as u64, cleared.is_all, now);
    shared.progress.notify_waiters();
    tokio::task::yield_now().await;
    Ok(())
}

async fn close(shared: &Arc<Shared>) -> Result<(), Error> {
    checkpoint(shared).await?;
    shared.stop("it was closed");
    let blocking = shared.clone();
    shared.seams.spawner.blocking(move || blocking.close_database()).await
}
