//! The gateway's configuration: `config/gateway.toml` shows every key with its default.

use std::net::SocketAddr;

use berth_shared::config::{self, HumanDuration, Validate};
use berth_shared::telemetry;
use serde::{Deserialize, Serialize};

/// Environment variables override the file: `BERTH_LISTEN`, `BERTH_TELEMETRY__FILTER`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `host:port` of the public port; port 0 picks a free one.
    pub listen: String,
    /// `host:port` of the admin port: health and metrics.
    pub admin_listen: String,
    /// `host:port` of the peer ports of some nodes, or of names that have their addresses. The others are learnt from them.
    pub nodes: Vec<String>,
    /// Who is asked for names, in place of the servers of /etc/resolv.conf; empty: those.
    pub dns_servers: Vec<String>,
    /// A secret that all pods of the cluster share. Absent: none is asked for.
    pub credential: Option<String>,
    /// Most nodes that are connected at once, those of `nodes` included.
    pub nodes_max: usize,
    /// Most requests being served at once; one more is answered 429.
    pub in_flight_max: usize,
    /// Most requests being served at once by one node; one more is answered 429.
    pub in_flight_per_node_max: usize,
    /// Most live histories and long polls at once; one more is answered 429.
    pub streams_max: usize,
    /// Most connections of clients at once; one more waits to be accepted.
    pub connections_max: usize,
    /// How long a request's headers may take to arrive, and how long a connection may stay idle between requests.
    pub header_timeout: HumanDuration,
    /// How long a request's body may take to arrive.
    pub body_timeout: HumanDuration,
    /// How long one attempt at a node may take before another one is made, within the request's own deadline.
    pub attempt_timeout: HumanDuration,
    /// How long requests may go on after a shutdown has begun; then they are cut off.
    pub drain_timeout: HumanDuration,
    /// Logs and spans.
    pub telemetry: telemetry::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8080".to_owned(),
            admin_listen: "0.0.0.0:8090".to_owned(),
            nodes: vec!["127.0.0.1:7400".to_owned()],
            dns_servers: Vec::new(),
            credential: None,
            nodes_max: 256,
            in_flight_max: 4096,
            in_flight_per_node_max: 2048,
            streams_max: 4096,
            connections_max: 16_384,
            header_timeout: HumanDuration::from_secs(30),
            body_timeout: HumanDuration::from_secs(10),
            attempt_timeout: HumanDuration::from_secs(2),
            drain_timeout: HumanDuration::from_secs(35),
            telemetry: telemetry::Config::default(),
        }
    }
}

impl Config {
    /// Who is asked for names; empty: the servers of /etc/resolv.conf.
    pub fn dns_servers(&self) -> Vec<SocketAddr> {
        config::dns_servers(&self.dns_servers)
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), config::Error> {
        config::address("listen", &self.listen, 0)?;
        config::address("admin_listen", &self.admin_listen, 0)?;
        config::allow(!self.nodes.is_empty(), "nodes", "[]", "lists of one or more addresses such as \"node-1:7400\"")?;
        for node in &self.nodes {
            config::address("nodes", node, 1)?;
        }
        config::check_dns_servers("dns_servers", &self.dns_servers)?;
        if let Some(credential) = &self.credential {
            config::allow(!credential.is_empty(), "credential", "\"\"", "texts that are not empty")?;
        }
        config::within("nodes_max", self.nodes_max, self.nodes.len()..=4096)?;
        config::within("in_flight_max", self.in_flight_max, 1..=1_000_000)?;
        config::within("in_flight_per_node_max", self.in_flight_per_node_max, 1..=1_000_000)?;
        config::within("streams_max", self.streams_max, 1..=1_000_000)?;
        config::within("connections_max", self.connections_max, 1..=1_000_000)?;
        let (shortest, longest) = (HumanDuration::from_millis(100), HumanDuration::from_secs(600));
        for (key, duration) in [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("attempt_timeout", self.attempt_timeout),
        ] {
            config::within(key, duration, shortest..=longest)?;
        }
        config::within("drain_timeout", self.drain_timeout, HumanDuration::from_secs(0)..=longest)?;
        config::nested("telemetry", &self.telemetry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../config/gateway.toml");

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let loaded = config::load_from(Some(("gateway.toml", file)), config::PREFIX, environment);
        loaded.map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_file_is_the_defaults() {
        assert_eq!(load(FILE, &[]), Ok(Config::default()));
    }

    #[test]
    fn the_file_documents_every_key() {
        let toml = serde_json::to_value(Config::default()).unwrap();
        let tables = [toml.as_object().unwrap(), toml["telemetry"].as_object().unwrap()];
        for key in tables.into_iter().flat_map(|table| table.keys()) {
            let documented = FILE.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ', '[']);
                line.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with([' ', ']']))
            });
            assert!(documented, "{key}");
        }
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let loaded = load(
            FILE,
            &[("BERTH_LISTEN", "[::1]:0"), ("BERTH_NODES", "a:1,b:2"), ("BERTH_TELEMETRY__FILTER", "debug")],
        );
        let config = loaded.unwrap();
        assert_eq!(config.listen, "[::1]:0");
        assert_eq!(config.nodes, ["a:1", "b:2"]);
        assert_eq!(config.telemetry.filter, "debug");
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_allowed() {
        for (file, parts) in [
            ("listen = \"8080\"", ["listen", "\"8080\"", "127.0.0.1:8080"]),
            ("listen = \"::1:80\"", ["listen", "\"::1:80\"", "[::1]:8080"]),
            ("listen = \"a:65536\"", ["listen", "\"a:65536\"", "allowed"]),
            ("nodes = []", ["nodes", "[]", "one or more"]),
            ("nodes = [\"a:0\"]", ["nodes", "\"a:0\"", "addresses"]),
            ("dns_servers = [\"1.1.1.1:0\"]", ["dns_servers", "\"1.1.1.1:0\"", "10.96.0.10"]),
            ("in_flight_max = 0", ["in_flight_max", "0", "1 to 1000000"]),
            ("body_timeout = \"5\"", ["body_timeout", "\"5\"", "250ms"]),
            ("body_timeout = \"1h\"", ["body_timeout", "1h", "100ms to 10min"]),
            ("telemetry.sample_ratio = 2.0", ["telemetry.sample_ratio", "2", "0 to 1"]),
            ("colour = 1", ["colour", "not a key", "known are"]),
        ] {
            let message = load(file, &[]).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{file}: {message}");
        }
    }
}
