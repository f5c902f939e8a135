//! What a live history asks after its first page, whichever protocol it is told in: long polls one after the other, each of which
//! finds whoever can answer just then, for as long as there is something to follow.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::Version;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Event, Response as Reply};
use berth_shared::problem::Code;
use berth_shared::seam::Seams;

use crate::api::problem::{Kind, Problem};
use crate::api::replica;
use crate::forward::{Forward, Page};
use crate::nodes::Nodes;

/// How long one poll waits at a node.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// How long the answer to a poll may take beyond that. When it is over, the next one begins.
const POLL_GRACE: Duration = Duration::from_secs(5);
/// A poll that came to nothing sooner than this was not waited for.
const POLL_WAIT_MIN: Duration = Duration::from_secs(1);
/// Pauses after a poll that failed: twice as long each time, up to a limit.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The polls of one live history.
#[derive(Debug)]
pub(crate) struct Polls<N> {
    pub(crate) forward: Arc<Forward<N>>,
    pub(crate) seams: Seams,
    pub(crate) key: EntityKey,
    /// What to ask for next.
    pub(crate) page: Page,
    pub(crate) traceparent: String,
}

/// What came of a poll.
enum Said<T> {
    Events(Option<(Version, T)>),
    Refused(Problem),
}

impl<N: Nodes> Polls<N> {
    /// Polls until there are events, however long no owner can be found, and gives what `make` makes of them and of the version
    /// that they come after. Fails when there is no use in asking again.
    pub(crate) async fn next<T>(
        &self,
        make: impl Fn(Version, &[Event<'_>]) -> Option<(Version, T)>,
    ) -> Result<(Version, T), Problem> {
        let mut pause = PAUSE_FIRST;
        loop {
            let began = self.seams.clock.now();
            match self.ask(&make).await {
                Ok(Said::Events(Some(events))) => return Ok(events),
                Ok(Said::Events(None)) if self.seams.clock.now().since(began) >= POLL_WAIT_MIN => {
                    pause = PAUSE_FIRST;
                    continue;
                }
                Ok(Said::Refused(problem)) if self.is_final(problem.kind()) => return Err(problem),
                Ok(_) | Err(_) => {}
            }
            self.seams.spawner.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn ask<T>(&self, make: &impl Fn(Version, &[Event<'_>]) -> Option<(Version, T)>) -> Result<Said<T>, Code> {
        let page = Page { wait: POLL_WAIT, ..self.page };
        let time = POLL_WAIT + POLL_GRACE;
        let read =
            self.forward.events(&self.key, page, &self.traceparent, time, |_, reply| {
                match replica::unwrapped(reply).0 {
                    Reply::Events { events, .. } => Said::Events(make(page.after, &events)),
                    Reply::Refused(refusal) => Said::Refused(Problem::refused(&refusal)),
                    _ => Said::Events(None),
                }
            });
        read.await
    }

    /// Whether there is no use in asking again. The first page was there; a replica that does not know the entity yet is one
    /// that is behind, and an owner that does not know it any more is one of a shard that was recovered without it.
    fn is_final(&self, kind: Kind) -> bool {
        match kind {
            Kind::Shared(Code::NotFound) => {
                matches!(self.page.consistency, Consistency::Linearizable | Consistency::Strict)
            }
            Kind::Shared(Code::Overloaded | Code::Unavailable | Code::Internal | Code::UnknownOutcome) => false,
            _ => true,
        }
    }
}

/// As many of `events` as follow `after` without a gap. What was sent before is left out.
pub(crate) fn following<'a, 'b>(after: Version, events: &'a [Event<'b>]) -> impl Iterator<Item = &'a Event<'b>> {
    let mut last = after;
    events.iter().filter(move |event| event.version > after).take_while(move |event| {
        let follows = event.version == last + 1;
        if follows {
            last = event.version;
        } else {
            tracing::warn!(version = event.version, last, "a node left events out of a history");
        }
        follows
    })
}
