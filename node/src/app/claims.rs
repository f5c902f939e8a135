//! Which shards' replicas somebody is opening, recovering or letting go just now: one at a time each.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use berth_shared::ids::ShardId;

#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<BTreeSet<ShardId>>);

/// Keeps everybody else from a shard's replica until it is dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    shard: ShardId,
}

impl Claims {
    /// `None` where somebody has it, or where `may` says no to what is claimed so far.
    pub(super) fn claim(&self, shard: ShardId, may: impl FnOnce(&BTreeSet<ShardId>) -> bool) -> Option<Claim<'_>> {
        let mut claimed = self.0.lock();
        let is_ours = may(&claimed) && claimed.insert(shard);
        // Made only then, because a claim that is dropped gives the shard free.
        is_ours.then(|| Claim { claims: self, shard })
    }

    pub(super) fn has(&self, shard: ShardId) -> bool {
        self.0.lock().contains(&shard)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.0.lock().remove(&self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(7);

    #[test]
    fn a_shard_is_claimed_by_one_at_a_time_however_often_others_try() {
        let claims = Claims::default();
        let first = claims.claim(SHARD, |_| true);
        assert!(first.is_some());
        for _ in 0..3 {
            assert!(claims.claim(SHARD, |_| true).is_none());
        }
        assert!(claims.has(SHARD));
        drop(first);
        assert!(claims.is_empty() && claims.claim(SHARD, |_| true).is_some());
    }

    #[test]
    fn what_may_not_be_claimed_stays_free() {
        let claims = Claims::default();
        let _one = claims.claim(ShardId(1), BTreeSet::is_empty);
        assert!(claims.claim(SHARD, BTreeSet::is_empty).is_none());
        assert!(!claims.has(SHARD) && claims.has(ShardId(1)));
    }
}
