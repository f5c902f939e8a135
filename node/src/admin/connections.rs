//! The admin port's connections: at most so many at once, and none that stays idle for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_shared::seam::Spawner;
use berth_shared::seam::network::{Listener, Stream};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once; one more waits to be accepted. Only operators and their tools come here.
const CONNECTIONS_MAX: usize = 256;
/// A connection on which nothing was read for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Pause after the system refused to accept, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The network seam's listener in the shape that axum serves.
pub(super) struct Connections {
    listener: Box<dyn Listener>,
    address: String,
    spawner: Spawner,
    places: Arc<Semaphore>,
}

/// One connection, which holds its place as long as it lives.
pub(super) struct Connection {
    stream: Stream,
    spawner: Spawner,
    idle: BoxFuture<'static, ()>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(listener: Box<dyn Listener>, address: String, spawner: Spawner) -> Self {
        Self { listener, address, spawner, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl axum::serve::Listener for Connections {
    type Io = Connection;
    type Addr = String;

    async fn accept(&mut self) -> (Connection, String) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = self.places.clone().acquire_owned().await else { continue };
            match self.listener.accept().await {
                Ok((stream, address)) => return (Connection::new(stream, place, self.spawner), address),
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    self.spawner.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

impl Connection {
    fn new(stream: Stream, place: OwnedSemaphorePermit, spawner: Spawner) -> Self {
        Self { stream, spawner, idle: Box::pin(spawner.sleep(IDLE_MAX)), _place: place }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.idle = Box::pin(self.spawner.sleep(IDLE_MAX));
            return read;
        }
        self.idle.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
