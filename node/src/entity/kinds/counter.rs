//! `counter`: a whole number that commands add to. The smallest kind, and the first one to read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::{Context, Decision, Entity, Rejection};

#[derive(Clone, Copy, Debug)]
pub struct Counter;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// Any 64-bit signed integer. Clients whose numbers are doubles are exact up to 2^53.
    pub value: i64,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Adds to the value; 1 if nothing else is said. Adding 0 changes nothing.
    Add {
        #[serde(default = "one")]
        by: i64,
    },
    /// Sets the value to 0. A counter that stands at 0 is not changed.
    Reset,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Added { by: i64 },
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the value would leave the range of 64-bit signed integers")]
    Overflow,
}

impl Entity for Counter {
    const KIND: &'static str = "counter";
    type State = State;
    type Command = Command;
    type Event = Event;
    /// The new value.
    type Reply = i64;
    type Rejection = Refusal;

    fn decide(
        &self,
        state: &State,
        command: &Command,
        _context: &Context<'_>,
    ) -> Result<Decision<Event, i64>, Refusal> {
        match *command {
            Command::Add { by: 0 } => Ok(Decision::no_change().reply(state.value)),
            Command::Add { by } => {
                let value = state.value.checked_add(by).ok_or(Refusal::Overflow)?;
                Ok(Decision::event(Event::Added { by }).reply(value))
            }
            Command::Reset if state.value == 0 => Ok(Decision::no_change().reply(0)),
            Command::Reset => Ok(Decision::event(Event::Reset).reply(0)),
        }
    }

    fn evolve(state: &mut State, event: &Event) {
        match event {
            Event::Added { by } => state.value += by,
            Event::Reset => state.value = 0,
        }
    }
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
        }
    }
}

fn one() -> i64 {
    1
}
