//! What a seed stands for: how many processes there are, how fast their disks, links and clocks are, how the clients behave,
//! what breaks when, and who comes and goes. Pure.

mod elastic;
mod links;
#[cfg(test)]
mod tests;

use std::time::Duration;

use berth_shared::planted::Bug;
use berth_shared::seam::Random;
use berth_shared::seam::random::SeededRandom;

use crate::client::Style;
use crate::cluster::{NODES, gateway_name, node_name};

/// How long things break.
const FAULTS_LAST: Duration = Duration::from_secs(12);
/// Longer than anything breaks, unless members come and go.
const REPLACE_AFTER: Duration = Duration::from_secs(30);
/// What the cluster gets to come to rest in when everything is mended.
pub const SETTLING: Duration = Duration::from_secs(5);
/// How long clients then go on, with every request succeeding.
pub const QUIET: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub gateways: usize,
    pub clients: usize,
    pub style: Style,
    /// Slowest delivery of a message; the fastest takes a millisecond.
    pub latency_max: Duration,
    /// By node, of the first nodes and then of those that come later.
    pub machines: Vec<Machine>,
    /// How long a node may be silent before others take over what it had.
    pub replace_after: Duration,
    /// What happens while the cluster comes to be, since the start; in order of time.
    pub beginnings: Vec<Scheduled>,
    /// In order of time.
    pub actions: Vec<Scheduled>,
    /// When everything is mended, since the clients began.
    pub heal_at: Duration,
    /// The run ends when the cluster serves.
    pub only_begins: bool,
    /// Something that must not be, to show that it is noticed; no seed draws it.
    pub flaw: Option<Flaw>,
    /// The same in the programs themselves.
    pub bug: Option<Bug>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Flaw {
    /// Syncs report success and keep nothing.
    DisksForget,
    /// The clock of one node runs at a third of its speed, so that its leases last longer than the others wait.
    ClockCrawls,
    /// Nodes that are told to leave end at once, with all that they have.
    LeavesAtOnce,
}

/// A node's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// When its process first starts.
    pub starts_at: Duration,
    /// Nanoseconds that its clock counts per million that pass.
    pub clock_per_million: u64,
    pub wall_offset_micros: i64,
    pub disk_pause_max: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Scheduled {
    /// Since the clients began, or since the start.
    pub at: Duration,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ends a host's process, unless it has ended.
    Stop {
        host: String,
        how: Stop,
    },
    /// The power of a node goes during one of its next writes.
    PowerGoesAfter {
        host: String,
        writes: u64,
    },
    /// Starts a host's process, unless it runs.
    Start {
        host: String,
    },
    Cut(Cut),
    Mend(Cut),
    /// Blocking work takes up to twice this long.
    SlowDisk {
        host: String,
        pause_max: Duration,
    },
    /// Every write, or every sync, is answered with an error until the process starts again.
    DiskFails {
        host: String,
        how: DiskFault,
    },
    /// A node comes that was never there.
    Join {
        host: String,
    },
    /// A node gives everything away and ends for good.
    Leave {
        host: String,
    },
    /// As soon as nobody needs what is on its disk alone, a node loses it. An empty one starts in its place after a while.
    Replace {
        host: String,
        down: Duration,
    },
    /// A node is cut off from gossip, and from nothing else, or is so no more.
    CutGossip {
        host: String,
    },
    MendGossip {
        host: String,
    },
    /// Of the messages between hosts, this share is lost, and what is on its way on the same link with it.
    Lose {
        per_million: u32,
    },
    /// Of the frames from other pods, so many arrive at a host twice.
    Repeat {
        host: String,
        percent: u64,
    },
    /// The wall clock of a host is wrong by this much from now on.
    SetWallClock {
        host: String,
        offset_micros: i64,
    },
    Ambush(Ambush),
}

/// As soon as a shard is at this step of a move, the process of one that takes part ends a moment later, and comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ambush {
    /// As reports call it.
    pub step: &'static str,
    pub part: Part,
    pub how: Stop,
    pub after: Duration,
    pub down: Duration,
}

/// Who has a part in a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The owner, which moves the shard.
    Source,
    Target,
    /// Another voter.
    Third,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The page cache survives, and peers are told that connections are closed.
    Kill,
    /// What was not synced may be lost, and peers are told nothing.
    PowerCut,
    /// The disk is lost, and an empty one takes its place.
    Wipe,
    /// Power is lost, and some bits of the database files are not what they were. A node that does not start on them gets an
    /// empty disk.
    Rot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    Full,
    SyncFails,
}

/// A link that does not work as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub from: String,
    pub to: String,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing arrives, and what was sent meanwhile is lost.
    Both,
    /// Only what goes from `from` to `to` is lost.
    OneWay,
    /// Nothing arrives until the link is mended; then everything does.
    Held,
}

impl Plan {
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw(SeededRandom::new(seed));
        let gateways = 1 + draw.below(2) as usize;
        let style = Style {
            pause: Duration::from_millis(10 + draw.below(60)),
            deadline: Duration::from_secs(5),
            reads_percent: 20 + draw.below(40),
            reads_strictly: draw.chance(50),
            writes_documents: draw.chance(50),
            keys_percent: draw.below(101),
            retries_percent: if draw.chance(50) { 60 } else { 0 },
            ..Style::default()
        };
        let apart = if draw.chance(50) { 1500 } else { 1 };
        // Up to 2 %, which leases allow for, though no clock of a computer is that bad.
        let skew = if draw.chance(50) { 20_000 } else { 100 };
        let machines = (0..NODES).map(|_| Machine::draw(&mut draw, apart, skew)).collect();
        let mut actions = Vec::new();
        stops(&mut draw, &mut actions);
        cuts(&mut draw, gateways, &mut actions);
        if draw.chance(40) {
            slow_disk(&mut draw, &mut actions);
        }
        if draw.chance(40) {
            gateway_stop(&mut draw, gateways, &mut actions);
        }
        if draw.chance(40) {
            wipe(&mut draw, &mut actions);
        }
        actions.sort_by_key(|scheduled| scheduled.at);
        let mut beginnings = Vec::new();
        if draw.chance(50) {
            early_stop(&mut draw, &mut beginnings);
        }
        let mut plan = Self {
            seed,
            gateways,
            clients: 3 + draw.below(3) as usize,
            style,
            latency_max: Duration::from_millis(2 + draw.below(15)),
            machines,
            replace_after: REPLACE_AFTER,
            beginnings,
            actions,
            heal_at: FAULTS_LAST,
            only_begins: false,
            flaw: None,
            bug: None,
        };
        // What came later is drawn later, so that what a seed stands for does not depend on it.
        if draw.chance(60) {
            elastic::add(&mut draw, &mut plan);
        }
        plan.style.sessions_percent = draw.below(70);
        plan.style.conditions_percent = draw.below(50);
        plan.style.lives_percent = draw.below(8);
        plan.style.repeats_percent = draw.below(12);
        plan.style.stale_percent = draw.below(30);
        plan.style.listings_percent = draw.below(4);
        rot(&mut draw, &mut plan.actions);
        links::add(&mut draw, &mut plan);
        plan.actions.sort_by_key(|scheduled| scheduled.at);
        plan
    }
}

impl Action {
    /// As reports call what breaks or changes; nothing where something is mended, and where nothing may come of it.
    pub fn fault(&self) -> Option<&'static str> {
        Some(match self {
            Self::Stop { how: Stop::Kill, .. } => "processes killed",
            Self::Stop { how: Stop::PowerCut, .. } => "power cuts",
            Self::Stop { how: Stop::Wipe, .. } => "disks lost",
            Self::Stop { how: Stop::Rot, .. } => "disks with flipped bits",
            Self::PowerGoesAfter { .. } => "power cuts in the middle of a write",
            Self::DiskFails { how: DiskFault::Full, .. } => "disks full",
            Self::DiskFails { how: DiskFault::SyncFails, .. } => "syncs that fail",
            Self::SlowDisk { .. } => "slow disks",
            Self::Cut(Cut { how: How::Both, .. }) => "links cut",
            Self::Cut(Cut { how: How::OneWay, .. }) => "links cut one way",
            Self::Cut(Cut { how: How::Held, .. }) => "links held",
            Self::CutGossip { .. } => "nodes cut off from gossip",
            Self::Lose { per_million: 1.. } => "spans of lost messages",
            Self::Repeat { percent: 1.., .. } => "spans of repeated frames",
            Self::SetWallClock { .. } => "wall clocks set",
            Self::Join { .. } => "joins",
            Self::Leave { .. } => "leaves",
            Self::Start { .. }
            | Self::Mend(_)
            | Self::MendGossip { .. }
            | Self::Lose { .. }
            | Self::Repeat { .. }
            | Self::Replace { .. }
            | Self::Ambush(_) => return None,
        })
    }
}

impl Machine {
    fn draw(draw: &mut Draw, apart: u64, skew: u64) -> Self {
        Self {
            starts_at: Duration::from_millis(draw.below(apart)),
            clock_per_million: 1_000_000 - skew + draw.below(2 * skew + 1),
            wall_offset_micros: (draw.below(400_001)).cast_signed() - 200_000,
            disk_pause_max: Duration::from_millis(draw.below(4)),
        }
    }
}

/// One process after the other ends and comes back; in some seeds two at once.
fn stops(draw: &mut Draw, actions: &mut Vec<Scheduled>) {
    let rows = 1 + usize::from(draw.chance(30));
    for _ in 0..rows {
        let mut at = Duration::from_millis(500 + draw.below(3000));
        while at < FAULTS_LAST {
            let host = node_name(draw.below(NODES as u64) as usize);
            let down = Duration::from_millis(100 + draw.below(2500));
            match draw.below(4) {
                0 => actions.push(Scheduled { at, action: Action::Stop { host: host.clone(), how: Stop::Kill } }),
                1 => actions.push(Scheduled { at, action: Action::Stop { host: host.clone(), how: Stop::PowerCut } }),
                fault => {
                    let begin = if fault == 2 {
                        Action::PowerGoesAfter { host: host.clone(), writes: draw.below(60) }
                    } else {
                        let how = if draw.chance(50) { DiskFault::Full } else { DiskFault::SyncFails };
                        Action::DiskFails { host: host.clone(), how }
                    };
                    actions.push(Scheduled { at, action: begin });
                    // An idle node may write little.
                    let (at, how) = (at + down / 2, Stop::PowerCut);
                    actions.push(Scheduled { at, action: Action::Stop { host: host.clone(), how } });
                }
            }
            actions.push(Scheduled { at: at + down, action: Action::Start { host } });
            at += down + Duration::from_millis(200 + draw.below(3000));
        }
    }
}

/// One break of the network after the other: between two hosts, or around one.
fn cuts(draw: &mut Draw, gateways: usize, actions: &mut Vec<Scheduled>) {
    let hosts: Vec<String> = (0..NODES).map(node_name).chain((0..gateways).map(gateway_name)).collect();
    let mut at = Duration::from_millis(draw.below(4000));
    while at < FAULTS_LAST {
        let lasts = Duration::from_millis(50 + draw.below(3000));
        let from = hosts[draw.below(NODES as u64) as usize].clone();
        let how = match draw.below(3) {
            0 => How::Both,
            1 => How::OneWay,
            _ => How::Held,
        };
        let others = hosts.iter().filter(|host| **host != from);
        let others: Vec<&String> = match draw.below(3) {
            // From everybody.
            0 => others.collect(),
            // From the other nodes.
            1 => others.filter(|host| host.starts_with("node")).collect(),
            // From one.
            _ => others.skip(draw.below(hosts.len() as u64 - 1) as usize).take(1).collect(),
        };
        let inwards = draw.chance(50);
        for other in others {
            let (from, to) = if inwards { (other.clone(), from.clone()) } else { (from.clone(), other.clone()) };
            let cut = Cut { from, to, how };
            actions.push(Scheduled { at, action: Action::Cut(cut.clone()) });
            actions.push(Scheduled { at: at + lasts, action: Action::Mend(cut) });
        }
        at += lasts + Duration::from_millis(100 + draw.below(3000));
    }
}

fn slow_disk(draw: &mut Draw, actions: &mut Vec<Scheduled>) {
    let host = node_name(draw.below(NODES as u64) as usize);
    let at = Duration::from_millis(draw.below(8000));
    let pause_max = Duration::from_millis(20 + draw.below(300));
    actions.push(Scheduled { at, action: Action::SlowDisk { host: host.clone(), pause_max } });
    let at = at + Duration::from_millis(500 + draw.below(3000));
    actions.push(Scheduled { at, action: Action::SlowDisk { host, pause_max: Duration::from_millis(2) } });
}

fn gateway_stop(draw: &mut Draw, gateways: usize, actions: &mut Vec<Scheduled>) {
    let host = gateway_name(draw.below(gateways as u64) as usize);
    let at = Duration::from_millis(draw.below(10_000));
    actions.push(Scheduled { at, action: Action::Stop { host: host.clone(), how: Stop::Kill } });
    let at = at + Duration::from_millis(50 + draw.below(1500));
    actions.push(Scheduled { at, action: Action::Start { host } });
}

/// One disk at most, which the others must make up for.
fn wipe(draw: &mut Draw, actions: &mut Vec<Scheduled>) {
    let host = node_name(draw.below(NODES as u64) as usize);
    let at = Duration::from_millis(1000 + draw.below(10_000));
    actions.push(Scheduled { at, action: Action::Stop { host: host.clone(), how: Stop::Wipe } });
    let at = at + Duration::from_millis(50 + draw.below(2000));
    actions.push(Scheduled { at, action: Action::Start { host } });
}

/// In half of the runs that lose one disk at a time of their own choice, it is there, and wrong: that may show at any time.
fn rot(draw: &mut Draw, actions: &mut [Scheduled]) {
    let is_rotten = draw.chance(50);
    let loses = |action: &Action| match action {
        Action::Stop { how, .. } | Action::Ambush(Ambush { how, .. }) => *how == Stop::Wipe,
        Action::Replace { .. } => true,
        _ => false,
    };
    let mut losses = actions.iter_mut().filter(|scheduled| loses(&scheduled.action));
    if let (Some(Scheduled { action: Action::Stop { how, .. }, .. }), None, true) =
        (losses.next(), losses.next(), is_rotten)
    {
        *how = Stop::Rot;
    }
}

/// A process ends while the cluster comes to be.
fn early_stop(draw: &mut Draw, beginnings: &mut Vec<Scheduled>) {
    let host = node_name(draw.below(NODES as u64) as usize);
    let how = if draw.chance(50) { Stop::Kill } else { Stop::PowerCut };
    let at = Duration::from_millis(draw.below(2000));
    beginnings.push(Scheduled { at, action: Action::Stop { host: host.clone(), how } });
    let at = at + Duration::from_millis(draw.below(1000));
    beginnings.push(Scheduled { at, action: Action::Start { host } });
}

struct Draw(SeededRandom);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
