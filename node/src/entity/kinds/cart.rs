//! `cart`: a shopping cart that is filled while it is open and final once it is checked out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::{Context, Decision, Entity, Rejection};

#[derive(Clone, Copy, Debug)]
pub struct Cart;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// By stock-keeping unit. No item has quantity 0.
    pub items: BTreeMap<String, Item>,
    pub status: Status,
    /// Sum of quantity × unit price over all items.
    pub total_cents: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub quantity: u32,
    pub unit_price_cents: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    #[default]
    Open,
    CheckedOut,
}

/// Quantities are 1 or more, prices 0 or more; other numbers are invalid requests and are not decided at all.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Command {
    /// Puts items into the cart, on top of those of the same SKU, which must have the same unit price.
    AddItem { sku: String, quantity: NonZeroU32, unit_price_cents: u64 },
    /// Takes items out again: as many as said, or all of this SKU.
    RemoveItem { sku: String, quantity: Option<NonZeroU32> },
    /// Ends the cart. It must have an item; afterwards every command is refused.
    Checkout,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    ItemAdded { sku: String, quantity: u32, unit_price_cents: u64 },
    ItemRemoved { sku: String, quantity: u32 },
    CheckedOut { total_cents: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// What the cart costs after the command.
    pub total_cents: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the cart is checked out and cannot be changed")]
    CheckedOut,
    #[error("a SKU has 1 to {SKU_BYTES_MAX} bytes")]
    InvalidSku,
    #[error("the cart has this SKU at another unit price, {0} cents")]
    PriceConflict(u64),
    #[error("the quantity or the total would be too large")]
    Overflow,
    #[error("the cart has no item of this SKU")]
    UnknownSku,
    #[error("the cart has only {0} of this SKU")]
    NotEnoughItems(u32),
    #[error("the cart is empty")]
    EmptyCart,
}

/// Longest stock-keeping unit, in bytes of UTF-8.
pub const SKU_BYTES_MAX: usize = 128;

impl Entity for Cart {
    const KIND: &'static str = "cart";
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
        if state.status == Status::CheckedOut {
            return Err(Refusal::CheckedOut);
        }
        let (event, total_cents) = match command {
            Command::AddItem { sku, quantity, unit_price_cents } => {
                state.add(sku, quantity.get(), *unit_price_cents)?
            }
            Command::RemoveItem { sku, quantity } => state.remove(sku, quantity.map(NonZeroU32::get))?,
            Command::Checkout if state.items.is_empty() => return Err(Refusal::EmptyCart),
            Command::Checkout => (Event::CheckedOut { total_cents: state.total_cents }, state.total_cents),
        };
        Ok(Decision::event(event).reply(Reply { total_cents }))
    }

    fn evolve(state: &mut State, event: &Event) {
        match event {
            Event::ItemAdded { sku, quantity, unit_price_cents } => {
                let empty = Item { quantity: 0, unit_price_cents: *unit_price_cents };
                state.items.entry(sku.clone()).or_insert(empty).quantity += quantity;
                state.total_cents += u64::from(*quantity) * unit_price_cents;
            }
            Event::ItemRemoved { sku, quantity } => {
                if let Entry::Occupied(mut item) = state.items.entry(sku.clone()) {
                    state.total_cents -= u64::from(*quantity) * item.get().unit_price_cents;
                    item.get_mut().quantity -= quantity;
                    if item.get().quantity == 0 {
                        item.remove();
                    }
                }
            }
            Event::CheckedOut { .. } => state.status = Status::CheckedOut,
        }
    }
}

impl State {
    /// The event, and the total after it.
    fn add(&self, sku: &str, quantity: u32, unit_price_cents: u64) -> Result<(Event, u64), Refusal> {
        if sku.is_empty() || sku.len() > SKU_BYTES_MAX {
            return Err(Refusal::InvalidSku);
        }
        if let Some(item) = self.items.get(sku) {
            if item.unit_price_cents != unit_price_cents {
                return Err(Refusal::PriceConflict(item.unit_price_cents));
            }
            item.quantity.checked_add(quantity).ok_or(Refusal::Overflow)?;
        }
        let cents = u64::from(quantity).checked_mul(unit_price_cents).ok_or(Refusal::Overflow)?;
        let total_cents = self.total_cents.checked_add(cents).ok_or(Refusal::Overflow)?;
        Ok((Event::ItemAdded { sku: sku.to_owned(), quantity, unit_price_cents }, total_cents))
    }

    /// The event, and the total after it.
    fn remove(&self, sku: &str, quantity: Option<u32>) -> Result<(Event, u64), Refusal> {
        let item = self.items.get(sku).ok_or(Refusal::UnknownSku)?;
        let quantity = quantity.unwrap_or(item.quantity);
        if quantity > item.quantity {
            return Err(Refusal::NotEnoughItems(item.quantity));
        }
        let total_cents = self.total_cents - u64::from(quantity) * item.unit_price_cents;
        Ok((Event::ItemRemoved { sku: sku.to_owned(), quantity }, total_cents))
    }
}

impl Rejection for Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::CheckedOut => "checked-out",
            Self::InvalidSku => "invalid-sku",
            Self::PriceConflict(_) => "price-conflict",
            Self::Overflow => "overflow",
            Self::UnknownSku => "unknown-sku",
            Self::NotEnoughItems(_) => "not-enough-items",
            Self::EmptyCart => "empty-cart",
        }
    }
}
