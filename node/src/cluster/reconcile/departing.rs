//! Lets replicas go that the plan does not want here and whose group this node is no member of any more. Nobody tells a
//! member that it is none any more, because who has removed it does not write to it again; so a replica that hears of no
//! owner asks. It is deleted only after a quorum of its group has confirmed that it is none: it has nothing then that
//! anybody counts on, and no vote to remember.
//!
//! And lets those go, wherever the plan wants them, that belong to an earlier incarnation of a shard which was recovered
//! without them (see [`crate::recovery`]): members of before that come back would otherwise elect one of themselves and go
//! on beside the recovered shard. Gossip says who leads in which term, and a later incarnation's leader that takes this node
//! for a member writes to it; either is a hint, and a quorum of the later incarnation confirms it before anything is deleted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use berth_shared::ids::{LogId, NodeId, ShardId, Term};
use berth_shared::peer::{self, Class};
use berth_shared::seam::Seams;

use crate::cluster::membership::Members;
use crate::cluster::plan::{Plan, SYSTEM_SHARD};
use crate::recovery::is_of_earlier_incarnation;
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
    pub members: watch::Receiver<Arc<Members>>,
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
            self.let_outlived_go().await;
            let Some(plan) = self.plan.borrow().clone() else { continue };
            let unwanted = self.hosted().filter(|hosted| self.is_unwanted(hosted, &plan));
            let dealing = unwanted.map(|hosted| self.deal_with(hosted, &plan));
            futures_util::stream::iter(dealing).buffer_unordered(TOGETHER).collect::<Vec<()>>().await;
        }
    }

    fn hosted(&self) -> impl Iterator<Item = Arc<Hosted>> {
        self.hosting.all().into_iter().chain(self.hosting.system())
    }

    /// Whatever the plan is, and whether or not one is known.
    async fn let_outlived_go(&self) {
        let led = led_by_others(self.node, &self.members.borrow());
        let outlived = self.hosted().filter_map(|hosted| {
            let (status, shard) = (hosted.group.status(), hosted.shard.id());
            // One that has nothing yet is of no incarnation.
            let told = led
                .get(&shard)
                .filter(|(term, _)| status.last.is_some() && is_of_earlier_incarnation(status.term, *term));
            let by = status.outlived_by.or(told.map(|(_, leader)| *leader))?;
            Some(self.end_outlived(shard, status.term, by))
        });
        futures_util::stream::iter(outlived).buffer_unordered(TOGETHER).collect::<Vec<()>>().await;
    }

    /// Ends the replica, which knows of `term`, if `by` leads a later incarnation.
    async fn end_outlived(&self, shard: ShardId, term: Term, by: NodeId) {
        let Some(confirmed) = self.ask(by, shard).await else { return };
        if is_of_earlier_incarnation(term, confirmed.last.term) {
            tracing::warn!(%shard, term, %by, now = ?confirmed.last, "the shard was recovered without this replica, which ends");
            (self.let_go)(shard, confirmed.last).await;
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

/// Who leads which shard in the latest term, the system shard included, by what others say of themselves.
fn led_by_others(us: NodeId, members: &Members) -> BTreeMap<ShardId, (Term, NodeId)> {
    let mut led: BTreeMap<ShardId, (Term, NodeId)> = BTreeMap::new();
    for member in members.iter().filter(|member| member.node != us) {
        let system = member.facts.system.map(|term| (SYSTEM_SHARD, term));
        for (shard, term) in member.facts.led.iter().copied().chain(system) {
            let latest = led.entry(shard).or_insert((term, member.node));
            *latest = (*latest).max((term, member.node));
        }
    }
    led
}
