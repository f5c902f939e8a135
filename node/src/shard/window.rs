//! The idempotency window of a shard: which keys have a stored outcome, and until when. Pure; it expires by the shard's
//! replicated time, so that every replica forgets the same keys at the same log entry.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::record::{KeyOrigin, Scope};
use crate::store::{Lane, OutcomeIndexRow, RowBounds};

/// How long the outcome under a client's key is kept, in microseconds.
pub const CLIENT_KEY_MICROS: u64 = 24 * 60 * 60 * 1_000_000;
/// How long the outcome under a key made by a gateway is kept, in microseconds; older keys are refused.
pub const GATEWAY_KEY_MICROS: u64 = 2 * 60 * 1_000_000;

/// How far ahead of a shard's owner a gateway's clock may be. Keys from further ahead are refused: their outcome would be
/// forgotten while they could still be used.
pub const CLOCK_SKEW_MICROS_MAX: u64 = 30 * 1_000_000;

/// Where an outcome is stored. Rows of a lane expire in the order in which they were written, because all live equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    pub lane: Lane,
    /// (Log index + 1) × 65,536 + position in the batch: above 0, and growing in log order.
    pub row: u64,
}

/// Bounded by the executor, which refuses new keys when the window is full; a row is never dropped before it expires.
#[derive(Debug, Default)]
pub struct Window {
    rows: HashMap<Scope, RowId>,
    lanes: [VecDeque<Expiry>; 2],
}

#[derive(Debug)]
struct Expiry {
    row: u64,
    scope: Scope,
    /// Never earlier than that of the row before, behind which it waits to be forgotten.
    expires_micros: u64,
}

pub fn lane_of(origin: KeyOrigin) -> Lane {
    match origin {
        KeyOrigin::Gateway { .. } => Lane::Gateway,
        KeyOrigin::Client => Lane::Client,
    }
}

/// When an outcome decided at `time_micros` may be forgotten, in shard time: not before its key is refused for its age.
pub fn expires_micros(origin: KeyOrigin, time_micros: u64) -> u64 {
    match origin {
        KeyOrigin::Gateway { created_micros } => time_micros.max(created_micros).saturating_add(GATEWAY_KEY_MICROS),
        KeyOrigin::Client => time_micros.saturating_add(CLIENT_KEY_MICROS),
    }
}

/// Why a gateway's key cannot be used at `now_micros`.
pub fn refused_age(origin: KeyOrigin, now_micros: u64) -> Option<&'static str> {
    let KeyOrigin::Gateway { created_micros } = origin else { return None };
    if created_micros.saturating_add(GATEWAY_KEY_MICROS) <= now_micros {
        return Some("this idempotency key was made by a gateway more than 2 minutes ago");
    }
    (created_micros > now_micros.saturating_add(CLOCK_SKEW_MICROS_MAX))
        .then_some("this idempotency key says that a gateway made it in the future")
}

impl RowId {
    pub fn new(lane: Lane, index: u64, position: usize) -> Self {
        Self { lane, row: (index + 1) << 16 | (position as u64 & 0xffff) }
    }
}

impl Window {
    pub fn get(&self, scope: &Scope) -> Option<RowId> {
        self.rows.get(scope).copied()
    }

    /// Keys that are remembered.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many keys are left once [`Self::expire`] was called with this time.
    pub fn len_at(&self, time_micros: u64) -> usize {
        let left = |lane: &VecDeque<Expiry>| lane.len() - lane.partition_point(|e| e.expires_micros <= time_micros);
        self.lanes.iter().map(left).sum()
    }

    /// Rows must come in log order within their lane.
    pub fn insert(&mut self, id: RowId, scope: Scope, expires_micros: u64) {
        self.rows.insert(scope, id);
        let lane = &mut self.lanes[id.lane as usize];
        let expires_micros = lane.back().map_or(0, |last| last.expires_micros).max(expires_micros);
        lane.push_back(Expiry { row: id.row, scope, expires_micros });
    }

    /// Forgets what has expired at `time_micros`; the rows below the returned bounds are forgotten.
    pub fn expire(&mut self, time_micros: u64) -> RowBounds {
        RowBounds {
            gateway: self.expire_lane(Lane::Gateway, time_micros),
            client: self.expire_lane(Lane::Client, time_micros),
        }
    }

    fn expire_lane(&mut self, lane: Lane, time_micros: u64) -> u64 {
        let mut bound = 0;
        while let Some(expiry) = self.lanes[lane as usize].pop_front_if(|e| e.expires_micros <= time_micros) {
            self.rows.remove(&expiry.scope);
            bound = expiry.row + 1;
        }
        bound
    }
}

impl FromIterator<OutcomeIndexRow> for Window {
    /// Rows must come in the store's order.
    fn from_iter<I: IntoIterator<Item = OutcomeIndexRow>>(rows: I) -> Self {
        let mut window = Self::default();
        for row in rows {
            window.insert(RowId { lane: row.lane, row: row.row }, row.scope, row.expires_micros);
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_key_is_refused_before_its_outcome_is_forgotten() {
        let now = 1_000 * 1_000_000;
        for created in [now - GATEWAY_KEY_MICROS + 1, now, now + CLOCK_SKEW_MICROS_MAX] {
            let origin = KeyOrigin::Gateway { created_micros: created };
            assert_eq!(refused_age(origin, now), None);
            assert!(refused_age(origin, expires_micros(origin, now)).is_some(), "made at {created}");
        }
        let future = KeyOrigin::Gateway { created_micros: now + CLOCK_SKEW_MICROS_MAX + 1 };
        assert!(refused_age(future, now).is_some());
        assert_eq!(refused_age(KeyOrigin::Client, u64::MAX), None);
    }

    #[test]
    fn a_row_that_lives_longer_holds_back_those_behind_it() {
        let mut window = Window::default();
        window.insert(RowId::new(Lane::Gateway, 1, 0), Scope([1; 16]), 80);
        window.insert(RowId::new(Lane::Gateway, 2, 0), Scope([2; 16]), 50);
        for (time, left) in [(50, 2), (79, 2), (80, 0)] {
            assert_eq!(window.len_at(time), left);
            window.expire(time);
            assert_eq!(window.len(), left);
        }
    }

    #[test]
    fn a_key_is_known_until_it_expires_and_lanes_expire_apart() {
        let mut window = Window::default();
        let (a, b) = (Scope([1; 16]), Scope([2; 16]));
        window.insert(RowId::new(Lane::Client, 1, 0), a, 100);
        window.insert(RowId::new(Lane::Gateway, 2, 0), b, 50);
        assert_eq!((window.len_at(49), window.len_at(50), window.len_at(100)), (2, 1, 0));
        assert_eq!(window.expire(49), RowBounds::default());
        assert_eq!(window.expire(50), RowBounds { gateway: (3 << 16) + 1, client: 0 });
        assert_eq!((window.get(&b), window.len()), (None, 1));
        assert_eq!(window.get(&a).map(|r| r.row), Some(2 << 16));
        assert_eq!(window.expire(100), RowBounds { gateway: 0, client: (2 << 16) + 1 });
    }
}
