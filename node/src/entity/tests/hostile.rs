//! Bodies, commands, events and snapshots from someone who means harm: a clear error, never a panic.

use bytes::Bytes;
use proptest::prelude::*;

use super::{End, Subject};
use crate::entity::Registry;
use crate::entity::erased::{CommandError, Error};
use crate::record::EventBody;

fn refused(kind: &str, command: &str, body: &[u8]) -> CommandError {
    Registry::built_in().get(kind).unwrap().decode(command, body).unwrap_err()
}

#[test]
fn bad_bodies_are_named_with_their_place() {
    for (body, message) in [
        (&b"{\"by\":1"[..], "the body is invalid: EOF while parsing an object at line 1 column 7"),
        (b"{\"by\":1} x", "the body is invalid: trailing characters at line 1 column 10"),
        (b"{\"by\":1}{}", "the body is invalid: trailing characters at line 1 column 9"),
        (b"{\"by\":1,\"by\":2}", "the body is invalid: duplicate field `by` at line 1 column 12"),
        (b"{\"by\":NaN}", "the body is invalid: expected value at line 1 column 7"),
        (b"{\"by\":01}", "the body is invalid: invalid number at line 1 column 8"),
        (
            b"{\"by\":99999999999999999999}",
            "the body is invalid: invalid type: floating point `1e+20`, expected i64 at line 1 column 26",
        ),
        (b"{\"by\":1e400}", "the body is invalid: number out of range at line 1 column 11"),
        (b"{\"by\":true}", "the body is invalid: invalid type: boolean `true`, expected i64 at line 1 column 10"),
        (b"{\"to\":1}", "the body is invalid: unknown field `to`, expected `by` at line 1 column 5"),
        (b"[1]", "the body must be a JSON object"),
        (b"1", "the body must be a JSON object"),
        (b"\xef\xbb\xbf{}", "the body must be a JSON object"),
        (b"{\"by\":\xff}", "the body is not UTF-8: byte 6 does not continue it"),
    ] {
        match refused("counter", "add", body) {
            CommandError::Invalid { detail: text, .. } => assert_eq!(text, message, "{}", body.escape_ascii()),
            other => panic!("{other:?}"),
        }
    }
    match refused("counter", "subtract", b"not even JSON") {
        CommandError::Unknown(text) => assert_eq!(text, "the commands of kind counter are: add, reset"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_of_brackets_does_not_use_up_the_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [64, 65, 200_000] {
            let body = format!("{{\"value\":{}1{}}}", open.repeat(depth), close.repeat(depth));
            let mut subject = Subject::built_in("document");
            assert_eq!(subject.run("put", body.as_bytes()), End::Invalid, "{depth}");
        }
    }
    let mut subject = Subject::built_in("document");
    let body = format!("{{\"value\":{}1{}}}", "[".repeat(63), "]".repeat(63));
    assert!(matches!(subject.run("put", body.as_bytes()), End::Accepted(..)));
    let snapshot = subject.kind.state_json(&subject.state).unwrap();
    assert!(subject.kind.state_from_json(&snapshot).is_ok());
}

#[test]
fn an_error_does_not_repeat_a_megabyte() {
    let body = format!("{{\"{}\":1}}", "ä".repeat(400_000));
    match refused("counter", "add", body.as_bytes()) {
        CommandError::Invalid { detail: text, .. } => assert!(text.len() < 1_100, "{}", text.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_of_no_known_type_is_an_error() {
    let kind = Registry::built_in().get("counter").unwrap().clone();
    for (event_type, data) in [
        (&b"berth-deleted"[..], &b"{}"[..]),
        (b"subtracted", b"{}"),
        (b"\xff", b"{}"),
        (b"added", b"{}"),
        (b"added", b"{\"by\":"),
        (b"added", b"\xff"),
        (b"", b""),
    ] {
        let event = EventBody { event_type: Bytes::from_static(event_type), data: Bytes::from_static(data) };
        let error = kind.evolve(kind.initial(), &event).unwrap_err();
        assert!(matches!(error, Error::EventUnreadable { .. }), "{error}");
    }
}

#[test]
fn a_damaged_history_is_contained() {
    let kind = Registry::built_in().get("document").unwrap().clone();
    let event = EventBody {
        event_type: Bytes::from_static(b"patched"),
        data: Bytes::from_static(br#"{"ops":[{"op":"remove","path":"/gone"}]}"#),
    };
    assert!(matches!(kind.evolve(kind.initial(), &event), Err(Error::Panicked { .. })));
}

#[test]
fn a_state_or_command_of_another_kind_is_an_error() {
    let registry = Registry::built_in();
    let (counter, cart) = (registry.get("counter").unwrap(), registry.get("cart").unwrap());
    assert!(matches!(counter.state_json(&cart.initial()), Err(Error::Foreign("counter"))));
    let command = cart.decode("checkout", b"").unwrap();
    let subject = Subject::built_in("counter");
    let context = crate::entity::Context {
        now: crate::entity::Timestamp::default(),
        key: &subject.key,
        version: 0,
        principal: "",
    };
    assert!(matches!(counter.decide(&counter.initial(), &command, &context), Err(Error::Foreign("counter"))));
    assert!(matches!(cart.state_from_json(b"{\"items\":1}"), Err(Error::StateUnreadable { .. })));
}

const COMMANDS: [(&str, &str); 12] = [
    ("counter", "add"),
    ("counter", "reset"),
    ("cart", "add-item"),
    ("cart", "remove-item"),
    ("cart", "checkout"),
    ("account", "open"),
    ("account", "deposit"),
    ("account", "withdraw"),
    ("account", "close"),
    ("document", "put"),
    ("document", "merge"),
    ("document", "patch"),
];

/// Text that is nearly the body of some command.
fn almost_json() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(":"),
        Just(","),
        Just("\""),
        Just("\\u00"),
        Just("null"),
        Just("1"),
        Just("-"),
        Just("1e999"),
        Just("18446744073709551616"),
        Just("\"by\":"),
        Just("\"sku\":\"a\","),
        Just("\"quantity\":"),
        Just("\"amountCents\":"),
        Just("\"value\":"),
        Just("\"ops\":[{\"op\":\"add\",\"path\":\"/\",\"value\":"),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|words| format!("{{{}", words.concat()).into_bytes())
}

proptest! {
    #[test]
    fn no_body_makes_a_kind_panic(
        (kind, command) in proptest::sample::select(&COMMANDS[..]),
        body in prop_oneof![almost_json(), proptest::collection::vec(any::<u8>(), 0..64)],
    ) {
        // A panic would be contained and surface here as an error, which `run` does not accept.
        Subject::built_in(kind).run(command, &body);
    }

    #[test]
    fn no_stored_bytes_make_a_kind_panic(
        (kind, _) in proptest::sample::select(&COMMANDS[..]),
        event_type in proptest::sample::select(&["added", "reset", "item-added", "checked-out", "opened", "put", "merged"][..]),
        data in almost_json(),
    ) {
        let kind = Registry::built_in().get(kind).unwrap().clone();
        let _ = kind.state_from_json(&data);
        let event = EventBody { event_type: Bytes::from_static(event_type.as_bytes()), data: data.into() };
        if let Err(error) = kind.evolve(kind.initial(), &event) {
            let is_unreadable = matches!(error, Error::EventUnreadable { .. });
            prop_assert!(is_unreadable, "{}", error);
        }
    }
}
