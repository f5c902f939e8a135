//! A network on which nodes can be stopped, so that their connections stay up, take what is written, and never say a thing;
//! or killed, so that their connections break and nobody can connect.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_shared::seam::network::{Listener, Stream};
use berth_shared::seam::{Network, Seams};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub(crate) struct Frost {
    network: Arc<dyn Network>,
    frozen: Arc<Mutex<BTreeSet<String>>>,
    killed: Arc<Mutex<BTreeMap<String, CancellationToken>>>,
}

impl Frost {
    /// Puts itself between `seams` and their network.
    pub(crate) fn over(seams: &mut Seams) -> Self {
        let frost = Self { network: seams.network.clone(), frozen: Arc::default(), killed: Arc::default() };
        seams.network = Arc::new(frost.clone());
        frost
    }

    /// Stops the node at `address`, for all who connect or are connected to it.
    pub(crate) fn freeze(&self, address: &str) {
        self.frozen.lock().insert(address.to_owned());
    }

    /// Breaks the connections of the node at `address`, and lets nobody connect to it.
    pub(crate) fn kill(&self, address: &str) {
        self.token(address).cancel();
    }

    fn token(&self, address: &str) -> CancellationToken {
        self.killed.lock().entry(address.to_owned()).or_default().clone()
    }
}

impl Network for Frost {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let token = self.token(address);
            if token.is_cancelled() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let stream = self.network.connect(address).await?;
            let killed = Box::pin(token.cancelled_owned());
            let end = End { stream, address: address.to_owned(), frozen: self.frozen.clone(), killed };
            Ok(Box::new(end) as Stream)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.network.listen(address)
    }
}

/// The end of whoever connected.
struct End {
    stream: Stream,
    address: String,
    frozen: Arc<Mutex<BTreeSet<String>>>,
    killed: BoxFuture<'static, ()>,
}

impl End {
    fn is_frozen(&self) -> bool {
        self.frozen.lock().contains(&self.address)
    }
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.killed.as_mut().poll(context).is_ready() {
            // Must not be polled again.
            self.killed = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        // Nobody thaws, so nobody needs to be woken for it.
        if self.is_frozen() { Poll::Pending } else { Pin::new(&mut self.stream).poll_read(context, into) }
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_frozen() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
