//! The hosts of a run, and what the simulation lends to the code that runs on them: clocks, randomness, the time that disks
//! take, and the end of a process.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use berth_shared::planted::Bug;
use berth_shared::seam::clock::{BootInstant, Clock};
use berth_shared::seam::random::SeededRandom;
use berth_shared::seam::simulation::{self, Pauses};
use berth_shared::seam::{Random, Seams, Spawner};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::Notify;
use turmoil::net::TcpStream;

use crate::network::{HostNetwork, Socket};
use crate::trace::Trace;

/// 2026-01-01, where all wall clocks begin.
const WALL_START_MICROS: u64 = 1_767_225_600_000_000;
/// Where clocks that only count begin; above zero, so that there are instants before.
const BOOT_START_NANOS: u64 = 1_000_000_000_000;

/// All hosts of a run.
#[derive(Debug)]
pub struct World {
    pub trace: Arc<Trace>,
    hosts: Vec<Arc<Host>>,
    /// Which host runs on which runtime: a restarted host has a new one.
    runtimes: Mutex<Vec<(runtime::Id, usize)>>,
    /// The host that is looked into between steps.
    looked_into: Mutex<Option<Arc<Host>>>,
    /// Of every process.
    planted: Option<Bug>,
}

/// One machine: a name on the network, a clock, and a disk of some speed.
pub struct Host {
    pub name: String,
    pub trace: Arc<Trace>,
    random: SeededRandom,
    clock: Mutex<Rate>,
    /// The newest moment that was asked for, for destructors that run when no host does.
    newest_nanos: AtomicU64,
    disk_pause_max: Mutex<Duration>,
    /// Of the frames that arrive from other pods: how many arrive twice.
    repeats_percent: AtomicU64,
    /// Set when the process on it has ended: the network carries nothing of it any more.
    is_mute: AtomicBool,
    /// Its connections, in the order in which they were made.
    sockets: Mutex<Vec<Weak<Mutex<Option<TcpStream>>>>>,
    /// Tells the process on it to end.
    killed: Notify,
    ended: Mutex<Option<String>>,
}

/// A clock that runs at its own speed: at `since` of the run it showed `shown`.
#[derive(Clone, Copy, Debug)]
struct Rate {
    since_nanos: u64,
    shown_nanos: u64,
    /// Nanoseconds that it counts per million that pass.
    per_million: u64,
    /// By how much the wall clock is wrong.
    wall_offset_micros: i64,
}

impl World {
    /// `names` are the hosts; everything random on a host follows from `seed` and its place in the list.
    pub fn new(names: &[String], seed: u64, trace: Arc<Trace>) -> Self {
        let host = |(number, name): (usize, &String)| {
            let seed = seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
            Arc::new(Host::new(name.clone(), seed, trace.clone()))
        };
        let hosts = names.iter().enumerate().map(host).collect();
        Self { trace, hosts, runtimes: Mutex::default(), looked_into: Mutex::default(), planted: None }
    }

    /// The same world, whose processes all have `bug`.
    pub fn with(self, bug: Option<Bug>) -> Self {
        Self { planted: bug, ..self }
    }

    /// The host `name`, which must be one of this world.
    pub fn host(&self, name: &str) -> &Arc<Host> {
        let found = self.hosts.iter().find(|host| host.name == name);
        found.unwrap_or_else(|| panic!("the world has no host {name}"))
    }

    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// Says that the calling task, and all others of its runtime, run on `name`. A restarted process is no longer mute.
    pub fn run_here(&self, name: &str) {
        let number = self.hosts.iter().position(|host| host.name == name);
        let number = number.unwrap_or_else(|| panic!("the world has no host {name}"));
        self.runtimes.lock().push((runtime::Handle::current().id(), number));
        self.hosts[number].is_mute.store(false, Ordering::Relaxed);
        self.hosts[number].sockets.lock().clear();
    }

    /// Looks into a host between steps, `now` nanoseconds after the start: what asks for the time gets the host's.
    pub fn look_into<T>(&self, name: &str, now: u64, look: impl FnOnce() -> T) -> T {
        let host = self.host(name).clone();
        host.newest_nanos.fetch_max(now, Ordering::Relaxed);
        *self.looked_into.lock() = Some(host);
        let seen = look();
        *self.looked_into.lock() = None;
        seen
    }

    /// The host whose task is running, or that is looked into.
    fn running(&self) -> Option<Arc<Host>> {
        let Ok(handle) = runtime::Handle::try_current() else { return self.looked_into.lock().clone() };
        let runtimes = self.runtimes.lock();
        let number = runtimes.iter().rev().find(|(runtime, _)| *runtime == handle.id())?.1;
        self.hosts.get(number).cloned()
    }
}

/// The world as the code of its hosts meets it.
#[derive(Debug)]
pub struct Entrance(pub Arc<World>);

impl simulation::World for Entrance {
    fn now(&self) -> BootInstant {
        self.0.running().map_or(BootInstant(BOOT_START_NANOS), |host| host.now())
    }

    fn next_u64(&self) -> u64 {
        self.0.running().map_or(0, |host| host.random.next_u64())
    }

    fn blocking_pauses(&self) -> Pauses {
        self.0.running().map(|host| host.blocking_pauses()).unwrap_or_default()
    }

    fn abort(&self, message: &str) {
        if let Some(host) = self.0.running() {
            host.abort(message);
        }
    }

    fn is_planted(&self, bug: Bug) -> bool {
        self.0.planted == Some(bug)
    }
}

impl Host {
    fn new(name: String, seed: u64, trace: Arc<Trace>) -> Self {
        let rate =
            Rate { since_nanos: 0, shown_nanos: BOOT_START_NANOS, per_million: 1_000_000, wall_offset_micros: 0 };
        Self {
            name,
            trace,
            random: SeededRandom::new(seed),
            clock: Mutex::new(rate),
            newest_nanos: AtomicU64::new(0),
            disk_pause_max: Mutex::default(),
            repeats_percent: AtomicU64::new(0),
            is_mute: AtomicBool::new(false),
            sockets: Mutex::default(),
            killed: Notify::new(),
            ended: Mutex::default(),
        }
    }

    /// The seams of a process on this host that starts now.
    pub fn seams(self: &Arc<Self>) -> Seams {
        Seams {
            clock: self.clone(),
            random: Arc::new(SeededRandom::new(self.random.next_u64())),
            spawner: Spawner::Inline,
            network: Arc::new(HostNetwork::new(self.clone())),
        }
    }

    /// Time since the start of the run, which all hosts share and none can see.
    pub fn elapsed_nanos(&self) -> u64 {
        match turmoil::sim_elapsed() {
            Some(elapsed) => {
                let nanos = elapsed.as_nanos() as u64;
                self.newest_nanos.fetch_max(nanos, Ordering::Relaxed);
                nanos
            }
            None => self.newest_nanos.load(Ordering::Relaxed),
        }
    }

    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_nanos())
    }

    pub fn note(&self, what: fmt::Arguments<'_>, bytes: &[u8]) {
        self.trace.note(self.elapsed_nanos(), &self.name, what, bytes);
    }

    /// From `now_nanos` of the run on, the host's clocks count `per_million` nanoseconds for every million that pass.
    pub fn set_clock_rate(&self, now_nanos: u64, per_million: u64) {
        let mut rate = self.clock.lock();
        *rate = Rate { since_nanos: now_nanos, shown_nanos: rate.shown_nanos(now_nanos), per_million, ..*rate };
    }

    /// The wall clock is wrong by this much from now on.
    pub fn set_wall_offset(&self, micros: i64) {
        self.clock.lock().wall_offset_micros = micros;
    }

    /// Of the frames that arrive from other pods, so many arrive twice from now on.
    pub fn set_repeats_percent(&self, percent: u64) {
        self.repeats_percent.store(percent, Ordering::Relaxed);
    }

    /// Whether the frame that has arrived arrives once more.
    pub fn repeats_frame(&self) -> bool {
        let percent = self.repeats_percent.load(Ordering::Relaxed);
        percent > 0 && self.random.next_u64() % 100 < percent
    }

    /// Blocking work, such as fsync, takes up to twice this long from now on.
    pub fn set_disk_pause_max(&self, longest: Duration) {
        *self.disk_pause_max.lock() = longest;
    }

    /// Two of three times there is no pause at all, so that both orders of what may happen meanwhile are seen.
    fn blocking_pauses(&self) -> Pauses {
        let longest = self.disk_pause_max.lock().as_nanos() as u64;
        if longest == 0 {
            return Pauses::default();
        }
        let pause = || {
            let draw = self.random.next_u64();
            if draw.is_multiple_of(3) { Duration::from_nanos(draw / 3 % longest) } else { Duration::ZERO }
        };
        Pauses { before: pause(), after: pause() }
    }

    /// The process on this host ends itself.
    pub fn abort(&self, message: &str) {
        self.note(format_args!("ends itself: {message}"), &[]);
        self.is_mute.store(true, Ordering::Relaxed);
        self.ended.lock().get_or_insert_with(|| message.to_owned());
    }

    /// Nothing of the process on this host is seen from now on. Its connections are closed when it runs next.
    pub fn kill(&self) {
        self.is_mute.store(true, Ordering::Relaxed);
        self.killed.notify_one();
    }

    /// Runs a process until it is killed, and closes its connections then. A dropped runtime would close them too, but drops
    /// its tasks in an order that depends on how many tasks this operating system's process has ever had.
    pub async fn run_until_killed<T>(&self, process: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.killed.notified() => {
                let sockets = std::mem::take(&mut *self.sockets.lock());
                sockets.iter().filter_map(Weak::upgrade).for_each(|socket| drop(socket.lock().take()));
                std::future::pending().await
            }
            done = process => done,
        }
    }

    pub fn keep_socket(&self, socket: &Socket) {
        let mut sockets = self.sockets.lock();
        sockets.retain(|socket| socket.strong_count() > 0);
        sockets.push(Arc::downgrade(socket));
    }

    pub fn is_mute(&self) -> bool {
        self.is_mute.load(Ordering::Relaxed)
    }

    /// Why the process on this host has ended itself, if it has; asked once.
    pub fn take_end(&self) -> Option<String> {
        self.ended.lock().take()
    }
}

impl Clock for Host {
    fn now(&self) -> BootInstant {
        let elapsed = self.elapsed_nanos();
        BootInstant(self.clock.lock().shown_nanos(elapsed))
    }

    fn wall_micros(&self) -> u64 {
        let elapsed = self.elapsed_nanos();
        let rate = self.clock.lock();
        let counted = (rate.shown_nanos(elapsed) - BOOT_START_NANOS) / 1000;
        (WALL_START_MICROS + counted).saturating_add_signed(rate.wall_offset_micros)
    }
}

impl Rate {
    fn shown_nanos(&self, elapsed_nanos: u64) -> u64 {
        let passed = u128::from(elapsed_nanos.saturating_sub(self.since_nanos));
        self.shown_nanos + (passed * u128::from(self.per_million) / 1_000_000) as u64
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("clock", &self.clock).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_keeps_its_time_when_its_speed_changes() {
        let host = Host::new("a".into(), 1, Arc::new(Trace::new(false)));
        host.set_clock_rate(1_000_000, 1_100_000);
        host.set_clock_rate(2_000_000, 500_000);
        let rate = *host.clock.lock();
        let shown = |nanos| rate.shown_nanos(nanos) - BOOT_START_NANOS;
        assert_eq!((shown(2_000_000), shown(4_000_000)), (2_100_000, 3_100_000));
    }
}
