//! The program `berth` as a child process, which does not outlive its test.
#![expect(clippy::disallowed_methods, reason = "the files are the test's own")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use berth_client::Client;
use berth_shared::seam::Seams;

use crate::client::{Connection, PATIENCE};

const PAUSE: Duration = Duration::from_millis(10);

/// A cluster that has said that it is ready.
pub(crate) struct Local {
    pub(crate) process: Process,
    pub(crate) greeting: Greeting,
}

/// What the program says when it is ready.
#[derive(Debug, Default)]
pub(crate) struct Greeting {
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) data: PathBuf,
    pub(crate) is_temporary: bool,
    pub(crate) curls: Vec<String>,
}

pub(crate) struct Process {
    pub(crate) seams: Seams,
    child: Child,
    out: Option<Lines<BufReader<ChildStdout>>>,
    /// What it wrote to standard error, in a folder that is removed with it.
    folder: tempfile::TempDir,
}

/// The command line, with free ports for the gateway where there is one.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.env_clear().stdin(Stdio::null());
    let serves = !matches!(arguments.first(), Some(&"status" | &"recover"));
    for port in ["--gateway-port", "--admin-port"].into_iter().filter(|_| serves) {
        if !arguments.contains(&port) {
            command.args([port, "0"]);
        }
    }
    command.args(arguments);
    command
}

impl Process {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let errors = File::create(folder.path().join("stderr")).unwrap();
        // A folder of its own for temporary folders, so that it can be seen what is left of them.
        fs::create_dir(folder.path().join("tmp")).unwrap();
        let mut command = command(arguments);
        command.env("TMPDIR", folder.path().join("tmp"));
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { seams: Seams::system(), child, out: Some(out), folder }
    }

    /// The lines up to the one that is `last`, or to the end.
    pub(crate) async fn said(&mut self, last: &'static str) -> Vec<String> {
        let mut out = self.out.take().unwrap();
        let read = move || {
            let mut lines = Vec::new();
            for line in out.by_ref().map_while(Result::ok) {
                lines.push(line);
                if lines.last().is_some_and(|line| line == last) {
                    break;
                }
            }
            (lines, out)
        };
        let spawner = self.seams.spawner;
        let (lines, out) = spawner.timeout(PATIENCE, spawner.blocking(read)).await.expect("the program says nothing");
        self.out = Some(out);
        lines
    }

    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill`, because not every machine has the program.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let start = self.seams.clock.now();
        while self.seams.clock.now().since(start) < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            self.seams.spawner.sleep(PAUSE).await;
        }
        panic!("the program does not end; it said {}", self.errors());
    }

    /// What it wrote to standard error.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// What lies in its folder for temporary folders.
    pub(crate) fn leftovers(&self) -> usize {
        fs::read_dir(self.folder.path().join("tmp")).unwrap().count()
    }

    /// Until `path` exists.
    pub(crate) async fn makes(&self, path: &Path) {
        let start = self.seams.clock.now();
        while !path.exists() {
            assert!(
                self.seams.clock.now().since(start) < PATIENCE,
                "{} is not made: {}",
                path.display(),
                self.errors()
            );
            self.seams.spawner.sleep(PAUSE).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Local {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let mut process = Process::start(arguments);
        let lines = process.said("Ctrl-C stops.").await;
        assert!(lines.last().is_some_and(|line| line == "Ctrl-C stops."), "{lines:?} {}", process.errors());
        Self { process, greeting: Greeting::parse(&lines) }
    }

    pub(crate) async fn on(data: &Path) -> Self {
        Self::start(&["--data", data.to_str().unwrap()]).await
    }

    pub(crate) async fn gateway(&self) -> Connection {
        Connection::open(&self.process.seams, &self.greeting.url).await
    }

    /// A client whose requests are sent once more at most, so that it notices soon when the cluster is gone.
    pub(crate) fn client(&self) -> Client {
        Client::builder(&self.greeting.url).deadline(PATIENCE).attempt(PATIENCE).attempts_max(2).build().unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
    }

    /// Ends it as Ctrl-C or SIGTERM does, after which nothing may have gone wrong.
    pub(crate) async fn stop(mut self, signal: &str) {
        self.process.signal(signal);
        assert_eq!(self.process.ended().await.code(), Some(0), "{}", self.process.errors());
        let (errors, has_few_nodes) = (self.process.errors(), self.greeting.nodes.len() < 3);
        let is_expected = |line: &&str| has_few_nodes && line.contains("copies (cluster.replicas)");
        assert_eq!(errors.lines().find(|line| !is_expected(line)), None);
        assert_eq!(self.process.leftovers(), 0);
    }
}

impl Greeting {
    fn parse(lines: &[String]) -> Self {
        let mut greeting = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["REST", "API", url] => url.clone_into(&mut greeting.url),
                ["admin", url, ..] => url.clone_into(&mut greeting.admin),
                [url] if url.starts_with("http://") => greeting.nodes.push(url.to_owned()),
                ["data", path, ref rest @ ..] => {
                    greeting.data = path.into();
                    greeting.is_temporary = !rest.is_empty();
                }
                ["curl", ..] => greeting.curls.push(line.trim().to_owned()),
                _ => {}
            }
        }
        greeting
    }
}

/// Exit code and standard error of a program that is not expected to serve.
pub(crate) async fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let mut process = Process::start(arguments);
    let code = process.ended().await.code();
    assert_eq!(process.leftovers(), 0);
    (code, process.errors())
}

/// What the program prints to standard output and ends with.
pub(crate) async fn printed(arguments: &[&str]) -> String {
    let mut process = Process::start(arguments);
    let lines = process.said("").await;
    let rest = process.said("a line that it does not print").await;
    assert_eq!(process.ended().await.code(), Some(0));
    lines.into_iter().chain(rest).collect::<Vec<_>>().join("\n")
}
