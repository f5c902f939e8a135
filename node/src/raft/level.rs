//! How new what a replica has applied is, for reads that any replica may answer. Only a leader can know, so it says so with
//! every append: "whatever was acknowledged that long ago is among my entries up to this one". A follower that has applied that
//! entry is as new as that.
//!
//! The age counts from when the leader *sent* what a quorum has answered since: nobody else can have led at that time, so
//! nobody else can have acknowledged anything before it that this leader does not have. A leader that has been deposed and does
//! not know it gets no more such answers, and what it says grows older by itself. What is not counted is the time that its
//! word takes to arrive.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use berth_shared::ids::{LogIndex, Term};
use berth_shared::seam::{BootInstant, Clock};

use super::Runtime;
use super::leadership::Leadership;
use super::message::Level;
use crate::shard::Shard;

/// What was heard of leaders and is not applied yet, remembered at most. Of more, the newest counts for all.
const HEARD_MAX: usize = 64;

/// What a replica was told by leaders.
#[derive(Debug, Default)]
pub(super) struct Levels {
    /// By the entry that must be applied, ascending, and so are the times. All but the first are waited for.
    heard: Mutex<VecDeque<(LogIndex, BootInstant)>>,
}

impl Levels {
    /// A leader's word arrived at `at`.
    pub(super) fn note(&self, level: Level, at: BootInstant) {
        let at = at - Duration::from_micros(level.age_micros);
        let mut heard = self.heard.lock();
        let has_room = heard.len() < HEARD_MAX;
        match heard.back_mut() {
            // An older word, which came later.
            Some(last) if at <= last.1 => {}
            Some(last) if level.applied <= last.0 => last.1 = at,
            Some(last) if !has_room => *last = (level.applied, at),
            _ => heard.push_back((level.applied, at)),
        }
    }

    /// The time before which everything that was acknowledged is among the entries up to `applied`.
    pub(super) fn at(&self, applied: LogIndex) -> Option<BootInstant> {
        let mut heard = self.heard.lock();
        while heard.get(1).is_some_and(|next| next.0 <= applied) {
            heard.pop_front();
        }
        heard.front().filter(|first| first.0 <= applied).map(|first| first.1)
    }
}

/// Says what a leader says. Made before there is anything to say, because the library is given the network first.
pub(super) struct Speaker<R: Runtime> {
    leader: Arc<OnceLock<Leader<R>>>,
}

struct Leader<R: Runtime> {
    leadership: Arc<Leadership<R>>,
    shard: Arc<Shard>,
    clock: Arc<dyn Clock>,
}

impl<R: Runtime> Speaker<R> {
    pub(super) fn new() -> Self {
        Self { leader: Arc::default() }
    }

    pub(super) fn begin(&self, leadership: Arc<Leadership<R>>, shard: Arc<Shard>, clock: Arc<dyn Clock>) {
        let is_first = self.leader.set(Leader { leadership, shard, clock }).is_ok();
        debug_assert!(is_first, "a group begins once");
    }

    /// What the leader of `term` can say just now, if this replica is that and has applied the beginning of its term: only then
    /// it has applied whatever was acknowledged before.
    pub(super) fn level(&self, term: Term) -> Option<Level> {
        let Leader { leadership, shard, clock } = self.leader.get()?;
        let leads = leadership.term() == Some(term);
        let sent = leadership.acknowledged_at(term).filter(|_| leads)?;
        // After that, so that what was acknowledged by then is applied here.
        let applied = shard.seen().index;
        let age_micros = u64::try_from(clock.now().since(sent).as_micros()).unwrap_or(u64::MAX);
        Some(Level { applied, age_micros })
    }
}

impl<R: Runtime> Clone for Speaker<R> {
    fn clone(&self) -> Self {
        Self { leader: self.leader.clone() }
    }
}

impl<R: Runtime> fmt::Debug for Speaker<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Speaker")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootInstant {
        BootInstant(0) + Duration::from_millis(millis)
    }

    fn say(levels: &Levels, applied: LogIndex, age_millis: u64, now_millis: u64) {
        levels.note(Level { applied, age_micros: age_millis * 1000 }, at(now_millis));
    }

    #[test]
    fn a_word_counts_once_its_entry_is_applied() {
        let levels = Levels::default();
        assert_eq!(levels.at(9), None);
        say(&levels, 5, 10, 100);
        assert_eq!((levels.at(4), levels.at(5)), (None, Some(at(90))));
        say(&levels, 7, 10, 200);
        say(&levels, 8, 10, 300);
        assert_eq!(levels.at(5), Some(at(90)));
        assert_eq!(levels.at(7), Some(at(190)));
        assert_eq!(levels.at(20), Some(at(290)));
    }

    #[test]
    fn an_idle_leader_keeps_its_followers_new() {
        let levels = Levels::default();
        for beat in 1..1000 {
            say(&levels, 5, 20, 100 * beat);
        }
        assert_eq!((levels.at(5), levels.heard.lock().len()), (Some(at(99_880)), 1));
    }

    #[test]
    fn what_is_old_when_it_comes_makes_nothing_newer_or_older() {
        let levels = Levels::default();
        say(&levels, 5, 10, 100);
        say(&levels, 9, 500, 510);
        assert_eq!(levels.at(9), Some(at(90)));
        // Of a leader that has been deposed: its entries are fewer, and its word is old.
        say(&levels, 4, 900, 520);
        assert_eq!(levels.at(5), Some(at(90)));
        say(&levels, 1, u64::MAX / 1000, 600);
        assert_eq!(levels.at(5), Some(at(90)));
    }

    #[test]
    fn a_replica_that_is_far_behind_remembers_little_and_claims_nothing() {
        let levels = Levels::default();
        for n in 1..=1000 {
            say(&levels, n, 0, n);
        }
        assert_eq!(levels.heard.lock().len(), HEARD_MAX);
        assert_eq!(levels.at(40), Some(at(40)));
        assert_eq!(levels.at(999), Some(at(63)), "less than is true, never more");
        assert_eq!(levels.at(1000), Some(at(1000)));
    }
}
