//! The `Berth-Session` header of a request and of its answer. An owner answers at least what any token has seen; of a replica
//! it has to be asked for.

use berth_shared::ids::{ClusterId, ShardId};
use berth_shared::message::Seen;
use berth_shared::session::{self, Requirement, Token};
use http::{HeaderMap, HeaderValue};

use super::header::BERTH_SESSION;
use super::problem::Problem;

/// What the client has seen before this request.
#[derive(Debug)]
pub(crate) struct Session(Option<Token>);

impl Session {
    pub(crate) fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(BERTH_SESSION).iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        let text = value.to_str().ok().filter(|_| values.next().is_none());
        let text = text.ok_or_else(|| Problem::invalid("Berth-Session must be one session token"))?;
        match Token::decode(text) {
            Ok(token) => Ok(Self(Some(token))),
            // During an upgrade, another gateway may write tokens that this one cannot read; the client gets a new one.
            Err(session::Error::LayoutVersion(_)) => Ok(Self(None)),
            Err(error) => Err(Problem::invalid(error.to_string())),
        }
    }

    /// What a read of `shard` owes to the client, in a gateway that knows its cluster as `cluster`.
    pub(crate) fn requirement(&self, cluster: Option<ClusterId>, shard: ShardId) -> Requirement {
        match &self.0 {
            None => Requirement::Nothing,
            Some(token) if Some(token.cluster()) == cluster => token.requirement(shard),
            // What it has seen elsewhere means nothing here, or that cannot be told.
            Some(_) => Requirement::Owner,
        }
    }

    /// The token for the answer, which includes the one of the request.
    pub(crate) fn after(&self, cluster: Option<ClusterId>, shard: ShardId, seen: Seen) -> Option<HeaderValue> {
        self.after_all(cluster, [(shard, seen)])
    }

    /// The same, where more than one shard was looked at.
    pub(crate) fn after_all(
        &self,
        cluster: Option<ClusterId>,
        seen: impl IntoIterator<Item = (ShardId, Seen)>,
    ) -> Option<HeaderValue> {
        let latest = Token::of(cluster?, seen);
        let token = match &self.0 {
            None => latest,
            Some(before) => {
                let mut merged = before.clone();
                merged.merge(&latest);
                merged
            }
        };
        HeaderValue::from_maybe_shared(bytes::Bytes::from(token.encode())).ok()
    }
}
