//! Starts the nodes and the gateway of a local cluster and stops them in order.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use berth_node::disk::DirectoryDisk;
use berth_node::entity::Registry;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{Metrics, Tracing};
use tempfile::TempDir;

use crate::arguments::Arguments;

/// Between a node's peer port and its admin port.
const ADMIN_PORT_DISTANCE: u16 = 90;

pub(crate) struct Cluster {
    nodes: Vec<berth_node::app::Handle>,
    gateway: berth_gateway::Handle,
    data: PathBuf,
    /// Removed with the cluster.
    temporary: Option<TempDir>,
}

/// Where one node listens.
#[derive(Clone, Debug)]
struct Ports {
    peer: String,
    admin: String,
}

impl Cluster {
    /// Returns when every shard has an owner that the gateway knows.
    pub(crate) async fn start(arguments: &Arguments, seams: &Seams, tracing: Tracing) -> anyhow::Result<Self> {
        let temporary =
            if arguments.ephemeral { Some(tempfile::tempdir().context("no temporary folder")?) } else { None };
        let data = temporary.as_ref().map_or_else(|| arguments.data.clone(), |folder| folder.path().to_owned());
        let ports = ports(arguments, seams).await?;
        let members: Vec<String> = ports.iter().map(|ports| ports.peer.clone()).collect();
        let mut nodes = Vec::with_capacity(ports.len());
        for (number, ports) in (1..).zip(&ports) {
            nodes.push(start_node(number, ports, &members, arguments, &data, seams, tracing).await?);
        }
        let loopback = |port| format!("127.0.0.1:{port}");
        let config = berth_gateway::Config {
            listen: loopback(arguments.gateway_port),
            admin_listen: loopback(arguments.admin_port),
            nodes: members,
            ..berth_gateway::Config::default()
        };
        let metrics = Metrics::new(&[("role", "gateway")])?;
        let gateway = berth_gateway::start(config, seams.clone(), tracing, metrics).await?;
        gateway.ready().await;
        Ok(Self { nodes, gateway, data, temporary })
    }

    /// What a user needs to know once the cluster is up.
    pub(crate) fn greeting(&self) -> String {
        let (url, admin) = (format!("http://{}", self.gateway.public_address()), self.gateway.admin_address());
        let nodes =
            self.nodes.iter().map(|node| format!("\n            http://{}", node.admin_address())).collect::<String>();
        let lifetime = if self.temporary.is_some() { " (removed at the end)" } else { "" };
        format!(
            "Berth is ready: {count} nodes and a gateway in this process.

  REST API  {url}
  admin     http://{admin} (gateway: /livez /readyz /metrics; nodes below){nodes}
  data      {data}{lifetime}

Try:
  curl -X POST {url}/v1/entities/counter/visits/add -H 'content-type: application/json' -d '{{\"by\":1}}'
  curl {url}/v1/entities/counter/visits

Ctrl-C stops.",
            count = self.nodes.len(),
            data = self.data.display(),
        )
    }

    /// The gateway first, so that no request meets a node that is going.
    pub(crate) async fn shutdown(self) {
        self.gateway.shutdown().await;
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

async fn start_node(
    number: usize,
    ports: &Ports,
    members: &[String],
    arguments: &Arguments,
    data: &std::path::Path,
    seams: &Seams,
    tracing: Tracing,
) -> anyhow::Result<berth_node::app::Handle> {
    let folder = data.join(format!("node-{number}"));
    let mut config = berth_node::config::Config {
        data_dir: folder.clone(),
        listen: ports.peer.clone(),
        admin_listen: ports.admin.clone(),
        ..berth_node::config::Config::default()
    };
    config.cluster.nodes = members.to_vec();
    config.shard.resident_bytes_max = arguments.resident_cap;
    let disk = DirectoryDisk::open(&folder).with_context(|| format!("the data folder {}", folder.display()))?;
    let node = berth_node::app::start(config, Registry::built_in(), Arc::new(disk), seams.clone(), tracing).await;
    node.with_context(|| format!("node {number} in {}", folder.display()))
}

/// Fixed ports, because a data folder remembers its node's address; free ones where data does not outlive the process.
async fn ports(arguments: &Arguments, seams: &Seams) -> anyhow::Result<Vec<Ports>> {
    if !arguments.ephemeral {
        let port = |node: u16| arguments.node_port + node;
        let of = |node| Ports {
            peer: format!("127.0.0.1:{}", port(node)),
            admin: format!("127.0.0.1:{}", port(node) + ADMIN_PORT_DISTANCE),
        };
        return Ok((0..arguments.nodes).map(of).collect());
    }
    // All are held until all are known, so that none is given twice.
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..arguments.nodes {
        let listener = seams.network.listen("127.0.0.1:0").await.context("no free port")?;
        ports.push(Ports { peer: listener.local_address()?, admin: "127.0.0.1:0".to_owned() });
        held.push(listener);
    }
    drop(held);
    Ok(ports)
}
