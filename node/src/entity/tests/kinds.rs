//! What each built-in kind answers to each command, and why it refuses.

use serde_json::{Value, json};

use super::{End, Subject};
use crate::entity::DEPTH_MAX;

/// Command, body, what comes of it, and the state afterwards (`null` here: the same as before).
type Row = (&'static str, Value, End, Value);

fn check(kind: &str, rows: Vec<Row>) {
    let mut subject = Subject::built_in(kind);
    let mut before = subject.state();
    for (place, (command, body, end, state)) in rows.into_iter().enumerate() {
        let got = subject.run(command, body.to_string().as_bytes());
        assert_eq!(got, end, "row {place}: {command} {body}");
        let state = if state.is_null() { before } else { state };
        assert_eq!(subject.state(), state, "row {place}: {command} {body}");
        before = state;
    }
    assert_eq!(subject.kind.state_json(&subject.folded()).unwrap(), subject.kind.state_json(&subject.state).unwrap());
}

fn event(event_type: &str, data: Value, reply: Value) -> End {
    End::Accepted(vec![(event_type.to_owned(), data)], reply)
}

fn unchanged(reply: Value) -> End {
    End::Accepted(Vec::new(), reply)
}

const SAME: Value = Value::Null;

#[test]
fn a_counter_adds_and_never_overflows() {
    check(
        "counter",
        vec![
            ("add", json!({}), event("added", json!({"by": 1}), json!(1)), json!({"value": 1})),
            ("add", json!({"by": -5}), event("added", json!({"by": -5}), json!(-4)), json!({"value": -4})),
            ("add", json!({"by": 0}), unchanged(json!(-4)), SAME),
            ("add", json!({"by": i64::MIN}), End::Rejected("overflow"), SAME),
            ("reset", json!({}), event("reset", json!({}), json!(0)), json!({"value": 0})),
            ("reset", json!({}), unchanged(json!(0)), SAME),
            (
                "add",
                json!({"by": i64::MAX}),
                event("added", json!({"by": i64::MAX}), json!(i64::MAX)),
                json!({"value": i64::MAX}),
            ),
            ("add", json!({}), End::Rejected("overflow"), SAME),
            ("add", json!({"by": 1.5}), End::Invalid, SAME),
            ("add", json!({"by": null}), End::Invalid, SAME),
            ("add", json!({"by": "1"}), End::Invalid, SAME),
            ("add", json!({"By": 1}), End::Invalid, SAME),
            ("add", json!({"by": u64::MAX}), End::Invalid, SAME),
            ("reset", json!({"by": 1}), End::Invalid, SAME),
            ("Add", json!({}), End::Unknown, SAME),
            ("added", json!({}), End::Unknown, SAME),
            ("", json!({}), End::Unknown, SAME),
        ],
    );
}

#[test]
fn a_cart_is_filled_emptied_and_checked_out_once() {
    let total = |cents: u64| json!({"totalCents": cents});
    let tea = |quantity: u32, price: u64| json!({"sku": "tea", "quantity": quantity, "unitPriceCents": price});
    let full = |quantity: u32, status: &str| json!({"items": {"tea": {"quantity": quantity, "unitPriceCents": 250}}, "status": status, "totalCents": quantity * 250});
    let empty = json!({"items": {}, "status": "open", "totalCents": 0});
    check(
        "cart",
        vec![
            ("checkout", json!({}), End::Rejected("empty-cart"), empty.clone()),
            ("remove-item", json!({"sku": "tea"}), End::Rejected("unknown-sku"), SAME),
            ("add-item", tea(2, 250), event("item-added", tea(2, 250), total(500)), full(2, "open")),
            ("add-item", tea(1, 251), End::Rejected("price-conflict"), SAME),
            ("add-item", tea(1, 250), event("item-added", tea(1, 250), total(750)), full(3, "open")),
            ("add-item", tea(u32::MAX, 250), End::Rejected("overflow"), SAME),
            (
                "add-item",
                json!({"sku": "gold", "quantity": 2, "unitPriceCents": u64::MAX}),
                End::Rejected("overflow"),
                SAME,
            ),
            (
                "add-item",
                json!({"sku": "gold", "quantity": 1, "unitPriceCents": u64::MAX}),
                End::Rejected("overflow"),
                SAME,
            ),
            ("add-item", json!({"sku": "", "quantity": 1, "unitPriceCents": 1}), End::Rejected("invalid-sku"), SAME),
            (
                "add-item",
                json!({"sku": "x".repeat(129), "quantity": 1, "unitPriceCents": 1}),
                End::Rejected("invalid-sku"),
                SAME,
            ),
            ("add-item", json!({"sku": "tea", "quantity": 0, "unitPriceCents": 250}), End::Invalid, SAME),
            ("add-item", json!({"sku": "tea", "quantity": -1, "unitPriceCents": 250}), End::Invalid, SAME),
            ("add-item", json!({"sku": "tea", "quantity": 1, "unitPriceCents": -1}), End::Invalid, SAME),
            ("add-item", json!({"sku": "tea", "quantity": 1}), End::Invalid, SAME),
            ("add-item", json!({"sku": "tea", "quantity": 1, "unitPriceCents": 1, "color": "red"}), End::Invalid, SAME),
            ("remove-item", json!({"sku": "tea", "quantity": 4}), End::Rejected("not-enough-items"), SAME),
            ("remove-item", json!({"sku": "tea", "quantity": 0}), End::Invalid, SAME),
            (
                "remove-item",
                json!({"sku": "tea", "quantity": 1}),
                event("item-removed", json!({"sku": "tea", "quantity": 1}), total(500)),
                full(2, "open"),
            ),
            (
                "remove-item",
                json!({"sku": "tea"}),
                event("item-removed", json!({"sku": "tea", "quantity": 2}), total(0)),
                empty.clone(),
            ),
            ("add-item", tea(1, 250), event("item-added", tea(1, 250), total(250)), full(1, "open")),
            ("checkout", json!({}), event("checked-out", total(250), total(250)), full(1, "checkedOut")),
            ("checkout", json!({}), End::Rejected("checked-out"), SAME),
            ("add-item", tea(1, 250), End::Rejected("checked-out"), SAME),
            ("remove-item", json!({"sku": "tea"}), End::Rejected("checked-out"), SAME),
        ],
    );
}

#[test]
fn a_free_item_still_makes_a_cart() {
    let gift = json!({"sku": "gift", "quantity": 1, "unitPriceCents": 0});
    let total = json!({"totalCents": 0});
    check(
        "cart",
        vec![
            (
                "add-item",
                gift.clone(),
                event("item-added", gift, total.clone()),
                json!({"items": {"gift": {"quantity": 1, "unitPriceCents": 0}}, "status": "open", "totalCents": 0}),
            ),
            (
                "checkout",
                json!({}),
                event("checked-out", total.clone(), total),
                json!({"items": {"gift": {"quantity": 1, "unitPriceCents": 0}}, "status": "checkedOut", "totalCents": 0}),
            ),
        ],
    );
}

#[test]
fn an_account_never_pays_out_what_it_does_not_hold() {
    let amount = |cents: u64| json!({"amountCents": cents});
    let balance = |cents: u64| json!({"balanceCents": cents});
    let account = |cents: u64, open: bool| json!({"balanceCents": cents, "open": open});
    check(
        "account",
        vec![
            ("deposit", amount(1), End::Rejected("not-open"), account(0, false)),
            ("withdraw", amount(1), End::Rejected("not-open"), SAME),
            ("close", json!({}), End::Rejected("not-open"), SAME),
            ("open", json!({}), event("opened", json!({}), balance(0)), account(0, true)),
            ("open", json!({}), End::Rejected("already-open"), SAME),
            ("withdraw", amount(1), End::Rejected("insufficient-funds"), SAME),
            ("deposit", amount(100), event("deposited", amount(100), balance(100)), account(100, true)),
            ("deposit", amount(u64::MAX), End::Rejected("overflow"), SAME),
            ("withdraw", amount(101), End::Rejected("insufficient-funds"), SAME),
            ("close", json!({}), End::Rejected("not-empty"), SAME),
            ("withdraw", amount(100), event("withdrawn", amount(100), balance(0)), account(0, true)),
            ("close", json!({}), event("closed", json!({}), balance(0)), account(0, false)),
            ("close", json!({}), End::Rejected("not-open"), SAME),
            ("open", json!({}), event("opened", json!({}), balance(0)), account(0, true)),
            ("deposit", amount(0), End::Invalid, SAME),
            ("deposit", json!({"amountCents": -1}), End::Invalid, SAME),
            ("deposit", json!({"amountCents": 1000.5}), End::Invalid, SAME),
            ("deposit", json!({}), End::Invalid, SAME),
            ("deposit", json!([1]), End::Invalid, SAME),
        ],
    );
}

fn changed() -> Value {
    json!({"changed": true})
}

fn not_changed() -> Value {
    json!({"changed": false})
}

#[test]
fn a_document_is_put_merged_and_patched() {
    let ops = |ops: Value| json!({ "ops": ops });
    let step = json!([{"op": "test", "path": "/a", "value": 1}, {"op": "move", "from": "/a", "path": "/b"}]);
    let two_keys = json!({"a": 1, "c": {"d": [1, 2], "e": 5}});
    check(
        "document",
        vec![
            ("put", json!({"value": two_keys}), event("put", json!({"value": two_keys}), changed()), two_keys.clone()),
            ("put", json!({"value": two_keys}), unchanged(not_changed()), SAME),
            ("put", json!({}), End::Invalid, SAME),
            ("merge", json!({"patch": {"a": 1}}), unchanged(not_changed()), SAME),
            (
                "merge",
                json!({"patch": {"c": {"e": null, "d": [3]}}}),
                event("merged", json!({"patch": {"c": {"e": null, "d": [3]}}}), changed()),
                json!({"a": 1, "c": {"d": [3]}}),
            ),
            (
                "patch",
                ops(step.clone()),
                event("patched", ops(step.clone()), changed()),
                json!({"b": 1, "c": {"d": [3]}}),
            ),
            ("patch", ops(step), End::Rejected("invalid-path"), SAME),
            ("patch", ops(json!([])), unchanged(not_changed()), SAME),
            ("patch", ops(json!([{"op": "remove", "path": "/nope"}])), End::Rejected("invalid-path"), SAME),
            ("patch", ops(json!([{"op": "add", "path": "/c/d/7", "value": 1}])), End::Rejected("invalid-path"), SAME),
            ("patch", ops(json!([{"op": "move", "from": "/c", "path": "/c/d"}])), End::Rejected("invalid-path"), SAME),
            (
                "patch",
                ops(json!([{"op": "replace", "path": "/b", "value": 2}, {"op": "test", "path": "/b", "value": 1}])),
                End::Rejected("test-failed"),
                SAME,
            ),
            ("patch", ops(json!([{"op": "remove", "path": "b"}])), End::Invalid, SAME),
            ("patch", ops(json!([{"op": "explode", "path": "/b"}])), End::Invalid, SAME),
            ("patch", ops(json!({"op": "remove", "path": "/b"})), End::Invalid, SAME),
        ],
    );
}

#[test]
fn a_document_of_null_exists_once_it_is_put() {
    let mut subject = Subject::built_in("document");
    assert_eq!(subject.run("patch", br#"{"ops":[]}"#), unchanged(not_changed()));
    assert_eq!(subject.run("put", br#"{"value":null}"#), event("put", json!({"value": null}), changed()));
    assert_eq!((subject.state(), subject.history.len()), (Value::Null, 1));
}

#[test]
fn a_patch_cannot_blow_a_document_up() {
    let mut subject = Subject::built_in("document");
    let text = "x".repeat(1000);
    subject.run("put", json!({"value": {"a": text}}).to_string().as_bytes());

    let doubling: Vec<Value> = (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/c{n}")})).collect();
    assert_eq!(subject.run("patch", json!({"ops": doubling}).to_string().as_bytes()), End::Rejected("too-much-copied"));

    let nesting: Vec<Value> = (1..100).map(|n| json!({"op": "add", "path": "/b".repeat(n), "value": {}})).collect();
    let deepest = subject.run("patch", json!({"ops": nesting[..DEPTH_MAX - 1]}).to_string().as_bytes());
    assert!(matches!(deepest, End::Accepted(..)));
    assert_eq!(subject.run("patch", json!({"ops": nesting}).to_string().as_bytes()), End::Rejected("too-deep"));

    let many: Vec<Value> = (0..257).map(|_| json!({"op": "test", "path": "/a", "value": text})).collect();
    assert_eq!(subject.run("patch", json!({"ops": many}).to_string().as_bytes()), End::Rejected("too-many-operations"));
    assert!(subject.kind.state_json(&subject.state).is_ok());
}
