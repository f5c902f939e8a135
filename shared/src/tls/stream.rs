//! A server's side of a connection that is not greeted yet: the handshake runs with the first read or write, under whatever
//! time-out its user has for that, and holds up nobody who accepts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::Accept;
use tokio_rustls::server::TlsStream;

use super::invalid;
use crate::seam::network::Stream;

pub(super) enum ServerStream {
    // Boxed, because TLS has much state.
    Greeting(Box<Accept<Stream>>),
    Open(Box<TlsStream<Stream>>),
    /// The handshake failed for this reason.
    Failed(String),
}

impl ServerStream {
    fn open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut TlsStream<Stream>>> {
        if let Self::Greeting(accept) = self {
            match ready!(Pin::new(accept).poll(context)) {
                Ok(stream) => *self = Self::Open(Box::new(stream)),
                // The end of a connection is none of TLS's faults.
                Err(error) if error.kind() != io::ErrorKind::InvalidData => return Poll::Ready(Err(error)),
                Err(error) => *self = Self::Failed(format!("TLS: {error}")),
            }
        }
        Poll::Ready(match self {
            Self::Open(stream) => Ok(stream),
            Self::Failed(why) => Err(invalid(why)),
            Self::Greeting(_) => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = ready!(self.open(context))?;
        Pin::new(stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = ready!(self.open(context))?;
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = ready!(self.open(context))?;
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = ready!(self.open(context))?;
        Pin::new(stream).poll_shutdown(context)
    }
}
