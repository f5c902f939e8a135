//! The processes of a run: how nodes and gateways begin, how they are ended from outside, and what is left of them.

use std::rc::Rc;

use berth_node::app;
use berth_node::disk::{Faults, SimulatedDisk};
use berth_shared::report::NodeReport;

use super::{CLIENTS, Run};
use crate::cluster;
use crate::history::{Departure, Violation};
use crate::plan::{Cut, Flaw, Stop};

/// Bits that flip on a disk that rots.
const ROTTEN_BITS_MAX: u64 = 64;

impl Run<'_> {
    /// Brings the host of a node into the world, and starts the node.
    pub(super) fn add_node(&mut self, number: usize) {
        let name = cluster::node_name(number);
        let machine = self.plan.machines[number];
        let host = self.world.host(&name).clone();
        let crawls = self.plan.flaw == Some(Flaw::ClockCrawls) && number == 0;
        let now = self.now();
        host.set_clock_rate(now, if crawls { 333_333 } else { machine.clock_per_million });
        host.set_wall_offset(machine.wall_offset_micros);
        host.set_disk_pause_max(machine.disk_pause_max);
        let (world, disks, nodes) = (self.world.clone(), self.disks.clone(), self.nodes.clone());
        let (failing, rotten) = (self.failing.clone(), self.rotten.clone());
        let (leaving, departures) = (self.leaving.clone(), self.departures.clone());
        let (gossip, replace_after) = (self.gossip.clone(), self.plan.replace_after);
        self.there.insert(name.clone());
        self.sim.host(name.clone(), move || {
            let (world, name, host, gossip) = (world.clone(), name.clone(), host.clone(), gossip.clone());
            let (disk, nodes) = (disks.borrow()[number].clone(), nodes.clone());
            let (failing, rotten) = (failing.clone(), rotten.clone());
            let (leaving, departures) = (leaving.clone(), departures.clone());
            async move {
                world.run_here(&name);
                let process = async {
                    host.seams().spawner.sleep(machine.starts_at.saturating_sub(host.elapsed())).await;
                    let seams = host.seams();
                    let started = cluster::start_node(number, replace_after, disk.clone(), gossip.clone(), seams).await;
                    let error = match started {
                        Ok(node) => {
                            let node = Rc::new(node);
                            nodes.borrow_mut()[number] = Some(node.clone());
                            if leaving.borrow().contains(&number) {
                                node.drain();
                            }
                            let has_left = tokio::select! {
                                biased;
                                () = node.ended() => false,
                                () = node.left() => true,
                            };
                            nodes.borrow_mut()[number] = None;
                            let (id, last) = (node.node, node.report());
                            let why = why(node).await;
                            if has_left {
                                host.note(format_args!("has left: {why}"), &[]);
                                departures.borrow_mut().push((number, departure(id, last)));
                                std::future::pending::<()>().await;
                            }
                            why
                        }
                        Err(error) => error.to_string(),
                    };
                    let fails = failing.borrow().contains(&number) || rotten.borrow().contains(&number);
                    if !disk.power_is_off() && !fails {
                        return Err(format!("{name} cannot go on: {error}").into());
                    }
                    host.abort(&error);
                    std::future::pending().await
                };
                host.run_until_killed(process).await
            }
        });
    }

    pub(super) fn add_gateway(&mut self, number: usize) {
        let name = cluster::gateway_name(number);
        let (world, gateways) = (self.world.clone(), self.gateways.clone());
        let host = self.world.host(&name).clone();
        self.there.insert(name.clone());
        self.sim.host(name.clone(), move || {
            let (world, name, host, gateways) = (world.clone(), name.clone(), host.clone(), gateways.clone());
            async move {
                world.run_here(&name);
                let process = async {
                    let handle = cluster::start_gateway(number, host.seams()).await?;
                    gateways.borrow_mut()[number] = Some(handle);
                    std::future::pending().await
                };
                host.run_until_killed(process).await
            }
        });
    }

    /// Ends a process, unless it has ended. Takes one step: the process closes its connections in it, unseen but for that.
    pub(super) fn stop(&mut self, name: &str, how: Stop) -> Result<(), Violation> {
        if !self.is_there(name) {
            return Ok(());
        }
        self.changes.replaced += u64::from(how == Stop::Wipe);
        if !self.sim.is_host_running(name) {
            if let (Stop::Wipe | Stop::Rot, Some(number)) = (how, self.node_number(name)) {
                let left = self.left_on_disk(number, how);
                self.put_disk(number, left);
            }
            return Ok(());
        }
        self.goes_away(name);
        // Without power nobody closes connections; so that none of it arrives, the links are gone for the moment.
        let silenced: Vec<String> = match how {
            Stop::Kill => Vec::new(),
            Stop::PowerCut | Stop::Wipe | Stop::Rot => self.unbroken_neighbours(name),
        };
        silenced.iter().for_each(|other| self.sim.partition(name, other.as_str()));
        // What is left on the disk is known before anything else writes to it.
        let left = self.node_number(name).map(|number| (number, self.left_on_disk(number, how)));
        self.world.host(name).kill();
        // Nobody looks into a process that has ended.
        let node = self.node_number(name).and_then(|number| self.nodes.borrow_mut()[number].take());
        self.step()?;
        // What it said of its end does not matter any more.
        self.world.host(name).take_end();
        self.sim.crash(name);
        drop(node);
        silenced.iter().for_each(|other| self.sim.repair(name, other.as_str()));
        if let Some((number, left)) = left {
            self.put_disk(number, left);
        }
        Ok(())
    }

    pub(super) fn start(&mut self, name: &str) {
        if self.is_there(name) && !self.sim.is_host_running(name) {
            self.note(&format!("{name} starts again"));
            self.comes_back(name);
            self.sim.bounce(name);
        }
    }

    fn left_on_disk(&mut self, number: usize, how: Stop) -> SimulatedDisk {
        let disk = self.disks.borrow()[number].clone();
        self.power_cuts += 1;
        let seed = self.plan.seed.wrapping_mul(31).wrapping_add(self.power_cuts);
        match how {
            Stop::Kill => disk.process_killed(),
            Stop::Wipe => {
                self.rotten.borrow_mut().remove(&number);
                SimulatedDisk::new()
            }
            Stop::PowerCut => disk.power_cut(seed),
            Stop::Rot => {
                let left = disk.power_cut(seed);
                left.rot(1 + (seed % ROTTEN_BITS_MAX) as usize, seed);
                self.rotten.borrow_mut().insert(number);
                left
            }
        }
    }

    fn put_disk(&mut self, number: usize, disk: SimulatedDisk) {
        self.failing.borrow_mut().remove(&number);
        self.disks.borrow_mut()[number] = flawed(disk, self.plan.flaw);
    }

    fn unbroken_neighbours(&self, name: &str) -> Vec<String> {
        let is_cut = |other: &str| {
            let between = |cut: &Cut| (cut.from == name && cut.to == other) || (cut.from == other && cut.to == name);
            self.cuts.iter().any(between)
        };
        let others = self.world.hosts().iter().map(|host| host.name.clone());
        // The clients' host joins late, and speaks to gateways only.
        others
            .filter(|other| other != name && other != CLIENTS && self.there.contains(other) && !is_cut(other))
            .collect()
    }
}

/// Why a node has ended.
async fn why(node: Rc<app::Handle>) -> String {
    match Rc::try_unwrap(node) {
        Ok(node) => node.shutdown().await.map_or_else(|error| error.to_string(), |()| "it was shut down".to_owned()),
        Err(_) => "somebody looks into it".to_owned(),
    }
}

/// Who counts on it is seen from the others.
fn departure(node: berth_shared::ids::NodeId, last: Option<NodeReport>) -> Departure {
    let hosted = last.into_iter().flat_map(|report| report.replicas).map(|replica| replica.shard).collect();
    Departure { node, hosted, counted_on: Vec::new() }
}

pub(super) fn flawed(disk: SimulatedDisk, flaw: Option<Flaw>) -> SimulatedDisk {
    disk.set_faults(Faults { sync_lies: flaw == Some(Flaw::DisksForget), ..Faults::default() });
    disk
}
