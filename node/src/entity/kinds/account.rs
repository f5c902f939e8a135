//! `account`: money of one owner, which can be opened, paid into, paid out of, and closed when it is empty.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::{Context, Decision, Entity, Rejection};

#[derive(Clone, Copy, Debug)]
pub struct Account;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Never below 0; 0 while the account is not open.
    pub balance_cents: u64,
    pub open: bool,
}

/// Amounts are 1 or more; other numbers are invalid requests and are not decided at all.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Command {
    /// Opens an account that is new, or reopens one that was closed.
    Open,
    Deposit {
        amount_cents: NonZeroU64,
    },
    /// Pays out at most the balance.
    Withdraw {
        amount_cents: NonZeroU64,
    },
    /// Closes an account whose balance is 0.
    Close,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    Opened,
    Deposited { amount_cents: u64 },
    Withdrawn { amount_cents: u64 },
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The balance after the command.
    pub balance_cents: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the account is already open")]
    AlreadyOpen,
    #[error("the account is not open")]
    NotOpen,
    #[error("the balance is {balance_cents} cents, {missing_cents} less than asked for")]
    InsufficientFunds { balance_cents: u64, missing_cents: u64 },
    #[error("the balance would be larger than can be kept")]
    Overflow,
    #[error("the account still holds {0} cents")]
    NotEmpty(u64),
}

impl Entity for Account {
    const KIND: &'static str = "account";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = Reply;
    type Rejection = Refusal;

    fn decide(
        &self,
        state: &State,
        command: &Command,
        _context: &Context<'_>,
    ) -> Result<Decision<Event, Reply>, Refusal> {
        let balance_cents = state.balance_cents;
        let (event, balance_cents) = match command {
            Command::Open if state.open => return Err(Refusal::AlreadyOpen),
            Command::Open => (Event::Opened, balance_cents),
            _ if !state.open => return Err(Refusal::NotOpen),
            Command::Deposit { amount_cents } => {
                let amount_cents = amount_cents.get();
                let after_cents = balance_cents.checked_add(amount_cents).ok_or(Refusal::Overflow)?;
                (Event::Deposited { amount_cents }, after_cents)
            }
            Command::Withdraw { amount_cents } => {
                let amount_cents = amount_cents.get();
                let missing_cents = amount_cents.saturating_sub(balance_cents);
                if missing_cents > 0 {
                    return Err(Refusal::InsufficientFunds { balance_cents, missing_cents });
                }
                (Event::Withdrawn { amount_cents }, balance_cents - amount_cents)
            }
            Command::Close if balance_cents > 0 => return Err(Refusal::NotEmpty(balance_cents)),
            Command::Close => (Event::Closed, 0),
        };
        Ok(Decision::event(event).reply(Reply { balance_cents }))
    }

    fn evolve(state: &mut State, event: &Event) {
        match event {
            Event::Opened => state.open = true,
            Event::Deposited { amount_cents } => state.balance_cents += amount_cents,
            Event::Withdrawn { amount_cents } => state.balance_cents -= amount_cents,
            Event::Closed => state.open = false,
        }
    }
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::AlreadyOpen => "already-open",
            Self::NotOpen => "not-open",
            Self::InsufficientFunds { .. } => "insufficient-funds",
            Self::Overflow => "overflow",
            Self::NotEmpty(_) => "not-empty",
        }
    }
}
