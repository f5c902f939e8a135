//! Gossip in earnest, by the library chitchat: Scuttlebutt reconciliation (van Renesse et al. 2008) of what each node says of
//! itself, and heartbeats, of which a failure detector keeps count. One task begins it, tells it this node's facts, and looks
//! at what it knows, ten times a second.
//!
//! # Traps
//!
//! The library's detector divides the time since the last heartbeat by the mean of the pauses before. Its nodes count a
//! heartbeat with every message that comes in, so that the mean says how busy the cluster gossips, and not how long a node is
//! silent: with three nodes at rest it is a quarter of the interval, and a pause of 400 ms would be a death. So its memory is
//! one pause long, of at most [`PAUSE_MAX`], beside the prior of five intervals: the divisor is between 167 and 217 ms, and a
//! node is suspected after 1.1 to 1.4 s without news of it, whatever happened before. Counted from its death, one interval
//! for the last news to spread, one until the library looks, and one look here come on top.
//!
//! A message names every start of every node that is not forgotten, with about 100 bytes, and what is left of 64 KiB is for
//! news. So this is for clusters of up to some 500 nodes; in larger ones news would find no room.
//!
//! The library's own tasks, timers, random choices and order of hash tables pass no seam; the simulation has a twin for that.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::report::{Edition, NodeState};
use bytes::Bytes;
use chitchat::{
    Chitchat as Library, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, spawn_chitchat,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::transport::{Line, Wire};
use super::view::{Observed, View, tell};
use super::{Engine, FAREWELL, FORGOTTEN_AFTER, Facts, Gossip, Here, INTERVAL, Members, facts, names};

/// Longer pauses between heartbeats tell the failure detector nothing.
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// Pauses that the failure detector remembers.
const PAUSES_REMEMBERED: usize = 1;
/// A node whose silence is so many times the mean pause is suspected.
const PHI_MAX: f64 = 6.5;
/// How often the list is made anew.
const LOOK: Duration = Duration::from_millis(100);
/// Starts of nodes that are looked at, at most. More than the members of the largest plan, several times over.
const STARTS_MAX: usize = 4096;
/// How many others are told at once when this node's state changes.
const TOLD_AT_ONCE: usize = 8;
/// Pause before the library is started again when it has ended by itself.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long the library may take to end.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Gossip by chitchat.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chitchat;

#[derive(Debug)]
struct Gossiping {
    here: Here,
    wire: Arc<Wire>,
    facts: watch::Sender<Arc<Facts>>,
    members: watch::Receiver<Arc<Members>>,
    task: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
    _stops_with_this: DropGuard,
}

impl Engine for Chitchat {
    fn join(&self, here: Here, facts: Facts) -> Arc<dyn Gossip> {
        let wire = Wire::new(here.address.clone(), here.peers.clone(), here.seams.clone());
        let (facts, published) = watch::channel(Arc::new(facts));
        let (sender, members) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let follower = Follower {
            here: here.clone(),
            wire: wire.clone(),
            facts: published,
            members: sender,
            generation: 0,
            written: None,
            read: HashMap::new(),
            view: View::default(),
        };
        let task = Mutex::new(Some(here.seams.spawner.spawn(follower.run(stop.clone()))));
        Arc::new(Gossiping { here, wire, facts, members, task, _stops_with_this: stop.clone().drop_guard(), stop })
    }
}

impl Gossip for Gossiping {
    fn publish(&self, facts: Facts) {
        self.facts.send_if_modified(|known| {
            let is_news = **known != facts;
            if is_news {
                *known = Arc::new(facts);
            }
            is_news
        });
    }

    fn members(&self) -> watch::Receiver<Arc<Members>> {
        self.members.clone()
    }

    fn receive(&self, from: &str, message: Bytes) {
        if facts::is_address(from) {
            self.wire.receive(from, message);
        }
    }

    fn leave(&self, facts: Facts) -> BoxFuture<'_, ()> {
        self.publish(facts);
        let heard = self.members.borrow().iter().any(|m| m.node != self.here.node && m.suspected.is_none());
        // Who has just begun may be heard before it has heard anybody.
        let is_alone = !heard && self.here.seeds.iter().all(|seed| *seed == self.here.address);
        Box::pin(async move {
            if !is_alone {
                self.here.seams.spawner.sleep(FAREWELL).await;
            }
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stop.cancel();
        let task = self.task.lock().take();
        Box::pin(async move {
            if let Some(task) = task
                && let Err(error) = task.await
            {
                tracing::error!(%error, "gossip failed");
            }
        })
    }
}

/// The task.
struct Follower {
    here: Here,
    wire: Arc<Wire>,
    facts: watch::Receiver<Arc<Facts>>,
    members: watch::Sender<Arc<Members>>,
    /// Of the library's last start.
    generation: u64,
    /// What the library was told last.
    written: Option<Arc<Facts>>,
    /// What was read of each start of each node, and at which of its versions; nothing where it made no sense.
    read: HashMap<ChitchatId, (u64, Option<Arc<Facts>>)>,
    view: View,
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        let spawner = self.here.seams.spawner;
        while !stop.is_cancelled() {
            match self.start().await {
                Ok(handle) => {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = self.follow(&handle) => {}
                        ended = handle.termination_watcher() => {
                            tracing::error!(?ended, "gossip has ended; it begins again");
                        }
                    }
                    end(handle, &self.here).await;
                }
                Err(error) => tracing::error!("gossip cannot begin: {error}"),
            }
            stop.run_until_cancelled(spawner.sleep(RESTART_PAUSE)).await;
        }
    }

    /// Starts the library anew.
    async fn start(&mut self) -> anyhow::Result<ChitchatHandle> {
        let Here { node, cluster, address, seeds, seams, .. } = &self.here;
        self.generation = (seams.clock.wall_micros() / 1000).max(self.generation + 1);
        self.written = None;
        let own = self.wire.names.learn(address);
        let seeds = seeds.iter().filter(|seed| *seed != address);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(names::name(*node, address), self.generation, own),
            cluster_id: cluster.to_string(),
            gossip_interval: INTERVAL,
            listen_addr: own,
            seed_nodes: seeds.map(|seed| self.wire.names.learn(seed).to_string()).collect(),
            failure_detector_config: FailureDetectorConfig::new(
                PHI_MAX,
                PAUSES_REMEMBERED,
                PAUSE_MAX,
                INTERVAL,
                FORGOTTEN_AFTER,
            ),
            // Nothing is ever deleted.
            marked_for_deletion_grace_period: FORGOTTEN_AFTER,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        spawn_chitchat(config, Vec::new(), &Line(self.wire.clone())).await
    }

    /// Tells the library what is published, and others what it knows; for ever.
    async fn follow(&mut self, handle: &ChitchatHandle) {
        let mut told: Option<NodeState> = None;
        loop {
            let facts = self.facts.borrow_and_update().clone();
            let (observed, others) = handle.with_chitchat(|library| self.exchange(library, &facts)).await;
            // What others act upon does not wait for the next turn.
            if told.is_some_and(|told| told != facts.state) {
                let seeds = self.here.seeds.iter().filter(|seed| others.is_empty() && **seed != self.here.address);
                let told = others.iter().copied().chain(seeds.map(|seed| names::made_up(seed)));
                told.take(TOLD_AT_ONCE).for_each(|other| drop(handle.gossip(other)));
            }
            told = Some(facts.state);
            self.show(&observed);
            let pause = self.here.seams.spawner.sleep(LOOK);
            tokio::select! {
                biased;
                Ok(()) = self.facts.changed() => {}
                () = pause => {}
            }
        }
    }

    /// What the library knows now, and where the others are that it has heard of lately.
    fn exchange(&mut self, library: &mut Library, facts: &Arc<Facts>) -> (Vec<Observed>, Vec<SocketAddr>) {
        if self.written.as_ref() != Some(facts) {
            let own = library.self_node_state();
            facts::write(facts).into_iter().for_each(|(name, text)| own.set(name, text));
            self.written = Some(facts.clone());
        }
        let live: HashSet<&ChitchatId> = library.live_nodes().collect();
        let states = library.node_states();
        self.read.retain(|id, _| states.contains_key(id));
        let mut observed = Vec::with_capacity(states.len());
        for (id, state) in states.iter().take(STARTS_MAX) {
            let Some((node, address)) = names::parse(&id.node_id, id.gossip_advertise_addr) else { continue };
            self.wire.names.learn(address);
            let revision = state.max_version();
            let known = self.read.get(id).filter(|(at, _)| *at == revision).map(|(_, facts)| facts.clone());
            let facts = known.unwrap_or_else(|| {
                let facts = facts::read(state.key_values()).filter(|facts| facts.address == address).map(Arc::new);
                self.read.insert(id.clone(), (revision, facts.clone()));
                facts
            });
            let edition = Edition { generation: id.generation_id, revision };
            observed.extend(facts.map(|facts| Observed { node, edition, facts, is_live: live.contains(id) }));
        }
        let others = live.iter().filter(|id| **id != library.self_chitchat_id());
        (observed, others.map(|id| id.gossip_advertise_addr).collect())
    }

    fn show(&mut self, observed: &[Observed]) {
        let members = self.view.members(self.here.seams.clock.now(), observed);
        self.members.send_if_modified(|known| {
            let is_news = **known != members;
            if is_news {
                tell(self.here.node, known, &members);
                *known = Arc::new(members);
            }
            is_news
        });
    }
}

async fn end(handle: ChitchatHandle, here: &Here) {
    let ended = handle.termination_watcher();
    // It fails where the library has ended already.
    let _ = handle.initiate_shutdown();
    if here.seams.spawner.timeout(STOP_MAX, ended).await.is_none() {
        tracing::warn!("gossip did not end in time");
        handle.abort();
    }
}
