//! A machine that can lose its power: its connections break, whoever made them, and there are no new ones. What goes on inside
//! of it then is seen by nobody.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_shared::seam::network::{Listener, Stream};
use berth_shared::seam::{Network, Seams};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub(crate) struct Power {
    network: Arc<dyn Network>,
    off: CancellationToken,
}

impl Power {
    /// What a process on a machine of its own gets in the place of `seams`, and the switch.
    pub(crate) fn over(seams: &Seams) -> (Seams, Self) {
        let power = Self { network: seams.network.clone(), off: CancellationToken::new() };
        (Seams { network: Arc::new(power.clone()), ..seams.clone() }, power)
    }

    pub(crate) fn cut(&self) {
        self.off.cancel();
    }

    fn wire(&self, stream: Stream) -> Stream {
        Box::new(Wire { stream, off: self.off.clone(), cut: Box::pin(self.off.clone().cancelled_owned()) })
    }
}

impl Network for Power {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let connecting = self.off.run_until_cancelled(self.network.connect(address)).await;
            let stream = connecting.unwrap_or_else(|| Err(io::ErrorKind::HostUnreachable.into()))?;
            Ok(self.wire(stream))
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.network.listen(address).await?;
            Ok(Box::new(Door { listener, power: self.clone() }) as Box<dyn Listener>)
        })
    }
}

struct Door {
    listener: Box<dyn Listener>,
    power: Power,
}

impl Listener for Door {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, String)>> {
        Box::pin(async move {
            // What connects once the power is off finds its connection broken.
            let (stream, address) = self.listener.accept().await?;
            Ok((self.power.wire(stream), address))
        })
    }

    fn local_address(&self) -> io::Result<String> {
        self.listener.local_address()
    }
}

struct Wire {
    stream: Stream,
    off: CancellationToken,
    cut: BoxFuture<'static, ()>,
}

fn broken<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.off.is_cancelled() || self.cut.as_mut().poll(context).is_ready() {
            return broken();
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.off.is_cancelled() {
            return broken();
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.off.is_cancelled() {
            return broken();
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
