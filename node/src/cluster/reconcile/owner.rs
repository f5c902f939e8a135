//! Moves the shards that this node owns, the system shard among them: looks at all of them again and again, and takes the
//! next step of each, several shards at a time. What it remembers is only what paces it; what to do it sees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use berth_shared::ids::{NodeId, ShardId, Term};
use berth_shared::peer::{self, Class};
use berth_shared::report::{Member, NodeState};
use berth_shared::seam::{BootInstant, Seams};

use super::step::{self, Next, Step, View};
use super::turns::{Since, Turns};
use super::{Admission, Moves};
use crate::cluster::membership::Members;
use crate::cluster::plan::Plan;
use crate::metrics::Metrics;
use crate::shard::group::{Change, Observed};
use crate::shard::hand_off::{self, hand_off};
use crate::transport::hosting::{Hosted, Hosting};
use crate::transport::peers::Peers;
use crate::transport::wire::NodeRequest;

/// How often all shards are looked at when nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// The same while a replica catches up, which is over soon as a rule.
const CATCHING_UP_INTERVAL: Duration = Duration::from_millis(50);
/// A node is given nothing before its connection has stood for so long.
const CONNECTED_MIN: Duration = Duration::from_secs(1);
/// Steps that may be under way at the same time, and hand-offs among them: each stops a shard for a moment, which is shortest
/// when nothing else is handed off meanwhile.
const STEPS_MAX: usize = 16;
const HAND_OFFS_MAX: usize = 1;
/// How long a node hands off nothing after it has, as a multiple of the time that nothing was decided, so that many shards that go
/// at the same time leave most of the time to requests; and at most.
const REST_FACTOR: u32 = 8;
const REST_MAX: Duration = Duration::from_millis(200);
/// How long a step may take before it is given up and looked at anew.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How long a node may take to open a replica, and to bring entities into memory.
const HOST_MAX: Duration = Duration::from_secs(5);
const WARM_MAX: Duration = Duration::from_secs(1);
/// Entities that a node should have in memory before it gets their shard.
const WARM_ENTITIES: usize = 256;
/// Pause after a node had no room for one more replica, at least; at most twice as long.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Pause after a step that did not succeed; it doubles with each that follows.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What it works with.
#[derive(Debug)]
pub struct Reconciler {
    pub node: NodeId,
    pub hosting: Arc<Hosting>,
    pub plan: watch::Receiver<Option<Arc<Plan>>>,
    pub members: watch::Receiver<Arc<Members>>,
    pub peers: Peers,
    pub moves: Arc<Moves>,
    pub metrics: Metrics,
    pub seams: Seams,
}

/// What is remembered of a shard.
#[derive(Debug)]
struct Track {
    term: Term,
    /// Since when each member of the group has been one, in this term and as far as was seen.
    members: BTreeMap<NodeId, BootInstant>,
    /// The kind of the step under way.
    running: Option<&'static str>,
    not_before: BootInstant,
    failures: u32,
}

/// The shards with their tracks, and who may be given something.
#[derive(Debug)]
struct Memory {
    tracks: BTreeMap<ShardId, Track>,
    connected: BTreeMap<NodeId, BootInstant>,
    available: BTreeSet<NodeId>,
    since: Since,
    turns: Turns,
    /// Whether any shard waits for a learner, as of the last look at all of them.
    catching_up: bool,
}

/// How a step ended.
#[derive(Debug)]
enum Ended {
    Done,
    /// The target has too much to do already.
    Busy,
    Failed(String),
}

type Steps = FuturesUnordered<BoxFuture<'static, (ShardId, &'static str, Ended)>>;

impl Reconciler {
    /// Until it is dropped, which ends the steps under way as well.
    pub async fn run(mut self) {
        let mut next_look = self.seams.clock.now();
        let (mut memory, mut steps) = (Memory::new(next_look), Steps::new());
        loop {
            let wait = next_look.since(self.seams.clock.now());
            tokio::select! {
                biased;
                changed = self.plan.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    next_look = self.seams.clock.now();
                }
                Some((shard, kind, ended)) = steps.next(), if !steps.is_empty() => {
                    self.note(&mut memory, shard, kind, ended);
                    match self.hosting.any(shard).filter(|_| kind != HAND_OFF) {
                        Some(hosted) => self.look_at(&mut memory, &hosted, &mut steps),
                        // Its end makes room for another one.
                        None => next_look = self.seams.clock.now(),
                    }
                }
                () = self.seams.spawner.sleep(wait) => {
                    self.look(&mut memory, &mut steps);
                    let interval = if memory.catching_up { CATCHING_UP_INTERVAL } else { LOOK_INTERVAL };
                    next_look = self.seams.clock.now() + interval;
                }
            }
        }
    }

    fn look(&mut self, memory: &mut Memory, steps: &mut Steps) {
        let now = self.seams.clock.now();
        let connected = self.peers.connected();
        memory.connected.retain(|node, _| connected.binary_search(node).is_ok());
        for node in connected {
            memory.connected.entry(node).or_insert(now);
        }
        let members = self.members.borrow_and_update().clone();
        let leaving = members.iter().filter(|member| member.facts.state == NodeState::Leaving);
        let leaving: BTreeSet<NodeId> = leaving.map(|member| member.node).collect();
        let epoch = self.plan.borrow().as_ref().map_or(0, |plan| plan.epoch);
        memory.turns = memory.since.turns(epoch, &members, now);
        let stands = |(node, since): (&NodeId, &BootInstant)| (now.since(*since) >= CONNECTED_MIN).then_some(*node);
        memory.available = memory.connected.iter().filter_map(stands).filter(|node| !leaving.contains(node)).collect();
        memory.catching_up = false;
        let hosted = self.hosting.all();
        for hosted in hosted.iter().chain(&self.hosting.system()) {
            self.look_at(memory, hosted, steps);
        }
        self.moves.retain(|shard| memory.tracks.contains_key(&shard));
    }

    /// Takes the next step of one shard, if there is one and it may be taken now.
    fn look_at(&self, memory: &mut Memory, hosted: &Arc<Hosted>, steps: &mut Steps) {
        let shard = hosted.shard.id();
        let Some(plan) = self.plan.borrow().clone() else { return };
        let Some(observed) = hosted.group.observe() else {
            // A step that is under way ends by itself.
            if memory.tracks.get(&shard).is_some_and(|track| track.running.is_none()) {
                memory.tracks.remove(&shard);
            }
            return;
        };
        let now = self.seams.clock.now();
        let fresh = |term| Track { term, members: BTreeMap::new(), running: None, not_before: now, failures: 0 };
        let track = memory.tracks.entry(shard).or_insert_with(|| fresh(observed.term));
        if track.term != observed.term {
            let running = track.running;
            *track = Track { running, ..fresh(observed.term) };
        }
        let planned: Vec<NodeId> = plan.replicas_of(shard).map(|member| member.node).collect();
        let next = track.next(self.node, &observed, &planned, (&memory.available, memory.turns), now);
        let Next::Do(step) = next else {
            if track.running.is_none() {
                self.moves.end(shard);
            }
            return;
        };
        let hand_offs = steps_of(memory, HAND_OFF);
        let Some(track) = memory.tracks.get_mut(&shard) else { return };
        let is_full = steps.len() >= STEPS_MAX || (step.name() == HAND_OFF && hand_offs >= HAND_OFFS_MAX);
        if track.running.is_some() || now < track.not_before || (is_full && !matches!(step, Step::CatchUp(_))) {
            return;
        }
        let target = step.target().unwrap_or(self.node);
        if self.moves.begin(shard, step.name(), target, self.seams.clock.wall_micros()) {
            tracing::info!(%shard, step = step.name(), %target, term = observed.term, epoch = plan.epoch, "a move goes on");
        }
        if matches!(step, Step::CatchUp(_)) {
            memory.catching_up = true;
            return;
        }
        track.running = Some(step.name());
        steps.push(self.take(hosted.clone(), observed.term, &plan, step));
    }

    fn note(&self, memory: &mut Memory, shard: ShardId, kind: &'static str, ended: Ended) {
        self.metrics.steps.increment(kind, ended.name());
        let now = self.seams.clock.now();
        let Some(track) = memory.tracks.get_mut(&shard) else { return };
        track.running = None;
        match ended {
            Ended::Done => {
                track.failures = 0;
                self.moves.done(shard, kind, self.seams.clock.wall_micros());
            }
            Ended::Busy => track.not_before = now + BUSY_PAUSE + jitter(&self.seams),
            Ended::Failed(why) => {
                let pause = PAUSE_MIN.saturating_mul(1 << track.failures.min(10)).min(PAUSE_MAX);
                track.failures += 1;
                track.not_before = now + pause;
                tracing::info!(%shard, step = kind, failures = track.failures, "a move is held up: {why}");
            }
        }
    }

    /// One step, to its end or its deadline.
    fn take(
        &self,
        hosted: Arc<Hosted>,
        term: Term,
        plan: &Plan,
        step: Step,
    ) -> BoxFuture<'static, (ShardId, &'static str, Ended)> {
        let (shard, kind) = (hosted.shard.id(), step.name());
        let address =
            step.target().and_then(|node| plan.replicas_of(shard).find(|member| member.node == node).cloned());
        let (peers, seams, metrics, epoch) = (self.peers.clone(), self.seams.clone(), self.metrics.clone(), plan.epoch);
        let taking = async move {
            let taken = seams.spawner.timeout(STEP_MAX, async {
                match step {
                    Step::AddLearner(_) => add_learner(&hosted, term, address, epoch, &peers, &seams).await,
                    Step::HandOff(node) => hand_over(&hosted, node, &peers, &seams, &metrics).await,
                    Step::CatchUp(_) => Ended::Done,
                    Step::RemoveLearner(node) => change(&hosted, term, Change::RemoveLearner(node)).await,
                    Step::FinishChange(voters) | Step::Promote { voters, .. } | Step::RemoveVoter { voters, .. } => {
                        change(&hosted, term, Change::Voters(voters)).await
                    }
                }
            });
            (shard, kind, taken.await.unwrap_or_else(|| Ended::Failed("it takes too long".to_owned())))
        };
        Box::pin(taking)
    }
}

impl Memory {
    fn new(now: BootInstant) -> Self {
        Self {
            tracks: BTreeMap::new(),
            connected: BTreeMap::new(),
            available: BTreeSet::new(),
            since: Since::new(now),
            turns: Turns { copies_wait: false, owners_wait: false },
            catching_up: false,
        }
    }
}

const HAND_OFF: &str = "hand-off";

fn steps_of(memory: &Memory, kind: &str) -> usize {
    memory.tracks.values().filter(|track| track.running == Some(kind)).count()
}

impl Ended {
    fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Busy => "busy",
            Self::Failed(_) => "failed",
        }
    }
}

fn jitter(seams: &Seams) -> Duration {
    Duration::from_micros(seams.random.next_u64() % BUSY_PAUSE.as_micros() as u64)
}

impl Track {
    fn next(
        &mut self,
        node: NodeId,
        observed: &Observed,
        planned: &[NodeId],
        (available, turns): (&BTreeSet<NodeId>, Turns),
        now: BootInstant,
    ) -> Next {
        self.members.retain(|node, _| observed.followers.contains_key(node));
        let members = observed.followers.iter().map(|(node, follower)| {
            let since = *self.members.entry(*node).or_insert(now);
            let heard = follower.answered.map_or(since, |answered| answered.max(since));
            (
                *node,
                step::Member {
                    behind: observed.behind(*node).unwrap_or(u64::MAX),
                    silent: now.since(heard),
                    age: now.since(since),
                },
            )
        });
        let members = members.collect();
        step::next(&View {
            this: node,
            configurations: &observed.configurations,
            learners: &observed.learners,
            is_committed: observed.is_committed,
            members: &members,
            planned,
            available,
            turns,
        })
    }
}

async fn add_learner(
    hosted: &Hosted,
    term: Term,
    member: Option<Member>,
    epoch: u64,
    peers: &Peers,
    seams: &Seams,
) -> Ended {
    let Some(Member { node, address }) = member else { return Ended::Failed("the plan has changed".to_owned()) };
    let request = NodeRequest::Host { shard: hosted.shard.id(), epoch };
    match ask(peers, node, &request, HOST_MAX, seams).await {
        Ok(Admission::Admitted) => change(hosted, term, Change::AddLearner { node, address }).await,
        Ok(Admission::Busy | Admission::NotPlanned) => Ended::Busy,
        Ok(Admission::Failed) => Ended::Failed("the node cannot open a replica".to_owned()),
        Err(why) => Ended::Failed(why),
    }
}

async fn change(hosted: &Hosted, term: Term, change: Change) -> Ended {
    match hosted.group.change(term, change).await {
        Ok(()) => Ended::Done,
        Err(error) => Ended::Failed(error.to_string()),
    }
}

/// Has the busiest entities brought into memory where the shard goes to, and hands it over.
async fn hand_over(hosted: &Hosted, to: NodeId, peers: &Peers, seams: &Seams, metrics: &Metrics) -> Ended {
    let shard = hosted.shard.id();
    let keys = hosted.shard.busiest(WARM_ENTITIES);
    if !keys.is_empty() {
        let keys = keys.iter().map(|key| (key.kind().to_owned(), key.id().to_owned())).collect();
        let warmed: Result<(), String> = ask(peers, to, &NodeRequest::Warm { shard, keys }, WARM_MAX, seams).await;
        if let Err(why) = warmed {
            tracing::debug!(%shard, %to, why, "the busiest entities are not in memory where the shard goes to");
        }
    }
    match hand_off(&*hosted.group, &hosted.hold, to, seams).await {
        Ok(pause) => {
            metrics.hand_off_seconds.record(pause.as_secs_f64());
            let pause_millis = pause.as_secs_f64() * 1000.0;
            tracing::info!(%shard, %to, pause_millis, "a shard was handed off");
            seams.spawner.sleep((pause * REST_FACTOR).min(REST_MAX)).await;
            Ended::Done
        }
        Err(error) => Ended::Failed(hand_off::Error::to_string(&error)),
    }
}

async fn ask<T: serde::de::DeserializeOwned>(
    peers: &Peers,
    node: NodeId,
    request: &NodeRequest<'_>,
    time: Duration,
    seams: &Seams,
) -> Result<T, String> {
    let payload = peer::encode(request).map_err(|error| error.to_string())?;
    let deadline = seams.clock.now() + time;
    let answer = peers.call(node, Class::Control, payload, deadline).await.map_err(|error| error.to_string())?;
    peer::decode(&answer).map_err(|error| error.to_string())
}
