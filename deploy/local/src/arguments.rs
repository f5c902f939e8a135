//! The command line of the local cluster.

use std::path::PathBuf;

use berth_node::config::ShardConfig;
use berth_shared::config::{ByteSize, Validate};
use berth_shared::telemetry;
use clap::{Parser, Subcommand};

use crate::{recover, status};

/// Nodes that one process may hold; their ports follow each other, and their admin ports come after them.
pub(crate) const NODES_MAX: u16 = 64;

/// Runs a Berth cluster in one process on loopback: some nodes and a gateway.
#[derive(Clone, Debug, Parser)]
#[command(name = "berth", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Where the nodes keep their data, one folder each.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Keep data in a temporary folder that is removed at the end.
    #[arg(long, conflicts_with = "data")]
    pub(crate) ephemeral: bool,
    /// Number of nodes, 1 to 64; fixed when the data folder is first used.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    pub(crate) nodes: u16,
    /// Port of the REST API; 0 takes a free one.
    #[arg(long, value_name = "P", default_value_t = 8080)]
    pub(crate) gateway_port: u16,
    /// Port of the gateway's health and metrics; 0 takes a free one.
    #[arg(long, value_name = "P", default_value_t = 8090)]
    pub(crate) admin_port: u16,
    /// Peer port of the first node; the others follow, and their admin ports are 90 higher. 0 takes free ones.
    #[arg(long, value_name = "P", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=65_000))]
    pub(crate) node_port: u16,
    /// Memory for entities per node; the least recently used are dropped from memory beyond it.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = resident_cap)]
    pub(crate) resident_cap: ByteSize,
    /// Which log lines are written: a level, or levels by module such as "info,berth_node::journal=debug".
    #[arg(long, value_name = "FILTER", default_value = "warn,openraft=error,openraft::core::heartbeat=off", value_parser = log_filter)]
    pub(crate) log: String,
}

/// What else the program does.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    Status(status::Arguments),
    Recover(recover::Arguments),
}

fn resident_cap(text: &str) -> Result<ByteSize, String> {
    let size = text.parse().map_err(|error: berth_shared::config::UnitError| error.to_string())?;
    let config = ShardConfig { resident_bytes_max: size, ..ShardConfig::default() };
    config.validate().map(|()| size).map_err(|error| error.to_string())
}

fn log_filter(text: &str) -> Result<String, String> {
    let config = telemetry::Config { filter: text.to_owned(), ..telemetry::Config::default() };
    config.validate().map(|()| config.filter).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_its_defaults_are_allowed() {
        Arguments::command().debug_assert();
        let arguments = Arguments::parse_from(["berth"]);
        assert_eq!((arguments.nodes, arguments.gateway_port, arguments.admin_port), (3, 8080, 8090));
        assert_eq!(arguments.resident_cap, ShardConfig::default().resident_bytes_max);
    }

    #[test]
    fn values_that_are_not_allowed_are_refused_with_what_is() {
        for (values, parts) in [
            (&["--nodes", "0"][..], &["--nodes", "1..=64"][..]),
            (&["--resident-cap", "5"], &["--resident-cap", "64MiB"]),
            (&["--resident-cap", "1KiB"], &["--resident-cap", "1KiB is not allowed", "1MiB to 1TiB"]),
            (&["--log", "info,="], &["--log", "info,berth_node=debug"]),
            (&["--gateway-port", "65536"], &["--gateway-port", "0..=65535"]),
            (&["--data", "x", "--ephemeral"], &["--data", "--ephemeral"]),
            (&["status", "--address", "here"], &["--address", "here is not host:port"]),
            (&["recover"], &["--node"]),
            (&["recover", "--node", "a:1", "--shard", "x"], &["--shard", "system"]),
            (&["--nodes", "3", "status"], &["--nodes", "status"]),
        ] {
            let error = Arguments::try_parse_from(["berth"].iter().chain(values)).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
