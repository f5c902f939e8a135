//! Which shards this node hosts a replica of, and the way in to each. Every request looks here; shards come and go while
//! requests are served.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use berth_shared::ids::ShardId;

use crate::cluster::system::SYSTEM_SHARD;
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
    /// Keeps the executor from deciding.
    pub hold: Hold,
}

/// All of them, by shard number. Replaced as a whole, so that requests read it without waiting.
#[derive(Debug)]
pub struct Hosting {
    table: ArcSwap<Vec<Option<Arc<Hosted>>>>,
    /// Apart from the others, so that no number which a client may name leads to it.
    system: watch::Sender<Option<Arc<Hosted>>>,
}

impl Hosting {
    /// Of a cluster that has so many shards; none is hosted yet.
    pub fn new(shards: u16) -> Arc<Self> {
        let table = ArcSwap::from_pointee((0..shards).map(|_| None).collect());
        Arc::new(Self { table, system: watch::Sender::new(None) })
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
        self.system.borrow().clone()
    }

    /// The same as it comes and goes.
    pub fn watch_system(&self) -> watch::Receiver<Option<Arc<Hosted>>> {
        self.system.subscribe()
    }

    /// The shard, be it the system shard or another.
    pub fn any(&self, shard: ShardId) -> Option<Arc<Hosted>> {
        if shard == SYSTEM_SHARD { self.system() } else { self.get(shard) }
    }

    /// Every hosted shard but the system shard, ascending.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.table.load().iter().flatten().cloned().collect()
    }

    /// From now on none is, and the system shard is not; returns those that were.
    pub fn clear(&self) -> Vec<Arc<Hosted>> {
        let none = (0..self.shards()).map(|_| None).collect();
        self.table.swap(Arc::new(none)).iter().flatten().cloned().chain(self.system.send_replace(None)).collect()
    }

    /// From now on this one is hosted too.
    pub fn add(&self, hosted: Hosted) {
        self.set(hosted.shard.id(), Some(Arc::new(hosted)));
    }

    /// From now on the shard is not hosted.
    pub fn remove(&self, shard: ShardId) {
        self.set(shard, None);
    }

    fn set(&self, shard: ShardId, hosted: Option<Arc<Hosted>>) {
        if shard == SYSTEM_SHARD {
            self.system.send_replace(hosted);
            return;
        }
        self.table.rcu(|table| {
            let mut table = Vec::clone(table);
            if let Some(slot) = table.get_mut(usize::from(shard.0)) {
                slot.clone_from(&hosted);
            }
            table
        });
    }
}
