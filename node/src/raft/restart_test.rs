//! Rule R2, message by message: what could help another replica to lead, or make this one stand, is not answered for a whole
//! election timeout after a start with existing data.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use berth_shared::ids::{ClusterId, LogId, NodeId, ShardId};
use berth_shared::peer::{self, CallError, Class, Client, Handler, Identity, Incoming, Role};
use berth_shared::seam::Seams;
use tokio_util::sync::CancellationToken;

use super::message::{Answer, Append, Appended, Campaign, Entry, Payload, Request, Transfer, Vote};
use super::{ELECTION_TIMEOUT_MAX, Groups, Member, Membership, encode_membership};
use crate::disk::SimulatedDisk;
use crate::entity::Registry;
use crate::journal::{self, Journal};
use crate::shard::Shard;
use crate::shard::group::Group;
use crate::shard::residency::Residency;
use crate::store::{self, Store};
use crate::transport::peers::Peers;
use crate::transport::wire::{NodeRequest, encode_raft};

pub(super) const SHARD: ShardId = ShardId(0);
pub(super) const US: NodeId = NodeId(1);
pub(super) const THEM: NodeId = NodeId(2);
pub(super) const VOTERS: [NodeId; 3] = [US, THEM, NodeId(3)];
/// The entry that every group begins with.
pub(super) const FIRST: Option<LogId> = Some(LogId { term: 0, index: 0 });

struct Service(Groups);

impl Handler for Service {
    fn handle(&self, incoming: Incoming) {
        let Incoming { payload, reply, .. } = incoming;
        match peer::decode(&payload).unwrap() {
            NodeRequest::Raft { to, shard, message } => self.0.handle(to, shard, payload.slice_ref(message), reply),
            other => panic!("{other:?} is not asked here"),
        }
    }
}

/// One of three replicas. The others never run, but for what the test says in their name.
pub(super) struct Replica {
    seams: Seams,
    groups: Groups,
    pub(super) group: Arc<dyn Group>,
    journal: Journal,
    store: Store,
    client: Client,
    shutdown: CancellationToken,
}

fn identity(node: NodeId) -> Identity {
    let (cluster, software) = (Some(ClusterId(1)), "test".to_owned());
    Identity { role: Role::Node, node: Some(node), cluster, software, credential: None }
}

impl Replica {
    pub(super) async fn start(seams: &Seams, disk: &SimulatedDisk, address: &str, voters: &[NodeId]) -> Self {
        let config = journal::Config { fatal: Arc::new(|line| panic!("{line}")), ..Default::default() };
        let journal = Journal::open(disk, config, seams.clone()).await.unwrap();
        let flushed: store::JournalFlushed = {
            let journal = journal.clone();
            Arc::new(move || {
                let journal = journal.clone();
                Box::pin(async move { journal.flushed().await })
            })
        };
        let config = store::Config { fatal: Arc::new(|line| panic!("{line}")), ..Default::default() };
        let store = Store::open(disk, flushed, config, seams.clone()).await.unwrap();
        let registry = Arc::new(Registry::built_in());
        let shard = Shard::open(SHARD, registry, store.clone(), Residency::new(1 << 20), seams.clone()).unwrap();
        let groups = Groups::new(US, Peers::new(seams.clone(), identity(US)), seams);
        let (shutdown, config) = (CancellationToken::new(), peer::server::Config::default());
        let (listener, service) = (seams.network.listen(address).await.unwrap(), Arc::new(Service(groups.clone())));
        let served = peer::serve(seams.clone(), config, listener, identity(US), service, shutdown.clone());
        seams.spawner.spawn(served);
        let voters: Vec<_> = voters.iter().map(|node| (*node, format!("{node}:1"))).collect();
        let group = groups.start(shard, journal.clone(), &voters, false).await.unwrap();
        let (config, address) = (peer::client::Config::default(), address.to_owned());
        let client = Client::new(seams.clone(), config, address, Class::Control, identity(THEM), None);
        Self { seams: seams.clone(), groups, group, journal, store, client, shutdown }
    }

    pub(super) async fn stop(self) {
        let Self { groups, group, journal, store, shutdown, .. } = self;
        shutdown.cancel();
        groups.stop(SHARD, &*group).await;
        drop((groups, group));
        store.close().await.unwrap();
        journal.close().await;
    }

    /// What it answers, if it does.
    pub(super) async fn ask(&self, request: &Request<'_>) -> Option<Answer> {
        let deadline = self.seams.clock.now() + Duration::from_millis(400);
        match self.client.call(encode_raft(US, SHARD, request).unwrap(), deadline).await {
            Ok(answer) => Some(peer::decode(&answer).unwrap()),
            Err(CallError::Abandoned) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The answers to a vote that is asked about, one that is asked for, and leadership that is offered.
    async fn ask_all(&self, vote: Vote, leader: Vote) -> [Option<Answer>; 3] {
        let campaign = Campaign { vote, last: FIRST, leadership_transfer: false };
        let offer = Request::Transfer(Transfer { from: leader, to: US, last: FIRST });
        let asked_about = self.ask(&Request::PreVote(campaign)).await;
        [asked_about, self.ask(&Request::Vote(campaign)).await, self.ask(&offer).await]
    }
}

pub(super) fn vote(term: u64) -> Vote {
    Vote { term, node: THEM, committed: false }
}

pub(super) fn leader(term: u64) -> Vote {
    Vote { committed: true, ..vote(term) }
}

#[tokio::test(start_paused = true)]
async fn a_replica_started_anew_gives_no_vote_says_none_and_takes_no_leadership() {
    let (seams, disk) = (Seams::simulated(1), SimulatedDisk::new());
    let fresh = Replica::start(&seams, &disk, "fresh:1", &VOTERS).await;
    let answers = fresh.ask_all(vote(5), leader(4)).await;
    assert!(answers.iter().all(Option::is_some), "it has promised nobody anything: {answers:?}");
    assert!(matches!(answers[1], Some(Answer::Vote { granted: true, .. })), "{answers:?}");
    let append = Append { vote: leader(5), previous: FIRST, committed: FIRST, entries: vec![], level: None };
    assert_eq!(fresh.ask(&Request::Append(append)).await, Some(Answer::Append(Appended::Success)));
    fresh.stop().await;

    let started_at = seams.clock.now();
    let anew = Replica::start(&seams, &disk, "anew:1", &VOTERS).await;
    let since_start = || seams.clock.now().since(started_at);
    let mut asked = 0;
    while since_start() < ELECTION_TIMEOUT_MAX {
        let answers = anew.ask_all(vote(6), leader(5)).await;
        assert!(since_start() > ELECTION_TIMEOUT_MAX || answers == [None, None, None], "{answers:?}");
        asked += 1;
        seams.spawner.sleep(Duration::from_millis(1)).await;
    }
    assert!(asked > 100, "{asked}");
    let answers = anew.ask_all(vote(6), leader(5)).await;
    assert!(answers.iter().all(Option::is_some), "{answers:?}");
    assert!(matches!(answers[1], Some(Answer::Vote { granted: true, .. })), "{answers:?}");
    anew.stop().await;
}

/// As a replica has it that was not there when its group began, and has given its vote before the first entry came.
#[tokio::test(start_paused = true)]
async fn a_vote_without_a_log_is_existing_data_too() {
    let (seams, disk) = (Seams::simulated(1), SimulatedDisk::new());
    let fresh = Replica::start(&seams, &disk, "fresh:1", &[]).await;
    let answers = fresh.ask_all(vote(5), leader(4)).await;
    assert!(matches!(answers[1], Some(Answer::Vote { granted: true, .. })), "{answers:?}");
    fresh.stop().await;
    let anew = Replica::start(&seams, &disk, "anew:1", &[]).await;
    assert_eq!(anew.ask_all(vote(6), leader(5)).await, [None, None, None]);
    seams.spawner.sleep(ELECTION_TIMEOUT_MAX).await;
    let answers = anew.ask_all(vote(6), leader(5)).await;
    assert!(matches!(answers[1], Some(Answer::Vote { granted: true, .. })), "{answers:?}");
    anew.stop().await;
}

/// What the log says of members: one entry.
fn members(term: u64, index: u64, bytes: &[u8]) -> Entry<'_> {
    Entry { term, index, payload: Payload::Membership(bytes) }
}

fn encoded(configurations: &[&[NodeId]]) -> Bytes {
    let nodes: BTreeMap<u64, Member> =
        VOTERS.map(|node| (node.0, Member { address: format!("{node}:1") })).into_iter().collect();
    let configurations = configurations.iter().map(|voters| voters.iter().map(|node| node.0).collect()).collect();
    encode_membership(&Membership::new(configurations, nodes).unwrap()).unwrap()
}

/// A leader may lead on that has left the voters itself. Its lease then rests on the only voter that there is, which needs
/// nobody's vote, and still must neither stand nor vote when it is started anew.
#[tokio::test(start_paused = true)]
async fn a_voter_that_is_alone_keeps_its_promise_to_a_leader_that_is_no_voter() {
    let (seams, disk) = (Seams::simulated(1), SimulatedDisk::new());
    let fresh = Replica::start(&seams, &disk, "fresh:1", &VOTERS).await;
    let (joint, alone) = (encoded(&[&VOTERS, &[US]]), encoded(&[&[US]]));
    let entries =
        vec![Entry { term: 5, index: 1, payload: Payload::Blank }, members(5, 2, &joint), members(5, 3, &alone)];
    let committed = Some(LogId { term: 5, index: 3 });
    let append = Append { vote: leader(5), previous: FIRST, committed, entries, level: None };
    assert_eq!(fresh.ask(&Request::Append(append)).await, Some(Answer::Append(Appended::Success)));
    assert_eq!(fresh.group.status().voters, [US]);
    fresh.stop().await;

    let started_at = seams.clock.now();
    let anew = Replica::start(&seams, &disk, "anew:1", &[]).await;
    while seams.clock.now().since(started_at) < ELECTION_TIMEOUT_MAX {
        let answers = anew.ask_all(vote(6), leader(5)).await;
        assert!(
            seams.clock.now().since(started_at) > ELECTION_TIMEOUT_MAX || answers == [None, None, None],
            "{answers:?}"
        );
        assert!(anew.group.term().is_none() && anew.group.status().term <= 5);
        seams.spawner.sleep(Duration::from_millis(1)).await;
    }
    seams.spawner.sleep(2 * ELECTION_TIMEOUT_MAX).await;
    assert!(anew.group.term().is_some(), "it stands afterwards");
    anew.stop().await;
}
