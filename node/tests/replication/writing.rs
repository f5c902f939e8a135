//! Writers that increment counters through whoever owns the shard, one increment after the other, each with a key, and again
//! until it is answered. So a counter's value is the number of answers, unless a write was lost or applied twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_node::entity::Registry;
use berth_node::shard::executor::Mailbox;
use berth_node::shard::group::Group;
use berth_shared::seam::{BootInstant, Seams};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::cluster::{Answered, Ask, Cluster, command};

/// Between an answer and the next command, and between two attempts.
const PAUSE: Duration = Duration::from_millis(1);
/// An attempt that is not answered by then is made again, elsewhere.
const ATTEMPT_MAX: Duration = Duration::from_millis(500);

/// Some writers that run until they are asked to stop.
pub(crate) struct Writers {
    ways: Arc<Ways>,
    tasks: Vec<JoinHandle<Written>>,
}

/// How the writers reach the nodes, by place.
struct Ways {
    nodes: Mutex<Vec<Option<Way>>>,
    stop: AtomicBool,
    registry: Arc<Registry>,
    seams: Seams,
}

type Way = (Mailbox, Arc<dyn Group>);

/// What one writer has done.
struct Written {
    id: String,
    count: u64,
    pause_max: Duration,
}

impl Writers {
    pub(crate) fn start(cluster: &Cluster, count: usize) -> Self {
        let (nodes, seams) = (Mutex::new(Vec::new()), cluster.seams.clone());
        let registry = Arc::new(Registry::built_in());
        let ways = Arc::new(Ways { nodes, stop: AtomicBool::new(false), registry, seams: seams.clone() });
        let write = |number| seams.spawner.spawn(ways.clone().write(format!("written-{number}")));
        let writers = Self { tasks: (0..count).map(write).collect(), ways };
        writers.follow(cluster);
        writers
    }

    /// The writers reach the nodes that run now.
    pub(crate) fn follow(&self, cluster: &Cluster) {
        let way = |place| {
            let runs = cluster.running().contains(&place);
            runs.then(|| (cluster.node(place).mailbox.clone(), cluster.node(place).group.clone()))
        };
        *self.ways.nodes.lock() = (0..cluster.size()).map(way).collect();
    }

    /// Ends the writers and checks that everything was written once. Returns the longest time between two answers of a writer,
    /// and how many there were.
    pub(crate) async fn end(self, cluster: &Cluster) -> (Duration, u64) {
        self.ways.stop.store(true, Ordering::Relaxed);
        let (mut pause_max, mut all) = (Duration::ZERO, 0);
        for task in self.tasks {
            let Written { id, count, pause_max: pause } = task.await.unwrap();
            cluster.until("the node reads", |cluster| cluster.leader_but(None).is_some()).await;
            let (version, state) = cluster.read(cluster.leader().await, &id).await.unwrap();
            assert_eq!((version, state), (count, format!("{{\"value\":{count}}}")), "{id}");
            (pause_max, all) = (pause_max.max(pause), all + count);
        }
        (pause_max, all)
    }
}

impl Ways {
    async fn write(self: Arc<Self>, id: String) -> Written {
        let (mut count, mut pause_max, mut last) = (0, Duration::ZERO, None::<BootInstant>);
        while !self.stop.load(Ordering::Relaxed) {
            self.increment(&id, count).await;
            count += 1;
            let now = self.seams.clock.now();
            pause_max = pause_max.max(last.map_or(Duration::ZERO, |last| now.since(last)));
            last = Some(now);
            self.seams.spawner.sleep(PAUSE).await;
        }
        Written { id, count, pause_max }
    }

    async fn increment(&self, id: &str, number: u64) {
        let key = format!("increment-{number}");
        for attempt in 1.. {
            let ask = Ask::increment(id).key(&key).request(u128::from(number) + 1).attempt(attempt);
            let owner = self.nodes.lock().iter().flatten().find(|(_, group)| group.term().is_some()).cloned();
            if let Some((mailbox, _)) = owner {
                let (command, pending) = command(&self.seams, &self.registry, number, &ask);
                let sent = mailbox.try_send(command).is_ok();
                drop(mailbox);
                let answer = self.seams.spawner.timeout(ATTEMPT_MAX, pending.0).await;
                if let (true, Some(Ok(Answered::Executed { version, .. }))) = (sent, answer) {
                    assert_eq!(version, number + 1, "{id}");
                    return;
                }
            }
            assert!(attempt < 60_000, "{key} of {id} is never executed");
            self.seams.spawner.sleep(PAUSE).await;
        }
    }
}
