//! Requests while shards change owner: every one ends in its outcome within its deadline, exactly once, whatever becomes of
//! the old owner and of the news about the new one. Time is paused, so the times here are exact.

use std::sync::Arc;
use std::time::Duration;

use berth_gateway::{Config, Handle};
use berth_shared::problem::Code;
use berth_shared::seam::{BootInstant, Seams};
use tokio::task::JoinHandle;

use crate::frost::Frost;
use crate::twin::{Answer, CLUSTER, Does, Replicated, SHARDS, Twin, ask, gateway, gateway_at, owners};
use crate::{ADD, ADMIN, ALICE, PUBLIC, shard_of_alice};

const FIRST: &str = "node-1:1";
const SECOND: &str = "node-2:1";
const THIRD: &str = "node-3:1";

/// Three nodes with one replicated state that the first owns, and a gateway that is connected to all.
struct Cluster {
    seams: Seams,
    nodes: Vec<Twin>,
    replicated: Arc<Replicated>,
    gateway: Handle,
    started: BootInstant,
}

/// One entity may have as many requests as there are: it is the only one here.
fn to_all() -> Config {
    let in_flight_per_entity_max = Config::default().in_flight_max;
    Config { nodes: [FIRST, SECOND, THIRD].map(str::to_owned).to_vec(), in_flight_per_entity_max, ..Config::default() }
}

impl Cluster {
    async fn start() -> Self {
        Self::start_on(Seams::simulated(1), to_all()).await
    }

    async fn start_on(seams: Seams, config: Config) -> Self {
        let replicated = Arc::new(Replicated::default());
        let first_owners = replicated.elect(FIRST, 1);
        let mut nodes = Vec::new();
        for address in [FIRST, SECOND, THIRD] {
            let node = Twin::start(&seams, address, CLUSTER, SHARDS, vec![]).await;
            node.does(Does::Serve(replicated.clone()));
            nodes.push(node);
        }
        nodes[0].learn(first_owners);
        let gateway = gateway(&seams, config).await;
        gateway.ready().await;
        seams.spawner.sleep(Duration::from_millis(5)).await;
        let started = seams.clock.now();
        Self { seams, nodes, replicated, gateway, started }
    }

    async fn sleep_ms(&self, ms: u64) {
        self.seams.spawner.sleep(Duration::from_millis(ms)).await;
    }

    fn elapsed(&self) -> Duration {
        self.seams.clock.now().since(self.started)
    }

    /// A command in a task of its own, with when it was answered.
    fn command(&self, headers: &[(&'static str, &str)]) -> JoinHandle<(Answer, Duration)> {
        self.command_through(PUBLIC, headers)
    }

    fn command_through(
        &self,
        gateway: &'static str,
        headers: &[(&'static str, &str)],
    ) -> JoinHandle<(Answer, Duration)> {
        let (seams, started) = (self.seams.clone(), self.started);
        let headers: Vec<(&str, String)> = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.seams.spawner.spawn(async move {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = ask(&seams, "POST", gateway, ADD, &headers, "{}").await;
            (answer, seams.clock.now().since(started))
        })
    }

    fn commands(&self, count: usize) -> Vec<JoinHandle<(Answer, Duration)>> {
        (0..count).map(|_| self.command(&[])).collect()
    }

    /// The second node takes over, and says so to whoever is connected to it, or only to whoever asks.
    fn take_over(&self, term: u64, pushes: bool) {
        let owners = self.replicated.elect(SECOND, term);
        self.nodes[1].learn(owners.clone());
        if pushes {
            self.nodes[1].push(SHARDS, owners);
        }
    }

    /// How often the gateway made an attempt with this result.
    async fn attempts(&self, result: &str) -> u64 {
        let page = ask(&self.seams, "GET", ADMIN, "/metrics", &[], "").await;
        let line = format!("berth_gateway_node_calls_total{{result=\"{result}\",role=\"gateway\"}} ");
        let count = page.text().lines().find_map(|metric| metric.strip_prefix(&line));
        count.unwrap().parse().unwrap()
    }
}

/// All of them, which must be good; the slowest one's time, and how many were replays.
async fn all_good(commands: Vec<JoinHandle<(Answer, Duration)>>) -> (Duration, usize) {
    let (mut slowest, mut replays) = (Duration::ZERO, 0);
    for command in commands {
        let (answer, at) = command.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        slowest = slowest.max(at);
        replays += usize::from(answer.headers.contains_key("idempotency-replayed"));
    }
    (slowest, replays)
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Rules G1 to G3: what the dead owner had executed is replayed by the next one, what it had not is executed once.
#[tokio::test(start_paused = true)]
async fn an_owner_dies_with_requests_in_flight_and_each_takes_effect_once() {
    let mut seams = Seams::simulated(1);
    let frost = Frost::over(&mut seams);
    let cluster = Cluster::start_on(seams, to_all()).await;
    cluster.nodes[0].does(Does::ServeAndHang(cluster.replicated.clone()));
    let executed = cluster.commands(30);
    cluster.sleep_ms(10).await;
    cluster.nodes[0].does(Does::Hang);
    let unexecuted = cluster.commands(30);
    cluster.sleep_ms(90).await;
    assert_eq!(cluster.nodes[0].asked(), 60);
    frost.kill(FIRST);
    let late = cluster.commands(30);
    cluster.replicated.elect_nobody();
    cluster.sleep_ms(600).await;
    let owners = cluster.replicated.elect(SECOND, 2);
    cluster.nodes[1].push(SHARDS, owners);

    let (slowest, replays) = all_good(executed).await;
    assert_eq!(replays, 30);
    assert!(slowest < millis(720), "woken by the news, not by a clock: {slowest:?}");
    for commands in [unexecuted, late] {
        let (slowest, replays) = all_good(commands).await;
        assert_eq!(replays, 0);
        assert!(slowest < millis(720), "{slowest:?}");
    }
    assert_eq!(cluster.replicated.executed(), 90);
}

/// The old owner lives, and says nothing: an attempt at it is not waited out.
#[tokio::test(start_paused = true)]
async fn news_of_a_new_owner_cut_what_waits_for_the_old_one() {
    for does in [Does::Hang, Does::ServeAndHang(Arc::default())] {
        let cluster = Cluster::start().await;
        let executes = matches!(does, Does::ServeAndHang(_));
        cluster.nodes[0].does(if executes { Does::ServeAndHang(cluster.replicated.clone()) } else { does });
        let commands = cluster.commands(20);
        let reading = {
            let seams = cluster.seams.clone();
            cluster.seams.spawner.spawn(async move { ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status })
        };
        cluster.sleep_ms(300).await;
        cluster.take_over(2, true);
        let (slowest, replays) = all_good(commands).await;
        assert_eq!(replays, if executes { 20 } else { 0 });
        assert!(slowest < millis(310), "{slowest:?}");
        assert_eq!(reading.await.unwrap(), 200);
        assert_eq!((cluster.replicated.executed(), cluster.nodes[1].asked()), (20, 21), "one attempt each");
        // The old owner's answers come late and find nobody.
        cluster.nodes[0].answer_hanging();
        cluster.sleep_ms(10).await;
        assert_eq!(cluster.replicated.executed(), 20);
    }
}

/// A stopped node keeps its connection up; and every push about the next owner is lost.
#[tokio::test(start_paused = true)]
async fn a_stopped_owner_is_given_up_and_the_next_one_found_without_news() {
    let mut seams = Seams::simulated(1);
    let frost = Frost::over(&mut seams);
    let cluster = Cluster::start_on(seams, to_all()).await;
    cluster.sleep_ms(400).await;
    frost.freeze(FIRST);
    let commands = cluster.commands(20);
    cluster.sleep_ms(600).await;
    cluster.take_over(2, false);
    cluster.nodes[2].learn(owners(SECOND, 2));
    let (slowest, _) = all_good(commands).await;
    // An attempt alone would have taken two seconds.
    assert!((millis(1000)..millis(2050)).contains(&slowest), "{slowest:?}");
    assert_eq!(cluster.replicated.executed(), 20);
    // The next request goes to the new owner at once.
    let before = cluster.elapsed();
    let (after, _) = all_good(cluster.commands(1)).await;
    assert!(after < before + millis(5), "{before:?} {after:?}");
}

/// The limits of what may be in flight to a stopped node are limits, and end when the map knows better.
#[tokio::test(start_paused = true)]
async fn a_stopped_owner_holds_only_so_many_requests() {
    let mut seams = Seams::simulated(1);
    let frost = Frost::over(&mut seams);
    let cluster = Cluster::start_on(seams, Config { in_flight_per_node_max: 8, ..to_all() }).await;
    frost.freeze(FIRST);
    let held = cluster.commands(8);
    cluster.sleep_ms(10).await;
    let (refused, _) = cluster.command(&[]).await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (429, "overloaded"));
    cluster.take_over(2, true);
    cluster.sleep_ms(10).await;
    all_good(held).await;
    all_good(cluster.commands(8)).await;
    assert_eq!(cluster.replicated.executed(), 16);
}

/// The new owner lets in fewer at once than waited for it.
#[tokio::test(start_paused = true)]
async fn what_waited_for_an_owner_comes_in_by_and_by() {
    let mut cluster = Cluster::start_on(Seams::simulated(1), Config { in_flight_per_node_max: 16, ..to_all() }).await;
    cluster.nodes.remove(0);
    cluster.sleep_ms(300).await;
    let commands = cluster.commands(200);
    cluster.sleep_ms(500).await;
    let owners = cluster.replicated.elect(SECOND, 2);
    cluster.nodes[0].push(SHARDS, owners);
    let (slowest, _) = all_good(commands).await;
    assert!(slowest < millis(4000), "{slowest:?}");
    assert_eq!(cluster.replicated.executed(), 200);
}

#[tokio::test(start_paused = true)]
async fn three_seconds_without_an_owner_fail_nobody() {
    let mut cluster = Cluster::start().await;
    cluster.nodes[0].does(Does::ServeAndHang(cluster.replicated.clone()));
    let in_flight = cluster.commands(20);
    cluster.sleep_ms(10).await;
    cluster.nodes.remove(0);
    cluster.replicated.elect_nobody();
    let mut waiting = Vec::new();
    for _ in 0..30 {
        waiting.extend(cluster.commands(2));
        cluster.sleep_ms(100).await;
    }
    let owners = cluster.replicated.elect(SECOND, 2);
    cluster.nodes[0].push(SHARDS, owners);
    let (slowest, replays) = all_good(in_flight).await;
    assert_eq!(replays, 20);
    assert!(slowest < millis(3020), "{slowest:?}");
    let (slowest, _) = all_good(waiting).await;
    assert!(slowest < millis(3020), "{slowest:?}");
    assert_eq!(cluster.replicated.executed(), 80);
}

/// Rule G2, at the deadline: what was never sent was not applied, and of what was sent nothing is known.
#[tokio::test(start_paused = true)]
async fn six_seconds_without_an_owner_end_in_503_for_the_unsent_and_504_for_the_sent() {
    let mut seams = Seams::simulated(1);
    let frost = Frost::over(&mut seams);
    let cluster = Cluster::start_on(seams, to_all()).await;
    cluster.nodes[0].does(Does::ServeAndHang(cluster.replicated.clone()));
    let sent = [cluster.command(&[]), cluster.command(&[("idempotency-key", "mine")])];
    cluster.sleep_ms(10).await;
    frost.kill(FIRST);
    cluster.replicated.elect_nobody();
    cluster.sleep_ms(10).await;
    let unsent = [cluster.command(&[]), cluster.command(&[("idempotency-key", "other")])];
    for command in sent {
        let (answer, at) = command.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (504, "unknown-outcome"));
        assert!(answer.headers.contains_key("idempotency-key"));
        assert!((millis(4990)..millis(5010)).contains(&at), "{at:?}");
    }
    for command in unsent {
        let (answer, at) = command.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
        assert_eq!(answer.headers["retry-after"], "1");
        assert!((millis(5010)..millis(5030)).contains(&at), "{at:?}");
    }
    // Whoever comes back with the key learns what became of the first one.
    cluster.sleep_ms(1000).await;
    let owners = cluster.replicated.elect(SECOND, 2);
    cluster.nodes[1].push(SHARDS, owners);
    let (found, _) = cluster.command(&[("idempotency-key", "mine")]).await.unwrap();
    assert_eq!((found.status, found.headers.contains_key("idempotency-replayed")), (200, true));
    let (executed, _) = cluster.command(&[("idempotency-key", "other")]).await.unwrap();
    assert_eq!((executed.status, executed.headers.contains_key("idempotency-replayed")), (200, false));
    assert_eq!(cluster.replicated.executed(), 3);
}

/// Rule G2 for an attempt that was cut because the owner had moved: it was sent, and may yet be executed.
#[tokio::test(start_paused = true)]
async fn what_was_cut_from_the_old_owner_and_found_no_new_one_ends_in_504() {
    let cluster = Cluster::start().await;
    cluster.nodes[0].does(Does::Hang);
    let command = cluster.command(&[]);
    cluster.sleep_ms(300).await;
    cluster.nodes[1].does(Does::Redirect(None));
    cluster.nodes[1].push(SHARDS, owners(SECOND, 2));
    let (answer, _) = command.await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (504, "unknown-outcome"));
    assert_eq!(cluster.nodes[0].asked(), 1);
    // One that had not been sent by then was surely not executed.
    let (answer, _) = cluster.command(&[("prefer", "wait=1")]).await.unwrap();
    assert_eq!(answer.status, 503);
}

#[tokio::test(start_paused = true)]
async fn a_map_that_flaps_loses_nothing_and_is_not_followed_for_ever() {
    let cluster = Cluster::start().await;
    let mut commands = Vec::new();
    for term in 2..80 {
        let (owner, other) = if term % 2 == 0 { (SECOND, FIRST) } else { (FIRST, SECOND) };
        // The map names one while the other executes, half of the time.
        if term % 4 < 2 {
            cluster.replicated.elect(other, term);
        } else {
            cluster.replicated.elect(owner, term);
        }
        cluster.nodes[0].push(SHARDS, owners(owner, term));
        commands.extend(cluster.commands(2));
        cluster.sleep_ms(20).await;
    }
    let count = commands.len() as u64;
    cluster.take_over(100, true);
    all_good(commands).await;
    assert_eq!(cluster.replicated.executed(), count);
}

/// Two nodes that each name the other, and one that names nobody.
#[tokio::test(start_paused = true)]
async fn nodes_that_know_no_owner_are_asked_again_with_growing_pauses_only() {
    let alice = usize::from(shard_of_alice());
    let named = |address, term| Does::Redirect(owners(address, term).into_iter().nth(alice));
    let cluster = Cluster::start().await;
    cluster.nodes[0].does(named(SECOND, 3));
    cluster.nodes[1].does(named(FIRST, 2));
    let (answer, _) = cluster.command(&[]).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"), "surely not applied");
    let asked = cluster.nodes[0].asked() + cluster.nodes[1].asked();
    assert!((20..60).contains(&asked), "{asked} attempts in five seconds");

    let cluster = Cluster::start().await;
    cluster.nodes[0].does(Does::Redirect(None));
    let (answer, _) = cluster.command(&[]).await.unwrap();
    assert_eq!(answer.status, 503);
    let asked = cluster.nodes[0].asked();
    assert!((20..60).contains(&asked), "{asked} attempts in five seconds");
    for node in &cluster.nodes {
        assert!((4..=25).contains(&node.inquiries()), "{} inquiries in five seconds", node.inquiries());
    }
}

/// The map still has the node that refuses; a push was lost, and another node knows.
#[tokio::test(start_paused = true)]
async fn a_node_that_refuses_is_not_believed_for_ever_to_be_the_owner() {
    for refuses in [Does::Redirect(None), Does::Refuse(Code::Unavailable), Does::Abandon] {
        let cluster = Cluster::start().await;
        cluster.nodes[0].does(refuses);
        cluster.take_over(2, false);
        let (slowest, _) = all_good(cluster.commands(10)).await;
        assert!(slowest < millis(50), "{slowest:?}");
        assert!(cluster.nodes[1].inquiries() >= 1);
        assert_eq!(cluster.replicated.executed(), 10);
    }
}

/// One inquiry serves all that are in doubt.
#[tokio::test(start_paused = true)]
async fn a_thousand_requests_in_doubt_ask_around_once_at_a_time() {
    let mut cluster = Cluster::start().await;
    cluster.nodes.remove(0);
    cluster.sleep_ms(300).await;
    let commands = cluster.commands(1000);
    cluster.sleep_ms(2000).await;
    let inquiries = cluster.nodes[0].inquiries();
    assert!((4..=10).contains(&inquiries), "{inquiries}");
    let owners = cluster.replicated.elect(SECOND, 2);
    cluster.nodes[0].push(SHARDS, owners);
    all_good(commands).await;
}

/// Only who waits for a shard is woken by news of it.
#[tokio::test(start_paused = true)]
async fn news_of_other_shards_wake_nobody() {
    let mut cluster = Cluster::start().await;
    cluster.nodes.remove(0);
    cluster.sleep_ms(300).await;
    let command = cluster.command(&[]);
    let alice = usize::from(shard_of_alice());
    for term in 2..1000 {
        let mut others = owners(SECOND, term);
        others.remove(alice);
        cluster.nodes[0].push(SHARDS, others);
        cluster.sleep_ms(1).await;
    }
    let attempts = cluster.attempts("not-executed").await;
    assert!((5..25).contains(&attempts), "{attempts} attempts in a second");
    let owners = cluster.replicated.elect(SECOND, 2000);
    cluster.nodes[0].push(SHARDS, owners);
    assert_eq!(command.await.unwrap().0.status, 200);
}

#[tokio::test(start_paused = true)]
async fn attempts_carry_the_time_that_is_left_and_none_is_made_for_the_last_moments() {
    let cluster = Cluster::start().await;
    cluster.nodes[0].does(Does::Redirect(None));
    cluster.command(&[("prefer", "wait=1")]).await.unwrap();
    let time_left = cluster.nodes[0].time_left();
    assert!(time_left.len() > 5 && time_left.is_sorted_by(|earlier, later| earlier >= later), "{time_left:?}");
    assert!(time_left[0] > millis(990) && time_left[0] <= millis(1000), "{time_left:?}");
    assert!(time_left.iter().all(|left| *left >= millis(5)), "{time_left:?}");

    // An owner that is known two milliseconds before the end comes too late.
    let mut cluster = Cluster::start().await;
    cluster.nodes.remove(0);
    let command = cluster.command(&[("prefer", "wait=1")]);
    cluster.sleep_ms(998).await;
    let owners = cluster.replicated.elect(SECOND, 2);
    cluster.nodes[0].push(SHARDS, owners);
    assert_eq!((command.await.unwrap().0.status, cluster.nodes[0].asked()), (503, 0));

    let cluster = Cluster::start().await;
    cluster.nodes[0].does(Does::Hang);
    cluster.command(&[]).await.unwrap();
    let time_left: Vec<_> = cluster.nodes[0].time_left().iter().map(Duration::as_millis).collect();
    assert_eq!(time_left[..2], [2000, 2000], "an attempt has its own time-out");
    assert!(time_left[2] < 1000 && time_left.len() == 3, "{time_left:?}");
}

#[tokio::test(start_paused = true)]
async fn two_gateways_give_one_key_one_effect_through_a_failover() {
    let mut cluster = Cluster::start().await;
    let other = gateway_at(&cluster.seams, "other", to_all()).await;
    other.ready().await;
    cluster.nodes[0].does(Does::ServeAndHang(cluster.replicated.clone()));
    let key = [("idempotency-key", "shared")];
    let first = cluster.command(&key);
    cluster.sleep_ms(10).await;
    let second = cluster.command_through("other:80", &key);
    cluster.sleep_ms(100).await;
    cluster.nodes.remove(0);
    let owners = cluster.replicated.elect(SECOND, 2);
    cluster.nodes[0].push(SHARDS, owners);
    let ((first, _), (second, _)) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.body, second.body, "the same version and reply");
    assert_eq!(cluster.replicated.executed(), 1);
    assert!(cluster.gateway.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_learns_of_a_failover_late_is_set_right_by_the_old_owner() {
    let cluster = Cluster::start().await;
    let only_first = Config { nodes: vec![FIRST.to_owned()], ..Config::default() };
    let late = gateway_at(&cluster.seams, "late", only_first).await;
    late.ready().await;
    assert_eq!((cluster.nodes[0].gateways(), cluster.nodes[1].gateways()), (2, 1));
    cluster.take_over(2, true);
    cluster.sleep_ms(10).await;
    let key = [("idempotency-key", "shared")];
    let (through_first, _) = cluster.command(&key).await.unwrap();
    let before = cluster.elapsed();
    let (through_late, at) = cluster.command_through("late:80", &key).await.unwrap();
    assert_eq!((through_first.status, through_late.status), (200, 200));
    assert!(through_late.headers.contains_key("idempotency-replayed"));
    assert!(at < before + millis(5), "{before:?} {at:?}");
    assert_eq!(cluster.nodes[0].asked(), 1, "asked once, by the late one");
    assert_eq!(cluster.nodes[1].gateways(), 2, "and then it is connected to the new owner too");
    assert_eq!(cluster.replicated.executed(), 1);
}

#[tokio::test(start_paused = true)]
async fn all_members_are_connected_and_those_that_no_node_lists_are_forgotten() {
    let one_seed = Config { nodes: vec![FIRST.to_owned()], ..Config::default() };
    let cluster = Cluster::start_on(Seams::simulated(1), one_seed).await;
    let connected = || [0, 1, 2].map(|n: usize| cluster.nodes[n].gateways());
    assert_eq!(connected(), [1, 0, 0]);
    cluster.nodes[0].push_members(&[FIRST, SECOND, THIRD]);
    cluster.sleep_ms(5).await;
    assert_eq!(connected(), [1, 1, 1]);
    cluster.nodes[1].push_members(&[FIRST, SECOND, THIRD]);
    cluster.sleep_ms(5).await;
    cluster.nodes[0].push_members(&[FIRST, SECOND]);
    cluster.sleep_ms(5).await;
    assert_eq!(connected(), [1, 1, 1], "the second still lists the third");
    cluster.nodes[1].push_members(&[SECOND]);
    cluster.sleep_ms(5).await;
    assert_eq!(connected(), [1, 1, 0], "and the seed stays although nobody lists it");
    cluster.nodes[0].push_members(&[]);
    cluster.nodes[1].push_members(&[]);
    cluster.sleep_ms(5).await;
    assert_eq!(connected(), [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_lost_all_nodes_for_a_second_is_not_ready_until_one_is_back() {
    let mut cluster = Cluster::start().await;
    cluster.nodes.truncate(1);
    cluster.sleep_ms(3000).await;
    assert!(cluster.gateway.is_ready(), "one node is enough to route");
    cluster.nodes.clear();
    cluster.sleep_ms(900).await;
    assert!(cluster.gateway.is_ready(), "a short loss is not told");
    cluster.sleep_ms(600).await;
    assert!(!cluster.gateway.is_ready());
    let answer = ask(&cluster.seams, "GET", ADMIN, "/readyz", &[], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    let _back = Twin::start(&cluster.seams, THIRD, CLUSTER, SHARDS, vec![]).await;
    cluster.sleep_ms(1000).await;
    assert!(cluster.gateway.is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_admin_port_shows_the_cluster_and_who_does_not_answer() {
    let cluster = Cluster::start().await;
    for node in &cluster.nodes {
        node.push_members(&[FIRST, SECOND, THIRD]);
        node.learn(owners(FIRST, 1));
    }
    cluster.nodes[2].hide();
    let view = async |path: &str| -> serde_json::Value {
        let before = cluster.seams.clock.now();
        let answer = ask(&cluster.seams, "GET", ADMIN, path, &[], "").await;
        assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, "application/json"));
        assert!(cluster.seams.clock.now().since(before) < millis(1100));
        serde_json::from_slice(&answer.body).unwrap()
    };
    let members = view("/v1/cluster").await;
    let answered: Vec<_> = members["members"].as_array().unwrap().iter().map(|member| &member["answered"]).collect();
    assert_eq!(answered, [true, true, false]);
    assert_eq!((&members["members"][2]["address"], &members["members"][2]["state"]), (&THIRD.into(), &().into()));
    let shards = view("/v1/cluster/shards").await;
    assert_eq!(shards["shards"].as_array().unwrap().len(), usize::from(SHARDS));
    assert_eq!(
        (&shards["shards"][0]["owner"], &shards["shards"][1]["owner"]),
        (&"0000000000000001".into(), &().into())
    );
    assert_eq!(view("/v1/cluster/hashes").await["shards"][0]["agree"], true);
    let explained = view("/v1/cluster/explain/counter/alice").await;
    assert_eq!(explained["shard"], shard_of_alice());
    let wrong = ask(&cluster.seams, "GET", ADMIN, "/v1/cluster/explain/Counter/alice", &[], "").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "invalid-request"));
    let garbled = ask(&cluster.seams, "GET", ADMIN, "/v1/cluster/explain/counter/%ff", &[], "").await;
    assert_eq!((garbled.status, garbled.code().as_str()), (400, "invalid-request"));

    let unmapped =
        gateway_at(&cluster.seams, "unmapped", Config { nodes: vec!["nobody:1".to_owned()], ..Config::default() });
    let _unmapped = unmapped.await;
    let answer = ask(&cluster.seams, "GET", "unmapped:90", "/v1/cluster/shards", &[], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"));
    let answer = ask(&cluster.seams, "GET", "unmapped:90", "/v1/cluster", &[], "").await;
    let members: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&members["members"][0]["id"], &members["members"][0]["answered"]), (&().into(), &false.into()));
}
