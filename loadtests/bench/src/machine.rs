//! The machine and the moment: processor, kernel, disk, and the CPU time of processes and threads, all from /proc.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// CPU time used since a process or thread started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CpuTime {
    pub(crate) user_seconds: f64,
    pub(crate) kernel_seconds: f64,
}

/// The kernel counts CPU time in hundredths of a second on every architecture that Berth runs on (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// How long it takes to make 4 KiB durable on an idle disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlushLatency {
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}

impl CpuTime {
    pub(crate) fn of_process(id: u32) -> Result<Self> {
        Self::read(&format!("/proc/{id}/stat"))
    }

    /// Of several processes together.
    pub(crate) fn of_processes(ids: &[u32]) -> Result<Self> {
        ids.iter().try_fold(Self::default(), |sum, id| {
            let one = Self::of_process(*id)?;
            Ok(Self {
                user_seconds: sum.user_seconds + one.user_seconds,
                kernel_seconds: sum.kernel_seconds + one.kernel_seconds,
            })
        })
    }

    /// Name and CPU time of every thread of a process.
    pub(crate) fn of_threads(id: u32) -> Result<Vec<(u32, String, Self)>> {
        let mut threads = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{id}/task")).context("cannot list threads")? {
            let path = entry?.path();
            let Some(thread) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A thread may end between being listed and being read.
            let (Ok(name), Ok(time)) =
                (std::fs::read_to_string(path.join("comm")), Self::read(&path.join("stat").to_string_lossy()))
            else {
                continue;
            };
            threads.push((thread, name.trim_end().to_owned(), time));
        }
        Ok(threads)
    }

    fn read(path: &str) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&text).with_context(|| format!("{path} has another form than proc(5) says"))
    }

    /// The name, in brackets, may have blanks and brackets of its own; what follows the last one are fields 3 and on.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        let seconds = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        Some(Self { user_seconds: seconds(14)?, kernel_seconds: seconds(15)? })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user_seconds: self.user_seconds - earlier.user_seconds,
            kernel_seconds: self.kernel_seconds - earlier.kernel_seconds,
        }
    }

    pub(crate) fn total_seconds(self) -> f64 {
        self.user_seconds + self.kernel_seconds
    }
}

/// One line: processor, cores, kernel and the file system that `out` is on.
pub(crate) fn describe(out: &Path) -> Result<String> {
    let processors = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let models = processors.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.map(|(_, model)| model.trim()).next().unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let file_system = Command::new("stat").args(["-f", "-c", "%T"]).arg(out).output().context("cannot run stat")?;
    let file_system = String::from_utf8_lossy(&file_system.stdout).trim().to_owned();
    let warning = if file_system == "tmpfs" { " (in memory: flushes cost nothing here)" } else { "" };
    Ok(format!("{model}, {cores} cores, Linux {}, {file_system}{warning}", kernel.trim()))
}

pub(crate) fn fdatasync_latency(out: &Path) -> Result<FlushLatency> {
    const FLUSHES: usize = 300;
    let path = out.join("flush");
    let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
    // Written once over its whole length, so that flushes do not also make the file longer, as a journal's do not.
    file.write_all(&vec![1; 4096 * FLUSHES])?;
    file.sync_all()?;
    let mut micros = Vec::with_capacity(FLUSHES);
    for number in 0..FLUSHES {
        use std::os::unix::fs::FileExt;
        let start = crate::now();
        file.write_all_at(&[2; 4096], (number * 4096) as u64)?;
        file.sync_data()?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path)?;
    micros.sort_by(f64::total_cmp);
    Ok(FlushLatency { p50_micros: micros[FLUSHES / 2], p99_micros: micros[FLUSHES * 99 / 100] })
}

impl fmt::Display for FlushLatency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fdatasync of 4 KiB: p50 {:.0} µs, p99 {:.0} µs", self.p50_micros, self.p99_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_from_behind_any_name() {
        let stat = "4711 (tokio ) (x) R 1 2 3 4 5 6 7 8 9 10 250 75 0 0 20 0";
        assert_eq!(CpuTime::parse(stat), Some(CpuTime { user_seconds: 2.5, kernel_seconds: 0.75 }));
        assert_eq!(CpuTime::parse("4711 (x) R 1"), None);
        assert_eq!(CpuTime::parse(""), None);
    }

    #[test]
    fn this_process_has_threads_and_cpu_time() {
        let own = std::process::id();
        assert!(CpuTime::of_process(own).unwrap().total_seconds() >= 0.0);
        assert!(CpuTime::of_threads(own).unwrap().iter().any(|(id, ..)| *id == own));
    }
}
