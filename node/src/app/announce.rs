//! What the node says of itself by gossip, once a second and when its state or the plan changes, and what it makes of the
//! members that it hears of: addresses for its connections and for gateways.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::{NodeId, ShardId};
use berth_shared::report::{Load, Member, NodeState};
use berth_shared::seam::{BootInstant, Seams};
use tokio::sync::watch;

use super::place::Place;
use super::stages::Stage;
use crate::cluster::membership::Facts;
use crate::cluster::plan::Plan;
use crate::config::{Config, SOFTWARE};
use crate::metrics::Metrics;
use crate::shard::group::Status;

/// At most so often anything is said, but for a new state or plan.
const INTERVAL: Duration = Duration::from_secs(1);
/// Load is a mean over this many intervals.
const MEAN_OVER: usize = 5;
/// Processor time is told in steps of this many hundredths.
const CPU_STEP: u32 = 5;

/// Says what is so, until it is dropped.
pub(super) struct Announcer {
    pub(super) place: Arc<Place>,
    pub(super) config: Config,
    pub(super) metrics: Metrics,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) seams: Seams,
}

impl Announcer {
    pub(super) async fn run(mut self) {
        let (mut meter, mut plan) = (Meter::default(), self.place.plans.watch());
        loop {
            let (clock, metrics) = (&self.seams.clock, &self.metrics);
            let sample = Sample {
                at: clock.now(),
                processor: clock.processor_time(),
                requests: metrics.commands.value() + metrics.reads.value(),
            };
            let load = meter.load(sample, self.place.resident_bytes());
            let state = self.stage.borrow_and_update().state();
            // Others ask this node for a plan as soon as they hear that it knows a newer one.
            plan.borrow_and_update();
            self.place.gossip.publish(facts(&self.place, &self.config, state, load));
            let changed = async {
                tokio::select! {
                    biased;
                    changed = self.stage.changed() => changed,
                    changed = plan.changed() => changed,
                }
            };
            if matches!(self.seams.spawner.timeout(INTERVAL, changed).await, Some(Err(_))) {
                return;
            }
        }
    }
}

pub(super) fn facts(place: &Place, config: &Config, state: NodeState, load: Load) -> Facts {
    Facts {
        address: place.identity.address.clone(),
        zone: config.zone.clone(),
        state,
        plan: place.plans.epoch(),
        unsettled: place.unsettled(),
        weight: config.weight(),
        version: SOFTWARE.to_owned(),
        load,
        led: place.owners.led(),
        system: place.hosting.system().and_then(|system| system.group.term()),
    }
}

/// Whether a shard's group has exactly the voters that the plan wants, and all of them live.
pub(super) fn is_settled(plan: &Plan, shard: ShardId, group: &Status, is_live: impl Fn(NodeId) -> bool) -> bool {
    let planned: BTreeSet<NodeId> = plan.replicas_of(shard).map(|member| member.node).collect();
    let voters: BTreeSet<NodeId> = group.voters.iter().copied().collect();
    planned == voters && group.learners.is_empty() && voters.into_iter().all(is_live)
}

/// Makes the members that gossip knows known to connections and gateways, and forgets those that gossip has forgotten and no
/// plan names. Until it is dropped.
pub(super) async fn follow(place: Arc<Place>) {
    let mut members = place.gossip.members();
    let mut learned: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        let heard: Vec<Member> = members.borrow_and_update().addresses();
        heard.iter().for_each(|member| place.peers.learn(member.node, &member.address));
        place.owners.set_heard(&heard);
        let listed: BTreeSet<NodeId> = heard.iter().map(|member| member.node).collect();
        for gone in learned.difference(&listed) {
            let is_founder = place.identity.record().is_some_and(|record| record.names(*gone));
            if !is_founder && !place.owners.is_planned(*gone) {
                place.peers.forget(*gone);
            }
        }
        learned = listed;
        if members.changed().await.is_err() {
            return;
        }
    }
}

/// Makes rates of what is only ever counted.
#[derive(Debug, Default)]
struct Meter {
    /// The oldest first.
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: BootInstant,
    processor: Duration,
    requests: u64,
}

impl Meter {
    fn load(&mut self, newest: Sample, resident_bytes: usize) -> Load {
        self.samples.push_back(newest);
        if self.samples.len() > MEAN_OVER + 1 {
            self.samples.pop_front();
        }
        let oldest = self.samples.front().copied().unwrap_or(newest);
        let passed = newest.at.since(oldest.at).as_micros().max(1);
        let worked = newest.processor.saturating_sub(oldest.processor).as_micros();
        let requests = u128::from(newest.requests.saturating_sub(oldest.requests));
        let cpu_percent = u32::try_from(worked * 100 / passed).unwrap_or(u32::MAX / 2);
        Load {
            cpu_percent: cpu_percent.saturating_add(CPU_STEP / 2) / CPU_STEP * CPU_STEP,
            resident_bytes: two_digits(resident_bytes as u64),
            requests_per_second: two_digits(u64::try_from(requests * 1_000_000 / passed).unwrap_or(u64::MAX)),
        }
    }
}

/// The number, rounded to its first two digits.
fn two_digits(number: u64) -> u64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    (number / unit * unit).saturating_add(if number % unit * 2 >= unit { unit } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plan::{Candidate, SYSTEM_SHARD};

    #[test]
    fn load_is_a_mean_over_seconds_and_the_same_when_nothing_much_changes() {
        let mut meter = Meter::default();
        let sample = |second: u64, processor_millis: u64, requests: u64| Sample {
            at: BootInstant(second * 1_000_000_000),
            processor: Duration::from_millis(processor_millis),
            requests,
        };
        assert_eq!(meter.load(sample(10, 900, 70), 0), Load::default(), "one sample is no rate");
        let busy = meter.load(sample(11, 2403, 10_150), 1_234_567);
        assert_eq!(busy, Load { cpu_percent: 150, resident_bytes: 1_200_000, requests_per_second: 10_000 });
        for second in 12..=16 {
            meter.load(sample(second, 2403, 10_150), 0);
        }
        assert_eq!(meter.load(sample(17, 2403, 10_150), 0), Load::default(), "five quiet seconds");
        assert_eq!(meter.samples.len(), MEAN_OVER + 1);
    }

    #[test]
    fn a_shard_is_settled_where_exactly_the_planned_voters_are_and_live() {
        let member = |n: u64| Candidate::from(Member { node: NodeId(n), address: format!("n{n}:1") });
        let first = Plan::first(&(1..=4).map(member).collect::<Vec<_>>(), 1, 3);
        let plan = first.next(&(1..=3).map(member).collect::<Vec<_>>()).unwrap();
        let (three, all) = ([3, 1, 2].map(NodeId).to_vec(), [1, 2, 3, 4].map(NodeId).to_vec());
        let group = |voters: &Vec<NodeId>| Status { voters: voters.clone(), ..Status::default() };
        for shard in [ShardId(0), SYSTEM_SHARD] {
            assert!(is_settled(&plan, shard, &group(&three), |_| true));
            assert!(!is_settled(&plan, shard, &group(&three), |node| node != NodeId(3)));
            assert!(!is_settled(&plan, shard, &group(&three[..2].to_vec()), |_| true));
            assert!(!is_settled(&plan, shard, &group(&all), |_| true));
            let learning = Status { learners: vec![NodeId(4)], ..group(&three) };
            assert!(!is_settled(&plan, shard, &learning, |_| true));
        }
    }

    #[test]
    fn numbers_are_rounded_to_two_digits() {
        for (number, rounded) in [
            (0, 0),
            (7, 7),
            (99, 99),
            (104, 100),
            (105, 110),
            (12_499, 12_000),
            (12_500, 13_000),
            (u64::MAX, 18_000_000_000_000_000_000),
        ] {
            assert_eq!(two_digits(number), rounded);
        }
    }
}
