//! What breaks in a run, and how all of it is mended.

use std::io;

use berth_node::disk::Faults;

use super::Run;
use crate::cluster;
use crate::history::Violation;
use crate::plan::{Action, Cut, DiskFault, How, Stop};

impl Run<'_> {
    pub(super) fn act(&mut self, action: &Action) -> Result<(), Violation> {
        self.note(&format!("{action:?}"));
        if let Some(fault) = action.fault() {
            *self.faults.entry(fault).or_default() += 1;
        }
        match action {
            Action::Stop { host, how } => self.stop(host, *how)?,
            Action::PowerGoesAfter { host, writes } => {
                if let Some(number) = self.node_number(host) {
                    self.disks.borrow()[number].cut_power_after(*writes);
                }
            }
            Action::DiskFails { host, how } => {
                if let Some(number) = self.node_number(host) {
                    self.disks.borrow()[number].set_faults(faults(*how));
                    self.failing.borrow_mut().insert(number);
                }
            }
            Action::Start { host } => self.start(host),
            Action::Cut(cut) => self.cut(cut),
            Action::Mend(cut) => self.mend(cut),
            Action::SlowDisk { host, pause_max } => self.world.host(host).set_disk_pause_max(*pause_max),
            Action::Join { host } => self.join(host),
            Action::Leave { host } => self.leave(host)?,
            Action::Replace { host, down } => self.replacing.push((host.clone(), *down)),
            Action::CutGossip { host } => self.cut_gossip(host, true),
            Action::MendGossip { host } => self.cut_gossip(host, false),
            Action::Lose { per_million } => self.sim.set_fail_rate(f64::from(*per_million) / 1e6),
            Action::Repeat { host, percent } => self.world.host(host).set_repeats_percent(*percent),
            Action::SetWallClock { host, offset_micros } => self.world.host(host).set_wall_offset(*offset_micros),
            Action::Ambush(ambush) => self.ambushes.push(ambush.clone()),
        }
        Ok(())
    }

    pub(super) fn heal(&mut self) -> Result<(), Violation> {
        self.note("everything is mended");
        for cut in self.cuts.clone() {
            self.mend(&cut);
        }
        self.sim.set_fail_rate(0.0);
        self.world.hosts().iter().for_each(|host| host.set_repeats_percent(0));
        (self.ambushes, self.replacing, self.soon) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..self.plan.machines.len() {
            let name = cluster::node_name(number);
            if !self.is_there(&name) {
                continue;
            }
            self.cut_gossip(&name, false);
            self.world.host(&name).set_disk_pause_max(self.plan.machines[number].disk_pause_max);
            if self.failing.borrow().contains(&number) || self.disks.borrow()[number].power_is_off() {
                self.stop(&name, Stop::PowerCut)?;
            }
            self.start(&name);
        }
        (0..self.plan.gateways).for_each(|number| self.start(&cluster::gateway_name(number)));
        Ok(())
    }

    fn cut(&mut self, cut: &Cut) {
        if !self.is_there(&cut.from) || !self.is_there(&cut.to) {
            return;
        }
        let (from, to) = (cut.from.as_str(), cut.to.as_str());
        match cut.how {
            How::Both => self.sim.partition(from, to),
            How::OneWay => self.sim.partition_oneway(from, to),
            How::Held => self.sim.hold(from, to),
        }
        [from, to].iter().for_each(|host| self.goes_away(host));
        self.cuts.push(cut.clone());
    }

    fn mend(&mut self, cut: &Cut) {
        if !self.cuts.contains(cut) {
            return;
        }
        let (from, to) = (cut.from.as_str(), cut.to.as_str());
        match cut.how {
            How::Both => self.sim.repair(from, to),
            How::OneWay => self.sim.repair_oneway(from, to),
            How::Held => self.sim.release(from, to),
        }
        [from, to].iter().for_each(|host| self.comes_back(host));
        self.cuts.retain(|other| other != cut);
    }
}

fn faults(how: DiskFault) -> Faults {
    match how {
        DiskFault::Full => Faults { write: Some(io::ErrorKind::StorageFull), ..Faults::default() },
        DiskFault::SyncFails => Faults { sync: Some(io::ErrorKind::Other), ..Faults::default() },
    }
}
