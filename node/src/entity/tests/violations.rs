//! What a command's schema forbids is refused, with the place where it is wrong; whoever refuses it, the types or the schema.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroI8, NonZeroU32};

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::entity::erased::CommandError;
use crate::entity::violations::{VIOLATIONS_MAX, Violation};
use crate::entity::{Context, Decision, Entity, Registry};

/// Pointers and details of what is wrong in a body; empty if nothing is.
fn violations(registry: &Registry, kind: &str, command: &str, body: &str) -> Vec<(String, String)> {
    match registry.get(kind).unwrap().decode(command, body.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(CommandError::Invalid { violations, .. }) => {
            assert!(!violations.is_empty(), "{body}");
            violations.into_iter().map(|Violation { pointer, detail }| (pointer, detail)).collect()
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn pointers(registry: &Registry, kind: &str, command: &str, body: &Value) -> Vec<String> {
    violations(registry, kind, command, &body.to_string()).into_iter().map(|(pointer, _)| pointer).collect()
}

#[test]
fn all_places_of_a_body_are_told_at_once() {
    let registry = Registry::built_in();
    let body = r#"{"sku":7,"quantity":0,"unitPriceCents":-1,"co/lor":"red"}"#;
    let mut found = violations(&registry, "cart", "add-item", body);
    found.sort();
    let expected = [
        ("/co~1lor", "there is no such property here"),
        ("/quantity", "the value is less than the minimum of 1"),
        ("/sku", "the value is not of type \"string\""),
        ("/unitPriceCents", "the value is less than the minimum of 0"),
    ];
    assert_eq!(found, expected.map(|(pointer, detail)| (pointer.to_owned(), detail.to_owned())));

    let found = violations(&registry, "cart", "add-item", r#"{"sku":"tea"}"#);
    let missing = |name: &str| (String::new(), format!("\"{name}\" is a required property"));
    assert_eq!(found, [missing("quantity"), missing("unitPriceCents")]);
}

#[test]
fn limits_of_integers_are_part_of_the_schema() {
    let registry = Registry::built_in();
    for (kind, command, body, pointer) in [
        ("counter", "add", json!({ "by": u64::MAX }), "/by"),
        ("counter", "add", json!({ "by": 1.5 }), "/by"),
        ("cart", "remove-item", json!({ "sku": "tea", "quantity": 5_000_000_000_u64 }), "/quantity"),
        ("account", "deposit", json!({ "amountCents": 1e30 }), "/amountCents"),
        (
            "document",
            "patch",
            json!({ "ops": [{ "op": "test", "path": "/a", "value": 1 }, { "op": "fly" }] }),
            "/ops/1",
        ),
    ] {
        assert_eq!(pointers(&registry, kind, command, &body), [pointer], "{body}");
    }
    let description: Value = serde_json::from_slice(registry.get("counter").unwrap().description()).unwrap();
    let by = &description["commands"]["add"]["properties"]["by"];
    assert_eq!((&by["minimum"], &by["maximum"]), (&json!(i64::MIN), &json!(i64::MAX)));
}

/// JSON Schema knows no difference between 3 and 3.0.
#[test]
fn whole_numbers_may_have_a_fraction() {
    let registry = Registry::built_in();
    for body in [r#"{"by":3.0}"#, r#"{"by":-3e2}"#, r#"{"by":9007199254740993.0}"#] {
        assert_eq!(violations(&registry, "counter", "add", body), [], "{body}");
    }
    let body = json!({ "sku": "tea", "quantity": 2.0, "unitPriceCents": 4.5 });
    assert_eq!(pointers(&registry, "cart", "add-item", &body), ["/unitPriceCents"]);
}

/// What JSON Schema allows and the types do not is told with the place where they stopped.
#[test]
fn the_types_point_to_where_they_stop() {
    let registry = Registry::built_in();
    let found = violations(&registry, "counter", "add", r#"{"by":1.0,"by":2.0}"#);
    assert_eq!(found.len(), 1);
    assert!(found[0].1.contains("duplicate field `by`"), "{found:?}");
    let found = violations(&registry, "document", "patch", r#"{"ops":[{"op":"remove","path":"b"}]}"#);
    assert_eq!((found.len(), found[0].0.as_str()), (1, "/ops/0"));
    let description: Value = serde_json::from_slice(registry.get("document").unwrap().description()).unwrap();
    let pointers = description["commands"]["patch"].to_string().matches("json-pointer").count();
    assert_eq!(pointers, 8, "paths of six operations, and where two of them take a value from");
}

#[test]
fn what_is_no_json_has_no_places() {
    for body in ["{", "{\"by\":}", "[]", "{\"by\":1}x"] {
        match Registry::built_in().get("counter").unwrap().decode("add", body.as_bytes()) {
            Err(CommandError::Invalid { violations, .. }) => assert_eq!(violations, [], "{body}"),
            other => panic!("{body}: {:?}", other.err()),
        }
    }
}

#[test]
fn violations_are_bounded() {
    let registry = Registry::built_in();
    let many: Value = (0..200).map(|place| (format!("{place}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    assert_eq!(pointers(&registry, "counter", "add", &many).len(), VIOLATIONS_MAX);
    let ops = json!({ "ops": vec![json!({ "op": "fly" }); 50_000] });
    assert_eq!(pointers(&registry, "document", "patch", &ops), ["/ops/0"], "of a long body the first one is told");
    let long = json!({ "ä".repeat(2_000): 1 });
    let found = violations(&registry, "counter", "add", &long.to_string());
    assert_eq!((found.len(), found[0].0.as_str()), (1, ""), "a name is not repeated at length");
    let text = json!({ "by": "ä".repeat(1_000) });
    assert!(violations(&registry, "counter", "add", &text.to_string())[0].1.len() < 300);
}

/// Text of 2 to 5 characters, which its type sees to.
#[derive(Clone, Serialize)]
struct Short(String);

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if (2..=5).contains(&text.chars().count()) { Ok(Self(text)) } else { Err(D::Error::custom("not short")) }
    }
}

impl JsonSchema for Short {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Short".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "minLength": 2, "maxLength": 5 })
    }
}

#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
struct Nothing {}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Happened {
    Something {},
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Inner {
    #[expect(dead_code, reason = "only read")]
    count: NonZeroU32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "only read")]
enum Command {
    /// Whatever is forbidden here, the types forbid.
    Typed {
        short: Short,
        inner: Inner,
        list: Vec<Inner>,
        map: BTreeMap<String, u8>,
        perhaps: Option<Inner>,
    },
    /// Attributes that serde knows nothing of.
    Ranged {
        #[schemars(range(min = 1))]
        count: u32,
    },
    Long {
        #[schemars(length(max = 3))]
        text: String,
    },
    Shaped {
        #[schemars(regex(pattern = "^[a-z]+$"))]
        text: String,
    },
    /// A set takes what is there twice.
    Set {
        of: BTreeSet<u8>,
    },
    NotZero {
        number: NonZeroI8,
    },
}

struct Subject;

impl Entity for Subject {
    const KIND: &'static str = "subject";
    type State = Nothing;
    type Command = Command;
    type Event = Happened;
    type Reply = ();
    type Rejection = std::convert::Infallible;

    fn decide(&self, _: &Nothing, _: &Command, _: &Context<'_>) -> Result<Decision<Happened>, Self::Rejection> {
        Ok(Decision::no_change())
    }

    fn evolve(_: &mut Nothing, _: &Happened) {}
}

#[test]
fn what_only_the_schema_forbids_is_refused_too() {
    let registry = Registry::new().add(Subject).unwrap();
    for (command, good, bad, pointer) in [
        ("ranged", json!({ "count": 1 }), json!({ "count": 0 }), "/count"),
        ("long", json!({ "text": "äöü" }), json!({ "text": "abcd" }), "/text"),
        ("shaped", json!({ "text": "abc" }), json!({ "text": "ABC" }), "/text"),
        ("set", json!({ "of": [1, 2] }), json!({ "of": [1, 1] }), "/of"),
        ("not-zero", json!({ "number": -1 }), json!({ "number": 0 }), "/number"),
    ] {
        assert_eq!(pointers(&registry, "subject", command, &good), [""; 0], "{command}");
        assert_eq!(pointers(&registry, "subject", command, &bad), [pointer], "{command}");
    }
}

/// A valid body is then parsed once, into its type, as without a schema.
#[test]
fn types_that_enforce_their_schema_are_trusted() {
    for (command, is_stricter) in stricter_than_types(Subject) {
        assert_eq!(is_stricter, command != "typed", "{command}");
    }
    use crate::entity::kinds::{Account, Cart, Counter, Document};
    let built_in = [
        stricter_than_types(Account),
        stricter_than_types(Cart),
        stricter_than_types(Counter),
        stricter_than_types(Document),
    ];
    for (command, is_stricter) in built_in.concat() {
        assert!(!is_stricter, "{command}");
    }
}

fn stricter_than_types<E: Entity>(_: E) -> Vec<(String, bool)> {
    let description = crate::entity::describe::describe::<E>().unwrap();
    description.commands.into_iter().map(|(name, body)| (name, body.is_stricter_than_types)).collect()
}

/// Values that are often nearly right.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-2_i64..3).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just("tea"), Just(""), Just("/a"), Just("add"), Just("remove")].prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("by"),
        Just("sku"),
        Just("quantity"),
        Just("unitPriceCents"),
        Just("amountCents"),
        Just("value"),
        Just("patch"),
        Just("ops"),
        Just("op"),
        Just("path"),
        Just("from"),
        Just("other"),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

const COMMANDS: [(&str, &str, &[&str]); 8] = [
    ("counter", "add", &["by"]),
    ("counter", "reset", &[]),
    ("cart", "add-item", &["sku", "quantity", "unitPriceCents"]),
    ("cart", "remove-item", &["sku", "quantity"]),
    ("account", "withdraw", &["amountCents"]),
    ("document", "put", &["value"]),
    ("document", "merge", &["patch"]),
    ("document", "patch", &["ops"]),
];

proptest! {
    /// What decoders take fits the schema that callers are shown.
    #[test]
    fn decoders_are_as_strict_as_their_schemas(
        (kind, command, names) in proptest::sample::select(&COMMANDS[..]),
        values in proptest::collection::vec(value(), 3),
        present in proptest::collection::vec(proptest::bool::weighted(0.9), 3),
        more in proptest::option::weighted(0.1, value()),
    ) {
        let mut body: serde_json::Map<String, Value> = names
            .iter()
            .zip(values)
            .zip(present)
            .filter(|(_, present)| *present)
            .map(|((name, value), _)| ((*name).to_owned(), value))
            .collect();
        body.extend(more.map(|value| ("more".to_owned(), value)));
        let body = Value::Object(body);
        let registry = Registry::built_in();
        let kind = registry.get(kind).unwrap();
        let description: Value = serde_json::from_slice(kind.description()).unwrap();
        let fits = jsonschema::is_valid(&description["commands"][command], &body);
        let taken = kind.decode(command, body.to_string().as_bytes()).is_ok();
        prop_assert!(fits || !taken, "{} is taken", body);
    }
}
