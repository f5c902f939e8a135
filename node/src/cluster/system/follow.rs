//! Reads the plan from what the local replica of the system shard has applied.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::seam::Seams;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Error, plan_key};
use crate::cluster::plan::Plan;
use crate::cluster::plans::Plans;
use crate::entity::Entity;
use crate::shard::Shard;

/// How often the replica is asked whether it has applied more. It costs a lock.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Offers `plans` whatever the local replica has applied, until `shutdown`: that of the node, or of the replica where it is
/// removed before.
pub fn follow(shard: Arc<Shard>, plans: Plans, seams: &Seams, shutdown: CancellationToken) {
    let task = run(shard, plans, seams.clone());
    seams.spawner.spawn(shutdown.run_until_cancelled_owned(task));
}

async fn run(shard: Arc<Shard>, plans: Plans, seams: Seams) {
    // Up to which index the replica has been looked at.
    let mut looked_at = None;
    loop {
        let applied = shard.seen().index;
        if looked_at != Some(applied) {
            match applied_plan(&shard).await {
                Ok(plan) => {
                    looked_at = Some(applied);
                    plan.map(|plan| plans.offer(plan));
                }
                Err(error) => tracing::error!("{error}"),
            }
        }
        seams.spawner.sleep(LOOK_INTERVAL).await;
    }
}

/// The plan as this replica has applied it, if there is one. While the replica's node leads, in a term whose blank entry it has
/// applied, that is the plan in force.
pub async fn applied_plan(shard: &Shard) -> Result<Option<Plan>, Error> {
    let key = plan_key()?;
    let resident = match shard.resident(&key) {
        Some(resident) => Some(resident),
        None => shard.load(vec![key.clone()]).await?.remove(&key),
    };
    let Some(resident) = resident.filter(|resident| resident.version > 0) else { return Ok(None) };
    let unreadable = |why: &str| Error::Unreadable(why.to_owned());
    let state = resident.state.ok_or_else(|| unreadable("this program cannot fold its events"))?;
    let kind = shard.registry().get(Cluster::KIND).ok_or_else(|| unreadable("the shard has other kinds"))?;
    let json = kind.state_json(&state).map_err(|error| Error::Unreadable(error.to_string()))?;
    read(&json).map(Some)
}

/// The first plan of the cluster, from the history that this replica has; nothing where it has none yet. Its voters are who
/// began the groups of all shards.
pub async fn first_plan(shard: &Shard) -> Result<Option<Plan>, Error> {
    let key = plan_key()?;
    if shard.events(&key, 0, 1).await?.is_none() {
        return Ok(None);
    }
    let json = shard.state_at(&key, 1).await?;
    let json = json.ok_or_else(|| Error::Unreadable("this program cannot fold its first event".to_owned()))?;
    read(&json).map(Some)
}

fn read(json: &[u8]) -> Result<Plan, Error> {
    let plan: Plan = serde_json::from_slice(json).map_err(|error| Error::Unreadable(error.to_string()))?;
    let unsound = || Error::Unreadable("it names members that it does not have".to_owned());
    plan.is_sound().then_some(plan).ok_or_else(unsound)
}
