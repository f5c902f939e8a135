//! A whole Berth cluster in one process, on loopback: some nodes and a gateway, for trying it out. The same rooms as the
//! separate programs; only the wiring is here.

mod arguments;
mod cluster;

use std::process::ExitCode;

use anyhow::Context;
use berth_shared::seam::Seams;
use berth_shared::telemetry;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use arguments::Arguments;
use cluster::Cluster;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ran = runtime.context("cannot start threads").and_then(|runtime| runtime.block_on(run(arguments)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = telemetry::Config { filter: arguments.log.clone(), ..telemetry::Config::default() };
    let telemetry = telemetry::init(&config, "berth", "local")?;
    let seams = Seams::system();
    // Listened for before the start, so that a signal during it is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cluster = tokio::select! {
        started = Cluster::start(&arguments, &seams, telemetry.tracing()) => started?,
        _ = interrupt.recv() => anyhow::bail!("stopped before it was ready"),
    };
    println!("{}", cluster.greeting());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    println!("stopping");
    cluster.shutdown().await;
    telemetry.shutdown(seams.spawner).await?;
    Ok(())
}
