//! Who is a member, who is suspected, and what is known of them, by the library itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_shared::report::NodeState;
use berth_shared::seam::Seams;

use super::machines::{CLUSTER, Machine, facts, id, start_all};
use crate::cluster::membership::{Chitchat, FORGOTTEN_AFTER};

#[tokio::test(start_paused = true)]
async fn nodes_find_each_other_through_a_seed_and_know_what_each_says_of_itself() {
    let seams = Seams::simulated(1);
    let from = seams.clock.now();
    let machines = start_all(&Chitchat, &seams, &[1, 2, 3, 4, 5]).await;
    assert!(seams.clock.now().since(from) < Duration::from_secs(3), "it took {:?}", seams.clock.now().since(from));
    for machine in &machines {
        for number in 1..=5 {
            let members = machine.members();
            assert_eq!(*members.get(id(number)).unwrap().facts, facts(number, NodeState::Ready));
        }
    }
    let news = facts(4, NodeState::Recovering);
    machines[3].gossip.publish(news.clone());
    let mut heard = machines[1].gossip.members();
    let from = seams.clock.now();
    heard.wait_for(|members| *members.get(id(4)).unwrap().facts == news).await.unwrap();
    assert!(seams.clock.now().since(from) < Duration::from_millis(500));
    let sightings = machines[1].members().sightings(&*seams.clock);
    assert_eq!((sightings[3].state, sightings[3].led, sightings[3].suspected_micros), (NodeState::Recovering, 2, None));
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_suspected_within_two_seconds_and_a_returned_one_no_more() {
    let seams = Seams::simulated(2);
    let mut machines = start_all(&Chitchat, &seams, &[1, 2, 3]).await;
    for round in 0..5_u64 {
        seams.spawner.sleep(Duration::from_millis(5000 + 37 * round)).await;
        let dead = machines.pop().unwrap();
        dead.kill().await;
        let from = seams.clock.now();
        for machine in &machines {
            machine.until_it_knows(&[(1, false), (2, false), (3, true)]).await;
        }
        let took = seams.clock.now().since(from);
        assert!(took > Duration::from_millis(800) && took < Duration::from_secs(2), "suspected after {took:?}");
        machines.push(Machine::start(&Chitchat, &seams, 3, CLUSTER).await);
        let from = seams.clock.now();
        for machine in &machines {
            machine.until_it_knows(&[(1, false), (2, false), (3, false)]).await;
        }
        let took = seams.clock.now().since(from);
        assert!(took < Duration::from_secs(2), "back after {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stays_away_is_forgotten() {
    let seams = Seams::simulated(3);
    let mut machines = start_all(&Chitchat, &seams, &[1, 2, 3]).await;
    machines.pop().unwrap().kill().await;
    machines[0].until_it_knows(&[(1, false), (2, false), (3, true)]).await;
    seams.spawner.sleep(FORGOTTEN_AFTER.saturating_sub(Duration::from_secs(10))).await;
    assert_eq!(machines[0].knows().len(), 3);
    seams.spawner.sleep(Duration::from_secs(20)).await;
    for machine in &machines {
        assert_eq!(machine.knows(), [(1, false), (2, false)], "at node {}", machine.number);
    }
}

/// Every second, one node takes nothing in for 700 ms, and the cluster gossips more or less.
#[tokio::test(start_paused = true)]
async fn a_busy_node_does_not_flap() {
    let seams = Seams::simulated(4);
    let machines = start_all(&Chitchat, &seams, &[1, 2, 3]).await;
    let mut heard: Vec<_> = machines.iter().map(|machine| machine.gossip.members()).collect();
    for second in 0..60_u64 {
        let busy = &machines[(second % 3) as usize];
        busy.is_stuck.store(true, Ordering::Relaxed);
        seams.spawner.sleep(Duration::from_millis(700)).await;
        busy.is_stuck.store(false, Ordering::Relaxed);
        let state = if second % 2 == 0 { NodeState::Recovering } else { NodeState::Ready };
        busy.gossip.publish(facts(busy.number, state));
        seams.spawner.sleep(Duration::from_millis(300)).await;
        for heard in &mut heard {
            let members = heard.borrow_and_update();
            assert!(members.iter().all(|member| member.suspected.is_none()), "in second {second}: {members:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_says_so_before_it_is_gone() {
    let seams = Seams::simulated(5);
    let mut machines = start_all(&Chitchat, &seams, &[1, 2, 3]).await;
    let leaving = machines.pop().unwrap();
    leaving.gossip.leave(facts(3, NodeState::Leaving)).await;
    leaving.kill().await;
    for machine in &machines {
        machine.until_it_knows(&[(1, false), (2, false), (3, true)]).await;
        assert_eq!(machine.members().get(id(3)).unwrap().facts.state, NodeState::Leaving);
    }
}
