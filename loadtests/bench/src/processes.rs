//! The two servers that are compared, in processes that end when their handle is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::Connection;

/// A cluster as it is run in earnest: every node and the gateway a process of its own.
pub(crate) struct Berth {
    nodes: Vec<Child>,
    gateway: Child,
    data: PathBuf,
}

/// Where the programs of nodes and gateways are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) node: PathBuf,
    pub(crate) gateway: PathBuf,
}

/// The handler that answers a constant.
pub(crate) struct Constant {
    child: Child,
}

const START_TIMEOUT: Duration = Duration::from_mins(1);

impl Programs {
    /// Those in `folder`; built as `cargo build --release` does when none is named.
    pub(crate) fn find(folder: Option<&Path>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => build()?,
        };
        Ok(Self { node: folder.join("berth-node"), gateway: folder.join("berth-gateway") })
    }
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--release", "-p", "berth-node", "-p", "berth-gateway"]).status();
    if !status.context("cannot run cargo")?.success() {
        bail!("cargo could not build berth-node and berth-gateway");
    }
    // This program lies in the same folder, unless it was built without --release.
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("this program lies in no target folder")?;
    Ok(target.join("release"))
}

impl Berth {
    /// Starts `nodes` nodes, whose peer ports begin 10 above `port` and admin ports 50 above, and a gateway on `port`.
    pub(crate) fn start(programs: &Programs, nodes: u16, port: u16, out: &Path) -> Result<Self> {
        // On the disk whose flushes are measured, and not in memory.
        let data = out.join("data");
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| format!("cannot empty {}", data.display()))?;
        }
        let addresses: Vec<String> = (0..nodes).map(|number| format!("127.0.0.1:{}", port + 10 + number)).collect();
        let seeds = addresses.join(",");
        let mut children = Vec::with_capacity(nodes.into());
        for (number, address) in (0..nodes).zip(&addresses) {
            let admin = format!("127.0.0.1:{}", port + 50 + number);
            let folder = data.join(format!("node-{}", number + 1));
            let settings = [
                ("BERTH_DATA_DIR", folder.to_string_lossy().into_owned()),
                ("BERTH_LISTEN", address.clone()),
                ("BERTH_ADMIN_LISTEN", admin),
                ("BERTH_CLUSTER__SEEDS", seeds.clone()),
            ];
            children.push(start(&programs.node, &settings, &out.join(format!("node-{}.log", number + 1)))?);
        }
        let admin_port = port + 1;
        let settings = [
            ("BERTH_LISTEN", format!("127.0.0.1:{port}")),
            ("BERTH_ADMIN_LISTEN", format!("127.0.0.1:{admin_port}")),
            ("BERTH_NODES", seeds),
        ];
        let gateway = start(&programs.gateway, &settings, &out.join("gateway.log"))?;
        let mut berth = Self { nodes: children, gateway, data };
        wait_until_answering(&mut berth.gateway, admin_port, "/readyz")
            .with_context(|| format!("the cluster did not start; see the logs in {}", out.display()))?;
        Ok(berth)
    }

    /// Every process of it, the gateway last.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes().into_iter().chain([self.gateway.id()]).collect()
    }

    pub(crate) fn nodes(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::id).collect()
    }
}

fn start(program: &Path, settings: &[(&str, String)], log: &Path) -> Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).write(true).truncate(true).open(log)?;
    let mut command = Command::new(program);
    command.env_clear().envs(settings.iter().map(|(name, value)| (name, value)));
    let started = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    started.with_context(|| format!("cannot start {}", program.display()))
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.nodes.iter_mut().chain([&mut self.gateway]).for_each(end);
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

    pub(crate) fn processes(&self) -> Vec<u32> {
        vec![self.child.id()]
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
