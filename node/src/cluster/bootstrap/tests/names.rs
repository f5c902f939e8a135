//! Whole nodes whose only seed is a name: DNS lists them early or late, not all at once, or more of them than are needed.

use std::time::Duration;

use super::machines::{SEED_NAME, World, ip};
use crate::cluster::identity::Role;

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn nodes_of_one_name_are_one_cluster_soon_after_dns_lists_them() {
    for count in [1, 3, 5] {
        let mut world = World::named(1, count, count);
        world.list(0..count);
        world.start_all();
        assert!(world.joins_within(Duration::from_secs(4)).await, "{:?}", world.identities());
        world.common_record();
    }
}

/// Starting in any order, one of them late, some killed or without power in the middle; DNS lists each of them a while before or
/// after it starts, and some no more while they are away.
#[tokio::test(start_paused = true)]
async fn exactly_one_cluster_comes_of_every_one_of_200_starts_through_one_name() {
    for seed in 0..200 {
        let count = if seed % 2 == 0 { 3 } else { 5 };
        let mut world = World::named(seed, count, count);
        let late = world.below(count as u64) as usize;
        let mut starts: Vec<u64> = (0..count).map(|_| world.below(1_000)).collect();
        starts[late] = 3_000 + world.below(10_000);
        let mut listed: Vec<u64> = starts.iter().map(|at| (at + world.below(3_000)).saturating_sub(1_000)).collect();
        let mut kills: Vec<(u64, usize)> = Vec::new();
        for victim in 0..count {
            match world.below(3) {
                0 => world.machines[victim].disk.cut_power_after(world.below(3)),
                // A cluster forms some seconds after the last one is there.
                1 => kills.push((starts[late] + world.below(6_000), victim)),
                _ => {}
            }
        }
        for tick in (0..20_000).step_by(10) {
            for (number, start) in starts.iter().enumerate() {
                if (tick..tick + 10).contains(start) {
                    world.start(number);
                }
            }
            for (_, victim) in kills.extract_if(.., |(at, _)| (tick..tick + 10).contains(at)) {
                if world.machines[victim].is_running() {
                    world.machines[victim].kill().await;
                    starts[victim] = tick + 10 + world.below(1_000);
                    if world.below(2) == 0 {
                        listed[victim] = starts[victim] + world.below(1_000);
                    }
                }
            }
            world.list((0..count).filter(|number| listed[*number] <= tick));
            world.pass(Duration::from_millis(10)).await;
            world.restart_after_power_cuts().await;
        }
        world.list(0..count);
        assert!(world.joins_within(MINUTE).await, "seed {seed}: {:?}", world.identities());
        world.common_record();
    }
}

/// Three of five are enough, and DNS tells everybody something else all the time.
#[tokio::test(start_paused = true)]
async fn more_nodes_than_are_expected_never_become_two_clusters() {
    let (mut whole, mut larger) = (0, 0);
    for seed in 0..150 {
        let mut world = World::named(seed, 5, 3);
        let starts: Vec<u64> = (0..5).map(|_| world.below(12_000)).collect();
        for tick in (0..30_000).step_by(250) {
            for (number, start) in starts.iter().enumerate() {
                if (tick..tick + 250).contains(start) {
                    world.start(number);
                }
            }
            // What is listed stays listed for some seconds, or nothing would ever settle.
            if tick % 5_000 == 0 {
                let listed: Vec<usize> = (0..5).filter(|_| world.below(4) > 0).collect();
                world.list(listed);
            }
            world.pass(Duration::from_millis(250)).await;
            assert!(world.clusters().len() <= 1, "seed {seed}: {:?}", world.identities());
        }
        world.list(0..5);
        whole += usize::from(world.joins_within(MINUTE).await);
        assert!(world.clusters().len() <= 1, "seed {seed}: {:?}", world.identities());
        let members = world.identities().iter().filter_map(|identity| Some(identity.record()?.members.len())).max();
        assert!(members.is_none_or(|members| members >= 3), "{members:?}");
        larger += usize::from(members > Some(3));
    }
    assert!(whole > 140 && larger > 20, "{whole} became whole, {larger} began with more than three");
}

#[tokio::test(start_paused = true)]
async fn all_that_are_listed_and_silent_are_waited_for_but_not_for_ever() {
    let mut world = World::named(3, 5, 3);
    world.list(0..5);
    (0..3).for_each(|number| world.start(number));
    world.pass(Duration::from_secs(25)).await;
    assert!(world.clusters().is_empty(), "there may be a cluster that does not answer");
    world.pass(Duration::from_secs(15)).await;
    assert_eq!(world.clusters().len(), 1);
    (3..5).for_each(|number| world.start(number));
    assert!(world.joins_within(MINUTE).await);
    let roles: Vec<_> = world.identities().iter().map(|identity| identity.role().unwrap()).collect();
    assert_eq!(roles, [Role::Member, Role::Member, Role::Member, Role::Joining, Role::Joining]);
}

#[tokio::test(start_paused = true)]
async fn one_node_with_several_addresses_counts_once() {
    for (expect, members) in [(2, Some(2)), (3, None)] {
        let mut world = World::named(4, 2, expect);
        for number in 0..2 {
            world.rename(number, &format!("{}:7400", ip(100 + number)));
        }
        world.list([0, 1, 100, 101]);
        world.start_all();
        assert_eq!(world.joins_within(MINUTE).await, members.is_some(), "{:?}", world.identities());
        if let Some(members) = members {
            assert_eq!(world.common_record().members.len(), members);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_known_by_a_name_of_its_own_finds_itself_by_asking() {
    let mut world = World::named(5, 0, 0);
    for number in 0..3 {
        let machine = world.add(format!("pod-{number}:7400"), vec![SEED_NAME.to_owned()], 3);
        world.rename(machine, &format!("{}:7400", ip(machine)));
    }
    world.list(0..3);
    world.start_all();
    assert!(world.joins_within(MINUTE).await, "{:?}", world.identities());
    let record = world.common_record();
    let mut addresses: Vec<&str> = record.members.iter().map(|member| member.address.as_str()).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["pod-0:7400", "pod-1:7400", "pod-2:7400"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dns_does_not_list_begins_no_cluster_and_waits_to_be_listed() {
    let mut world = World::named(6, 3, 2);
    world.list([1]);
    world.start_all();
    world.pass(MINUTE).await;
    assert!(world.clusters().is_empty(), "{:?}", world.identities());
    world.list(0..3);
    assert!(world.joins_within(MINUTE).await);
    assert_eq!(world.common_record().members.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn fresh_nodes_join_the_cluster_that_their_name_leads_to_though_dns_fails_meanwhile() {
    let mut world = World::named(7, 6, 3);
    world.list(0..3);
    (0..3).for_each(|number| world.start(number));
    world.pass(Duration::from_secs(20)).await;
    assert_eq!(world.clusters().len(), 1);
    // As many new pods as a first start expects.
    world.list(0..6);
    (3..6).for_each(|number| world.start(number));
    world.pass(Duration::from_millis(50)).await;
    world.dns.as_ref().unwrap().set_down(true);
    assert!(world.joins_within(MINUTE).await);
    assert_eq!(world.clusters().len(), 1);
    assert_eq!(world.machines[4].identity().unwrap().role(), Some(Role::Joining));
}
