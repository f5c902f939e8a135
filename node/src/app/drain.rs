//! How a node gives everything away before it ends: it says that it leaves, the plan leaves it out, owners move their shards
//! elsewhere, and when it hosts nothing it may end. It never ends by itself before that, however long it takes: a node that
//! nobody can take over from is needed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use berth_shared::seam::Seams;

use super::place::Place;
use super::stages::Stage;

/// How often it is looked whether anything is left.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is said what is left.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// Says from now on that the node leaves.
pub(super) fn begin(place: &Place, stage: &watch::Sender<Stage>) {
    place.leaves.store(true, Ordering::Relaxed);
    tracing::info!(node = %place.identity.node, replicas = place.replica_count(), "the node leaves");
    // Whoever follows the stage looks at it again, and tells the others.
    stage.send_modify(|_| {});
}

/// Returns when the node hosts nothing and no plan that it knows gives it anything. A node that has not found a cluster yet
/// has nothing to give away, unless it `has_data` of an earlier start: it has to take that up before it can tell.
pub(super) async fn until_empty(mut stage: watch::Receiver<Stage>, has_data: bool, deadline: Duration, seams: Seams) {
    let can_tell = stage.wait_for(|stage| match stage {
        Stage::Alone => !has_data,
        Stage::Joined(place) => !has_data && !founds(place),
        Stage::Hosting(_) | Stage::Stopping(_) => true,
    });
    let Some(place) = can_tell.await.ok().and_then(|stage| stage.place().cloned()) else { return };
    let began = seams.clock.now();
    let (mut said, mut is_late) = (began, false);
    loop {
        let left = left(&place);
        if left == 0 {
            tracing::info!(node = %place.identity.node, "the node has nothing left");
            return;
        }
        let now = seams.clock.now();
        if !is_late && now.since(began) >= deadline {
            is_late = true;
            tracing::warn!(
                node = %place.identity.node,
                left,
                "the node should have left by now (cluster.drain_deadline): it serves on until others can take over, or it is \
                 told to stop a second time"
            );
        } else if now.since(said) >= SAY_INTERVAL {
            said = now;
            tracing::info!(node = %place.identity.node, left, "the node still has replicas or a place in the plan");
        }
        seams.spawner.sleep(LOOK_INTERVAL).await;
    }
}

/// Whether groups of a new cluster count on this node, which has not begun them all yet.
fn founds(place: &Place) -> bool {
    place.identity.record().is_some() && !place.identity.founded
}

/// Replicas that are here, or should be.
fn left(place: &Arc<Place>) -> usize {
    let planned = place.plans.newest().map_or(0, |plan| plan.hosted_by(place.identity.node).len());
    place.replica_count().max(planned)
}
