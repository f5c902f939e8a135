//! The replicas of this node: opens them, at the start and whenever an owner brings its shard here, and lets them go again
//! with all that they have on disk; and recovers those whose quorum is gone, when an operator says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use berth_shared::ids::{LogId, NodeId, ShardId};
use berth_shared::report::Member;
use berth_shared::seam::{BootInstant, Seams};
use berth_shared::telemetry::Histogram;

use super::Error;
use super::claims::{Claim, Claims};
use crate::cluster::plan::Plan;
use crate::cluster::reconcile::Admission;
use crate::cluster::system::SYSTEM_SHARD;
use crate::entity::Registry;
use crate::journal::Journal;
use crate::raft::Groups;
use crate::recovery::survey::Holding;
use crate::recovery::{self, Recovered};
use crate::shard::Shard;
use crate::shard::executor::{self, Executor};
use crate::shard::reader::Reader;
use crate::shard::residency::Residency;
use crate::store::Store;
use crate::transport::hosting::{Hosted, Hosting};
use crate::transport::owners::Owners;
use crate::transport::peers::Peers;

/// What every replica is made with.
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    pub(crate) executor: executor::Config,
    /// The kinds of the user, and those of the system shard.
    pub(crate) registry: Arc<Registry>,
    pub(crate) system_registry: Arc<Registry>,
    pub(crate) journal: Journal,
    pub(crate) store: Store,
    pub(crate) groups: Groups,
    pub(crate) residency: Arc<Residency>,
    pub(crate) owners: Arc<Owners>,
    pub(crate) hosting: Arc<Hosting>,
    pub(crate) peers: Peers,
    pub(crate) batch_records: Histogram,
    /// Replicas that may be on their way here at the same time.
    pub(crate) moves_max: usize,
    pub(crate) seams: Seams,
}

pub(crate) struct Replicas {
    parts: Parts,
    /// Of those that are being opened, recovered or let go just now.
    claims: Claims,
    /// When each replica was opened.
    opened: Mutex<BTreeMap<ShardId, BootInstant>>,
    /// Set when the node stops, and no replica may be opened any more.
    is_closed: AtomicBool,
}

/// How long an owner that has had a replica opened may take to say its first word to it.
const FIRST_WORD_MAX: Duration = Duration::from_secs(10);
const CLOSE_LOOK_INTERVAL: Duration = Duration::from_millis(10);

impl Replicas {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, claims: Claims::default(), opened: Mutex::default(), is_closed: AtomicBool::new(false) }
    }

    /// Takes up the replica of `shard` as the disk has it. One that has nothing there begins with `voters`, if any are given;
    /// without, it waits for an owner to bring it everything. `is_first` stands for election at once.
    pub(crate) async fn open(&self, shard: ShardId, voters: &[Member], is_first: bool) -> Result<(), Error> {
        match self.claim(shard) {
            Some(_claim) => self.open_claimed(shard, voters, is_first).await,
            None => Ok(()),
        }
    }

    async fn open_claimed(&self, id: ShardId, voters: &[Member], is_first: bool) -> Result<(), Error> {
        let Parts { seams, store, residency, groups, journal, executor, .. } = &self.parts;
        if self.hosted(id).is_some() || self.is_closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if journal.deleting().contains(&id) {
            // An attempt to delete the replica before has failed on the way.
            crate::replica_files::delete_replica(journal, store, id).await?;
        }
        let registry = match id {
            SYSTEM_SHARD => self.parts.system_registry.clone(),
            _ => self.parts.registry.clone(),
        };
        let (of, store, residency, kinds) = (registry.clone(), store.clone(), residency.clone(), seams.clone());
        let shard = seams.spawner.blocking(move || Shard::open(id, of, store, residency, kinds)).await?;
        let voters: Vec<(NodeId, String)> = voters.iter().map(|m| (m.node, m.address.clone())).collect();
        let group = groups.start(shard.clone(), journal.clone(), &voters, is_first).await?;
        let records = self.parts.batch_records.clone();
        let executor::Handle { mailbox, hold } =
            Executor::start(executor.clone(), shard.clone(), group.clone(), records, seams.clone());
        let reader = Reader { shard: shard.clone(), group: group.clone(), registry };
        if id != SYSTEM_SHARD {
            self.parts.owners.follow(shard.clone(), &group, seams);
        }
        self.opened.lock().insert(id, seams.clock.now());
        self.parts.hosting.add(Hosted { shard, group, reader, mailbox, hold });
        Ok(())
    }

    fn hosted(&self, shard: ShardId) -> Option<Arc<Hosted>> {
        self.parts.hosting.any(shard)
    }

    /// Answers an owner that wants to bring its shard here, and opens a replica for it.
    pub(crate) async fn admit(&self, shard: ShardId, plan: Option<&Plan>) -> Admission {
        if self.hosted(shard).is_some() {
            return Admission::Admitted;
        }
        let is_ours = plan.is_some_and(|plan| plan.replicas_of(shard).any(|member| member.node == self.parts.node));
        if !is_ours {
            return Admission::NotPlanned;
        }
        let Some(_claim) = self.claim_arrival(shard) else { return Admission::Busy };
        match self.open_claimed(shard, &[], false).await {
            Ok(()) if self.hosted(shard).is_some() => Admission::Admitted,
            Ok(()) => Admission::Busy,
            Err(error) => {
                tracing::error!(%shard, "a replica cannot be opened: {error}");
                Admission::Failed
            }
        }
    }

    /// Whether an owner is bringing the replica here: it has no vote, and somebody who is there leads the group, or has not
    /// had the time to say so.
    fn is_arriving(&self, hosted: &Hosted) -> bool {
        let status = hosted.group.status();
        let is_new = |since: &BootInstant| self.parts.seams.clock.now().since(*since) < FIRST_WORD_MAX;
        !status.voters.contains(&self.parts.node)
            && (status.leader.is_some_and(|leader| self.parts.peers.is_connected(leader))
                || self.opened.lock().get(&hosted.shard.id()).is_some_and(is_new))
    }

    /// Lets a replica go, after a quorum of its group has said that this node is no member. `last` is the end of the log at
    /// that moment: a replica that has more has been made a member again, and stays. Says whether it is gone.
    pub(crate) async fn let_go(&self, shard: ShardId, last: LogId) -> Result<bool, Error> {
        let (Some(_claim), Some(hosted)) = (self.claim(shard), self.hosted(shard)) else { return Ok(false) };
        // From here on nothing is acknowledged to an owner any more, so what the log ends with now it ends with for good.
        self.parts.owners.forget(shard);
        self.parts.hosting.remove(shard);
        hosted.shard.waiting().close();
        self.parts.groups.stop(shard, &*hosted.group).await;
        drop(hosted);
        let ours = self.parts.journal.log_state(shard).last;
        if ours > Some(last) {
            tracing::info!(%shard, ?ours, ?last, "a replica stays, because its shard has come back to it");
            self.open_claimed(shard, &[], false).await?;
            return Ok(false);
        }
        crate::replica_files::delete_replica(&self.parts.journal, &self.parts.store, shard).await?;
        Ok(true)
    }

    /// Makes the replica here, which has entries up to `confirmed`, the only member of the shard's next incarnation. `address` is
    /// where this node is reached. `None` where there is no replica, or somebody else has to do with it just now.
    pub(crate) async fn recover(
        &self,
        shard: ShardId,
        address: &str,
        confirmed: LogId,
    ) -> Result<Option<Recovered>, Error> {
        let (Some(_claim), Some(hosted)) = (self.claim(shard), self.hosted(shard)) else { return Ok(None) };
        self.parts.owners.forget(shard);
        self.parts.hosting.remove(shard);
        hosted.shard.waiting().close();
        self.parts.groups.stop(shard, &*hosted.group).await;
        drop(hosted);
        let Parts { node, journal, store, .. } = &self.parts;
        let recovered = recovery::recover(journal, store, shard, (*node, address), confirmed).await;
        // Whatever came of that, the replica goes on as it is.
        self.open_claimed(shard, &[], false).await?;
        Ok(Some(recovered?))
    }

    /// What this node has of each of these shards, left out where that is nothing.
    pub(crate) async fn holdings(&self, shards: &[ShardId]) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for shard in shards.iter().copied() {
            let is_claimed = self.claims.has(shard);
            match recovery::survivor(&self.parts.journal, &self.parts.store, shard).await {
                Ok(survivor) => {
                    let sees_quorum = is_claimed || self.hosted(shard).is_some_and(|hosted| sees_quorum(&hosted));
                    let (last, incarnation) = (survivor.last, survivor.incarnation);
                    holdings.push(Holding { shard, last, incarnation, sees_quorum });
                }
                Err(recovery::Error::Absent(_)) => {}
                Err(error) => tracing::warn!(%shard, "what is here of a shard cannot be told: {error}"),
            }
        }
        holdings
    }

    /// From now on no replica is opened, recovered or let go; returns once none is any more.
    pub(crate) async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        while !self.claims.is_empty() {
            self.parts.seams.spawner.sleep(CLOSE_LOOK_INTERVAL).await;
        }
    }

    /// Claims a replica that is to come here, unless too many are on their way. Owners ask at the same time, so they are counted
    /// and claimed in one step.
    fn claim_arrival(&self, shard: ShardId) -> Option<Claim<'_>> {
        self.claim_where(shard, |claimed| {
            let hosted = self.parts.hosting.all();
            let arriving =
                hosted.iter().filter(|hosted| !claimed.contains(&hosted.shard.id()) && self.is_arriving(hosted));
            claimed.len() + arriving.count() < self.parts.moves_max
        })
    }

    fn claim(&self, shard: ShardId) -> Option<Claim<'_>> {
        self.claim_where(shard, |_| true)
    }

    fn claim_where(&self, shard: ShardId, may: impl FnOnce(&BTreeSet<ShardId>) -> bool) -> Option<Claim<'_>> {
        self.claims.claim(shard, |claimed| !self.is_closed.load(Ordering::Acquire) && may(claimed))
    }
}

/// Whether the shard's group serves, or enough of its voters are connected that it soon may.
pub(super) fn sees_quorum(hosted: &Hosted) -> bool {
    hosted.group.is_serving() || hosted.group.status().sees_quorum
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("node", &self.parts.node).finish_non_exhaustive()
    }
}
