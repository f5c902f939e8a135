//! What clients ask for. Pure.

use std::time::Duration;

use crate::history::{Entity, Kind, Write};

/// How the clients of a run behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Mean pause between two requests of a client.
    pub pause: Duration,
    /// What a request may take, in whole seconds; every request says so.
    pub deadline: Duration,
    pub reads_percent: u64,
    /// Whether half of the reads ask for a quorum's word.
    pub reads_strictly: bool,
    /// Whether there are documents, which are long.
    pub writes_documents: bool,
    /// Of writes: how many carry a key of the client's own.
    pub keys_percent: u64,
    /// Of those with a key: how many are tried again when nobody knows what became of them.
    pub retries_percent: u64,
    /// Of reads: how many may be answered by any replica that has what the client was told before.
    pub sessions_percent: u64,
    /// Of reads: how many may be answered by any replica whatever it has.
    pub stale_percent: u64,
    /// Of all: how many ask for the ids of a kind.
    pub listings_percent: u64,
    /// Of writes to counters: how many ask for the version that the client knows.
    pub conditions_percent: u64,
    /// Of all: how many are the life of an entity, from its beginning to its deletion.
    pub lives_percent: u64,
    /// Of all: how many are writes whose outcome the client knows, sent again with their key.
    pub repeats_percent: u64,
}

/// The few entities that all clients share, so that their requests meet.
pub fn entities() -> Vec<Entity> {
    let counters = (0..4).map(|number| Entity { kind: Kind::Counter, id: format!("c{number}") });
    let accounts = (0..3).map(|number| Entity { kind: Kind::Account, id: format!("a{number}") });
    let documents = (0..2).map(|number| Entity { kind: Kind::Document, id: format!("d{number}") });
    counters.chain(accounts).chain(documents).collect()
}

/// The `number`th write of `client`, unlike every other write of the run.
pub(super) fn write(kind: Kind, client: usize, number: u64, random: u64) -> Write {
    let amount = number * 1000 + client as u64;
    match kind {
        Kind::Counter => Write::Add { by: amount.cast_signed() },
        // About as much is asked for as there is, so that some is refused.
        Kind::Account if random % 5 < 2 => Write::Deposit { cents: amount },
        Kind::Account => Write::Withdraw { cents: amount },
        Kind::Document => Write::Put { number: amount },
    }
}
