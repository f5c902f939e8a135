//! Tests of kinds through the form without type parameters, as shards use them.

mod containment;
mod folding;
mod hostile;
mod kinds;
mod schemas;
mod violations;

use std::sync::Arc;

use serde_json::Value;

use berth_shared::key::EntityKey;

use super::erased::{Accepted, CommandError, Error, Kind, State, Verdict};
use super::{Context, Registry, Timestamp};
use crate::record::EventBody;

/// One entity, as its owner holds it.
struct Subject {
    kind: Arc<dyn Kind>,
    key: EntityKey,
    state: State,
    history: Vec<EventBody>,
}

/// How a command ended, in the words of the tables.
#[derive(Debug, PartialEq)]
enum End {
    /// Event types and data, and the reply.
    Accepted(Vec<(String, Value)>, Value),
    Rejected(&'static str),
    Unknown,
    Invalid,
}

impl Subject {
    fn new(registry: &Registry, kind: &str) -> Self {
        let kind = Arc::clone(registry.get(kind).unwrap());
        let key = EntityKey::new(kind.name(), "a").unwrap();
        Self { state: kind.initial(), kind, key, history: Vec::new() }
    }

    fn built_in(kind: &str) -> Self {
        Self::new(&Registry::built_in(), kind)
    }

    fn run(&mut self, command: &str, body: &[u8]) -> End {
        match self.try_run(command, body) {
            Ok(end) => end,
            Err(error) => panic!("{command}: {error}"),
        }
    }

    fn try_run(&mut self, command: &str, body: &[u8]) -> Result<End, Error> {
        let command = match self.kind.decode(command, body) {
            Ok(command) => command,
            Err(CommandError::Unknown(_)) => return Ok(End::Unknown),
            Err(CommandError::Invalid { .. }) => return Ok(End::Invalid),
            Err(CommandError::Failed(error)) => return Err(error),
        };
        let context = Context {
            now: Timestamp::from_micros(1_767_225_600_000_000 + self.history.len() as u64),
            key: &self.key,
            version: self.history.len() as u64,
            principal: "tester",
        };
        match self.kind.decide(&self.state, &command, &context)? {
            Verdict::Rejected(rejected) => Ok(End::Rejected(rejected.reason)),
            Verdict::Accepted(Accepted { events, reply, state }) => {
                assert_eq!(
                    state.is_same(&self.state),
                    events.is_empty(),
                    "a state is shared only while it is unchanged"
                );
                self.state = state;
                let words = events.iter().map(|event| {
                    (
                        String::from_utf8(event.event_type.to_vec()).unwrap(),
                        serde_json::from_slice(&event.data).unwrap(),
                    )
                });
                let end = End::Accepted(words.collect(), serde_json::from_slice(&reply).unwrap());
                self.history.extend(events);
                Ok(end)
            }
        }
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&self.kind.state_json(&self.state).unwrap()).unwrap()
    }

    /// What a replica makes of the history.
    fn folded(&self) -> State {
        let fold = |state, event| self.kind.evolve(state, event);
        self.history.iter().try_fold(self.kind.initial(), fold).unwrap()
    }
}
