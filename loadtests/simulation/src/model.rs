//! What the entities are to clients, written down once more and by itself: a fold of events to states that the checks
//! compare answers with. Pure.

use serde_json::{Value, json};

use crate::history::{Event, Kind, NOTHING_THERE, TOMBSTONE, Write, document};

/// The states of an entity at every version: the first is that of version 0.
pub(crate) fn states(kind: Kind, log: &[Event]) -> Result<Vec<State>, String> {
    let mut state = State::Absent;
    let mut states = vec![state];
    for event in log {
        state = state.after(kind, event).ok_or_else(|| format!("{event:?} cannot follow {state:?}"))?;
        states.push(state);
    }
    Ok(states)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Without events.
    Absent,
    Deleted,
    Counter {
        value: i64,
    },
    Account {
        balance: u64,
        open: bool,
    },
    Document {
        number: Option<u64>,
    },
}

impl State {
    /// What events begin with, of an entity that is new or deleted.
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter { value: 0 },
            Kind::Account => Self::Account { balance: 0, open: false },
            Kind::Document => Self::Document { number: None },
        }
    }

    pub(crate) fn after(self, kind: Kind, event: &Event) -> Option<Self> {
        let number = |name: &str| event.data.get(name);
        match self {
            // A deletion of what is not there makes no event.
            Self::Absent | Self::Deleted if event.name == TOMBSTONE => None,
            Self::Absent | Self::Deleted => Self::new(kind).after(kind, event),
            _ if event.name == TOMBSTONE => Some(Self::Deleted),
            Self::Counter { value } => match event.name.as_str() {
                "added" => Some(Self::Counter { value: value.checked_add(number("by")?.as_i64()?)? }),
                _ => None,
            },
            Self::Account { balance, open } => {
                let cents = || number("amountCents")?.as_u64();
                let balance = match (event.name.as_str(), open) {
                    ("opened", false) => balance,
                    ("deposited", true) => balance.checked_add(cents()?)?,
                    ("withdrawn", true) => balance.checked_sub(cents()?)?,
                    _ => return None,
                };
                Some(Self::Account { balance, open: true })
            }
            Self::Document { .. } => {
                let value = event.data.get("value").filter(|_| event.name == "put")?;
                let number = value.get("number")?.as_u64()?;
                (*value == document(number)).then_some(Self::Document { number: Some(number) })
            }
        }
    }

    /// The kind's own code, if it refuses `write` in this state.
    pub(crate) fn refusal(self, write: Write) -> Option<&'static str> {
        match (self, write) {
            (Self::Absent, Write::Delete) => Some(NOTHING_THERE),
            (Self::Account { open: true, .. }, Write::Open) => Some("already-open"),
            (
                Self::Account { open: false, .. } | Self::Absent | Self::Deleted,
                Write::Deposit { .. } | Write::Withdraw { .. },
            ) => Some("not-open"),
            (Self::Account { balance, .. }, Write::Withdraw { cents }) if cents > balance => Some("insufficient-funds"),
            _ => None,
        }
    }

    pub(crate) fn exists(self) -> bool {
        !matches!(self, Self::Absent | Self::Deleted)
    }

    /// As clients are told it; null where they are told of none.
    pub(crate) fn json(self) -> Value {
        match self {
            Self::Absent | Self::Deleted => Value::Null,
            Self::Counter { value } => json!({ "value": value }),
            Self::Account { balance, open } => json!({ "balanceCents": balance, "open": open }),
            Self::Document { number } => number.map_or(Value::Null, document),
        }
    }
}
