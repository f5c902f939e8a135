//! The only places where time, randomness, tasks, sockets and (in the node) disk files are touched. Everything else gets a
//! [`Seams`] handed in, so that a whole cluster can run in one deterministic simulation. `clippy.toml` bans the raw calls.

pub mod clock;
pub mod dns;
pub mod network;
pub mod random;
pub mod simulation;
pub mod spawn;

use std::net::SocketAddr;
use std::sync::Arc;

pub use clock::{BootInstant, Clock};
pub use network::Network;
pub use random::Random;
pub use spawn::Spawner;

/// Clock, randomness, tasks and network of one process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub spawner: Spawner,
    pub network: Arc<dyn Network>,
}

impl Seams {
    /// The real clock, randomness, threads and TCP, with the DNS servers of /etc/resolv.conf.
    pub fn system() -> Self {
        Self::system_with_dns(Vec::new())
    }

    /// The same with these DNS servers in place of those of /etc/resolv.conf, if there are any.
    pub fn system_with_dns(servers: Vec<SocketAddr>) -> Self {
        Self {
            clock: Arc::new(clock::SystemClock),
            random: Arc::new(random::SystemRandom),
            spawner: Spawner::Threads,
            network: Arc::new(network::TcpNetwork::new(dns::Dns::new(servers))),
        }
    }

    /// Seeded randomness, a clock that follows tokio's (which tests pause), blocking work inline, and sockets in memory.
    /// Every call makes a network of its own; clone the result to put several processes on the same one.
    pub fn simulated(seed: u64) -> Self {
        Self {
            clock: Arc::new(clock::TokioClock::new()),
            random: Arc::new(random::SeededRandom::new(seed)),
            spawner: Spawner::Inline,
            network: Arc::new(network::MemoryNetwork::default()),
        }
    }
}
