//! Listings, as gateways ask for them: of many shards at once, of which those that this node does not own are named.

use std::sync::Arc;

use berth_shared::ids::ShardId;
use berth_shared::key;
use berth_shared::message::{List, Listed, ListedEntity, Response};
use berth_shared::peer::Reply;
use berth_shared::problem::Code;
use berth_shared::seam::BootInstant;
use tracing::Instrument;

use super::owners::Owners;
use super::service::{Service, elsewhere, refuse, send};
use crate::shard::listing::{self, Part, Wanted};
use crate::store::Span;

/// Entities per answer, whatever is asked for.
const LIMIT_MAX: u32 = 1000;

impl Service {
    pub(super) fn list(&self, list: &List<'_>, deadline: BootInstant, reply: Reply) {
        let shards = self.hosting.shards();
        if list.shards.len() > usize::from(shards) || list.shards.iter().any(|shard| shard.0 >= shards) {
            return refuse(reply, Code::InvalidRequest, "the gateway counts other shards than this cluster has");
        }
        if let Err(error) = key::check_prefix(list.prefix).and_then(|()| key::check_prefix(list.after)) {
            return refuse(reply, Code::InvalidRequest, &error.to_string());
        }
        if self.registry.get(list.kind).is_none() {
            return refuse(reply, Code::UnknownKind, "no node knows this kind");
        }
        self.metrics.reads.increment();
        let mut asked = list.shards.clone();
        asked.sort_unstable();
        asked.dedup();
        let (mut readers, mut not_hosted) = (Vec::with_capacity(asked.len()), Vec::new());
        for shard in asked {
            match self.hosting.get(shard) {
                Some(hosted) => readers.push(hosted.reader.clone()),
                None => not_hosted.push(shard),
            }
        }
        let wanted = Wanted {
            span: Span { kind: list.kind.to_owned(), prefix: list.prefix.to_owned() },
            after: list.after.to_owned(),
            limit: list.limit.clamp(1, LIMIT_MAX) as usize,
        };
        let now = self.seams.clock.now();
        // What there is by then still reaches the gateway in time.
        let until = now + deadline.since(now) / 2;
        let owners = self.owners.clone();
        let read = async move {
            match listing::list(readers, wanted, until).await {
                Ok(part) => answer(&owners, part, not_hosted, reply),
                Err(error) => {
                    tracing::error!(%error, "the store cannot be read");
                    refuse(reply, Code::Unavailable, "the node cannot read its store");
                }
            }
        };
        self.seams.spawner.spawn(read.in_current_span());
    }
}

fn answer(owners: &Arc<Owners>, part: Part, not_hosted: Vec<ShardId>, reply: Reply) {
    let Part { entries, more_after, mut not_owned, seen } = part;
    not_owned.extend(not_hosted);
    not_owned.sort_unstable();
    let listed = Listed {
        entities: entries.iter().map(|entry| ListedEntity { id: &entry.id, version: entry.version }).collect(),
        more_after: more_after.as_deref(),
        owners: not_owned.iter().filter_map(|shard| elsewhere(owners, *shard)).collect(),
        not_owned,
        seen,
    };
    send(reply, &Response::Listed(listed));
}
