//! The newest committed plan, as this node knows it. Whoever hosts the system shard hears of it from its own replica; all others
//! ask a member that says by gossip that it knows a newer one. A plan that is late does no harm: whatever is done by a plan
//! is done by the newest that is known, and checked by who must agree to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::ids::NodeId;
use berth_shared::peer::{self, Class};
use berth_shared::seam::{Random, Seams};
use tokio::sync::watch;

use super::membership::Members;
use super::plan::Plan;
use crate::transport::peers::Peers;
use crate::transport::wire::NodeRequest;

/// How long one member is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Pause when no member that should know a newer plan gave one.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Keeps the plan with the highest epoch of those that it is offered. Clones are the same.
#[derive(Clone, Debug)]
pub struct Plans {
    newest: Arc<watch::Sender<Option<Arc<Plan>>>>,
}

impl Default for Plans {
    fn default() -> Self {
        Self { newest: Arc::new(watch::Sender::new(None)) }
    }
}

impl Plans {
    /// Takes a committed plan, and says whether it is news.
    pub fn offer(&self, plan: Plan) -> bool {
        self.newest.send_if_modified(|known| {
            let is_new = plan.epoch > known.as_ref().map_or(0, |known| known.epoch);
            if is_new {
                let (epoch, shards, members) = (plan.epoch, plan.shards(), plan.members().len());
                tracing::info!(epoch, shards, members, "a plan is in force");
                *known = Some(Arc::new(plan));
            }
            is_new
        })
    }

    pub fn newest(&self) -> Option<Arc<Plan>> {
        self.newest.borrow().clone()
    }

    /// Of the newest plan; 0 before there is one.
    pub fn epoch(&self) -> u64 {
        self.newest.borrow().as_ref().map_or(0, |plan| plan.epoch)
    }

    /// The newest plan as it changes; `None` before the first.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.newest.subscribe()
    }
}

/// Asks members for the plan whenever one of them knows a newer one. It never ends by itself, unless `members` does.
pub async fn pull(plans: Plans, mut members: watch::Receiver<Arc<Members>>, peers: Peers, seams: Seams) {
    let mut asked = BTreeSet::new();
    loop {
        let newer = knowing_more(&members.borrow_and_update(), plans.epoch());
        if newer.is_empty() {
            // What is committed here meanwhile makes only less to ask for.
            if members.changed().await.is_err() {
                return;
            }
            continue;
        }
        let open: Vec<NodeId> = newer.iter().copied().filter(|node| !asked.contains(node)).collect();
        let Some(node) = pick(&open, &*seams.random) else {
            asked.clear();
            seams.spawner.sleep(RETRY_PAUSE).await;
            continue;
        };
        asked.insert(node);
        match ask(node, &peers, &seams).await {
            Ok(Some(plan)) if plan.is_sound() => {
                if plans.offer(plan) {
                    asked.clear();
                }
            }
            Ok(Some(_)) => tracing::error!(%node, "a member's plan names members that it does not have"),
            Ok(None) => {}
            Err(why) => tracing::debug!(%node, "a member did not tell its plan: {why}"),
        }
    }
}

/// Whoever says that it knows a plan of a higher epoch, and is heard.
fn knowing_more(members: &Members, epoch: u64) -> Vec<NodeId> {
    let knows_more = members.iter().filter(|member| member.suspected.is_none() && member.facts.plan > epoch);
    knows_more.map(|member| member.node).collect()
}

/// Any of them, so that not all ask the same one.
fn pick(nodes: &[NodeId], random: &dyn Random) -> Option<NodeId> {
    let place = random.next_u64().checked_rem(nodes.len() as u64)?;
    nodes.get(usize::try_from(place).ok()?).copied()
}

/// Over the connection for bulk: a large plan must not hold up votes.
async fn ask(node: NodeId, peers: &Peers, seams: &Seams) -> Result<Option<Plan>, String> {
    let request = peer::encode(&NodeRequest::Plan).map_err(|error| error.to_string())?;
    let deadline = seams.clock.now() + ANSWER_MAX;
    let answer = peers.call(node, Class::Bulk, request, deadline).await.map_err(|error| error.to_string())?;
    peer::decode(&answer).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use berth_shared::ids::ClusterId;
    use berth_shared::peer::{Handler, Identity, Incoming, Role, server};
    use berth_shared::report::{self, Edition, Load, NodeState};
    use berth_shared::seam::BootInstant;
    use bytes::Bytes;
    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cluster::membership::{Facts, Member};
    use crate::cluster::plan::Candidate;

    fn plan(epoch: u64) -> Plan {
        let members = (0..4).map(|n| Candidate::from(report::Member { node: NodeId(n), address: format!("n{n}:1") }));
        let mut plan = Plan::first(&members.collect::<Vec<_>>(), 8, 3);
        plan.epoch = epoch;
        plan
    }

    fn members(plans: &[(u64, u64, bool)], clock: BootInstant) -> Arc<Members> {
        let member = |(number, plan, is_heard): &(u64, u64, bool)| Member {
            node: NodeId(*number),
            facts: Arc::new(Facts {
                address: format!("n{number}:1"),
                zone: None,
                state: NodeState::Ready,
                plan: *plan,
                unsettled: 0,
                weight: NonZeroU32::MIN,
                version: "test/1".to_owned(),
                load: Load::default(),
                led: vec![],
                system: None,
            }),
            edition: Edition::default(),
            suspected: (!is_heard).then_some(clock),
        };
        Arc::new(plans.iter().map(member).collect())
    }

    fn identity(node: u64) -> Identity {
        let (software, cluster) = ("test".to_owned(), Some(ClusterId(1)));
        Identity { role: Role::Node, node: Some(NodeId(node)), cluster, software, credential: None }
    }

    /// Answers with its plan; counts how often.
    struct Knowing {
        plan: Mutex<Option<Plan>>,
        asked: Mutex<usize>,
    }

    impl Handler for Knowing {
        fn handle(&self, incoming: Incoming) {
            assert_eq!(peer::decode::<NodeRequest<'_>>(&incoming.payload).unwrap(), NodeRequest::Plan);
            *self.asked.lock() += 1;
            incoming.reply.send(peer::encode(&*self.plan.lock()).unwrap());
        }
    }

    /// Takes every request and answers none.
    struct Mute(Mutex<Vec<peer::Reply>>);

    impl Handler for Mute {
        fn handle(&self, incoming: Incoming) {
            self.0.lock().push(incoming.reply);
        }
    }

    async fn serve(seams: &Seams, node: u64, handler: Arc<dyn Handler>) {
        let listener = seams.network.listen(&format!("n{node}:1")).await.unwrap();
        let (config, until) = (server::Config::default(), CancellationToken::new());
        seams.spawner.spawn(peer::serve(seams.clone(), config, listener, identity(node), handler, until));
    }

    #[test]
    fn the_highest_epoch_wins() {
        let plans = Plans::default();
        assert_eq!((plans.epoch(), plans.newest()), (0, None));
        assert!(plans.offer(plan(3)) && !plans.offer(plan(3)) && !plans.offer(plan(2)));
        let mut watch = plans.watch();
        assert_eq!(watch.borrow_and_update().as_ref().unwrap().epoch, 3);
        assert!(!plans.offer(Plan::default()) && !watch.has_changed().unwrap());
        assert!(plans.clone().offer(plan(7)) && watch.has_changed().unwrap());
        assert_eq!(plans.epoch(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn the_plan_is_asked_of_whoever_knows_a_newer_one() {
        let seams = Seams::simulated(3);
        let now = seams.clock.now();
        let knowing = Arc::new(Knowing { plan: Mutex::new(None), asked: Mutex::new(0) });
        serve(&seams, 2, knowing.clone()).await;
        serve(&seams, 3, Arc::new(Mute(Mutex::default()))).await;
        let peers = Peers::new(seams.clone(), identity(1));
        (2..=5).for_each(|node| peers.learn(NodeId(node), &format!("n{node}:1")));
        let (plans, sender) = (Plans::default(), watch::Sender::new(members(&[(1, 0, true), (2, 0, true)], now)));
        seams.spawner.spawn(pull(plans.clone(), sender.subscribe(), peers, seams.clone()));
        seams.spawner.sleep(Duration::from_secs(60)).await;
        assert_eq!(*knowing.asked.lock(), 0, "nobody knows any");

        // One does not answer, one is not there, one is not heard, and one has none to give after all.
        let all =
            |epoch| members(&[(1, 0, true), (2, epoch, true), (3, epoch, true), (4, epoch, true), (5, 9, false)], now);
        sender.send_replace(all(4));
        seams.spawner.sleep(Duration::from_secs(30)).await;
        assert!((5..=30).contains(&*knowing.asked.lock()), "asked {} times", knowing.asked.lock());
        *knowing.plan.lock() = Some(plan(4));
        let mut watch = plans.watch();
        let found = seams.spawner.timeout(Duration::from_secs(5), watch.wait_for(Option::is_some)).await;
        assert_eq!(found.unwrap().unwrap().as_deref(), Some(&plan(4)));

        // Nothing more is asked until there is more to know.
        let asked = *knowing.asked.lock();
        seams.spawner.sleep(Duration::from_secs(60)).await;
        assert_eq!(*knowing.asked.lock(), asked);
        *knowing.plan.lock() = Some(plan(5));
        sender.send_replace(all(5));
        let newer = |plan: &Option<Arc<Plan>>| plan.as_ref().is_some_and(|plan| plan.epoch == 5);
        assert!(seams.spawner.timeout(Duration::from_secs(5), watch.wait_for(newer)).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_plan_fits_into_an_answer() {
        let seams = Seams::simulated(4);
        let address = format!("{}:65535", "h".repeat(253));
        let nodes =
            (0..1000).map(|n| Candidate::from(report::Member { node: NodeId(u64::MAX - n), address: address.clone() }));
        let largest = Plan::first(&nodes.collect::<Vec<_>>(), 16_384, 5);
        let bytes: Bytes = peer::encode(&Some(&largest)).unwrap();
        assert!(bytes.len() < 700_000, "{} bytes", bytes.len());
        let knowing = Arc::new(Knowing { plan: Mutex::new(Some(largest.clone())), asked: Mutex::new(0) });
        serve(&seams, 2, knowing).await;
        let peers = Peers::new(seams.clone(), identity(1));
        peers.learn(NodeId(2), "n2:1");
        assert_eq!(ask(NodeId(2), &peers, &seams).await.unwrap(), Some(largest));
    }
}
