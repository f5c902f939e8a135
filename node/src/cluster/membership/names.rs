//! The gossip library knows nodes by socket addresses; this cluster knows them by texts, `host:port`, which may be names
//! whose numbers change. So every address gets a made-up socket address, a function of its text that is the same on every
//! node, and a table leads back. What the library spreads of a node names its id and its address, so that whoever hears of a
//! node can fill the table.

use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;

use berth_shared::ids::NodeId;
use lru::LruCache;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128;

use super::facts::is_address;

/// Addresses that are known at most; the ones not used for longest go. More than the members of the largest plan.
const NAMES_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Of no meaning.
const PORT: u16 = 7400;

/// The way back from made-up socket addresses.
#[derive(Debug)]
pub(super) struct Names {
    table: Mutex<LruCache<SocketAddr, Arc<str>>>,
}

impl Default for Names {
    fn default() -> Self {
        Self { table: Mutex::new(LruCache::new(NAMES_MAX)) }
    }
}

impl Names {
    /// The socket address of `address`, which leads back to it from now on.
    pub(super) fn learn(&self, address: &str) -> SocketAddr {
        let socket_address = made_up(address);
        let mut table = self.table.lock();
        if table.get(&socket_address).is_none_or(|known| **known != *address) {
            table.put(socket_address, address.into());
        }
        socket_address
    }

    pub(super) fn find(&self, socket_address: SocketAddr) -> Option<Arc<str>> {
        self.table.lock().get(&socket_address).cloned()
    }
}

/// A unique local IPv6 address (RFC 4193) of 120 bits of hash.
pub(super) fn made_up(address: &str) -> SocketAddr {
    let bits = xxh3_128(address.as_bytes()) >> 8 | 0xfd << 120;
    SocketAddr::from((Ipv6Addr::from_bits(bits), PORT))
}

/// What the library calls a node.
pub(super) fn name(node: NodeId, address: &str) -> String {
    format!("{node}@{address}")
}

/// The node and the address of a name from another node, if it is one and goes with its socket address.
pub(super) fn parse(name: &str, socket_address: SocketAddr) -> Option<(NodeId, &str)> {
    let (node, address) = name.split_once('@')?;
    let node = u64::from_str_radix(node, 16).ok().map(NodeId).filter(|id| id.to_string() == node)?;
    (is_address(address) && made_up(address) == socket_address).then_some((node, address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_has_the_same_socket_address_everywhere_and_leads_back() {
        let names = Names::default();
        let (one, other) = (names.learn("node-1:7400"), names.learn("node-2:7400"));
        assert_ne!(one, other);
        assert_eq!(names.find(one).as_deref(), Some("node-1:7400"));
        assert_eq!(names.find(other).as_deref(), Some("node-2:7400"));
        assert_eq!(names.find(made_up("node-3:7400")), None);
        // Nodes of different versions must agree on it.
        assert_eq!(one.to_string(), made_up("node-1:7400").to_string());
        assert!(one.to_string().starts_with("[fd"), "{one}");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_used() {
        let names = Names::default();
        let used = names.learn("used:1");
        for number in 0..2 * NAMES_MAX.get() {
            names.learn(&format!("node-{number}:1"));
            assert!(names.find(used).is_some());
        }
        assert_eq!(names.table.lock().len(), NAMES_MAX.get());
        assert!(names.find(made_up("node-0:1")).is_none());
    }

    #[test]
    fn a_name_tells_id_and_address_and_a_false_one_nothing() {
        let (node, address) = (NodeId(0xab), "node-1:7400");
        let socket_address = made_up(address);
        assert_eq!(parse(&name(node, address), socket_address), Some((node, address)));
        assert_eq!(parse(&name(node, address), made_up("else:1")), None, "it would lead elsewhere");
        for name in
            ["", "ab@node-1:7400", "00000000000000AB@node-1:7400", "+0000000000000ab@node-1:7400", "@node-1:7400"]
        {
            assert_eq!(parse(name, socket_address), None, "{name}");
        }
        assert_eq!(parse(&name_of("a\n:1"), made_up("a\n:1")), None);
    }

    fn name_of(address: &str) -> String {
        name(NodeId(1), address)
    }

    proptest! {
        #[test]
        fn hostile_names_never_panic(name in any::<String>()) {
            let _ = parse(&name, made_up("a:1"));
        }
    }
}
