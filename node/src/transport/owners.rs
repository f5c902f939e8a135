//! Tells gateways who owns which shard: what this node owns, unasked, when a gateway connects and whenever it changes; who
//! leads the other shards it has replicas of, when it is asked; and which nodes there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use berth_shared::ids::{NodeId, ShardId, Term};
use berth_shared::message::Push;
use berth_shared::peer::{self, PushSender};
use berth_shared::report::Member;
use berth_shared::seam::Seams;
use berth_shared::shard_map::ShardOwner;
use berth_shared::shard_set::ShardSet;

use crate::shard::Shard;
use crate::shard::group::Group;

/// How often gateways are told again what they should know …
const REPEAT_INTERVAL: Duration = Duration::from_secs(5);
/// … and how often it is looked whether other replicas can be read here than they were told.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What this node knows of owners, and who wants to know.
#[derive(Debug)]
pub struct Owners {
    node: NodeId,
    address: String,
    shards: u16,
    /// Where this node runs, if that was configured.
    zone: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The shards this node owns, each with its term.
    owned: Vec<ShardOwner>,
    /// The groups this node has a replica of.
    groups: BTreeMap<ShardId, Arc<dyn Group>>,
    /// Where the nodes of the plan are reached.
    planned: BTreeMap<NodeId, String>,
    /// The same of those that gossip knows.
    heard: BTreeMap<NodeId, String>,
    /// Both together, and this node.
    addresses: BTreeMap<NodeId, String>,
    /// The replicas that gateways were told of.
    readable: ShardSet,
    /// Bounded by the connections that the server takes.
    listeners: Vec<PushSender>,
}

impl Owners {
    pub fn new(node: NodeId, address: String, shards: u16, zone: Option<String>) -> Arc<Self> {
        let addresses = BTreeMap::from([(node, address.clone())]);
        let state = Mutex::new(State { addresses, ..State::default() });
        Arc::new(Self { node, address, shards, zone, state })
    }

    /// Follows the leadership of one shard from now on.
    pub fn follow(self: &Arc<Self>, shard: Arc<Shard>, group: &Arc<dyn Group>, seams: &Seams) {
        let (owners, mut leading) = (self.clone(), group.leading());
        self.state.lock().groups.insert(shard.id(), group.clone());
        seams.spawner.spawn(async move {
            let mut before = None;
            loop {
                let term = *leading.borrow_and_update();
                owners.set(&shard, before, term);
                before = term;
                if leading.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// This node has no replica of the shard any more.
    pub fn forget(&self, shard: ShardId) {
        let mut state = self.state.lock();
        state.groups.remove(&shard);
        self.look_for_readable(&mut state);
    }

    /// Tells gateways if other replicas can be read here than before.
    fn look_for_readable(&self, state: &mut State) {
        let readable = state.groups.iter().filter(|(_, group)| group.level().is_some()).map(|(shard, _)| *shard);
        let readable: ShardSet = readable.collect();
        if state.readable != readable {
            state.readable = readable;
            let push = self.encode_readable(state);
            state.tell(push);
        }
    }

    fn encode_readable(&self, state: &State) -> Option<Bytes> {
        encode(&Push::Replicas { shards: self.shards, readable: state.readable.clone(), zone: self.zone.clone() })
    }

    /// Replaces the nodes of the plan, and tells gateways if that is news. They count beside those of [`Self::set_heard`].
    pub fn set_planned(&self, members: &[Member]) {
        self.change(|state| state.planned = addresses(members));
    }

    /// The same of the nodes that gossip knows: so that those are known too that no plan names, for now or any more.
    pub fn set_heard(&self, members: &[Member]) {
        self.change(|state| state.heard = addresses(members));
    }

    /// Whether the plan names `node`.
    pub fn is_planned(&self, node: NodeId) -> bool {
        self.state.lock().planned.contains_key(&node)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let mut addresses = state.heard.clone();
        addresses.extend(state.planned.clone());
        addresses.insert(self.node, self.address.clone());
        if state.addresses != addresses {
            state.addresses = addresses;
            let push = encode_members(&state);
            state.tell(push);
        }
    }

    /// The nodes of the cluster, as far as this one knows, ascending by id.
    pub fn members(&self) -> Vec<Member> {
        self.state.lock().members()
    }

    /// Tells a gateway that has just connected of all members and owned shards, and of changes from then on.
    pub fn listen(&self, pushes: PushSender) {
        let mut state = self.state.lock();
        state.listeners.retain(|listener| !listener.is_closed());
        let said = [encode_members(&state), self.encode_owned(state.owned.clone()), self.encode_readable(&state)];
        for push in said.into_iter().flatten() {
            pushes.send(push);
        }
        state.listeners.push(pushes);
    }

    /// Tells every gateway again from time to time, because a push is dropped where a connection is congested.
    pub async fn repeat(self: Arc<Self>, seams: Seams, shutdown: CancellationToken) {
        let mut told = seams.clock.now();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = seams.spawner.sleep(LOOK_INTERVAL) => {}
            }
            let mut state = self.state.lock();
            self.look_for_readable(&mut state);
            let now = seams.clock.now();
            if now.since(told) < REPEAT_INTERVAL {
                continue;
            }
            told = now;
            let said = [encode_members(&state), self.encode_owned(state.owned.clone()), self.encode_readable(&state)];
            said.into_iter().for_each(|push| state.tell(push));
        }
    }

    /// The shards this node owns now, each with its term; ascending.
    pub fn led(&self) -> Vec<(ShardId, Term)> {
        let mut led: Vec<_> = self.state.lock().owned.iter().map(|owner| (owner.shard, owner.term)).collect();
        led.sort_unstable();
        led
    }

    /// The shards this node owns now.
    pub fn owned(&self) -> Vec<ShardId> {
        self.state.lock().owned.iter().map(|owner| owner.shard).collect()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Who owns `shard`, as far as its replica here knows: this node, or the leader of the shard's group. This node is not
    /// named while it leads and may not decide yet (rule W3), and neither is a node whose address is not known.
    pub fn owner(&self, shard: ShardId) -> Option<ShardOwner> {
        let state = self.state.lock();
        let group = state.groups.get(&shard)?;
        self.named_by(&state, shard, &**group)
    }

    /// The same of every shard that this node has a replica of.
    pub fn known(&self) -> Vec<ShardOwner> {
        let state = self.state.lock();
        state.groups.iter().filter_map(|(shard, group)| self.named_by(&state, *shard, &**group)).collect()
    }

    fn named_by(&self, state: &State, shard: ShardId, group: &dyn Group) -> Option<ShardOwner> {
        if let Some(owned) = state.owned.iter().find(|owner| owner.shard == shard) {
            return Some(owned.clone());
        }
        let status = group.status();
        let node = status.leader.filter(|leader| *leader != self.node)?;
        let address = state.addresses.get(&node)?.clone();
        // Whatever the owner itself says of this term is newer.
        Some(ShardOwner { shard, node, address, term: status.term, index: 0 })
    }

    fn set(&self, shard: &Shard, before: Option<Term>, term: Option<Term>) {
        let mut state = self.state.lock();
        // The group may have been started anew meanwhile, and lead in a later term, which is none of this one's concern.
        state.owned.retain(|owner| owner.shard != shard.id() || Some(owner.term) > term.max(before));
        let Some(term) = term.filter(|_| state.owned.iter().all(|owner| owner.shard != shard.id())) else { return };
        let index = shard.seen().index;
        let owner = ShardOwner { shard: shard.id(), node: self.node, address: self.address.clone(), term, index };
        state.owned.push(owner.clone());
        state.tell(self.encode_owned(vec![owner]));
    }

    fn encode_owned(&self, owners: Vec<ShardOwner>) -> Option<Bytes> {
        encode(&Push::Owners { shards: self.shards, owners })
    }
}

impl State {
    fn members(&self) -> Vec<Member> {
        self.addresses.iter().map(|(node, address)| Member { node: *node, address: address.clone() }).collect()
    }

    fn tell(&mut self, push: Option<Bytes>) {
        self.listeners.retain(|listener| !listener.is_closed());
        let Some(push) = push else { return };
        for listener in &self.listeners {
            listener.send(push.clone());
        }
    }
}

fn addresses(members: &[Member]) -> BTreeMap<NodeId, String> {
    members.iter().map(|member| (member.node, member.address.clone())).collect()
}

fn encode_members(state: &State) -> Option<Bytes> {
    encode(&Push::Members { members: state.members() })
}

fn encode(push: &Push) -> Option<Bytes> {
    peer::encode(push).inspect_err(|error| tracing::error!(%error, "a push cannot be encoded")).ok()
}
