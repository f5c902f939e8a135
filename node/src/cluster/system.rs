//! The system shard: one more group, hosted by the nodes that the cluster began with, whose only entity holds the committed
//! plan. It runs on the same executor, journal and store as every other shard, with a registry of its own, so that no client
//! can name its kind.
//!
//! Whichever node leads the group makes the first plan, once: the entity refuses a second one, and the command carries the
//! same idempotency key wherever it comes from. All others read the plan from what their own replica has applied.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::RequestId;
use berth_shared::key::EntityKey;
use berth_shared::message::{KeyOrigin, Precondition, Response};
use berth_shared::seam::Seams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::bootstrap::InitRecord;
pub use super::plan::SYSTEM_SHARD;
use super::plan::{Candidate, MEMBERS_MAX, Plan};
use super::plans::Plans;
use crate::entity::{Context, Decision, Entity, Registry, Rejection, registry};
use crate::record::{Fingerprint, RequestKey, Scope};
use crate::shard::Shard;
use crate::shard::command::{Answer, Command};
use crate::shard::executor::Mailbox;
use crate::shard::group::Group;

/// The id of the only entity.
const PLAN: &str = "plan";
/// How often the replica is asked whether it has applied more. It costs a lock.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long one attempt at the first plan may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Pause after an attempt that did not bring a plan.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The kind of the only entity. Its state is the plan itself.
#[derive(Clone, Copy, Debug)]
pub struct Cluster;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Instruction {
    /// Makes the first plan of the cluster that began with this record.
    Initialise { record: InitRecord },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The cluster has its first plan. It stands here as it was computed then, so that no later program computes another.
    Initialised { plan: Plan },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster has a plan already, of epoch {0}")]
    AlreadyInitialised(u64),
    #[error("a cluster begins with 1 to {MEMBERS_MAX} members, a shard and a replica")]
    Unusable,
}

impl Entity for Cluster {
    const KIND: &'static str = "cluster";
    type State = Plan;
    type Command = Instruction;
    type Event = Event;
    type Reply = ();
    type Rejection = Refusal;

    fn decide(&self, state: &Plan, command: &Instruction, _: &Context<'_>) -> Result<Decision<Event>, Refusal> {
        let Instruction::Initialise { record } = command;
        if state.epoch > 0 {
            return Err(Refusal::AlreadyInitialised(state.epoch));
        }
        let counts = [record.members.len(), record.shards.into(), record.replicas.into()];
        if counts.contains(&0) || record.members.len() > MEMBERS_MAX {
            return Err(Refusal::Unusable);
        }
        let members: Vec<Candidate> = record.members.iter().cloned().map(Candidate::from).collect();
        let plan = Plan::first(&members, record.shards, record.replicas);
        Ok(Decision::event(Event::Initialised { plan }))
    }

    fn evolve(state: &mut Plan, event: &Event) {
        match event {
            Event::Initialised { plan } => state.clone_from(plan),
        }
    }
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyInitialised(_) => "already-initialised",
            Self::Unusable => "unusable",
        }
    }
}

/// The kinds of the system shard: not those of the user.
pub fn registry() -> Result<Registry, registry::Error> {
    Registry::new().add(Cluster)
}

/// Offers `plans` whatever the local replica has applied, until `shutdown`.
pub fn follow(shard: Arc<Shard>, plans: Plans, seams: &Seams, shutdown: CancellationToken) {
    let task = Following { shard, plans, seams: seams.clone(), applied: None };
    seams.spawner.spawn(shutdown.run_until_cancelled_owned(task.run()));
}

/// Has the first plan of `record`'s cluster made, if this node leads the system shard while there is none. Ends with the first
/// plan, or with `shutdown`.
pub async fn initialise(
    record: InitRecord,
    group: Arc<dyn Group>,
    mailbox: Mailbox,
    registry: Arc<Registry>,
    mut plan: watch::Receiver<Option<Arc<Plan>>>,
    seams: Seams,
    shutdown: CancellationToken,
) {
    let (made, spawner) = (async { drop(plan.wait_for(Option::is_some).await) }, seams.spawner);
    let mut leading = group.leading();
    let try_again_and_again = async {
        loop {
            if leading.wait_for(Option::is_some).await.is_err() {
                return;
            }
            submit(&record, &mailbox, &registry, &seams).await;
            spawner.sleep(RETRY_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = made => {}
        () = try_again_and_again => {}
    }
}

/// What the command carries, as JSON.
#[derive(Serialize)]
struct Body<'a> {
    record: &'a InitRecord,
}

async fn submit(record: &InitRecord, mailbox: &Mailbox, registry: &Registry, seams: &Seams) {
    let Some((command, answered)) = command(record, registry, seams) else { return };
    if mailbox.try_send(command).is_err() {
        return;
    }
    match answered.await {
        Ok(None) => {
            tracing::info!(cluster = %record.cluster, "the cluster has its first plan");
            let (nodes, wanted) = (record.members.len(), record.replicas);
            if nodes < usize::from(wanted) {
                tracing::warn!(
                    "every shard has {nodes} instead of {wanted} copies (cluster.replicas), because the cluster began with \
                     too few nodes"
                );
            }
        }
        Ok(Some(why)) => tracing::debug!("the first plan was not made by this node now: {why}"),
        Err(_) => tracing::debug!("whether the first plan was made is not known"),
    }
}

/// The command, and where its answer comes: nothing when it was executed, or why it was not.
fn command(
    record: &InitRecord,
    registry: &Registry,
    seams: &Seams,
) -> Option<(Command, oneshot::Receiver<Option<String>>)> {
    const NAME: &str = "initialise";
    let kind = registry.get(Cluster::KIND)?.clone();
    let key = EntityKey::new(Cluster::KIND, PLAN).ok()?;
    let body = serde_json::to_vec(&Body { record }).ok()?;
    let decoded = kind.decode(NAME, &body);
    let decoded = decoded.inspect_err(|error| tracing::error!(%error, "an init record is no command")).ok()?;
    let (sender, answered) = oneshot::channel();
    let answer = Answer::new(move |response| {
        let why = match response {
            Response::Executed(_) => None,
            Response::Refused(refusal) => Some(refusal.detail.to_owned()),
            _ => Some("this node does not lead the system shard".to_owned()),
        };
        // Nobody listens any more once the plan is there.
        let _ = sender.send(why);
    });
    let idempotency_key = format!("{NAME}-{}", record.cluster);
    let command = Command {
        request: RequestKey {
            scope: Scope::new("", &key, &idempotency_key),
            fingerprint: Fingerprint::new(NAME, &body, b""),
            origin: KeyOrigin::Client,
        },
        key,
        kind,
        command: decoded,
        precondition: Precondition::None,
        principal: String::new(),
        request_id: RequestId(seams.random.next_u128()),
        // Another node may have sent it before.
        attempt: 2,
        wants_state: false,
        deadline: seams.clock.now() + ATTEMPT_MAX,
        answer,
    };
    Some((command, answered))
}

/// Follows one replica of the system shard.
struct Following {
    shard: Arc<Shard>,
    plans: Plans,
    seams: Seams,
    /// Up to which index the replica has been looked at.
    applied: Option<u64>,
}

impl Following {
    async fn run(mut self) {
        let Ok(key) = EntityKey::new(Cluster::KIND, PLAN) else { return };
        loop {
            let applied = self.shard.seen().index;
            if self.applied != Some(applied) {
                match self.read(&key).await {
                    Ok(plan) => {
                        self.applied = Some(applied);
                        plan.map(|plan| self.plans.offer(plan));
                    }
                    Err(error) => tracing::error!("the plan cannot be read: {error}"),
                }
            }
            self.seams.spawner.sleep(LOOK_INTERVAL).await;
        }
    }

    /// The plan, if there is one. It is that of the index that was read before, or of a later one.
    async fn read(&self, key: &EntityKey) -> Result<Option<Plan>, String> {
        let resident = match self.shard.resident(key) {
            Some(resident) => Some(resident),
            None => self.shard.load(vec![key.clone()]).await.map_err(|error| error.to_string())?.remove(key),
        };
        let Some(resident) = resident.filter(|resident| resident.version > 0) else { return Ok(None) };
        let state = resident.state.ok_or("this program cannot fold its events")?;
        let kind = self.shard.registry().get(Cluster::KIND).ok_or("the shard has other kinds")?;
        let json = kind.state_json(&state).map_err(|error| error.to_string())?;
        let plan: Plan = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        if plan.is_sound() { Ok(Some(plan)) } else { Err("it names members that it does not have".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use berth_shared::ids::{ClusterId, LogId, NodeId, Term};
    use berth_shared::report::Member;
    use berth_shared::telemetry::{Metrics, SIZE_COUNTS};
    use futures_util::future::BoxFuture;
    use parking_lot::Mutex;

    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::entity::Timestamp;
    use crate::entity::erased::Verdict;
    use crate::record::Batch;
    use crate::shard::executor::{self, Executor};
    use crate::shard::group::{Change, ChangeError, ConfirmedMembership, Done, Observed, Proposed, Status};
    use crate::shard::residency::Residency;
    use crate::store::{self, Store};

    /// A group that leads when it is told to and commits what it is given, to its own shard and to a follower's.
    struct Pair {
        leading: watch::Sender<Option<Term>>,
        log: Mutex<u64>,
        shards: [Arc<Shard>; 2],
    }

    impl fmt::Debug for Pair {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Pair")
        }
    }

    impl Pair {
        fn next(&self, term: Term) -> LogId {
            let mut index = self.log.lock();
            *index += 1;
            LogId { term, index: *index }
        }

        async fn lead(&self, term: Option<Term>) {
            if let Some(term) = term {
                let log_id = self.next(term);
                for shard in &self.shards {
                    shard.apply_blank(log_id).await.unwrap();
                }
            }
            self.leading.send_replace(term);
        }
    }

    impl Group for Pair {
        fn leading(&self) -> watch::Receiver<Option<Term>> {
            self.leading.subscribe()
        }

        fn holds_lease(&self, term: Term) -> bool {
            self.term() == Some(term)
        }

        fn propose(&self, term: Term, batch: Arc<Batch>, done: Done) -> BoxFuture<'_, ()> {
            Box::pin(async move {
                let log_id = self.next(term);
                let applied = self.shards[0].apply(log_id, &batch).await.unwrap();
                self.shards[1].apply(log_id, &batch).await.unwrap();
                done(Proposed::Applied(applied));
            })
        }

        fn confirm(&self, term: Term) -> BoxFuture<'_, bool> {
            Box::pin(std::future::ready(self.holds_lease(term)))
        }

        fn transfer(&self, _to: NodeId) -> BoxFuture<'_, bool> {
            Box::pin(std::future::ready(false))
        }

        fn status(&self) -> Status {
            Status::default()
        }

        fn observe(&self) -> Option<Observed> {
            None
        }

        fn change(&self, _term: Term, _change: Change) -> BoxFuture<'_, Result<(), ChangeError>> {
            Box::pin(std::future::ready(Err(ChangeError::NotLeader)))
        }

        fn confirmed_membership(&self) -> BoxFuture<'_, Option<ConfirmedMembership>> {
            Box::pin(std::future::ready(None))
        }

        fn reach(&self, _term: Term, _node: NodeId) -> BoxFuture<'_, bool> {
            Box::pin(std::future::ready(false))
        }

        fn is_serving(&self) -> bool {
            self.term().is_some_and(|term| self.holds_lease(term))
        }

        fn compact(&self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }

        fn stop(&self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    async fn open_shard(disk: &SimulatedDisk, registry: &Arc<Registry>, seams: &Seams) -> (Arc<Shard>, Store) {
        let journal: store::JournalFlushed = Arc::new(|| Box::pin(std::future::ready(Ok(()))));
        let config = store::Config { fatal: Arc::new(|line| panic!("{line}")), ..store::Config::default() };
        let store = Store::open(disk, journal, config, seams.clone()).await.unwrap();
        let residency = Residency::new(64 << 20);
        let shard = Shard::open(SYSTEM_SHARD, registry.clone(), store.clone(), residency, seams.clone()).unwrap();
        (shard, store)
    }

    fn members(count: u64, address: &str) -> Vec<Member> {
        (0..count).map(|n| Member { node: NodeId(u64::MAX - count + n), address: address.to_owned() }).collect()
    }

    fn record() -> InitRecord {
        InitRecord { cluster: ClusterId(7), members: members(3, "a:1"), shards: 64, replicas: 3 }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leads_makes_the_first_plan_once_and_every_replica_follows_it() {
        let (seams, registry) = (Seams::simulated(1), Arc::new(registry().unwrap()));
        let disks = [SimulatedDisk::new(), SimulatedDisk::new()];
        let (owner, owner_store) = open_shard(&disks[0], &registry, &seams).await;
        let (follower, _) = open_shard(&disks[1], &registry, &seams).await;
        let shards = [owner.clone(), follower.clone()];
        let group = Arc::new(Pair { leading: watch::Sender::new(None), log: Mutex::new(0), shards });
        let metrics = Metrics::new(&[]).unwrap();
        let records = metrics.histogram("batch_records", "Records per batch.", &SIZE_COUNTS, &[]);
        let config = executor::Config { mailbox_max: 8, batches_in_flight_max: 4, window_keys_max: 1000 };
        let mailbox = Executor::start(config, owner.clone(), group.clone(), records, seams.clone()).mailbox;
        let shutdown = CancellationToken::new();
        let follow = |shard: &Arc<Shard>, shutdown: &CancellationToken| {
            let plans = Plans::default();
            follow(shard.clone(), plans.clone(), &seams, shutdown.clone());
            plans.watch()
        };
        let plans = [&owner, &follower].map(|shard| follow(shard, &shutdown));
        let begin = |record: InitRecord| {
            let (group, mailbox, registry) = (group.clone(), mailbox.clone(), registry.clone());
            initialise(record, group, mailbox, registry, plans[0].clone(), seams.clone(), shutdown.clone())
        };
        let initialising = seams.spawner.spawn(begin(record()));
        seams.spawner.sleep(Duration::from_secs(10)).await;
        assert!(plans.iter().all(|plan| plan.borrow().is_none()), "nobody leads");

        group.lead(Some(3)).await;
        initialising.await.unwrap();
        seams.spawner.sleep(2 * LOOK_INTERVAL).await;
        let made = Plan::first(&record().members.into_iter().map(Candidate::from).collect::<Vec<_>>(), 64, 3);
        assert!(plans.iter().all(|plan| plan.borrow().as_deref() == Some(&made)));

        // Another owner may try again, with the same record or with another one; neither changes the plan.
        let version = |shard: &Shard| shard.resident(&EntityKey::new("cluster", PLAN).unwrap()).unwrap().version;
        assert_eq!(version(&owner), 1);
        group.lead(None).await;
        group.lead(Some(4)).await;
        submit(&record(), &mailbox, &registry, &seams).await;
        submit(&InitRecord { cluster: ClusterId(8), shards: 8, ..record() }, &mailbox, &registry, &seams).await;
        seams.spawner.sleep(2 * LOOK_INTERVAL).await;
        assert_eq!((version(&owner), version(&follower)), (1, 1));
        assert!(plans.iter().all(|plan| plan.borrow().as_deref() == Some(&made)));

        // After a restart the plan is known before anybody leads.
        shutdown.cancel();
        owner_store.checkpoint().await.unwrap();
        let (again, _) = open_shard(&disks[0].process_killed(), &registry, &seams).await;
        let mut plan = follow(&again, &CancellationToken::new());
        plan.wait_for(Option::is_some).await.unwrap();
        assert_eq!(plan.borrow().as_deref(), Some(&made));
    }

    #[test]
    fn the_largest_plan_is_one_event() {
        let registry = registry().unwrap();
        let kind = registry.get(Cluster::KIND).unwrap();
        let address = format!("{}:65535", "h".repeat(253));
        let record =
            InitRecord { members: members(MEMBERS_MAX as u64, &address), shards: 16_384, replicas: 5, ..record() };
        let body = serde_json::to_vec(&Body { record: &record }).unwrap();
        let command = kind.decode("initialise", &body).unwrap();
        let key = EntityKey::new(Cluster::KIND, PLAN).unwrap();
        let context = Context { now: Timestamp::from_micros(1), key: &key, version: 0, principal: "" };
        let Verdict::Accepted(accepted) = kind.decide(&kind.initial(), &command, &context).unwrap() else { panic!() };
        assert_eq!(accepted.events.len(), 1);
        assert!(accepted.events[0].data.len() < crate::entity::erased::EVENT_BYTES_MAX);
        let Verdict::Rejected(rejected) = kind.decide(&accepted.state, &command, &context).unwrap() else { panic!() };
        assert_eq!(rejected.reason, "already-initialised");
    }

    #[test]
    fn a_record_without_members_shards_or_replicas_makes_no_plan() {
        let key = EntityKey::new(Cluster::KIND, PLAN).unwrap();
        let context = Context { now: Timestamp::from_micros(1), key: &key, version: 0, principal: "" };
        for record in [
            InitRecord { members: Vec::new(), ..record() },
            InitRecord { shards: 0, ..record() },
            InitRecord { replicas: 0, ..record() },
            InitRecord { members: members(1001, "a:1"), ..record() },
        ] {
            let decided = Cluster.decide(&Plan::default(), &Instruction::Initialise { record }, &context);
            assert_eq!(decided.unwrap_err(), Refusal::Unusable);
        }
    }
}
