//! What a configuration is made of, what is refused, and what the refusals say.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Program {
    data_dir: String,
    shards: u32,
    ratio: f64,
    verbose: bool,
    seeds: Vec<String>,
    token: Option<String>,
    limit: Option<u64>,
    format: LogFormat,
    journal: Table,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    cache_size: ByteSize,
    flush_interval: HumanDuration,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    Pretty,
    Json,
}

impl Default for Program {
    fn default() -> Self {
        Self {
            data_dir: "./data".into(),
            shards: 64,
            ratio: 1.0,
            verbose: false,
            seeds: vec![],
            token: None,
            limit: None,
            format: LogFormat::Pretty,
            journal: Table::default(),
            labels: BTreeMap::new(),
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { cache_size: ByteSize::from_mib(64), flush_interval: HumanDuration::from_millis(250) }
    }
}

impl Validate for Program {
    fn validate(&self) -> Result<(), Error> {
        within("shards", self.shards, 1..=16_384)?;
        allow(!self.data_dir.is_empty(), "data_dir", "\"\"", "paths of a directory")?;
        nested("journal", &self.journal)
    }
}

impl Validate for Table {
    fn validate(&self) -> Result<(), Error> {
        within("cache_size", self.cache_size, ByteSize::from_mib(1)..=ByteSize::from_mib(65_536))
    }
}

fn load_with(file: &str, variables: &[(&str, &str)]) -> Result<Program, String> {
    let environment = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load_from(Some(("node.toml", file)), "BERTH", environment).map_err(|error| error.to_string())
}

#[test]
fn nothing_set_gives_the_defaults() {
    assert_eq!(load_with("", &[]), Ok(Program::default()));
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let file = "shards = 8\nratio = 0.5\n[journal]\ncache_size = \"32MiB\"";
    let config = load_with(file, &[("BERTH_SHARDS", "16"), ("HOME", "/root")]).unwrap();
    assert_eq!((config.shards, config.ratio), (16, 0.5));
    assert_eq!(config.journal.cache_size, ByteSize::from_mib(32));
    assert_eq!(config.journal.flush_interval, HumanDuration::from_millis(250));
}

#[test]
fn variables_take_the_type_of_their_key() {
    let config = load_with(
        "",
        &[
            ("BERTH_DATA_DIR", "007"),
            ("BERTH_RATIO", "1"),
            ("BERTH_VERBOSE", "true"),
            ("BERTH_SEEDS", "a:1, b:2"),
            ("BERTH_TOKEN", "12345"),
            ("BERTH_LIMIT", "12345"),
            ("BERTH_FORMAT", "json"),
            ("BERTH_JOURNAL__FLUSH_INTERVAL", "5s"),
            ("BERTH_LABELS__ZONE", "a"),
        ],
    );
    let expected = Program {
        data_dir: "007".into(),
        verbose: true,
        seeds: vec!["a:1".into(), "b:2".into()],
        token: Some("12345".into()),
        limit: Some(12_345),
        format: LogFormat::Json,
        journal: Table { flush_interval: HumanDuration::from_secs(5), ..Table::default() },
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        ..Program::default()
    };
    assert_eq!(config, Ok(expected));
}

#[test]
fn an_empty_variable_unsets_an_optional_key() {
    let config = load_with("token = \"from the file\"", &[("BERTH_TOKEN", "")]).unwrap();
    assert_eq!(config.token, None);
}

#[test]
fn a_misspelt_key_of_the_file_is_refused() {
    let error = load_with("[journal]\ncach_size = \"1MiB\"", &[]).unwrap_err();
    assert_eq!(
        error,
        "journal.cach_size is not a key of the configuration; known are cache_size, flush_interval (set in node.toml)"
    );
    let error = load_with("shard = 1", &[]).unwrap_err();
    assert!(error.starts_with("shard is not a key of the configuration; known are data_dir, "), "{error}");
}

#[test]
fn a_misspelt_variable_is_refused() {
    let error = load_with("", &[("BERTH_JOURNAL__CACH_SIZE", "1MiB")]).unwrap_err();
    assert_eq!(
        error,
        "journal.cach_size is not a key of the configuration; known are cache_size, flush_interval \
         (set in the environment variable BERTH_JOURNAL__CACH_SIZE)"
    );
    assert!(load_with("", &[("BERTH_SHARD", "1")]).is_err());
    assert!(load_with("", &[("BERTH_SHARDS__X", "1")]).is_err());
}

#[test]
fn variables_of_others_are_left_alone() {
    let others = [
        ("BERTH_CONFIG", "node.toml"),
        ("BERTH_GATEWAY_SERVICE_HOST", "10.0.0.7"),
        ("BERTH_GATEWAY_PORT", "tcp://10.0.0.7:8080"),
        ("BERTHA", "x"),
    ];
    assert_eq!(load_with("", &others), Ok(Program::default()));
}

#[test]
fn a_bad_value_is_answered_with_key_value_and_what_is_allowed() {
    for (file, variables, message) in [
        ("shards = 0", &[][..], "shards: 0 is not allowed; allowed are 1 to 16384 (set in node.toml)"),
        (
            "",
            &[("BERTH_SHARDS", "0")],
            "shards: 0 is not allowed; allowed are 1 to 16384 (set in the environment variable BERTH_SHARDS)",
        ),
        (
            "",
            &[("BERTH_SHARDS", "many")],
            "shards: \"many\" is not allowed; allowed are whole numbers from 0 to 4294967295 \
             (set in the environment variable BERTH_SHARDS)",
        ),
        (
            "format = \"xml\"",
            &[],
            "format: \"xml\" is not allowed; allowed are \"pretty\", \"json\" (set in node.toml)",
        ),
        (
            "[journal]\nflush_interval = 5",
            &[],
            "journal.flush_interval: 5 is not allowed; allowed are a duration such as \"250ms\", \"5s\" or \"2min\" \
             (set in node.toml)",
        ),
        (
            "[journal]\ncache_size = \"2KiB\"",
            &[],
            "journal.cache_size: 2KiB is not allowed; allowed are 1MiB to 64GiB (set in node.toml)",
        ),
    ] {
        assert_eq!(load_with(file, variables), Err(message.to_owned()));
    }
}

#[test]
fn an_address_is_a_host_and_a_port() {
    for good in ["127.0.0.1:1", "node-1.berth:7400", "[::1]:65535"] {
        address("listen", good, 1).unwrap();
    }
    address("listen", "0.0.0.0:0", 0).unwrap();
    for bad in ["127.0.0.1", ":80", "::1:80", "[]:80", "a:", "a:+80", "a:65536", "a b:80", "a:0"] {
        let error = address("listen", bad, 1).unwrap_err().to_string();
        let expected = format!("listen: {bad:?} is not allowed; allowed are addresses such as \"127.0.0.1:8080\"");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_bad_default_is_refused_without_naming_a_source() {
    let error = within("shards", 0, 1..=16_384).unwrap_err();
    assert_eq!(error.to_string(), "shards: 0 is not allowed; allowed are 1 to 16384");
}

#[test]
fn a_file_that_is_no_toml_or_absent_is_named() {
    let error = load_with("shards = ", &[]).unwrap_err();
    assert!(error.starts_with("node.toml is not valid TOML: "), "{error}");
    let error = load::<Program>(Some(Path::new("/nonexistent/node.toml")), "BERTH_TEST").unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration file /nonexistent/node.toml: "), "{error}");
}

#[test]
fn what_is_loaded_writes_back_to_the_same() {
    let config = load_with("shards = 7\nseeds = [\"a\"]", &[]).unwrap();
    let again: Program = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
    assert_eq!(again, config);
}

#[test]
fn only_addresses_of_this_machine_are_loopback() {
    for address in ["127.0.0.1:1", "127.9.9.9:0", "[::1]:80", "[::ffff:127.0.0.1]:80", "localhost:80"] {
        assert!(is_loopback(address), "{address}");
    }
    for address in [
        "0.0.0.0:1",
        "[::]:1",
        "10.0.0.1:1",
        "128.0.0.1:1",
        "node:1",
        "localhost.example.com:1",
        "127.0.0.1.example.com:1",
    ] {
        assert!(!is_loopback(address), "{address}");
    }
}
