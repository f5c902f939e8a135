//! Measures how many entries per second the journal takes, with concurrent appenders that each wait for the disk:
//! `cargo run --release -p berth-node --example journal_rate [directory] [appenders] [seconds]`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use berth_node::disk::DirectoryDisk;
use berth_node::journal::{Config, Entry, Journal, Payload};
use berth_shared::ids::{LogId, ShardId};
use berth_shared::seam::Seams;

/// Entries between two purges of a shard.
const PURGE_EVERY: u64 = 10_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("berth-journal-rate");
    let appenders: u16 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;

    let seams = Seams::system();
    let disk = DirectoryDisk::open(&directory)?;
    let journal = Journal::open(&disk, Config::default(), seams.clone()).await?;
    let appended = Arc::new(AtomicU64::new(0));
    let slowest_nanos = Arc::new(AtomicU64::new(0));
    let start = seams.clock.now();
    let end = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..appenders)
        .map(|shard| {
            let (journal, seams, appended) = (journal.clone(), seams.clone(), appended.clone());
            let slowest_nanos = slowest_nanos.clone();
            seams.spawner.spawn(async move {
                let shard = ShardId(shard);
                let mut index = journal.log_state(shard).last.map_or(0, |last| last.index + 1);
                while seams.clock.now() < end {
                    let before = seams.clock.now();
                    append(&journal, shard, index).await?;
                    slowest_nanos.fetch_max(seams.clock.now().since(before).as_nanos() as u64, Ordering::Relaxed);
                    index += 1;
                    appended.fetch_add(1, Ordering::Relaxed);
                    // The shards take turns, as a node's scheduler has them do.
                    if (index + u64::from(shard.0) * PURGE_EVERY / 64).is_multiple_of(PURGE_EVERY) {
                        journal.purge(shard, LogId { term: 1, index: index.saturating_sub(100) }).await?;
                    }
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let elapsed = seams.clock.now().since(start);
    let appended = appended.load(Ordering::Relaxed);
    println!("{appended} entries in {elapsed:?}: {:.0} per second", appended as f64 / elapsed.as_secs_f64());
    println!("slowest append {:?}", Duration::from_nanos(slowest_nanos.load(Ordering::Relaxed)));
    println!("{} bytes live, {} bytes of file", journal.live_bytes(), journal.file_bytes());
    journal.close().await;
    Ok(())
}

/// Appends an entry of 200 bytes and waits until it is on disk.
async fn append(journal: &Journal, shard: ShardId, index: u64) -> anyhow::Result<()> {
    let (sender, receiver) = oneshot::channel();
    let entry = Entry { log_id: LogId { term: 1, index }, payload: Payload::Membership(Bytes::from_static(&[7; 200])) };
    let done = Box::new(|result| {
        let _ = sender.send(result);
    });
    journal.append(shard, vec![entry], done).await?;
    Ok(receiver.await??)
}
