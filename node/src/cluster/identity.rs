//! Who a data directory belongs to: a node's id is made at random together with its directory and never used again, and
//! the directory knows the cluster it is part of. A directory is never used for another cluster, shard count or member list.

use std::io;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::seam::Random;
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

/// Name of the small file in the data directory.
const FILE: &str = "identity.json";
const LAYOUT_VERSION: u32 = 1;

/// What the data directory remembers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub layout_version: u32,
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Shards of the cluster, set once.
    pub shards: u16,
    /// Peer addresses of all nodes, sorted.
    pub members: Vec<String>,
    /// This node's own peer address.
    pub address: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the data directory's identity cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    #[error("{FILE} in the data directory is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("{file} is there, but {FILE} is missing beside it: put it back, or start with an empty data directory")]
    Missing { file: String },
    #[error("the data directory has layout version {0}, and this program knows only {LAYOUT_VERSION}")]
    LayoutVersion(u32),
    #[error(
        "the data directory belongs to {what} {stored}, but the configuration says {configured}: this is fixed when a \
         cluster first starts; start with an empty data directory, or put the configuration back"
    )]
    Changed { what: &'static str, stored: String, configured: String },
}

impl Identity {
    /// Takes up the identity of the data directory, or makes one for an empty one: where one of `data_files` lies without an
    /// identity, that data is another node's.
    pub fn open(
        disk: &dyn Disk,
        random: &dyn Random,
        cluster_name: &str,
        shards: u16,
        members: &[String],
        address: &str,
        data_files: &[&str],
    ) -> Result<Self, Error> {
        let mut members = members.to_vec();
        members.sort_unstable();
        members.dedup();
        let cluster = cluster_id(cluster_name);
        let Some(bytes) = disk.read_small(FILE)? else {
            for file in data_files {
                if disk.holds(file)? {
                    return Err(Error::Missing { file: disk.describe(file) });
                }
            }
            let identity = Self {
                layout_version: LAYOUT_VERSION,
                node: NodeId(random.next_u64()),
                cluster,
                shards,
                members,
                address: address.to_owned(),
            };
            disk.write_small(FILE, &serde_json::to_vec_pretty(&identity)?)?;
            return Ok(identity);
        };
        let stored: Self = serde_json::from_slice(&bytes)?;
        if stored.layout_version != LAYOUT_VERSION {
            return Err(Error::LayoutVersion(stored.layout_version));
        }
        unchanged("a cluster of id", &stored.cluster, &cluster)?;
        unchanged("a cluster of this many shards:", &stored.shards, &shards)?;
        unchanged("a cluster of the nodes", &stored.members.join(", "), &members.join(", "))?;
        unchanged("the node at", &stored.address, &address.to_owned())?;
        Ok(stored)
    }
}

fn unchanged<T: PartialEq + ToString>(what: &'static str, stored: &T, configured: &T) -> Result<(), Error> {
    if stored == configured {
        return Ok(());
    }
    Err(Error::Changed { what, stored: stored.to_string(), configured: configured.to_string() })
}

/// Nodes that share a cluster name agree on its id without talking.
fn cluster_id(name: &str) -> ClusterId {
    let hash = blake3::hash(name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    ClusterId(u128::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use berth_shared::seam::random::SeededRandom;

    use super::*;
    use crate::disk::SimulatedDisk;

    #[test]
    fn an_identity_stays_with_its_directory_and_is_not_taken_elsewhere() {
        let disk = SimulatedDisk::new();
        let random = SeededRandom::new(1);
        let members = ["b:1".to_owned(), "a:1".to_owned()];
        let open = |cluster, shards, members: &[String], address| {
            Identity::open(&disk, &random, cluster, shards, members, address, &["journal.redb"])
        };
        let first = open("one", 64, &members, "a:1").unwrap();
        assert_eq!(open("one", 64, &members, "a:1").unwrap(), first);
        assert!(matches!(open("two", 64, &members, "a:1"), Err(Error::Changed { .. })));
        assert!(matches!(open("one", 32, &members, "a:1"), Err(Error::Changed { .. })));
        assert!(matches!(open("one", 64, &members[..1], "a:1"), Err(Error::Changed { .. })));
        assert!(matches!(open("one", 64, &members, "b:1"), Err(Error::Changed { .. })));
        let orphan = SimulatedDisk::new();
        orphan.open("journal.redb").unwrap();
        let opened = Identity::open(&orphan, &random, "one", 64, &members, "a:1", &["journal.redb"]);
        assert!(matches!(opened, Err(Error::Missing { .. })));
        disk.write_small(FILE, b"{").unwrap();
        assert!(matches!(open("one", 64, &members, "a:1"), Err(Error::Damaged(_))));
    }
}
