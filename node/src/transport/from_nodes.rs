//! What other nodes ask of this one: messages of consensus and gossip, and what they need to know or to have done when shards
//! move. Like every request, none of these may block the connection: what takes time is a task of its own.

use bytes::Bytes;
use serde::Serialize;

use berth_shared::ids::ShardId;
use berth_shared::key::EntityKey;
use berth_shared::peer::{self, Incoming, Reply};

use crate::transport::service::Service;
use crate::transport::wire::NodeRequest;

/// Entities that one request may have brought into memory.
const WARMED_MAX: usize = 1024;

impl Service {
    pub(super) fn handle_node(&self, incoming: Incoming) {
        let Incoming { payload, peer, reply, .. } = incoming;
        match peer::decode::<NodeRequest<'_>>(&payload) {
            Ok(NodeRequest::Raft { to, shard, message }) => {
                self.groups.handle(to, shard, payload.slice_ref(message), reply);
            }
            Ok(NodeRequest::Bootstrap(ask)) => self.answerer.answer(ask, peer.node, reply),
            Ok(NodeRequest::Report) => send(reply, &self.reporter.report()),
            Ok(NodeRequest::Gossip { from, message }) => {
                self.gossip.receive(from, payload.slice_ref(message));
                reply.send(Bytes::new());
            }
            Ok(NodeRequest::Plan) => send(reply, &self.plans.newest().as_deref()),
            Ok(NodeRequest::Host { shard, epoch }) => self.host(shard, epoch, reply),
            Ok(NodeRequest::Warm { shard, keys }) => self.warm(shard, &keys, reply),
            Ok(NodeRequest::Members { shard }) => self.confirm_members(shard, reply),
            Ok(NodeRequest::Holdings { shards }) => {
                let holdings = (self.holdings)(shards);
                self.seams.spawner.spawn(async move { send(reply, &holdings.await) });
            }
            // Unanswered: there is no answer that every request has.
            Err(error) => tracing::warn!(node = ?peer.node, %error, "a node sent a request that does not decode"),
        }
    }

    fn host(&self, shard: ShardId, epoch: u64, reply: Reply) {
        let plan = self.plans.newest();
        let known = plan.as_ref().map_or(0, |plan| plan.epoch);
        if known < epoch {
            tracing::debug!(%shard, epoch, known, "an owner follows a newer plan than this node");
        }
        let admitted = (self.admit)(shard, plan);
        self.seams.spawner.spawn(async move { send(reply, &admitted.await) });
    }

    fn warm(&self, shard: ShardId, keys: &[(String, String)], reply: Reply) {
        let keys: Vec<EntityKey> =
            keys.iter().take(WARMED_MAX).filter_map(|(kind, id)| EntityKey::new(kind, id).ok()).collect();
        let Some(hosted) = self.hosting.get(shard) else { return send(reply, &()) };
        self.seams.spawner.spawn(async move {
            if let Err(error) = hosted.shard.warm(&keys).await {
                tracing::warn!(%shard, %error, "entities cannot be read ahead of a hand-off");
            }
            send(reply, &());
        });
    }

    fn confirm_members(&self, shard: ShardId, reply: Reply) {
        let hosted = self.hosting.any(shard);
        self.seams.spawner.spawn(async move {
            let confirmed = match &hosted {
                Some(hosted) => hosted.group.confirmed_membership().await,
                None => None,
            };
            send(reply, &confirmed);
        });
    }
}

fn send<T: Serialize>(reply: Reply, answer: &T) {
    match peer::encode(answer) {
        Ok(payload) => reply.send(payload),
        Err(error) => tracing::error!(%error, "an answer to a node cannot be encoded"),
    }
}
