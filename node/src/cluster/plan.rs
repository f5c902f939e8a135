//! The plan: which node owns each shard, as a function of the members. Pure, and the same on every node.

use std::collections::BTreeMap;

use berth_shared::ids::ShardId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Spreads `shards` over `members` (peer addresses), evenly within one shard. Among members that still have room, the
/// highest rendezvous weight wins (Thaler and Ravishankar 1998), so that owners do not follow the order of the list.
pub fn owners(members: &[String], shards: u16) -> BTreeMap<ShardId, &str> {
    let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
    members.sort_unstable();
    members.dedup();
    if members.is_empty() {
        return BTreeMap::new();
    }
    let (share, extra) = (usize::from(shards) / members.len(), usize::from(shards) % members.len());
    let mut owned = vec![0; members.len()];
    let mut with_extra = 0;
    let mut owners = BTreeMap::new();
    for shard in (0..shards).map(ShardId) {
        let has_room = |member: &usize| owned[*member] < share || (owned[*member] == share && with_extra < extra);
        let weight = |member: &usize| xxh3_64_with_seed(members[*member].as_bytes(), u64::from(shard.0));
        let Some(winner) = (0..members.len()).filter(has_room).max_by_key(weight) else { break };
        if owned[winner] == share {
            with_extra += 1;
        }
        owned[winner] += 1;
        owners.insert(shard, members[winner]);
    }
    owners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:7400")).collect()
    }

    proptest! {
        #[test]
        fn every_shard_has_one_owner_and_owners_are_even_within_one(count in 1_usize..40, shards in 1_u16..1000) {
            let members = members(count);
            let owners = owners(&members, shards);
            prop_assert_eq!(owners.len(), usize::from(shards));
            let mut owned: BTreeMap<&str, usize> = members.iter().map(|m| (m.as_str(), 0)).collect();
            owners.values().for_each(|owner| *owned.get_mut(owner).unwrap() += 1);
            let (least, most) = (owned.values().min().unwrap(), owned.values().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", owned);
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(count in 1_usize..20, turn in 0_usize..20) {
            let members = members(count);
            let mut turned = members.clone();
            turned.rotate_left(turn % count);
            prop_assert_eq!(owners(&members, 64), owners(&turned, 64));
        }
    }
}
