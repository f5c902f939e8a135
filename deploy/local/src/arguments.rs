//! The command line of the local cluster.

use std::path::PathBuf;

use berth_shared::config::ByteSize;
use clap::Parser;

/// Runs a Berth cluster in one process on loopback.
#[derive(Clone, Debug, Parser)]
#[command(name = "berth", version)]
pub(crate) struct Arguments {
    /// Where the nodes keep their data, one folder each.
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Keep data in a temporary folder that is removed at the end, and let nodes take free ports.
    #[arg(long, conflicts_with = "data")]
    pub(crate) ephemeral: bool,
    /// Number of nodes; fixed when the data folder is first used.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// Port of the REST API; 0 takes a free one.
    #[arg(long, value_name = "P", default_value_t = 8080)]
    pub(crate) gateway_port: u16,
    /// Port of the gateway's health and metrics; 0 takes a free one.
    #[arg(long, value_name = "P", default_value_t = 8090)]
    pub(crate) admin_port: u16,
    /// Peer port of the first node, the others follow; their admin ports are 90 higher.
    #[arg(long, value_name = "P", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) node_port: u16,
    /// Memory for entities per node, such as 256MiB; the least recently used are dropped from memory beyond it.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub(crate) resident_cap: ByteSize,
    /// Which log lines are written: a level, or levels by module.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub(crate) log: String,
}
