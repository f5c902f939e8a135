//! What seeds stand for.

use super::*;

#[test]
fn a_seed_always_stands_for_the_same_plan_and_another_for_another() {
    assert_eq!(Plan::new(7), Plan::new(7));
    assert_ne!(Plan::new(7), Plan::new(8));
}

#[test]
fn what_is_cut_is_mended_and_only_one_thing_at_a_time_is_wrong_with_a_link() {
    for seed in 0..300 {
        let mut open: Vec<Cut> = Vec::new();
        for Scheduled { action, .. } in Plan::new(seed).actions {
            match action {
                Action::Cut(cut) => {
                    let same = |other: &Cut| {
                        (&other.from, &other.to) == (&cut.from, &cut.to)
                            || (&other.from, &other.to) == (&cut.to, &cut.from)
                    };
                    assert!(!open.iter().any(same), "seed {seed}: {cut:?}");
                    open.push(cut);
                }
                Action::Mend(cut) => open.retain(|other| *other != cut),
                _ => {}
            }
        }
        assert!(open.is_empty(), "seed {seed}: {open:?}");
    }
}

#[test]
fn every_kind_of_fault_is_drawn() {
    let actions: Vec<String> =
        (0..50).flat_map(|seed| Plan::new(seed).actions).map(|scheduled| format!("{:?}", scheduled.action)).collect();
    for part in [
        "Kill",
        "PowerCut",
        "PowerGoesAfter",
        "Start",
        "Both",
        "OneWay",
        "Held",
        "Mend",
        "SlowDisk",
        "gateway",
        "Wipe",
        "Rot",
        "Lose",
        "Repeat",
        "SetWallClock",
        "Full",
        "SyncFails",
        "Join",
        "Leave",
        "Replace",
        "CutGossip",
        "MendGossip",
        "Source",
        "Target",
        "Third",
    ] {
        assert!(actions.iter().any(|action| action.contains(part)), "{part}");
    }
}
