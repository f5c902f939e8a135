//! Whom a node names as the owner of a shard, and what it reports of its replica.

use std::sync::Arc;

use berth_node::cluster::plan::{Candidate, Plan};
use berth_node::report::{About, Reporter};
use berth_node::shard::group::{Group, Status};
use berth_node::transport::hosting::{Hosted, Hosting};
use berth_node::transport::owners::Owners;
use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::report::{Member, NodeState};

use crate::scripted::{Ask, Stage, TERM};

const US: NodeId = NodeId(1);
const THEM: NodeId = NodeId(2);
const SHARD: ShardId = ShardId(0);

fn status(leader: Option<NodeId>) -> Status {
    Status { term: TERM, leader, voters: vec![US, THEM], ..Status::default() }
}

#[tokio::test(start_paused = true)]
async fn a_node_names_itself_only_while_it_owns_and_another_by_the_address_it_knows() {
    let stage = Stage::leading().await;
    let owners = Owners::new(US, "us:1".to_owned(), 4, None);
    let group: Arc<dyn Group> = stage.group.clone();
    owners.follow(stage.shard.clone(), &group, &stage.seams);
    stage.settle().await;
    let named = || owners.owner(SHARD).map(|owner| (owner.node, owner.address, owner.term));
    assert_eq!(named(), Some((US, "us:1".to_owned(), TERM)));

    stage.group.say_status(status(Some(US)));
    stage.step_down().await;
    assert_eq!(named(), None, "it leads, and has not applied its own blank entry");
    stage.group.say_status(status(Some(THEM)));
    assert_eq!(named(), None, "nobody has said where that node is");
    let member = |node, address: &str| Member { node, address: address.to_owned() };
    owners.set_heard(&[member(THEM, "them:1")]);
    assert_eq!(named(), Some((THEM, "them:1".to_owned(), TERM)));
    assert_eq!(owners.known().len(), 1);
    stage.group.say_status(status(None));
    assert_eq!(named(), None);
    assert_eq!((owners.known(), owners.owner(ShardId(3))), (vec![], None));

    owners.set_planned(&[member(NodeId(3), "third:1")]);
    let members = || owners.members().into_iter().map(|member| member.node).collect::<Vec<_>>();
    assert_eq!(members(), [US, THEM, NodeId(3)], "those of the plan, and those that gossip knows");
    owners.set_heard(&[]);
    assert_eq!(members(), [US, NodeId(3)], "this node is always one");
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_reported_as_it_is_and_not_after_it_is_gone() {
    let stage = Stage::leading().await;
    let candidates = [US, THEM].map(|node| Candidate::from(Member { node, address: "us:1".to_owned() }));
    let plan = Arc::new(Plan::first(&candidates, 1, 3));
    let planned = plan.clone();
    let about = move || About {
        node: US,
        cluster: ClusterId(7),
        address: "us:1".to_owned(),
        state: NodeState::Ready,
        plan: Some(planned.clone()),
        members: vec![],
        sightings: vec![],
    };
    let hosting = Hosting::new(1);
    let reporter = Reporter::new(about, hosting.clone(), Arc::default());
    hosting.add(Hosted {
        shard: stage.shard.clone(),
        group: stage.group.clone(),
        reader: stage.reader.clone(),
        mailbox: stage.mailbox().clone(),
        hold: stage.hold.clone(),
    });
    stage.group.say_status(status(Some(US)));
    stage.run(Ask::increment("a")).await;
    let report = reporter.report();
    assert_eq!((report.node, report.plan_epoch, report.replicas.len()), (US, 1, 1));
    let replica = &report.replicas[0];
    assert_eq!((replica.owns, replica.leader, replica.term), (true, Some(US), TERM));
    assert_eq!((&replica.voters, replica.applied, replica.queued), (&vec![US, THEM], 2, 0));
    assert_eq!(replica.content_hash, stage.shard.machine().head().content_hash);
    assert_ne!(replica.content_hash, 0);
    let wanted = replica.planned.as_ref().unwrap();
    assert_eq!(Some(wanted.owner), plan.owner_of(ShardId(0)).map(|member| member.node));
    assert_eq!(wanted.replicas.len(), 2);

    stage.group.lose_lease();
    assert!(!reporter.report().replicas[0].owns, "to lead without a lease is not to own");
    hosting.clear();
    assert!(reporter.report().replicas.is_empty());
}
