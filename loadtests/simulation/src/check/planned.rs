//! A plan is made when a node comes, goes, is given up or comes back, and for nothing else: who flaps moves nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Absence, Changes, History, Violation};

const PROMISE: &str = "few plans";
/// What a node may take to be heard and connected again when it could be.
const RETURN_MAX: Duration = Duration::from_millis(2500);
/// By how much a node may seem silent for longer than it is away.
const SLACK: Duration = Duration::from_secs(1);

pub(super) fn check(history: &History) -> Vec<Violation> {
    let (epoch, changes) = (history.observed.plan_epoch, &history.observed.changes);
    let explained = explained(changes);
    if epoch <= explained {
        return Vec::new();
    }
    vec![Violation::new(
        PROMISE,
        format!("there were {epoch}, and no more than {explained} are explained by {changes:?}"),
    )]
}

/// The first plan, and those that changes may make.
fn explained(changes: &Changes) -> u64 {
    let mut by_host: BTreeMap<&str, Vec<&Absence>> = BTreeMap::new();
    for absence in &changes.absences {
        by_host.entry(&absence.host).or_default().push(absence);
    }
    let given_up: u64 = by_host.into_values().map(|absences| long(absences, changes.replace_after)).sum();
    // Whoever is given up may come back; who loses its disk is given up, and another one comes.
    1 + changes.joined + changes.left + 2 * changes.replaced + 2 * given_up
}

/// How often the host was away for so long that others may have given it up.
fn long(mut absences: Vec<&Absence>, replace_after: Duration) -> u64 {
    absences.sort_unstable();
    let (long, return_max) = (replace_after.saturating_sub(SLACK).as_nanos() as u64, RETURN_MAX.as_nanos() as u64);
    let (mut count, mut current) = (0, None);
    for absence in absences {
        let (from, until) = match current {
            Some((from, until)) if absence.from <= until + return_max => (from, absence.until.max(until)),
            Some((from, until)) => {
                count += u64::from(until - from >= long);
                (absence.from, absence.until)
            }
            None => (absence.from, absence.until),
        };
        current = Some((from, until));
    }
    count + current.map_or(0, |(from, until)| u64::from(until - from >= long))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(host: &str, from_millis: u64, until_millis: u64) -> Absence {
        Absence { host: host.to_owned(), from: from_millis * 1_000_000, until: until_millis * 1_000_000 }
    }

    fn changes(absences: Vec<Absence>) -> Changes {
        Changes { replace_after: Duration::from_secs(3), absences, ..Changes::default() }
    }

    #[test]
    fn only_what_lasts_makes_a_node_be_given_up_and_come_back() {
        assert_eq!(explained(&changes(vec![away("a", 0, 1500), away("a", 9000, 10_500)])), 1);
        assert_eq!(explained(&changes(vec![away("a", 0, 1500), away("b", 1000, 2500)])), 1);
        assert_eq!(explained(&changes(vec![away("a", 0, 3500)])), 3);
        assert_eq!(explained(&changes(vec![away("a", 3000, 4500), away("a", 1000, 1500)])), 3, "it hardly returns");
        assert_eq!(explained(&changes(vec![away("a", 0, 9000), away("a", 3000, 4000)])), 3);
    }

    #[test]
    fn a_plan_without_a_reason_is_noticed() {
        let mut history = History::default();
        history.observed.changes = Changes { joined: 1, left: 1, ..changes(Vec::new()) };
        history.observed.plan_epoch = 3;
        assert_eq!(check(&history), []);
        history.observed.plan_epoch = 4;
        assert_eq!(check(&history).len(), 1);
    }
}
