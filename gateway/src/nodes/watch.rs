//! Whether requests can be routed at all: every shard has an owner, and some node is connected. A gateway that has lost all
//! nodes for a second should not be sent requests; that they come back quickly is the usual case and not worth a flap.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_shared::seam::Seams;

use super::Connections;

/// How often it is looked whether any node is connected.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// For how long no node must have been connected.
const LOST_AFTER: Duration = Duration::from_secs(1);

impl Connections {
    /// Whether requests can be routed, as it changes.
    pub(crate) fn routable(&self) -> tokio::sync::watch::Receiver<bool> {
        self.routable.subscribe()
    }

    pub(super) fn judge_routable(&self) {
        let routable = self.snapshot.load().table.is_complete() && !self.lost.load(Ordering::Relaxed);
        self.routable.send_if_modified(|known| std::mem::replace(known, routable) != routable);
    }
}

/// Looks as long as the connections live.
pub(super) async fn watch(connections: Weak<Connections>, seams: Seams) {
    let mut connected_at = seams.clock.now();
    loop {
        seams.spawner.sleep(LOOK_INTERVAL).await;
        let Some(connections) = connections.upgrade() else { return };
        let now = seams.clock.now();
        if connections.connected() > 0 {
            connected_at = now;
        }
        let lost = now.since(connected_at) >= LOST_AFTER;
        if connections.lost.swap(lost, Ordering::Relaxed) != lost {
            if lost {
                tracing::warn!("no node has been connected for a second; the gateway is not ready");
            }
            connections.judge_routable();
        }
    }
}
