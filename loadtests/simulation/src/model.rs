//! What the entities are to clients, written down once more and by itself: a fold of events to states that the checks
//! compare answers with. Pure.

use serde_json::{Value, json};

use crate::history::{Event, Kind, Write, document};

/// The states of an entity at every version: the first is that of version 0.
pub(crate) fn states(kind: Kind, log: &[Event]) -> Result<Vec<State>, String> {
    let mut state = State::new(kind);
    let mut states = vec![state];
    for event in log {
        state = state.after(event).ok_or_else(|| format!("{event:?} cannot follow {state:?}"))?;
        states.push(state);
    }
    Ok(states)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Counter { value: i64 },
    Account { balance: u64, open: bool },
    Document { number: Option<u64> },
}

impl State {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter { value: 0 },
            Kind::Account => Self::Account { balance: 0, open: false },
            Kind::Document => Self::Document { number: None },
        }
    }

    fn after(self, event: &Event) -> Option<Self> {
        let number = |name: &str| event.data.get(name);
        match self {
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
            (Self::Account { open: true, .. }, Write::Open) => Some("already-open"),
            (Self::Account { open: false, .. }, Write::Deposit { .. } | Write::Withdraw { .. }) => Some("not-open"),
            (Self::Account { balance, .. }, Write::Withdraw { cents }) if cents > balance => Some("insufficient-funds"),
            _ => None,
        }
    }

    /// As clients are told it.
    pub(crate) fn json(self) -> Value {
        match self {
            Self::Counter { value } => json!({ "value": value }),
            Self::Account { balance, open } => json!({ "balanceCents": balance, "open": open }),
            Self::Document { number } => number.map_or(Value::Null, document),
        }
    }
}
