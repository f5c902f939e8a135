//! What a node is configured with. Every key is documented in `config/node.toml`, with the same defaults.

use std::path::PathBuf;
use std::time::Duration;

use berth_shared::config::{self, ByteSize, HumanDuration, Validate, allow, nested, within};
use berth_shared::telemetry;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where journal, store and identity live. One node per directory.
    pub data_dir: PathBuf,
    /// Where gateways and other nodes connect, `host:port`.
    pub listen: String,
    /// The address by which others reach `listen`; absent: the same.
    pub advertise: Option<String>,
    /// Where health, metrics and cluster operations are served, `host:port`.
    pub admin_listen: String,
    pub cluster: ClusterConfig,
    pub shard: ShardConfig,
    pub journal: JournalConfig,
    pub store: StoreConfig,
    pub telemetry: telemetry::Config,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Clusters of different names refuse each other.
    pub name: String,
    /// Peer addresses of all nodes, this one included, alike on every node; empty: this node alone.
    pub nodes: Vec<String>,
    /// Hash partitions of all entities, fixed when the cluster first starts. 1 to 16,384.
    pub shards: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardConfig {
    /// Memory for entities, over all shards of the node; the least recently used are dropped from memory beyond it.
    pub resident_bytes_max: ByteSize,
    /// Commands waiting per shard; more are refused as overloaded.
    pub mailbox_max: usize,
    /// Batches of one shard on their way to disk.
    pub batches_in_flight_max: usize,
    /// Idempotency keys remembered per shard; more are refused as overloaded.
    pub window_keys_max: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Memory that redb may use for the journal's pages.
    pub cache_size: ByteSize,
    /// Memory for entries that were just written and are about to be applied.
    pub tail_size: ByteSize,
    /// Bytes waiting to be written; more wait.
    pub queue_size: ByteSize,
    /// Live bytes in the journal, past which the shards with the most are checkpointed.
    pub live_size: ByteSize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Memory that redb may use for the store's pages.
    pub cache_size: ByteSize,
    /// Applied changes in memory, waiting to be written; more wait.
    pub queue_size: ByteSize,
    /// How long applied changes are gathered before they are written.
    pub flush_interval: HumanDuration,
    /// How often everything written is made durable.
    pub checkpoint_interval: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "data/node".into(),
            listen: "127.0.0.1:7400".to_owned(),
            advertise: None,
            admin_listen: "127.0.0.1:7490".to_owned(),
            cluster: ClusterConfig::default(),
            shard: ShardConfig::default(),
            journal: JournalConfig::default(),
            store: StoreConfig::default(),
            telemetry: telemetry::Config::default(),
        }
    }
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { name: "berth".to_owned(), nodes: Vec::new(), shards: 64 }
    }
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            resident_bytes_max: ByteSize(256 << 20),
            mailbox_max: 1024,
            batches_in_flight_max: 4,
            window_keys_max: 2_000_000,
        }
    }
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            cache_size: ByteSize(16 << 20),
            tail_size: ByteSize(32 << 20),
            queue_size: ByteSize(32 << 20),
            live_size: ByteSize(128 << 20),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            cache_size: ByteSize(64 << 20),
            queue_size: ByteSize(32 << 20),
            flush_interval: HumanDuration(Duration::from_millis(50)),
            checkpoint_interval: HumanDuration(Duration::from_secs(5)),
        }
    }
}

impl Config {
    /// The address by which others reach this node.
    pub fn address(&self) -> &str {
        self.advertise.as_ref().unwrap_or(&self.listen)
    }

    /// Peer addresses of all nodes, this one included.
    pub fn members(&self) -> Vec<String> {
        if self.cluster.nodes.is_empty() { vec![self.address().to_owned()] } else { self.cluster.nodes.clone() }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), config::Error> {
        for (key, address) in [("listen", &self.listen), ("admin_listen", &self.admin_listen)] {
            is_address(key, address)?;
        }
        if let Some(advertise) = &self.advertise {
            is_address("advertise", advertise)?;
        }
        nested("cluster", &self.cluster)?;
        let listed = self.cluster.nodes.is_empty() || self.cluster.nodes.iter().any(|node| node == self.address());
        let lists = format!("lists that contain this node's own address, {}", self.address());
        allow(listed, "cluster.nodes", format!("{:?}", self.cluster.nodes), lists)?;
        nested("shard", &self.shard)?;
        nested("journal", &self.journal)?;
        nested("store", &self.store)?;
        nested("telemetry", &self.telemetry)
    }
}

impl Validate for ClusterConfig {
    fn validate(&self) -> Result<(), config::Error> {
        allow(!self.name.is_empty(), "name", "an empty name", "names of at least one character")?;
        within("shards", self.shards, 1..=16_384)?;
        self.nodes.iter().try_for_each(|node| is_address("nodes", node))
    }
}

impl Validate for ShardConfig {
    fn validate(&self) -> Result<(), config::Error> {
        within("resident_bytes_max", self.resident_bytes_max, ByteSize(1 << 20)..=ByteSize(1 << 40))?;
        within("mailbox_max", self.mailbox_max, 1..=1_000_000)?;
        within("batches_in_flight_max", self.batches_in_flight_max, 1..=64)?;
        within("window_keys_max", self.window_keys_max, 1_000..=100_000_000)
    }
}

impl Validate for JournalConfig {
    fn validate(&self) -> Result<(), config::Error> {
        within("cache_size", self.cache_size, ByteSize(1 << 20)..=ByteSize(1 << 36))?;
        within("tail_size", self.tail_size, ByteSize(1 << 20)..=ByteSize(1 << 36))?;
        within("queue_size", self.queue_size, ByteSize(1 << 20)..=ByteSize(1 << 36))?;
        within("live_size", self.live_size, ByteSize(1 << 20)..=ByteSize(1 << 40))
    }
}

impl Validate for StoreConfig {
    fn validate(&self) -> Result<(), config::Error> {
        within("cache_size", self.cache_size, ByteSize(1 << 20)..=ByteSize(1 << 40))?;
        within("queue_size", self.queue_size, ByteSize(1 << 20)..=ByteSize(1 << 36))?;
        let milliseconds = |n| HumanDuration(Duration::from_millis(n));
        within("flush_interval", self.flush_interval, milliseconds(1)..=milliseconds(10_000))?;
        within("checkpoint_interval", self.checkpoint_interval, milliseconds(10)..=milliseconds(3_600_000))
    }
}

fn is_address(key: &str, address: &str) -> Result<(), config::Error> {
    let port =
        address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    allow(port.is_some(), key, format!("{address:?}"), "addresses such as \"10.0.0.7:7400\"")
}
