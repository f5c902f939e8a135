//! How a process is configured: defaults, then a TOML file, then environment variables, each over the one before.
//! A misspelt key or variable is an error, never ignored, and a bad value is answered with its key, the value and what is
//! allowed. Knows no program's own configuration: every crate brings its type and its [`Validate`].

mod environment;
mod units;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

use environment::{Target, Variable};
pub use units::{ByteSize, Error as UnitError, HumanDuration};

/// The prefix of the environment variables of every Berth program.
pub const PREFIX: &str = "BERTH";

/// What a type cannot say by itself: the ranges of its numbers and how its values fit together.
pub trait Validate {
    /// Uses [`within`], [`allow`] and [`nested`], so that every refusal names the key.
    fn validate(&self) -> Result<(), Error>;
}

/// Why there is no configuration. Every message stands by itself and is meant for the person who wrote the value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin} is not valid TOML: {detail}")]
    Syntax { origin: String, detail: String },
    #[error("{key}: {value} is not allowed; allowed are {allowed}{}", suffix(origin.as_deref()))]
    NotAllowed { key: String, value: String, allowed: String, origin: Option<String> },
    #[error("{key} is not a key of the configuration; known are {known}{}", suffix(origin.as_deref()))]
    UnknownKey { key: String, known: String, origin: Option<String> },
    #[error("{key} is missing in the configuration")]
    Missing { key: String },
    #[error("{variable} is not valid UTF-8")]
    NotUnicode { variable: String },
    #[error("{key}: {detail}{}", suffix(origin.as_deref()))]
    Other { key: String, detail: String, origin: Option<String> },
}

fn suffix(origin: Option<&str>) -> String {
    origin.map_or_else(String::new, |origin| format!(" (set in {origin})"))
}

/// Defaults ← `file` ← environment. The variable of the key `data_dir` is `BERTH_DATA_DIR` with the prefix `BERTH`; a table
/// is parted from its key by two underscores, as in `BERTH_JOURNAL__CACHE_SIZE`. A list is written with commas or as TOML.
/// An empty variable leaves an optional key unset. Variables that Kubernetes sets for Services, and `BERTH_CONFIG`, are left
/// alone; every other one with the prefix must name a key.
///
/// A table that is empty by default takes any key; keys inside a list of tables are for `deny_unknown_fields` to check.
pub fn load<T>(file: Option<&Path>, prefix: &str) -> Result<T, Error>
where
    T: DeserializeOwned + Serialize + Default + Validate,
{
    let text = match file {
        Some(path) => {
            #[expect(clippy::disallowed_methods, reason = "read once, before there is anything to simulate")]
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
            Some((path.display().to_string(), text))
        }
        None => None,
    };
    let text = text.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    load_from(text, prefix, std::env::vars_os())
}

/// What [`load`] does, with the file's name and text and the environment handed in.
pub fn load_from<T>(
    file: Option<(&str, &str)>,
    prefix: &str,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<T, Error>
where
    T: DeserializeOwned + Serialize + Default + Validate,
{
    let defaults = table_of(&T::default())?;
    let mut base = Figment::from(Layer { name: DEFAULTS.to_owned(), table: defaults.clone() });
    if let Some((name, text)) = file {
        let table = parse_file(name, text)?;
        check_keys(&defaults, &table, &mut Vec::new(), name)?;
        base = base.merge(Layer { name: name.to_owned(), table });
    }
    let mut variables = variables(&defaults, prefix, environment)?;
    let (figment, config) = loop {
        let figment = variables.iter().fold(base.clone(), |figment, variable| figment.merge(layer_of(variable)));
        match figment.extract::<T>() {
            Ok(config) => break (figment, config),
            Err(error) if drop_reading(&mut variables, &error.path) => {}
            Err(error) => return Err(explain(error)),
        }
    };
    config.validate().map_err(|error| with_origin(error, &figment))?;
    Ok(config)
}

/// The file that `BERTH_CONFIG` names (with the prefix `BERTH`), for programs that were given none on the command line.
pub fn file_from_environment(prefix: &str) -> Option<PathBuf> {
    std::env::var_os(format!("{prefix}_CONFIG")).filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// Refuses a value outside `allowed`, both ends included.
pub fn within<V: PartialOrd + fmt::Display>(key: &str, value: V, allowed: RangeInclusive<V>) -> Result<(), Error> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(not_allowed(key, value, format!("{} to {}", allowed.start(), allowed.end())))
}

/// Refuses a value unless `condition` holds; `allowed` completes the sentence "allowed are …".
pub fn allow(condition: bool, key: &str, value: impl fmt::Display, allowed: impl fmt::Display) -> Result<(), Error> {
    if condition { Ok(()) } else { Err(not_allowed(key, value, allowed)) }
}

/// Refuses what is not `host:port`, with an IPv6 address in brackets, and a port below `port_min`: 0 where a free port may
/// be picked, 1 where somebody is to be reached.
pub fn address(key: &str, address: &str, port_min: u16) -> Result<(), Error> {
    let well_formed = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let bracketed = bare.len() != host.len() || !host.contains(':');
        let is_port =
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port >= port_min);
        !bare.is_empty() && bracketed && !host.contains(char::is_whitespace) && is_port
    });
    allow(well_formed, key, format!("{address:?}"), "addresses such as \"127.0.0.1:8080\" or \"[::1]:8080\"")
}

/// Whether `host:port` is reached from this machine alone. A name other than `localhost` may be anything.
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// Most DNS servers that are asked.
const DNS_SERVERS_MAX: usize = 8;

/// Refuses what is no list of DNS servers: IP addresses, with a port where it is not 53.
pub fn check_dns_servers(key: &str, servers: &[String]) -> Result<(), Error> {
    let servers_max = format!("lists of at most {DNS_SERVERS_MAX} DNS servers");
    allow(servers.len() <= DNS_SERVERS_MAX, key, format!("{servers:?}"), servers_max)?;
    let flawed = servers.iter().find(|server| dns_server(server).is_none());
    flawed.map_or(Ok(()), |server| {
        let allowed = "IP addresses of DNS servers, such as \"10.96.0.10\" or \"127.0.0.1:5353\"";
        Err(not_allowed(key, format!("{server:?}"), allowed))
    })
}

/// A list that [`check_dns_servers`] has not refused.
pub fn dns_servers(servers: &[String]) -> Vec<SocketAddr> {
    servers.iter().filter_map(|server| dns_server(server)).collect()
}

fn dns_server(server: &str) -> Option<SocketAddr> {
    let with_port = |ip: IpAddr| SocketAddr::new(ip, 53);
    server.parse().ok().filter(|address: &SocketAddr| address.port() > 0).or_else(|| server.parse().ok().map(with_port))
}

/// Checks the table `key`, whose refusals then name the whole path.
pub fn nested(key: &str, table: &impl Validate) -> Result<(), Error> {
    table.validate().map_err(|mut error| {
        if let Error::NotAllowed { key: inner, .. } = &mut error {
            *inner = format!("{key}.{inner}");
        }
        error
    })
}

/// The refusal of a value; `allowed` completes the sentence "allowed are …".
pub fn not_allowed(key: &str, value: impl fmt::Display, allowed: impl fmt::Display) -> Error {
    Error::NotAllowed { key: key.to_owned(), value: value.to_string(), allowed: allowed.to_string(), origin: None }
}

fn table_of(config: &impl Serialize) -> Result<Dict, Error> {
    match Value::serialize(config) {
        Ok(Value::Dict(_, table)) => Ok(table),
        Ok(_) => Err(Error::Other { key: "defaults".into(), detail: "are not a table".into(), origin: None }),
        Err(error) => Err(explain(error)),
    }
}

fn parse_file(name: &str, text: &str) -> Result<Dict, Error> {
    let parsed = Toml::string(text).data();
    let profiles = parsed.map_err(|error| Error::Syntax { origin: name.to_owned(), detail: error.kind.to_string() })?;
    Ok(profiles.into_values().next().unwrap_or_default())
}

/// Refuses the first key of `table` that the defaults do not have.
fn check_keys(defaults: &Dict, table: &Dict, path: &mut Vec<String>, origin: &str) -> Result<(), Error> {
    for (name, value) in table {
        path.push(name.clone());
        match (defaults.get(name), value) {
            (None, _) => return Err(unknown(path, defaults, origin)),
            (Some(Value::Dict(_, known)), Value::Dict(_, inner)) if !known.is_empty() => {
                check_keys(known, inner, path, origin)?;
            }
            _ => {}
        }
        path.pop();
    }
    Ok(())
}

fn unknown(path: &[String], known: &Dict, origin: &str) -> Error {
    let known = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    Error::UnknownKey { key: path.join("."), known, origin: Some(origin.to_owned()) }
}

fn variables(
    defaults: &Dict,
    prefix: &str,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Variable>, Error> {
    let mut variables = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else { continue };
        let Some(path) = environment::path_of(name, prefix) else { continue };
        let text = value.to_str().ok_or_else(|| Error::NotUnicode { variable: name.to_owned() })?;
        let readings = match environment::find(defaults, &path) {
            Target::Known(default) => environment::readings(text, Some(default)),
            Target::Free => environment::readings(text, None),
            Target::Unknown if environment::is_service_link(name, text) => continue,
            Target::Unknown => return Err(unknown(&path, table_at(defaults, &path), &variable_name(name))),
        };
        variables.push(Variable { name: name.to_owned(), path, readings });
    }
    // The order of the environment is arbitrary: a table given whole comes before single keys of it.
    variables.sort_by(|a, b| a.path.len().cmp(&b.path.len()).then_with(|| a.path.cmp(&b.path)));
    Ok(variables)
}

/// The deepest table on the way of `path`.
fn table_at<'a>(mut table: &'a Dict, path: &[String]) -> &'a Dict {
    for name in path {
        match table.get(name) {
            Some(Value::Dict(_, inner)) => table = inner,
            _ => break,
        }
    }
    table
}

fn variable_name(name: &str) -> String {
    format!("the environment variable {name}")
}

/// Goes on to the next reading of the variable that failed; false when there is none.
fn drop_reading(variables: &mut [Variable], failed: &[String]) -> bool {
    let variable = variables.iter_mut().find(|v| failed.starts_with(&v.path) && v.readings.len() > 1);
    variable.is_some_and(|variable| {
        variable.readings.remove(0);
        true
    })
}

/// The source that nobody wrote, and that messages therefore do not name.
const DEFAULTS: &str = "the defaults";

/// Keys from one named source.
struct Layer {
    name: String,
    table: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.table.clone())]))
    }
}

fn layer_of(variable: &Variable) -> Layer {
    let value = variable.readings[0].clone();
    let wrap = |value: Value, name: &String| Value::from(Dict::from([(name.clone(), value)]));
    let table = match variable.path.iter().rev().fold(value, wrap) {
        Value::Dict(_, table) => table,
        // A path is never empty, so that there is always a table around the value.
        _ => Dict::new(),
    };
    Layer { name: variable_name(&variable.name), table }
}

fn explain(error: figment::Error) -> Error {
    let key = error.path.join(".");
    let origin = error.metadata.as_ref().and_then(origin_of);
    match error.kind {
        Kind::InvalidType(value, allowed) | Kind::InvalidValue(value, allowed) => {
            Error::NotAllowed { key, value: plain(value), allowed: in_words(allowed), origin }
        }
        Kind::UnknownVariant(value, allowed) => {
            Error::NotAllowed { key, value: format!("{value:?}"), allowed: quoted(allowed), origin }
        }
        Kind::UnknownField(name, known) => {
            let key = if key.is_empty() { name } else { format!("{key}.{name}") };
            Error::UnknownKey { key, known: known.join(", "), origin }
        }
        Kind::MissingField(name) => {
            Error::Missing { key: if key.is_empty() { name.into_owned() } else { format!("{key}.{name}") } }
        }
        other => Error::Other { key, detail: other.to_string(), origin },
    }
}

/// The value as its author wrote it.
fn plain(value: figment::error::Actual) -> String {
    use figment::error::Actual;
    match value {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(value) => format!("{value:?}"),
        other => other.to_string(),
    }
}

/// What serde calls by the name of a Rust type.
fn in_words(expected: String) -> String {
    let whole = |max: u64| format!("whole numbers from 0 to {max}");
    match expected.as_str() {
        "u8" => whole(u64::from(u8::MAX)),
        "u16" => whole(u64::from(u16::MAX)),
        "u32" => whole(u64::from(u32::MAX)),
        "u64" | "usize" => whole(u64::MAX),
        "i32" | "i64" => "whole numbers".to_owned(),
        "f32" | "f64" => "numbers".to_owned(),
        "a boolean" => "true and false".to_owned(),
        "a string" => "texts in quotes".to_owned(),
        "a sequence" => "lists".to_owned(),
        _ => expected,
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn with_origin(mut error: Error, figment: &Figment) -> Error {
    if let Error::NotAllowed { key, origin: origin @ None, .. } = &mut error {
        *origin = figment.find_metadata(key).and_then(origin_of);
    }
    error
}

fn origin_of(metadata: &Metadata) -> Option<String> {
    Some(metadata.name.to_string()).filter(|name| name != DEFAULTS)
}

#[cfg(test)]
mod tests;
