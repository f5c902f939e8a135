//! `berth-simulate`: runs seeds and prints what came of each. Ends with an error if a promise was broken, or if a seed ran
//! twice did not give the same trace.

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_shared::planted::Bug;
use berth_simulation::plan::{Flaw, Plan};
use berth_simulation::{command, planted, simulate_plan};
use clap::Parser;

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
        return prove(bugs, &arguments.seeds);
    }
    let mut failed = 0;
    for seed in arguments.seeds.clone() {
        let hash = run(seed, 1, &arguments);
        let repeats = arguments.twice && run(seed, 2, &arguments) != hash;
        if repeats {
            println!("seed {seed}: two runs differ");
        }
        if repeats || hash.is_none() {
            failed += 1;
            println!("again: {}", command(seed));
        }
    }
    println!("{} seeds, {failed} failed", arguments.seeds.count());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Shows for each of `bugs` how many of `seeds` it takes until it is noticed, and by what.
fn prove(bugs: &[Bug], seeds: &Range<u64>) -> ExitCode {
    println!("| planted bug | seeds until noticed | promise seen to be broken | plan |");
    println!("| --- | --- | --- | --- |");
    let mut missed = 0;
    for bug in bugs {
        let plan = if planted::is_directed(*bug) { "directed" } else { "as drawn" };
        match planted::search(*bug, seeds.clone()) {
            Some(caught) => {
                println!("| {} | {} | {} | {plan} |", bug.name(), caught.seeds, caught.promise);
                eprintln!("{}, seed {}: {:.600}", bug.name(), caught.seed, caught.what);
                if let Some((promise, what)) = planted::without(&caught) {
                    missed += 1;
                    println!("{} is wrong without the bug too: {promise}: {what:.600}", bug.name());
                }
            }
            None => {
                missed += 1;
                println!("| {} | not within {} | | {plan} |", bug.name(), seeds.clone().count());
            }
        }
    }
    println!("{} bugs, {missed} not shown", bugs.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a seed and prints what came of it; its trace's hash if all promises were kept.
fn run(seed: u64, time: u32, arguments: &Arguments) -> Option<u128> {
    let plan = Plan { only_begins: arguments.only_begin, flaw: arguments.flaw, ..Plan::new(seed) };
    let report = match simulate_plan(plan, arguments.traces.is_some()) {
        Ok(report) => report,
        Err(error) => {
            println!("seed {seed}: {error}");
            return None;
        }
    };
    if let Some(directory) = &arguments.traces {
        write_trace(&directory.join(format!("{seed}.{time}")), &report.lines);
    }
    println!(
        "seed {seed}: trace {:032x} of {} events, {} of {} requests succeeded in {:.1} s simulated, {} plans, {} violations",
        report.trace_hash,
        report.trace_events,
        report.successes(),
        report.history.operations.len(),
        report.simulated.as_secs_f64(),
        report.history.observed.plan_epoch,
        report.violations.len()
    );
    for violation in report.violations.iter().take(10) {
        println!("  {violation}");
    }
    report.violations.is_empty().then_some(report.trace_hash)
}

fn write_trace(path: &std::path::Path, lines: &[String]) {
    #[expect(clippy::disallowed_methods, reason = "a tool's output, on a real disk")]
    if let Err(error) = std::fs::write(path, lines.join("\n")) {
        eprintln!("{}: {error}", path.display());
    }
}
