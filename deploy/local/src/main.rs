//! A whole Berth cluster in one process, on loopback: some nodes and a gateway, for trying it out. The same rooms as the
//! separate programs; only the wiring is here.

mod admin_port;
mod arguments;
mod cluster;
mod names;
mod recover;
mod status;

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use berth_shared::cause::in_one_line;
use berth_shared::seam::Seams;
use berth_shared::telemetry;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use arguments::{Arguments, Command};
use cluster::Cluster;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long work that is left over may go on after the cluster has stopped, or has not started.
const LEFT_OVER_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("berth: {}", in_one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(command) = &arguments.command {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return match command {
            Command::Status(arguments) => runtime.block_on(status::run(arguments)).map(|()| ExitCode::SUCCESS),
            Command::Recover(arguments) => runtime.block_on(recover::run(arguments)),
        };
    }
    // Outlives all that works in it, and is removed however this ends.
    let temporary = arguments.ephemeral.then(tempfile::tempdir).transpose().context("no temporary folder")?;
    let data = temporary.as_ref().map_or(arguments.data.as_path(), |folder| folder.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let served = runtime.block_on(serve(arguments, data));
    runtime.shutdown_timeout(LEFT_OVER_MAX);
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(arguments: &Arguments, data: &Path) -> anyhow::Result<()> {
    let config = telemetry::Config { filter: arguments.log.clone(), ..telemetry::Config::default() };
    let telemetry = telemetry::init(&config, "berth", "local")?;
    let seams = Seams::system();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut told_to_stop = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let given_up = CancellationToken::new();
    let mut start = pin!(Cluster::start(arguments, data, &seams, telemetry.tracing(), &given_up));
    let started = match unless(told_to_stop(), &mut start).await {
        Some(started) => Some(started),
        None => {
            given_up.cancel();
            say("stopping before it was ready; Ctrl-C again does not wait for what was begun");
            unless(told_to_stop(), start).await
        }
    };
    let Some(Some(cluster)) = started.transpose()? else { return Ok(()) };
    say(&cluster.greeting(data, arguments.ephemeral));
    told_to_stop().await;
    say("stopping; Ctrl-C again does not wait for running requests");
    if unless(told_to_stop(), cluster.shutdown()).await.is_some() {
        telemetry.shutdown(seams.spawner).await?;
    }
    Ok(())
}

/// What `work` gives, or `None` when `stop` comes before it.
async fn unless<T>(stop: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        () = stop => None,
    }
}

/// To whoever started this; whether anybody still reads it changes nothing.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
