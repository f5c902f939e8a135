//! openraft's runtime: tokio's tasks, timers and channels, under a clock that counts suspended time. Its calls are static,
//! so the choice between the system and a simulation is a type.

use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioWatch};

use berth_shared::seam::clock::{BootInstant, system_now};
use berth_shared::seam::simulation;

/// What [`super::Types`] asks of a runtime.
pub trait Runtime: AsyncRuntime + Copy + Default + Ord + Send + Sync + fmt::Debug {}
impl<T: AsyncRuntime + Copy + Default + Ord + Send + Sync + fmt::Debug> Runtime for T {}

/// Where a runtime's time and randomness come from.
pub trait Source:
    Copy + Default + Ord + Send + Sync + fmt::Debug + Unpin + std::panic::UnwindSafe + std::panic::RefUnwindSafe + 'static
{
    type Rng: rand::Rng;
    fn now() -> BootInstant;
    fn rng() -> Self::Rng;
}

/// CLOCK_BOOTTIME and the thread's random generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct System;

/// The clock and the seed of the simulation that the thread is in. Outside of one, as in unit tests: tokio's clock, which
/// they pause, and generators seeded one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Simulated;

pub type SystemRuntime = TokioRuntime<System>;
pub type SimulatedRuntime = TokioRuntime<Simulated>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokioRuntime<S>(std::marker::PhantomData<S>);

/// An instant of the runtime's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant<S>(BootInstant, std::marker::PhantomData<S>);

impl Source for System {
    type Rng = rand::rngs::ThreadRng;

    fn now() -> BootInstant {
        system_now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is openraft's side of the seam")]
    fn rng() -> Self::Rng {
        rand::rng()
    }
}

thread_local! {
    /// What the paused clock counts from: the first look at it on this thread.
    static PAUSED_START: tokio::time::Instant = tokio_now();
    static DRAWS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[expect(clippy::disallowed_methods, reason = "this is openraft's side of the seam")]
fn tokio_now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

impl Source for Simulated {
    type Rng = rand::rngs::StdRng;

    fn now() -> BootInstant {
        if let Some(world) = simulation::current() {
            return world.now();
        }
        let elapsed = PAUSED_START.with(|start| tokio_now().saturating_duration_since(*start));
        BootInstant(1_000_000_000_000 + elapsed.as_nanos() as u64)
    }

    fn rng() -> Self::Rng {
        if let Some(world) = simulation::current() {
            return rand::SeedableRng::seed_from_u64(world.next_u64());
        }
        let draw = DRAWS.with(|draws| draws.replace(draws.get() + 1));
        rand::SeedableRng::seed_from_u64(draw)
    }
}

impl<S: Source> AsyncRuntime for TokioRuntime<S> {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = Instant<S>;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = S::Rng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    #[expect(clippy::disallowed_methods, reason = "this is openraft's side of the seam")]
    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::spawn(future)
    }

    #[expect(clippy::disallowed_methods, reason = "this is openraft's side of the seam")]
    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Self::sleep(deadline.0.since(S::now()))
    }

    #[expect(clippy::disallowed_methods, reason = "this is openraft's side of the seam")]
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Self::timeout(deadline.0.since(S::now()), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        join_error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        S::rng()
    }

    fn new(_threads: usize) -> Self {
        Self::default()
    }

    /// Only openraft's own test suite calls this.
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        #[expect(clippy::expect_used, reason = "a test without a runtime cannot go on")]
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
        runtime.block_on(future)
    }
}

impl<S: Source> openraft::Instant for Instant<S> {
    fn now() -> Self {
        Self(S::now(), std::marker::PhantomData)
    }
}

impl<S> Add<Duration> for Instant<S> {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration, self.1)
    }
}

impl<S> AddAssign<Duration> for Instant<S> {
    fn add_assign(&mut self, duration: Duration) {
        self.0 = self.0 + duration;
    }
}

impl<S> Sub<Duration> for Instant<S> {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration, self.1)
    }
}

impl<S> Sub<Self> for Instant<S> {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}

impl<S> SubAssign<Duration> for Instant<S> {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 = self.0 - duration;
    }
}
