//! The twin, which must do as the library does, and the same every time.

use std::time::Duration;

use berth_shared::ids::ClusterId;
use berth_shared::report::NodeState;
use berth_shared::seam::{BootInstant, Seams};

use super::machines::{CLUSTER, Machine, address, facts, id, start_all};
use crate::cluster::membership::{FORGOTTEN_AFTER, Simulated};

#[tokio::test(start_paused = true)]
async fn the_twin_suspects_forgets_and_takes_back_as_the_library_does() {
    let (seams, world) = (Seams::simulated(1), Simulated::default());
    let mut machines = start_all(&world, &seams, &[1, 2, 3]).await;
    let foreign = Machine::start(&world, &seams, 4, ClusterId(8)).await;
    assert_eq!(*machines[0].members().get(id(3)).unwrap().facts, facts(3, NodeState::Ready));
    machines.pop().unwrap().kill().await;
    let from = seams.clock.now();
    machines[0].until_it_knows(&[(1, false), (2, false), (3, true)]).await;
    let took = seams.clock.now().since(from);
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(2), "suspected after {took:?}");
    seams.spawner.sleep(FORGOTTEN_AFTER + Duration::from_secs(2)).await;
    assert_eq!(machines[1].knows(), [(1, false), (2, false)]);
    machines.push(Machine::start(&world, &seams, 3, CLUSTER).await);
    machines[0].until_it_knows(&[(1, false), (2, false), (3, false)]).await;
    assert_eq!(foreign.knows(), [(4, false)]);
    machines[1].gossip.leave(facts(2, NodeState::Leaving)).await;
    machines.remove(1).kill().await;
    machines[0].until_it_knows(&[(1, false), (2, true), (3, false)]).await;
    assert_eq!(machines[0].members().get(id(2)).unwrap().facts.state, NodeState::Leaving);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_cut_off_from_gossip_alone() {
    let (seams, world) = (Seams::simulated(2), Simulated::default());
    let machines = start_all(&world, &seams, &[1, 2, 3]).await;
    world.set_cut(&address(3), true);
    machines[0].until_it_knows(&[(1, false), (2, false), (3, true)]).await;
    machines[2].until_it_knows(&[(1, true), (2, true), (3, false)]).await;
    world.set_cut(&address(3), false);
    for machine in &machines {
        machine.until_it_knows(&[(1, false), (2, false), (3, false)]).await;
    }
}

/// When each list of the first node came, and what it was.
async fn history() -> Vec<(BootInstant, Vec<(u64, bool)>)> {
    let (seams, world) = (Seams::simulated(3), Simulated::default());
    let start = seams.clock.now();
    let mut machines = Vec::new();
    for number in 1..=5 {
        machines.push(Machine::start(&world, &seams, number, CLUSTER).await);
        seams.spawner.sleep(Duration::from_millis(31 * number)).await;
    }
    let mut heard = machines[0].gossip.members();
    let mut history = Vec::new();
    for turn in 0..20_u64 {
        world.set_cut(&address(turn % 4 + 2), turn % 3 != 0);
        let pause = seams.spawner.sleep(Duration::from_millis(777));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                biased;
                _ = heard.changed() => {
                    heard.borrow_and_update();
                    let since_start = BootInstant(seams.clock.now().since(start).as_nanos() as u64);
                    history.push((since_start, machines[0].knows()));
                }
                () = &mut pause => break,
            }
        }
    }
    history
}

#[tokio::test(start_paused = true)]
async fn the_twin_does_the_same_every_time() {
    let first = history().await;
    assert!(first.len() > 10, "{first:?}");
    assert_eq!(first, history().await);
}
