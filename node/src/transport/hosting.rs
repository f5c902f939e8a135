//! Which shards this node hosts a replica of, and the way in to each. Every request looks here; shards come and go while
//! requests are served.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use berth_shared::ids::ShardId;

use crate::shard::Shard;
use crate::shard::executor::Mailbox;
use crate::shard::group::Group;
use crate::shard::hold::Hold;
use crate::shard::reader::Reader;

/// One shard that this node hosts.
#[derive(Debug)]
pub struct Hosted {
    pub shard: Arc<Shard>,
    pub group: Arc<dyn Group>,
    pub reader: Reader,
    pub mailbox: Mailbox,
    /// Holds its decisions while it is handed over.
    pub hold: Hold,
}

/// All of them, by shard number. Replaced as a whole, so that requests read it without waiting.
#[derive(Debug)]
pub struct Hosting {
    table: ArcSwap<Vec<Option<Arc<Hosted>>>>,
    /// Apart from the others, so that no number which a client may name leads to it.
    system: ArcSwapOption<Hosted>,
}

impl Hosting {
    /// Of a cluster that has so many shards; none is hosted yet.
    pub fn new(shards: u16) -> Arc<Self> {
        let table = ArcSwap::from_pointee((0..shards).map(|_| None).collect());
        Arc::new(Self { table, system: ArcSwapOption::empty() })
    }

    /// Shards of the cluster.
    pub fn shards(&self) -> u16 {
        self.table.load().len() as u16
    }

    pub fn get(&self, shard: ShardId) -> Option<Arc<Hosted>> {
        self.table.load().get(usize::from(shard.0))?.clone()
    }

    /// The system shard, if it is hosted.
    pub fn system(&self) -> Option<Arc<Hosted>> {
        self.system.load_full()
    }

    /// From now on the system shard is hosted too.
    pub fn set_system(&self, hosted: Arc<Hosted>) {
        self.system.store(Some(hosted));
    }

    /// Every hosted shard but the system shard, ascending.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.table.load().iter().flatten().cloned().collect()
    }

    /// From now on none is, and the system shard is not; returns those that were.
    pub fn clear(&self) -> Vec<Arc<Hosted>> {
        let none = (0..self.shards()).map(|_| None).collect();
        self.table.swap(Arc::new(none)).iter().flatten().cloned().chain(self.system.swap(None)).collect()
    }

    /// From now on these are hosted too.
    pub fn add(&self, hosted: Vec<Hosted>) {
        let hosted: Vec<Arc<Hosted>> = hosted.into_iter().map(Arc::new).collect();
        self.table.rcu(|table| {
            let mut table = Vec::clone(table);
            for hosted in &hosted {
                if let Some(slot) = table.get_mut(usize::from(hosted.shard.id().0)) {
                    *slot = Some(hosted.clone());
                }
            }
            table
        });
    }
}
