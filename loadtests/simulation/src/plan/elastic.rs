//! Draws who comes and who goes in a run, and what breaks on the way: processes that end in the middle of a move, nodes that
//! are silent for so long that others take their place, disks that are lost, and gossip that is cut.

use std::time::Duration;

use super::{Action, Ambush, Cut, Draw, How, Machine, Part, Plan, Scheduled, Stop};
use crate::cluster::{NODES, node_name};

/// How long things break, and members come and go.
const LASTS: Duration = Duration::from_secs(18);
/// Short enough that a node can be given up and come back in a run.
const REPLACE_AFTER: Duration = Duration::from_secs(3);
/// Of the first nodes at least one stays, because the others know the addresses of no more.
const FIRST_LEAVING_MAX: usize = NODES - 1;
/// The steps that a process ends at.
const STEPS: [&str; 5] = ["add-learner", "catch-up", "promote", "hand-off", "remove-voter"];

/// Members come and go in `plan`, whatever else happens in it.
pub(super) fn add(draw: &mut Draw, plan: &mut Plan) {
    plan.heal_at = LASTS;
    // A disk is only lost here when nobody needs what is on it.
    let is_wipe = |action: &Action| matches!(action, Action::Stop { how: Stop::Wipe, .. });
    plan.actions.retain(|scheduled| !is_wipe(&scheduled.action));
    match draw.below(3) {
        0 => {}
        1 => plan.actions.retain(|scheduled| matches!(scheduled.action, Action::Cut(_) | Action::Mend(_))),
        _ => plan.actions.clear(),
    }
    if draw.chance(70) {
        plan.replace_after = REPLACE_AFTER;
    }
    let joins = 1 + draw.below(2) as usize;
    for number in NODES..NODES + joins {
        plan.machines.push(Machine::draw(draw, 1, 20_000));
        let at = Duration::from_millis(300 + draw.below(5000));
        plan.actions.push(Scheduled { at, action: Action::Join { host: node_name(number) } });
    }
    let nodes = NODES + joins;
    leaves(draw, joins, &mut plan.actions);
    for _ in 0..draw.below(4) {
        ambush(draw, &mut plan.actions);
    }
    if draw.chance(40) {
        absence(draw, nodes, &mut plan.actions);
    }
    if draw.chance(40) {
        let (host, down) = (any(draw, nodes), Duration::from_millis(50 + draw.below(5000)));
        let at = Duration::from_millis(1000 + draw.below(12_000));
        plan.actions.push(Scheduled { at, action: Action::Replace { host, down } });
    }
    if draw.chance(40) {
        gossip_cut(draw, nodes, &mut plan.actions);
    }
    if draw.chance(40) {
        cut_of_a_new_one(draw, joins, &mut plan.actions);
    }
    plan.actions.sort_by_key(|scheduled| scheduled.at);
}

fn any(draw: &mut Draw, nodes: usize) -> String {
    node_name(draw.below(nodes as u64) as usize)
}

/// As many as come at most, so that there are always enough; one after the other, or at once.
fn leaves(draw: &mut Draw, joins: usize, actions: &mut Vec<Scheduled>) {
    let mut stay: Vec<usize> = (0..NODES + joins).collect();
    let mut first_leaving = 0;
    for _ in 0..draw.below(joins as u64 + 1) {
        let number = stay.remove(draw.below(stay.len() as u64) as usize);
        first_leaving += usize::from(number < NODES);
        if first_leaving > FIRST_LEAVING_MAX {
            return;
        }
        let at = Duration::from_millis(2000 + draw.below(12_000));
        actions.push(Scheduled { at, action: Action::Leave { host: node_name(number) } });
    }
}

fn ambush(draw: &mut Draw, actions: &mut Vec<Scheduled>) {
    let step = STEPS[draw.below(STEPS.len() as u64) as usize];
    let part = match draw.below(3) {
        0 => Part::Source,
        1 => Part::Target,
        _ => Part::Third,
    };
    let how = if draw.chance(50) { Stop::Kill } else { Stop::PowerCut };
    let after = Duration::from_millis(draw.below(40));
    let down = Duration::from_millis(100 + if draw.chance(70) { draw.below(2500) } else { draw.below(7000) });
    let at = Duration::from_millis(draw.below(12_000));
    actions.push(Scheduled { at, action: Action::Ambush(Ambush { step, part, how, after, down }) });
}

/// A node is away for so long that others may take its place, and then comes back.
fn absence(draw: &mut Draw, nodes: usize, actions: &mut Vec<Scheduled>) {
    let host = any(draw, nodes);
    let how = if draw.chance(50) { Stop::Kill } else { Stop::PowerCut };
    let at = Duration::from_millis(1000 + draw.below(9000));
    actions.push(Scheduled { at, action: Action::Stop { host: host.clone(), how } });
    let at = at + Duration::from_millis(3000 + draw.below(5000));
    actions.push(Scheduled { at, action: Action::Start { host } });
}

fn gossip_cut(draw: &mut Draw, nodes: usize, actions: &mut Vec<Scheduled>) {
    let host = any(draw, nodes);
    let at = Duration::from_millis(draw.below(10_000));
    actions.push(Scheduled { at, action: Action::CutGossip { host: host.clone() } });
    let at = at + Duration::from_millis(500 + draw.below(7000));
    actions.push(Scheduled { at, action: Action::MendGossip { host } });
}

/// A node that came later is cut off from one of the first, or from all of them.
fn cut_of_a_new_one(draw: &mut Draw, joins: usize, actions: &mut Vec<Scheduled>) {
    let from = node_name(NODES + draw.below(joins as u64) as usize);
    let how = match draw.below(3) {
        0 => How::Both,
        1 => How::OneWay,
        _ => How::Held,
    };
    let at = Duration::from_millis(2000 + draw.below(8000));
    let until = at + Duration::from_millis(100 + draw.below(5000));
    let only = draw.chance(50).then(|| draw.below(NODES as u64) as usize);
    for to in (0..NODES).filter(|to| only.is_none_or(|only| only == *to)).map(node_name) {
        let cut = Cut { from: from.clone(), to, how };
        actions.push(Scheduled { at, action: Action::Cut(cut.clone()) });
        actions.push(Scheduled { at: until, action: Action::Mend(cut) });
    }
}
