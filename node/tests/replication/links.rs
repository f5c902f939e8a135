//! The network between processes, on which links are cut and processes die. A cut link is silent: nothing passes and
//! nobody is told, as when packets are lost. The connections of a process that died are reset.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use berth_shared::seam::network::{Listener, MemoryNetwork, Stream};
use berth_shared::seam::{Network, Seams};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who may speak to whom. Clones are the same links.
#[derive(Clone, Default)]
pub(crate) struct Links {
    memory: MemoryNetwork,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Who connected, and to whom. Nothing passes on such connections, in either direction.
    cut: BTreeSet<(String, String)>,
    /// Each address belongs to one process only.
    dead: BTreeSet<String>,
    waiting: Vec<Waker>,
}

impl Links {
    /// The seams of a process that others reach at `address`.
    pub(crate) fn seams(&self, base: &Seams, address: &str) -> Seams {
        let network = Arc::new(Port { address: address.to_owned(), links: self.clone() });
        Seams { network, ..base.clone() }
    }

    pub(crate) fn cut(&self, one: &str, other: &str) {
        self.state.lock().cut.extend([ends(one, other), ends(other, one)]);
    }

    pub(crate) fn mend(&self, one: &str, other: &str) {
        self.mend_connections(one, other);
        self.mend_connections(other, one);
    }

    /// Only what `from` has connected to `to`, and not the other way round.
    pub(crate) fn mend_connections(&self, from: &str, to: &str) {
        let mut state = self.state.lock();
        state.cut.remove(&ends(from, to));
        state.waiting.drain(..).for_each(Waker::wake);
    }

    pub(crate) fn kill(&self, address: &str) {
        let mut state = self.state.lock();
        state.dead.insert(address.to_owned());
        state.waiting.drain(..).for_each(Waker::wake);
    }
}

fn ends(from: &str, to: &str) -> (String, String) {
    (from.to_owned(), to.to_owned())
}

/// One process's way into the network.
struct Port {
    address: String,
    links: Links,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The end of a connection that made it; all its bytes, both ways, pass here.
struct Wire {
    /// Who connected, and to whom.
    ends: (String, String),
    links: Links,
    stream: Stream,
}

impl Network for Port {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let ends = ends(&self.address, address);
            std::future::poll_fn(|context| self.links.poll_open(&ends, context)).await?;
            let stream = self.links.memory.connect(address).await?;
            Ok(Box::new(Wire { ends, links: self.links.clone(), stream }) as Stream)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.links.memory.listen(address)
    }
}

impl Links {
    fn poll_open(&self, ends: &(String, String), context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        if state.dead.contains(&ends.0) || state.dead.contains(&ends.1) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if state.cut.contains(ends) {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        // Whoever waits for bytes must hear of a death too.
        state.waiting.push(context.waker().clone());
        if state.waiting.len() > 4096 {
            state.waiting.drain(..).for_each(Waker::wake);
        }
        Poll::Ready(Ok(()))
    }
}

impl Wire {
    fn poll_open(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.links.poll_open(&self.ends, context)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_open(context))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_open(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_open(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
