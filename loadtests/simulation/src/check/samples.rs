//! Hand-made histories of one counter or one account, good and bad, that show that the checks notice.

use std::ops::Range;

use serde_json::{Value, json};

use crate::history::{Call, Entity, Event, History, Kind, Operation, Outcome, Write};

fn counter() -> Entity {
    Entity { kind: Kind::Counter, id: "c".into() }
}

fn account() -> Entity {
    Entity { kind: Kind::Account, id: "a".into() }
}

fn operation(entity: Entity, call: Call, time: Range<u64>, outcome: Outcome) -> Operation {
    Operation { client: 0, entity, call, key: Some("k".into()), invoked: time.start, completed: time.end, outcome }
}

/// A write to the counter.
pub(super) fn write(by: i64, time: Range<u64>, outcome: Outcome) -> Operation {
    operation(counter(), Call::Write(Write::Add { by }), time, outcome)
}

/// A write of 10, 20, 30 … that made version 1, 2, 3 …
pub(super) fn acknowledged(version: u64, by: i64, time: Range<u64>) -> Operation {
    let value: i64 = (1..=version.cast_signed()).map(|number| number * 10).sum();
    write(by, time, Outcome::Applied { version, state: json!({ "value": value }), replayed: false })
}

pub(super) fn read(version: u64, value: i64, time: Range<u64>) -> Operation {
    let outcome = Outcome::State { version, state: json!({ "value": value }) };
    operation(counter(), Call::Read { is_strict: false }, time, outcome)
}

/// `operation` with another outcome.
pub(super) fn of(mut operation: Operation, change: impl FnOnce(&mut Outcome)) -> Operation {
    change(&mut operation.outcome);
    operation
}

pub(super) fn added(version: u64, by: i64) -> Event {
    Event { version, name: "added".into(), data: json!({ "by": by }) }
}

pub(super) fn opened(version: u64) -> Event {
    Event { version, name: "opened".into(), data: Value::Null }
}

pub(super) fn deposited(version: u64, cents: u64) -> Event {
    Event { version, name: "deposited".into(), data: json!({ "amountCents": cents }) }
}

/// A withdrawal from the account that is refused.
pub(super) fn withdrawal(cents: u64, time: Range<u64>, reason: &str) -> Operation {
    let outcome = Outcome::Rejected { reason: reason.into(), replayed: false };
    operation(account(), Call::Write(Write::Withdraw { cents }), time, outcome)
}

/// Of the counter.
pub(super) fn history(
    operations: impl IntoIterator<Item = Operation>,
    log: impl IntoIterator<Item = Event>,
) -> History {
    let logs = [(counter(), log.into_iter().collect())].into();
    History { operations: operations.into_iter().collect(), logs, ..History::default() }
}

/// Of an account that was opened and got 100 cents, both during `written`.
pub(super) fn account_history(
    operations: impl IntoIterator<Item = Operation>,
    log: [Event; 2],
    written: Range<u64>,
) -> History {
    let applied = |version, balance: u64| Outcome::Applied {
        version,
        state: json!({ "balanceCents": balance, "open": true }),
        replayed: false,
    };
    let begun = [
        operation(account(), Call::Write(Write::Open), 0..2, applied(1, 0)),
        operation(account(), Call::Write(Write::Deposit { cents: 100 }), written, applied(2, 100)),
    ];
    let operations = begun.into_iter().chain(operations).collect();
    History { operations, logs: [(account(), log.into())].into(), ..History::default() }
}
