//! Messages that no member sends: of a node that is broken, or is none. A replica refuses them, goes on, and does not lead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use berth_shared::ids::{LogId, NodeId};
use berth_shared::seam::Seams;

use super::message::{
    Answer, Append, Appended, Campaign, Entry, Level, Payload, Request, SnapshotPart, Transfer, Vote,
};
use super::restart_test::{FIRST, Replica, SHARD, THEM, US, VOTERS, leader, vote};
use super::{Member, Membership, encode_membership};
use crate::disk::SimulatedDisk;
use crate::entity::Registry;
use crate::shard::Shard;
use crate::shard::residency::Residency;
use crate::store::{self, Store};

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn blank(term: u64, index: u64) -> Entry<'static> {
    Entry { term, index, payload: Payload::Blank }
}

fn append(vote: Vote, previous: Option<LogId>, entries: Vec<Entry<'static>>) -> Append<'static> {
    Append { vote, previous, committed: None, entries, level: None }
}

fn members() -> Bytes {
    let nodes: BTreeMap<u64, Member> =
        VOTERS.map(|node| (node.0, Member { address: format!("{node}:1") })).into_iter().collect();
    let voters = nodes.keys().copied().collect();
    encode_membership(&Membership::new(vec![voters], nodes).unwrap()).unwrap()
}

impl Replica {
    async fn refuses(&self, request: &Request<'_>) {
        let answer = self.ask(request).await;
        assert!(matches!(answer, Some(Answer::Failed(_))), "{request:?}: {answer:?}");
        assert_eq!(self.group.term(), None, "{request:?}");
        assert_ne!(self.group.status().leader, Some(US), "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_member_sends_is_refused() {
    let seams = Seams::simulated(1);
    let replica = Replica::start(&seams, &SimulatedDisk::new(), "us:1", &VOTERS).await;
    let first = Append { committed: Some(id(5, 1)), ..append(leader(5), FIRST, vec![blank(5, 1)]) };
    assert_eq!(replica.ask(&Request::Append(first)).await, Some(Answer::Append(Appended::Success)));
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let as_us = |committed| Vote { term: 9, node: US, committed };
    let previous = Some(id(5, 1));
    let last_there_can_be = Some(id(5, u64::MAX));
    for hostile in [
        append(as_us(true), previous, vec![]),
        append(vote(9), previous, vec![]),
        append(leader(u64::MAX), previous, vec![]),
        append(leader(9), last_there_can_be, vec![]),
        append(leader(9), last_there_can_be, vec![blank(9, 0)]),
        append(leader(9), Some(id(10, 2)), vec![]),
        append(leader(9), previous, vec![blank(10, 2)]),
        append(leader(9), previous, vec![blank(7, 2), blank(6, 3)]),
        append(leader(9), previous, vec![blank(7, 3)]),
        append(leader(9), previous, vec![blank(4, 2)]),
        append(leader(9), FIRST, vec![blank(6, 1)]),
        Append { committed: Some(id(6, 1)), ..append(leader(9), previous, vec![]) },
        Append { committed: Some(id(10, 2)), ..append(leader(9), previous, vec![]) },
    ] {
        replica.refuses(&Request::Append(hostile)).await;
    }
    for candidate in [as_us(false), as_us(true), leader(9), vote(u64::MAX)] {
        let campaign = Campaign { vote: candidate, last: previous, leadership_transfer: true };
        replica.refuses(&Request::Vote(campaign)).await;
        replica.refuses(&Request::PreVote(campaign)).await;
    }
    for from in [as_us(true), vote(9), leader(u64::MAX)] {
        replica.refuses(&Request::Transfer(Transfer { from, to: US, last: previous })).await;
    }
    let heartbeat = append(leader(5), previous, vec![]);
    assert_eq!(replica.ask(&Request::Append(heartbeat)).await, Some(Answer::Append(Appended::Success)), "it goes on");
    replica.stop().await;
}

/// The chunks of a shard whose last entry is `last`.
async fn chunks(last: LogId, seams: &Seams) -> Vec<Bytes> {
    let journal: store::JournalFlushed = Arc::new(|| Box::pin(std::future::ready(Ok(()))));
    let store = Store::open(&SimulatedDisk::new(), journal, store::Config::default(), seams.clone()).await.unwrap();
    let (registry, residency) = (Arc::new(Registry::built_in()), Residency::new(1 << 20));
    let shard = Shard::open(SHARD, registry, store, residency, seams.clone()).unwrap();
    shard.apply_membership(id(0, 0), members()).await.unwrap();
    shard.apply_blank(last).await.unwrap();
    shard.checkpoint().await.unwrap();
    let mut reader = shard.snapshot().await.unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk().await.unwrap() {
        chunks.push(chunk);
    }
    chunks
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_no_member_sends_is_refused() {
    let seams = Seams::simulated(1);
    let replica = Replica::start(&seams, &SimulatedDisk::new(), "us:1", &VOTERS).await;
    let entries = (1..=3).map(|index| blank(5, index)).collect();
    let first = Append { committed: Some(id(5, 3)), ..append(leader(5), FIRST, entries) };
    assert_eq!(replica.ask(&Request::Append(first)).await, Some(Answer::Append(Appended::Success)));
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let as_us = Vote { node: US, ..leader(9) };
    let refused =
        [(leader(9), id(10, 7)), (leader(9), id(6, 2)), (leader(9), id(6, 3)), (vote(9), id(6, 7)), (as_us, id(6, 7))];
    for (stream, (vote, last)) in (0..).zip(refused) {
        let chunks = chunks(last, &seams).await;
        let (end, others) = chunks.split_last().unwrap();
        for chunk in others {
            replica.ask(&Request::Snapshot(SnapshotPart { stream, vote, chunk })).await;
        }
        replica.refuses(&Request::Snapshot(SnapshotPart { stream, vote, chunk: end })).await;
    }
    let mut answers = Vec::new();
    for chunk in chunks(id(6, 7), &seams).await {
        answers
            .push(replica.ask(&Request::Snapshot(SnapshotPart { stream: 99, vote: leader(9), chunk: &chunk })).await);
    }
    assert_eq!(answers.last(), Some(&Some(Answer::Installed(leader(9)))), "{answers:?}");
    replica.stop().await;
}

fn some_number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0_u64..7, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn some_id() -> impl Strategy<Value = Option<LogId>> {
    proptest::option::weighted(0.8, (some_number(), some_number()).prop_map(|(term, index)| id(term, index)))
}

fn some_vote() -> impl Strategy<Value = Vote> {
    let node = prop_oneof![4 => Just(THEM), 1 => Just(US), 1 => Just(NodeId(3)), 1 => Just(NodeId(77))];
    (some_number(), node, proptest::bool::weighted(0.8)).prop_map(|(term, node, committed)| Vote {
        term,
        node,
        committed,
    })
}

fn some_entries() -> impl Strategy<Value = Vec<Entry<'static>>> {
    let alike = (some_number(), some_number(), 0_u64..4)
        .prop_map(|(term, first, count)| (0..count).map(|n| blank(term, first.saturating_add(n))).collect());
    let any =
        proptest::collection::vec((some_number(), some_number()).prop_map(|(term, index)| blank(term, index)), 0..4);
    prop_oneof![3 => alike, 1 => any]
}

fn some_request() -> impl Strategy<Value = Request<'static>> {
    let level = (some_number(), any::<u64>()).prop_map(|(applied, age_micros)| Level { applied, age_micros });
    let append = (some_vote(), some_id(), some_id(), some_entries(), proptest::option::of(level));
    let append = append.prop_map(|(vote, previous, committed, entries, level)| Append {
        vote,
        previous,
        committed,
        entries,
        level,
    });
    let campaign = (any::<bool>(), some_vote(), some_id(), any::<bool>());
    let campaign =
        campaign.prop_map(|(pre, vote, last, leadership_transfer)| (pre, Campaign { vote, last, leadership_transfer }));
    let transfer = (some_vote(), some_id());
    let to_us = transfer.prop_map(|(from, last)| Transfer { from, to: US, last });
    prop_oneof![
        6 => append.prop_map(Request::Append),
        2 => campaign.prop_map(|(pre, campaign)| if pre { Request::PreVote(campaign) } else { Request::Vote(campaign) }),
        1 => to_us.prop_map(Request::Transfer),
        1 => (some_vote(), any::<u64>()).prop_map(|(vote, stream)| Request::Snapshot(SnapshotPart { stream, vote, chunk: b"no chunk" })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// An assertion that fails in the library ends the group, and a group that ends by itself ends the process.
    #[test]
    fn no_message_ends_a_group_or_makes_it_lead(requests in proptest::collection::vec(some_request(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let seams = Seams::simulated(1);
            let replica = Replica::start(&seams, &SimulatedDisk::new(), "us:1", &VOTERS).await;
            for request in &requests {
                replica.ask(request).await;
                assert_eq!(replica.group.term(), None, "{request:?}");
                seams.spawner.sleep(Duration::from_millis(1)).await;
            }
            let term = replica.group.status().term;
            let heartbeat = append(Vote { node: NodeId(3), ..leader(term + 1) }, None, vec![]);
            assert_eq!(replica.ask(&Request::Append(heartbeat)).await, Some(Answer::Append(Appended::Success)));
            replica.stop().await;
        });
    }
}
