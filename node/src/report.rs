//! What this node says of itself: builds a [`NodeReport`] from the replicas that it hosts. It holds none of them alive, so
//! that a shard which is given up is gone from the next report on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::mpsc::WeakSender;

use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::report::{HashMark, Member, NodeReport, NodeState, ReplicaReport};

use crate::shard::Shard;
use crate::shard::command::Command;
use crate::shard::executor::Mailbox;
use crate::shard::group::Group;

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
    pub plan_epoch: u64,
    pub members: Vec<Member>,
}

/// Makes the node's reports.
pub struct Reporter {
    about: Box<dyn Fn() -> About + Send + Sync>,
    replicas: Mutex<BTreeMap<ShardId, Replica>>,
}

/// Where a replica's report comes from.
#[derive(Debug)]
struct Replica {
    shard: Weak<Shard>,
    group: Weak<dyn Group>,
    mailbox: WeakSender<Command>,
}

impl Reporter {
    /// `about` is asked for every report.
    pub fn new(about: impl Fn() -> About + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { about: Box::new(about), replicas: Mutex::default() })
    }

    /// Reports on this replica from now on, until it is gone.
    pub fn host(&self, shard: &Arc<Shard>, group: &Arc<dyn Group>, mailbox: &Mailbox) {
        let (id, group, mailbox) = (shard.id(), Arc::downgrade(group), mailbox.downgrade());
        let replica = Replica { shard: Arc::downgrade(shard), group, mailbox };
        self.replicas.lock().insert(id, replica);
    }

    pub fn report(&self) -> NodeReport {
        let About { node, cluster, address, state, plan_epoch, members } = (self.about)();
        let replicas = {
            let mut replicas = self.replicas.lock();
            replicas.retain(|_, replica| replica.shard.strong_count() > 0 && replica.group.strong_count() > 0);
            let marks_max = MARKS_MAX / replicas.len().max(1);
            replicas.values().filter_map(|replica| replica.report(marks_max)).collect()
        };
        let software = SOFTWARE.to_owned();
        NodeReport { node, cluster, address, state, software, plan_epoch, members, replicas }
    }
}

/// Name and version of this program.
pub const SOFTWARE: &str = concat!("berth-node/", env!("CARGO_PKG_VERSION"));

impl Replica {
    fn report(&self, marks_max: usize) -> Option<ReplicaReport> {
        let (shard, group) = (self.shard.upgrade()?, self.group.upgrade()?);
        let status = group.status();
        let owns = group.term().is_some_and(|term| group.holds_lease(term));
        let queued = self.mailbox.upgrade().map_or(0, |mailbox| mailbox.max_capacity() - mailbox.capacity());
        let machine = shard.machine();
        let head = machine.head();
        let marks = head.hash_marks.as_slice();
        let marks = &marks[marks.len().saturating_sub(marks_max)..];
        Some(ReplicaReport {
            shard: shard.id(),
            owns,
            leader: status.leader,
            term: status.term,
            voters: status.voters,
            learners: status.learners,
            applied: head.applied.map_or(0, |applied| applied.index),
            content_hash: head.content_hash,
            marks: marks.iter().map(|m| HashMark { index: m.index, content_hash: m.content_hash }).collect(),
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
        })
    }
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("replicas", &self.replicas.lock().len()).finish_non_exhaustive()
    }
}
