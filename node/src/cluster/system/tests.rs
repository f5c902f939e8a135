//! The system shard on two replicas of a group that is told when to lead.

use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::report::Member;
use berth_shared::seam::Seams;
use tokio_util::sync::CancellationToken;

use super::pair::{System, open_shard};
use super::*;
use crate::cluster::plans::Plans;
use crate::disk::SimulatedDisk;
use crate::entity::Timestamp;
use crate::entity::erased::{EVENT_BYTES_MAX, Verdict};
use crate::shard::Shard;

/// Longer than a replica is not looked at.
const SOON: Duration = Duration::from_millis(100);

fn members(count: u64, address: &str) -> Vec<Member> {
    (0..count).map(|n| Member { node: NodeId(u64::MAX - count + n), address: address.to_owned() }).collect()
}

fn candidates(members: &[Member]) -> Vec<Candidate> {
    members.iter().cloned().map(Candidate::from).collect()
}

fn record() -> InitRecord {
    InitRecord { cluster: ClusterId(7), members: members(3, "a:1"), shards: 64, replicas: 3 }
}

#[tokio::test(start_paused = true)]
async fn whoever_leads_makes_the_first_plan_once_and_every_replica_follows_it() {
    let seams = Seams::simulated(1);
    let disks = [SimulatedDisk::new(), SimulatedDisk::new()];
    let System { group, mailbox, registry, shards, stores } = System::open(&disks, &seams).await;
    let [owner, follower] = shards;
    let shutdown = CancellationToken::new();
    let follow = |shard: &Arc<Shard>, shutdown: &CancellationToken| {
        let plans = Plans::default();
        follow(shard.clone(), plans.clone(), &seams, shutdown.clone());
        plans.watch()
    };
    let plans = [&owner, &follower].map(|shard| follow(shard, &shutdown));
    let begin = |record: InitRecord| {
        let (group, mailbox, registry) = (group.clone(), mailbox.clone(), registry.clone());
        initialise(record, group, mailbox, registry, plans[0].clone(), seams.clone(), shutdown.clone())
    };
    let initialising = seams.spawner.spawn(begin(record()));
    seams.spawner.sleep(Duration::from_secs(10)).await;
    assert!(plans.iter().all(|plan| plan.borrow().is_none()), "nobody leads");

    group.lead(Some(3)).await;
    initialising.await.unwrap();
    seams.spawner.sleep(SOON).await;
    let made = Plan::first(&candidates(&record().members), 64, 3);
    assert!(plans.iter().all(|plan| plan.borrow().as_deref() == Some(&made)));

    // Another owner may try again, with the same record or with another one; neither changes the plan.
    let version = |shard: &Shard| shard.resident(&EntityKey::new("cluster", PLAN).unwrap()).unwrap().version;
    assert_eq!(version(&owner), 1);
    group.lead(None).await;
    group.lead(Some(4)).await;
    ask::begin(&record(), &mailbox, &registry, &seams).await;
    ask::begin(&InitRecord { cluster: ClusterId(8), shards: 8, ..record() }, &mailbox, &registry, &seams).await;
    seams.spawner.sleep(SOON).await;
    assert_eq!((version(&owner), version(&follower)), (1, 1));
    assert!(plans.iter().all(|plan| plan.borrow().as_deref() == Some(&made)));

    // After a restart the plan is known before anybody leads.
    shutdown.cancel();
    stores[0].checkpoint().await.unwrap();
    let (again, _) = open_shard(&disks[0].process_killed(), &registry, &seams).await;
    let mut plan = follow(&again, &CancellationToken::new());
    plan.wait_for(Option::is_some).await.unwrap();
    assert_eq!(plan.borrow().as_deref(), Some(&made));
}

#[test]
fn the_largest_plan_is_one_event() {
    let registry = registry().unwrap();
    let kind = registry.get(Cluster::KIND).unwrap();
    let address = format!("{}:65535", "h".repeat(253));
    let record = InitRecord { members: members(MEMBERS_MAX as u64, &address), shards: 16_384, replicas: 5, ..record() };
    let body = serde_json::to_vec(&ask::Body::Initialise { record: &record }).unwrap();
    let command = kind.decode("initialise", &body).unwrap();
    let key = EntityKey::new(Cluster::KIND, PLAN).unwrap();
    let context = Context { now: Timestamp::from_micros(1), key: &key, version: 0, principal: "" };
    let Verdict::Accepted(accepted) = kind.decide(&kind.initial(), &command, &context).unwrap() else { panic!() };
    assert_eq!(accepted.events.len(), 1);
    assert!(accepted.events[0].data.len() < EVENT_BYTES_MAX);
    let Verdict::Rejected(rejected) = kind.decide(&accepted.state, &command, &context).unwrap() else { panic!() };
    assert_eq!(rejected.reason, "already-initialised");

    // A later one too, with the longest reason.
    let first = Plan::first(&candidates(&record.members), 16_384, 5);
    let plan = first.next(&candidates(&record.members)).unwrap();
    let body = serde_json::to_vec(&ask::Body::Adopt { plan: &plan, reason: &"r".repeat(1000) }).unwrap();
    let command = kind.decode("adopt", &body).unwrap();
    let Verdict::Accepted(accepted) = kind.decide(&accepted.state, &command, &context).unwrap() else { panic!() };
    assert!(accepted.events[0].data.len() < EVENT_BYTES_MAX);
    assert_eq!(serde_json::from_slice::<Plan>(&kind.state_json(&accepted.state).unwrap()).unwrap(), plan);
}

#[test]
fn only_the_next_plan_of_the_same_cluster_is_adopted() {
    let key = EntityKey::new(Cluster::KIND, PLAN).unwrap();
    let context = Context { now: Timestamp::from_micros(1), key: &key, version: 1, principal: "" };
    let (three, four) = (candidates(&members(3, "a:1")), candidates(&members(4, "a:1")));
    let first = Plan::first(&three, 64, 3);
    let next = first.next(&four).unwrap();
    let decide = |state: &Plan, plan: &Plan| {
        let adopt = Instruction::Adopt { plan: plan.clone(), reason: "1 joined".to_owned() };
        Cluster.decide(state, &adopt, &context).map(drop)
    };
    assert_eq!(decide(&first, &next), Ok(()));
    // What was made of a plan that is not in force any more, or not yet.
    let after = next.next(&three).unwrap();
    assert_eq!(decide(&next, &next), Err(Refusal::NotNext { in_force: 2, given: 2 }));
    assert_eq!(decide(&first, &after), Err(Refusal::NotNext { in_force: 1, given: 3 }));
    assert_eq!(decide(&Plan::default(), &first), Err(Refusal::NotInitialised));
    // One that was in force once, and is not known any more.
    let restore = |state: &Plan, plan: &Plan| {
        Cluster.decide(state, &Instruction::Restore { plan: plan.clone() }, &context).map(drop)
    };
    assert_eq!((restore(&first, &next), restore(&first, &after)), (Ok(()), Ok(())));
    assert_eq!(restore(&after, &next), Err(Refusal::NotNext { in_force: 3, given: 2 }));
    assert_eq!(restore(&Plan::default(), &first), Err(Refusal::NotInitialised));
    for (shards, replicas) in [(63, 3), (64, 1)] {
        let other = Plan::first(&three, shards, replicas).next(&four).unwrap();
        assert_eq!(decide(&first, &other), Err(Refusal::OtherCluster));
    }
    let unsound = serde_json::to_string(&next).unwrap().replacen("\"system\":[", "\"system\":[4,", 1);
    assert_eq!(decide(&first, &serde_json::from_str(&unsound).unwrap()), Err(Refusal::Unsound));
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_adopted_once_and_the_first_one_stays_readable() {
    let seams = Seams::simulated(2);
    let disks = [SimulatedDisk::new(), SimulatedDisk::new()];
    let System { group, mailbox, registry, shards, stores: _stores } = System::open(&disks, &seams).await;
    for shard in &shards {
        assert!(applied_plan(shard).await.unwrap().is_none() && first_plan(shard).await.unwrap().is_none());
    }
    let first = Plan::first(&candidates(&record().members), 64, 3);
    let next = first.next(&candidates(&members(4, "a:1"))).unwrap();
    let adopt = |plan: Plan| {
        let (mailbox, registry, seams) = (mailbox.clone(), registry.clone(), seams.clone());
        async move { super::adopt(&plan, "1 joined", &mailbox, &registry, &seams).await }
    };
    assert!(matches!(adopt(next.clone()).await, Err(Error::Refused(_))), "nobody leads");
    group.lead(Some(3)).await;
    ask::begin(&record(), &mailbox, &registry, &seams).await;
    adopt(next.clone()).await.unwrap();
    adopt(next.clone()).await.unwrap();
    let another = first.next(&candidates(&members(5, "a:1"))).unwrap();
    assert!(matches!(adopt(another).await, Err(Error::Refused(why)) if why.contains("epoch 2")));
    for shard in &shards {
        assert_eq!(applied_plan(shard).await.unwrap().as_ref(), Some(&next));
        assert_eq!(first_plan(shard).await.unwrap().as_ref(), Some(&first));
        let events = shard.events(&plan_key().unwrap(), 0, 10).await.unwrap().unwrap().events;
        assert_eq!(events.len(), 2, "asked again, it is the same one");
        assert!(String::from_utf8_lossy(&events[1].data).contains("1 joined"));
    }
}

#[test]
fn a_record_without_members_shards_or_replicas_makes_no_plan() {
    let key = EntityKey::new(Cluster::KIND, PLAN).unwrap();
    let context = Context { now: Timestamp::from_micros(1), key: &key, version: 0, principal: "" };
    for record in [
        InitRecord { members: Vec::new(), ..record() },
        InitRecord { shards: 0, ..record() },
        InitRecord { replicas: 0, ..record() },
        InitRecord { members: members(1001, "a:1"), ..record() },
    ] {
        let decided = Cluster.decide(&Plan::default(), &Instruction::Initialise { record }, &context);
        assert_eq!(decided.unwrap_err(), Refusal::Unusable);
    }
}
