//! Earlier states, as gateways ask for them. A state at a time is final, and so may be answered, only once the shard's
//! replicated time has passed that; where it has not, because nothing was written since, the owner first has it pass.

use berth_shared::ids::{RequestId, ShardId};
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Moment, Precondition, Response};
use berth_shared::peer::{self, Reply};
use berth_shared::problem::Code;
use berth_shared::seam::BootInstant;
use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::answering::Answering;
use super::hosting::Hosted;
use super::service::{Service, refusal, refuse, send};
use crate::record::{Fingerprint, KeyOrigin, RequestKey, Scope};
use crate::shard::command::{Action, Answer, Command};
use crate::shard::reader;

/// Which earlier state is wanted, and how surely it must be one of what is newest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) moment: Moment,
    pub(super) consistency: Consistency,
    pub(super) deadline: BootInstant,
}

/// Tells what came of the wish that a shard's time pass another; silent where nobody knows.
type Passed = oneshot::Receiver<Result<(), NotPassed>>;

enum NotPassed {
    NotOwner,
    /// The answer that refuses it, encoded.
    Refused(Bytes),
}

impl Service {
    pub(super) fn past(&self, shard: ShardId, kind: &str, id: &str, asked: Asked, reply: Reply) {
        let Some((key, hosted)) = self.locate(shard, kind, id) else {
            return self.refuse_unlocated(shard, kind, id, reply);
        };
        if self.registry.get(kind).is_none() {
            return refuse(reply, Code::UnknownKind, "no node knows this kind");
        }
        self.metrics.reads.increment();
        let passed = match asked.moment {
            Moment::Time(time_micros) if hosted.shard.time_micros() < time_micros => {
                match self.pass_time(&hosted, &key, time_micros, asked.deadline) {
                    Ok(passed) => Some(passed),
                    Err(response) => return send(reply, &response),
                }
            }
            _ => None,
        };
        let answering = Answering { reader: hosted.reader.clone(), owners: self.owners.clone(), lag: None };
        let read = async move {
            if let Some(passed) = passed {
                match passed.await {
                    Ok(Ok(())) => {}
                    Ok(Err(NotPassed::Refused(refusal))) => return reply.send(refusal),
                    Ok(Err(NotPassed::NotOwner)) => return answering.current(reply, Err(reader::Error::NotOwner)),
                    Err(_) => return answering.current(reply, Err(reader::Error::Unconfirmed)),
                }
            }
            let answer = answering.reader.past(&key, asked.moment, asked.consistency, asked.deadline).await;
            answering.current(reply, answer);
        };
        self.seams.spawner.spawn(read.in_current_span());
    }

    /// Sends the executor the wish, as a command of this node's own.
    fn pass_time(
        &self,
        hosted: &Hosted,
        key: &EntityKey,
        time_micros: u64,
        deadline: BootInstant,
    ) -> Result<Passed, Response<'static>> {
        let kind = self.registry.get(key.kind()).ok_or(Response::WrongOwner { owner: None })?.clone();
        if self.journal.is_full() {
            return Err(refusal(Code::Overloaded, "the node's journal is full"));
        }
        let (sender, passed) = oneshot::channel();
        let answer = Answer::new(move |response| {
            let outcome = match &response {
                Response::Executed(_) => Ok(()),
                Response::WrongOwner { .. } => Err(NotPassed::NotOwner),
                // What refuses this refuses the read. Texts and numbers always encode.
                refused => Err(NotPassed::Refused(peer::encode(refused).unwrap_or_default())),
            };
            // Whoever asked may have stopped waiting.
            let _ = sender.send(outcome);
        });
        let request_id = RequestId(self.seams.random.next_u128());
        let command = Command {
            kind,
            action: Action::PassTime(time_micros),
            precondition: Precondition::None,
            principal: String::new(),
            request: RequestKey {
                // Longer than any key that comes from outside.
                scope: Scope::new("", key, &format!("{:0>300x}", request_id.0)),
                fingerprint: Fingerprint::new("", &time_micros.to_le_bytes(), b""),
                origin: KeyOrigin::Gateway { created_micros: 0 },
            },
            request_id,
            attempt: 1,
            wants_state: false,
            deadline,
            answer,
            key: key.clone(),
        };
        match hosted.mailbox.try_send(command) {
            Ok(()) => Ok(passed),
            Err(TrySendError::Full(_)) => {
                Err(refusal(Code::Overloaded, "too many commands wait for the entity's shard"))
            }
            Err(TrySendError::Closed(_)) => Err(Response::WrongOwner { owner: None }),
        }
    }
}
