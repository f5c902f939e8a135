//! The node as a program: command line, configuration, telemetry, and running until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use berth_shared::cause::in_one_line;
use berth_shared::config;
use berth_shared::seam::Seams;
use berth_shared::telemetry;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::app;
use crate::cluster::membership::Chitchat;
use crate::config::Config;
use crate::disk::DirectoryDisk;
use crate::entity::Registry;
use crate::entity::registry;

/// A Berth node: owns shards of entities and keeps them on its disk.
#[derive(Debug, Default, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file in TOML; `config/node.toml` lists every key. Without it, BERTH_CONFIG names one or the defaults
    /// hold. Environment variables BERTH_… override keys.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Makes a cluster of exactly the nodes at the addresses in `--members`, in place of any that could not be completed: the
    /// way out when a first start is stuck. Give it to one node, which must be among them. Refused where a cluster is seen.
    #[arg(long, requires = "members")]
    init: bool,
    /// Peer addresses with commas between them, such as node-1:7400,node-2:7400,node-3:7400.
    #[arg(long, requires = "init", value_delimiter = ',', value_name = "ADDRESSES")]
    members: Option<Vec<String>>,
}

/// How long work that is left over may go on after the node has stopped, or has not started.
const LEFT_OVER_MAX: Duration = Duration::from_secs(5);

/// Runs a node until it is told to stop: after SIGTERM it first gives its shards away to other nodes, a second one or Ctrl-C
/// stops it where it is. The whole `main` of a program with kinds of its own.
///
/// ```no_run
/// # use berth_node::entity::Registry;
/// # use berth_node::entity::kinds::Counter;
/// fn main() -> std::process::ExitCode {
///     berth_node::main_with(|| Registry::new().add(Counter))
/// }
/// ```
///
/// Whatever keeps the node from starting, a kind that breaks the rules among it, is one line on standard error and a failure.
pub fn main_with(kinds: impl FnOnce() -> Result<Registry, registry::Error>) -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments, kinds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-node: {}", in_one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, kinds: impl FnOnce() -> Result<Registry, registry::Error>) -> anyhow::Result<()> {
    let registry = kinds()?;
    let file = arguments.config.clone().or_else(|| config::file_from_environment(config::PREFIX));
    let mut config: Config = config::load(file.as_deref(), config::PREFIX)?;
    if let Some(members) = &arguments.members {
        members.iter().try_for_each(|member| config::address("--members", member, 1))?;
        config.cluster.init = Some(members.clone());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let served = runtime.block_on(serve(config, registry));
    runtime.shutdown_timeout(LEFT_OVER_MAX);
    served
}

async fn serve(config: Config, registry: Registry) -> anyhow::Result<()> {
    let telemetry = telemetry::init(&config.telemetry, "berth-node", config.address())?;
    let seams = Seams::system_with_dns(config.dns_servers());
    let spawner = seams.spawner;
    let disk = Arc::new(DirectoryDisk::open(&config.data_dir)?);
    // Listened for before the start, so that a signal during it is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let node = app::start(config, registry, disk, Arc::new(Chitchat), seams, telemetry.tracing()).await?;
    // SIGTERM lets the node give everything away first; a second one, or Ctrl-C, does not wait for that.
    let leaves = tokio::select! {
        biased;
        _ = interrupt.recv() => false,
        () = node.ended() => false,
        () = node.left() => false,
        _ = terminate.recv() => true,
    };
    if leaves {
        node.drain();
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = node.ended() => {}
            () = node.left() => {}
        }
    }
    let ended = node.shutdown().await;
    telemetry.shutdown(spawner).await?;
    Ok(ended?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::kinds::Counter;

    #[test]
    fn init_and_members_are_given_together() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["berth-node"], arguments].concat());
        let both = parse(&["--init", "--members", "a:1,b:2"]).unwrap();
        assert!(both.init && both.members.unwrap() == ["a:1", "b:2"]);
        assert!(!parse(&[]).unwrap().init);
        assert!(parse(&["--init"]).is_err() && parse(&["--members", "a:1"]).is_err());
        let arguments = parse(&["--init", "--members", "a"]).unwrap();
        let error = run(&arguments, || Ok(Registry::built_in())).unwrap_err();
        assert!(in_one_line(&*error).starts_with("--members: \"a\" is not allowed"), "{error}");
    }

    #[test]
    fn a_kind_that_breaks_the_rules_is_named_before_anything_is_started() {
        let error = run(&Arguments::default(), || Registry::built_in().add(Counter)).unwrap_err();
        assert_eq!(in_one_line(&*error), "there are two kinds named counter");
    }
}
