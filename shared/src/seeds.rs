//! The seeds of a configuration and what they stand for just now. An address stands for itself; a name, as that of a headless
//! Service, for all addresses that DNS has of it, and it is asked for again and again, because pods come and go. What was
//! learnt last stays while DNS fails. Says which addresses there are; who answers at them is others' business.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::seam::Seams;
use crate::seam::dns::ADDRESSES_MAX;
use crate::seam::network::{is_name, parts};

/// The shortest time between two questions for a name: for answers that hold for no time, and after the first failure, which
/// doubles with every further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest time between two questions for a name while there is no answer.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Looks names up until it is dropped.
#[derive(Debug)]
pub struct Seeds {
    current: watch::Receiver<Arc<Current>>,
    task: Option<JoinHandle<()>>,
}

/// What all seeds stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// In the order of the configuration.
    seeds: Vec<Seed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// What the configuration says, `host:port`.
    pub configured: String,
    pub stands_for: StandsFor,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandsFor {
    /// It is an address, or a name that nobody resolves.
    Itself,
    /// The newest addresses that DNS had, in order, each once: one at least.
    Addresses(Vec<String>),
    /// DNS had none yet, for this reason.
    Nothing(String),
    /// DNS has not answered yet.
    Unknown,
}

impl Seeds {
    /// Starts to look up what is a name among `configured`. An answer is used as long as it holds, and for `refresh_max` at most.
    pub fn start(configured: &[String], refresh_max: Duration, seams: &Seams) -> Self {
        let has_resolver = seams.network.resolver().is_some();
        let seed = |configured: &String| {
            let is_resolved = has_resolver && is_name(configured);
            let stands_for = if is_resolved { StandsFor::Unknown } else { StandsFor::Itself };
            Seed { configured: configured.clone(), stands_for }
        };
        let current = Current { seeds: configured.iter().map(seed).collect() };
        let names: Vec<usize> = (0..current.seeds.len()).filter(|n| !current.seeds[*n].is_fixed()).collect();
        let (sender, current) = watch::channel(Arc::new(current));
        let task = (!names.is_empty()).then(|| {
            let follower = Follower { current: sender, refresh_max, seams: seams.clone() };
            seams.spawner.spawn(async move {
                join_all(names.into_iter().map(|name| follower.follow(name))).await;
            })
        });
        Self { current, task }
    }

    pub fn current(&self) -> Arc<Current> {
        self.current.borrow().clone()
    }

    /// Tells of every change. Closed from the start where none can come.
    pub fn changes(&self) -> watch::Receiver<Arc<Current>> {
        self.current.clone()
    }

    /// Completes once every name has been asked for, with or without success. Holds nothing of this.
    pub fn asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut current = self.current.clone();
        async move {
            let is_known = |seed: &Seed| seed.stands_for != StandsFor::Unknown;
            // It ends early only with the task, which asks no more then.
            let _ = current.wait_for(|current| current.seeds.iter().all(is_known)).await;
        }
    }
}

impl Drop for Seeds {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Current {
    pub fn seeds(&self) -> &[Seed] {
        &self.seeds
    }

    /// All addresses, in order, each once; [`ADDRESSES_MAX`] and as many as are configured themselves, at most.
    pub fn addresses(&self) -> Vec<String> {
        let (fixed, found): (Vec<&Seed>, Vec<&Seed>) = self.seeds.iter().partition(|seed| seed.is_fixed());
        let mut addresses: Vec<String> = found.into_iter().flat_map(Seed::addresses).cloned().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        addresses.extend(fixed.into_iter().flat_map(Seed::addresses).cloned());
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Whether the addresses are the same for ever.
    pub fn is_fixed(&self) -> bool {
        self.seeds.iter().all(Seed::is_fixed)
    }

    /// The names that have never had an address, and why.
    pub fn unresolved(&self) -> impl Iterator<Item = (&str, &str)> {
        self.seeds.iter().filter_map(|seed| match &seed.stands_for {
            StandsFor::Nothing(reason) => Some((seed.configured.as_str(), reason.as_str())),
            StandsFor::Unknown => Some((seed.configured.as_str(), "DNS has not answered yet")),
            StandsFor::Itself | StandsFor::Addresses(_) => None,
        })
    }
}

impl Seed {
    pub fn addresses(&self) -> &[String] {
        match &self.stands_for {
            StandsFor::Itself => std::slice::from_ref(&self.configured),
            StandsFor::Addresses(addresses) => addresses,
            StandsFor::Nothing(_) | StandsFor::Unknown => &[],
        }
    }

    pub fn is_fixed(&self) -> bool {
        self.stands_for == StandsFor::Itself
    }
}

/// The task's half.
struct Follower {
    current: watch::Sender<Arc<Current>>,
    refresh_max: Duration,
    seams: Seams,
}

impl Follower {
    /// Asks for one name, for ever. A failure of DNS is one warning, however long it lasts; each change is told once.
    async fn follow(&self, seed: usize) {
        let configured = self.current.borrow().seeds[seed].configured.clone();
        let (mut is_failing, mut retry) = (false, PAUSE_MIN);
        loop {
            let pause = match self.ask(&configured).await {
                Ok((addresses, valid_for)) => {
                    if std::mem::take(&mut is_failing) {
                        tracing::info!(seed = configured, "DNS has addresses of the seed again");
                    }
                    retry = PAUSE_MIN;
                    self.publish(seed, StandsFor::Addresses(addresses));
                    valid_for.min(self.refresh_max).max(PAUSE_MIN)
                }
                Err(reason) => {
                    let known = self.current.borrow().seeds[seed].addresses().len();
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(seed = configured, known, "the seed does not resolve: {reason}");
                    }
                    if known == 0 {
                        self.publish(seed, StandsFor::Nothing(reason));
                    }
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    pause
                }
            };
            self.seams.spawner.sleep(self.jittered(pause)).await;
        }
    }

    async fn ask(&self, configured: &str) -> Result<(Vec<String>, Duration), String> {
        let (host, port) = parts(configured).map_err(|error| error.to_string())?;
        let resolver = self.seams.network.resolver().ok_or("there is no DNS on this network")?;
        let resolved = resolver.resolve(host).await.map_err(|error| error.to_string())?;
        let addresses = resolved.addresses.iter().map(|ip| std::net::SocketAddr::new(*ip, port).to_string());
        Ok((addresses.collect(), resolved.valid_for))
    }

    fn publish(&self, seed: usize, stands_for: StandsFor) {
        self.current.send_if_modified(|current| {
            if current.seeds[seed].stands_for == stands_for {
                return false;
            }
            let seed = &mut Arc::make_mut(current).seeds[seed];
            tracing::debug!(seed = seed.configured, ?stands_for, "the seed stands for something else than before");
            seed.stands_for = stands_for;
            true
        });
    }

    /// Up to a tenth longer, so that pods which started together do not ask together for ever.
    fn jittered(&self, pause: Duration) -> Duration {
        let tenth = (pause.as_nanos() / 10).max(1) as u64;
        pause + Duration::from_nanos(self.seams.random.next_u64() % tenth)
    }
}

#[cfg(test)]
mod tests;
