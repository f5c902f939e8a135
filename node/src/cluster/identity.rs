//! Who a data directory belongs to: a node's id is made at random together with its directory and never used again, and
//! the directory remembers the one init record that the node has accepted and the one cluster that it has joined. A
//! directory is never used for another cluster. Knows no network; every change is on disk before it counts.
//!
//! The address stays with the directory too: the plan names nodes by address, so one that changed it would be looked for in
//! the wrong place, and answered for by whoever took it over.

use std::io;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::planted::{self, Bug};
use berth_shared::seam::Random;
use serde::{Deserialize, Serialize};

use super::bootstrap::InitRecord;
use super::written;
use crate::disk::Disk;

/// Name of the small file in the data directory.
pub const FILE: &str = "identity.json";
/// Version 1 was of the program that kept one copy of every shard.
const LAYOUT_VERSION: u32 = 2;

/// What the data directory remembers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    layout_version: u32,
    #[serde(with = "written::node")]
    pub node: NodeId,
    /// This node's own peer address.
    pub address: String,
    /// The record that this node has accepted. Once set it is replaced only by an operator's `--init`, and never once
    /// `cluster` is set.
    pub accepted: Option<InitRecord>,
    /// The cluster that this node has joined. Once set it never changes.
    #[serde(with = "written::optional_cluster")]
    pub cluster: Option<ClusterId>,
    /// Whether groups have been started on this directory's data. Once set it never changes. Without their votes and logs the
    /// node would break what it has promised to others, and could not even tell that it has promised anything (rule R2).
    ///
    /// Directories of earlier programs lack it; they get it with their next start.
    #[serde(default)]
    pub(crate) hosted: bool,
    /// Whether the groups that the first plan gives this node have been begun. Once set it never changes: to begin a group a
    /// second time would make another one of it.
    #[serde(default)]
    pub(crate) founded: bool,
    /// Whether this node has ever been ready.
    #[serde(default)]
    pub(crate) was_ready: bool,
}

/// What a node is in the cluster that it has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// One of those that the cluster began with.
    Member,
    /// Came later, and has no place in the plan yet.
    Joining,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the data directory's identity cannot be read or written: {0}")]
    Disk(#[from] io::Error),
    #[error("{FILE} in the data directory is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    #[error("{file} is there, but {FILE} is missing beside it: put it back, or start with an empty data directory")]
    Missing { file: String },
    #[error(
        "{file} is there, but {FILE} beside it says that this node has joined no cluster: put the right one back, or start \
         with an empty data directory"
    )]
    Foreign { file: String },
    #[error(
        "{file} is missing, and {FILE} beside it says that this node has held data: without that data it is not this node any \
         more; put the file back, or remove the whole data directory and start as a new node"
    )]
    Lost { file: String },
    #[error(
        "the data directory has layout version 1, of the program that kept one copy of every shard: it cannot be taken over; \
         start with an empty data directory"
    )]
    OneCopy,
    #[error("the data directory has layout version {0}, and this program knows only {LAYOUT_VERSION}")]
    LayoutVersion(u32),
    #[error(
        "the data directory belongs to {what} {stored}, but the configuration says {configured}: this is fixed when a \
         cluster first starts; start with an empty data directory, or put the configuration back"
    )]
    Changed { what: &'static str, stored: String, configured: String },
}

/// What every version of the file has.
#[derive(Deserialize)]
struct Layout {
    layout_version: u32,
}

impl Identity {
    /// Takes up the identity of the data directory, or makes one for an empty one: where one of `data_files` lies without an
    /// identity that has joined a cluster, that data is another node's; and where one is missing after groups have been
    /// started, this is not the node any more that it was.
    pub fn open(disk: &dyn Disk, random: &dyn Random, address: &str, data_files: &[&str]) -> Result<Self, Error> {
        let data_file = || -> Result<Option<String>, io::Error> {
            for file in data_files {
                if disk.holds(file)? {
                    return Ok(Some(disk.describe(file)));
                }
            }
            Ok(None)
        };
        let Some(bytes) = disk.read_small(FILE)? else {
            if let Some(file) = data_file()? {
                return Err(Error::Missing { file });
            }
            let mut identity = Self::fresh(NodeId(random.next_u64()), address);
            if planted::is(Bug::ReuseNodeId) {
                identity.node = NodeId(xxhash_rust::xxh3::xxh3_64(address.as_bytes()));
            }
            identity.write(disk)?;
            return Ok(identity);
        };
        match serde_json::from_slice::<Layout>(&bytes)?.layout_version {
            LAYOUT_VERSION => {}
            1 => return Err(Error::OneCopy),
            other => return Err(Error::LayoutVersion(other)),
        }
        let stored: Self = serde_json::from_slice(&bytes)?;
        unchanged("the node at", &stored.address, &address.to_owned())?;
        if stored.cluster.is_none()
            && let Some(file) = data_file()?
        {
            return Err(Error::Foreign { file });
        }
        for file in data_files {
            if stored.hosted && !disk.holds(file)? {
                return Err(Error::Lost { file: disk.describe(file) });
            }
        }
        Ok(stored)
    }

    /// A node that has accepted nothing.
    pub(super) fn fresh(node: NodeId, address: &str) -> Self {
        let address = address.to_owned();
        Self {
            layout_version: LAYOUT_VERSION,
            node,
            address,
            accepted: None,
            cluster: None,
            hosted: false,
            founded: false,
            was_ready: false,
        }
    }

    /// Replaces what the disk holds: all of it or nothing, and for good once this has returned. Blocks.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), Error> {
        Ok(disk.write_small(FILE, &serde_json::to_vec_pretty(self)?)?)
    }

    /// What this node is in its cluster; `None` while it has joined none.
    pub fn role(&self) -> Option<Role> {
        self.cluster.map(|_| if self.record().is_some() { Role::Member } else { Role::Joining })
    }

    /// What the cluster began with, if this node is one of those that it began with.
    pub fn record(&self) -> Option<&InitRecord> {
        self.accepted.as_ref().filter(|record| Some(record.cluster) == self.cluster)
    }

    /// Refuses a configuration that says something else than the cluster began with, or is about to begin with.
    pub fn check_settings(&self, shards: u16, replicas: u16) -> Result<(), Error> {
        let record = if self.cluster.is_some() { self.record() } else { self.accepted.as_ref() };
        let Some(record) = record else { return Ok(()) };
        unchanged("a cluster of this many shards:", &record.shards, &shards)?;
        unchanged("a cluster with this many replicas of each shard:", &record.replicas, &replicas)
    }

    /// Refuses a configuration of shards and replicas that says something else than the plan of the cluster.
    pub fn check_plan(&self, planned: (u16, u16), configured: (u16, u16)) -> Result<(), Error> {
        unchanged("a cluster of this many shards:", &planned.0, &configured.0)?;
        unchanged("a cluster with this many replicas of each shard:", &planned.1, &configured.1)
    }
}

fn unchanged<T: PartialEq + ToString>(what: &'static str, stored: &T, configured: &T) -> Result<(), Error> {
    if stored == configured {
        return Ok(());
    }
    Err(Error::Changed { what, stored: stored.to_string(), configured: configured.to_string() })
}

#[cfg(test)]
mod tests {
    use berth_shared::report::Member;
    use berth_shared::seam::random::SeededRandom;

    use super::*;
    use crate::disk::SimulatedDisk;

    fn open(disk: &SimulatedDisk, address: &str) -> Result<Identity, Error> {
        Identity::open(disk, &SeededRandom::new(1), address, &["journal.redb"])
    }

    fn record(identity: &Identity) -> InitRecord {
        let member = Member { node: identity.node, address: identity.address.clone() };
        InitRecord { cluster: ClusterId(7), members: vec![member], shards: 64, replicas: 3 }
    }

    #[test]
    fn an_identity_stays_with_its_directory_and_is_not_taken_elsewhere() {
        let disk = SimulatedDisk::new();
        let mut first = open(&disk, "a:1").unwrap();
        assert_eq!(open(&disk, "a:1").unwrap(), first);
        assert_eq!(first.role(), None);
        let moved = open(&disk, "b:1").unwrap_err().to_string();
        assert!(moved.contains("the node at a:1") && moved.contains("configuration says b:1"), "{moved}");
        first.accepted = Some(record(&first));
        assert!(matches!(first.check_settings(32, 3), Err(Error::Changed { .. })), "it may be complete already");
        first.cluster = Some(ClusterId(7));
        first.write(&disk).unwrap();
        assert_eq!(open(&disk, "a:1").unwrap(), first);
        assert_eq!(first.role(), Some(Role::Member));
        first.check_settings(64, 3).unwrap();
        assert!(matches!(first.check_settings(32, 3), Err(Error::Changed { .. })));
        assert!(matches!(first.check_settings(64, 5), Err(Error::Changed { .. })));
        first.cluster = Some(ClusterId(8));
        assert_eq!(first.role(), Some(Role::Joining), "it accepted a record of another cluster");
        first.check_settings(32, 3).unwrap();
    }

    #[test]
    fn data_without_its_identity_is_not_started_on() {
        let orphan = SimulatedDisk::new();
        orphan.open("journal.redb").unwrap();
        assert!(matches!(open(&orphan, "a:1"), Err(Error::Missing { .. })));
        let disk = SimulatedDisk::new();
        let identity = open(&disk, "a:1").unwrap();
        disk.open("journal.redb").unwrap();
        assert!(matches!(open(&disk, "a:1"), Err(Error::Foreign { .. })));
        Identity { cluster: Some(ClusterId(1)), ..identity }.write(&disk).unwrap();
        open(&disk, "a:1").unwrap();
        disk.write_small(FILE, b"{").unwrap();
        assert!(matches!(open(&disk, "a:1"), Err(Error::Damaged(_))));
    }

    #[test]
    fn a_node_that_has_hosted_groups_is_not_started_without_their_data() {
        let disk = SimulatedDisk::new();
        let open = |disk: &SimulatedDisk, files: &[&str]| Identity::open(disk, &SeededRandom::new(1), "a:1", files);
        let identity = Identity { cluster: Some(ClusterId(1)), ..open(&disk, &[]).unwrap() };
        identity.write(&disk).unwrap();
        open(&disk, &["journal.redb", "store.redb"]).unwrap();
        disk.open("journal.redb").unwrap();
        disk.open("store.redb").unwrap();
        Identity { hosted: true, ..identity.clone() }.write(&disk).unwrap();
        let marked = open(&disk, &["journal.redb", "store.redb"]).unwrap();
        assert_eq!(marked, Identity { hosted: true, ..identity });
        for files in [["journal.redb", "other.redb"], ["other.redb", "store.redb"], ["other.redb", "another.redb"]] {
            let line = open(&disk, &files).unwrap_err().to_string();
            assert!(line.starts_with("other.redb") && line.contains("remove the whole data directory"), "{line}");
        }
    }

    #[test]
    fn other_layouts_are_refused_with_a_clear_line() {
        let disk = SimulatedDisk::new();
        let one_copy = br#"{"layout_version":1,"node":5,"cluster":6,"shards":64,"members":["a:1"],"address":"a:1"}"#;
        disk.write_small(FILE, one_copy).unwrap();
        let line = open(&disk, "a:1").unwrap_err().to_string();
        assert!(line.contains("one copy of every shard") && line.contains("empty data directory"), "{line}");
        disk.write_small(FILE, br#"{"layout_version":3}"#).unwrap();
        assert!(matches!(open(&disk, "a:1"), Err(Error::LayoutVersion(3))));
    }

    /// A stored sample: directories in use must stay readable.
    #[test]
    fn ids_are_written_as_logs_show_them() {
        let disk = SimulatedDisk::new();
        let mut identity = Identity::fresh(NodeId(0xab), "a:1");
        identity.accepted = Some(record(&identity));
        identity.cluster = Some(ClusterId(7));
        identity.write(&disk).unwrap();
        let text = String::from_utf8(disk.read_small(FILE).unwrap().unwrap()).unwrap();
        let before = r#"{"layout_version":2,"node":"00000000000000ab","address":"a:1","accepted":{"cluster":"00000000000000000000000000000007","members":[{"node":"00000000000000ab","address":"a:1"}],"shards":64,"replicas":3},"cluster":"00000000000000000000000000000007"}"#;
        let sample = before.replace(r#"7"}"#, r#"7","hosted":false,"founded":false,"was_ready":false}"#);
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&text), parse(&sample));
        assert_eq!(serde_json::from_str::<Identity>(&sample).unwrap(), identity);
        assert_eq!(serde_json::from_str::<Identity>(before).unwrap(), identity, "as it was before the marks");
    }
}
