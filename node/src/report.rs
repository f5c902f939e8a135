//! What this node says of itself: builds a [`NodeReport`] from the replicas that it hosts, that of
//! the system shard included.

use std::fmt;
use std::sync::Arc;

use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::report::{
    HashMark, LastMovement, Member, Movement, NodeReport, NodeState, Placement, ReplicaReport, Sighting,
};

use crate::cluster::plan::Plan;
use crate::cluster::reconcile::{Current, Last, Moves};
use crate::transport::hosting::{Hosted, Hosting};

/// Earlier hashes in one report, over all replicas, so that it fits into a frame however many shards there are; of each
/// replica the newest ones are told.
const MARKS_MAX: usize = 32_768;

/// What a report says besides replicas.
#[derive(Clone, Debug)]
pub struct About {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Peer address, `host:port`.
    pub address: String,
    pub state: NodeState,
    /// The newest that the node knows.
    pub plan: Option<Arc<Plan>>,
    pub members: Vec<Member>,
    pub sightings: Vec<Sighting>,
}

/// Makes the node's reports.
pub struct Reporter {
    about: Box<dyn Fn() -> About + Send + Sync>,
    hosting: Arc<Hosting>,
    moves: Arc<Moves>,
}

impl Reporter {
    /// `about` is asked for every report.
    pub fn new(about: impl Fn() -> About + Send + Sync + 'static, hosting: Arc<Hosting>, moves: Arc<Moves>) -> Self {
        Self { about: Box::new(about), hosting, moves }
    }

    pub fn report(&self) -> NodeReport {
        let About { node, cluster, address, state, plan, members, sightings } = (self.about)();
        let mut hosted = self.hosting.all();
        hosted.extend(self.hosting.system());
        let marks_max = MARKS_MAX / hosted.len().max(1);
        let replicas = hosted.iter().map(|hosted| self.replica(hosted, plan.as_deref(), marks_max)).collect();
        let plan_epoch = plan.map_or(0, |plan| plan.epoch);
        let software = SOFTWARE.to_owned();
        NodeReport { node, cluster, address, state, software, plan_epoch, members, sightings, replicas }
    }
}

/// Name and version of this program.
pub const SOFTWARE: &str = concat!("berth-node/", env!("CARGO_PKG_VERSION"));

impl Reporter {
    fn replica(&self, hosted: &Hosted, plan: Option<&Plan>, marks_max: usize) -> ReplicaReport {
        let Hosted { shard, group, mailbox, .. } = hosted;
        let status = group.status();
        let owns = group.term().is_some_and(|term| group.holds_lease(term));
        let queued = mailbox.max_capacity() - mailbox.capacity();
        let machine = shard.machine();
        let head = machine.head();
        let marks = head.hash_marks.as_slice();
        let marks = &marks[marks.len().saturating_sub(marks_max)..];
        ReplicaReport {
            shard: shard.id(),
            owns,
            leader: status.leader,
            term: status.term,
            voters: status.voters,
            learners: status.learners,
            applied: head.applied.map_or(0, |applied| applied.index),
            incarnation: head.incarnation,
            content_hash: head.content_hash,
            marks: marks.iter().map(|m| HashMark { index: m.index, content_hash: m.content_hash }).collect(),
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
            is_joint: status.is_joint,
            planned: plan.and_then(|plan| placement(plan, shard.id())),
            movement: self.movement(hosted),
            last_movement: self.last_movement(shard.id()),
        }
    }

    /// What moves the shard, if this node owns it.
    fn movement(&self, hosted: &Hosted) -> Option<Movement> {
        let Current { step, target, from_micros } = self.moves.current(hosted.shard.id())?;
        let observed = hosted.group.observe()?;
        let matched = observed.followers.get(&target).and_then(|follower| follower.matched).unwrap_or(0);
        Some(Movement { step: step.to_owned(), target, from_micros, matched, last: observed.last })
    }

    fn last_movement(&self, shard: ShardId) -> Option<LastMovement> {
        let Last { step, target, ended_micros } = self.moves.last(shard)?;
        Some(LastMovement { step: step.to_owned(), target, ended_micros })
    }
}

fn placement(plan: &Plan, shard: ShardId) -> Option<Placement> {
    let owner = plan.owner_of(shard)?.node;
    Some(Placement { owner, replicas: plan.replicas_of(shard).map(|member| member.node).collect() })
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}
