//! One live history after its first page: polls for the next events and sends them, until its reader leaves, is too slow, or the
//! gateway ends.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Response as Reply};
use berth_shared::problem::Code;
use berth_shared::seam::Seams;
use bytes::Bytes;

use super::format::{Format, PING};
use crate::api::outgoing::LiveSender;
use crate::api::replica;
use crate::api::streams::Place;
use crate::forward::{Forward, Page};
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use berth_shared::http_port::Connection;

/// A reader that heard nothing for so long is sent a comment. Proxies close connections on which nothing happens.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long one poll waits at a node.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// How long the answer to a poll may take beyond that. When it is over, the next one begins.
const POLL_GRACE: Duration = Duration::from_secs(5);
/// A poll that came to nothing sooner than this was not waited for.
const POLL_WAIT_MIN: Duration = Duration::from_secs(1);
/// Pauses after a poll that failed: twice as long each time, up to a limit.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A reader that takes nothing of what waits for it for so long is cut off. It can come back for the rest.
const STALLED_MAX: Duration = Duration::from_secs(30);
/// How long the last word may take.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

pub(super) struct Follower<N> {
    pub(super) forward: Arc<Forward<N>>,
    pub(super) key: EntityKey,
    /// What to ask for next.
    pub(super) page: Page,
    pub(super) format: Format,
    pub(super) traceparent: String,
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

/// What came of a poll.
enum Said {
    Events(Option<(Version, Bytes)>),
    Refused(Code),
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
                tracing::debug!(entity = %self.key, "the reader of a live history took nothing for too long");
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
                    self.page.after = last;
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

    /// Polls until there are events, however long no owner can be found.
    async fn poll(&self) -> Result<(Version, Bytes), Ended> {
        let mut pause = PAUSE_FIRST;
        loop {
            let began = self.seams.clock.now();
            match self.ask().await {
                Ok(Said::Events(Some(events))) => return Ok(events),
                Ok(Said::Events(None)) if self.seams.clock.now().since(began) >= POLL_WAIT_MIN => {
                    pause = PAUSE_FIRST;
                    continue;
                }
                Ok(Said::Refused(code)) if self.is_final(code) => return Err(Ended::Refused),
                Ok(_) | Err(_) => {}
            }
            self.seams.spawner.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn ask(&self) -> Result<Said, Code> {
        let page = Page { wait: POLL_WAIT, ..self.page };
        let time = POLL_WAIT + POLL_GRACE;
        let read =
            self.forward.events(&self.key, page, &self.traceparent, time, |_, reply| {
                match replica::unwrapped(reply).0 {
                    Reply::Events { events, .. } => Said::Events(self.format.messages(page.after, &events)),
                    Reply::Refused(refusal) => Said::Refused(refusal.code),
                    _ => Said::Events(None),
                }
            });
        read.await
    }

    /// Whether there is no use in asking again. The first page was there; a replica that does not know the entity yet is one
    /// that is behind, and an owner that does not know it any more is one of a shard that was recovered without it.
    fn is_final(&self, code: Code) -> bool {
        match code {
            Code::NotFound => matches!(self.page.consistency, Consistency::Linearizable | Consistency::Strict),
            Code::Overloaded | Code::Unavailable | Code::Internal | Code::UnknownOutcome => false,
            _ => true,
        }
    }
}
