//! Hand-made histories of one counter or one account, good and bad, and reports of nodes, that show that the checks notice.

use std::ops::Range;

use berth_node::cluster::plan::SYSTEM_SHARD;
use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::report::{NodeReport, NodeState, Placement, ReplicaReport};
use serde_json::{Value, json};

use crate::cluster::SHARDS;
use crate::history::{Call, Consistency, Entity, Event, History, Kind, Operation, Outcome, TOMBSTONE, Write};

fn counter() -> Entity {
    Entity { kind: Kind::Counter, id: "c".into() }
}

fn account() -> Entity {
    Entity { kind: Kind::Account, id: "a".into() }
}

fn operation(entity: Entity, call: Call, time: Range<u64>, outcome: Outcome) -> Operation {
    let (key, invoked, completed) = (Some("k".into()), time.start, time.end);
    Operation { client: 0, entity, call, condition: None, key, invoked, completed, outcome }
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
    operation(counter(), Call::Read(Consistency::Linearizable), time, outcome)
}

/// A read by `client` that any replica may answer.
pub(super) fn in_session(client: usize, version: u64, value: i64, time: Range<u64>) -> Operation {
    Operation { client, call: Call::Read(Consistency::Session), ..read(version, value, time) }
}

/// A write to the counter that was refused.
pub(super) fn rejected(by: i64, time: Range<u64>, reason: &str) -> Operation {
    write(by, time, Outcome::Rejected { reason: reason.into(), replayed: false })
}

/// The deletion of the counter.
pub(super) fn deletion(version: u64, time: Range<u64>) -> Operation {
    let outcome = Outcome::Applied { version, state: Value::Null, replayed: false };
    operation(counter(), Call::Write(Write::Delete), time, outcome)
}

pub(super) fn deleted(version: u64) -> Event {
    Event { version, name: TOMBSTONE.into(), data: Value::Null }
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

/// Three nodes, of which the first owns two shards and the system shard.
pub(super) fn reports() -> Vec<NodeReport> {
    let nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
    let replica = |node: NodeId, shard: ShardId| {
        let owner = nodes[if shard == SYSTEM_SHARD { 0 } else { usize::from(shard.0) % 3 }];
        ReplicaReport {
            shard,
            owns: node == owner,
            leader: Some(owner),
            term: 1,
            voters: nodes.clone(),
            learners: vec![],
            applied: 1,
            incarnation: 0,
            content_hash: 1,
            marks: vec![],
            queued: 0,
            is_joint: false,
            planned: Some(Placement { owner, replicas: nodes.clone() }),
            movement: None,
            last_movement: None,
        }
    };
    let report = |node: &NodeId| NodeReport {
        node: *node,
        cluster: ClusterId(1),
        address: format!("node-{node}:1"),
        state: NodeState::Ready,
        software: "test".to_owned(),
        plan_epoch: 2,
        members: vec![],
        sightings: vec![],
        replicas: (0..SHARDS).map(ShardId).chain([SYSTEM_SHARD]).map(|shard| replica(*node, shard)).collect(),
    };
    nodes.iter().map(report).collect()
}
