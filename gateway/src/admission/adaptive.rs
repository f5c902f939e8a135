//! How many requests a gateway has in flight at one node, found out from how quickly that node answers: additive increase,
//! multiplicative decrease. That it converges, and shares what there is fairly between gateways that know nothing of each
//! other, is shown by Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance" (1989); TCP
//! does the same (RFC 5681), and concurrency limits of other gateways, as `AIMDLimit` of Netflix's concurrency-limits, by the
//! same sign: latency over a target is congestion. A limit that is not used is not lowered. It is raised all the same, other
//! than in TCP, which would go beyond what it has proven (RFC 7661): here that is where a limit begins, and what was known of
//! a congestion that is over is worth no more than what is known at the beginning. Without it, a limit that fell would stay
//! down until there was as much load as had made it fall. Pure.

use std::time::Duration;

use berth_shared::seam::BootInstant;

/// How long answers are gathered before the limit is looked at.
const WINDOW: Duration = Duration::from_millis(200);
/// And how many there must be: one that is slow says nothing.
const ANSWERS_MIN: u32 = 20;
/// One in so many answers may be slow. Single entities and single disks are, without anything being congested.
const SLOW_SHARE: u32 = 10;
/// The limit is multiplied by this many tenths when answers are slow.
const DECREASE_TENTHS: usize = 9;
/// From the lower bound to the upper one it takes so many windows.
const INCREASE_STEPS: usize = 256;

#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub(super) min: usize,
    pub(super) max: usize,
    /// An answer that takes longer is slow.
    pub(super) latency_target: Duration,
}

#[derive(Debug)]
pub(super) struct Adaptive {
    config: Config,
    /// Invariant: within the bounds of `config`.
    limit: usize,
    /// From the first answer on.
    window: Option<Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    /// When the one before ended.
    began: BootInstant,
    answers: u32,
    slow: u32,
    /// Most places that were seen taken.
    most_taken: usize,
}

impl Window {
    fn new(began: BootInstant) -> Self {
        Self { began, answers: 0, slow: 0, most_taken: 0 }
    }
}

impl Adaptive {
    /// Begins with the most, because a gateway that has just started knows of no congestion, and must not refuse the
    /// requests of those that it replaces.
    pub(super) fn new(config: Config) -> Self {
        Self { config, limit: config.max, window: None }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes in that the node took so long, with so many requests in flight at the end of it; without an answer when it was
    /// given up.
    pub(super) fn observe(&mut self, now: BootInstant, took: Duration, answered: bool, taken: usize) {
        let is_slow = took > self.config.latency_target;
        // What was given up early only had little time left.
        if !answered && !is_slow {
            return;
        }
        let window = self.window.get_or_insert(Window::new(now));
        window.answers += 1;
        window.slow += u32::from(is_slow);
        window.most_taken = window.most_taken.max(taken);
        let (window, lasted) = (*window, now.since(window.began));
        if lasted >= WINDOW && window.answers >= ANSWERS_MIN {
            self.window = Some(Window::new(now));
            self.limit = self.next_limit(window, lasted);
        }
    }

    fn next_limit(&self, window: Window, lasted: Duration) -> usize {
        let Config { min, max, .. } = self.config;
        let is_congested = window.slow * SLOW_SHARE > window.answers;
        let next = if !is_congested {
            // With few answers a window is long. It counts as all that would have been, so that it takes no load to recover.
            let windows = (lasted.as_millis() / WINDOW.as_millis()) as usize;
            self.limit.saturating_add(windows.saturating_mul(((max - min) / INCREASE_STEPS).max(1)))
        } else if window.most_taken * 2 >= self.limit {
            self.limit * DECREASE_TENTHS / 10
        } else {
            // Less than half used, it is not what made the answers slow.
            self.limit
        };
        next.clamp(min, max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGET: Duration = Duration::from_millis(500);
    const CONFIG: Config = Config { min: 10, max: 2570, latency_target: TARGET };

    /// Feeds one window of `answers` with this latency, and `taken` requests in flight.
    fn window(adaptive: &mut Adaptive, now: &mut BootInstant, millis: u64, taken: usize) -> usize {
        for _ in 0..ANSWERS_MIN {
            *now = *now + Duration::from_millis(11);
            adaptive.observe(*now, Duration::from_millis(millis), true, taken);
        }
        adaptive.limit()
    }

    #[test]
    fn slow_answers_lower_the_limit_by_a_tenth_and_quick_ones_raise_it_step_by_step() {
        let (mut adaptive, mut now) = (Adaptive::new(CONFIG), BootInstant(1));
        assert_eq!(adaptive.limit(), 2570);
        assert_eq!(window(&mut adaptive, &mut now, 501, 2570), 2313);
        assert_eq!(window(&mut adaptive, &mut now, 501, 2313), 2081);
        assert_eq!(window(&mut adaptive, &mut now, 500, 2081), 2091);
        assert_eq!(window(&mut adaptive, &mut now, 3, 2091), 2101);
        for _ in 0..100 {
            window(&mut adaptive, &mut now, 9000, 2570);
        }
        assert_eq!(adaptive.limit(), 10, "never below the least");
        for _ in 0..300 {
            window(&mut adaptive, &mut now, 1, 2570);
        }
        assert_eq!(adaptive.limit(), 2570, "never above the most");
    }

    #[test]
    fn a_limit_that_bounds_nothing_stays() {
        let (mut adaptive, mut now) = (Adaptive::new(CONFIG), BootInstant(1));
        assert_eq!(window(&mut adaptive, &mut now, 9000, 1284), 2570, "a slow disk and few requests are no congestion");
        assert_eq!(window(&mut adaptive, &mut now, 9000, 1285), 2313);
        assert_eq!(window(&mut adaptive, &mut now, 9000, 1100), 2313);
    }

    #[test]
    fn it_takes_no_load_to_recover() {
        // Answers per second, and what is in flight then.
        for (per_second, taken) in [(1, 1), (100, 1), (1000, 5)] {
            let (mut adaptive, mut now) = (Adaptive::new(CONFIG), BootInstant(1));
            while window(&mut adaptive, &mut now, 9000, 2570) > 10 {}
            let fell = now;
            while adaptive.limit() < 2570 {
                now = now + Duration::from_secs(1) / per_second;
                adaptive.observe(now, TARGET, true, taken);
            }
            let took = now.since(fell).as_secs();
            assert!((40..80).contains(&took), "{per_second} per second: {took} s, not about 256 windows of 200 ms");
        }
        let (mut adaptive, mut now) = (Adaptive::new(CONFIG), BootInstant(1));
        while window(&mut adaptive, &mut now, 9000, 2570) > 10 {}
        for answer in 0..1000 {
            now = now + Duration::from_millis(100);
            let took = if answer % 5 == 0 { TARGET * 2 } else { TARGET / 4 };
            adaptive.observe(now, took, true, 1);
        }
        assert_eq!(adaptive.limit(), 10, "not while it is still slow");
    }

    #[test]
    fn few_slow_answers_among_many_are_no_congestion() {
        let (mut adaptive, mut now) = (Adaptive::new(CONFIG), BootInstant(1));
        for answer in 0..1000 {
            now = now + Duration::from_millis(1);
            let took = if answer % 12 == 0 { TARGET * 4 } else { TARGET / 4 };
            adaptive.observe(now, took, true, 2570);
        }
        assert_eq!(adaptive.limit(), 2570);
    }

    #[test]
    fn what_was_given_up_counts_only_if_that_took_long() {
        let (mut adaptive, mut now) = (Adaptive::new(CONFIG), BootInstant(1));
        let mut given_up = |took| {
            let mut changes = 0;
            for _ in 0..100 {
                now = now + Duration::from_millis(50);
                let before = adaptive.limit();
                adaptive.observe(now, took, false, 2570);
                changes += usize::from(adaptive.limit() != before);
            }
            (changes, adaptive.limit())
        };
        assert_eq!(given_up(TARGET), (0, 2570));
        let (changes, limit) = given_up(TARGET * 2);
        assert!(changes == 5 && limit < 1600, "{changes} changes, once for each window of twenty, to {limit}");
    }

    /// Little's law: where a server does so much per second, the limit settles near what is in flight at the target latency.
    #[test]
    fn it_settles_where_answers_take_as_long_as_the_target() {
        for per_second in [100, 400, 1000] {
            let config = Config { min: 10, max: 4096, latency_target: TARGET };
            let (mut adaptive, mut now) = (Adaptive::new(config), BootInstant(1));
            let mut late = Vec::new();
            for round in 0..600 {
                let limit = adaptive.limit();
                window(&mut adaptive, &mut now, limit as u64 * 1000 / per_second, limit);
                if round >= 300 {
                    late.push(limit as f64);
                }
            }
            let mean = late.iter().sum::<f64>() / late.len() as f64;
            let wanted = per_second as f64 * TARGET.as_secs_f64();
            assert!(mean > wanted * 0.6 && mean < wanted * 1.6, "{per_second}: {mean}, not {wanted}");
        }
    }

    proptest! {
        #[test]
        fn the_limit_keeps_its_bounds(
            min in 1_usize..100,
            more in 0_usize..1000,
            steps in prop::collection::vec((0_u64..2000, any::<bool>(), 0_usize..2000), 0..500),
        ) {
            let config = Config { min, max: min + more, latency_target: TARGET };
            let (mut adaptive, mut now) = (Adaptive::new(config), BootInstant(1));
            for (millis, answered, taken) in steps {
                now = now + Duration::from_millis(millis / 20);
                adaptive.observe(now, Duration::from_millis(millis), answered, taken);
                prop_assert!((min..=min + more).contains(&adaptive.limit()));
            }
        }
    }
}
