//! Serves HTTP on one port: HTTP/1.1, and HTTP/2 to clients that begin with it. Bounds connections and how long a client
//! may take to say something; what is said is answered elsewhere.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_shared::seam::network::{Listener, Stream};
use berth_shared::seam::{Seams, Spawner};
use berth_shared::telemetry::Gauge;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bytes of HTTP/1.1 headers that are read at most. It is more than the contract allows, so that a client that goes over
/// the contract gets a problem document, up to here.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The same for HTTP/2.
const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Requests at once per HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Pause after the system refused to accept, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Most connections at once; more wait to be accepted.
    pub(crate) connections_max: usize,
    /// How long headers may take, and how long a connection may stay idle.
    pub(crate) header_timeout: Duration,
    /// How long requests may go on after a shutdown has begun.
    pub(crate) drain_timeout: Duration,
}

/// The connection that a request came on, among its extensions. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connection(CancellationToken);

impl Connection {
    /// Ends it at once, with whatever is under way on it.
    pub(crate) fn close(&self) {
        self.0.cancel();
    }
}

/// A port being served until it is shut down or dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    address: String,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Handle {
    /// `host:port`, with the port that was picked.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Accepts no more, and waits for the requests in flight.
    pub(crate) async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It fails only if it panicked, which its panic hook has reported.
            let _ = task.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves the connections of `listener` with `answer`.
pub(crate) fn serve<A, F, B>(
    listener: Box<dyn Listener>,
    config: Config,
    seams: &Seams,
    connections: Gauge,
    answer: A,
) -> std::io::Result<Handle>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let address = listener.local_address()?;
    let stop = CancellationToken::new();
    let port = Port { config, spawner: seams.spawner, connections, answer, stop: stop.clone() };
    let task = seams.spawner.spawn(port.run(listener));
    Ok(Handle { address, stop, task: Some(task) })
}

struct Port<A> {
    config: Config,
    spawner: Spawner,
    connections: Gauge,
    answer: A,
    stop: CancellationToken,
}

impl<A, F, B> Port<A>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn run(self, mut listener: Box<dyn Listener>) {
        let graceful = GracefulShutdown::new();
        let abort = CancellationToken::new();
        // Also when this task is dropped at once.
        let _abort_guard = abort.clone().drop_guard();
        let places = Arc::new(Semaphore::new(self.config.connections_max));
        let builder = self.builder();
        let accepting = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let connection = self.connection(stream, &builder, graceful.watcher());
                        let connection = abort.clone().run_until_cancelled_owned(connection);
                        let connections = self.connections.clone();
                        self.spawner.spawn(async move {
                            connections.add(1);
                            connection.await;
                            connections.add(-1);
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        self.spawner.sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        self.stop.run_until_cancelled(accepting).await;
        drop(listener);
        if self.spawner.timeout(self.config.drain_timeout, graceful.shutdown()).await.is_none() {
            tracing::warn!("requests were still in flight at the end of the drain time");
        }
    }

    fn builder(&self) -> auto::Builder<TaskExecutor> {
        let mut builder = auto::Builder::new(TaskExecutor(self.spawner));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(READ_BUFFER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.config.header_timeout)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_concurrent_streams(STREAMS_MAX);
        builder
    }

    /// One connection, to its end.
    fn connection(
        &self,
        stream: Stream,
        builder: &auto::Builder<TaskExecutor>,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + Send + 'static {
        let begun = Arc::new(AtomicBool::new(false));
        let closing = CancellationToken::new();
        let service = service_fn({
            let (answer, begun, connection) = (self.answer.clone(), begun.clone(), Connection(closing.clone()));
            move |mut request: Request<Incoming>| {
                begun.store(true, Ordering::Relaxed);
                request.extensions_mut().insert(connection.clone());
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut connection: BoxFuture<'static, _> = Box::pin(watcher.watch(connection));
        let (spawner, first_request_timeout) = (self.spawner, self.config.header_timeout);
        async move {
            // The time-out of headers starts once it is known which version of HTTP is spoken: it needs one before.
            let serving = async {
                if let Some(ended) = spawner.timeout(first_request_timeout, connection.as_mut()).await {
                    log_end(ended);
                } else if begun.load(Ordering::Relaxed) {
                    log_end(connection.await);
                }
            };
            closing.run_until_cancelled_owned(serving).await;
        }
    }
}

/// How clients leave is their business: of use only to whoever looks for a fault.
fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Runs HTTP/2 requests as tasks of the seam.
#[derive(Clone, Copy, Debug)]
struct TaskExecutor(Spawner);

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
