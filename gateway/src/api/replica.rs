//! Reads that any replica may answer: what they ask for, and what their answers say of how old they may be.

use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Response as Reply};
use berth_shared::peer;
use berth_shared::session::Requirement;
use http::HeaderValue;

use super::Api;
use super::session::Session;
use crate::nodes::Nodes;

/// How far behind the answer to a stale read may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lag {
    Milliseconds(u64),
    /// Whoever answered has not heard of an owner since it was started.
    Unknown,
}

impl Lag {
    /// Of an answer that nothing was missing from.
    pub(crate) const NONE: Self = Self::Milliseconds(0);

    /// Of `Berth-Lag`.
    pub(crate) fn header_value(self) -> HeaderValue {
        match self {
            Self::Milliseconds(milliseconds) => HeaderValue::from(milliseconds),
            Self::Unknown => HeaderValue::from_static("unknown"),
        }
    }
}

impl<N: Nodes> Api<N> {
    /// What a read asks of whoever answers it. Where only the owner can do what the client's token asks for, the owner is asked.
    pub(super) fn consistency(&self, key: &EntityKey, wanted: Consistency, session: &Session) -> Consistency {
        if !matches!(wanted, Consistency::Session { .. }) {
            return wanted;
        }
        let nodes = self.forward.nodes();
        let shard = nodes.table().place(key).map(|(shard, _)| shard);
        match shard.map(|shard| session.requirement(nodes.cluster(), shard)) {
            Some(Requirement::Nothing) => Consistency::Session { at_least: None },
            Some(Requirement::AtLeast(seen)) => Consistency::Session { at_least: Some(seen) },
            Some(Requirement::Owner) | None => Consistency::Linearizable,
        }
    }
}

/// The answer itself, and how far behind it may be where it is one of a stale read: in milliseconds, rounded up.
pub(super) fn unwrapped(reply: Reply<'_>) -> (Reply<'_>, Option<Lag>) {
    let Reply::Stale { lag_micros, answer } = reply else { return (reply, None) };
    let lag = lag_micros.map_or(Lag::Unknown, |micros| Lag::Milliseconds(micros.div_ceil(1000)));
    // The forwarder lets no other through; this one fits no question.
    let inner = peer::decode(answer).unwrap_or(Reply::WrongOwner { owner: None });
    (inner, Some(lag))
}
