//! Nodes that do nothing but gossip.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_shared::ids::{ClusterId, NodeId, ShardId};
use berth_shared::peer::{self, Handler, Incoming, server};
use berth_shared::report::{Load, NodeState};
use berth_shared::seam::Seams;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::cluster::membership::{Engine, Facts, Gossip, Here, Members};
use crate::transport::peers::Peers;
use crate::transport::wire::NodeRequest;

pub(super) const CLUSTER: ClusterId = ClusterId(7);

/// The cluster's nodes have these addresses, counted from 1; the first is the only seed.
pub(super) fn address(number: u64) -> String {
    format!("node-{number}:7400")
}

/// The id of a node's first disk.
pub(super) fn id(number: u64) -> NodeId {
    NodeId(number)
}

pub(super) fn facts(number: u64, state: NodeState) -> Facts {
    Facts {
        address: address(number),
        zone: Some(format!("zone-{}", number % 2)),
        state,
        plan: number * 1000,
        unsettled: number as u32,
        weight: NonZeroU32::new(1 + number as u32).unwrap(),
        version: "test/1".to_owned(),
        load: Load { cpu_percent: 5, resident_bytes: 1000, requests_per_second: number },
        led: vec![(ShardId(number as u16), 3), (ShardId(16_000), number)],
        system: (number == 1).then_some(1 << 20),
    }
}

/// One process.
pub(super) struct Machine {
    pub(super) number: u64,
    pub(super) gossip: Arc<dyn Gossip>,
    /// While set, it is too busy to take in what it is sent, and nothing of it comes out.
    pub(super) is_stuck: Arc<AtomicBool>,
    server: CancellationToken,
}

struct Door {
    gossip: Mutex<Option<Arc<dyn Gossip>>>,
    is_stuck: Arc<AtomicBool>,
}

impl Handler for Door {
    fn handle(&self, incoming: Incoming) {
        let Incoming { payload, reply, .. } = incoming;
        let request = peer::decode::<NodeRequest<'_>>(&payload).unwrap();
        let NodeRequest::Gossip { from, message } = request else { panic!("{request:?}") };
        if let Some(gossip) = &*self.gossip.lock()
            && !self.is_stuck.load(Ordering::Relaxed)
        {
            gossip.receive(from, payload.slice_ref(message));
        }
        reply.send(bytes::Bytes::new());
    }
}

impl Machine {
    /// A node of `cluster` that begins with the first node as its seed.
    pub(super) async fn start(engine: &dyn Engine, seams: &Seams, number: u64, cluster: ClusterId) -> Self {
        Self::with_credential(engine, seams, number, cluster, None).await
    }

    pub(super) async fn with_credential(
        engine: &dyn Engine,
        seams: &Seams,
        number: u64,
        cluster: ClusterId,
        credential: Option<&str>,
    ) -> Self {
        let speaker = peer::Identity {
            role: peer::Role::Node,
            node: Some(id(number)),
            cluster: Some(cluster),
            software: "test/1".to_owned(),
            credential: credential.map(str::to_owned),
        };
        let is_stuck = Arc::new(AtomicBool::new(false));
        let door = Arc::new(Door { gossip: Mutex::default(), is_stuck: is_stuck.clone() });
        let (server, listener) = (CancellationToken::new(), seams.network.listen(&address(number)).await.unwrap());
        let config = server::Config { drain_timeout: Duration::ZERO, ..server::Config::default() };
        let serving = peer::serve(seams.clone(), config, listener, speaker.clone(), door.clone(), server.clone());
        seams.spawner.spawn(serving);
        let here = Here {
            node: id(number),
            cluster,
            address: address(number),
            seeds: vec![address(1)],
            peers: Peers::new(seams.clone(), speaker),
            seams: seams.clone(),
        };
        let gossip = engine.join(here, facts(number, NodeState::Ready));
        *door.gossip.lock() = Some(gossip.clone());
        Self { number, gossip, is_stuck, server }
    }

    /// It is gone without a word.
    pub(super) async fn kill(self) {
        self.server.cancel();
        self.gossip.stop().await;
    }

    pub(super) fn members(&self) -> Arc<Members> {
        self.gossip.members().borrow().clone()
    }

    /// The numbers of the nodes that it knows, and whether it suspects them.
    pub(super) fn knows(&self) -> Vec<(u64, bool)> {
        self.members().iter().map(|member| (member.node.0, member.suspected.is_some())).collect()
    }

    /// Waits until it knows exactly these.
    pub(super) async fn until_it_knows(&self, expected: &[(u64, bool)]) {
        let is_so = |members: &Arc<Members>| {
            members.iter().map(|member| (member.node.0, member.suspected.is_some())).eq(expected.iter().copied())
        };
        drop(self.gossip.members().wait_for(is_so).await);
    }
}

/// All of these numbers start, and know each other.
pub(super) async fn start_all(engine: &dyn Engine, seams: &Seams, numbers: &[u64]) -> Vec<Machine> {
    let mut machines = Vec::new();
    for number in numbers {
        machines.push(Machine::start(engine, seams, *number, CLUSTER).await);
    }
    let all: Vec<_> = numbers.iter().map(|number| (*number, false)).collect();
    for machine in &machines {
        machine.until_it_knows(&all).await;
    }
    machines
}
