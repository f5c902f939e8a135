//! Where the microseconds of a request go: CPU time by thread from /proc, and by part of the program from `perf`'s samples.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::machine::CpuTime;
use crate::report::Case;
use crate::{Options, wrk};

/// CPU time of the server in one run.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    pub(crate) seconds: f64,
    /// Share of the CPU time by kind of thread, largest first.
    pub(crate) threads: Vec<(String, f64)>,
    /// Share of the samples by part; empty without `perf`.
    pub(crate) parts: Vec<(&'static str, f64)>,
    /// The largest symbols, for whoever wants to know more.
    pub(crate) symbols: Vec<(String, f64)>,
}

/// How long the load runs before it is looked at.
const SETTLE: Duration = Duration::from_millis(500);

/// Runs the case once more and looks at the server meanwhile.
pub(crate) fn take(options: &Options, case: Case, server: &[u32], out: &Path) -> Result<Profile> {
    let mut load = wrk::command(options, case, out)?.stdout(Stdio::null()).spawn().context("cannot run wrk")?;
    // Connections are open and threads are running by then: what is sampled is the load itself.
    crate::pause(SETTLE);
    let threads =
        || server.iter().map(|id| CpuTime::of_threads(*id)).collect::<Result<Vec<_>>>().map(|all| all.concat());
    let before = threads()?;
    let samples = out.join("perf.data");
    let processes = server.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let perf = Command::new("perf")
        .args(["record", "-q", "-F", "1999", "-o"])
        .arg(&samples)
        .args(["-p", &processes, "--", "sleep", &options.seconds.saturating_sub(1).max(1).to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if perf.is_err() {
        eprintln!("perf is not installed: the profile has threads only (Debian package linux-perf)");
        crate::pause(Duration::from_secs(u64::from(options.seconds.saturating_sub(1).max(1))));
    }
    let mut profile = by_thread(&before, &threads()?);
    if perf.is_ok_and(|status| status.success()) {
        (profile.parts, profile.symbols) = by_part(&samples)?;
    }
    // Only there when perf could record.
    let _ = std::fs::remove_file(&samples);
    if !load.wait()?.success() {
        bail!("wrk failed while the server was profiled");
    }
    Ok(profile)
}

fn by_thread(before: &[(u32, String, CpuTime)], after: &[(u32, String, CpuTime)]) -> Profile {
    let mut seconds = BTreeMap::<String, f64>::new();
    for (id, name, time) in after {
        let start = before.iter().find(|(known, ..)| known == id).map_or(CpuTime::default(), |(.., time)| *time);
        // `journal-0` and `journal-1` do the same work for different nodes.
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
        *seconds.entry(kind).or_default() += time.since(start).total_seconds();
    }
    let total: f64 = seconds.values().sum();
    let shares = seconds.into_iter().map(|(name, spent)| (name, spent / total.max(f64::MIN_POSITIVE)));
    let mut threads: Vec<_> = shares.filter(|(_, share)| *share >= 0.005).collect();
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    Profile { seconds: total, threads, ..Profile::default() }
}

type Shares<T> = Vec<(T, f64)>;

fn by_part(samples: &Path) -> Result<(Shares<&'static str>, Shares<String>)> {
    let report = Command::new("perf")
        .args([
            "report",
            "--stdio",
            "--no-children",
            "--percent-limit",
            "0",
            "-F",
            "overhead,dso,symbol",
            "-t",
            "\t",
            "-i",
        ])
        .arg(samples)
        .stderr(Stdio::null())
        .output()
        .context("cannot run perf report")?;
    let text = String::from_utf8_lossy(&report.stdout);
    let mut parts = BTreeMap::<&'static str, f64>::new();
    let mut symbols = Vec::new();
    for (share, object, symbol) in text.lines().filter_map(row) {
        *parts.entry(part_of(object, symbol)).or_default() += share;
        symbols.push((symbol.chars().take(110).collect::<String>(), share));
    }
    let mut parts: Vec<_> = parts.into_iter().filter(|(_, share)| *share >= 0.001).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    symbols.truncate(12);
    Ok((parts, symbols))
}

/// Share, object and symbol of a line such as ` 3.21%\tberth\t[.] hyper::proto::h1::role::parse`.
fn row(line: &str) -> Option<(f64, &str, &str)> {
    let mut columns = line.trim().split('\t');
    let share: f64 = columns.next()?.trim().strip_suffix('%')?.parse().ok()?;
    let object = columns.next()?.trim();
    let symbol = columns.next()?.trim();
    let symbol = symbol.strip_prefix("[.]").or_else(|| symbol.strip_prefix("[k]")).unwrap_or(symbol).trim();
    Some((share / 100.0, object, symbol))
}

/// Which part of the program a symbol belongs to, by the first path in it that says so. A generic function of a library
/// counts for the library, even where the compiler made it for one of our types, unless it only drops or polls that type.
fn part_of(object: &str, symbol: &str) -> &'static str {
    /// Ordered: the first match wins.
    const PARTS: [(&str, &str); 31] = [
        ("berth_node::journal", "journal (ours)"),
        ("berth_node::store", "store (ours)"),
        ("berth_node::entity", "entities (ours)"),
        ("berth_node::shard", "shard (ours)"),
        ("berth_node::record", "shard (ours)"),
        ("berth_node", "node, other (ours)"),
        ("berth_gateway", "gateway (ours)"),
        ("berth_shared::peer", "peer transport (ours)"),
        ("berth_shared", "shared (ours)"),
        ("openraft", "openraft"),
        ("redb", "redb"),
        ("hyper", "http (hyper, axum)"),
        ("httparse", "http (hyper, axum)"),
        ("axum", "http (hyper, axum)"),
        ("tower", "http (hyper, axum)"),
        ("matchit", "http (hyper, axum)"),
        ("http", "http (hyper, axum)"),
        ("serde_json", "json"),
        ("json_patch", "json"),
        ("ryu", "json"),
        ("itoa", "json"),
        ("postcard", "peer transport (ours)"),
        ("tokio_util", "tokio"),
        ("tokio", "tokio"),
        ("mio", "tokio"),
        ("futures", "tokio"),
        ("tracing", "telemetry"),
        ("opentelemetry", "telemetry"),
        ("blake3", "hashes"),
        ("xxhash_rust", "hashes"),
        ("crc32c", "hashes"),
    ];
    // `[kernel.kallsyms]`, `[ext4]` and the like are the kernel and its modules; what it maps into a process is not.
    if object.starts_with('[') && object != "[vdso]" {
        return kernel_part(symbol);
    }
    if ["mi_", "_mi_", "malloc", "free", "realloc"].iter().any(|prefix| symbol.starts_with(prefix)) {
        return "memory";
    }
    if symbol.starts_with("mem") || symbol.starts_with("__mem") {
        return "copying and comparing";
    }
    let names = paths(symbol);
    let known = |path: &&str| PARTS.iter().find(|(prefix, _)| starts_with_path(path, prefix)).map(|(_, part)| *part);
    names.iter().find_map(known).unwrap_or(if object.contains("libc") { "libc" } else { "standard library and rest" })
}

/// The paths in a symbol, in order: `<tokio::A<hyper::B> as core::C>::d` has `tokio::A`, `hyper::B` and `core::C`.
fn paths(symbol: &str) -> Vec<&str> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$' || c == '{' || c == '}' || c == '#';
    symbol.split(|c| !is_path(c)).filter(|word| word.contains("::")).map(|word| word.trim_start_matches(':')).collect()
}

/// Whether `path` is `prefix` or lies under it; a crate's name may go on, as in `openraft_rt`.
fn starts_with_path(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with('_'))
}

fn kernel_part(symbol: &str) -> &'static str {
    const NETWORK: [&str; 14] = [
        "tcp", "ip_", "__ip", "inet", "sock", "skb", "__skb", "net", "__net", "dev_", "__dev", "loopback", "ep_", "nf_",
    ];
    const DISK: [&str; 12] = [
        "ext4",
        "jbd2",
        "blk",
        "bio",
        "submit_bio",
        "virtblk",
        "nvme",
        "xfs",
        "btrfs",
        "filemap",
        "writeback",
        "iomap",
    ];
    const SCHEDULER: [&str; 8] =
        ["sched", "__sched", "futex", "finish_task", "try_to_wake", "pick_next", "enqueue_task", "dequeue_task"];
    let any = |prefixes: &[&str]| prefixes.iter().any(|prefix| symbol.starts_with(prefix));
    if any(&NETWORK) {
        "kernel: network"
    } else if any(&DISK) {
        "kernel: disk"
    } else if any(&SCHEDULER) {
        "kernel: scheduler"
    } else {
        "kernel: other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_perf_are_read() {
        let line = "     3.21%\tberth                \t[.] hyper::proto::h1::role::parse";
        assert_eq!(row(line), Some((0.0321, "berth", "hyper::proto::h1::role::parse")));
        assert_eq!(row("# Samples: 12K of event 'cpu-clock'"), None);
        assert_eq!(row(""), None);
    }

    #[test]
    fn symbols_are_sorted_into_parts() {
        for (object, symbol, part) in [
            ("berth", "<berth_node::shard::executor::Executor>::run::{closure#0}", "shard (ours)"),
            ("berth", "berth_node::journal::writer::commit", "journal (ours)"),
            ("berth", "<redb::tree_store::btree::Btree>::get", "redb"),
            ("berth", "openraft::core::raft_core::RaftCore<C>::run", "openraft"),
            ("berth", "<openraft_rt_tokio::TokioRuntime as openraft::AsyncRuntime>::spawn", "openraft"),
            ("berth", "core::ptr::drop_in_place::<hyper::body::Incoming>", "http (hyper, axum)"),
            ("berth", "<http::header::map::HeaderMap>::insert", "http (hyper, axum)"),
            ("berth", "tokio::runtime::scheduler::multi_thread::worker::run", "tokio"),
            ("berth", "mi_free", "memory"),
            ("libc.so.6", "__memmove_avx_unaligned_erms", "copying and comparing"),
            ("libc.so.6", "pthread_mutex_lock", "libc"),
            ("berth", "core::fmt::write", "standard library and rest"),
            ("[kernel.kallsyms]", "tcp_sendmsg_locked", "kernel: network"),
            ("[kernel.kallsyms]", "jbd2_log_wait_commit", "kernel: disk"),
            ("[kernel.kallsyms]", "futex_wake", "kernel: scheduler"),
            ("[kernel.kallsyms]", "clear_page_erms", "kernel: other"),
        ] {
            assert_eq!(part_of(object, symbol), part, "{symbol}");
        }
    }

    #[test]
    fn threads_of_one_kind_are_counted_together() {
        let time = |user_seconds| CpuTime { user_seconds, kernel_seconds: 0.0 };
        let before = vec![(1, "journal-0".to_owned(), time(1.0)), (2, "worker".to_owned(), time(0.0))];
        let after = vec![
            (1, "journal-0".to_owned(), time(2.0)),
            (2, "worker".to_owned(), time(2.0)),
            (3, "journal-1".to_owned(), time(1.0)),
        ];
        let profile = by_thread(&before, &after);
        assert_eq!(profile.threads, vec![("journal".to_owned(), 0.5), ("worker".to_owned(), 0.5)]);
        assert_eq!(format!("{:.1}", profile.seconds), "4.0");
    }
}
