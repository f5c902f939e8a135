//! What operators see of the cluster: the reports of its nodes, laid side by side. Every call of `/v1/cluster…` is one view
//! here, the same on gateways and nodes. Pure: who gathers the reports, and how long it waits, is not known here.
//!
//! Reports are taken at slightly different moments and may contradict each other. The highest term wins; an owner is only
//! who says itself that it owns; and whoever did not answer is shown as such, with what the others know of it by gossip.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, LogIndex, NodeId, ShardId, Term};
use crate::key::EntityKey;
use crate::report::{LastMovement, Load, Member, Movement, NodeReport, NodeState, Placement, ReplicaReport, Sighting};
use crate::shown;

/// What was gathered: the material of all views.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    pub reports: Vec<NodeReport>,
    /// Peer addresses of those that were asked and did not answer.
    pub silent: Vec<String>,
}

/// `/v1/cluster`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    #[serde(with = "shown::option")]
    pub cluster: Option<ClusterId>,
    /// The highest that any node knows.
    pub plan_epoch: u64,
    /// By id; those whose id is not known come last.
    pub members: Vec<MemberView>,
    /// The group that holds the plan, once some node has a replica of it.
    pub system: Option<GroupView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberView {
    /// Not known of one that is only an address in a configuration and does not answer.
    #[serde(with = "shown::option")]
    pub id: Option<NodeId>,
    pub address: String,
    /// As the member says itself; of one that does not answer, as it last said by gossip.
    pub state: Option<NodeState>,
    pub zone: Option<String>,
    pub version: Option<String>,
    /// Of the newest plan that it knows, as the member says itself; of one that does not answer, as it last said by gossip.
    pub plan_epoch: Option<u64>,
    pub answered: bool,
    /// By gossip, and so some seconds old.
    pub load: Option<Load>,
    /// How many shards it owns, by gossip.
    pub shards_led: Option<u32>,
    /// Since when most of the others have heard nothing of it by gossip, as RFC 3339; whoever noticed first counts.
    pub suspected_since: Option<String>,
}

/// `/v1/cluster/shards`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardsView {
    /// All shards, in order.
    pub shards: Vec<ShardView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardView {
    pub shard: u16,
    #[serde(flatten)]
    pub group: GroupView,
}

/// Who holds a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupView {
    /// Who owns it under a valid lease.
    #[serde(with = "shown::option")]
    pub owner: Option<NodeId>,
    /// The voters of the group, by the newest knowledge.
    #[serde(with = "shown::all")]
    pub replicas: Vec<NodeId>,
    /// The highest that any replica knows; null where none answered.
    pub term: Option<Term>,
    /// The owner's; the furthest replica's where there is no owner.
    pub applied_index: Option<LogIndex>,
    /// The members of the group that do not vote, by the newest knowledge: copies that are being made.
    #[serde(with = "shown::all")]
    pub learners: Vec<NodeId>,
    /// Whether the group is between two sets of voters, by the newest knowledge.
    pub joint: bool,
    /// Where the newest plan wants it, of those that a node with a replica knows.
    pub planned: Option<PlannedView>,
    /// What its owner does at present so that it is where the plan wants it.
    #[serde(rename = "move")]
    pub moving: Option<MoveView>,
}

/// Where a plan wants a shard to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedView {
    #[serde(with = "shown::id")]
    pub owner: NodeId,
    #[serde(with = "shown::all")]
    pub replicas: Vec<NodeId>,
}

/// The step of a move that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveView {
    /// See [`Movement::step`].
    pub step: String,
    /// The node that gets or loses a replica, or becomes the owner.
    #[serde(with = "shown::id")]
    pub target: NodeId,
    /// When the step began, as RFC 3339; null where that cannot be printed.
    pub since: Option<String>,
    /// How much of the log the target is known to have.
    pub matched_index: LogIndex,
    /// Where the log ends.
    pub last_index: LogIndex,
}

/// `/v1/cluster/hashes`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashesView {
    /// All shards, in order; the system shard last.
    pub shards: Vec<ShardHashes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardHashes {
    pub shard: u16,
    /// Whether any two replicas have the same hash at the highest index of which both tell it: false where some two differ;
    /// null where that cannot be said of all that answered, or fewer than two did. Only replicas of the same incarnation can be
    /// compared.
    pub agree: Option<bool>,
    /// The highest index of which all replicas that answered tell their hash, in the same incarnation.
    pub compared_index: Option<LogIndex>,
    pub replicas: Vec<ReplicaHash>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaHash {
    #[serde(with = "shown::id")]
    pub node: NodeId,
    pub applied_index: LogIndex,
    /// How often the shard was recovered without a quorum. Replicas of different incarnations are not compared.
    pub incarnation: u32,
    /// 32 hexadecimal digits.
    pub content_hash: String,
}

/// `/v1/cluster/explain/{kind}/{id}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    pub kind: String,
    pub id: String,
    /// 16 hexadecimal digits.
    pub hash: String,
    #[serde(flatten)]
    pub placed: ShardView,
    /// Peer addresses of the replicas, in their order; null where one is not known.
    pub addresses: Vec<Option<String>>,
    /// Why the entity is there, for people.
    pub why: String,
    /// Commands that wait at the owner.
    pub queue: Option<u32>,
    /// The last step that any of the nodes that answered has taken with the shard, as its owner and since the node's start.
    pub last_move: Option<LastMoveView>,
}

/// A step of a move that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastMoveView {
    /// See [`Movement::step`].
    pub step: String,
    /// The node that got or lost a replica, or became the owner.
    #[serde(with = "shown::id")]
    pub target: NodeId,
    /// As RFC 3339; null where that cannot be printed.
    pub ended: Option<String>,
}

/// The replicas of one shard that were reported, by node.
type Replicas<'a> = BTreeMap<NodeId, &'a ReplicaReport>;

/// Of each shard, where the newest plan that was reported wants it.
type Planned<'a> = BTreeMap<ShardId, &'a Placement>;

/// The group that holds the plan and the members.
const SYSTEM: ShardId = ShardId(u16::MAX);

impl Gathered {
    /// All members that anybody knows of.
    pub fn cluster(&self) -> ClusterView {
        let known: BTreeSet<&Member> = self.reports.iter().flat_map(|report| &report.members).collect();
        let mut members: BTreeMap<NodeId, MemberView> =
            known.iter().map(|member| (member.node, MemberView::silent(Some(member.node), &member.address))).collect();
        members.extend(self.reports.iter().map(|report| (report.node, MemberView::answered(report))));
        for (node, sightings) in self.sightings() {
            let silent = |newest: &Sighting| MemberView::silent(Some(node), &newest.address);
            let Some(newest) = sightings.iter().map(|(_, seen)| *seen).max_by_key(|seen| seen.edition) else {
                continue;
            };
            members.entry(node).or_insert_with(|| silent(newest)).complete(newest, suspected_since(node, &sightings));
        }
        let named: BTreeSet<&str> = members.values().map(|member| member.address.as_str()).collect();
        let silent: BTreeSet<&str> = self.silent.iter().map(String::as_str).collect();
        let unnamed: Vec<_> = silent.difference(&named).map(|address| MemberView::silent(None, address)).collect();
        ClusterView {
            cluster: self.reports.iter().map(|report| report.cluster).min(),
            plan_epoch: self.reports.iter().map(|report| report.plan_epoch).max().unwrap_or(0),
            members: members.into_values().chain(unnamed).collect(),
            system: self.replicas().get(&SYSTEM).map(|replicas| group(replicas, self.planned().get(&SYSTEM).copied())),
        }
    }

    /// The shards 0 to `shards`.
    pub fn shards(&self, shards: u16) -> ShardsView {
        let (replicas, planned) = (self.replicas(), self.planned());
        ShardsView { shards: (0..shards).map(|shard| place(&replicas, &planned, ShardId(shard))).collect() }
    }

    /// The shards 0 to `shards`, and the system shard where some node has a replica of it.
    pub fn hashes(&self, shards: u16) -> HashesView {
        let (replicas, none) = (self.replicas(), Replicas::new());
        let all = (0..shards).map(ShardId).chain(replicas.contains_key(&SYSTEM).then_some(SYSTEM));
        HashesView { shards: all.map(|shard| compare(shard, replicas.get(&shard).unwrap_or(&none))).collect() }
    }

    /// Where `key` is, in a cluster of `shards` shards, and why.
    pub fn explain(&self, key: &EntityKey, shards: u16) -> ExplainView {
        let replicas = self.replicas();
        let placed = place(&replicas, &self.planned(), key.shard(shards));
        let of_owner = placed.group.owner.and_then(|owner| replicas.get(&key.shard(shards))?.get(&owner));
        let queue = of_owner.map(|replica| replica.queued);
        ExplainView {
            kind: key.kind().to_owned(),
            id: key.id().to_owned(),
            hash: format!("{:016x}", key.hash64()),
            addresses: placed.group.replicas.iter().map(|node| self.address(*node)).collect(),
            why: self.why(&placed, shards),
            queue,
            last_move: replicas.get(&key.shard(shards)).and_then(last_move),
            placed,
        }
    }

    fn why(&self, placed: &ShardView, shards: u16) -> String {
        let GroupView { owner, replicas, term, .. } = &placed.group;
        let hashed = format!("the hash of kind/id falls into range {} of {shards}", placed.shard);
        if replicas.is_empty() {
            return format!("{hashed}, and no node that answered has a replica of that shard");
        }
        let epoch = self.cluster().plan_epoch;
        let names = replicas.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
        let placed =
            format!("{hashed}; the group of that shard has the replicas {names}, by the plan of epoch {epoch}");
        match (owner, term) {
            (Some(owner), Some(term)) => format!("{placed}, and {owner} owns it since term {term}"),
            _ => format!("{placed}, and none of those that answered owns it just now"),
        }
    }

    /// Every replica that was reported. Of a node that was asked under two addresses, the newer report counts.
    fn replicas(&self) -> BTreeMap<ShardId, Replicas<'_>> {
        let mut shards: BTreeMap<ShardId, Replicas<'_>> = BTreeMap::new();
        for (node, replica) in self.reports.iter().flat_map(|report| report.replicas.iter().map(|r| (report.node, r))) {
            let known = shards.entry(replica.shard).or_default().entry(node).or_insert(replica);
            if (replica.term, replica.applied) > (known.term, known.applied) {
                *known = replica;
            }
        }
        shards
    }

    fn planned(&self) -> Planned<'_> {
        let mut reports: Vec<&NodeReport> = self.reports.iter().collect();
        // Of plans of one epoch, which are the same, any will do, but always the same one.
        reports.sort_by_key(|report| (report.plan_epoch, report.node));
        let wishes = reports.into_iter().flat_map(|report| &report.replicas);
        wishes.filter_map(|replica| Some((replica.shard, replica.planned.as_ref()?))).collect()
    }

    /// What is known of each node by gossip, and by whom.
    fn sightings(&self) -> BTreeMap<NodeId, Vec<(NodeId, &Sighting)>> {
        let mut of: BTreeMap<NodeId, Vec<(NodeId, &Sighting)>> = BTreeMap::new();
        for report in &self.reports {
            report.sightings.iter().for_each(|seen| of.entry(seen.node).or_default().push((report.node, seen)));
        }
        of
    }

    fn address(&self, node: NodeId) -> Option<String> {
        let own = self.reports.iter().find(|report| report.node == node).map(|report| &report.address);
        let told = || {
            let members = self.reports.iter().flat_map(|report| &report.members);
            members.filter(|member| member.node == node).map(|member| &member.address).max()
        };
        own.or_else(told).cloned()
    }
}

impl MemberView {
    fn answered(report: &NodeReport) -> Self {
        Self {
            id: Some(report.node),
            address: report.address.clone(),
            state: Some(report.state),
            plan_epoch: Some(report.plan_epoch),
            version: Some(report.software.clone()),
            answered: true,
            ..Self::silent(Some(report.node), &report.address)
        }
    }

    fn silent(id: Option<NodeId>, address: &str) -> Self {
        Self {
            id,
            address: address.to_owned(),
            state: None,
            zone: None,
            version: None,
            plan_epoch: None,
            answered: false,
            load: None,
            shards_led: None,
            suspected_since: None,
        }
    }

    /// Adds what is known by gossip. What the member has said itself stays.
    fn complete(&mut self, newest: &Sighting, suspected_since: Option<String>) {
        self.state.get_or_insert(newest.state);
        self.plan_epoch.get_or_insert(newest.plan_epoch);
        self.version.get_or_insert_with(|| newest.software.clone());
        self.zone.clone_from(&newest.zone);
        self.load = Some(newest.load);
        self.shards_led = Some(newest.led);
        self.suspected_since = suspected_since;
    }
}

/// Since when a node is suspected, if more than half of the others that know it suspect it: one that is cut off itself
/// suspects everybody.
fn suspected_since(node: NodeId, sightings: &[(NodeId, &Sighting)]) -> Option<String> {
    let others = sightings.iter().filter(|(by, _)| *by != node);
    let suspecting: Vec<u64> = others.clone().filter_map(|(_, seen)| seen.suspected_micros).collect();
    let first = suspecting.iter().min().filter(|_| 2 * suspecting.len() > others.count())?;
    time_of(*first)
}

/// As RFC 3339. A clock that is far off may show what cannot be printed.
/// RFC 3339, of microseconds since 1970; nothing where that cannot be printed.
pub fn time_of(micros: u64) -> Option<String> {
    let time = jiff::Timestamp::from_microsecond(i64::try_from(micros).ok()?).ok()?;
    Some(format!("{time:.3}"))
}

fn place(replicas: &BTreeMap<ShardId, Replicas<'_>>, planned: &Planned<'_>, shard: ShardId) -> ShardView {
    let group = replicas.get(&shard).map(|replicas| group(replicas, planned.get(&shard).copied()));
    ShardView { shard: shard.0, group: group.unwrap_or_default() }
}

fn group(replicas: &Replicas<'_>, planned: Option<&Placement>) -> GroupView {
    let owner = replicas.iter().filter(|(_, replica)| replica.owns).max_by_key(|(_, replica)| replica.term);
    // A replica that has just been made knows no voters yet.
    let telling = replicas.values().filter(|replica| !replica.voters.is_empty());
    let newest = telling.max_by_key(|replica| (replica.term, replica.owns, replica.applied)).copied();
    let furthest = replicas.values().map(|replica| replica.applied).max();
    GroupView {
        owner: owner.map(|(node, _)| *node),
        replicas: newest.map(|replica| replica.voters.clone()).unwrap_or_default(),
        term: replicas.values().map(|replica| replica.term).max(),
        applied_index: owner.map(|(_, replica)| replica.applied).or(furthest),
        learners: newest.map(|replica| replica.learners.clone()).unwrap_or_default(),
        joint: newest.is_some_and(|replica| replica.is_joint),
        planned: planned.map(|wish| PlannedView { owner: wish.owner, replicas: wish.replicas.clone() }),
        moving: owner.and_then(|(_, replica)| replica.movement.as_ref()).map(MoveView::from),
    }
}

impl From<&Movement> for MoveView {
    fn from(movement: &Movement) -> Self {
        let Movement { step, target, from_micros, matched, last } = movement;
        Self {
            step: step.clone(),
            target: *target,
            since: time_of(*from_micros),
            matched_index: *matched,
            last_index: *last,
        }
    }
}

/// Of whoever took one last, by the clocks of the nodes.
fn last_move(replicas: &Replicas<'_>) -> Option<LastMoveView> {
    let taken = replicas.values().filter_map(|replica| replica.last_movement.as_ref());
    let LastMovement { step, target, ended_micros } = taken.max_by_key(|movement| movement.ended_micros)?;
    Some(LastMoveView { step: step.clone(), target: *target, ended: time_of(*ended_micros) })
}

fn compare(shard: ShardId, replicas: &Replicas<'_>) -> ShardHashes {
    let hashes: Vec<BTreeMap<(u32, LogIndex), u128>> = replicas.values().map(|replica| hashes(replica)).collect();
    let in_all = |at: &&(u32, LogIndex)| hashes.iter().all(|hashes| hashes.contains_key(*at));
    let compared_index = hashes.first().and_then(|first| first.keys().rev().find(in_all)).map(|(_, index)| *index);
    let pairs = hashes.iter().enumerate().flat_map(|(n, one)| hashes[n + 1..].iter().map(move |other| (one, other)));
    let verdicts: Vec<Option<bool>> = pairs.map(|(one, other)| agree(one, other)).collect();
    let agree = if verdicts.contains(&Some(false)) {
        Some(false)
    } else {
        (!verdicts.is_empty() && !verdicts.contains(&None)).then_some(true)
    };
    let replica_hash = |(node, replica): (&NodeId, &&ReplicaReport)| ReplicaHash {
        node: *node,
        applied_index: replica.applied,
        incarnation: replica.incarnation,
        content_hash: format!("{:032x}", replica.content_hash),
    };
    ShardHashes {
        shard: shard.0,
        agree,
        compared_index: compared_index.filter(|_| hashes.len() > 1),
        replicas: replicas.iter().map(replica_hash).collect(),
    }
}

/// All indexes at which a replica tells its hash, with its incarnation: the entries of one may be others in another.
fn hashes(replica: &ReplicaReport) -> BTreeMap<(u32, LogIndex), u128> {
    let at = |index: LogIndex| (replica.incarnation, index);
    let mut hashes: BTreeMap<_, _> = replica.marks.iter().map(|mark| (at(mark.index), mark.content_hash)).collect();
    hashes.insert(at(replica.applied), replica.content_hash);
    hashes
}

/// Whether two replicas agree at the highest index that both tell; a hash sums up everything before it.
fn agree(one: &BTreeMap<(u32, LogIndex), u128>, other: &BTreeMap<(u32, LogIndex), u128>) -> Option<bool> {
    let (at, hash) = one.iter().rev().find(|(at, _)| other.contains_key(at))?;
    Some(other.get(at) == Some(hash))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::report::{Edition, HashMark};

    const SHARDS: u16 = 2;

    fn member(node: u64) -> Member {
        Member { node: NodeId(node), address: format!("n{node}:1") }
    }

    fn replica(shard: u16, owns: bool, term: Term, applied: LogIndex) -> ReplicaReport {
        ReplicaReport {
            shard: ShardId(shard),
            owns,
            leader: None,
            term,
            voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            learners: vec![],
            applied,
            incarnation: 0,
            content_hash: u128::from(applied),
            marks: vec![],
            queued: 0,
            is_joint: false,
            planned: None,
            movement: None,
            last_movement: None,
        }
    }

    fn report(node: u64, replicas: Vec<ReplicaReport>) -> NodeReport {
        NodeReport {
            node: NodeId(node),
            cluster: ClusterId(7),
            address: format!("n{node}:1"),
            state: NodeState::Ready,
            software: "berth-node/0.1.0".to_owned(),
            plan_epoch: node,
            members: vec![member(1), member(2), member(3)],
            sightings: vec![],
            replicas,
        }
    }

    fn sighting(node: u64, revision: u64, state: NodeState, suspected_micros: Option<u64>) -> Sighting {
        Sighting {
            node: NodeId(node),
            address: format!("n{node}:1"),
            edition: Edition { generation: 1, revision },
            zone: Some("a".to_owned()),
            state,
            plan_epoch: 8,
            software: "berth-node/0.0.9".to_owned(),
            load: Load { cpu_percent: 15, resident_bytes: 1000, requests_per_second: revision },
            led: 21,
            suspected_micros,
        }
    }

    /// Reports of nodes that know these by gossip, from node 1 on.
    fn gossiping(sightings: Vec<Vec<Sighting>>) -> Value {
        let reports = (1..).zip(sightings).map(|(node, sightings)| NodeReport { sightings, ..report(node, vec![]) });
        json_of(&gathered(reports.collect()).cluster())["members"].take()
    }

    #[test]
    fn gossip_tells_of_members_that_do_not_answer_and_of_those_that_no_plan_knows() {
        const SINCE: u64 = 1_767_225_600_250_000;
        let (ready, joining) = (NodeState::Ready, NodeState::Joining);
        let members = gossiping(vec![
            vec![
                sighting(1, 9, ready, None),
                sighting(3, 5, ready, Some(SINCE + 7_000)),
                sighting(4, 1, joining, None),
            ],
            vec![sighting(3, 6, NodeState::Leaving, Some(SINCE))],
        ]);
        assert_eq!(
            members[2],
            json!({
                "id": "0000000000000003", "address": "n3:1", "state": "leaving", "zone": "a",
                "version": "berth-node/0.0.9", "planEpoch": 8, "answered": false,
                "load": {"cpuPercent": 15, "residentBytes": 1000, "requestsPerSecond": 6}, "shardsLed": 21,
                "suspectedSince": "2026-01-01T00:00:00.250Z",
            })
        );
        assert_eq!((&members[0]["state"], &members[0]["version"]), (&json!("ready"), &json!("berth-node/0.1.0")));
        assert_eq!((&members[0]["zone"], &members[0]["load"]["requestsPerSecond"]), (&json!("a"), &json!(9)));
        assert_eq!((&members[3]["state"], &members[3]["answered"]), (&json!("joining"), &json!(false)));
    }

    #[test]
    fn a_node_that_is_cut_off_makes_nobody_suspected_who_is_heard_by_the_others() {
        let ready = NodeState::Ready;
        let cut_off = |node| sighting(node, 1, ready, Some(5));
        let heard = |node| sighting(node, 1, ready, None);
        let members = gossiping(vec![
            vec![heard(1), cut_off(2), cut_off(3)],
            vec![cut_off(1), heard(2), heard(3)],
            vec![cut_off(1), heard(2), heard(3)],
        ]);
        let suspected: Vec<bool> =
            members.as_array().unwrap().iter().map(|member| !member["suspectedSince"].is_null()).collect();
        assert_eq!(suspected, [true, false, false]);
        let alone = gossiping(vec![vec![heard(1), cut_off(2)]]);
        assert!(!alone[1]["suspectedSince"].is_null(), "there is nobody who says otherwise");
    }

    fn gathered(reports: Vec<NodeReport>) -> Gathered {
        Gathered { reports, silent: vec![] }
    }

    fn json_of(view: &impl Serialize) -> Value {
        serde_json::to_value(view).unwrap()
    }

    #[test]
    fn a_member_that_does_not_answer_is_shown_as_such() {
        let gathered = Gathered {
            reports: vec![report(2, vec![replica(u16::MAX, true, 4, 9)]), report(1, vec![])],
            silent: vec!["n3:1".to_owned(), "seed:1".to_owned()],
        };
        let silent = json!({
            "id": "0000000000000003", "address": "n3:1", "state": null, "zone": null, "version": null, "planEpoch": null,
            "answered": false, "load": null, "shardsLed": null, "suspectedSince": null,
        });
        let view = json_of(&gathered.cluster());
        assert_eq!((&view["cluster"], &view["planEpoch"]), (&json!("00000000000000000000000000000007"), &json!(2)));
        assert_eq!(
            view["members"][0],
            json!({
                "id": "0000000000000001", "address": "n1:1", "state": "ready", "zone": null, "version": "berth-node/0.1.0",
                "planEpoch": 1, "answered": true, "load": null, "shardsLed": null, "suspectedSince": null,
            })
        );
        assert_eq!(view["members"][2], silent);
        assert_eq!(
            (&view["members"][3]["id"], &view["members"][3]["address"], view["members"].as_array().unwrap().len()),
            (&Value::Null, &json!("seed:1"), 4)
        );
        assert_eq!(view["system"]["owner"], "0000000000000002");
        let nobody = json_of(&Gathered::default().cluster());
        assert_eq!(nobody, json!({"cluster": null, "planEpoch": 0, "members": [], "system": null}));
    }

    #[test]
    fn the_owner_of_the_highest_term_wins_and_only_who_says_so_owns() {
        let moved = gathered(vec![
            report(1, vec![replica(0, true, 3, 90)]),
            report(2, vec![replica(0, true, 4, 80), replica(1, false, 6, 5)]),
            report(3, vec![replica(0, false, 4, 95), replica(1, false, 5, 7)]),
        ]);
        let replicas = ["0000000000000001", "0000000000000002", "0000000000000003"];
        assert_eq!(
            json_of(&moved.shards(3)),
            json!({"shards": [
                shown(0, json!({"owner": replicas[1], "replicas": replicas, "term": 4, "appliedIndex": 80})),
                shown(1, json!({"owner": null, "replicas": replicas, "term": 6, "appliedIndex": 7})),
                shown(2, json!({"owner": null, "replicas": [], "term": null, "appliedIndex": null})),
            ]})
        );
    }

    /// A shard that stays where it is.
    fn shown(shard: u16, group: Value) -> Value {
        let mut all = json!({"shard": shard, "learners": [], "joint": false, "planned": null, "move": null});
        all.as_object_mut().unwrap().extend(group.as_object().unwrap().clone());
        all
    }

    #[test]
    fn a_move_is_shown_as_its_owner_tells_it_and_the_wish_of_the_newest_plan() {
        let (one, two, four) = (NodeId(1), NodeId(2), NodeId(4));
        let wish = |owner| Some(Placement { owner, replicas: vec![one, two, four] });
        let movement = |matched| Movement {
            step: "catch-up".to_owned(),
            target: four,
            from_micros: 1_767_225_600_250_000,
            matched,
            last: 90,
        };
        let owner = ReplicaReport {
            learners: vec![four],
            is_joint: true,
            planned: wish(one),
            movement: Some(movement(70)),
            ..replica(0, true, 4, 80)
        };
        // It owned the shard before, and does not know yet that this is over.
        let former = ReplicaReport { planned: wish(two), movement: Some(movement(10)), ..replica(0, true, 3, 90) };
        let gathered = gathered(vec![report(1, vec![former]), report(2, vec![owner])]);
        let ids = ["0000000000000001", "0000000000000002", "0000000000000003", "0000000000000004"];
        let shard = shown(
            0,
            json!({
                "owner": ids[1], "replicas": ids[..3], "term": 4, "appliedIndex": 80, "learners": [ids[3]], "joint": true,
                "planned": {"owner": ids[0], "replicas": [ids[0], ids[1], ids[3]]},
                "move": {
                    "step": "catch-up", "target": ids[3], "since": "2026-01-01T00:00:00.250Z", "matchedIndex": 70, "lastIndex": 90,
                },
            }),
        );
        assert_eq!(json_of(&gathered.shards(1)), json!({"shards": [shard]}));
    }

    #[test]
    fn what_is_shown_reads_back_as_it_was() {
        let planned = Some(Placement { owner: NodeId(u64::MAX), replicas: vec![NodeId(u64::MAX), NodeId(0)] });
        let owner = ReplicaReport { planned, ..replica(u16::MAX, true, 4, 80) };
        let sightings = vec![sighting(3, 6, NodeState::Leaving, Some(1_767_225_600_250_000))];
        let known = NodeReport { sightings, ..report(2, vec![owner, replica(0, true, 1, 2)]) };
        let gathered = Gathered { reports: vec![known], silent: vec!["seed:1".to_owned()] };
        let (cluster, shards) = (gathered.cluster(), gathered.shards(2));
        assert_eq!(serde_json::from_value::<ClusterView>(json_of(&cluster)).unwrap(), cluster);
        assert_eq!(serde_json::from_value::<ShardsView>(json_of(&shards)).unwrap(), shards);
        let garbled = json_of(&cluster).to_string().replace("0000000000000003", "three");
        assert!(serde_json::from_str::<ClusterView>(&garbled).is_err());
    }

    #[test]
    fn a_replica_that_knows_no_voters_does_not_hide_those_that_others_know() {
        let fresh = ReplicaReport { voters: vec![], ..replica(0, false, 9, 0) };
        let view = gathered(vec![report(1, vec![fresh]), report(2, vec![replica(0, false, 3, 4)])]).shards(1);
        assert_eq!(view.shards[0].group.replicas.len(), 3);
    }

    fn hashed(node: u64, marks: &[(LogIndex, u128)]) -> NodeReport {
        let ((applied, content_hash), marks) = marks.split_last().unwrap();
        let marks = marks.iter().map(|(index, content_hash)| HashMark { index: *index, content_hash: *content_hash });
        let replica =
            ReplicaReport { content_hash: *content_hash, marks: marks.collect(), ..replica(0, false, 1, *applied) };
        report(node, vec![replica])
    }

    fn compared(reports: Vec<NodeReport>) -> (Option<bool>, Option<LogIndex>) {
        let shard = gathered(reports).hashes(1).shards.remove(0);
        (shard.agree, shard.compared_index)
    }

    #[test]
    fn replicas_are_compared_at_the_highest_index_that_they_have_in_common() {
        let one = || hashed(1, &[(1024, 5), (2048, 6), (2050, 7)]);
        assert_eq!(compared(vec![one()]), (None, None), "nobody to compare with");
        assert_eq!(compared(vec![]), (None, None));
        assert_eq!(compared(vec![one(), hashed(2, &[(1024, 5), (1030, 9)])]), (Some(true), Some(1024)));
        assert_eq!(
            compared(vec![one(), hashed(2, &[(2050, 7)])]),
            (Some(true), Some(2050)),
            "at the same applied index"
        );
        assert_eq!(compared(vec![one(), hashed(2, &[(2050, 8)])]), (Some(false), Some(2050)));
        assert_eq!(compared(vec![one(), hashed(2, &[(2048, 6), (2049, 1)])]), (Some(true), Some(2048)));
        assert_eq!(compared(vec![one(), hashed(2, &[(3, 1)])]), (None, None), "nothing in common");
        let two_differ = vec![one(), hashed(2, &[(7, 1)]), hashed(3, &[(2048, 66), (2060, 1)])];
        assert_eq!(compared(two_differ), (Some(false), None), "a difference is told whoever else cannot be compared");
        let one_is_far_behind = vec![one(), hashed(2, &[(7, 1)]), hashed(3, &[(2048, 6), (2060, 1)])];
        assert_eq!(compared(one_is_far_behind), (None, None));
        let mut recovered = hashed(2, &[(1024, 5), (2050, 8)]);
        recovered.replicas[0].incarnation = 1;
        assert_eq!(compared(vec![one(), recovered.clone()]), (None, None), "of another incarnation");
        let differs = vec![one(), recovered, hashed(3, &[(2050, 9)])];
        assert_eq!(compared(differs), (Some(false), None));
        let view = json_of(&gathered(vec![one()]).hashes(1));
        let replica = json!({"node": "0000000000000001", "appliedIndex": 2050, "incarnation": 0, "contentHash": format!("{:032x}", 7)});
        let shard = json!({"shard": 0, "agree": null, "comparedIndex": null, "replicas": [replica]});
        assert_eq!(view, json!({"shards": [shard]}));
    }

    #[test]
    fn an_entity_is_explained_down_to_its_owner_and_queue() {
        let key = EntityKey::new("cart", "alice").unwrap();
        let shard = key.shard(SHARDS).0;
        let moved =
            |step: &str, ended_micros| Some(LastMovement { step: step.to_owned(), target: NodeId(2), ended_micros });
        let owner = ReplicaReport {
            queued: 12,
            last_movement: moved("remove-voter", 1_000_000),
            ..replica(shard, true, 4, 80)
        };
        let former = ReplicaReport { last_movement: moved("hand-off", 2_000_000), ..replica(shard, false, 4, 80) };
        let reports =
            vec![report(1, vec![former]), report(2, vec![owner]), report(3, vec![replica(shard, false, 4, 80)])];
        let view = json_of(&gathered(reports).explain(&key, SHARDS));
        assert_eq!((&view["kind"], &view["id"], &view["shard"]), (&json!("cart"), &json!("alice"), &json!(shard)));
        assert_eq!((&view["hash"], &view["queue"]), (&json!(format!("{:016x}", key.hash64())), &json!(12)));
        assert_eq!(view["owner"], json!("0000000000000002"));
        let last = json!({"step": "hand-off", "target": "0000000000000002", "ended": "1970-01-01T00:00:02.000Z"});
        assert_eq!(view["lastMove"], last, "whoever took it");
        assert_eq!(view["addresses"], json!(["n1:1", "n2:1", "n3:1"]));
        let why = view["why"].as_str().unwrap();
        assert!(why.contains("epoch 3") && why.contains("0000000000000002 owns it since term 4"), "{why}");
        let nowhere = Gathered::default().explain(&key, SHARDS);
        assert!(nowhere.why.contains("no node that answered"), "{}", nowhere.why);
        assert_eq!((nowhere.queue, nowhere.placed.group.owner), (None, None));
    }

    proptest! {
        /// Who asks whom first has no effect on what is shown.
        #[test]
        fn the_order_of_reports_does_not_matter(
            terms in prop::collection::vec((any::<bool>(), 0_u64..4, 0_u64..4), 1..5),
            turn in 0_usize..5,
        ) {
            let reports: Vec<_> = terms.iter().enumerate().map(|(node, (owns, term, applied))| {
                report(node as u64, vec![replica(0, *owns, *term, *applied)])
            }).collect();
            let mut turned = reports.clone();
            turned.rotate_left(turn % reports.len());
            let (one, other) = (gathered(reports), gathered(turned));
            prop_assert_eq!(one.cluster(), other.cluster());
            prop_assert_eq!(one.shards(1), other.shards(1));
            prop_assert_eq!(one.hashes(1), other.hashes(1));
            let key = EntityKey::new("cart", "a").unwrap();
            prop_assert_eq!(one.explain(&key, 1), other.explain(&key, 1));
        }
    }
}
