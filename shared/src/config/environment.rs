//! Which environment variables configure the process, and how their text becomes a typed value. Pure: the variables are
//! handed in, so that tests need not change the environment of their own process.

use figment::Provider;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Empty, Num, Value};

/// Read by the programs themselves before there is a configuration, and therefore not a key of it: `BERTH_CONFIG` names
/// the configuration file.
pub(super) const RESERVED: [&str; 1] = ["CONFIG"];

/// One variable that names a key.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) path: Vec<String>,
    /// Readings of the text in order of preference, never empty: where the default says nothing about the type (an
    /// absent optional value), the text itself is tried before what it means as TOML.
    pub(super) readings: Vec<Value>,
}

/// Where the name of a variable leads in the tree of defaults.
pub(super) enum Target<'a> {
    Known(&'a Value),
    /// Below a table that takes any key, or below an optional value that is absent by default.
    Free,
    Unknown,
}

/// The path of keys that `name` stands for; `None` when the variable is not ours.
pub(super) fn path_of(name: &str, prefix: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(prefix)?.strip_prefix('_')?;
    if RESERVED.contains(&rest) {
        return None;
    }
    Some(rest.to_ascii_lowercase().split("__").map(str::to_owned).collect())
}

/// Kubernetes sets variables such as `BERTH_GATEWAY_PORT_8080_TCP_ADDR` in every container for a Service named
/// `berth-gateway`. They configure nothing and must not be taken for misspelt keys.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") {
        return true;
    }
    let Some((_, after)) = name.rsplit_once("_PORT") else { return false };
    if after.is_empty() {
        return value.contains("://");
    }
    let mut parts = after.trim_start_matches('_').split('_');
    let is_number = parts.next().is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    is_number && parts.next().is_some_and(|p| PROTOCOLS.contains(&p))
}

pub(super) fn find<'a>(defaults: &'a Dict, path: &[String]) -> Target<'a> {
    let Some((last, tables)) = path.split_last() else { return Target::Unknown };
    let mut table = defaults;
    for name in tables {
        match table.get(name) {
            Some(Value::Dict(_, inner)) if inner.is_empty() => return Target::Free,
            Some(Value::Dict(_, inner)) => table = inner,
            Some(Value::Empty(..)) => return Target::Free,
            _ => return Target::Unknown,
        }
    }
    table.get(last).map_or(Target::Unknown, Target::Known)
}

/// What `text` may mean where the default is `default`.
pub(super) fn readings(text: &str, default: Option<&Value>) -> Vec<Value> {
    let plain = Value::from(text.to_owned());
    match default {
        Some(Value::String(..) | Value::Char(..)) => vec![plain],
        Some(Value::Bool(..) | Value::Num(..)) => vec![scalar(text).unwrap_or(plain)],
        Some(Value::Dict(..)) => vec![toml(text).unwrap_or(plain)],
        Some(Value::Array(_, elements)) => vec![list(text, elements.first())],
        Some(Value::Empty(..)) | None if text.is_empty() => vec![Value::from(Empty::None)],
        Some(Value::Empty(..)) | None => {
            let other = toml(text).filter(|value| !matches!(value, Value::String(..)));
            std::iter::once(plain).chain(other).collect()
        }
    }
}

fn list(text: &str, element: Option<&Value>) -> Value {
    let text = text.trim();
    if text.starts_with('[')
        && let Some(value) = toml(text)
    {
        return value;
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let typed = |item: &str| readings(item, element).swap_remove(0);
    Value::from(items.map(typed).collect::<Vec<_>>())
}

fn scalar(text: &str) -> Option<Value> {
    let text = text.trim();
    match text {
        "true" => Some(Value::from(true)),
        "false" => Some(Value::from(false)),
        _ => text
            .parse::<u64>()
            .map(Num::from)
            .or_else(|_| text.parse::<i64>().map(Num::from))
            .ok()
            .or_else(|| text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Num::from))
            .map(Value::from),
    }
}

/// `text` as the right-hand side of a TOML assignment.
fn toml(text: &str) -> Option<Value> {
    // A line break would let the text define keys of its own.
    if text.contains(['\n', '\r']) {
        return None;
    }
    let profiles = Toml::string(&format!("value = {text}")).data().ok()?;
    profiles.into_values().find_map(|mut table| table.remove("value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        assert_eq!(path_of("BERTH_DATA_DIR", "BERTH"), Some(vec!["data_dir".into()]));
        assert_eq!(path_of("BERTH_JOURNAL__CACHE_SIZE", "BERTH"), Some(vec!["journal".into(), "cache_size".into()]));
        for not_ours in ["BERTHOLD", "PATH", "XBERTH_A", "BERTH", "BERTH_CONFIG"] {
            assert_eq!(path_of(not_ours, "BERTH"), None, "{not_ours}");
        }
    }

    #[test]
    fn what_kubernetes_sets_for_services_is_told_from_keys() {
        for (name, value) in [
            ("BERTH_GATEWAY_SERVICE_HOST", "10.0.0.7"),
            ("BERTH_GATEWAY_SERVICE_PORT", "8080"),
            ("BERTH_GATEWAY_SERVICE_PORT_HTTP", "8080"),
            ("BERTH_GATEWAY_PORT", "tcp://10.0.0.7:8080"),
            ("BERTH_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
            ("BERTH_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in [("BERTH_GATEWAY_PORT", "8080"), ("BERTH_PORTS", "1"), ("BERTH_PEER_PORT_TLS", "1")] {
            assert!(!is_service_link(name, value), "{name}");
        }
    }

    #[test]
    fn lists_are_split_at_commas_or_read_as_toml() {
        let expected = Value::from(vec!["a:1", "b:2"]);
        assert_eq!(list("a:1, b:2", None), expected);
        assert_eq!(list("[\"a:1\", \"b:2\"]", None), expected);
        assert_eq!(list("", None), Value::from(Vec::<String>::new()));
        assert_eq!(list("1,2", Some(&Value::from(0_u64))), Value::from(vec![1_u64, 2]));
    }

    #[test]
    fn text_cannot_smuggle_in_another_key() {
        assert_eq!(toml("1\nother = 2"), None);
    }
}
