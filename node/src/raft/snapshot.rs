//! Snapshots on their way: a leader streams a shard to a member that its log does not reach back to. Chunks are acknowledged
//! one by one, so that either side holds one or two of them; the receiver writes each aside as it comes, and all of it takes
//! the place of the shard in one step, when the last has come.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use openraft::{OptionalSend, StoredMembership};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use berth_shared::peer::{Class, Reply};
use berth_shared::seam::{BootInstant, Seams};

use super::arrival::{answer, ours};
use super::check;
use super::message::{Answer, Request, SnapshotPart, Vote};
use super::network::Route;
use super::{RaftOf, Runtime, Types, decode_membership, from_raft, to_raft};
use crate::shard::Shard;
use crate::store::{ShardHead, Staging};

/// Snapshots that a node sends at the same time. Each keeps its moment's pages in the store's file.
pub(super) const SENDS_MAX: usize = 2;
/// How long a member may take to write a chunk aside.
const CHUNK_MAX: Duration = Duration::from_secs(10);
/// How long a stream may take before its bytes count, and the least bytes per second from then on. A stream keeps its moment's
/// pages in the store's file and one of [`SENDS_MAX`] turns, so one that is slower is given up for another one.
const STREAM_GRACE: Duration = Duration::from_secs(30);
const STREAM_BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// A stream of which nothing comes for this long has been given up by its sender.
const STALL_MAX: Duration = Duration::from_secs(15);
/// Chunks that wait to be written. The sender has one on its way; a second is of one that was given up.
const WAITING_MAX: usize = 2;

/// A snapshot as the consensus library hands it around.
pub(super) enum SnapshotHandle {
    /// The shard as it is when it is sent, which is not older than what the library believes the snapshot to be.
    Ours(Arc<Shard>),
    /// Received as a whole.
    Received(Box<Staging>),
}

type Snapshot<R> = SnapshotOf<Types<R>, SnapshotHandle>;
type Sent<R> = Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>>;

/// Sends a shard to the member at the end of `route`, and returns the vote that it holds when it has installed it.
pub(super) async fn send<R: Runtime>(
    route: &Route<R>,
    vote: VoteOf<Types<R>>,
    snapshot: Snapshot<R>,
    cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
) -> Sent<R> {
    let SnapshotHandle::Ours(shard) = snapshot.snapshot else {
        return Err(failed("a snapshot that was received is not sent on"));
    };
    tokio::select! {
        biased;
        closed = cancel => Err(closed.into()),
        sent = stream(route, Vote::from_raft::<R>(&vote), &shard) => sent,
    }
}

async fn stream<R: Runtime>(route: &Route<R>, vote: Vote, shard: &Shard) -> Sent<R> {
    // A member may be away for days. Until it is back, no turn is taken and nothing is read for it.
    let peers = &route.network.peers;
    peers.until_connected(route.to).await;
    if !peers.reach(route.to, Class::Bulk).await {
        return Err(Unreachable::from_string("there is no connection to the node").into());
    }
    let _turn = route.network.snapshot_turns.acquire().await.map_err(failed)?;
    let mut reader = shard.snapshot().await.map_err(failed)?;
    let (clock, stream) = (&route.network.seams.clock, route.network.seams.random.next_u64());
    let mut pace = Pace::new(clock.now());
    tracing::info!(shard = %shard.id(), to = %route.to, applied = ?reader.head().applied, "sending a snapshot");
    while let Some(chunk) = reader.next_chunk().await.map_err(failed)? {
        let part = Request::Snapshot(SnapshotPart { stream, vote, chunk: &chunk });
        let Some(left) = pace.left(clock.now()) else {
            tracing::warn!(shard = %shard.id(), to = %route.to, sent = pace.sent, "a snapshot is given up: its member is too slow");
            return Err(failed("the member takes the snapshot too slowly"));
        };
        pace.sent += chunk.len() as u64;
        match route.ask(Class::Bulk, &part, CHUNK_MAX.min(left)).await? {
            Answer::SnapshotPart => {}
            Answer::Installed(vote) => {
                tracing::info!(shard = %shard.id(), to = %route.to, "a snapshot was taken");
                return Ok(SnapshotResponse::new(vote.to_raft::<R>()));
            }
            Answer::Failed(why) => return Err(failed(why)),
            other => return Err(failed(format!("a part of a snapshot was answered with {other:?}"))),
        }
    }
    Err(failed("the snapshot has ended for us, and not for the member"))
}

/// How far a stream has come. Its time grows with the bytes that were sent.
struct Pace {
    started: BootInstant,
    sent: u64,
}

impl Pace {
    fn new(started: BootInstant) -> Self {
        Self { started, sent: 0 }
    }

    /// The time that is left for what comes next; `None` when it is over.
    fn left(&self, now: BootInstant) -> Option<Duration> {
        let earned = Duration::from_millis(self.sent.saturating_mul(1000) / STREAM_BYTES_PER_SECOND_MIN);
        STREAM_GRACE.saturating_add(earned).checked_sub(now.since(self.started)).filter(|left| !left.is_zero())
    }
}

fn failed<R: Runtime>(why: impl ToString) -> StreamingError<Types<R>> {
    NetworkError::from_string(why).into()
}

/// Takes the snapshots of one shard, one at a time.
pub(super) struct Receiver<R: Runtime> {
    shard: Arc<Shard>,
    raft: RaftOf<R>,
    seams: Seams,
    current: Mutex<Option<Current>>,
}

/// The stream whose parts are taken now.
struct Current {
    stream: u64,
    parts: mpsc::Sender<Part>,
}

struct Part {
    vote: Vote,
    chunk: Bytes,
    reply: Reply,
}

impl<R: Runtime> Receiver<R> {
    pub(super) fn new(shard: Arc<Shard>, raft: RaftOf<R>, seams: Seams) -> Self {
        Self { shard, raft, seams, current: Mutex::new(None) }
    }

    /// Takes a part; it is answered when it is written. The first part of another stream ends the one before, because a
    /// leader begins anew only what it has given up.
    pub(super) fn take(&self, part: &SnapshotPart<'_>, message: &Bytes, reply: Reply) {
        let SnapshotPart { stream, vote, chunk } = part;
        let ours = Vote::from_raft::<R>(&self.raft.server_metrics().borrow_watched().vote);
        if ours.term > vote.term {
            // Of a leader that was deposed. It must not take the place of what the present one sends.
            return answer(reply, &Answer::Installed(ours));
        }
        let part = Part { vote: *vote, chunk: message.slice_ref(chunk), reply };
        let mut current = self.current.lock();
        let parts = match &*current {
            Some(current) if current.stream == *stream => current.parts.clone(),
            _ => {
                let (parts, inbox) = mpsc::channel(WAITING_MAX);
                *current = Some(Current { stream: *stream, parts: parts.clone() });
                let receiving = receive(self.shard.clone(), self.raft.clone(), inbox, self.seams.clone());
                self.seams.spawner.spawn(receiving);
                parts
            }
        };
        // One that finds no room is not answered, and its sender begins anew.
        drop(parts.try_send(part));
    }
}

/// Takes one stream to its end. What was written aside is deleted when this ends before that.
async fn receive<R: Runtime>(shard: Arc<Shard>, raft: RaftOf<R>, mut parts: mpsc::Receiver<Part>, seams: Seams) {
    let id = shard.id();
    let mut staging = match shard.stage().await {
        Ok(staging) => staging,
        Err(error) => return tracing::warn!(shard = %id, %error, "a snapshot cannot be taken"),
    };
    loop {
        let Part { vote, chunk, reply } = match seams.spawner.timeout(STALL_MAX, parts.recv()).await {
            Some(Some(part)) => part,
            Some(None) => return tracing::info!(shard = %id, "a snapshot was given up for another one"),
            None => return tracing::info!(shard = %id, "a snapshot was given up, because nothing more of it came"),
        };
        if let Err(error) = staging.add(chunk).await {
            tracing::warn!(shard = %id, %error, "a part of a snapshot was not taken");
            return answer(reply, &Answer::Failed(error.to_string()));
        }
        if !staging.is_whole() {
            answer(reply, &Answer::SnapshotPart);
            continue;
        }
        let meta = match staging.head().map(meta::<R>) {
            Some(Ok(meta)) => meta,
            Some(Err(error)) => return answer(reply, &Answer::Failed(error.to_string())),
            None => return answer(reply, &Answer::Failed("the snapshot has no head".to_owned())),
        };
        let (last, members) = (meta.last_log_id.as_ref(), meta.last_membership.log_id().as_ref());
        if let Err(why) = check::snapshot(&ours::<R>(&raft), vote, last.map(from_raft), members.map(from_raft)) {
            tracing::error!(shard = %id, why, "a snapshot that no member sends is refused");
            return answer(reply, &Answer::Failed(why.to_owned()));
        }
        tracing::info!(shard = %id, last = ?meta.last_log_id, "a snapshot has come");
        let snapshot = Snapshot::<R> { meta, snapshot: SnapshotHandle::Received(Box::new(staging)) };
        return match raft.install_full_snapshot(vote.to_raft::<R>(), snapshot).await {
            Ok(response) => answer(reply, &Answer::Installed(Vote::from_raft::<R>(&response.vote))),
            Err(error) => answer(reply, &Answer::Failed(error.to_string())),
        };
    }
}

/// What a head is the snapshot of.
pub(super) fn meta<R: Runtime>(head: &ShardHead) -> std::io::Result<SnapshotMetaOf<Types<R>>> {
    let last_membership = match &head.membership.log_id {
        None => StoredMembership::default(),
        Some(log_id) => StoredMembership::new(Some(to_raft(*log_id)), decode_membership(&head.membership.bytes)?),
    };
    Ok(SnapshotMetaOf::<Types<R>> { last_log_id: head.applied.map(to_raft), last_membership })
}

impl fmt::Debug for SnapshotHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(shard) => f.debug_tuple("Ours").field(&shard.id()).finish(),
            Self::Received(staging) => f.debug_tuple("Received").field(staging).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: BootInstant = BootInstant(1_000_000_000);
    const CHUNK: u64 = 1 << 20;

    /// How long it goes on, and how much is sent, when every chunk of a MiB takes so long. A day is for ever.
    fn stream(chunk_time: Duration) -> (Duration, u64) {
        let (mut pace, mut time) = (Pace::new(START), Duration::ZERO);
        while pace.left(START + time).is_some() && time < Duration::from_hours(24) {
            pace.sent += CHUNK;
            time += chunk_time;
        }
        (time, pace.sent / CHUNK)
    }

    #[test]
    fn a_stream_that_is_slower_than_the_least_rate_is_given_up() {
        assert_eq!(stream(Duration::from_secs(10)), (Duration::from_secs(40), 4));
        assert_eq!(stream(Duration::from_secs(2)), (Duration::from_secs(60), 30));
        assert_eq!(stream(Duration::from_millis(900)).0, Duration::from_hours(24));
        let stalled = Pace::new(START);
        assert_eq!(stalled.left(START + Duration::from_secs(29)), Some(Duration::from_secs(1)));
        assert_eq!(stalled.left(START + Duration::from_secs(30)), None);
    }
}
