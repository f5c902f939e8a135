//! A gateway whose nodes are configured as a name.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_gateway::{Config, Handle};
use berth_shared::seam::dns::{MemoryResolver, Resolver};
use berth_shared::seam::network::{Listener, MemoryNetwork, Stream};
use berth_shared::seam::{Network, Seams};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::twin::{CLUSTER, SHARDS, Twin, ask, gateway, owners};
use super::{ADD, PUBLIC};

/// Longer than any answer of DNS is used.
const REFRESHED: Duration = Duration::from_secs(40);

#[derive(Clone, Debug)]
struct Named {
    network: MemoryNetwork,
    dns: MemoryResolver,
    /// Other names of addresses, for who connects.
    aliases: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Network for Named {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        let alias = self.aliases.lock().get(address).cloned();
        Box::pin(async move { self.network.connect(alias.as_deref().unwrap_or(address)).await })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.network.listen(address)
    }

    fn resolver(&self) -> Option<&dyn Resolver> {
        Some(&self.dns)
    }
}

fn named() -> (Seams, Named) {
    let dns = MemoryResolver::new(Duration::from_secs(60));
    let network = Named { network: MemoryNetwork::default(), dns, aliases: Arc::default() };
    (Seams { network: Arc::new(network.clone()), ..Seams::simulated(1) }, network)
}

fn list(network: &Named, nodes: impl IntoIterator<Item = u8>) {
    network.dns.set("nodes", nodes.into_iter().map(|node| IpAddr::from([10, 0, 0, node])));
}

async fn twin(seams: &Seams, node: u8) -> Twin {
    Twin::start(seams, &format!("10.0.0.{node}:1"), CLUSTER, SHARDS, owners("10.0.0.1:1", 1)).await
}

async fn start(seams: &Seams) -> Handle {
    let gateway = gateway(seams, Config { nodes: vec!["nodes:1".to_owned()], ..Config::default() }).await;
    gateway.ready().await;
    gateway
}

#[tokio::test(start_paused = true)]
async fn every_address_of_a_name_is_connected_and_dropped_when_neither_dns_nor_a_node_has_it() {
    let (seams, network) = named();
    let (first, second, third) = (twin(&seams, 1).await, twin(&seams, 2).await, twin(&seams, 3).await);
    list(&network, [1, 2]);
    let _gateway = start(&seams).await;
    seams.spawner.sleep(Duration::from_millis(10)).await;
    assert_eq!([&first, &second, &third].map(Twin::gateways), [1, 1, 0]);
    list(&network, [2, 3]);
    seams.spawner.sleep(REFRESHED).await;
    assert_eq!([&first, &second, &third].map(Twin::gateways), [1, 1, 1], "the first is an owner");
    first.push_members(&["10.0.0.1:1", "10.0.0.3:1"]);
    list(&network, [1]);
    seams.spawner.sleep(REFRESHED).await;
    assert_eq!([&first, &second, &third].map(Twin::gateways), [1, 0, 1], "the third is a member");
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_works_on_while_dns_is_down_and_reaches_nodes_that_come_back() {
    let (seams, network) = named();
    let first = twin(&seams, 1).await;
    list(&network, [1]);
    let gateway = start(&seams).await;
    network.dns.set_down(true);
    seams.spawner.sleep(REFRESHED * 3).await;
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await.status, 200);
    drop(first);
    seams.spawner.sleep(REFRESHED).await;
    assert!(!gateway.is_ready());
    let _first = twin(&seams, 1).await;
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_starts_before_its_name_exists_finds_the_nodes_later() {
    let (seams, network) = named();
    let _first = twin(&seams, 1).await;
    let config = Config { nodes: vec!["nodes:1".to_owned()], ..Config::default() };
    let gateway = gateway(&seams, config).await;
    seams.spawner.sleep(REFRESHED).await;
    assert!(!gateway.is_ready());
    list(&network, [1]);
    seams.spawner.sleep(Duration::from_secs(6)).await;
    assert!(gateway.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_known_by_the_name_itself_is_connected_once() {
    let (seams, network) = named();
    let node = Twin::start(&seams, "node-1:1", CLUSTER, SHARDS, owners("node-1:1", 1)).await;
    network.dns.set("node-1", [IpAddr::from([10, 0, 0, 1])]);
    network.aliases.lock().insert("10.0.0.1:1".to_owned(), "node-1:1".to_owned());
    let gateway = gateway(&seams, Config { nodes: vec!["node-1:1".to_owned()], ..Config::default() }).await;
    gateway.ready().await;
    seams.spawner.sleep(REFRESHED).await;
    assert_eq!(node.gateways(), 1);
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await.status, 200);
}
