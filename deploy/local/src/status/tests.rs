//! What is said of clusters in all kinds of states.

use berth_shared::cluster_view::{MemberView, MoveView, PlannedView, ShardView};
use berth_shared::ids::{ClusterId, NodeId};
use berth_shared::report::{Load, NodeState};

use super::*;

const NOW: u64 = 1_767_225_600_000_000;
const PLAIN: Style = Style::of(false, false);

fn member(node: u64, state: NodeState) -> MemberView {
    MemberView {
        id: Some(NodeId(node)),
        address: format!("n{node}:7400"),
        state: Some(state),
        zone: None,
        version: Some("berth-node/0.1.0".to_owned()),
        plan_epoch: Some(8),
        answered: true,
        load: Some(Load { cpu_percent: 12, resident_bytes: 3 << 20, requests_per_second: 120 }),
        shards_led: Some(1),
        suspected_since: None,
    }
}

/// Where a plan wants it.
fn group(replicas: &[u64]) -> GroupView {
    let replicas: Vec<NodeId> = replicas.iter().copied().map(NodeId).collect();
    GroupView {
        owner: Some(replicas[0]),
        replicas: replicas.clone(),
        term: Some(3),
        applied_index: Some(100),
        planned: Some(PlannedView { owner: replicas[0], replicas }),
        ..GroupView::default()
    }
}

/// Three nodes, three shards, nothing to do.
fn settled() -> Seen {
    let replicas = [[1, 2, 3], [2, 3, 1], [3, 1, 2]];
    let shards = (0..).zip(&replicas).map(|(shard, replicas)| ShardView { shard, group: group(replicas) }).collect();
    let cluster = ClusterView {
        cluster: Some(ClusterId(7)),
        plan_epoch: 8,
        members: (1..=3).map(|node| member(node, NodeState::Ready)).collect(),
        system: Some(group(&replicas[0])),
    };
    Seen { cluster, shards: ShardsView { shards }, at_micros: NOW }
}

fn moving(step: &str, target: u64, matched_index: u64) -> MoveView {
    let since = Some("2025-12-31T23:59:52.900Z".to_owned());
    MoveView { step: step.to_owned(), target: NodeId(target), since, matched_index, last_index: 90 }
}

/// A fourth node joins and the first one leaves.
fn changing() -> Seen {
    let mut seen = settled();
    seen.cluster.members[0].state = Some(NodeState::Leaving);
    seen.cluster.members.push(MemberView { zone: Some("b".to_owned()), ..member(4, NodeState::Joining) });
    for shard in &mut seen.shards.shards {
        shard.group.planned = Some(PlannedView { owner: NodeId(2), replicas: [2, 3, 4].map(NodeId).to_vec() });
    }
    seen.shards.shards[0].group.moving = Some(moving("catch-up", 4, 60));
    seen.shards.shards[1].group.learners = vec![NodeId(4)];
    seen.cluster.system.as_mut().unwrap().moving = Some(moving("remove-voter", 1, 0));
    seen
}

#[test]
fn a_cluster_at_rest_is_a_table_and_one_line() {
    let expected = "\
Cluster 00000000000000000000000000000007: 3 members, 3 shards, plan 8

node              address  state  zone  program            cpu   memory  requests/s  owns  holds
0000000000000001  n1:7400  ready  -     berth-node/0.1.0  12 %  3.0 MiB         120     1      3  [####################]
0000000000000002  n2:7400  ready  -     berth-node/0.1.0  12 %  3.0 MiB         120     1      3  [####################]
0000000000000003  n3:7400  ready  -     berth-node/0.1.0  12 %  3.0 MiB         120     1      3  [####################]

As planned  [####################]  4 of 4 shards

The cluster waits for nothing.
";
    assert_eq!(show(&settled(), PLAIN), expected);
}

#[test]
fn moves_have_bars_and_what_is_waited_for_is_said() {
    let expected = "\
Cluster 00000000000000000000000000000007: 4 members, 3 shards, plan 8

node              address  state    zone  program            cpu   memory  requests/s  owns  holds
0000000000000001  n1:7400  leaving  -     berth-node/0.1.0  12 %  3.0 MiB         120     1      3  [####################]
0000000000000002  n2:7400  ready    -     berth-node/0.1.0  12 %  3.0 MiB         120     1      3  [####################]
0000000000000003  n3:7400  ready    -     berth-node/0.1.0  12 %  3.0 MiB         120     1      3  [####################]
0000000000000004  n4:7400  joining  b     berth-node/0.1.0  12 %  3.0 MiB         120     0      0  [....................]

As planned  [#####...............]  1 of 4 shards

Moves
  shard 0       catch-up        0000000000000004  [#############.......]  66 %  for 7 s
  system shard  remove-voter    0000000000000001                                for 7 s

Waiting for
  - node 0000000000000001 to leave: 4 replicas to move away from it
  - node 0000000000000004 to join: it has 0 of 3 planned replicas
  - 3 shards to be where the plan wants them; 2 of them move just now
";
    assert_eq!(show(&changing(), PLAIN), expected);
}

#[test]
fn escapes_and_blocks_are_for_terminals_and_colours_for_those_who_want_them() {
    let seen = changing();
    let is_plain = |text: &str| text.is_ascii() && !text.contains('\x1b');
    assert!(is_plain(&show(&seen, PLAIN)));
    let (coloured, colourless) = (show(&seen, Style::of(true, false)), show(&seen, Style::of(true, true)));
    assert!(coloured.contains("\x1b[32mready") && coloured.contains('█'), "{coloured}");
    assert!(!colourless.contains('\x1b') && colourless.contains('█'), "{colourless}");
    let mut stripped = coloured;
    for code in ["0", "1", "31", "32", "33"] {
        stripped = stripped.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(stripped, colourless, "colours change no width");
}

fn waits(change: impl FnOnce(&mut Seen)) -> Vec<String> {
    let mut seen = settled();
    change(&mut seen);
    waiting::waiting(&seen)
}

#[test]
fn what_a_cluster_waits_for_is_named() {
    let since = "2025-12-31T23:59:52.000Z";
    assert_eq!(waits(|_| ()), [""; 0]);
    let silent = waits(|seen| seen.cluster.members[2].suspected_since = Some(since.to_owned()));
    let text =
        "a word from node 0000000000000003, silent for 8 s; if it stays silent, its 4 replicas are made elsewhere";
    assert_eq!(silent, [text]);
    assert_eq!(
        waits(|seen| seen.cluster.members[2].answered = false),
        ["an answer from node 0000000000000003 at n3:7400"]
    );
    let address = MemberView { id: None, answered: false, state: None, ..member(9, NodeState::Ready) };
    assert_eq!(waits(|seen| seen.cluster.members.push(address)), ["an answer from n9:7400"]);
    assert_eq!(
        waits(|seen| seen.cluster.members[0].plan_epoch = Some(7)),
        ["node 0000000000000001 to learn of plan 8: it knows plan 7"]
    );
    let recovering = waits(|seen| seen.cluster.members[0].state = Some(NodeState::Recovering));
    assert_eq!(recovering, ["node 0000000000000001 to catch up with its owners"]);
    let left = waits(|seen| seen.cluster.members.push(member(4, NodeState::Leaving)));
    assert_eq!(left, ["node 0000000000000004 to end: it leaves, and holds nothing any more"]);
    let joining = waits(|seen| seen.cluster.members.push(member(4, NodeState::Joining)));
    assert_eq!(joining, ["node 0000000000000004 to have a place in a plan"]);
}

#[test]
fn shards_without_owners_or_copies_are_named_until_there_are_too_many() {
    let gone = waits(|seen| {
        let group = &mut seen.shards.shards[1].group;
        (group.owner, group.replicas) = (None, vec![NodeId(2), NodeId(3)]);
    });
    assert_eq!(
        gone,
        [
            "an owner of shard 1: requests wait until it is elected",
            "the missing copies of shard 1",
            "1 shard to be where the plan wants them; 0 of them move just now",
        ]
    );
    let many = waits(|seen| {
        let orphan = GroupView { owner: None, planned: None, ..group(&[1, 2, 3]) };
        seen.shards.shards = (0..9).map(|shard| ShardView { shard, group: orphan.clone() }).collect();
    });
    let text = "an owner of shard 0, shard 1, shard 2, shard 3, shard 4 and 4 more: requests wait until it is elected";
    assert_eq!(many, [text]);
}

#[test]
fn before_there_is_a_cluster_it_is_said_so() {
    let nothing = Seen {
        cluster: ClusterView { cluster: None, plan_epoch: 0, members: vec![], system: None },
        shards: ShardsView { shards: vec![] },
        at_micros: NOW,
    };
    let text = show(&nothing, PLAIN);
    assert!(text.starts_with("No cluster yet: 0 members, 0 shards, plan 0\n"), "{text}");
    assert!(text.contains("  - nodes to form a cluster"), "{text}");
    assert_eq!(waits(|seen| seen.cluster.plan_epoch = 0)[0], "the first plan");
}

#[test]
fn many_moves_are_cut_short_and_odd_numbers_do_no_harm() {
    let mut seen = settled();
    let group = GroupView { moving: Some(moving("catch-up", 4, u64::MAX)), ..group(&[1, 2, 3]) };
    seen.shards.shards = (0..30).map(|shard| ShardView { shard, group: group.clone() }).collect();
    seen.shards.shards[0].group.moving =
        Some(MoveView { since: Some("later".to_owned()), last_index: 0, ..moving("promote", 4, 0) });
    let text = show(&seen, PLAIN);
    assert!(text.contains("shard 19 ") && !text.contains("shard 20 ") && text.contains("  and 10 more\n"), "{text}");
    assert!(text.contains("shard 0       promote         0000000000000004  [####################] 100 %\n"), "{text}");
    assert!(text.contains("  - 30 moves to finish\n"), "{text}");
}

#[test]
fn an_address_is_a_host_and_a_port() {
    let address = |text: &str| text.parse::<Address>().map(|address| address.to_string());
    for text in ["http://localhost:8090", "localhost:8090", "http://localhost:8090/"] {
        assert_eq!(address(text).unwrap(), "http://localhost:8090");
    }
    for (text, why) in [
        ("localhost", "localhost is not host:port"),
        ("http://a:x", "a:x is not host:port"),
        ("https://a:1", "plain http://"),
        (":80", "the host is missing"),
        ("http://a/b:80", "only host and port"),
    ] {
        let error = address(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}
