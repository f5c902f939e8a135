//! Keeps the journal small: when its live bytes pass a limit, the shards that hold most of them are compacted.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use berth_shared::ids::ShardId;
use berth_shared::seam::Seams;

use crate::journal::Journal;
use crate::shard::group::Group;

/// How often the journal's size is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// Until `shutdown`: whenever the journal's live bytes pass `compact_at`, the shards that hold half of them are compacted.
/// `group` gives the group of a shard that this node hosts.
pub(super) async fn run(
    journal: Journal,
    compact_at: u64,
    group: impl Fn(ShardId) -> Option<Arc<dyn Group>> + Send,
    seams: Seams,
    shutdown: CancellationToken,
) {
    while shutdown.run_until_cancelled(seams.spawner.sleep(INTERVAL)).await.is_some() {
        let live_bytes = journal.live_bytes();
        if live_bytes < compact_at {
            continue;
        }
        let mut compacted = 0;
        for size in journal.shard_sizes() {
            if compacted >= live_bytes / 2 || size.bytes == 0 {
                break;
            }
            compacted += size.bytes;
            if let Some(group) = group(size.shard) {
                group.compact().await;
            }
        }
    }
}
