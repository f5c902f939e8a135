//! One live history after its first page: polls for the next events and sends them, until its reader leaves, is too slow, or the
//! gateway ends.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::seam::Seams;
use bytes::Bytes;

use super::STALLED_MAX;
use super::format::{Format, PING};
use super::polls::Polls;
use crate::api::outgoing::LiveSender;
use crate::api::streams::Place;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use berth_shared::http_port::Connection;

/// A reader that heard nothing for so long is sent a comment. Proxies close connections on which nothing happens.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long the last word may take.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

pub(super) struct Follower<N> {
    pub(super) polls: Polls<N>,
    pub(super) format: Format,
    /// Said when the gateway ends.
    pub(super) farewell: Bytes,
    pub(super) sender: LiveSender,
    pub(super) place: Place,
    /// How long it may last; its reader comes back then.
    pub(super) life: Option<Duration>,
    /// Where it is this stream's alone.
    pub(super) connection: Option<Connection>,
    pub(super) seams: Seams,
    pub(super) metrics: Arc<Metrics>,
}

/// Why a live history ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Its reader left.
    Left,
    /// Its reader took nothing for too long.
    Stalled,
    /// The gateway ends.
    Over,
    /// There is nothing to follow any more.
    Refused,
}

impl<N: Nodes> Follower<N> {
    /// Sends `begin`, and what follows.
    pub(super) async fn run(mut self, begin: Bytes) {
        let spawner = self.seams.spawner;
        let ended = match self.life {
            None => self.follow(begin).await,
            Some(life) => spawner.timeout(life, self.follow(begin)).await.unwrap_or(Ended::Over),
        };
        match ended {
            Ended::Left | Ended::Refused => {}
            Ended::Over => {
                let farewell = self.sender.send(self.farewell.clone());
                self.seams.spawner.timeout(FAREWELL_MAX, farewell).await;
            }
            Ended::Stalled => {
                tracing::debug!(entity = %self.polls.key, "the reader of a live history took nothing for too long");
                self.metrics.streams_cut.increment();
                self.sender.cut();
                // What is in the buffers of the connection would wait there for as long as its other end likes.
                if let Some(connection) = &self.connection {
                    connection.close();
                }
            }
        }
    }

    async fn follow(&mut self, begin: Bytes) -> Ended {
        let mut piece = begin;
        loop {
            if let Err(ended) = self.send(piece).await {
                return ended;
            }
            match self.next().await {
                Ok((last, messages)) => {
                    self.polls.page.after = last;
                    piece = messages;
                }
                Err(ended) => return ended,
            }
        }
    }

    /// The next events; says from time to time that the stream is alive.
    async fn next(&self) -> Result<(Version, Bytes), Ended> {
        let mut polling = std::pin::pin!(self.poll());
        loop {
            tokio::select! {
                biased;
                () = self.place.ending().cancelled() => return Err(Ended::Over),
                () = self.sender.closed() => return Err(Ended::Left),
                polled = &mut polling => return polled,
                () = self.seams.spawner.sleep(PING_AFTER) => self.send(Bytes::from_static(PING)).await?,
            }
        }
    }

    /// Waits until the reader has taken what was sent before.
    async fn send(&self, piece: Bytes) -> Result<(), Ended> {
        let sending = async {
            tokio::select! {
                biased;
                is_taken = self.sender.send(piece) => if is_taken { Ok(()) } else { Err(Ended::Left) },
                () = self.place.ending().cancelled() => Err(Ended::Over),
            }
        };
        self.seams.spawner.timeout(STALLED_MAX, sending).await.unwrap_or(Err(Ended::Stalled))
    }

    async fn poll(&self) -> Result<(Version, Bytes), Ended> {
        let polled = self.polls.next(|after, events| self.format.messages(after, events));
        polled.await.map_err(|_| Ended::Refused)
    }
}
