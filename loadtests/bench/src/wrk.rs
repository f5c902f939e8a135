//! Drives one case with `wrk` and a Lua script made for it, and reads what it measured.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Options;
use crate::machine::CpuTime;
use crate::report::Case;

/// One run of one case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) max_micros: f64,
    /// Answers with a status of 400 or above, failed connections, reads and writes, and time-outs.
    pub(crate) errors: u64,
    /// CPU time of the server's processes per request, in microseconds.
    pub(crate) server_user_micros: f64,
    pub(crate) server_kernel_micros: f64,
}

pub(crate) fn check_installed() -> Result<()> {
    // Asked for its version, wrk ends with 1.
    match Command::new("wrk").arg("-v").output() {
        Ok(_) => Ok(()),
        Err(_) => bail!("wrk is not installed: it is the Debian package `wrk` (apt-get install wrk)"),
    }
}

pub(crate) fn run(options: &Options, case: Case, server: &[u32], out: &Path) -> Result<Measured> {
    let before = CpuTime::of_processes(server)?;
    let output = command(options, case, out)?.output().context("cannot run wrk")?;
    let spent = CpuTime::of_processes(server)?.since(before);
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    parse(&text, spent)
}

/// The command line of `wrk` for a case, with its script written to `out`.
pub(crate) fn command(options: &Options, case: Case, out: &Path) -> Result<Command> {
    let script = write_script(case, options.counters, out)?;
    let port = if case == Case::Constant { options.port + 2 } else { options.port };
    let mut command = Command::new("wrk");
    command
        .arg(format!("-t{}", options.threads))
        .arg(format!("-c{}", options.connections))
        .arg(format!("-d{}s", options.seconds))
        .args(["--timeout", "10s", "-s"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}"));
    Ok(command)
}

fn write_script(case: Case, counters: u32, out: &Path) -> Result<PathBuf> {
    let path = out.join(format!("{}.lua", case.name()));
    crate::write(&path, &script(case, counters))?;
    Ok(path)
}

/// Requests are formatted once, so that wrk spends its time on sending and not on Lua.
fn script(case: Case, counters: u32) -> String {
    let (method, path, count) = match case {
        Case::Constant | Case::Reads => ("GET", "/v1/entities/counter/bench-\" .. number .. \"", counters),
        Case::Writes => ("POST", "/v1/entities/counter/bench-\" .. number .. \"/add", counters),
        Case::Hot => ("POST", "/v1/entities/counter/bench-hot/add", 1),
    };
    let body = if method == "POST" { "'{\"by\":1}'" } else { "nil" };
    format!(
        r#"-- Made by berth-bench for the case "{name}".
local count = {count}
local requests = {{}}
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("seed", threads)
end

function init(args)
  math.randomseed(seed)
  wrk.headers["Content-Type"] = "application/json"
  for number = 0, count - 1 do
    requests[number + 1] = wrk.format("{method}", "{path}", nil, {body})
  end
end

function request()
  return requests[math.random(count)]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "\nBENCH {{\"requests\":%d,\"micros\":%d,\"p50\":%d,\"p99\":%d,\"max\":%d,\"errors\":%d}}\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"#,
        name = case.name(),
    )
}

fn parse(text: &str, spent: CpuTime) -> Result<Measured> {
    let line = text.lines().find_map(|line| line.strip_prefix("BENCH "));
    let line = line.with_context(|| format!("wrk did not say what it measured: {text}"))?;
    let values: Value = serde_json::from_str(line).with_context(|| format!("wrk wrote {line:?}"))?;
    let number = |name: &str| values[name].as_f64().with_context(|| format!("wrk wrote no {name}: {line:?}"));
    let requests = number("requests")?;
    if requests < 1.0 {
        bail!("not one request was answered");
    }
    Ok(Measured {
        requests_per_second: requests / (number("micros")? / 1e6),
        p50_micros: number("p50")?,
        p99_micros: number("p99")?,
        max_micros: number("max")?,
        errors: values["errors"].as_u64().context("wrk wrote no errors")?,
        server_user_micros: spent.user_seconds * 1e6 / requests,
        server_kernel_micros: spent.kernel_seconds * 1e6 / requests,
    })
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.0} requests/s, p50 {:>6.0} µs", self.requests_per_second, self.p50_micros)?;
        write!(f, ", p99 {:>6.0} µs, {} errors", self.p99_micros, self.errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_writes_is_read() {
        let text = "Running 8s test\n\nBENCH {\"requests\":16000,\"micros\":8000000,\"p50\":900,\"p99\":4000,\"max\":9000,\"errors\":3}\n";
        let measured = parse(text, CpuTime { user_seconds: 0.8, kernel_seconds: 0.16 }).unwrap();
        assert_eq!((measured.requests_per_second, measured.errors), (2_000.0, 3));
        assert_eq!((measured.server_user_micros, measured.server_kernel_micros), (50.0, 10.0));
    }

    #[test]
    fn a_run_without_answers_or_without_figures_is_an_error() {
        let spent = CpuTime { user_seconds: 0.0, kernel_seconds: 0.0 };
        let none = "BENCH {\"requests\":0,\"micros\":8000000,\"p50\":0,\"p99\":0,\"max\":0,\"errors\":64}";
        assert!(parse(none, spent).is_err());
        assert!(parse("unable to connect", spent).is_err());
    }

    #[test]
    fn each_case_asks_for_what_it_is_named_after() {
        assert!(
            script(Case::Reads, 7)
                .contains("wrk.format(\"GET\", \"/v1/entities/counter/bench-\" .. number .. \"\", nil, nil)")
        );
        assert!(script(Case::Writes, 7).contains("bench-\" .. number .. \"/add\", nil, '{\"by\":1}')"));
        assert!(script(Case::Hot, 7).contains("local count = 1\n"));
    }
}
