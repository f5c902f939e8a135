//! The replicated time of a shard, as its owner advances it: the wall clock where that runs evenly, strictly increasing
//! where it does not. Pure; both clocks are handed in.

use std::time::Duration;

use berth_shared::seam::BootInstant;

/// Outcomes are forgotten by this time, so a wall clock that jumps ahead must not take it along: within a term it runs at
/// most an eighth faster than the clock that only counts.
#[derive(Debug, Default)]
pub struct ShardTime {
    /// Where this term began, on both clocks.
    anchor: Option<(BootInstant, u64)>,
    last_micros: u64,
}

/// How far the wall clock may be ahead of where it should be before it is held back.
const SLACK: Duration = Duration::from_secs(1);

impl ShardTime {
    /// A new term starts from what the wall clock says then.
    pub fn restart(&mut self) {
        self.anchor = None;
    }

    /// Microseconds since 1970 for the next record: later than `applied_micros`, which is what the shard has applied, and
    /// than every time given out before.
    pub fn next(&mut self, now: BootInstant, wall_micros: u64, applied_micros: u64) -> u64 {
        let (start, start_micros) = *self.anchor.get_or_insert((now, wall_micros.max(applied_micros)));
        let elapsed = now.since(start);
        let micros_max = start_micros + (elapsed + elapsed / 8 + SLACK).as_micros() as u64;
        let after = applied_micros.max(self.last_micros) + 1;
        self.last_micros = wall_micros.min(micros_max).max(after);
        self.last_micros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(seconds: u64) -> BootInstant {
        BootInstant(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_is_held_back_and_one_that_jumps_back_stands_still() {
        let mut time = ShardTime::default();
        assert_eq!(time.next(at(0), 1000 * SECOND, 0), 1000 * SECOND);
        let day = 86_400 * SECOND;
        let jumped = time.next(at(8), 1000 * SECOND + day, 0);
        assert_eq!(jumped, 1010 * SECOND, "8 s, an eighth of them, and the slack");
        assert_eq!(time.next(at(8), 5, 0), jumped + 1);
        assert_eq!(time.next(at(9), 5, jumped + 70), jumped + 71, "what is applied is never overtaken");
    }

    #[test]
    fn a_new_term_begins_with_the_wall_clock_but_not_before_what_is_applied() {
        let mut time = ShardTime::default();
        time.next(at(0), 1000 * SECOND, 0);
        time.restart();
        assert_eq!(time.next(at(1), 9000 * SECOND, 0), 9000 * SECOND);
        time.restart();
        assert_eq!(time.next(at(2), 10 * SECOND, 9500 * SECOND), 9500 * SECOND + 1);
    }
}
