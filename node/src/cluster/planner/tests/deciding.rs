//! What makes a plan, when, and what makes none.

use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::report::NodeState;

use super::world::{Node, World};
use crate::cluster::plan::MEMBERS_MAX;
use crate::cluster::planner::decide::{Concerns, Reason};

#[test]
fn nothing_changes_while_nobody_comes_or_goes() {
    let mut world = World::new(5);
    assert_eq!(world.seconds(600), 0);
    world.lead_anew();
    assert_eq!(world.seconds(60), 0);
}

#[test]
fn a_node_that_comes_is_planned_when_it_has_been_there_for_a_while() {
    let mut world = World::new(3);
    world.seconds(10);
    world.nodes.insert(4, Node { state: NodeState::Joining, ..Node::new(4) });
    assert_eq!(world.pass(Duration::from_millis(2400)), 0);
    assert_eq!(world.pass(Duration::from_millis(400)), 1);
    assert_eq!(world.planned(), [1, 2, 3, 4]);
    assert_eq!(world.made[0].reason, "1 joined (0000000000000004)");
    // One that is only told of, or only connected, is given nothing.
    world.nodes.insert(5, Node { is_connected: false, ..Node::new(5) });
    world.nodes.insert(6, Node { is_heard: false, ..Node::new(6) });
    assert_eq!(world.seconds(600), 0);
    // It is there from now on.
    world.node(5).is_connected = true;
    assert_eq!(world.seconds(5), 1);
    assert_eq!(world.planned(), [1, 2, 3, 4, 5]);
}

#[test]
fn nodes_that_come_together_make_one_plan() {
    let mut world = World::new(3);
    world.seconds(10);
    for number in 4..=6 {
        world.nodes.insert(number, Node::new(number));
        world.pass(Duration::from_millis(1200));
    }
    assert_eq!(world.seconds(10), 1);
    assert_eq!(world.planned(), [1, 2, 3, 4, 5, 6]);
    assert!(world.made[0].reason.starts_with("3 joined ("), "{}", world.made[0].reason);
}

#[test]
fn nodes_that_keep_coming_do_not_put_off_a_plan_for_ever() {
    let mut world = World::new(3);
    world.seconds(10);
    for number in 4..=30 {
        world.nodes.insert(number, Node::new(number));
        world.pass(Duration::from_millis(800));
    }
    world.seconds(10);
    assert_eq!(world.planned().len(), 30);
    assert!((3..8).contains(&world.made.len()), "{:?}", world.made);
}

#[test]
fn a_node_that_leaves_is_out_at_once() {
    let mut world = World::new(4);
    world.seconds(10);
    world.node(2).state = NodeState::Leaving;
    assert_eq!(world.pass(Duration::from_millis(1400)), 1);
    assert_eq!((world.planned(), world.made[0].reason.as_str()), (vec![1, 3, 4], "1 left (0000000000000002)"));
    // It is still there until everything has moved, and then it is not.
    assert_eq!(world.seconds(100), 0);
    world.node(2).set_silent(true);
    assert_eq!(world.seconds(400), 0);
    world.nodes.remove(&2);
    assert_eq!(world.seconds(400), 0);
    assert_eq!(world.decider.concerns(), &Concerns::default());
}

#[test]
fn a_node_that_left_and_comes_back_joins_again() {
    let mut world = World::new(4);
    world.node(2).state = NodeState::Leaving;
    assert_eq!(world.seconds(5), 1);
    world.node(2).state = NodeState::Joining;
    assert_eq!(world.seconds(5), 1);
    assert_eq!(world.planned(), [1, 2, 3, 4]);
}

#[test]
fn a_dead_node_is_replaced_after_it_was_silent_for_long() {
    let mut world = World::new(4);
    world.seconds(10);
    world.node(3).set_silent(true);
    assert_eq!(world.pass(Duration::from_millis(30_800)), 0);
    assert_eq!(world.pass(Duration::from_millis(800)), 1);
    assert_eq!((world.planned(), world.made[0].reason.as_str()), (vec![1, 2, 4], "1 died (0000000000000003)"));
    // Gossip forgets it at last.
    world.nodes.remove(&3);
    assert_eq!(world.seconds(600), 0);
}

#[test]
fn nodes_that_die_together_make_one_plan() {
    let mut world = World::new(6);
    world.seconds(10);
    for number in 3..=5 {
        world.node(number).set_silent(true);
        world.pass(Duration::from_millis(1200));
    }
    assert_eq!(world.seconds(60), 1);
    assert_eq!(world.planned(), [1, 2, 6]);
}

#[test]
fn a_node_that_is_silent_for_less_changes_nothing() {
    let mut world = World::new(3);
    for _ in 0..20 {
        world.node(2).set_silent(true);
        world.seconds(28);
        world.node(2).set_silent(false);
        world.seconds(2);
    }
    assert_eq!(world.made, []);
}

#[test]
fn a_node_that_is_cut_off_from_gossip_or_connections_alone_stays() {
    let mut world = World::new(3);
    world.seconds(10);
    world.node(2).is_heard = false;
    assert_eq!(world.seconds(600), 0);
    // Gossip forgets it, and the next leader has never heard of it.
    world.node(2).is_listed = false;
    assert_eq!(world.seconds(600), 0);
    world.lead_anew();
    assert_eq!(world.seconds(600), 0);
    (world.node(2).is_listed, world.node(2).is_heard, world.node(2).is_connected) = (true, true, false);
    assert_eq!(world.seconds(600), 0);
    // From one silence to the other, without a moment of both.
    for _ in 0..20 {
        let node = world.node(2);
        (node.is_heard, node.is_connected) = (node.is_connected, node.is_heard);
        world.seconds(29);
    }
    assert_eq!(world.made, []);
}

#[test]
fn who_was_never_heard_counts_as_silent_from_when_the_planner_began() {
    let mut world = World::new(4);
    world.node(4).is_listed = false;
    world.node(4).set_silent(true);
    // Until then nothing is known of it, and others wait too.
    world.nodes.insert(5, Node::new(5));
    assert_eq!(world.pass(Duration::from_millis(30_800)), 0);
    assert_eq!(world.seconds(2), 1);
    assert_eq!(world.planned(), [1, 2, 3, 5]);
    // Every planner counts by itself.
    world.node(3).set_silent(true);
    world.seconds(20);
    world.lead_anew();
    assert_eq!(world.pass(Duration::from_millis(30_800)), 0);
    assert_eq!(world.seconds(2), 1);
    assert_eq!(world.planned(), [1, 2, 5]);
}

#[test]
fn what_was_heard_of_a_silent_node_still_counts() {
    let mut world = World::new(4);
    for (number, weight) in [(1, 1), (2, 3), (3, 1), (4, 2)] {
        world.node(number).zone = Some(format!("zone-{}", number % 2));
        world.node(number).weight = weight;
    }
    assert_eq!(world.seconds(10), 1, "zones and weights are known now");
    assert_eq!(world.made[0].reason, "zones, weights or the copies of the system shard");
    world.node(2).is_heard = false;
    assert_eq!(world.seconds(100), 0);
    world.lead_anew();
    assert_eq!(world.seconds(100), 0, "gossip still tells it");
    world.node(2).is_listed = false;
    assert_eq!(world.seconds(400), 0, "gossip has forgotten it, and it is connected");
}

#[test]
fn the_second_plan_waits_until_all_founders_have_begun() {
    let nodes = [1, 2].map(|number| (number, Node::new(number)));
    let mut world = World::founded_by(vec![1, 2, 3], nodes.into(), 1);
    world.nodes.insert(4, Node::new(4));
    assert_eq!(world.seconds(20), 0);
    world.nodes.insert(3, Node { state: NodeState::Joining, ..Node::new(3) });
    assert_eq!(world.seconds(100), 0, "it is there, and has not begun");
    world.node(3).state = NodeState::Recovering;
    assert_eq!(world.seconds(5), 1);
    assert_eq!(world.planned(), [1, 2, 3, 4]);

    // Or is dead.
    let nodes = [1, 2].map(|number| (number, Node::new(number)));
    let mut world = World::founded_by(vec![1, 2, 3], nodes.into(), 1);
    assert_eq!(world.pass(Duration::from_millis(30_800)), 0);
    assert_eq!(world.seconds(2), 1);
    assert_eq!(world.planned(), [1, 2]);
}

#[test]
fn more_founders_than_copies_are_one_more_plan() {
    let nodes = (1..=5).map(|number| (number, Node::new(number)));
    let mut world = World::founded_by((1..=5).collect(), nodes.collect(), 1);
    assert_eq!(world.seconds(60), 1);
    assert_eq!(world.plan.system_replicas().count(), 3);
}

#[test]
fn an_address_that_changed_is_planned_and_not_too_often() {
    let mut world = World::new(3);
    world.seconds(20);
    "elsewhere:7400".clone_into(&mut world.node(2).address);
    assert_eq!(world.seconds(2), 1);
    assert_eq!(world.made[0].reason, "1 changed address (0000000000000002)");
    for turn in 0..50 {
        world.node(2).address = format!("elsewhere-{turn}:7400");
        world.seconds(2);
    }
    // 100 s.
    assert!((8..=11).contains(&world.made.len()), "{}", world.made.len());
    // Whoever comes meanwhile does not wait for that.
    world.seconds(20);
    "a:7400".clone_into(&mut world.node(2).address);
    assert_eq!(world.seconds(2), 1);
    "b:7400".clone_into(&mut world.node(2).address);
    world.nodes.insert(4, Node::new(4));
    assert_eq!(world.seconds(4), 1);
    assert_eq!(world.plan.members()[1].address, "b:7400");
}

#[test]
fn whoever_leaves_stays_while_too_few_others_are_left() {
    let mut world = World::new(3);
    world.seconds(10);
    for number in 1..=3 {
        world.node(number).state = NodeState::Leaving;
        world.pass(Duration::from_millis(100));
    }
    assert_eq!(world.seconds(100), 0, "all leave");
    assert_eq!(world.decider.concerns().kept, [1, 2, 3].map(NodeId));
    world.nodes.insert(4, Node::new(4));
    assert_eq!(world.seconds(10), 1);
    assert_eq!(world.planned(), [1, 2, 3, 4], "one is no majority of three");
    world.nodes.insert(5, Node::new(5));
    assert_eq!(world.seconds(10), 1);
    assert_eq!((world.planned(), &world.decider.concerns().kept), (vec![4, 5], &vec![]));
    // What is gone is gone.
    (1..=3).for_each(|number| world.node(number).set_silent(true));
    assert_eq!(world.seconds(100), 0);
}

#[test]
fn a_silent_node_is_none_that_another_may_leave_on() {
    let mut world = World::new(3);
    world.seconds(10);
    world.node(2).set_silent(true);
    world.seconds(1);
    world.node(3).state = NodeState::Leaving;
    assert_eq!(world.seconds(20), 0);
    world.node(2).set_silent(false);
    assert_eq!(world.seconds(5), 1);
    assert_eq!(world.planned(), [1, 2]);
    // The other one dies while this one still moves away: it is needed again, whoever hears it just then.
    world.node(2).set_silent(true);
    world.seconds(20);
    world.node(3).is_heard = false;
    world.seconds(15);
    world.node(3).is_heard = true;
    world.seconds(25);
    assert_eq!(world.made.len(), 2);
    assert_eq!(world.planned(), [1, 3]);
    assert_eq!(world.made[1].reason, "1 died (0000000000000002), 1 needed again (0000000000000003)");
    // Of one that never had anything, nothing is wanted.
    world.nodes.insert(4, Node { state: NodeState::Leaving, ..Node::new(4) });
    assert_eq!(world.seconds(60), 0);
}

#[test]
fn the_only_node_stays_whatever_it_says() {
    let mut world = World::new(1);
    world.seconds(10);
    world.node(1).state = NodeState::Leaving;
    assert_eq!(world.seconds(100), 0);
    // It knows itself, even if gossip does not list it.
    world.nodes.clear();
    assert_eq!(world.seconds(100), 0);
}

#[test]
fn a_fresh_disk_at_the_address_of_a_silent_node_replaces_it_in_one_plan() {
    let mut world = World::new(4);
    world.seconds(10);
    // It is killed, and started again with nothing, before gossip has noticed.
    world.node(3).is_connected = false;
    world.pass(Duration::from_millis(600));
    let address = world.node(3).address.clone();
    world.nodes.insert(9, Node { address, ..Node::new(9) });
    world.pass(Duration::from_millis(1200));
    world.node(3).is_heard = false;
    assert_eq!(world.seconds(5), 1);
    assert_eq!(world.planned(), [1, 2, 4, 9]);
    assert_eq!(world.made[0].reason, "1 joined (0000000000000009), 1 died (0000000000000003)");
    assert_eq!(world.seconds(100), 0);
}

#[test]
fn a_node_at_the_address_of_another_is_given_nothing_while_that_one_is_there() {
    let mut world = World::new(3);
    world.seconds(10);
    let address = world.node(3).address.clone();
    world.nodes.insert(9, Node { address, ..Node::new(9) });
    assert_eq!(world.seconds(100), 0);
    "elsewhere:1".clone_into(&mut world.node(3).address);
    assert_eq!(world.seconds(10), 1);
    assert_eq!(world.planned(), [1, 2, 3, 9]);
}

#[test]
fn more_nodes_than_a_plan_takes_are_of_concern_and_make_no_plan() {
    let mut world = World::new(MEMBERS_MAX as u64);
    world.seconds(2);
    world.nodes.insert(5000, Node::new(5000));
    world.nodes.insert(5001, Node::new(5001));
    assert_eq!(world.seconds(6), 0);
    assert_eq!(world.decider.concerns().beyond_max, 2);
    // One that goes makes room.
    world.node(7).state = NodeState::Leaving;
    assert_eq!(world.seconds(3), 1);
    assert!(world.planned().contains(&5000) && !world.planned().contains(&5001));
}

#[test]
fn what_was_not_adopted_is_proposed_again() {
    let mut world = World::new(3);
    world.seconds(10);
    world.nodes.insert(4, Node::new(4));
    let mut proposed = 0;
    for _ in 0..50 {
        world.now = world.now + super::world::LOOK;
        proposed += usize::from(world.look().is_some());
    }
    assert!(proposed > 30, "{proposed}");
    assert_eq!(world.seconds(1), 1);
}

#[test]
fn a_reason_names_some_and_counts_all() {
    let nodes = |from: u64, count: u64| (from..from + count).map(NodeId).collect::<Vec<_>>();
    let reason =
        Reason { joined: nodes(1, 1), left: nodes(2, 2), died: nodes(16, 900), recalled: vec![], moved: nodes(4, 1) };
    assert_eq!(
        reason.to_string(),
        "1 joined (0000000000000001), 2 left (0000000000000002 0000000000000003), 900 died (0000000000000010 \
         0000000000000011 0000000000000012 0000000000000013 0000000000000014 …), 1 changed address (0000000000000004)"
    );
}
