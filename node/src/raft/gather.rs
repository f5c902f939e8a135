//! Fewer appends for the same entries. After every commit the library makes an append without entries, only to tell a member
//! how far it may apply; under load that is as many appends again as there are entries. The next entries say it too, so such
//! an append waits for them a little, and is left out when they come.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{Fuse, Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;

use berth_shared::seam::Spawner;

use super::{Runtime, Types};

/// How much later than it could a member learns of a commit that nothing follows.
const LINGER: Duration = Duration::from_millis(20);

/// Appends to one member, in order, without those that a later one makes needless.
pub(super) struct Gathered<S, R: Runtime> {
    requests: Fuse<S>,
    held: Option<Held<R>>,
    spawner: Spawner,
}

struct Held<R: Runtime> {
    request: AppendEntriesRequest<Types<R>>,
    /// Set once nothing else is there.
    until: Option<BoxFuture<'static, ()>>,
}

impl<S: Stream, R: Runtime> Gathered<S, R> {
    pub(super) fn new(requests: S, spawner: Spawner) -> Self {
        Self { requests: requests.fuse(), held: None, spawner }
    }
}

impl<S, R> Stream for Gathered<S, R>
where
    S: Stream<Item = AppendEntriesRequest<Types<R>>> + Unpin,
    R: Runtime,
{
    type Item = AppendEntriesRequest<Types<R>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.requests.poll_next_unpin(context) {
                Poll::Ready(Some(request)) if request.entries.is_empty() => match &mut this.held {
                    Some(held) => held.request = request,
                    None => this.held = Some(Held { request, until: None }),
                },
                Poll::Ready(Some(request)) => {
                    this.held = None;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(None) => return Poll::Ready(this.held.take().map(|held| held.request)),
                Poll::Pending => {
                    let Some(held) = &mut this.held else { return Poll::Pending };
                    let until = held.until.get_or_insert_with(|| Box::pin(this.spawner.sleep(LINGER)));
                    std::task::ready!(until.as_mut().poll(context));
                    return Poll::Ready(this.held.take().map(|held| held.request));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use tokio::sync::mpsc;

    use super::*;
    use crate::raft::SimulatedRuntime;
    use crate::raft::message::Vote;
    use crate::raft::to_raft;
    use berth_shared::ids::{LogId, NodeId};

    type Append = AppendEntriesRequest<Types<SimulatedRuntime>>;

    type Tested = Gathered<Pin<Box<dyn Stream<Item = Append> + Send>>, SimulatedRuntime>;

    /// An append of so many entries after the first `after`, that tells that `committed` of them are committed.
    fn append(after: u64, entries: u64, committed: u64) -> Append {
        let id = |index| to_raft(LogId { term: 1, index });
        let entry = |index| openraft::Entry { log_id: id(index), payload: EntryPayload::Blank };
        let vote = Vote { term: 1, node: NodeId(1), committed: true };
        Append {
            vote: vote.to_raft::<SimulatedRuntime>(),
            prev_log_id: Some(id(after)),
            entries: (after + 1..=after + entries).map(entry).collect(),
            leader_commit: Some(id(committed)),
        }
    }

    fn gathered() -> (mpsc::UnboundedSender<Append>, Tested) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let requests = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|request| (request, receiver))
        });
        (sender, Gathered::new(Box::pin(requests), Spawner::Inline))
    }

    /// Entries and commit of the next append, and how long it took to come.
    async fn next(gathered: &mut Tested) -> Option<(usize, u64, u128)> {
        let clock = berth_shared::seam::clock::TokioClock::new();
        let from = berth_shared::seam::Clock::now(&clock);
        let request = gathered.next().await?;
        let took = berth_shared::seam::Clock::now(&clock).since(from).as_millis();
        Some((request.entries.len(), request.leader_commit.unwrap().index, took))
    }

    #[tokio::test(start_paused = true)]
    async fn entries_pass_at_once_and_make_word_of_a_commit_before_them_needless() {
        let (sender, mut gathered) = gathered();
        for request in [append(0, 1, 0), append(1, 0, 1), append(1, 2, 1), append(3, 0, 2), append(3, 0, 3)] {
            sender.send(request).unwrap();
        }
        assert_eq!(next(&mut gathered).await, Some((1, 0, 0)));
        assert_eq!(next(&mut gathered).await, Some((2, 1, 0)));
        assert_eq!(next(&mut gathered).await, Some((0, 3, 20)), "the newest of those that nothing follows");
        sender.send(append(3, 1, 3)).unwrap();
        assert_eq!(next(&mut gathered).await, Some((1, 3, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_is_not_lost() {
        let (sender, mut gathered) = gathered();
        sender.send(append(1, 0, 1)).unwrap();
        drop(sender);
        assert_eq!(next(&mut gathered).await, Some((0, 1, 0)));
        assert_eq!(next(&mut gathered).await, None);
        assert_eq!(next(&mut gathered).await, None);
    }
}
