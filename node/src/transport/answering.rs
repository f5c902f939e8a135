//! Puts what a read came to into an answer to the gateway.

use std::sync::Arc;

use berth_shared::message::{Consistency, Event, Refusal, Response};
use berth_shared::peer::{self, Reply};
use berth_shared::problem::Code;
use berth_shared::seam::{BootInstant, Clock};

use super::owners::Owners;
use super::service::{elsewhere, refuse, send};
use crate::shard::polling::Polled;
use crate::shard::reader::{Current, Error, Reader};

/// The way back of one read.
pub(super) struct Answering {
    pub(super) reader: Reader,
    pub(super) owners: Arc<Owners>,
    /// Of a stale read.
    pub(super) lag: Option<Lag>,
}

/// How far behind an answer may be, where that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lag {
    micros: Option<u64>,
}

impl Answering {
    /// With how far behind it may be, if it is a stale read: what it read was as new as `level_at`.
    pub(super) fn at_level(self, consistency: Consistency, level_at: Option<BootInstant>, clock: &dyn Clock) -> Self {
        let now = clock.now();
        let micros = level_at.map(|at| u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX));
        Self { lag: (consistency == Consistency::Stale).then_some(Lag { micros }), ..self }
    }

    pub(super) fn current(self, reply: Reply, answer: Result<Current, Error>) {
        match answer {
            Ok(Current { version, state, seen }) => self.send(reply, &Response::State { version, state: &state, seen }),
            Err(error) => self.refuse(reply, &error),
        }
    }

    pub(super) fn page(self, reply: Reply, polled: Result<Polled, Error>) {
        match polled {
            Ok(Polled { page, seen, .. }) => {
                let events = page.events.iter().map(|event| Event {
                    version: event.version,
                    event_type: std::str::from_utf8(&event.event_type).unwrap_or_default(),
                    time_micros: event.time_micros,
                    data: &event.data,
                });
                self.send(reply, &Response::Events { events: events.collect(), next: page.next, seen });
            }
            Err(error) => self.refuse(reply, &error),
        }
    }

    fn refuse(self, reply: Reply, error: &Error) {
        let shard = self.reader.shard.id();
        let code = match error {
            Error::NotOwner | Error::Behind => {
                return send(reply, &Response::WrongOwner { owner: elsewhere(&self.owners, shard) });
            }
            Error::Unconfirmed | Error::Late => Code::Unavailable,
            Error::NotFound => Code::NotFound,
            Error::Deleted => Code::Deleted,
            Error::Unreadable => Code::Internal,
            Error::Store(error) => {
                tracing::error!(%error, "the store cannot be read");
                return refuse(reply, Code::Unavailable, "the node cannot read its store");
            }
        };
        // That there is nothing is something that a client has seen: a later read must not find what was there before. This may
        // be more than was looked at, which only makes later reads newer.
        let is_sight = matches!(error, Error::NotFound | Error::Deleted);
        let seen = is_sight.then(|| self.reader.shard.seen());
        let (detail, reason, current_version, replayed) = (error.to_string(), None, None, false);
        let refusal =
            Refusal { code, detail: &detail, reason, current_version, replayed, seen, violations: Vec::new() };
        self.send(reply, &Response::Refused(refusal));
    }

    fn send(self, reply: Reply, response: &Response<'_>) {
        let Some(Lag { micros: lag_micros }) = self.lag else { return send(reply, response) };
        match peer::encode(response) {
            Ok(answer) => send(reply, &Response::Stale { lag_micros, answer: &answer }),
            Err(error) => tracing::error!(%error, "an answer cannot be encoded"),
        }
    }
}
