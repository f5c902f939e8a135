//! Before a shard is handed off, its owner names the entities that it uses most, and the replica that is to own it brings them
//! into memory. What was written lately is there in any case, because every replica applies it; what was only read is not.

use berth_shared::key::EntityKey;

use super::Shard;
use crate::store;

/// Entities read from the store at once. So many may be above the node's budget for a moment.
const WARMED_AT_ONCE: usize = 16;
/// The part of the node's budget for residents that warming may fill: what other shards use would have to go for more.
const WARMED_SHARE: usize = 8;

impl Shard {
    /// The entities in memory that were used last, the newest use first, `count` at most. Cheap: it looks at no others.
    pub fn busiest(&self, count: usize) -> Vec<EntityKey> {
        self.machine().entities.busiest(count)
    }

    /// Brings `keys` into memory, as [`Self::busiest`] of another replica gave them, and has them used in that order. Ends
    /// early when they take an eighth of the node's budget. Returns how many of them came into memory, or were there already.
    /// Commands and reads go on meanwhile, and so does applying.
    pub async fn warm(&self, keys: &[EntityKey]) -> Result<usize, store::Error> {
        let bytes_max = self.residency.bytes_max() / WARMED_SHARE;
        let (mut warmed, mut bytes) = (0, 0);
        for keys in keys.chunks(WARMED_AT_ONCE) {
            if bytes >= bytes_max {
                break;
            }
            let mut missing = keys.to_vec();
            {
                let machine = self.machine();
                missing.retain(|key| machine.entities.peek(key).is_none());
            }
            if !missing.is_empty() {
                self.load(missing).await?;
            }
            let machine = self.machine();
            let more = keys.iter().map(|key| machine.entities.bytes_of(key)).sum::<usize>();
            if more == 0 {
                // The budget had them passivated again at once.
                break;
            }
            bytes += more;
            warmed += keys.len();
        }
        {
            let mut machine = self.machine();
            for key in keys[..warmed].iter().rev() {
                machine.entities.touch(key, self.residency.tick());
            }
            self.report(&machine);
        }
        Ok(warmed)
    }
}
