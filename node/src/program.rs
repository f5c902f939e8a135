//! The node as a program: command line, configuration, telemetry, and running until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use berth_shared::config;
use berth_shared::seam::Seams;
use berth_shared::telemetry;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::app;
use crate::config::Config;
use crate::disk::DirectoryDisk;
use crate::entity::Registry;

/// A Berth node: owns shards of entities and keeps them on its disk.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file in TOML; `config/node.toml` lists every key. Environment variables BERTH_… override it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs a node with the given kinds until SIGTERM or Ctrl-C: the whole `main` of a program with kinds of its own.
pub fn main_with(registry: Registry) -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments, registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, registry: Registry) -> anyhow::Result<()> {
    let file = arguments.config.clone().or_else(|| config::file_from_environment(config::PREFIX));
    let config: Config = config::load(file.as_deref(), config::PREFIX)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let telemetry = telemetry::init(&config.telemetry, "berth-node", config.address())?;
        let seams = Seams::system();
        let spawner = seams.spawner;
        let disk = Arc::new(DirectoryDisk::open(&config.data_dir)?);
        // Listened for before the start, so that a signal during it is not lost.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let node = app::start(config, registry, disk, seams, telemetry.tracing()).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        node.shutdown().await;
        telemetry.shutdown(spawner).await?;
        Ok(())
    })
}
