//! Bugs that are planted in the programs, which must be noticed. Here are those that the first seeds come to;
//! `berth-simulate --planted all` looks for every one of them.

use berth_shared::planted::Bug;
use berth_simulation::planted::{search, without};

/// Seeds that are run at most for each.
const SEEDS_MAX: u64 = 10;

fn is_noticed(bug: Bug) {
    let caught = search(bug, 1..SEEDS_MAX + 1).unwrap_or_else(|| panic!("{} is not noticed", bug.name()));
    assert_eq!(without(&caught), None, "seed {} is wrong without {} too", caught.seed, bug.name());
}

#[test]
fn an_acknowledgement_before_the_commit_is_noticed() {
    is_noticed(Bug::AcknowledgeBeforeCommit);
}

#[test]
fn records_on_another_version_than_they_were_decided_on_are_noticed() {
    is_noticed(Bug::DropBaseVersionCheck);
}

#[test]
fn members_that_vote_before_they_have_caught_up_are_noticed() {
    is_noticed(Bug::SkipCatchUp);
}

#[test]
fn two_clusters_of_one_deployment_are_noticed() {
    is_noticed(Bug::TwoClusters);
}

#[test]
fn decisions_on_what_another_term_left_over_are_noticed() {
    is_noticed(Bug::DecideOnLeftovers);
}

#[test]
fn sessions_that_read_what_is_older_than_they_know_are_noticed() {
    is_noticed(Bug::IgnoreSessionToken);
}

#[test]
fn retries_that_are_other_requests_are_noticed() {
    is_noticed(Bug::RetryWithoutKey);
}
