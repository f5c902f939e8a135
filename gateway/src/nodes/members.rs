//! Which nodes there are, as the nodes tell: every node pushes its own list. A node counts as long as some connected node's
//! list names it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use berth_shared::report::Member;

/// The newest list of each node, by the address at which it was heard. Bounded by the connected nodes, and each list by the
/// longest frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    lists: BTreeMap<String, BTreeSet<String>>,
}

impl Members {
    /// Takes in the list of the node at `from`, in place of an earlier one; forgets the lists of nodes that are not connected
    /// any more, because they would never be corrected. A node says its list again when it is connected again. Says whether
    /// that was news.
    pub(crate) fn hear(&mut self, from: &str, members: Vec<Member>, is_connected: impl Fn(&str) -> bool) -> bool {
        let listed: BTreeSet<String> = members.into_iter().map(|member| member.address).collect();
        let lists = self.lists.len();
        self.lists.retain(|address, _| is_connected(address));
        let forgot = self.lists.len() < lists;
        let before = self.lists.insert(from.to_owned(), listed);
        forgot || before.as_ref() != self.lists.get(from)
    }

    /// All addresses, in order, each once.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &String> {
        self.lists.values().flatten().collect::<BTreeSet<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use berth_shared::ids::NodeId;

    use super::*;

    fn list(addresses: &[&str]) -> Vec<Member> {
        let member = |address: &&str| Member { node: NodeId(1), address: (*address).to_owned() };
        addresses.iter().map(member).collect()
    }

    #[test]
    fn a_node_counts_until_it_vanished_from_all_lists_of_connected_nodes() {
        let mut members = Members::default();
        assert!(members.hear("a", list(&["a", "b", "c"]), |_| true));
        assert!(members.hear("b", list(&["c", "b", "a"]), |_| true), "a list of its own");
        assert!(!members.hear("b", list(&["a", "b", "c"]), |_| true), "nothing new");
        assert!(members.hear("a", list(&["a", "b"]), |_| true));
        assert!(members.addresses().eq(["a", "b", "c"]), "another still lists it");
        assert!(members.hear("b", list(&["a", "b"]), |_| true));
        assert!(members.addresses().eq(["a", "b"]));

        assert!(members.hear("b", list(&["a", "b", "d"]), |_| true));
        assert!(
            members.hear("a", list(&["a"]), |address| address != "b"),
            "the list of one that is gone counts no more"
        );
        assert!(members.addresses().eq(["a"]));
    }
}
