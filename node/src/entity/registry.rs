//! The kinds that a node runs, by name. What breaks the rules of the programming model is refused here, at the start of a
//! node, and not when the first command comes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use berth_shared::key;

use super::erased::{self, Erased, Kind, contain};
use super::kinds::{Account, Cart, Counter, Document};
use super::{Entity, describe};

/// Why a kind was not added.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the kind '{0}' is not named by a lower-case letter followed by up to 63 lower-case letters, digits or hyphens"
    )]
    Name(&'static str),
    #[error("there are two kinds named {0}")]
    Duplicate(&'static str),
    #[error("the kind {kind} breaks the rules: {source}")]
    Types { kind: &'static str, source: describe::Error },
    #[error("the initial state of kind {0} does not come back from JSON as it went in")]
    InitialState(&'static str),
    #[error(transparent)]
    Kind(#[from] erased::Error),
}

/// Kinds by name.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Arc<dyn Kind>>,
}

impl Registry {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// The kinds `account`, `cart`, `counter` and `document`.
    pub fn built_in() -> Self {
        let add_all = || Self::new().add(Account)?.add(Cart)?.add(Counter)?.add(Document);
        let added: Result<Self, Error> = add_all();
        added.expect("the built-in kinds follow the rules, as every test of this crate that starts with them shows")
    }

    #[expect(clippy::should_implement_trait, reason = "the operator `+` would say less")]
    pub fn add<E: Entity>(mut self, entity: E) -> Result<Self, Error> {
        key::check_kind(E::KIND).map_err(|_| Error::Name(E::KIND))?;
        if self.kinds.contains_key(E::KIND) {
            return Err(Error::Duplicate(E::KIND));
        }
        let kind = contain(E::KIND, "describing itself", || Erased::new(entity))?;
        let kind = kind.map_err(|source| Error::Types { kind: E::KIND, source })?;
        check_initial_state(&kind)?;
        self.kinds.insert(E::KIND, Arc::new(kind));
        Ok(self)
    }

    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Kind>> {
        self.kinds.get(kind)
    }

    /// All kinds, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Kind>> {
        self.kinds.values()
    }

    /// JSON: an array of the descriptions of all kinds, sorted by name.
    pub fn descriptions(&self) -> Bytes {
        let mut json = Vec::with_capacity(2 + self.iter().map(|kind| kind.description().len() + 1).sum::<usize>());
        json.push(b'[');
        for (place, kind) in self.iter().enumerate() {
            if place > 0 {
                json.push(b',');
            }
            json.extend_from_slice(kind.description());
        }
        json.push(b']');
        json.into()
    }
}

/// A state that does not survive JSON would be lost with the first snapshot; the initial one shows most such mistakes.
fn check_initial_state(kind: &dyn Kind) -> Result<(), Error> {
    let written = kind.state_json(&kind.initial())?;
    let again = kind.state_json(&kind.state_from_json(&written)?)?;
    // As values, because the fields of a hash map come in any order.
    let value = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).ok();
    if value(&written) == value(&again) { Ok(()) } else { Err(Error::InitialState(kind.name())) }
}
