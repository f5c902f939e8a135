//! `berth-simulate`: runs seeds and prints what came of each. Ends with an error if a promise was broken, or if a seed ran
//! twice did not give the same trace.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use berth_shared::planted::Bug;
use berth_shared::seam::Seams;
use berth_simulation::plan::{Flaw, Plan};
use berth_simulation::run::Report;
use berth_simulation::summary::Summary;
use berth_simulation::{command, planted, simulate_plan};
use clap::Parser;
use parking_lot::Mutex;
use serde_json::json;

/// Runs whole Berth clusters in simulation.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which seeds, from..to; `to` is not run.
    #[arg(long, value_parser = parse_seeds)]
    seeds: Range<u64>,
    /// Runs every seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Only starts the clusters, and looks whether each becomes one.
    #[arg(long)]
    only_begin: bool,
    /// Plants something that must not be; then a run should fail.
    #[arg(long)]
    flaw: Option<Flaw>,
    /// Plants a bug in the programs, by its name, or each of them one after the other (`all`), and runs the seeds until it is
    /// noticed. Prints a table of what noticed it, and fails if something was not. Only in builds with debug assertions.
    #[arg(long, value_parser = parse_bugs)]
    planted: Option<Bugs>,
    /// How many seeds run at once, or how many bugs are looked for.
    #[arg(long, default_value = "1")]
    jobs: NonZeroUsize,
    /// Writes what all seeds came to, as JSON, to this file.
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Writes the trace of every seed to `<directory>/<seed>.<1 or 2>`.
    #[arg(long)]
    traces: Option<PathBuf>,
}

/// Bugs to plant.
#[derive(Clone, Debug)]
struct Bugs(Vec<Bug>);

fn parse_bugs(text: &str) -> Result<Bugs, String> {
    if cfg!(not(debug_assertions)) {
        return Err("this program was built without debug assertions, and so without bugs".to_owned());
    }
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| text == "all" || text == bug.name()).collect();
    let names = || Bug::ALL.map(Bug::name).join(", ");
    if bugs.is_empty() { Err(format!("it is one of {}, or all", names())) } else { Ok(Bugs(bugs)) }
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("seeds are written from..to")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    Ok(number(from)?..number(to)?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Bugs(bugs)) = &arguments.planted {
        return prove(bugs, &arguments);
    }
    let clock = Seams::system().clock;
    let (begun, next) = (clock.now(), AtomicU64::new(arguments.seeds.start));
    let summary = Mutex::new(Summary::default());
    at_once(arguments.jobs, || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= arguments.seeds.end {
                break;
            }
            run(seed, &arguments, &summary);
        }
    });
    let summary = summary.into_inner();
    let json = summary.json(&arguments.seeds, clock.now().since(begun), arguments.jobs.get());
    println!("{} seeds, {} failed, {} s per seed", json["runs"], json["failed"], json["secondsPerSeed"]);
    if let Some(path) = &arguments.summary {
        write(path, &format!("{json:#}\n"));
    }
    if summary.failed().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does `work` on so many threads, and waits for all of them.
#[expect(clippy::disallowed_methods, reason = "the tool's own threads are outside of what is simulated")]
fn at_once(jobs: NonZeroUsize, work: impl Fn() + Sync) {
    thread::scope(|scope| (0..jobs.get()).for_each(|_| drop(scope.spawn(&work))));
}

/// Shows for each of `bugs` how many of the seeds it takes until it is noticed, and by what.
fn prove(bugs: &[Bug], arguments: &Arguments) -> ExitCode {
    println!("| planted bug | seeds until noticed | promise seen to be broken | plan |");
    println!("| --- | --- | --- | --- |");
    let (next, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let rows = Mutex::new(Vec::new());
    at_once(arguments.jobs, || {
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let caught = planted::search(*bug, arguments.seeds.clone());
            let is_wrong_without = caught.as_ref().and_then(planted::without);
            missed.fetch_add(usize::from(caught.is_none() || is_wrong_without.is_some()), Ordering::Relaxed);
            let plan = if planted::is_directed(*bug) { "directed" } else { "as drawn" };
            let (seeds, promise) = match &caught {
                Some(caught) => (caught.seeds.to_string(), caught.promise.as_str()),
                None => (format!("not within {}", arguments.seeds.clone().count()), ""),
            };
            let mut rows = rows.lock();
            println!("| {} | {seeds} | {promise} | {plan} |", bug.name());
            if let Some(caught) = &caught {
                eprintln!("{}, seed {}: {:.600}", bug.name(), caught.seed, caught.what);
            }
            if let Some((promise, what)) = &is_wrong_without {
                println!("{} is wrong without the bug too: {promise}: {what:.600}", bug.name());
            }
            rows.push(json!({ "bug": bug.name(), "seeds": seeds, "promise": promise, "plan": plan }));
        }
    });
    let missed = missed.into_inner();
    println!("{} bugs, {missed} not shown", bugs.len());
    if let Some(path) = &arguments.summary {
        let mut rows = rows.into_inner();
        rows.sort_by_key(|row| row["bug"].to_string());
        write(path, &format!("{:#}\n", json!({ "planted": rows })));
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed, once or twice, and prints what came of it.
fn run(seed: u64, arguments: &Arguments, summary: &Mutex<Summary>) {
    let mut report = run_once(seed, 1, arguments);
    let mut lines = described(seed, &report);
    let hash = |report: &Result<Report, String>| report.as_ref().ok().map(|report| report.trace_hash);
    if arguments.twice && hash(&run_once(seed, 2, arguments)) != hash(&report) {
        lines.push(format!("seed {seed}: two runs differ"));
        report = Err("two runs differ".to_owned());
    }
    if !report.as_ref().is_ok_and(|report| report.violations.is_empty()) {
        lines.push(format!("again: {}", command(seed)));
    }
    // One after the other, also where several run at once.
    let mut summary = summary.lock();
    println!("{}", lines.join("\n"));
    summary.add(seed, &report);
}

fn run_once(seed: u64, time: u32, arguments: &Arguments) -> Result<Report, String> {
    let plan = Plan { only_begins: arguments.only_begin, flaw: arguments.flaw, ..Plan::new(seed) };
    let report = simulate_plan(plan, arguments.traces.is_some())?;
    if let Some(directory) = &arguments.traces {
        write(&directory.join(format!("{seed}.{time}")), &report.lines.join("\n"));
    }
    Ok(report)
}

fn described(seed: u64, report: &Result<Report, String>) -> Vec<String> {
    let report = match report {
        Ok(report) => report,
        Err(error) => return vec![format!("seed {seed}: {error}")],
    };
    let mut lines = vec![format!(
        "seed {seed}: trace {:032x} of {} events, {} of {} requests succeeded in {:.1} s simulated, {} plans, {} violations",
        report.trace_hash,
        report.trace_events,
        report.successes(),
        report.history.operations.len(),
        report.simulated.as_secs_f64(),
        report.history.observed.plan_epoch,
        report.violations.len()
    )];
    lines.extend(report.violations.iter().take(10).map(|violation| format!("  {violation}")));
    lines
}

fn write(path: &Path, text: &str) {
    #[expect(clippy::disallowed_methods, reason = "a tool's output, on a real disk")]
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("{}: {error}", path.display());
    }
}
