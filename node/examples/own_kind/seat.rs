//! `seat`: one seat of one show, which is held for somebody for some minutes and then bought, or free again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use berth_node::entity::{Context, Decision, Entity, Rejection, Timestamp};

/// What deciding needs and no event brings: it is the same for all seats, and only the owner of a seat looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// How long a hold lasts.
    pub hold_minutes: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub held: Option<Hold>,
    pub sold_to: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub guest: String,
    /// From this time on the seat is free again.
    pub until: Timestamp,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Command {
    /// Holds the seat, or holds it longer for the same guest.
    Hold { guest: String },
    /// Sells the seat to the guest who holds it.
    Buy { guest: String },
    /// Gives the seat back. A seat that nobody holds is not changed.
    Release { guest: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// Carries the end of the hold, so that folding needs neither clock nor settings.
    Held {
        guest: String,
        until: Timestamp,
    },
    Sold {
        guest: String,
    },
    Released,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    pub held_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the seat is sold")]
    Sold,
    #[error("somebody else holds the seat until {0}")]
    HeldByAnother(Timestamp),
    #[error("the guest does not hold the seat, or not any more")]
    NotHeld,
}

impl Entity for Seat {
    const KIND: &'static str = "seat";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Rejection = Refusal;

    fn decide(
        &self,
        state: &State,
        command: &Command,
        context: &Context<'_>,
    ) -> Result<Decision<Event, Reply>, Refusal> {
        if state.sold_to.is_some() {
            return Err(Refusal::Sold);
        }
        // A hold that has run out needs no event: nothing but time has passed.
        let hold = state.held.as_ref().filter(|hold| context.now < hold.until);
        let none = Reply { held_until: None };
        match (command, hold) {
            (Command::Hold { guest }, Some(hold)) if hold.guest != *guest => Err(Refusal::HeldByAnother(hold.until)),
            (Command::Hold { guest }, _) => {
                let until = self.hold_end(context.now);
                let event = Event::Held { guest: guest.clone(), until };
                Ok(Decision::event(event).reply(Reply { held_until: Some(until) }))
            }
            (Command::Buy { guest }, Some(hold)) if hold.guest == *guest => {
                Ok(Decision::event(Event::Sold { guest: guest.clone() }).reply(none))
            }
            (Command::Buy { .. }, _) => Err(Refusal::NotHeld),
            (Command::Release { guest }, Some(hold)) if hold.guest != *guest => Err(Refusal::NotHeld),
            (Command::Release { .. }, Some(_)) => Ok(Decision::event(Event::Released).reply(none)),
            (Command::Release { .. }, None) => Ok(Decision::no_change().reply(none)),
        }
    }

    fn evolve(state: &mut State, event: &Event) {
        match event {
            Event::Held { guest, until } => state.held = Some(Hold { guest: guest.clone(), until: *until }),
            Event::Sold { guest } => *state = State { held: None, sold_to: Some(guest.clone()) },
            Event::Released => state.held = None,
        }
    }
}

impl Seat {
    fn hold_end(self, now: Timestamp) -> Timestamp {
        Timestamp::from_micros(now.as_micros() + u64::from(self.hold_minutes) * 60_000_000)
    }
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Sold => "sold",
            Self::HeldByAnother(_) => "held-by-another",
            Self::NotHeld => "not-held",
        }
    }
}

/// A kind is plain functions, so its tests need no cluster.
#[cfg(test)]
mod tests {
    use berth_node::entity::EntityKey;

    use super::*;

    const SEAT: Seat = Seat { hold_minutes: 10 };

    fn at(minute: u64) -> Timestamp {
        Timestamp::from_micros(1_767_225_600_000_000 + minute * 60_000_000)
    }

    /// Runs commands of (minute, command) and folds their events; the last one's answer comes back.
    fn run(commands: &[(u64, Command)]) -> (State, Result<Reply, Refusal>) {
        let key = EntityKey::new("seat", "hamlet/12").expect("a valid name");
        let mut state = State::default();
        let mut answer = Err(Refusal::NotHeld);
        for (version, (minute, command)) in commands.iter().enumerate() {
            let context = Context { now: at(*minute), key: &key, version: version as u64, principal: "" };
            answer = SEAT.decide(&state, command, &context).map(|decision| {
                let (events, reply) = decision.into_parts();
                for event in &events {
                    Seat::evolve(&mut state, event);
                }
                reply
            });
        }
        (state, answer)
    }

    fn hold(guest: &str) -> Command {
        Command::Hold { guest: guest.into() }
    }

    fn buy(guest: &str) -> Command {
        Command::Buy { guest: guest.into() }
    }

    #[test]
    fn a_seat_is_held_and_then_bought() {
        let (state, answer) = run(&[(0, hold("ann")), (9, buy("ann"))]);
        assert_eq!(answer, Ok(Reply { held_until: None }));
        assert_eq!(state, State { held: None, sold_to: Some("ann".into()) });
    }

    #[test]
    fn a_hold_keeps_others_away_until_it_ends() {
        assert_eq!(run(&[(0, hold("ann")), (9, hold("bob"))]).1, Err(Refusal::HeldByAnother(at(10))));
        assert_eq!(run(&[(0, hold("ann")), (10, hold("bob"))]).1, Ok(Reply { held_until: Some(at(20)) }));
        assert_eq!(run(&[(0, hold("ann")), (10, buy("ann"))]).1, Err(Refusal::NotHeld));
    }

    #[test]
    fn a_sold_seat_stays_sold() {
        let sold = [(0, hold("ann")), (1, buy("ann"))];
        for command in [hold("bob"), buy("ann"), Command::Release { guest: "ann".into() }] {
            assert_eq!(run(&[&sold[..], &[(2, command)]].concat()).1, Err(Refusal::Sold));
        }
    }

    #[test]
    fn only_the_holder_releases_a_seat() {
        let release = |guest: &str| Command::Release { guest: guest.into() };
        assert_eq!(run(&[(0, hold("ann")), (1, release("bob"))]).1, Err(Refusal::NotHeld));
        assert_eq!(run(&[(0, hold("ann")), (1, release("ann"))]).0, State::default());
        assert_eq!(run(&[(0, release("ann"))]).1, Ok(Reply { held_until: None }));
    }
}
