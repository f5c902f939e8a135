//! The gateway as a process of its own: configuration, telemetry, signals.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use berth_gateway::Config;
use berth_shared::cause::in_one_line;
use berth_shared::config;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{self, Metrics};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Routes HTTP requests to the nodes that own the entities.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; without it, BERTH_CONFIG names one or the defaults hold. BERTH_… variables override keys.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-gateway: {}", in_one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = arguments.config.or_else(|| config::file_from_environment(config::PREFIX));
    let config: Config = config::load(file.as_deref(), config::PREFIX)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let seams = Seams::system_with_dns(config.dns_servers());
    let instance = config.listen.clone();
    let telemetry = telemetry::init(&config.telemetry, "berth-gateway", &instance)?;
    let metrics = Metrics::new(&[("role", "gateway")])?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let gateway = berth_gateway::start(config, seams.clone(), telemetry.tracing(), metrics).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot listen for Ctrl-C")?,
    }
    gateway.shutdown().await;
    telemetry.shutdown(seams.spawner).await?;
    Ok(())
}
