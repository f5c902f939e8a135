//! Starts the nodes and the gateway of a local cluster and stops them in order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::disk::{DirectoryDisk, Disk};
use berth_node::entity::Registry;
use berth_shared::cause::in_one_line;
use berth_shared::seam::Seams;
use berth_shared::telemetry::{Metrics, Tracing};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::arguments::{Arguments, NODES_MAX};
use crate::names::Names;

/// Between a node's peer port and its admin port.
const ADMIN_PORT_DISTANCE: u16 = 90;
const _: () = assert!(ADMIN_PORT_DISTANCE >= NODES_MAX, "peer ports do not reach the admin ports");

/// How long shards may take to have owners, and replicas to follow them, once their nodes have started. They need a second.
const READY_MAX: Duration = Duration::from_mins(1);
/// How often nodes are asked whether they are ready.
const READY_PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Cluster {
    nodes: Vec<app::Handle>,
    gateway: berth_gateway::Handle,
}

impl Cluster {
    /// Returns when every node is ready and every shard has an owner that the gateway knows, or nothing when it is given up before. What has
    /// started is stopped again when the rest does not start.
    pub(crate) async fn start(
        arguments: &Arguments,
        data: &Path,
        seams: &Seams,
        tracing: Tracing,
        given_up: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let disks = open_disks(arguments.nodes, data, seams).await?;
        let names = Names::over(seams.network.clone(), (0..arguments.nodes).map(name));
        let seams = Seams { network: Arc::new(names.clone()), ..seams.clone() };
        let mut nodes = Vec::with_capacity(arguments.nodes.into());
        let gateway = async {
            for (number, disk) in (0..).zip(disks) {
                if given_up.is_cancelled() {
                    return Ok(None);
                }
                let node = start_node(number, arguments, disk, &seams, tracing).await?;
                names.set(&name(number), node.address());
                nodes.push(node);
            }
            start_gateway(arguments, &nodes, &seams, tracing, given_up).await
        };
        let gateway = gateway.await;
        if let Ok(Some(gateway)) = gateway {
            return Ok(Some(Self { nodes, gateway }));
        }
        shutdown_nodes(nodes).await;
        gateway.map(|_| None)
    }

    /// What a user needs to know once the cluster is up.
    pub(crate) fn greeting(&self, data: &Path, is_temporary: bool) -> String {
        let (url, admin) = (format!("http://{}", self.gateway.public_address()), self.gateway.admin_address());
        let nodes: Vec<String> = self.nodes.iter().map(|node| format!("http://{}", node.admin_address())).collect();
        let nodes = nodes.join("\n            ");
        let lifetime = if is_temporary { " (removed at the end)" } else { "" };
        let count = match self.nodes.len() {
            1 => "one node".to_owned(),
            count => format!("{count} nodes"),
        };
        format!(
            "Berth is ready: {count} and a gateway in this process.

  REST API  {url}
  admin     http://{admin} (gateway: /livez /readyz /metrics; nodes below)
            {nodes}
  data      {data}{lifetime}

Try:
  curl -X POST {url}/v1/entities/counter/visits/add -H 'content-type: application/json' -d '{{\"by\":1}}'
  curl {url}/v1/entities/counter/visits

Ctrl-C stops.",
            data = data.display(),
        )
    }

    /// The gateway first, so that no request meets a node that is going.
    pub(crate) async fn shutdown(self) {
        self.gateway.shutdown().await;
        shutdown_nodes(self.nodes).await;
    }
}

async fn shutdown_nodes(nodes: Vec<app::Handle>) {
    for ended in join_all(nodes.into_iter().map(app::Handle::shutdown)).await {
        if let Err(error) = ended {
            eprintln!("berth: a node could not go on: {}", in_one_line(&error));
        }
    }
}

/// The address by which others know a node, now and after every other start.
fn name(number: u16) -> String {
    format!("node-{}:7400", number + 1)
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

async fn start_node(
    number: u16,
    arguments: &Arguments,
    disk: Arc<dyn Disk>,
    seams: &Seams,
    tracing: Tracing,
) -> anyhow::Result<app::Handle> {
    let (peer, admin) = match arguments.node_port {
        0 => (0, 0),
        first => (first + number, first + number + ADMIN_PORT_DISTANCE),
    };
    let mut config = berth_node::config::Config {
        listen: loopback(peer),
        advertise: Some(name(number)),
        admin_listen: loopback(admin),
        ..berth_node::config::Config::default()
    };
    config.cluster.seeds = (0..arguments.nodes).map(name).collect();
    config.cluster.expect = Some(arguments.nodes);
    config.shard.resident_bytes_max = arguments.resident_cap;
    let started = app::start(config, Registry::built_in(), disk, Arc::new(Chitchat), seams.clone(), tracing).await;
    started.with_context(|| format!("node {}", number + 1))
}

/// The folders of all nodes, locked. A cluster keeps the number of nodes that it was made with.
async fn open_disks(nodes: u16, data: &Path, seams: &Seams) -> anyhow::Result<Vec<Arc<dyn Disk>>> {
    let folder = |number: u16| data.join(format!("node-{number}"));
    let made_with = (1..=NODES_MAX).rev().find(|number| folder(*number).exists());
    if let Some(made_with) = made_with.filter(|made_with| *made_with != nodes) {
        bail!("the data in {} was made with --nodes {made_with}, not with --nodes {nodes}", data.display());
    }
    // The last one first, so that an end in between leaves the right number.
    let folders: Vec<_> = (1..=nodes).rev().map(folder).collect();
    let open = move || folders.into_iter().map(|folder| DirectoryDisk::open(&folder)).collect::<Result<Vec<_>, _>>();
    let disks = seams.spawner.blocking(open).await?;
    Ok(disks.into_iter().rev().map(|disk| Arc::new(disk) as Arc<dyn Disk>).collect())
}

/// A gateway that knows the owners of all shards, once the nodes are ready, unless it is given up.
async fn start_gateway(
    arguments: &Arguments,
    nodes: &[app::Handle],
    seams: &Seams,
    tracing: Tracing,
    given_up: &CancellationToken,
) -> anyhow::Result<Option<berth_gateway::Handle>> {
    let config = berth_gateway::Config {
        listen: loopback(arguments.gateway_port),
        admin_listen: loopback(arguments.admin_port),
        nodes: (0..arguments.nodes).map(name).collect(),
        ..berth_gateway::Config::default()
    };
    let metrics = Metrics::new(&[("role", "gateway")])?;
    let gateway = berth_gateway::start(config, seams.clone(), tracing, metrics).await;
    let gateway = gateway.context("the gateway, whose ports are chosen by --gateway-port and --admin-port")?;
    let all_ready = async {
        gateway.ready().await;
        while !nodes.iter().all(app::Handle::is_ready) {
            seams.spawner.sleep(READY_PAUSE).await;
        }
    };
    let ready = seams.spawner.timeout(READY_MAX, all_ready);
    match given_up.run_until_cancelled(ready).await {
        Some(Some(())) => Ok(Some(gateway)),
        waited => {
            gateway.shutdown().await;
            match waited {
                Some(_) => bail!(
                    "some shards still have no owner, or replicas that do not follow it, after {} s",
                    READY_MAX.as_secs()
                ),
                None => Ok(None),
            }
        }
    }
}
