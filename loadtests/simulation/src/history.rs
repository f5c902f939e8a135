//! What clients did and were told, with the moments of it; and the logs that were read at the end. The raw material of the
//! checks, and plain values, so that a check can be shown a history that is bad.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use berth_shared::ids::{ClusterId, LogIndex, NodeId, ShardId, Term};
use berth_shared::report::NodeReport;
use serde_json::{Value, json};

/// The event of a deletion.
pub const TOMBSTONE: &str = "berth-deleted";
/// Why a write is refused whose entity is at another version than it asks for.
pub const OTHER_VERSION: &str = "version-mismatch";
/// Why a deletion is refused where there is nothing.
pub const NOTHING_THERE: &str = "not-found";

/// Which entity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entity {
    pub kind: Kind,
    pub id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Counter,
    Account,
    Document,
}

/// One request of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub client: usize,
    pub entity: Entity,
    pub call: Call,
    /// The version that a write asks for: at any other it must be refused.
    pub condition: Option<u64>,
    /// The client's own idempotency key. Attempts at one write share it, and their call.
    pub key: Option<String>,
    /// Nanoseconds since the start of the run.
    pub invoked: u64,
    pub completed: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Write(Write),
    Read(Consistency),
}

/// How new what a read is told must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// As new as anything that anybody was told before.
    Linearizable,
    /// The same, by a quorum's word.
    Strict,
    /// As new as anything that this client was told before.
    Session,
    /// As old as the replica that answers.
    Stale,
}

/// A command. No two writes of a run are alike, but attempts at the same one: each is found in the log by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    Add {
        by: i64,
    },
    /// Once per account, before anything else happens to it.
    Open,
    Deposit {
        cents: u64,
    },
    Withdraw {
        cents: u64,
    },
    /// A text that the number makes, long enough that journals fill.
    Put {
        number: u64,
    },
    /// Once per entity.
    Delete,
}

/// The ids of a kind, as a client was told them page by page; only if all pages came.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    pub kind: Kind,
    pub ids: Vec<String>,
    /// Nanoseconds since the start of the run.
    pub invoked: u64,
    pub completed: u64,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The state is null after a deletion.
    Applied {
        version: u64,
        state: Value,
        replayed: bool,
    },
    /// The entity said no, or is not at the version that was asked for: nothing was written.
    Rejected {
        reason: String,
        replayed: bool,
    },
    State {
        version: u64,
        state: Value,
    },
    /// The entity has no events.
    Absent,
    /// The entity is deleted.
    Deleted,
    /// A status that promises that nothing was applied.
    NotApplied {
        status: u16,
    },
    /// Nobody knows: 504, no answer in time, or the connection was lost.
    Unknown {
        why: String,
    },
    /// An answer that the contract does not have.
    Nonsense {
        answer: String,
    },
}

/// An event as the cluster's history shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub version: u64,
    pub name: String,
    pub data: Value,
}

/// What the clients of a run saw, and what is in the logs after it.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order of completion.
    pub operations: Vec<Operation>,
    pub listings: Vec<Listing>,
    /// Of every entity that was touched, as read at the end.
    pub logs: BTreeMap<Entity, Vec<Event>>,
    /// What nodes said of themselves while it ran.
    pub observed: Observed,
    /// From here on nothing is broken, and every request must succeed; nanoseconds since the start.
    pub healed: u64,
}

/// What was seen by looking into the nodes every few milliseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub ownerships: Vec<Ownership>,
    /// What every replica had applied, whenever that had changed.
    pub applied: Vec<Applied>,
    /// The clusters that nodes said they are part of.
    pub clusters: BTreeSet<ClusterId>,
    /// The highest epoch of a plan that a node knew.
    pub plan_epoch: u64,
    pub departures: Vec<Departure>,
    /// Steps of moves, each as it was when it was first seen.
    pub moves: Vec<Move>,
    /// Who belonged to the groups, by their owners' word, whenever that had changed.
    pub groups: Vec<Group>,
    pub changes: Changes,
    /// What the nodes that still ran said at the very end.
    pub last: Vec<NodeReport>,
}

/// A node that was told to give everything away, and has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    pub node: NodeId,
    /// Of which shards it had replicas when it ended.
    pub hosted: Vec<ShardId>,
    /// For which shards their owners counted on it then.
    pub counted_on: Vec<ShardId>,
}

/// What happened to the members: all that a plan may be changed for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// How long a node must be silent to be given up.
    pub replace_after: Duration,
    pub joined: u64,
    pub left: u64,
    /// Nodes that lost their disk, and came back as others.
    pub replaced: u64,
    pub absences: Vec<Absence>,
}

/// While this lasted, not everybody could hear the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absence {
    pub host: String,
    /// Nanoseconds since the start.
    pub from: u64,
    pub until: u64,
}

/// A node owned a shard under a lease that it took for valid, at every look from `from` to `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    pub node: NodeId,
    pub shard: ShardId,
    pub term: Term,
    pub from: u64,
    pub until: u64,
}

/// From `from` on these belong to a shard's group: voters and learners, and while they change, those of before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub shard: ShardId,
    pub term: Term,
    pub from: u64,
    pub members: Vec<NodeId>,
}

/// The content of a replica after the entry `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub node: NodeId,
    pub shard: ShardId,
    pub index: LogIndex,
    pub content_hash: u128,
}

/// A step by which a node gets a vote or a shard, when it was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub shard: ShardId,
    pub by: NodeId,
    /// As reports call it.
    pub step: String,
    pub target: NodeId,
    /// Entries that the target was not known to have.
    pub behind: LogIndex,
}

/// What a check found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise that is broken.
    pub promise: &'static str,
    pub what: String,
}

impl Violation {
    pub fn new(promise: &'static str, what: impl Into<String>) -> Self {
        Self { promise, what: what.into() }
    }
}

impl Operation {
    pub fn write(&self) -> Option<Write> {
        match self.call {
            Call::Write(write) => Some(write),
            Call::Read(_) => None,
        }
    }

    /// The version that the answer named.
    pub fn version(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Applied { version, .. } | Outcome::State { version, .. } => Some(version),
            Outcome::Absent => Some(0),
            _ => None,
        }
    }
}

impl History {
    pub fn of<'a>(&'a self, entity: &'a Entity) -> impl Iterator<Item = &'a Operation> {
        self.operations.iter().filter(move |operation| operation.entity == *entity)
    }

    /// All entities that were written to or read, or have a log.
    pub fn entities(&self) -> Vec<&Entity> {
        let mut entities: Vec<&Entity> = self.operations.iter().map(|operation| &operation.entity).collect();
        entities.extend(self.logs.keys());
        entities.sort();
        entities.dedup();
        entities
    }

    /// The events of an entity; none when its log was not found.
    pub fn log(&self, entity: &Entity) -> &[Event] {
        self.logs.get(entity).map_or(&[], Vec::as_slice)
    }
}

impl Write {
    /// The event that the write makes when it is accepted.
    pub fn event(self) -> (&'static str, Value) {
        match self {
            Self::Add { by } => ("added", json!({ "by": by })),
            Self::Open => ("opened", Value::Null),
            Self::Deposit { cents } => ("deposited", json!({ "amountCents": cents })),
            Self::Withdraw { cents } => ("withdrawn", json!({ "amountCents": cents })),
            Self::Put { number } => ("put", json!({ "value": document(number) })),
            Self::Delete => (TOMBSTONE, Value::Null),
        }
    }

    /// The command's name and its arguments; a deletion is a method of its own.
    pub fn command(self) -> (&'static str, Value) {
        match self {
            Self::Add { by } => ("add", json!({ "by": by })),
            Self::Open => ("open", json!({})),
            Self::Deposit { cents } => ("deposit", json!({ "amountCents": cents })),
            Self::Withdraw { cents } => ("withdraw", json!({ "amountCents": cents })),
            Self::Put { number } => ("put", json!({ "value": document(number) })),
            Self::Delete => ("", Value::Null),
        }
    }

    /// Whether `event` is this write's.
    pub fn made(self, event: &Event) -> bool {
        let (name, data) = self.event();
        // What an event without fields carries as data is the kind's business.
        event.name == name && (data == Value::Null || event.data == data)
    }
}

/// The text of a document, of up to 16 KiB.
pub fn document(number: u64) -> Value {
    json!({ "number": number, "text": "abcdefgh".repeat((number % 2048) as usize) })
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Account => "account",
            Self::Document => "document",
        }
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.name(), self.id)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}
