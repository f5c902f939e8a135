//! One run: builds the world that a plan describes, steps it, breaks what the plan breaks, mends it, and hands what was seen
//! to the checks.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Simulated;
use berth_node::disk::{Faults, SimulatedDisk};
use berth_shared::report::NodeReport;
use berth_shared::seam::simulation;
use parking_lot::Mutex;
use turmoil::Sim;

use crate::check;
use crate::client::Client;
use crate::cluster::{self, NODES};
use crate::history::{History, Outcome, Violation};
use crate::observer::Observer;
use crate::plan::{Action, Cut, DiskFault, Flaw, How, Plan, QUIET, SETTLING, Scheduled, Stop};
use crate::trace::Trace;
use crate::world::World;

const CLIENTS: &str = "clients";
/// What a cluster may take until it serves, from the start.
const READY_MAX: Duration = Duration::from_secs(60);
/// What reading the logs may take at the end.
const READING_MAX: Duration = Duration::from_secs(60);
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
                Outcome::Applied { .. } | Outcome::State { .. } | Outcome::Rejected { .. } | Outcome::Absent
            )
        };
        self.history.operations.iter().filter(|operation| is_success(&operation.outcome)).count()
    }
}

/// Runs a plan on the calling thread, which should have run nothing before.
pub fn run(plan: &Plan, keeps_trace: bool) -> Report {
    let trace = Arc::new(Trace::new(keeps_trace));
    let mut run = Run::new(plan, trace.clone());
    let mut violations = Vec::new();
    if let Err(violation) = run.play() {
        violations.push(violation);
    }
    let simulated = run.sim.elapsed();
    let mut history = std::mem::take(&mut *run.history.lock());
    history.observed = run.observer.finish();
    // The world outlives what happens while its processes are dropped.
    drop(run.sim);
    if violations.is_empty() {
        violations = if plan.only_begins { check::beginning(&history) } else { check::all(&history) };
    }
    Report {
        seed: plan.seed,
        trace_hash: trace.hash(),
        trace_events: trace.events(),
        simulated,
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
    /// Draws of disks that lose power.
    power_cuts: u64,
    /// Nodes whose disks return errors.
    failing: Rc<RefCell<BTreeSet<usize>>>,
    steps: u64,
    observer: Observer,
    _entered: simulation::Entered,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, trace: Arc<Trace>) -> Self {
        let gateways = (0..plan.gateways).map(cluster::gateway_name);
        let mut names: Vec<String> = (0..NODES).map(cluster::node_name).chain(gateways).collect();
        names.push(CLIENTS.to_owned());
        let world = Arc::new(World::new(&names, plan.seed, trace));
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
            disks: Rc::new(RefCell::new((0..NODES).map(|_| flawed(SimulatedDisk::new(), plan.flaw)).collect())),
            nodes: Rc::new(RefCell::new((0..NODES).map(|_| None).collect())),
            gateways: Rc::new(RefCell::new((0..plan.gateways).map(|_| None).collect())),
            gossip: Simulated::default(),
            cuts: Vec::new(),
            power_cuts: 0,
            failing: Rc::default(),
            steps: 0,
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

    fn add_node(&mut self, number: usize) {
        let name = cluster::node_name(number);
        let machine = self.plan.machines[number];
        let host = self.world.host(&name).clone();
        let crawls = self.plan.flaw == Some(Flaw::ClockCrawls) && number == 0;
        host.set_clock_rate(0, if crawls { 333_333 } else { machine.clock_per_million });
        host.set_wall_offset(machine.wall_offset_micros);
        host.set_disk_pause_max(machine.disk_pause_max);
        let (world, disks, nodes) = (self.world.clone(), self.disks.clone(), self.nodes.clone());
        let (failing, gossip) = (self.failing.clone(), self.gossip.clone());
        self.sim.host(name.clone(), move || {
            let (world, name, host, gossip) = (world.clone(), name.clone(), host.clone(), gossip.clone());
            let (disk, nodes, failing) = (disks.borrow()[number].clone(), nodes.clone(), failing.clone());
            async move {
                world.run_here(&name);
                let process = async {
                    host.seams().spawner.sleep(machine.starts_at.saturating_sub(host.elapsed())).await;
                    let error = match cluster::start_node(number, disk.clone(), gossip.clone(), host.seams()).await {
                        Ok(node) => {
                            let node = Rc::new(node);
                            nodes.borrow_mut()[number] = Some(node.clone());
                            node.ended().await;
                            nodes.borrow_mut()[number] = None;
                            why(node).await
                        }
                        Err(error) => error.to_string(),
                    };
                    if !disk.power_is_off() && !failing.borrow().contains(&number) {
                        return Err(format!("{name} cannot go on: {error}").into());
                    }
                    host.abort(&error);
                    std::future::pending().await
                };
                host.run_until_killed(process).await
            }
        });
    }

    fn add_gateway(&mut self, number: usize) {
        let name = cluster::gateway_name(number);
        let (world, gateways) = (self.world.clone(), self.gateways.clone());
        let host = self.world.host(&name).clone();
        self.sim.host(name.clone(), move || {
            let (world, name, host, gateways) = (world.clone(), name.clone(), host.clone(), gateways.clone());
            async move {
                world.run_here(&name);
                let process = async {
                    let handle = cluster::start_gateway(number, host.seams()).await?;
                    gateways.borrow_mut()[number] = Some(handle);
                    std::future::pending().await
                };
                host.run_until_killed(process).await
            }
        });
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
                let gateway = cluster::gateway_address(number % gateways);
                let seams = berth_shared::seam::Seams { random: host.seams().random, ..seams.clone() };
                Client::new(number, host.clone(), seams, gateway, style, history.clone())
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
            if !is_healed && now >= heal_at {
                is_healed = true;
                self.heal()?;
            }
            if self.step()? {
                return Ok(());
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
        let now = self.sim.elapsed().as_nanos() as u64;
        let nodes = self.nodes.borrow();
        let running = nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.as_ref()?)));
        let reports: Vec<NodeReport> = running
            .filter_map(|(number, node)| self.world.look_into(&cluster::node_name(number), now, || node.report()))
            .collect();
        self.observer.look(now, &reports, &self.world.trace);
    }

    /// Processes that have ended themselves: where the disk fails it was to be expected.
    fn take_ends(&mut self, is_healed: bool) -> Result<(), Violation> {
        let hosts = self.world.hosts().to_vec();
        for host in hosts {
            let Some(message) = host.take_end() else { continue };
            let is_due = node_number(&host.name).is_some_and(|number| {
                self.failing.borrow().contains(&number) || self.disks.borrow()[number].power_is_off()
            });
            if !is_due {
                return Err(Violation::new("processes run", format!("{} has ended itself: {message}", host.name)));
            }
            self.stop(&host.name, Stop::PowerCut)?;
            if is_healed {
                self.start(&host.name);
            }
        }
        Ok(())
    }

    fn act(&mut self, action: &Action) -> Result<(), Violation> {
        self.note(&format!("{action:?}"));
        match action {
            Action::Stop { host, how } => self.stop(host, *how)?,
            Action::PowerGoesAfter { host, writes } => {
                if let Some(number) = node_number(host) {
                    self.disks.borrow()[number].cut_power_after(*writes);
                }
            }
            Action::DiskFails { host, how } => {
                if let Some(number) = node_number(host) {
                    self.disks.borrow()[number].set_faults(faults(*how));
                    self.failing.borrow_mut().insert(number);
                }
            }
            Action::Start { host } => self.start(host),
            Action::Cut(cut) => self.cut(cut),
            Action::Mend(cut) => self.mend(cut),
            Action::SlowDisk { host, pause_max } => self.world.host(host).set_disk_pause_max(*pause_max),
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), Violation> {
        self.note("everything is mended");
        for cut in self.cuts.clone() {
            self.mend(&cut);
        }
        for number in 0..NODES {
            let name = cluster::node_name(number);
            self.world.host(&name).set_disk_pause_max(self.plan.machines[number].disk_pause_max);
            if self.failing.borrow().contains(&number) || self.disks.borrow()[number].power_is_off() {
                self.stop(&name, Stop::PowerCut)?;
            }
            self.start(&name);
        }
        (0..self.plan.gateways).for_each(|number| self.start(&cluster::gateway_name(number)));
        Ok(())
    }

    /// Ends a process, unless it has ended. Takes one step: the process closes its connections in it, unseen but for that.
    fn stop(&mut self, name: &str, how: Stop) -> Result<(), Violation> {
        if !self.sim.is_host_running(name) {
            if let (Stop::Wipe, Some(number)) = (how, node_number(name)) {
                self.put_disk(number, SimulatedDisk::new());
            }
            return Ok(());
        }
        // Without power nobody closes connections; so that none of it arrives, the links are gone for the moment.
        let silenced: Vec<String> = match how {
            Stop::Kill => Vec::new(),
            Stop::PowerCut | Stop::Wipe => self.unbroken_neighbours(name),
        };
        silenced.iter().for_each(|other| self.sim.partition(name, other.as_str()));
        // What is left on the disk is known before anything else writes to it.
        let left = node_number(name).map(|number| (number, self.left_on_disk(number, how)));
        self.world.host(name).kill();
        // Nobody looks into a process that has ended.
        let node = node_number(name).and_then(|number| self.nodes.borrow_mut()[number].take());
        self.step()?;
        // What it said of its end does not matter any more.
        self.world.host(name).take_end();
        self.sim.crash(name);
        drop(node);
        silenced.iter().for_each(|other| self.sim.repair(name, other.as_str()));
        if let Some((number, left)) = left {
            self.put_disk(number, left);
        }
        Ok(())
    }

    fn left_on_disk(&mut self, number: usize, how: Stop) -> SimulatedDisk {
        let disk = self.disks.borrow()[number].clone();
        match how {
            Stop::Kill => disk.process_killed(),
            Stop::Wipe => SimulatedDisk::new(),
            Stop::PowerCut => {
                self.power_cuts += 1;
                disk.power_cut(self.plan.seed.wrapping_mul(31).wrapping_add(self.power_cuts))
            }
        }
    }

    fn put_disk(&mut self, number: usize, disk: SimulatedDisk) {
        self.failing.borrow_mut().remove(&number);
        self.disks.borrow_mut()[number] = flawed(disk, self.plan.flaw);
    }

    fn unbroken_neighbours(&self, name: &str) -> Vec<String> {
        let is_cut = |other: &str| {
            let between = |cut: &Cut| (cut.from == name && cut.to == other) || (cut.from == other && cut.to == name);
            self.cuts.iter().any(between)
        };
        let others = self.world.hosts().iter().map(|host| host.name.clone());
        // The clients' host joins late, and speaks to gateways only.
        others.filter(|other| other != name && other != CLIENTS && !is_cut(other)).collect()
    }

    fn start(&mut self, name: &str) {
        if !self.sim.is_host_running(name) {
            self.note(&format!("{name} starts again"));
            self.sim.bounce(name);
        }
    }

    fn cut(&mut self, cut: &Cut) {
        let (from, to) = (cut.from.as_str(), cut.to.as_str());
        match cut.how {
            How::Both => self.sim.partition(from, to),
            How::OneWay => self.sim.partition_oneway(from, to),
            How::Held => self.sim.hold(from, to),
        }
        self.cuts.push(cut.clone());
    }

    fn mend(&mut self, cut: &Cut) {
        if !self.cuts.contains(cut) {
            return;
        }
        let (from, to) = (cut.from.as_str(), cut.to.as_str());
        match cut.how {
            How::Both => self.sim.repair(from, to),
            How::OneWay => self.sim.repair_oneway(from, to),
            How::Held => self.sim.release(from, to),
        }
        self.cuts.retain(|other| other != cut);
    }

    fn note(&self, what: &str) {
        self.world.trace.note(self.sim.elapsed().as_nanos() as u64, "simulation", format_args!("{what}"), &[]);
    }
}

/// Why a node has ended.
async fn why(node: Rc<app::Handle>) -> String {
    match Rc::try_unwrap(node) {
        Ok(node) => node.shutdown().await.map_or_else(|error| error.to_string(), |()| "it was shut down".to_owned()),
        Err(_) => "somebody looks into it".to_owned(),
    }
}

fn faults(how: DiskFault) -> Faults {
    match how {
        DiskFault::Full => Faults { write: Some(io::ErrorKind::StorageFull), ..Faults::default() },
        DiskFault::SyncFails => Faults { sync: Some(io::ErrorKind::Other), ..Faults::default() },
    }
}

fn flawed(disk: SimulatedDisk, flaw: Option<Flaw>) -> SimulatedDisk {
    disk.set_faults(Faults { sync_lies: flaw == Some(Flaw::DisksForget), ..Faults::default() });
    disk
}

/// The number of the node on the host `name`, if there is one.
fn node_number(name: &str) -> Option<usize> {
    (0..NODES).find(|number| cluster::node_name(*number) == name)
}
