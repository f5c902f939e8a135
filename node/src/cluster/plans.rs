//! The newest committed plan, as this node knows it. Whoever hosts the system shard hears of it from its own replica; all others
//! ask a member that says by gossip that it knows a newer one. A plan that is late does no harm: whatever is done by a plan
//! is done by the newest that is known, and checked by who must agree to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::peer::{self, Class};
use berth_shared::seam::{Random, Seams};
use tokio::sync::watch;

use super::membership::Members;
use super::plan::Plan;
use crate::transport::peers::Peers;
use crate::transport::wire::NodeRequest;

/// How long one member is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Pause when no member that should know a newer plan gave one.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Keeps the plan with the highest epoch of those that it is offered. Clones are the same.
#[derive(Clone, Debug)]
pub struct Plans {
    newest: Arc<watch::Sender<Option<Arc<Plan>>>>,
}

impl Default for Plans {
    fn default() -> Self {
        Self { newest: Arc::new(watch::Sender::new(None)) }
    }
}

impl Plans {
    /// Takes a committed plan, and says whether it is news.
    pub fn offer(&self, plan: Plan) -> bool {
        self.newest.send_if_modified(|known| {
            let is_new = plan.epoch > known.as_ref().map_or(0, |known| known.epoch);
            if is_new {
                let (epoch, shards, members) = (plan.epoch, plan.shards(), plan.members().len());
                tracing::info!(epoch, shards, members, "a plan is in force");
                *known = Some(Arc::new(plan));
            }
            is_new
        })
    }

    pub fn newest(&self) -> Option<Arc<Plan>> {
        self.newest.borrow().clone()
    }

    /// Of the newest plan; 0 before there is one.
    pub fn epoch(&self) -> u64 {
        self.newest.borrow().as_ref().map_or(0, |plan| plan.epoch)
    }

    /// The newest plan as it changes; `None` before the first.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.newest.subscribe()
    }
}

/// Asks members for the plan whenever one of them knows a newer one. It never ends by itself, unless `members` does.
pub async fn pull(plans: Plans, mut members: watch::Receiver<Arc<Members>>, peers: Peers, seams: Seams) {
    let mut asked = BTreeSet::new();
    loop {
        let newer = knowing_more(&members.borrow_and_update(), plans.epoch());
        if newer.is_empty() {
            // What is committed here meanwhile makes only less to ask for.
            if members.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open: Vec<NodeId> = newer.iter().copied().filter(|node| !asked.contains(node)).collect();
        let Some(node) = pick(&open, &*seams.random) else {
            asked.clear();
            seams.spawner.sleep(RETRY_PAUSE).await;
            continue;
        };
        asked.insert(node);
        match ask(node, &peers, &seams).await {
            Ok(Some(plan)) if plan.is_sound() => {
                if plans.offer(plan) {
                    asked.clear();
                }
            }
            Ok(Some(_)) => tracing::error!(%node, "a member's plan names members that it does not have"),
            Ok(None) => {}
            Err(why) => tracing::debug!(%node, "a member did not tell its plan: {why}"),
        }
    }
}

/// Whoever says that it knows a plan of a higher epoch, and is heard.
fn knowing_more(members: &Members, epoch: u64) -> Vec<NodeId> {
    let knows_more = members.iter().filter(|member| member.suspected.is_none() && member.facts.plan > epoch);
    knows_more.map(|member| member.node).collect()
}

/// Any of them, so that not all ask the same one.
fn pick(nodes: &[NodeId], random: &dyn Random) -> Option<NodeId> {
    let place = random.next_u64().checked_rem(nodes.len() as u64)?;
    nodes.get(usize::try_from(place).ok()?).copied()
}

/// Over the connection for bulk: a large plan must not hold up votes.
async fn ask(node: NodeId, peers: &Peers, seams: &Seams) -> Result<Option<Plan>, String> {
    let request = peer::encode(&NodeRequest::Plan).map_err(|error| error.to_string())?;
    let deadline = seams.clock.now() + ANSWER_MAX;
    let answer = peers.call(node, Class::Bulk, request, deadline).await.map_err(|error| error.to_string())?;
    peer::decode(&answer).map_err(|error| error.to_string())
}
