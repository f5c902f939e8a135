//! Serves HTTP on one port: HTTP/1.1, and HTTP/2 to clients that begin with it, both over TLS where there is a certificate.
//! Bounds connections, what a client may send before it is answered, and how long it may take to say or read something; what is
//! said is answered elsewhere.

mod activity;
mod stalled;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::seam::network::{Listener, Stream};
use crate::seam::{Seams, Spawner};
use crate::telemetry::Gauge;
use crate::tls::PortTls;
use activity::{Activity, Over};
use stalled::Stalled;

/// Bytes of HTTP/1.1 headers that are read at most. It is more than the contract allows, so that a client that goes over
/// the contract gets a problem document, up to here.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// The same for HTTP/2.
const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Requests at once per HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Streams that a client may have opened and reset again before they were looked at (CVE-2023-44487, "rapid reset"), and streams
/// that were reset here for a client's mistakes. A client that goes over either is told to go away.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_OURS_MAX: usize = 256;
/// Bytes of an answer that wait for one client of HTTP/2 to take them; what comes after is not made yet.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A client of HTTP/2 that does not answer a ping within this time, or was told that its connection ends and stays, is gone.
const PONG_MAX: Duration = Duration::from_secs(20);
/// How long TLS's greeting may take.
const TLS_GREETING_MAX: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept, which it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub struct Config {
    /// Most connections at once; more wait to be accepted.
    pub connections_max: usize,
    /// How long headers may take, and how long a connection may stay idle.
    pub header_timeout: Duration,
    /// How long a client may read nothing while there is something for it to read.
    pub stall_timeout: Duration,
    /// How long requests may go on after a shutdown has begun.
    pub drain_timeout: Duration,
    /// Plain HTTP without.
    pub tls: Option<PortTls>,
}

/// The connection that a request came on, among its extensions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection(CancellationToken);

impl Connection {
    /// Ends it at once, with whatever is under way on it.
    pub fn close(&self) {
        self.0.cancel();
    }
}

/// A port being served until it is shut down or dropped.
#[derive(Debug)]
pub struct Handle {
    address: String,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Handle {
    /// `host:port`, with the port that was picked.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Accepts no more, and waits for the requests in flight.
    pub async fn shutdown(mut self) {
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
pub fn serve<A, F, B>(
    listener: Box<dyn Listener>,
    config: Config,
    seams: &Seams,
    connections: Gauge,
    answer: A,
) -> std::io::Result<Handle>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let address = listener.local_address()?;
    let stop = CancellationToken::new();
    let port = Port { config, seams: seams.clone(), connections, answer, stop: stop.clone() };
    let task = seams.spawner.spawn(port.run(listener));
    Ok(Handle { address, stop, task: Some(task) })
}

struct Port<A> {
    config: Config,
    seams: Seams,
    connections: Gauge,
    answer: A,
    stop: CancellationToken,
}

impl<A, F, B> Port<A>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn run(self, mut listener: Box<dyn Listener>) {
        let spawner = self.seams.spawner;
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
                        let connection = self.connection(stream, &builder);
                        let connection = abort.clone().run_until_cancelled_owned(connection);
                        let connections = self.connections.clone();
                        spawner.spawn(async move {
                            connections.add(1);
                            connection.await;
                            connections.add(-1);
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!("cannot accept a connection: {error}");
                        spawner.sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        self.stop.run_until_cancelled(accepting).await;
        drop(listener);
        // Every place is free once every connection has ended.
        let all = u32::try_from(self.config.connections_max).unwrap_or(u32::MAX);
        if spawner.timeout(self.config.drain_timeout, places.acquire_many(all)).await.is_none() {
            tracing::warn!("requests were still in flight at the end of the drain time");
        }
    }

    fn builder(&self) -> auto::Builder<TaskExecutor> {
        let mut builder = auto::Builder::new(TaskExecutor(self.seams.spawner));
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(READ_BUFFER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.config.header_timeout)
            .keep_alive_timeout(PONG_MAX)
            .max_header_list_size(HEADER_LIST_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_OURS_MAX);
        builder
    }

    /// One connection, to its end.
    fn connection(
        &self,
        stream: Stream,
        builder: &auto::Builder<TaskExecutor>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let activity = Activity::new(&self.seams);
        let closing = CancellationToken::new();
        let service = service_fn({
            let (answer, activity, connection) = (self.answer.clone(), activity.clone(), Connection(closing.clone()));
            move |mut request: Request<Incoming>| {
                let (running, is_watched) = (activity.begin(), request.version() == Version::HTTP_2);
                request.extensions_mut().insert(connection.clone());
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await.map(|body| running.answer(body, is_watched))) }
            }
        });
        let (config, spawner, stop) = (self.config.clone(), self.seams.spawner, self.stop.clone());
        let (builder, stream) = (builder.clone(), Stalled::new(stream, spawner, config.stall_timeout));
        async move {
            let greeted = stop.run_until_cancelled(greet(config.tls.clone(), Box::new(stream), spawner)).await;
            let Some(Some(stream)) = greeted else { return };
            let ending = GracefulShutdown::new();
            let connection = ending.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
            let carried = carry(connection, ending, &activity, &config, &stop, spawner);
            closing.run_until_cancelled(carried).await;
        }
    }
}

/// Carries a connection until it ends, is over, or the port stops and what is under way is done.
async fn carry(
    connection: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
    ending: GracefulShutdown,
    activity: &Activity,
    config: &Config,
    stop: &CancellationToken,
    spawner: Spawner,
) {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return log_end(ended),
        () = stop.cancelled() => {}
        over = activity.over(config.header_timeout, config.stall_timeout) => {
            // Who has asked for something may be about to ask again, and is told; the time-out of headers is not enough, because it
            // starts once it is known which version of HTTP is spoken, and HTTP/2 has none.
            if over == Over::Stalled || !activity.has_begun() {
                return;
            }
        }
    }
    let patience = async {
        spawner.sleep(PONG_MAX).await;
        activity.over(PONG_MAX, config.stall_timeout).await
    };
    tokio::select! {
        biased;
        // Tells it first, and then waits for its end, which is seen below.
        () = ending.shutdown() => {}
        ended = connection.as_mut() => log_end(ended),
        _ = patience => {}
    }
}

/// With TLS, where there is some; nothing where it comes to nothing.
async fn greet(tls: Option<PortTls>, stream: Stream, spawner: Spawner) -> Option<Stream> {
    let Some(tls) = tls else { return Some(stream) };
    match spawner.timeout(TLS_GREETING_MAX, tls.greet(stream)).await {
        Some(Ok(stream)) => Some(stream),
        Some(Err(error)) => {
            tracing::debug!("a connection ended in TLS's greeting: {error}");
            None
        }
        None => None,
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
