//! One run: builds the world that a plan describes, steps it, breaks what the plan breaks, mends it, and hands what was seen
//! to the checks. What goes on in the world is in `processes`, what breaks in it in `faults`, and who comes and goes in
//! `elastic`.

mod elastic;
mod faults;
mod processes;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Simulated;
use berth_node::disk::SimulatedDisk;
use berth_shared::report::NodeReport;
use berth_shared::seam::simulation;
use parking_lot::Mutex;
use turmoil::Sim;

use crate::check;
use crate::client::Client;
use crate::cluster::{self, NODES};
use crate::history::{Absence, Changes, Departure, History, Outcome, Violation};
use crate::observer::Observer;
use crate::plan::{Ambush, Cut, Plan, QUIET, SETTLING, Scheduled, Stop};
use crate::trace::Trace;
use crate::world::World;
use processes::flawed;

const CLIENTS: &str = "clients";
/// What a cluster may take until it serves, from the start.
const READY_MAX: Duration = Duration::from_secs(60);
/// What reading the logs may take at the end.
const READING_MAX: Duration = Duration::from_secs(60);
/// What it may take until every shard is where it should be, once everything is mended and the clients have finished.
const RESTING_MAX: Duration = Duration::from_secs(60);
/// Every host runs this long before the next one does.
const TICK: Duration = Duration::from_millis(1);

/// How often the nodes are looked into.
const STEPS_PER_LOOK: u64 = 3;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub trace_hash: u128,
    pub trace_events: u64,
    pub simulated: Duration,
    /// What was broken, and how often.
    pub faults: BTreeMap<&'static str, u64>,
    pub history: History,
    pub violations: Vec<Violation>,
    /// The trace, if it was to be kept.
    pub lines: Vec<String>,
}

impl Report {
    /// Requests that were answered as asked.
    pub fn successes(&self) -> usize {
        let is_success = |outcome: &Outcome| {
            matches!(
                outcome,
                Outcome::Applied { .. }
                    | Outcome::State { .. }
                    | Outcome::Rejected { .. }
                    | Outcome::Absent
                    | Outcome::Deleted
            )
        };
        self.history.operations.iter().filter(|operation| is_success(&operation.outcome)).count()
    }
}

/// Runs a plan on the calling thread, which should have run nothing before.
pub fn run(plan: &Plan, keeps_trace: bool) -> Report {
    let trace = Arc::new(Trace::new(keeps_trace));
    let mut run = Run::new(plan, trace.clone());
    let ended = run.play();
    let simulated = run.sim.elapsed();
    let mut history = std::mem::take(&mut *run.history.lock());
    let departures = run.departures.borrow().iter().map(|(_, departure)| departure.clone()).collect();
    history.observed = run.observer.finish(departures, run.changes, run.reports);
    let faults = run.faults;
    // The world outlives what happens while its processes are dropped.
    drop(run.sim);
    // What was observed counts however far the run has come.
    let is_whole = ended.is_ok() && !plan.only_begins;
    let mut violations = if is_whole { check::all(&history) } else { check::beginning(&history) };
    violations.extend(ended.err());
    Report {
        seed: plan.seed,
        trace_hash: trace.hash(),
        trace_events: trace.events(),
        simulated,
        faults,
        history,
        violations,
        lines: trace.take_lines(),
    }
}

type Slots<T> = Rc<RefCell<Vec<T>>>;

struct Run<'a> {
    plan: &'a Plan,
    sim: Sim<'static>,
    world: Arc<World>,
    history: Arc<Mutex<History>>,
    disks: Slots<SimulatedDisk>,
    nodes: Slots<Option<Rc<app::Handle>>>,
    gateways: Slots<Option<berth_gateway::Handle>>,
    /// What the nodes gossip with.
    gossip: Simulated,
    cuts: Vec<Cut>,
    /// Hosts that have come into the world.
    there: BTreeSet<String>,
    /// Nodes that are told to leave, and what was seen of those that have left.
    leaving: Rc<RefCell<BTreeSet<usize>>>,
    departures: Slots<(usize, Departure)>,
    /// How many of them have been looked at.
    departed: usize,
    changes: Changes,
    /// What keeps hosts from being heard, since when.
    away: Vec<Absence>,
    ambushes: Vec<Ambush>,
    /// Nodes that are to lose their disks when they may, and how long they are away then.
    replacing: Vec<(String, Duration)>,
    /// What follows from what was seen; since the start.
    soon: Vec<Scheduled>,
    /// What the nodes said when they were last looked into.
    reports: Vec<NodeReport>,
    /// Draws of disks that lose power.
    power_cuts: u64,
    /// Nodes whose disks return errors.
    failing: Rc<RefCell<BTreeSet<usize>>>,
    /// Nodes whose disks are not what was written.
    rotten: Rc<RefCell<BTreeSet<usize>>>,
    steps: u64,
    faults: BTreeMap<&'static str, u64>,
    observer: Observer,
    _entered: simulation::Entered,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, trace: Arc<Trace>) -> Self {
        let gateways = (0..plan.gateways).map(cluster::gateway_name);
        let nodes = plan.machines.len();
        let mut names: Vec<String> = (0..nodes).map(cluster::node_name).chain(gateways).collect();
        names.push(CLIENTS.to_owned());
        let world = Arc::new(World::new(&names, plan.seed, trace).with(plan.bug));
        let entered = simulation::enter(Rc::new(crate::world::Entrance(world.clone())));
        let sim = turmoil::Builder::new()
            .rng_seed(plan.seed)
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(TICK)
            .min_message_latency(TICK)
            .max_message_latency(plan.latency_max)
            .tcp_capacity(4096)
            .enable_random_order()
            .build();
        let mut run = Self {
            plan,
            sim,
            world,
            history: Arc::default(),
            disks: Rc::new(RefCell::new((0..nodes).map(|_| flawed(SimulatedDisk::new(), plan.flaw)).collect())),
            nodes: Rc::new(RefCell::new((0..nodes).map(|_| None).collect())),
            gateways: Rc::new(RefCell::new((0..plan.gateways).map(|_| None).collect())),
            gossip: Simulated::default(),
            cuts: Vec::new(),
            there: BTreeSet::new(),
            leaving: Rc::default(),
            departures: Rc::default(),
            departed: 0,
            changes: Changes { replace_after: plan.replace_after, ..Changes::default() },
            away: Vec::new(),
            ambushes: Vec::new(),
            replacing: Vec::new(),
            soon: Vec::new(),
            reports: Vec::new(),
            power_cuts: 0,
            failing: Rc::default(),
            rotten: Rc::default(),
            steps: 0,
            faults: BTreeMap::new(),
            observer: Observer::default(),
            _entered: entered,
        };
        // Every name is known before anybody asks for it.
        for name in &names {
            run.sim.lookup(name.as_str());
        }
        (0..NODES).for_each(|number| run.add_node(number));
        (0..plan.gateways).for_each(|number| run.add_gateway(number));
        run
    }

    /// The clients work from now on, until the quiet phase after `heal_at` of the run is over; then the logs are read.
    fn add_clients(&mut self, begun: Duration) {
        let healed = (begun + self.plan.heal_at + SETTLING).as_nanos() as u64;
        let end = healed + QUIET.as_nanos() as u64;
        self.history.lock().healed = healed;
        let host = self.world.host(CLIENTS).clone();
        let (world, history) = (self.world.clone(), self.history.clone());
        let (count, gateways, style) = (self.plan.clients, self.plan.gateways, self.plan.style);
        self.sim.client(CLIENTS, async move {
            world.run_here(CLIENTS);
            let seams = host.seams();
            let client = |number: usize| {
                let own_first = (0..gateways).map(|place| cluster::gateway_address((number + place) % gateways));
                let seams = berth_shared::seam::Seams { random: host.seams().random, ..seams.clone() };
                Client::new(number, host.clone(), seams, own_first.collect(), style, history.clone())
            };
            client(count).open_accounts().await;
            let working = (0..count).map(|number| {
                let mut client = client(number);
                seams.spawner.spawn(async move { client.work_until(end).await })
            });
            for worker in working.collect::<Vec<_>>() {
                worker.await?;
            }
            client(count + 1).read_logs().await?;
            Ok(())
        });
    }

    /// From the start of the processes to the last log that is read.
    fn play(&mut self) -> Result<(), Violation> {
        self.step_until_ready()?;
        if self.plan.only_begins {
            return Ok(());
        }
        let begun = self.sim.elapsed();
        self.add_clients(begun);
        let plan = self.plan;
        let mut actions = plan.actions.iter().peekable();
        let heal_at = begun + self.plan.heal_at;
        let mut is_healed = false;
        let end = heal_at + SETTLING + QUIET + READING_MAX;
        loop {
            let now = self.sim.elapsed();
            while !is_healed
                && let Some(Scheduled { action, .. }) = actions.next_if(|scheduled| begun + scheduled.at <= now)
            {
                self.act(action)?;
            }
            if !is_healed && self.steps.is_multiple_of(STEPS_PER_LOOK) {
                self.follow_up()?;
            }
            if !is_healed && now >= heal_at {
                is_healed = true;
                self.heal()?;
            }
            if self.step()? {
                return self.come_to_rest(RESTING_MAX);
            }
            self.take_ends(is_healed)?;
            if now > end {
                return Err(Violation::new("liveness", "the clients do not come to an end"));
            }
        }
    }

    fn step_until_ready(&mut self) -> Result<(), Violation> {
        let plan = self.plan;
        let mut beginnings = plan.beginnings.iter().peekable();
        while self.sim.elapsed() < READY_MAX {
            let now = self.sim.elapsed();
            while let Some(Scheduled { action, .. }) = beginnings.next_if(|scheduled| scheduled.at <= now) {
                self.act(action)?;
            }
            self.step()?;
            self.take_ends(true)?;
            if self
                .gateways
                .borrow()
                .iter()
                .all(|gateway| gateway.as_ref().is_some_and(berth_gateway::Handle::is_ready))
            {
                self.note("the cluster is ready");
                return Ok(());
            }
        }
        Err(Violation::new("liveness", format!("the cluster does not serve {READY_MAX:?} after its start")))
    }

    /// Whether the clients have finished.
    fn step(&mut self) -> Result<bool, Violation> {
        let finished = self.sim.step().map_err(|error| Violation::new("processes run", error.to_string()))?;
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS_PER_LOOK) {
            self.look();
        }
        Ok(finished)
    }

    fn look(&mut self) {
        let now = self.now();
        let nodes = self.nodes.borrow();
        let running = nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.as_ref()?)));
        let reports: Vec<NodeReport> = running
            .filter_map(|(number, node)| self.world.look_into(&cluster::node_name(number), now, || node.report()))
            .collect();
        drop(nodes);
        self.observer.look(now, &reports, &self.world.trace);
        self.reports = reports;
        self.note_departures();
    }

    /// Processes that have ended themselves: where the disk fails it was to be expected.
    fn take_ends(&mut self, is_healed: bool) -> Result<(), Violation> {
        let hosts = self.world.hosts().to_vec();
        for host in hosts {
            let Some(message) = host.take_end() else { continue };
            let number = self.node_number(&host.name);
            let is_rotten = number.is_some_and(|number| self.rotten.borrow().contains(&number));
            let is_due = number.is_some_and(|number| {
                is_rotten || self.failing.borrow().contains(&number) || self.disks.borrow()[number].power_is_off()
            });
            if !is_due {
                return Err(Violation::new("processes run", format!("{} has ended itself: {message}", host.name)));
            }
            self.stop(&host.name, if is_rotten { Stop::Wipe } else { Stop::PowerCut })?;
            if is_healed || is_rotten {
                self.start(&host.name);
            }
        }
        Ok(())
    }

    /// Nanoseconds since the start.
    fn now(&self) -> u64 {
        self.sim.elapsed().as_nanos() as u64
    }

    fn note(&self, what: &str) {
        self.world.trace.note(self.now(), "simulation", format_args!("{what}"), &[]);
    }
}
