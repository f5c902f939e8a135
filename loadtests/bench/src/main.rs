//! One command that measures Berth against an axum handler that answers a constant, in one run on one machine:
//! reads and durable writes over many counters, and one hot counter, driven by `wrk`. Comparing with the constant handler
//! takes the machine out of the figures: what is left is the price of routing, deciding and making durable.
#![allow(clippy::disallowed_methods, reason = "a tool that measures the real machine; nothing of it is simulated")]

mod client;
mod constant;
mod machine;
mod processes;
mod profile;
mod report;
mod wrk;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use machine::CpuTime;
use processes::{Berth, Constant, Programs};
use report::{Case, Report};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "Measures Berth against a constant axum handler with wrk")]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Rounds; each measures every case once, so that a change of the machine hits all cases alike.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Connections that wrk keeps open.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Threads of wrk.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Counters that reads and writes are spread over.
    #[arg(long, default_value_t = 1_000)]
    counters: u32,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    nodes: u16,
    /// Port of the gateway. Its admin port is the next one, the constant handler's the one after; nodes start 10 above.
    #[arg(long, default_value_t = 18_480)]
    port: u16,
    /// Where data, scripts and the report go. The disk it is on is the one that is measured.
    #[arg(long, default_value = "loadtests/bench/out")]
    out: PathBuf,
    /// The folder with the programs of node and gateway; built first when it is not given.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Measure only these cases.
    #[arg(long, value_enum, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Say where the microseconds go: one more run of each case, under `perf` when it is installed.
    #[arg(long)]
    profile: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Serves the constant answer; started by the measurement itself, as a process of its own.
    Constant { port: u16 },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.part {
        Some(Part::Constant { port }) => constant::serve(port).map(|()| true),
        None => measure(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("berth-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True when no request failed.
fn measure(options: &Options) -> Result<bool> {
    wrk::check_installed()?;
    if options.seconds == 0 || options.rounds == 0 || options.counters == 0 || options.connections < options.threads {
        bail!("--seconds, --rounds and --counters must be above 0, and --connections at least --threads");
    }
    let out = prepare(&options.out)?;
    let programs = Programs::find(options.programs.as_deref())?;
    let machine = machine::describe(&out)?;
    println!("{machine}");
    let flush = machine::fdatasync_latency(&out)?;
    println!("{flush}\n");

    let constant = Constant::start(options.port + 2)?;
    let berth = Berth::start(&programs, options.nodes, options.port, &out)?;
    client::create_counters(options.port, options.counters)?;
    println!(
        "{} nodes, {} counters; {} rounds of {} s",
        options.nodes, options.counters, options.rounds, options.seconds
    );

    let cases = if options.cases.is_empty() { Case::ALL.to_vec() } else { options.cases.clone() };
    let mut report = Report::new(machine, flush, options.connections, options.threads, options.seconds);
    let idle = idle_share(&berth)?;
    println!("idle: {:.1} % of one core per node", idle * 100.0);
    report.idle(idle);
    for round in 1..=options.rounds {
        for case in &cases {
            let server = if *case == Case::Constant { constant.processes() } else { berth.processes() };
            // A gateway looks back for a second at what it was asked for.
            pause(BETWEEN_CASES);
            let measured = wrk::run(options, *case, &server, &out)?;
            println!("round {round}: {:<9} {measured}", case.name());
            report.add(*case, measured);
        }
    }
    let after = machine::fdatasync_latency(&out)?;
    report.flush_after(after);
    if options.profile {
        for case in &cases {
            let server = if *case == Case::Constant { constant.processes() } else { berth.processes() };
            report.add_profile(*case, profile::take(options, *case, &server, &out)?);
        }
    }
    let text = report.render();
    println!("\n{text}");
    write(&out.join("report.md"), &text)?;
    println!("written to {}", out.join("report.md").display());
    Ok(report.is_clean())
}

/// How long an idle cluster is looked at, and left alone before.
const IDLE: std::time::Duration = std::time::Duration::from_secs(10);
const SETTLE: std::time::Duration = std::time::Duration::from_secs(6);
const BETWEEN_CASES: std::time::Duration = std::time::Duration::from_secs(2);

/// The share of one core that a node takes when nothing is asked of it, as the mean over the nodes.
fn idle_share(berth: &Berth) -> Result<f64> {
    pause(SETTLE);
    let nodes = berth.nodes();
    let before = CpuTime::of_processes(&nodes)?;
    pause(IDLE);
    let spent = CpuTime::of_processes(&nodes)?.since(before);
    Ok(spent.total_seconds() / IDLE.as_secs_f64() / nodes.len() as f64)
}

/// Makes the output folder and gives its whole path.
fn prepare(out: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    out.canonicalize().with_context(|| format!("cannot find {}", out.display()))
}

#[expect(clippy::disallowed_methods, reason = "a tool beside the cluster, which no simulation runs")]
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Waits in a tool that has nothing else to do.
#[expect(clippy::disallowed_methods, reason = "a tool beside the cluster, which no simulation runs")]
fn pause(duration: std::time::Duration) {
    std::thread::sleep(duration);
}

#[expect(clippy::disallowed_methods, reason = "a tool beside the cluster, which no simulation runs")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
