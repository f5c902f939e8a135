//! The network seam on the simulated network: streams that note in the trace what arrives, and fall silent with a process
//! that has ended itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_shared::seam::Network;
use berth_shared::seam::network::{Listener, Stream};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::world::Host;

/// A connection, until it is dropped or its process ends.
pub type Socket = Arc<Mutex<Option<TcpStream>>>;

/// The port that speaks HTTP. hyper puts the machine's date in there, so only the lengths of what arrives are noted.
pub const HTTP_PORT: u16 = 8080;

/// The network as one host sees it.
#[derive(Debug)]
pub struct HostNetwork {
    host: Arc<Host>,
}

impl HostNetwork {
    pub fn new(host: Arc<Host>) -> Self {
        Self { host }
    }

    fn stream(&self, stream: TcpStream) -> io::Result<Stream> {
        let is_http = stream.local_addr()?.port() == HTTP_PORT || stream.peer_addr()?.port() == HTTP_PORT;
        let from = stream.peer_addr()?.to_string();
        let socket: Socket = Arc::new(Mutex::new(Some(stream)));
        self.host.keep_socket(&socket);
        Ok(Box::new(Noted { host: self.host.clone(), socket, from, is_http }))
    }
}

impl Network for HostNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move { self.stream(TcpStream::connect(address).await?) })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            let port = port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, address.to_owned()))?;
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            let address = format!("{}:{}", self.host.name, listener.local_addr()?.port());
            Ok(Box::new(Acceptor { network: Self::new(self.host.clone()), listener, address }) as Box<dyn Listener>)
        })
    }
}

struct Acceptor {
    network: HostNetwork,
    listener: TcpListener,
    address: String,
}

impl Listener for Acceptor {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            Ok((self.network.stream(stream)?, from.to_string()))
        })
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

struct Noted {
    host: Arc<Host>,
    socket: Socket,
    from: String,
    is_http: bool,
}

impl Noted {
    /// Asks the connection; what an ended process asks has no answer.
    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<T>) -> Poll<T> {
        match &mut *self.socket.lock() {
            Some(stream) if !self.host.is_mute() => poll(Pin::new(stream)),
            _ => Poll::Pending,
        }
    }
}

impl AsyncRead for Noted {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.poll(|stream| stream.poll_read(context, buffer));
        if let Poll::Ready(read) = &read {
            let arrived = &buffer.filled()[before..];
            let (from, length) = (&self.from, arrived.len());
            let noted = if self.is_http { &[] } else { arrived };
            self.host.note(format_args!("gets {length} from {from}, ok {}", read.is_ok()), noted);
        }
        read
    }
}

impl AsyncWrite for Noted {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(context))
    }
}
