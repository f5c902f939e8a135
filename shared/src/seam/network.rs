//! The network seam between pods: byte streams from and to addresses. TCP in earnest, memory in tests.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::dns::{Dns, Resolver};

/// A connection: bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub type Stream = Box<dyn Duplex>;

pub trait Network: Send + Sync + fmt::Debug {
    /// Connects to `host:port`.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>>;
    /// Listens on `host:port`; port 0 picks a free one.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
    /// What knows the addresses of names. `None` on a network whose names are addresses themselves.
    fn resolver(&self) -> Option<&dyn Resolver> {
        None
    }
}

/// Whether the host of `host:port` is a name, which may have several addresses.
pub fn is_name(address: &str) -> bool {
    address.parse::<SocketAddr>().is_err()
}

/// The parts of `host:port`, or what is wrong with it.
pub fn parts(address: &str) -> io::Result<(&str, u16)> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    Ok((host, port.parse().map_err(|_| malformed())?))
}

pub trait Listener: Send {
    /// The next connection and the address of who made it.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>>;
    fn local_address(&self) -> io::Result<String>;
}

/// TCP with Nagle's algorithm off: frames are coalesced before they are written. Names are resolved by DNS.
#[derive(Clone, Debug)]
pub struct TcpNetwork {
    dns: Arc<Dns>,
}

impl TcpNetwork {
    pub fn new(dns: Dns) -> Self {
        Self { dns: Arc::new(dns) }
    }

    /// What `address` stands for, one at least.
    async fn look_up(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = address.parse() {
            return Ok(vec![address]);
        }
        let (host, port) = parts(address)?;
        let resolved = self.dns.resolve(host).await?;
        Ok(resolved.addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }
}

impl Network for TcpNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let addresses = self.look_up(address).await?;
            // The first that takes the connection, in order.
            #[expect(clippy::disallowed_methods, reason = "this is the seam")]
            let stream = tokio::net::TcpStream::connect(&*addresses).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Stream)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let addresses = self.look_up(address).await?;
            #[expect(clippy::disallowed_methods, reason = "this is the seam")]
            let listener = tokio::net::TcpListener::bind(&*addresses).await?;
            Ok(Box::new(TcpAcceptor(listener)) as Box<dyn Listener>)
        })
    }

    fn resolver(&self) -> Option<&dyn Resolver> {
        Some(&*self.dns)
    }
}

struct TcpAcceptor(tokio::net::TcpListener);

impl Listener for TcpAcceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            let (stream, address) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Stream, address.to_string()))
        })
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.0.local_addr()?.to_string())
    }
}

/// Connections in memory, by address. Clones share one network.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork {
    listeners: Arc<Mutex<HashMap<String, mpsc::Sender<Stream>>>>,
}

/// Bytes in flight per direction of one connection in memory.
const MEMORY_BUFFER_BYTES: usize = 256 * 1024;
/// Connections not yet accepted per listener in memory.
const MEMORY_BACKLOG: usize = 128;

impl Network for MemoryNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let listener = self.listeners.lock().get(address).cloned();
            let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, format!("nobody listens on {address}"));
            let (ours, theirs) = tokio::io::duplex(MEMORY_BUFFER_BYTES);
            listener.ok_or_else(refused)?.send(Box::new(theirs)).await.map_err(|_| refused())?;
            Ok(Box::new(ours) as Stream)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut listeners = self.listeners.lock();
            let address = match address.strip_suffix(":0") {
                Some(host) => format!("{host}:{}", 40_000 + listeners.len()),
                None => address.to_owned(),
            };
            if listeners.get(&address).is_some_and(|l| !l.is_closed()) {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, address));
            }
            let (sender, receiver) = mpsc::channel(MEMORY_BACKLOG);
            listeners.insert(address.clone(), sender);
            Ok(Box::new(MemoryListener { address, receiver }) as Box<dyn Listener>)
        })
    }
}

struct MemoryListener {
    address: String,
    receiver: mpsc::Receiver<Stream>,
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            let stream = self.receiver.recv().await;
            stream.map(|s| (s, "memory".to_owned())).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        })
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}
