//! Whatever is asked of an entity, its state is the fold of its events, and a snapshot is the state.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Subject;

type Request = (&'static str, Value);

fn counter() -> BoxedStrategy<Request> {
    let by = prop_oneof![3 => -3_i64..4, 1 => Just(i64::MAX), 1 => Just(i64::MIN), 1 => any::<i64>()];
    prop_oneof![
        4 => by.prop_map(|by| ("add", json!({ "by": by }))),
        1 => Just(("reset", json!({}))),
    ]
    .boxed()
}

fn cart() -> BoxedStrategy<Request> {
    let sku = || prop_oneof!["[abc]", Just(String::new())];
    let quantity = || prop_oneof![4 => 0_u32..4, 1 => Just(u32::MAX)];
    let price = prop_oneof![4 => 0_u64..3, 1 => Just(u64::MAX / 2), 1 => Just(u64::from(u32::MAX) << 31)];
    let add = (sku(), quantity(), price).prop_map(|(sku, quantity, price)| {
        ("add-item", json!({"sku": sku, "quantity": quantity, "unitPriceCents": price}))
    });
    let remove = (sku(), proptest::option::of(quantity()))
        .prop_map(|(sku, quantity)| ("remove-item", json!({"sku": sku, "quantity": quantity})));
    prop_oneof![10 => add, 8 => remove, 1 => Just(("checkout", json!({})))].boxed()
}

fn account() -> BoxedStrategy<Request> {
    let amount = || prop_oneof![4 => 0_u64..5, 1 => Just(u64::MAX)].prop_map(|cents| json!({ "amountCents": cents }));
    prop_oneof![
        1 => Just(("open", json!({}))),
        4 => amount().prop_map(|body| ("deposit", body)),
        4 => amount().prop_map(|body| ("withdraw", body)),
        1 => Just(("close", json!({}))),
    ]
    .boxed()
}

fn any_json() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c\u{e4}\"\\\\]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4).prop_map(|members| json!(members)),
        ]
    })
    .boxed()
}

fn document() -> BoxedStrategy<Request> {
    let path = || "(/[a-c0-1-]){0,3}";
    let operation = prop_oneof![
        (path(), any_json()).prop_map(|(path, value)| json!({"op": "add", "path": path, "value": value})),
        path().prop_map(|path| json!({"op": "remove", "path": path})),
        (path(), any_json()).prop_map(|(path, value)| json!({"op": "replace", "path": path, "value": value})),
        (path(), path()).prop_map(|(from, path)| json!({"op": "move", "from": from, "path": path})),
        (path(), path()).prop_map(|(from, path)| json!({"op": "copy", "from": from, "path": path})),
    ];
    prop_oneof![
        2 => any_json().prop_map(|value| ("put", json!({ "value": value }))),
        3 => any_json().prop_map(|patch| ("merge", json!({ "patch": patch }))),
        5 => proptest::collection::vec(operation, 0..3).prop_map(|ops| ("patch", json!({ "ops": ops }))),
    ]
    .boxed()
}

/// Runs the requests as an owner, and holds what came of it against a replica and against a restart from a snapshot.
fn check(kind: &str, requests: Vec<Request>) {
    let mut subject = Subject::built_in(kind);
    let mut replica = subject.kind.initial();
    for (command, body) in requests {
        let before = subject.history.len();
        subject.run(command, body.to_string().as_bytes());
        for event in &subject.history[before..] {
            replica = subject.kind.evolve(replica, event).unwrap();
        }
        let json = subject.kind.state_json(&subject.state).unwrap();
        assert_eq!(subject.kind.state_json(&replica).unwrap(), json);
        replica = subject.kind.state_from_json(&json).unwrap();
        assert_eq!(subject.kind.state_json(&replica).unwrap(), json);
    }
    assert_eq!(subject.kind.state_json(&subject.folded()).unwrap(), subject.kind.state_json(&subject.state).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_counter_is_the_fold_of_its_events(requests in proptest::collection::vec(counter(), 0..30)) {
        check("counter", requests);
    }

    #[test]
    fn a_cart_is_the_fold_of_its_events(requests in proptest::collection::vec(cart(), 0..30)) {
        check("cart", requests);
    }

    #[test]
    fn an_account_is_the_fold_of_its_events(requests in proptest::collection::vec(account(), 0..30)) {
        check("account", requests);
    }

    #[test]
    fn a_document_is_the_fold_of_its_events(requests in proptest::collection::vec(document(), 0..15)) {
        check("document", requests);
    }

    /// The invariants that clients count on, after any sequence.
    #[test]
    fn a_cart_adds_up(requests in proptest::collection::vec(cart(), 0..40)) {
        let mut subject = Subject::built_in("cart");
        for (command, body) in requests {
            subject.run(command, body.to_string().as_bytes());
        }
        let state = subject.state();
        let items = state["items"].as_object().unwrap();
        let sum: u128 = items
            .values()
            .map(|item| u128::from(item["quantity"].as_u64().unwrap()) * u128::from(item["unitPriceCents"].as_u64().unwrap()))
            .sum();
        prop_assert_eq!(sum, u128::from(state["totalCents"].as_u64().unwrap()));
        prop_assert!(items.values().all(|item| item["quantity"] != 0));
    }

    #[test]
    fn numbers_survive_event_and_snapshot(number in any::<f64>()) {
        let mut subject = Subject::built_in("document");
        subject.run("put", json!({ "value": [number] }).to_string().as_bytes());
        let expected = Value::from(number);
        prop_assert_eq!(&subject.state()[0], &expected);
        let again = subject.kind.state_from_json(&subject.kind.state_json(&subject.folded()).unwrap()).unwrap();
        prop_assert_eq!(subject.kind.state_json(&again).unwrap(), subject.kind.state_json(&subject.state).unwrap());
    }
}
