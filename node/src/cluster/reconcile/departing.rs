//! Lets replicas go that the plan does not want here and whose group this node is no member of any more. Nobody tells a
//! member that it is none any more, because who has removed it does not write to it again; so a replica that hears of no
//! owner asks. It is deleted only after a quorum of its group has confirmed that it is none: it has nothing then that
//! anybody counts on, and no vote to remember.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use berth_shared::ids::{LogId, NodeId, ShardId};
use berth_shared::peer::{self, Class};
use berth_shared::seam::Seams;

use crate::cluster::plan::Plan;
use crate::shard::group::ConfirmedMembership;
use crate::transport::hosting::{Hosted, Hosting};
use crate::transport::peers::Peers;
use crate::transport::wire::NodeRequest;

/// Between two looks at all replicas.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a node may take to have its members confirmed.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Replicas that are dealt with at the same time.
const TOGETHER: usize = 4;

/// Deletes a replica, given the end of its group's log, unless it has got more since.
pub type LetGo = Arc<dyn Fn(ShardId, LogId) -> BoxFuture<'static, ()> + Send + Sync>;

/// What it works with.
pub struct Departing {
    pub node: NodeId,
    pub hosting: Arc<Hosting>,
    pub plan: watch::Receiver<Option<Arc<Plan>>>,
    pub peers: Peers,
    pub let_go: LetGo,
    pub seams: Seams,
}

impl fmt::Debug for Departing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departing").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Departing {
    /// Until it is dropped.
    pub async fn run(self) {
        loop {
            self.seams.spawner.sleep(INTERVAL).await;
            let Some(plan) = self.plan.borrow().clone() else { continue };
            let hosted = self.hosting.all().into_iter().chain(self.hosting.system());
            let unwanted = hosted.filter(|hosted| self.is_unwanted(hosted, &plan));
            let dealing = unwanted.map(|hosted| self.deal_with(hosted, &plan));
            futures_util::stream::iter(dealing).buffer_unordered(TOGETHER).collect::<Vec<()>>().await;
        }
    }

    /// Whether the plan gives the shard to others, and the replica hears of no owner that counts on it.
    fn is_unwanted(&self, hosted: &Hosted, plan: &Plan) -> bool {
        let is_planned = plan.replicas_of(hosted.shard.id()).any(|member| member.node == self.node);
        !is_planned && hosted.group.term().is_none() && !hosted.group.is_serving()
    }

    async fn deal_with(&self, hosted: Arc<Hosted>, plan: &Plan) {
        let shard = hosted.shard.id();
        let leader = hosted.group.status().leader;
        drop(hosted);
        let planned = plan.replicas_of(shard).map(|member| member.node);
        let mut asked: Vec<NodeId> = Vec::new();
        for node in leader.into_iter().chain(planned) {
            if node == self.node || asked.contains(&node) {
                continue;
            }
            asked.push(node);
            let Some(confirmed) = self.ask(node, shard).await else { continue };
            if !confirmed.voters.contains(&self.node) && !confirmed.learners.contains(&self.node) {
                (self.let_go)(shard, confirmed.last).await;
            }
            return;
        }
    }

    async fn ask(&self, node: NodeId, shard: ShardId) -> Option<ConfirmedMembership> {
        let payload = peer::encode(&NodeRequest::Members { shard }).ok()?;
        let deadline = self.seams.clock.now() + ANSWER_MAX;
        let answer = self.peers.call(node, Class::Control, payload, deadline).await.ok()?;
        peer::decode::<Option<ConfirmedMembership>>(&answer).ok().flatten()
    }
}
