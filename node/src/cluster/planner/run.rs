//! The planner's task: looks again and again while its node leads the system shard, computes the plan where [`super::decide`]
//! says that it is time, and has the system shard adopt it. All that it remembers it has seen in the term that it leads in, and
//! begins with the plan that is in force then; the next leader begins anew.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{NodeId, Term};
use berth_shared::seam::Seams;
use tokio::sync::watch;

use super::decide::{Concerns, Decider, Proposal, Seen};
use crate::cluster::membership::Members;
use crate::cluster::plan::{MEMBERS_MAX, Plan};
use crate::cluster::system;
use crate::entity::Registry;
use crate::shard::Shard;
use crate::shard::executor::Mailbox;
use crate::shard::group::Group;

/// How often the leader looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Pause after a plan that was not adopted, or could not be read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The nodes to which control connections stand.
pub type Connected = Arc<dyn Fn() -> Vec<NodeId> + Send + Sync>;

/// What a planner works with: this node's replica of the system shard, and what the node sees of others.
pub struct Planner {
    pub node: NodeId,
    /// How long a node may be silent before others take over its replicas.
    pub replace_after: Duration,
    pub shard: Arc<Shard>,
    pub group: Arc<dyn Group>,
    pub mailbox: Mailbox,
    /// Of the system shard's kinds.
    pub registry: Arc<Registry>,
    pub members: watch::Receiver<Arc<Members>>,
    pub connected: Connected,
    /// The newest plan that this node knows, from wherever.
    pub newest: watch::Receiver<Option<Arc<Plan>>>,
    pub seams: Seams,
}

impl Planner {
    /// Plans whenever this node leads. It ends with the group, or is dropped.
    pub async fn run(self) {
        let mut leading = self.group.leading();
        loop {
            let term = match leading.wait_for(Option::is_some).await {
                Ok(term) => *term,
                Err(_) => return,
            };
            tokio::select! {
                biased;
                _ = leading.wait_for(|now| *now != term) => {}
                () = self.lead(term) => {}
            }
        }
    }

    /// For as long as this node leads in `term`.
    async fn lead(&self, term: Option<Term>) {
        tracing::info!(node = %self.node, ?term, "this node plans the cluster");
        let mut decider = Decider::new(self.node, self.replace_after, self.seams.clock.now());
        let mut in_force = InForce::default();
        let mut told = Concerns::default();
        loop {
            let mut pause = LOOK_INTERVAL;
            match in_force.look(&self.shard).await {
                Ok(Some(plan)) if self.is_forgotten(&plan) => {
                    self.restore(&plan).await;
                    pause = RETRY_PAUSE;
                }
                Ok(Some(plan)) => {
                    let proposal = self.decide(&mut decider, &plan);
                    tell(&mut told, decider.concerns());
                    if let Some(proposal) = proposal
                        && let Err(error) = self.adopt(&mut decider, plan, proposal).await
                    {
                        tracing::warn!("a plan was not adopted: {error}");
                        pause = RETRY_PAUSE;
                    }
                }
                // Whoever leads makes the first one of the record.
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("{error}");
                    pause = RETRY_PAUSE;
                }
            }
            self.seams.spawner.sleep(pause).await;
        }
    }

    /// Whether members follow a later plan than the one that is in force by the system shard: it was recovered then from a
    /// replica that had not got the later one.
    fn is_forgotten(&self, in_force: &Plan) -> bool {
        self.newest.borrow().as_ref().is_some_and(|newest| newest.epoch > in_force.epoch)
    }

    async fn restore(&self, in_force: &Plan) {
        let Some(newest) = self.newest.borrow().clone() else { return };
        let (known, epoch) = (in_force.epoch, newest.epoch);
        // A follower may have applied what this leader is just about to apply; then it is refused.
        match system::restore(&newest, &self.mailbox, &self.registry, &self.seams).await {
            Ok(()) => tracing::warn!(known, epoch, "a plan that members follow is in force again"),
            Err(error) => tracing::debug!(known, epoch, "a plan that members follow is not put in force: {error}"),
        }
    }

    fn decide(&self, decider: &mut Decider, plan: &Plan) -> Option<Proposal> {
        let members = self.members.borrow().clone();
        let connected: BTreeSet<NodeId> = (self.connected)().into_iter().collect();
        decider.decide(Seen { now: self.seams.clock.now(), plan, members: &members, connected: &connected })
    }

    /// Makes the plan after `before` of these candidates, if there is one.
    async fn adopt(&self, decider: &mut Decider, before: Arc<Plan>, proposal: Proposal) -> Result<(), system::Error> {
        let Proposal { candidates, reason } = proposal;
        let (of, from) = (before.clone(), candidates.clone());
        let next = self.seams.spawner.blocking(move || of.next(&from)).await;
        let Some(next) = next else {
            decider.placed(before.epoch, candidates);
            return Ok(());
        };
        let reason = reason.to_string();
        system::adopt(&next, &reason, &self.mailbox, &self.registry, &self.seams).await?;
        decider.adopted(next.epoch, candidates, self.seams.clock.now());
        let changes = next.changes_since(&before);
        tracing::info!(
            epoch = next.epoch,
            members = next.members().len(),
            replicas_to_copy = changes.replicas,
            owners_to_change = changes.owners,
            system_replicas_to_copy = changes.system,
            "the plan changes: {reason}"
        );
        Ok(())
    }
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The plan that the local replica has applied, read again only when it has applied more.
#[derive(Debug, Default)]
struct InForce {
    looked_at: Option<u64>,
    plan: Option<Arc<Plan>>,
}

impl InForce {
    async fn look(&mut self, shard: &Shard) -> Result<Option<Arc<Plan>>, system::Error> {
        let applied = shard.seen().index;
        if self.looked_at != Some(applied) {
            self.plan = system::applied_plan(shard).await?.map(Arc::new);
            self.looked_at = Some(applied);
        }
        Ok(self.plan.clone())
    }
}

/// Says in the log what is of concern, once.
fn tell(told: &mut Concerns, now: &Concerns) {
    if told == now {
        return;
    }
    if !now.kept.is_empty() && now.kept != told.kept {
        tracing::warn!(nodes = ?now.kept, "nodes that want to leave must stay: too few would be left without them");
    }
    if now.beyond_max > 0 && told.beyond_max == 0 {
        let left_out = now.beyond_max;
        tracing::warn!(
            left_out,
            "there are more nodes than the {MEMBERS_MAX} that a plan takes; the last are given nothing"
        );
    }
    told.clone_from(now);
}
