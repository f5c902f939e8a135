//! What is said about kinds fits what they do, and kinds that break the rules are not added.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::entity::registry::Error;
use crate::entity::{Context, Decision, Entity, Registry};

fn description(kind: &str) -> Value {
    serde_json::from_slice(Registry::built_in().get(kind).unwrap().description()).unwrap()
}

#[test]
fn kinds_are_listed_by_name() {
    let registry = Registry::built_in();
    let all: Vec<Value> = serde_json::from_slice(&registry.descriptions()).unwrap();
    let names: Vec<&str> = all.iter().map(|kind| kind["kind"].as_str().unwrap()).collect();
    assert_eq!(names, ["account", "cart", "counter", "document"]);
    assert_eq!(registry.iter().map(|kind| kind.name()).collect::<Vec<_>>(), names);
    assert_eq!(serde_json::from_slice::<Value>(&Registry::new().descriptions()).unwrap(), json!([]));
    assert!(registry.get("Cart").is_none() && registry.get("").is_none());
}

#[test]
fn commands_and_events_are_described_by_name() {
    let names = |kind: &str, what: &str| -> Vec<String> {
        description(kind)[what].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names("counter", "commands"), ["add", "reset"]);
    assert_eq!(names("counter", "events"), ["added", "reset"]);
    assert_eq!(names("cart", "commands"), ["add-item", "checkout", "remove-item"]);
    assert_eq!(names("cart", "events"), ["checked-out", "item-added", "item-removed"]);
    assert_eq!(names("account", "commands"), ["close", "deposit", "open", "withdraw"]);
    assert_eq!(names("account", "events"), ["closed", "deposited", "opened", "withdrawn"]);
    assert_eq!(names("document", "commands"), ["merge", "patch", "put"]);
    assert_eq!(names("document", "events"), ["merged", "patched", "put"]);
}

#[test]
fn schemas_say_types_limits_and_names() {
    let counter = description("counter");
    let by = &counter["commands"]["add"]["properties"]["by"];
    assert_eq!((&by["type"], &by["default"]), (&json!("integer"), &json!(1)));
    assert_eq!(counter["commands"]["add"].get("required"), None);
    assert_eq!(counter["commands"]["reset"]["type"], "object");
    assert_eq!(counter["commands"]["reset"]["additionalProperties"], false);
    assert!(counter["commands"]["reset"]["description"].as_str().unwrap().contains("Sets the value to 0"));
    assert_eq!(counter["state"]["properties"]["value"]["type"], "integer");
    assert_eq!(counter["reply"]["type"], "integer");

    let cart = description("cart");
    let add = &cart["commands"]["add-item"];
    assert_eq!(add["required"], json!(["sku", "quantity", "unitPriceCents"]));
    assert_eq!(add["properties"]["quantity"]["minimum"], 1);
    assert_eq!(add["properties"]["unitPriceCents"]["minimum"], 0);
    assert_eq!(add["additionalProperties"], false);
    assert_eq!(cart["commands"]["remove-item"]["required"], json!(["sku"]));
    assert_eq!(cart["events"]["checked-out"]["properties"]["totalCents"]["type"], "integer");
    let item = &cart["state"]["properties"]["items"]["additionalProperties"]["properties"];
    assert_eq!(item["unitPriceCents"]["type"], "integer");
    assert!(cart["state"]["properties"]["status"].to_string().contains("checkedOut"));

    let document = description("document");
    assert_eq!(document["commands"]["put"]["required"], json!(["value"]));
    assert_eq!(document["commands"]["patch"]["properties"]["ops"]["type"], "array");
}

#[test]
fn every_command_takes_what_its_schema_requires() {
    let registry = Registry::built_in();
    for kind in registry.iter() {
        let description: Value = serde_json::from_slice(kind.description()).unwrap();
        for (command, schema) in description["commands"].as_object().unwrap() {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let body: Value = required
                .iter()
                .map(|name| (name.as_str().unwrap().to_owned(), example(&schema["properties"][name.as_str().unwrap()])))
                .collect();
            kind.decode(command, body.to_string().as_bytes())
                .unwrap_or_else(|error| panic!("{command} {body}: {error}"));
            for name in required.iter().filter_map(Value::as_str) {
                let mut less = body.clone();
                less.as_object_mut().unwrap().remove(name);
                assert!(kind.decode(command, less.to_string().as_bytes()).is_err(), "{command} without {name}");
            }
        }
    }
}

/// Some value of a schema without structure below.
fn example(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("integer") => json!(1),
        Some("string") => json!("a"),
        Some("array") => json!([]),
        Some(other) => panic!("{other}"),
        None => json!({"any": ["thing"]}),
    }
}

fn refers(schema: &Value) -> bool {
    schema.to_string().contains("\"$ref\"")
}

#[test]
fn a_schema_brings_the_definitions_it_refers_to() {
    #[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
    struct Tree {
        branches: Vec<Tree>,
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Request {
        Grow { tree: Tree },
        Rest,
    }
    let registry = Registry::new().add(Custom::<Tree, Request, Request>::new()).unwrap();
    let description: Value = serde_json::from_slice(registry.get("custom").unwrap().description()).unwrap();
    for schema in [&description["state"], &description["commands"]["grow"], &description["events"]["grow"]] {
        assert!(refers(schema));
        assert!(schema["$defs"]["Tree"]["properties"]["branches"].is_object(), "{schema}");
    }
    assert!(description["commands"]["rest"].get("$defs").is_none());
}

/// A kind of given types that decides nothing, and a name.
struct Custom<S, C, E>(std::marker::PhantomData<(S, C, E)>);

impl<S, C, E> Custom<S, C, E> {
    fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<S, C, E> Entity for Custom<S, C, E>
where
    S: Default + Clone + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static,
    C: DeserializeOwned + JsonSchema + Send + Sync + 'static,
    E: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static,
{
    const KIND: &'static str = "custom";
    type State = S;
    type Command = C;
    type Event = E;
    type Reply = ();
    type Rejection = std::convert::Infallible;

    fn decide(&self, _: &S, _: &C, _: &Context<'_>) -> Result<Decision<E>, Self::Rejection> {
        Ok(Decision::no_change())
    }

    fn evolve(_: &mut S, _: &E) {}
}

fn refusal<S, C, E>() -> String
where
    S: Default + Clone + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static,
    C: DeserializeOwned + JsonSchema + Send + Sync + 'static,
    E: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static,
{
    Registry::new().add(Custom::<S, C, E>::new()).unwrap_err().to_string()
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Good {
    Do {},
}

#[test]
fn types_that_break_the_rules_are_refused() {
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct LooksLikeAnEnum {
        only: u8,
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(tag = "type", rename_all = "kebab-case")]
    enum InternallyTagged {
        Do { value: u8 },
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(untagged)]
    enum Untagged {
        Do { value: u8 },
        Leave { other: u8 },
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Shouting {
        Do,
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Positional {
        Do(u8, u8),
    }
    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Reserved {
        #[serde(rename = "berth-deleted")]
        Deleted {},
    }

    let not_an_enum = "the kind custom breaks the rules: its commands are not an enum in serde's external form with at least one variant";
    assert_eq!(refusal::<u8, LooksLikeAnEnum, Good>(), not_an_enum);
    assert_eq!(refusal::<u8, InternallyTagged, Good>(), not_an_enum);
    assert_eq!(refusal::<u8, Untagged, Good>(), not_an_enum);
    assert_eq!(refusal::<u8, String, Good>(), not_an_enum);
    assert!(refusal::<u8, Good, Untagged>().contains("its events are not an enum"));
    assert!(refusal::<u8, Shouting, Good>().contains("its command 'Do' is not named by"));
    assert!(refusal::<u8, Positional, Good>().contains("its command 'do' takes something else than an object"));
    assert!(refusal::<u8, Good, Shouting>().contains("its event 'Do' is not allowed: its type is not a lower-case"));
    assert!(refusal::<u8, Good, Reserved>().contains("its type starts with 'berth-', which is reserved"));
}

#[test]
fn a_state_that_does_not_survive_json_is_refused() {
    #[derive(Clone, Serialize, Deserialize, JsonSchema)]
    struct Forgetful {
        #[serde(skip_deserializing)]
        forgotten: u8,
    }
    impl Default for Forgetful {
        fn default() -> Self {
            Self { forgotten: 1 }
        }
    }
    // What is not read takes the type's own default, 0.
    assert!(refusal::<Forgetful, Good, Good>().contains("does not come back from JSON"));

    #[derive(Clone, Serialize, Deserialize, JsonSchema)]
    struct NotANumber(f64);
    impl Default for NotANumber {
        fn default() -> Self {
            Self(f64::NAN)
        }
    }
    assert!(refusal::<NotANumber, Good, Good>().contains("cannot be read"));
}

#[test]
fn names_are_checked_and_unique() {
    struct Named<const BAD: bool>;
    impl<const BAD: bool> Entity for Named<BAD> {
        const KIND: &'static str = if BAD { "Bad_Name" } else { "cart" };
        type State = u8;
        type Command = Good;
        type Event = Good;
        type Reply = ();
        type Rejection = std::convert::Infallible;
        fn decide(&self, _: &u8, _: &Good, _: &Context<'_>) -> Result<Decision<Good>, Self::Rejection> {
            Ok(Decision::no_change())
        }
        fn evolve(_: &mut u8, _: &Good) {}
    }
    assert!(matches!(Registry::built_in().add(Named::<true>), Err(Error::Name("Bad_Name"))));
    assert!(matches!(Registry::built_in().add(Named::<false>), Err(Error::Duplicate("cart"))));
    assert!(Registry::new().add(Named::<false>).is_ok());
}
