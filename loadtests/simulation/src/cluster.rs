//! What a simulated cluster consists of and how its processes are configured and started: all that depends on it is here.

use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Simulated;
use berth_node::disk::SimulatedDisk;
use berth_node::entity::Registry;
use berth_shared::config::{ByteSize, HumanDuration};
use berth_shared::seam::Seams;
use berth_shared::telemetry::{Metrics, Tracing};

use crate::network::HTTP_PORT;

/// The nodes that the cluster begins with; others are counted on from there.
pub const NODES: usize = 3;
/// Few shards, so that the entities of a run share them.
pub const SHARDS: u16 = 4;
const PEER_PORT: u16 = 7400;
const ADMIN_PORT: u16 = 7490;

/// The name of a node's host, counted from 0.
pub fn node_name(number: usize) -> String {
    format!("node-{}", number + 1)
}

/// The name of a gateway's host, counted from 0.
pub fn gateway_name(number: usize) -> String {
    format!("gateway-{}", number + 1)
}

/// Where clients reach a gateway.
pub fn gateway_address(number: usize) -> String {
    format!("{}:{HTTP_PORT}", gateway_name(number))
}

/// Where nodes reach each other.
pub fn peer_address(number: usize) -> String {
    format!("{}:{PEER_PORT}", node_name(number))
}

fn node_config(number: usize, replace_after: Duration) -> berth_node::config::Config {
    let mut config = berth_node::config::Config {
        listen: peer_address(number),
        admin_listen: format!("{}:{ADMIN_PORT}", node_name(number)),
        ..berth_node::config::Config::default()
    };
    config.cluster.shards = SHARDS;
    config.cluster.seeds = (0..NODES).map(peer_address).collect();
    config.cluster.expect = Some(NODES as u16);
    config.cluster.replace_after = HumanDuration(replace_after);
    // The least there may be, so that journals are cut short under replicas that are behind, which then get a snapshot.
    config.journal.live_size = ByteSize(1 << 20);
    // Often, so that power cuts meet checkpoints.
    config.store.checkpoint_interval = HumanDuration::from_millis(500);
    config
}

/// Starts a node on `disk`.
pub async fn start_node(
    number: usize,
    replace_after: Duration,
    disk: SimulatedDisk,
    gossip: Simulated,
    seams: Seams,
) -> Result<app::Handle, app::Error> {
    let (config, kinds) = (node_config(number, replace_after), Registry::built_in());
    app::start(config, kinds, Arc::new(disk), Arc::new(gossip), seams, Tracing::OFF).await
}

/// Starts a gateway, which knows the first nodes from the start.
pub async fn start_gateway(number: usize, seams: Seams) -> anyhow::Result<berth_gateway::Handle> {
    let config = berth_gateway::Config {
        listen: gateway_address(number),
        admin_listen: format!("{}:{ADMIN_PORT}", gateway_name(number)),
        nodes: (0..NODES).map(peer_address).collect(),
        ..berth_gateway::Config::default()
    };
    let metrics = Metrics::new(&[("role", "gateway")])?;
    Ok(berth_gateway::start(config, seams, Tracing::OFF, metrics).await?)
}
