//! Whole clusters (three nodes and those that come later, gateways, clients) in one deterministic run from a seed: simulated
//! network, time, disks and faults, real code. The same seed gives the same trace.
//!
//! While clients write, read and list, processes end, power goes, disks fill up, fail and rot, links are cut, held or work one
//! way, messages are lost or arrive twice, wall clocks are set, and gossip is cut by itself. In most seeds members come and go
//! besides: nodes join, are drained and leave for good, are away for so long that others take over what they had and come back
//! then, lose their disk and return as another node, and end in the middle of a step of a move: as the one that gives the shard,
//! as the one that gets it, or as a third. At most one disk is lost in a run; where members come and go, while everything on it
//! is on two other nodes.
//!
//! After each run the promises are checked on what clients were told and what the logs hold: durable, exactly once,
//! linearizable (by the versions, and once more by a search that others have written), listed, ordered, one owner at a time,
//! nothing from removed nodes, replicas that agree, progress. And when everything is mended, the cluster must
//! come to rest: every shard, that of the system included, has exactly its planned voters and its planned owner, no learner
//! and no change of voters left; replicas and owners are even; who was told to leave has left, with nothing, counted on by
//! nobody; and there were no more plans than joins, leaves, deaths and returns explain.
//!
//! Every host is a tokio runtime of its own with paused time, stepped by turmoil a millisecond at a time; turmoil seeds the
//! runtimes and the network. What else could differ between two runs goes through the seams, which are given here.

pub mod check;
pub mod client;
pub mod cluster;
pub mod frames;
pub mod history;
pub mod network;
pub mod observer;
pub mod plan;
pub mod planted;
pub mod run;
pub mod summary;
pub mod trace;
pub mod world;

mod model;

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use berth_shared::seam::Seams;
use plan::Plan;
use run::Report;

/// Processor time of this process that may go by while a run lasts, which takes some seconds of it. Not time as it passes: a
/// machine that is busy with something else must not look like a run without an end.
const PATIENCE: Duration = Duration::from_secs(240);
/// So long may a run last however little is done, as where two threads wait for each other.
const LASTS_MAX: Duration = Duration::from_mins(20);
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Room for deep polls of unoptimised code.
const STACK_BYTES: usize = 32 << 20;

/// Runs a seed on a thread of its own, so that nothing of earlier runs is left on it. A panic in the cluster is an error.
pub fn simulate(seed: u64, keeps_trace: bool) -> Result<Report, String> {
    simulate_plan(Plan::new(seed), keeps_trace)
}

/// The same for a plan of one's own.
pub fn simulate_plan(plan: Plan, keeps_trace: bool) -> Result<Report, String> {
    let (sender, receiver) = mpsc::channel();
    let name = format!("seed {}", plan.seed);
    let run = move || {
        let report = panic::catch_unwind(AssertUnwindSafe(|| run::run(&plan, keeps_trace)));
        // Nobody waits any more for what took too long.
        let _ = sender.send(report);
    };
    #[expect(clippy::disallowed_methods, reason = "the simulation's own thread is outside of what is simulated")]
    let running = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(run);
    running.map_err(|error| error.to_string())?;
    match wait(&receiver) {
        Some(Ok(report)) => Ok(report),
        Some(Err(panic)) => {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panicked: {}", message.unwrap_or_default()))
        }
        None => Err(format!(
            "no end after {PATIENCE:?} of work or {LASTS_MAX:?}: tasks that never wait, or threads that wait for each other"
        )),
    }
}

/// What is received, unless that takes too much work or time.
fn wait<T>(receiver: &mpsc::Receiver<T>) -> Option<T> {
    let clock = Seams::system().clock;
    let (begun, worked) = (clock.now(), clock.processor_time());
    loop {
        match receiver.recv_timeout(LOOK_INTERVAL) {
            Ok(received) => return Some(received),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if clock.processor_time().saturating_sub(worked) > PATIENCE || clock.now().since(begun) > LASTS_MAX {
            return None;
        }
    }
}

/// How a seed is run again.
pub fn command(seed: u64) -> String {
    format!("cargo run -p berth-simulation -- --seeds {seed}..{}", seed + 1)
}
