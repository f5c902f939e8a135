//! The clock seam: a monotonic clock that counts suspended time, for leases and deadlines, and the wall clock, for people.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on a clock that never goes back and goes on while the machine is suspended; nanoseconds since some start.
/// A lease measured on a clock that stops in suspension would look valid after a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(pub u64);

pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> BootInstant;
    /// Microseconds since 1970-01-01 UTC. May jump.
    fn wall_micros(&self) -> u64;
    /// How long the processors have worked for this process, all threads together. A simulated process takes no time.
    fn processor_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl BootInstant {
    /// Zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos() as u64))
    }
}

impl Sub<Duration> for BootInstant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_nanos() as u64))
    }
}

/// CLOCK_BOOTTIME and the system's wall clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> BootInstant {
        system_now()
    }

    fn wall_micros(&self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "this is the seam")]
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
    }

    fn processor_time(&self) -> Duration {
        #[expect(clippy::disallowed_methods, reason = "this is the seam")]
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::from_nanos(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
    }
}

/// CLOCK_BOOTTIME, for callers that can hold no clock, such as the consensus library's runtime.
pub fn system_now() -> BootInstant {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    BootInstant(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}

/// Follows tokio's clock, so that a test which pauses time pauses this one; the wall clock starts at 2026-01-01.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
}

const SIMULATED_WALL_START_MICROS: u64 = 1_767_225_600_000_000;

impl TokioClock {
    #[expect(clippy::new_without_default, reason = "it reads the clock, which a default should not")]
    pub fn new() -> Self {
        Self { start: tokio_now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> BootInstant {
        // A start above zero leaves room for instants before it.
        BootInstant(1_000_000_000_000 + (tokio_now() - self.start).as_nanos() as u64)
    }

    fn wall_micros(&self) -> u64 {
        SIMULATED_WALL_START_MICROS + (tokio_now() - self.start).as_micros() as u64
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the seam")]
fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}
