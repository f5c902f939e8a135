//! The gateway's configuration: `config/gateway.toml` shows every key with its default.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use berth_shared::config::{self, HumanDuration, Validate};
use berth_shared::peer::security;
use berth_shared::tls::PortConfig;
use berth_shared::{auth, telemetry};
use serde::{Deserialize, Serialize};

use crate::admission::rate::{self, Rates};
use crate::edge::ANY_ORIGIN;

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
    /// Where this gateway runs: replicas of the same zone are read first. Absent: all alike.
    pub zone: Option<String>,
    /// Most nodes that are connected at once, those of `nodes` included.
    pub nodes_max: usize,
    /// Most requests being served at once; one more is answered 429.
    pub in_flight_max: usize,
    /// Most requests being served at once by one node; one more is answered 429. It adapts to how quickly the node answers,
    /// between these.
    pub in_flight_min: usize,
    pub in_flight_per_node_max: usize,
    /// Where more than a tenth of a node's answers take longer, it is given fewer requests at once.
    pub latency_target: HumanDuration,
    /// Most commands being served at once of one entity, and most reads; one more is answered 429.
    pub in_flight_per_entity_max: usize,
    /// Of these commands, how many are under way at once while commands for others come too.
    pub entity_share: usize,
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
    /// Pages of which origins may call from a browser.
    pub cors_origins: Vec<String>,
    /// How many requests each caller may make.
    pub rate_limit: RateLimitConfig,
    /// Whether `/metrics` on the admin port needs no credential where `admin_auth` asks for one.
    pub admin_metrics_open: bool,
    /// Whom the public port lets in.
    pub auth: auth::Config,
    /// Whom the admin port lets in.
    pub admin_auth: auth::Config,
    /// The certificate of the public port. Without one it speaks plain HTTP.
    pub tls: PortConfig,
    /// How nodes are told from others.
    pub peer: security::Config,
    /// Logs and spans.
    pub telemetry: telemetry::Config,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimitConfig {
    /// Requests of one caller per window; 0: as many as it likes.
    pub requests: u32,
    /// In whole seconds.
    pub window: HumanDuration,
    /// Callers that are told apart at a time; further ones share what one may do.
    pub callers_max: usize,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self { requests: 0, window: HumanDuration::from_secs(1), callers_max: 10_000 }
    }
}

impl RateLimitConfig {
    /// Absent where there is no limit.
    pub(crate) fn rates(&self) -> Option<Rates> {
        let callers_max = NonZeroUsize::new(self.callers_max).unwrap_or(NonZeroUsize::MIN);
        let config = rate::Config { requests: self.requests, window: self.window.0, callers_max };
        (self.requests > 0).then(|| Rates::new(config))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            admin_listen: "127.0.0.1:8090".to_owned(),
            nodes: vec!["127.0.0.1:7400".to_owned()],
            dns_servers: Vec::new(),
            zone: None,
            nodes_max: 256,
            in_flight_max: 4096,
            in_flight_min: 64,
            in_flight_per_node_max: 2048,
            latency_target: HumanDuration::from_millis(500),
            in_flight_per_entity_max: 256,
            entity_share: 4,
            streams_max: 4096,
            connections_max: 16_384,
            header_timeout: HumanDuration::from_secs(30),
            body_timeout: HumanDuration::from_secs(10),
            attempt_timeout: HumanDuration::from_secs(2),
            drain_timeout: HumanDuration::from_secs(35),
            cors_origins: Vec::new(),
            rate_limit: RateLimitConfig::default(),
            admin_metrics_open: false,
            auth: auth::Config::default(),
            admin_auth: auth::Config::default(),
            tls: PortConfig::default(),
            peer: security::Config::default(),
            telemetry: telemetry::Config::default(),
        }
    }
}

impl Config {
    /// Who is asked for names; empty: the servers of /etc/resolv.conf.
    pub fn dns_servers(&self) -> Vec<SocketAddr> {
        config::dns_servers(&self.dns_servers)
    }

    /// Refuses what would leave the limit of a node where it is, whatever happens.
    fn check_adaptive_limit(&self) -> Result<(), config::Error> {
        for (key, most) in
            [("in_flight_max", self.in_flight_max), ("in_flight_per_node_max", self.in_flight_per_node_max)]
        {
            let allowed = format_args!("at most the value of {key}, {most}");
            config::allow(self.in_flight_min <= most, "in_flight_min", self.in_flight_min, allowed)?;
        }
        // An attempt that is given up sooner never counts as slow.
        let (target, timeout) = (self.latency_target, self.attempt_timeout);
        let allowed = format_args!("times below attempt_timeout, {timeout}");
        config::allow(target < timeout, "latency_target", target, allowed)
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
        if let Some(zone) = &self.zone {
            config::allow(!zone.is_empty(), "zone", "\"\"", "texts that are not empty")?;
        }
        config::within("nodes_max", self.nodes_max, self.nodes.len()..=4096)?;
        config::within("in_flight_min", self.in_flight_min, 1..=1_000_000)?;
        config::within("in_flight_per_entity_max", self.in_flight_per_entity_max, 1..=1_000_000)?;
        config::within("entity_share", self.entity_share, 1..=1_000_000)?;
        config::within("in_flight_max", self.in_flight_max, 1..=1_000_000)?;
        config::within("in_flight_per_node_max", self.in_flight_per_node_max, 1..=1_000_000)?;
        config::within("streams_max", self.streams_max, 1..=1_000_000)?;
        config::within("connections_max", self.connections_max, 1..=1_000_000)?;
        let (shortest, longest) = (HumanDuration::from_millis(100), HumanDuration::from_secs(600));
        for (key, duration) in [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("latency_target", self.latency_target),
        ] {
            config::within(key, duration, shortest..=longest)?;
        }
        self.check_adaptive_limit()?;
        config::within("drain_timeout", self.drain_timeout, HumanDuration::from_secs(0)..=longest)?;
        config::within("cors_origins", self.cors_origins.len(), 0..=64)?;
        for origin in &self.cors_origins {
            config::allow(is_origin(origin), "cors_origins", format_args!("\"{origin}\""), ORIGINS)?;
        }
        config::nested("rate_limit", &self.rate_limit)?;
        config::nested("auth", &self.auth)?;
        config::nested("admin_auth", &self.admin_auth)?;
        config::nested("tls", &self.tls)?;
        config::nested("peer", &self.peer)?;
        self.auth.check_exposure("auth", "listen", &self.listen)?;
        self.admin_auth.check_exposure("admin_auth", "admin_listen", &self.admin_listen)?;
        self.peer.check_reach("nodes", &self.nodes)?;
        config::nested("telemetry", &self.telemetry)
    }
}

impl Validate for RateLimitConfig {
    fn validate(&self) -> Result<(), config::Error> {
        config::within("requests", self.requests, 0..=1_000_000)?;
        config::within("window", self.window, HumanDuration::from_secs(1)..=HumanDuration::from_secs(24 * 3600))?;
        config::allow(self.window.0.subsec_nanos() == 0, "window", self.window, "whole seconds")?;
        config::within("callers_max", self.callers_max, 1..=1_000_000)
    }
}

const ORIGINS: &str =
    "\"*\" and origins as browsers send them, such as \"https://shop.example\" or \"http://localhost:3000\"";

/// Whether a browser could send this in `Origin`: a scheme, a host and maybe a port, in lower case, and nothing after them.
fn is_origin(text: &str) -> bool {
    let host_of =
        |text: &str| text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).map(str::to_owned);
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:[]".contains(&byte);
    text == ANY_ORIGIN || host_of(text).is_some_and(|host| !host.is_empty() && host.bytes().all(is_part))
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
        let mut tables = vec![toml.as_object().unwrap()];
        let mut keys = Vec::new();
        while let Some(table) = tables.pop() {
            keys.extend(table.keys());
            tables.extend(table.values().filter_map(serde_json::Value::as_object));
        }
        for key in keys {
            let documented = FILE.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ', '[']);
                let line = line.strip_prefix("auth.").or(line.strip_prefix("admin_auth.")).unwrap_or(line);
                line.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with([' ', ']']))
            });
            assert!(documented, "{key}");
        }
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let loaded = load(
            FILE,
            &[
                ("BERTH_LISTEN", "[::1]:0"),
                ("BERTH_NODES", "a:1,b:2"),
                ("BERTH_PEER__ALLOW_INSECURE", "true"),
                ("BERTH_TELEMETRY__FILTER", "debug"),
            ],
        );
        let config = loaded.unwrap();
        assert_eq!(config.listen, "[::1]:0");
        assert_eq!(config.nodes, ["a:1", "b:2"]);
        assert_eq!(config.telemetry.filter, "debug");
    }

    #[test]
    fn nobody_is_let_in_from_elsewhere_without_a_credential_unless_that_is_asked_for() {
        let both = "listen = \"0.0.0.0:80\"\nadmin_listen = \"0.0.0.0:81\"\n";
        let public = load(both, &[]).unwrap_err();
        let parts =
            ["auth.mode: \"off\" is not allowed", "\"api-keys\"", "(0.0.0.0:80)", "auth.allow_anonymous = true"];
        assert!(parts.iter().all(|part| public.contains(part)), "{public}");
        let admin = load(&format!("{both}auth.allow_anonymous = true"), &[]).unwrap_err();
        assert!(admin.starts_with("admin_auth.mode:") && admin.contains("admin_listen (0.0.0.0:81)"), "{admin}");
        let anonymous = [("BERTH_AUTH__ALLOW_ANONYMOUS", "true"), ("BERTH_ADMIN_AUTH__ALLOW_ANONYMOUS", "true")];
        load(both, &anonymous).unwrap();
        let keys = "auth.mode = \"api-keys\"\nauth.keys_file = \"k\"\nadmin_auth.mode = \"api-keys\"\nadmin_auth.keys_file = \"k\"";
        load(&format!("{both}{keys}"), &[]).unwrap();
    }

    #[test]
    fn nobody_elsewhere_is_taken_for_a_node_unless_that_is_asked_for() {
        let nodes = "nodes = [\"localhost:1\", \"node-1:7400\"]\n";
        let peer = load(nodes, &[]).unwrap_err();
        assert!(peer.starts_with("peer.security: \"off\"") && peer.contains("nodes (node-1:7400)"), "{peer}");
        for peer in ["peer.allow_insecure = true", "peer = { security = \"secret\", secret = \"0123456789abcdef\" }"] {
            load(&format!("{nodes}{peer}"), &[]).unwrap();
        }
    }

    #[test]
    fn keys_of_the_configuration_are_a_list_of_tables() {
        let file = "[auth]\nmode = \"api-keys\"\nkeys = [{ name = \"shop\", hash = \"x\", roles = [\"read\"] }]";
        let auth = load(file, &[]).unwrap().auth;
        assert_eq!((auth.mode, auth.keys[0].name.as_str(), auth.keys[0].roles.len()), (auth::Mode::ApiKeys, "shop", 1));
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
            ("in_flight_min = 0", ["in_flight_min", "0", "1 to 1000000"]),
            ("entity_share = 0", ["entity_share", "0", "1 to 1000000"]),
            ("in_flight_max = 32", ["in_flight_min", "64", "in_flight_max, 32"]),
            ("in_flight_per_node_max = 63", ["in_flight_min", "64", "in_flight_per_node_max, 63"]),
            ("attempt_timeout = \"500ms\"", ["latency_target", "500ms", "below attempt_timeout, 500ms"]),
            ("latency_target = \"3s\"", ["latency_target", "3s", "below attempt_timeout, 2s"]),
            ("latency_target = \"1ms\"", ["latency_target", "1ms", "100ms to 10min"]),
            ("rate_limit.window = \"1500ms\"", ["rate_limit.window", "1500ms", "whole seconds"]),
            ("rate_limit.callers_max = 0", ["rate_limit.callers_max", "0", "1 to 1000000"]),
            ("cors_origins = [\"shop.example\"]", ["cors_origins", "\"shop.example\"", "https://shop.example"]),
            ("cors_origins = [\"https://shop.example/\"]", ["cors_origins", "shop.example/", "localhost:3000"]),
            ("body_timeout = \"5\"", ["body_timeout", "\"5\"", "250ms"]),
            ("body_timeout = \"1h\"", ["body_timeout", "1h", "100ms to 10min"]),
            ("telemetry.sample_ratio = 2.0", ["telemetry.sample_ratio", "2", "0 to 1"]),
            ("auth.mode = \"keys\"", ["auth.mode", "\"keys\"", "\"api-keys\""]),
            ("auth.mode = \"api-keys\"", ["auth.keys", "[]", "keys_file"]),
            ("auth.mode = \"jwt\"", ["auth.jwt.issuer", "no value", "mode is \"jwt\""]),
            (
                "auth.mode = \"jwt\"\nauth.jwt = { issuer = \"i\", audience = \"a\" }",
                ["auth.jwt.jwks_url", "no value", "jwks_file"],
            ),
            (
                "auth.mode = \"jwt\"\nauth.jwt = { issuer = \"i\", audience = \"a\", jwks_url = \"http://id.example.com\" }",
                ["auth.jwt.jwks_url", "http://id.example.com", "https://"],
            ),
            (
                "auth.mode = \"jwt\"\nauth.jwt = { issuer = \"i\", audience = \"a\", jwks_file = \"f\", algorithms = [\"none\"] }",
                ["auth.jwt.algorithms", "none", "RS256"],
            ),
            (
                "auth.mode = \"jwt\"\nauth.jwt = { issuer = \"i\", audience = \"a\", jwks_file = \"f\", algorithms = [\"HS256\"] }",
                ["auth.jwt.algorithms", "HS256", "EdDSA"],
            ),
            ("tls.key_file = \"k\"", ["tls.certificate_file", "no value", "certificate and key"]),
            ("peer.security = \"secret\"", ["peer.secret", "none or two values", "secret_file"]),
            ("peer = { security = \"secret\", secret = \"short\" }", ["peer.secret", "a short value", "16 bytes"]),
            ("peer.security = \"mtls\"", ["peer.certificate_file", "no value", "mtls"]),
            ("colour = 1", ["colour", "not a key", "known are"]),
        ] {
            let message = load(file, &[]).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{file}: {message}");
        }
    }
}
