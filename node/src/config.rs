//! What a node is configured with. Every key is documented in `config/node.toml`, with the same defaults.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use berth_shared::config::{self, ByteSize, HumanDuration, Validate, allow, nested, within};
use berth_shared::peer::security;
use berth_shared::seam::network::is_name;
use berth_shared::{auth, telemetry};
use serde::{Deserialize, Serialize};

use crate::cluster::bootstrap::{self, Settings};

/// Most nodes that a cluster begins with.
const SEEDS_MAX: usize = 100;
/// Longest name of a zone.
const ZONE_BYTES_MAX: usize = 63;
/// So that a unit of weight stays a noticeable share.
const WEIGHT_MAX: u16 = 1000;
/// Name and version of the program, as others see it.
pub const SOFTWARE: &str = concat!("berth-node/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where journal, store and identity live. One node per directory.
    pub data_dir: PathBuf,
    /// Where gateways and other nodes connect, `host:port`. Port 0 picks a free one, if there is an `advertise`.
    pub listen: String,
    /// The address by which others reach `listen` and know this node for ever; absent: the same.
    pub advertise: Option<String>,
    /// Where health and metrics are served, `host:port`; port 0 picks a free one.
    pub admin_listen: String,
    /// Where this node runs: nodes of one zone may fail together. Absent: a zone by itself.
    pub zone: Option<String>,
    /// How much of the replicas this node should hold, relative to the others. 1 to 1,000.
    pub weight: u16,
    /// Who is asked for names, in place of the servers of /etc/resolv.conf; empty: those.
    pub dns_servers: Vec<String>,
    /// Whether `/metrics` on the admin port needs no credential where `admin_auth` asks for one.
    pub admin_metrics_open: bool,
    /// Whom the admin port lets in.
    pub admin_auth: auth::Config,
    /// How nodes and gateways are told from others.
    pub peer: security::Config,
    pub cluster: ClusterConfig,
    pub shard: ShardConfig,
    pub journal: JournalConfig,
    pub store: StoreConfig,
    pub telemetry: telemetry::Config,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Peer addresses of the first nodes, or names that have them, alike on every node; empty: this node alone.
    pub seeds: Vec<String>,
    /// How many fresh nodes must be here before they become a cluster; absent: all seeds. There with a name among the seeds.
    pub expect: Option<u16>,
    /// Hash partitions of all entities, fixed when the cluster first starts. 1 to 16,384.
    pub shards: u16,
    /// Copies of every shard, fixed when the cluster first starts. 1, 3 or 5; a smaller cluster has as many as it has nodes.
    pub replicas: u16,
    /// How long a node may be silent before others take over its replicas.
    pub replace_after: HumanDuration,
    /// Replicas that may be on their way to this node at the same time. 1 to 100.
    pub moves_per_node: usize,
    /// How long a node that leaves may take to give everything away before it says that it is late. It serves on.
    pub drain_deadline: HumanDuration,
    /// The addresses that an operator makes a cluster of, from the command line only.
    #[serde(skip)]
    pub init: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardConfig {
    /// Memory for entities, over all shards of the node; the least recently used are dropped from memory beyond it.
    pub resident_bytes_max: ByteSize,
    /// Commands waiting per shard; more are refused as overloaded.
    pub mailbox_max: usize,
    /// Commands of one entity that are not answered yet; more are refused as overloaded.
    pub entity_queue_max: usize,
    /// Memory for commands that are not answered yet, over all shards of the node; more are refused as overloaded.
    pub commands_size: ByteSize,
    /// Batches of one shard on their way to disk.
    pub batches_in_flight_max: usize,
    /// Idempotency keys remembered per shard; more are refused as overloaded.
    pub window_keys_max: usize,
    /// Reads that wait for the next event of an entity, over all shards of the node; more are refused as overloaded.
    pub polls_max: usize,
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
            zone: None,
            weight: 1,
            dns_servers: Vec::new(),
            admin_metrics_open: false,
            admin_auth: auth::Config::default(),
            peer: security::Config::default(),
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
        let replace_after = HumanDuration(Duration::from_secs(30));
        let drain_deadline = HumanDuration(Duration::from_secs(600));
        let (shards, replicas, moves_per_node) = (64, 3, 2);
        Self {
            seeds: Vec::new(),
            expect: None,
            shards,
            replicas,
            replace_after,
            moves_per_node,
            drain_deadline,
            init: None,
        }
    }
}

impl Default for ShardConfig {
    fn default() -> Self {
        Self {
            resident_bytes_max: ByteSize(256 << 20),
            mailbox_max: 1024,
            entity_queue_max: 128,
            commands_size: ByteSize(256 << 20),
            batches_in_flight_max: 4,
            window_keys_max: 2_000_000,
            polls_max: 16_384,
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
            cache_size: ByteSize(32 << 20),
            queue_size: ByteSize(32 << 20),
            flush_interval: HumanDuration(Duration::from_millis(200)),
            checkpoint_interval: HumanDuration(Duration::from_secs(5)),
        }
    }
}

impl Config {
    /// The address by which others reach this node.
    pub fn address(&self) -> &str {
        self.advertise.as_ref().unwrap_or(&self.listen)
    }

    /// How much of the replicas this node should hold, relative to the others.
    pub fn weight(&self) -> NonZeroU32 {
        NonZeroU32::new(self.weight.into()).unwrap_or(NonZeroU32::MIN)
    }

    /// Who is asked for names; empty: the servers of /etc/resolv.conf.
    pub fn dns_servers(&self) -> Vec<SocketAddr> {
        config::dns_servers(&self.dns_servers)
    }

    /// What bootstrap needs to know.
    pub fn bootstrap(&self) -> bootstrap::Config {
        let ClusterConfig { seeds, expect, shards, replicas, init, .. } = &self.cluster;
        let seeds = if seeds.is_empty() { vec![self.address().to_owned()] } else { seeds.clone() };
        let expect = expect.unwrap_or(seeds.len() as u16);
        bootstrap::Config {
            settings: Settings { shards: *shards, replicas: *replicas, expect },
            seeds,
            init: init.clone(),
            credential: self.peer.credential(),
            software: SOFTWARE.to_owned(),
        }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), config::Error> {
        // A picked port changes with every start, and others know the node by its address.
        let listen_port_min = u16::from(self.advertise.is_none());
        config::address("listen", &self.listen, listen_port_min)?;
        config::address("admin_listen", &self.admin_listen, 0)?;
        match &self.advertise {
            Some(advertise) => config::address("advertise", advertise, 1)?,
            None => {
                let everywhere = ["0.0.0.0:", "[::]:"].iter().any(|host| self.listen.starts_with(host));
                let reachable = "addresses that others reach, because listen is every address of this machine";
                allow(!everywhere, "advertise", "no value", reachable)?;
            }
        }
        if let Some(zone) = &self.zone {
            let is_name =
                (1..=ZONE_BYTES_MAX).contains(&zone.len()) && zone.bytes().all(|byte| byte.is_ascii_graphic());
            let names = format!("1 to {ZONE_BYTES_MAX} visible ASCII characters without blanks");
            allow(is_name, "zone", format!("{zone:?}"), names)?;
        }
        within("weight", self.weight, 1..=WEIGHT_MAX)?;
        config::check_dns_servers("dns_servers", &self.dns_servers)?;
        nested("admin_auth", &self.admin_auth)?;
        nested("peer", &self.peer)?;
        self.admin_auth.check_exposure("admin_auth", "admin_listen", &self.admin_listen)?;
        self.peer.check_exposure(&self.listen)?;
        nested("cluster", &self.cluster)?;
        nested("shard", &self.shard)?;
        nested("journal", &self.journal)?;
        nested("store", &self.store)?;
        nested("telemetry", &self.telemetry)
    }
}

impl Validate for ClusterConfig {
    fn validate(&self) -> Result<(), config::Error> {
        within("shards", self.shards, 1..=16_384)?;
        // An even number of copies outlives no more failures than one copy fewer, and asks for one more acknowledgement.
        allow([1, 3, 5].contains(&self.replicas), "replicas", self.replicas, "1, 3 and 5")?;
        let seconds = |n| HumanDuration(Duration::from_secs(n));
        within("replace_after", self.replace_after, seconds(1)..=seconds(7 * 24 * 3600))?;
        within("moves_per_node", self.moves_per_node, 1..=100)?;
        within("drain_deadline", self.drain_deadline, seconds(1)..=seconds(7 * 24 * 3600))?;
        self.seeds.iter().try_for_each(|seed| config::address("seeds", seed, 1))?;
        let distinct: BTreeSet<&String> = self.seeds.iter().collect();
        let is_list = distinct.len() == self.seeds.len() && self.seeds.len() <= SEEDS_MAX;
        let lists = format!("lists of at most {SEEDS_MAX} different addresses");
        allow(is_list, "seeds", format!("{:?}", self.seeds), lists)?;
        let name = self.seeds.iter().find(|seed| is_name(seed));
        // Half of the seeds and the other half could become two clusters.
        let least = self.seeds.len().max(1) as u16 / 2 + 1;
        let most = if name.is_some() { SEEDS_MAX as u16 } else { self.seeds.len().max(1) as u16 };
        match (self.expect, name) {
            (Some(expect), _) => {
                let up_to = if name.is_some() { "" } else { " up to all of them" };
                let numbers = format!("numbers over half of the seeds{up_to}: {least} to {most}");
                allow((least..=most).contains(&expect), "expect", expect, numbers)
            }
            (None, Some(name)) => {
                let numbers = format!(
                    "numbers of nodes that a first start waits for, {least} to {most}, because {name:?} among the seeds is \
                     a name, which may have any number of addresses"
                );
                allow(false, "expect", "no value", numbers)
            }
            (None, None) => Ok(()),
        }
    }
}

impl Validate for ShardConfig {
    fn validate(&self) -> Result<(), config::Error> {
        within("resident_bytes_max", self.resident_bytes_max, ByteSize(1 << 20)..=ByteSize(1 << 40))?;
        within("mailbox_max", self.mailbox_max, 1..=1_000_000)?;
        within("entity_queue_max", self.entity_queue_max, 1..=1_000_000)?;
        within("commands_size", self.commands_size, ByteSize(32 << 20)..=ByteSize(1 << 40))?;
        within("batches_in_flight_max", self.batches_in_flight_max, 1..=64)?;
        within("window_keys_max", self.window_keys_max, 1_000..=100_000_000)?;
        within("polls_max", self.polls_max, 1..=1_000_000)
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const FILE: &str = include_str!("../../config/node.toml");

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let loaded = config::load_from(Some(("node.toml", file)), config::PREFIX, environment);
        loaded.map_err(|error| error.to_string())
    }

    /// The keys of `table` and of the tables in it, as `journal.cache_size`.
    fn keys(prefix: &str, table: &Value, into: &mut BTreeSet<String>) {
        for (key, value) in table.as_object().unwrap() {
            match value {
                Value::Object(_) => keys(&format!("{prefix}{key}."), value, into),
                _ => _ = into.insert(format!("{prefix}{key}")),
            }
        }
    }

    /// The file with the examples of optional keys, which are comments, made real.
    fn with_examples() -> String {
        let uncommented = |line: &str| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => rest.to_owned(),
            _ => line.to_owned(),
        };
        FILE.lines().map(uncommented).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_documented_file_is_the_defaults() {
        assert_eq!(load(FILE, &[]), Ok(Config::default()));
    }

    #[test]
    fn the_file_documents_every_key_and_no_other() {
        let mut known = BTreeSet::new();
        keys("", &serde_json::to_value(Config::default()).unwrap(), &mut known);
        let mut documented = BTreeSet::new();
        let mut table = String::new();
        let file = with_examples();
        for line in file.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                table = format!("{name}.");
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                documented.insert(format!("{table}{key}"));
            }
        }
        assert_eq!(documented, known);
    }

    #[test]
    fn the_examples_of_optional_keys_are_allowed() {
        let config = load(&with_examples(), &[]).unwrap();
        assert!(config.advertise.is_some() && config.telemetry.otlp_endpoint.is_some());
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let config = load(
            FILE,
            &[
                ("BERTH_LISTEN", "0.0.0.0:7400"),
                ("BERTH_PEER__ALLOW_INSECURE", "true"),
                ("BERTH_ADVERTISE", "b:2"),
                ("BERTH_ZONE", "eu-central-1a"),
                ("BERTH_WEIGHT", "3"),
                ("BERTH_CLUSTER__REPLACE_AFTER", "3s"),
                ("BERTH_DNS_SERVERS", "10.0.0.10, [::1]:5353"),
                ("BERTH_CLUSTER__SEEDS", "a:1, b:2, c:3"),
                ("BERTH_CLUSTER__EXPECT", "2"),
                ("BERTH_CLUSTER__SHARDS", "8"),
                ("BERTH_JOURNAL__CACHE_SIZE", "2MiB"),
                ("BERTH_STORE__FLUSH_INTERVAL", "10ms"),
            ],
        );
        let config = config.unwrap();
        assert_eq!((config.listen.as_str(), config.address()), ("0.0.0.0:7400", "b:2"));
        assert_eq!((config.zone.as_deref(), config.weight().get()), (Some("eu-central-1a"), 3));
        assert_eq!(config.cluster.replace_after, HumanDuration::from_millis(3000));
        assert_eq!(config.dns_servers(), ["10.0.0.10:53", "[::1]:5353"].map(|server| server.parse().unwrap()));
        let bootstrap = config.bootstrap();
        assert_eq!(bootstrap.seeds, ["a:1", "b:2", "c:3"]);
        assert_eq!(bootstrap.settings, Settings { shards: 8, replicas: 3, expect: 2 });
        assert_eq!(config.journal.cache_size, ByteSize::from_mib(2));
        assert_eq!(config.store.flush_interval, HumanDuration::from_millis(10));
    }

    #[test]
    fn a_node_without_seeds_is_its_own_and_every_seed_is_expected() {
        for (file, seeds, expect) in [
            ("listen = \"a:1\"\npeer.allow_insecure = true", vec!["a:1"], 1),
            ("advertise = \"b:2\"", vec!["b:2"], 1),
            (
                "listen = \"d:4\"\npeer.allow_insecure = true\n[cluster]\nseeds = [\"10.0.0.1:1\", \"[::1]:2\", \"10.0.0.3:3\"]",
                vec!["10.0.0.1:1", "[::1]:2", "10.0.0.3:3"],
                3,
            ),
            ("[cluster]\nseeds = [\"nodes:1\"]\nexpect = 5", vec!["nodes:1"], 5),
        ] {
            let bootstrap = load(file, &[]).unwrap().bootstrap();
            assert_eq!(
                (bootstrap.seeds, bootstrap.settings.expect),
                (seeds.iter().map(|s| (*s).to_owned()).collect(), expect)
            );
        }
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (file, parts) in [
            ("listen = \"7400\"", ["listen", "\"7400\"", "127.0.0.1:8080"]),
            ("listen = \"127.0.0.1:0\"", ["listen", "\"127.0.0.1:0\"", "addresses"]),
            ("listen = \"0.0.0.0:7400\"", ["advertise", "no value", "addresses that others reach"]),
            ("advertise = \"a\"", ["advertise", "\"a\"", "addresses"]),
            ("admin_listen = \"a:65536\"", ["admin_listen", "\"a:65536\"", "addresses"]),
            ("zone = \"\"", ["zone", "\"\"", "1 to 63 visible"]),
            ("zone = \"a b\"", ["zone", "\"a b\"", "without blanks"]),
            ("weight = 0", ["weight", "0", "1 to 1000"]),
            ("cluster.replace_after = \"999ms\"", ["cluster.replace_after", "999ms", "1s to 7d"]),
            ("data_dir = 5", ["data_dir", "5", "path"]),
            ("cluster.shards = 0", ["cluster.shards", "0", "1 to 16384"]),
            ("cluster.shards = 70000", ["cluster.shards", "70000", "0 to 65535"]),
            ("cluster.replicas = 2", ["cluster.replicas", "2", "1, 3 and 5"]),
            ("cluster.seeds = [\"a:0\"]", ["cluster.seeds", "\"a:0\"", "addresses"]),
            ("cluster.seeds = [\"a:1\", \"a:1\"]", ["cluster.seeds", "a:1", "different addresses"]),
            (
                "cluster.seeds = [\"10.0.0.1:1\", \"10.0.0.2:1\"]\ncluster.expect = 1",
                ["cluster.expect", "1", "all of them: 2 to 2"],
            ),
            (
                "cluster.seeds = [\"10.0.0.1:1\", \"10.0.0.2:1\", \"10.0.0.3:1\"]\ncluster.expect = 4",
                ["cluster.expect", "4", "2 to 3"],
            ),
            ("cluster.seeds = [\"nodes:1\"]", ["cluster.expect", "no value", "\"nodes:1\" among the seeds is a name"]),
            ("cluster.seeds = [\"a:1\", \"b:1\"]\ncluster.expect = 1", ["cluster.expect", "1", "2 to 100"]),
            ("cluster.seeds = [\"a:1\"]\ncluster.expect = 101", ["cluster.expect", "101", "1 to 100"]),
            ("dns_servers = [\"dns:53\"]", ["dns_servers", "\"dns:53\"", "127.0.0.1:5353"]),
            ("cluster.expect = 2", ["cluster.expect", "2", "1 to 1"]),
            ("shard.resident_bytes_max = \"1KiB\"", ["shard.resident_bytes_max", "1KiB", "1MiB to 1TiB"]),
            ("shard.mailbox_max = 0", ["shard.mailbox_max", "0", "1 to 1000000"]),
            ("shard.entity_queue_max = 0", ["shard.entity_queue_max", "0", "1 to 1000000"]),
            ("shard.batches_in_flight_max = 65", ["shard.batches_in_flight_max", "65", "1 to 64"]),
            ("shard.window_keys_max = 1", ["shard.window_keys_max", "1", "1000 to 100000000"]),
            ("journal.cache_size = \"0B\"", ["journal.cache_size", "0B", "1MiB to 64GiB"]),
            ("journal.tail_size = \"0B\"", ["journal.tail_size", "0B", "1MiB to 64GiB"]),
            ("journal.queue_size = 1", ["journal.queue_size", "1", "byte size"]),
            ("journal.live_size = \"2TiB\"", ["journal.live_size", "2TiB", "1MiB to 1TiB"]),
            ("store.cache_size = \"big\"", ["store.cache_size", "\"big\"", "64MiB"]),
            ("store.queue_size = \"0B\"", ["store.queue_size", "0B", "1MiB to 64GiB"]),
            ("store.flush_interval = \"1min\"", ["store.flush_interval", "1min", "1ms to 10s"]),
            ("store.checkpoint_interval = \"1ms\"", ["store.checkpoint_interval", "1ms", "10ms to 1h"]),
            ("telemetry.format = \"xml\"", ["telemetry.format", "\"xml\"", "\"pretty\", \"json\""]),
            ("colour = 1", ["colour", "not a key", "known are"]),
            ("store.colour = 1", ["store.colour", "not a key", "known are cache_size"]),
        ] {
            let message = load(file, &[]).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{file}: {message}");
        }
    }

    #[test]
    fn nobody_from_elsewhere_is_a_peer_or_an_operator_without_a_credential_unless_that_is_asked_for() {
        let listen = "listen = \"10.0.0.1:7400\"\nadmin_listen = \"[::]:7490\"\n";
        let admin = load(listen, &[]).unwrap_err();
        assert!(admin.starts_with("admin_auth.mode: \"off\"") && admin.contains("admin_listen ([::]:7490)"), "{admin}");
        let admin = "admin_auth.allow_anonymous = true\n";
        let peer = load(&format!("{listen}{admin}"), &[]).unwrap_err();
        assert!(peer.starts_with("peer.security: \"off\"") && peer.contains("peer.allow_insecure = true"), "{peer}");
        for peer in [
            "peer.allow_insecure = true",
            "peer = { security = \"secret\", secret = \"0123456789abcdef\" }",
            "peer = { security = \"mtls\", certificate_file = \"c\", key_file = \"k\", ca_file = \"a\" }",
        ] {
            load(&format!("{listen}{admin}{peer}"), &[]).unwrap();
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let config =
            load("", &[("BERTH_PEER__SECURITY", "secret"), ("BERTH_PEER__SECRET", "0123456789abcdef")]).unwrap();
        assert_eq!(config.bootstrap().credential.as_deref(), Some("0123456789abcdef"));
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let error = load(FILE, &[("BERTH_STORE__CACHE_SIZ", "1MiB")]).unwrap_err();
        assert!(error.contains("store.cache_siz is not a key") && error.contains("BERTH_STORE__CACHE_SIZ"), "{error}");
        assert!(load(FILE, &[("BERTH_SHARDS", "8")]).unwrap_err().contains("BERTH_SHARDS"));
    }
}
