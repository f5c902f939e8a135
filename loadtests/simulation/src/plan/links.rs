//! What goes wrong between hosts besides cuts around one of them, and with their wall clocks: a node that is on the wrong side
//! of a cut together with a gateway, messages that are lost or arrive twice, and clocks that somebody sets.

use std::time::Duration;

use super::{Action, Cut, Draw, FAULTS_LAST, How, Plan, Scheduled, Stop};
use crate::cluster::{NODES, gateway_name, node_name};

/// So that no two clocks are further apart than the 30 s that a gateway may be ahead of an owner.
const JUMP_MAX_MICROS: u64 = 14_000_000;

pub(super) fn add(draw: &mut Draw, plan: &mut Plan) {
    match draw.below(10) {
        0..2 => split(draw, plan),
        2 => wedge(draw, plan),
        _ => {}
    }
    if draw.chance(25) {
        let per_million = 50 + draw.below(1000) as u32;
        let (from, until) = span(draw);
        plan.actions.push(Scheduled { at: from, action: Action::Lose { per_million } });
        plan.actions.push(Scheduled { at: until, action: Action::Lose { per_million: 0 } });
    }
    let hosts: Vec<String> = (0..NODES).map(node_name).chain((0..plan.gateways).map(gateway_name)).collect();
    if draw.chance(30) {
        let host = one_of(draw, &hosts);
        let percent = 1 + draw.below(30);
        let (from, until) = span(draw);
        plan.actions.push(Scheduled { at: from, action: Action::Repeat { host: host.clone(), percent } });
        plan.actions.push(Scheduled { at: until, action: Action::Repeat { host, percent: 0 } });
    }
    if draw.chance(30) {
        for _ in 0..=draw.below(3) {
            let host = one_of(draw, &hosts);
            let offset_micros = draw.below(2 * JUMP_MAX_MICROS).cast_signed() - JUMP_MAX_MICROS.cast_signed();
            let at = Duration::from_millis(draw.below(12_000));
            plan.actions.push(Scheduled { at, action: Action::SetWallClock { host, offset_micros } });
        }
    }
}

/// In place of all other cuts: now and then one node and one of two gateways hear each other and none of the other nodes, so that
/// clients ask an owner that nobody tells of the next one. Many do, and ask for something else soon where they are not answered.
fn split(draw: &mut Draw, plan: &mut Plan) {
    plan.gateways = 2;
    plan.clients += 6;
    plan.style.deadline = Duration::from_secs(1);
    plan.actions.retain(|scheduled| !matches!(scheduled.action, Action::Cut(_) | Action::Mend(_)));
    let mut at = Duration::from_millis(draw.below(3000));
    while at < FAULTS_LAST {
        let lasts = Duration::from_millis(1000 + draw.below(3000));
        let node = draw.below(NODES as u64) as usize;
        let gateway = gateway_name(draw.below(plan.gateways as u64) as usize);
        for from in [node_name(node), gateway] {
            for to in (0..NODES).filter(|other| *other != node).map(node_name) {
                let cut = Cut { from: from.clone(), to, how: How::Both };
                plan.actions.push(Scheduled { at, action: Action::Cut(cut.clone()) });
                plan.actions.push(Scheduled { at: at + lasts, action: Action::Mend(cut) });
            }
        }
        at += lasts + Duration::from_millis(500 + draw.below(3000));
    }
}

/// In place of all other cuts: now and then two nodes do not hear each other, and the third, which hears both and on which the one
/// leads and the other cannot, ends and is back at once.
fn wedge(draw: &mut Draw, plan: &mut Plan) {
    plan.actions.retain(|scheduled| !matches!(scheduled.action, Action::Cut(_) | Action::Mend(_)));
    let mut at = Duration::from_millis(draw.below(2000));
    while at < FAULTS_LAST {
        let lasts = Duration::from_millis(1500 + draw.below(1500));
        let third = draw.below(NODES as u64) as usize;
        let (from, to) = (node_name((third + 1) % NODES), node_name((third + 2) % NODES));
        let cut = Cut { from, to, how: How::Both };
        plan.actions.push(Scheduled { at, action: Action::Cut(cut.clone()) });
        plan.actions.push(Scheduled { at: at + lasts, action: Action::Mend(cut) });
        let (host, how) = (node_name(third), if draw.chance(50) { Stop::Kill } else { Stop::PowerCut });
        let ends = at + Duration::from_millis(800 + draw.below(700));
        plan.actions.push(Scheduled { at: ends, action: Action::Stop { host: host.clone(), how } });
        plan.actions
            .push(Scheduled { at: ends + Duration::from_millis(draw.below(200)), action: Action::Start { host } });
        at += lasts + Duration::from_millis(200 + draw.below(1000));
    }
}

fn span(draw: &mut Draw) -> (Duration, Duration) {
    let from = Duration::from_millis(draw.below(9000));
    (from, (from + Duration::from_millis(500 + draw.below(5000))).min(FAULTS_LAST))
}

fn one_of(draw: &mut Draw, hosts: &[String]) -> String {
    hosts[draw.below(hosts.len() as u64) as usize].clone()
}
