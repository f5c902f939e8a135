//! The seeds of a gateway as DNS has them: which of their addresses are connected, and taking in that they have changed.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_shared::seeds::{Current, StandsFor};
use tokio::sync::watch;

use super::{Change, Connections};

/// Longest time between two questions for a name: nodes that come later are learnt from the others sooner.
pub(super) const REFRESH_MAX: Duration = Duration::from_secs(30);

/// Takes in what the seeds stand for, whenever that changes, as long as the connections live.
pub(super) async fn follow(connections: Weak<Connections>, mut changes: watch::Receiver<Arc<Current>>) {
    while changes.changed().await.is_ok() {
        let Some(connections) = connections.upgrade() else { return };
        connections.change(|_| Change::Other);
    }
}

/// The addresses of seeds that come before what nodes have `told`, because they are configured, and those that come after it,
/// because they are only what DNS has. A name by which nodes tell of one of them stands for that one, which is not connected
/// once more by its address.
pub(super) fn by_rank<'a>(seeds: &'a Current, told: &BTreeSet<&String>) -> (Vec<&'a String>, Vec<&'a String>) {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for seed in seeds.seeds() {
        match &seed.stands_for {
            StandsFor::Itself => first.push(&seed.configured),
            StandsFor::Addresses(addresses) if !told.contains(&seed.configured) => last.extend(addresses),
            StandsFor::Addresses(_) | StandsFor::Nothing(_) | StandsFor::Unknown => {}
        }
    }
    (first, last)
}
