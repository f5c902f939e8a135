//! The seam of names: which addresses a host has. DNS in earnest, asked by a resolver of our own, because getaddrinfo needs
//! libraries that a static binary cannot load, and tells nobody how long an answer holds; a table in memory in tests.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use parking_lot::Mutex;

use super::BootInstant;
use super::clock::system_now;

/// Most addresses of one name; the highest beyond them are left out.
pub const ADDRESSES_MAX: usize = 1024;

/// How long one lookup may take, with all search domains and repeated questions.
pub(crate) const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// How long one question to a server may take. What resolv.conf usually says, 5 s, is all the time there is.
const QUESTION_MAX: Duration = Duration::from_secs(1);
/// How old the reading of /etc/resolv.conf and /etc/hosts may be.
const REREAD_AFTER: Duration = Duration::from_secs(60);

pub trait Resolver: Send + Sync + fmt::Debug {
    /// The addresses of `host`, which has neither port nor brackets. An error, if there are none.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Resolved>>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Ascending, each once, one at least and [`ADDRESSES_MAX`] at most.
    pub addresses: Vec<IpAddr>,
    /// How long this may be believed.
    pub valid_for: Duration,
}

impl Resolved {
    fn new(host: &str, mut addresses: Vec<IpAddr>, valid_for: Duration) -> io::Result<Self> {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            return Err(no_address(host));
        }
        Ok(Self { addresses, valid_for })
    }
}

fn no_address(host: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("DNS knows no address of {host}"))
}

/// DNS over UDP and TCP, /etc/hosts before it. Search domains and `ndots` are those of /etc/resolv.conf, and so are the servers,
/// unless others are given. Keeps no answers: who asks often keeps them as long as they are valid.
pub struct Dns {
    servers: Vec<SocketAddr>,
    read: Mutex<Option<Read>>,
}

/// What the files said.
#[derive(Clone)]
struct Read {
    at: BootInstant,
    resolver: TokioResolver,
    /// Why there is no server to ask: /etc/hosts may do without.
    flaw: Option<String>,
}

impl Dns {
    /// Asks `servers`; with none, those of /etc/resolv.conf.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, read: Mutex::new(None) }
    }

    fn read(&self) -> io::Result<Read> {
        let mut read = self.read.lock();
        let now = system_now();
        if let Some(known) = read.as_ref().filter(|known| now.since(known.at) < REREAD_AFTER) {
            return Ok(known.clone());
        }
        let fresh = self.read_files(now).map_err(io::Error::other)?;
        Ok(read.insert(fresh).clone())
    }

    fn read_files(&self, at: BootInstant) -> Result<Read, NetError> {
        // Two small files of this machine: no detour over another thread is worth it.
        let (config, options, flaw) = match read_system_conf() {
            Ok((config, options)) => (config, options, None),
            Err(error) => {
                let flaw = self.servers.is_empty().then(|| format!("/etc/resolv.conf: {error}"));
                (ResolverConfig::default(), ResolverOpts::default(), flaw)
            }
        };
        let (domain, search, system_servers) = config.into_parts();
        let servers = if self.servers.is_empty() { system_servers } else { self.servers.iter().map(server).collect() };
        let config = ResolverConfig::from_parts(domain, search, servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let options = builder.options_mut();
        options.timeout = options.timeout.min(QUESTION_MAX);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = 0;
        Ok(Read { at, resolver: builder.build()?, flaw })
    }

    async fn look_up(&self, host: &str) -> io::Result<Resolved> {
        let Read { resolver, flaw, .. } = self.read()?;
        #[expect(clippy::disallowed_methods, reason = "this is the seam")]
        let looked_up = tokio::time::timeout(LOOKUP_MAX, resolver.lookup_ip(host)).await;
        match looked_up {
            Ok(Ok(found)) => {
                #[expect(clippy::disallowed_methods, reason = "this is the seam")]
                let now = std::time::Instant::now();
                Resolved::new(host, found.iter().collect(), found.valid_until().saturating_duration_since(now))
            }
            Ok(Err(error)) => Err(match flaw {
                Some(flaw) => io::Error::other(flaw),
                None if error.is_no_records_found() => no_address(host),
                None => io::Error::other(format!("DNS was asked for {host}: {error}")),
            }),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("DNS did not answer for {host} in time"))),
        }
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = address.port());
    NameServerConfig::new(address.ip(), true, connections)
}

impl Resolver for Dns {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Resolved>> {
        Box::pin(self.look_up(host))
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// Names in memory. Clones share one table.
#[derive(Clone, Debug)]
pub struct MemoryResolver {
    names: Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>,
    /// Whether all questions fail.
    is_down: Arc<Mutex<bool>>,
    valid_for: Duration,
}

impl MemoryResolver {
    /// Knows no name yet; its answers hold for `valid_for`.
    pub fn new(valid_for: Duration) -> Self {
        Self { names: Arc::default(), is_down: Arc::default(), valid_for }
    }

    /// From now on `host` has these addresses; with none, there is no such name.
    pub fn set(&self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) {
        self.names.lock().insert(host.to_owned(), addresses.into_iter().collect());
    }

    /// Whether no question is answered from now on.
    pub fn set_down(&self, is_down: bool) {
        *self.is_down.lock() = is_down;
    }
}

impl Resolver for MemoryResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Resolved>> {
        let addresses = self.names.lock().get(host).cloned().unwrap_or_default();
        let answer = if *self.is_down.lock() {
            Err(io::Error::new(io::ErrorKind::TimedOut, "DNS is down"))
        } else {
            Resolved::new(host, addresses, self.valid_for)
        };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests;
