//! Answers what other nodes ask about bootstrap, before this node has joined a cluster and ever after. It decides nothing:
//! proposals go to the one task that owns the node's identity.

use std::sync::Arc;

use berth_shared::ids::NodeId;
use berth_shared::message::{Refusal, Response};
use berth_shared::peer::{self, Handler, Incoming, Reply, Role};
use berth_shared::problem::Code;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Ask, InitRecord, Settings, Status};
use crate::cluster::identity::Identity;
use crate::transport::wire::NodeRequest;

/// Proposals that wait; more are answered with the status, which shows that they were not accepted.
const PROPOSALS_MAX: usize = 64;

/// Cheap to clone; all clones answer alike.
#[derive(Clone, Debug)]
pub struct Answerer {
    /// What the disk holds, never more.
    status: Arc<Mutex<Status>>,
    /// Closed once the node has joined.
    proposals: mpsc::Sender<Proposal>,
}

/// A record that this node is asked to accept.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) record: InitRecord,
    pub(super) force: bool,
    pub(super) from: Option<NodeId>,
    pub(super) reply: Reply,
}

impl Answerer {
    pub(super) fn new(identity: &Identity, settings: Settings) -> (Self, mpsc::Receiver<Proposal>) {
        let (proposals, received) = mpsc::channel(PROPOSALS_MAX);
        let Identity { node, address, cluster, accepted, .. } = identity.clone();
        let status = Status { node, address, cluster, accepted, settings };
        (Self { status: Arc::new(Mutex::new(status)), proposals }, received)
    }

    /// Answers `ask` of node `from`, at once or as soon as it is decided. Does not block.
    pub fn answer(&self, ask: Ask, from: Option<NodeId>, reply: Reply) {
        match ask {
            Ask::Status => self.send_status(reply),
            Ask::Propose { record, force } => {
                let proposal = Proposal { record, force, from, reply };
                if let Err(error) = self.proposals.try_send(proposal) {
                    self.send_status(error.into_inner().reply);
                }
            }
        }
    }

    pub(super) fn send_status(&self, reply: Reply) {
        let encoded = peer::encode(&*self.status.lock());
        match encoded {
            Ok(status) => reply.send(status),
            Err(error) => tracing::error!(%error, "this node's status cannot be encoded"),
        }
    }

    /// Answers with `identity` from now on. It must be on disk.
    pub(super) fn publish(&self, identity: &Identity) {
        let mut status = self.status.lock();
        status.accepted.clone_from(&identity.accepted);
        status.cluster = identity.cluster;
    }
}

/// What a node without a cluster serves its peers with: answers about bootstrap, and nothing else.
#[derive(Debug)]
pub(super) struct Service(pub(super) Answerer);

impl Handler for Service {
    fn handle(&self, incoming: Incoming) {
        let Incoming { payload, peer, reply, .. } = incoming;
        if peer.role == Role::Gateway {
            return refuse(reply);
        }
        match peer::decode::<NodeRequest<'_>>(&payload) {
            Ok(NodeRequest::Bootstrap(ask)) => self.0.answer(ask, peer.node, reply),
            // Unanswered. Who asks for more has joined already, and asks again.
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a node sent a request that does not decode"),
        }
    }
}

fn refuse(reply: Reply) {
    let refusal = Refusal {
        code: Code::Unavailable,
        detail: "the node is not part of a cluster yet",
        reason: None,
        current_version: None,
        replayed: false,
        seen: None,
        violations: Vec::new(),
    };
    match peer::encode(&Response::Refused(refusal)) {
        Ok(payload) => reply.send(payload),
        Err(error) => tracing::error!(%error, "an answer cannot be encoded"),
    }
}
