//! The two servers that are compared, each a process of its own, which ends when its handle is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::Connection;

/// A whole cluster in one process.
pub(crate) struct Berth {
    child: Child,
    data: PathBuf,
}

/// The handler that answers a constant.
pub(crate) struct Constant {
    child: Child,
}

const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Builds the cluster's program as `cargo run --release` does, and gives its path.
pub(crate) fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--release", "-p", "berth-local"]).status();
    if !status.context("cannot run cargo")?.success() {
        bail!("cargo could not build berth-local");
    }
    // This program lies in the same folder, unless it was built without --release.
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("this program lies in no target folder")?;
    Ok(target.join("release").join("berth"))
}

impl Berth {
    pub(crate) fn start(program: &Path, nodes: u32, port: u16, out: &Path) -> Result<Self> {
        // Not --ephemeral: the data must lie on the disk whose flushes are measured, and not in memory.
        let data = out.join("data");
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| format!("cannot empty {}", data.display()))?;
        }
        let log = std::fs::OpenOptions::new().create(true).write(true).truncate(true).open(out.join("berth.log"))?;
        let child = Command::new(program)
            .arg("--data")
            .arg(&data)
            .args(["--nodes", &nodes.to_string()])
            .args(["--gateway-port", &port.to_string()])
            .args(["--admin-port", &(port + 1).to_string()])
            .args(["--node-port", &(port + 10).to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut berth = Self { child, data };
        wait_until_answering(&mut berth.child, port, "/v1/kinds")
            .with_context(|| format!("the cluster did not start; see {}", out.join("berth.log").display()))?;
        Ok(berth)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        end(&mut self.child);
        // What was written has served its purpose; a folder left behind is emptied by the next run.
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

impl Constant {
    pub(crate) fn start(port: u16) -> Result<Self> {
        let own = std::env::current_exe()?;
        let child = Command::new(own).args(["constant", &port.to_string()]).stdin(Stdio::null()).spawn()?;
        let mut constant = Self { child };
        wait_until_answering(&mut constant.child, port, "/v1/entities/counter/bench-0")
            .context("the constant handler did not start")?;
        Ok(constant)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Constant {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // Fails only when the process has ended already, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

fn wait_until_answering(child: &mut Child, port: u16, path: &str) -> Result<()> {
    let start = crate::now();
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        let answer = Connection::open(port).and_then(|mut connection| connection.send("GET", path, ""));
        match answer {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) if start.elapsed() > START_TIMEOUT => {
                bail!("GET {path} is answered with {status}: {body}")
            }
            Err(error) if start.elapsed() > START_TIMEOUT => return Err(error),
            _ => crate::pause(Duration::from_millis(50)),
        }
    }
}
