//! The network seam on the simulated network: streams that note in the trace what arrives, where a host's network repeats
//! frames give some of them twice, and fall silent with a process that has ended itself.

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

use crate::frames::Frames;
use crate::world::Host;

/// A connection, until it is dropped or its process ends.
pub type Socket = Arc<Mutex<Option<TcpStream>>>;

/// The port that speaks HTTP. hyper puts the machine's date in there, so only the lengths of what arrives are noted.
pub const HTTP_PORT: u16 = 8080;
/// What is read of a connection between pods at once, at most.
const CHUNK_BYTES: usize = 16 << 10;

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
        let frames = (!is_http).then(Frames::default);
        Ok(Box::new(Noted { host: self.host.clone(), socket, from, frames }))
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
    /// Of a connection between pods.
    frames: Option<Frames>,
}

impl Noted {
    /// Asks the connection; what an ended process asks has no answer.
    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut TcpStream>) -> Poll<T>) -> Poll<T> {
        match &mut *self.socket.lock() {
            Some(stream) if !self.host.is_mute() => poll(Pin::new(stream)),
            _ => Poll::Pending,
        }
    }

    /// What arrives is given on frame by frame.
    fn poll_frames(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        frames: &mut Frames,
    ) -> Poll<io::Result<()>> {
        let mut space = [0; CHUNK_BYTES];
        loop {
            if frames.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            let mut arriving = ReadBuf::new(&mut space);
            let read = self.poll(|stream| stream.poll_read(context, &mut arriving));
            let arrived = arriving.filled();
            if let Poll::Ready(read) = &read {
                self.note(arrived.len(), read.is_ok(), arrived);
            }
            if !matches!(read, Poll::Ready(Ok(()))) || arrived.is_empty() {
                return read;
            }
            frames.take(arrived, || self.host.repeats_frame());
        }
    }

    fn note(&self, length: usize, is_ok: bool, arrived: &[u8]) {
        let from = &self.from;
        self.host.note(format_args!("gets {length} from {from}, ok {is_ok}"), arrived);
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut frames) = self.frames.take() else {
            let before = buffer.filled().len();
            let read = self.poll(|stream| stream.poll_read(context, buffer));
            if let Poll::Ready(read) = &read {
                self.note(buffer.filled().len() - before, read.is_ok(), &[]);
            }
            return read;
        };
        let read = self.poll_frames(context, buffer, &mut frames);
        self.frames = Some(frames);
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
