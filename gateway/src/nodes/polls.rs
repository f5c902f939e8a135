//! Connections for questions whose answers are long in coming: thousands may be under way to one node, and none of them takes
//! the place of a request that is answered at once. Made when a node is first asked such a question.

use std::collections::BTreeMap;

use berth_shared::peer::Client;
use parking_lot::Mutex;

/// By address. Bounded by the nodes that are connected.
#[derive(Debug, Default)]
pub(super) struct Polls {
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Polls {
    /// The connection to `address`, which `make` makes where there is none.
    pub(super) fn client(&self, address: &str, make: impl FnOnce() -> Client) -> Client {
        self.clients.lock().entry(address.to_owned()).or_insert_with(make).clone()
    }

    /// Ends the connections to all other nodes than these.
    pub(super) fn retain(&self, is_known: impl Fn(&str) -> bool) {
        self.clients.lock().retain(|address, _| is_known(address));
    }
}
