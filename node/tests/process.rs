//! The program: it starts from file and environment, serves its admin port, ends when it is told to, and says in one line
//! what keeps it from starting.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use berth_shared::seam::Seams;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Far beyond what anything here takes, so that a program that hangs fails its test.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(10);

fn program(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-node"));
    command
        .env_clear()
        .env("BERTH_DATA_DIR", data)
        .env("BERTH_LISTEN", "127.0.0.1:0")
        .env("BERTH_ADVERTISE", "node-1:7400")
        .env("BERTH_ADMIN_LISTEN", "127.0.0.1:0")
        .env("BERTH_TELEMETRY__FORMAT", "json")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// A running program, which does not outlive its test.
struct Running {
    seams: Seams,
    child: Child,
    log: Option<Lines<BufReader<ChildStderr>>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { seams: Seams::system(), child, log: Some(log) }
    }

    /// The next log line with this message.
    async fn logged(&mut self, message: &'static str) -> Value {
        let mut log = self.log.take().unwrap();
        let find = move || {
            let parsed =
                log.by_ref().map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok());
            let found = parsed.into_iter().find(|line| line["message"] == message);
            (found, log)
        };
        let spawner = self.seams.spawner;
        let found = spawner.timeout(PATIENCE, spawner.blocking(find)).await;
        let (line, log) = found.expect("the program says nothing");
        self.log = Some(log);
        line.unwrap_or_else(|| panic!("the program ended without saying {message:?}"))
    }

    fn signal(&self, name: &str) {
        // The shell's own `kill`, because not every machine has the program.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status().unwrap();
        assert!(sent.success());
    }

    async fn ended(&mut self) -> ExitStatus {
        let start = self.seams.clock.now();
        while self.seams.clock.now().since(start) < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            self.seams.spawner.sleep(PAUSE).await;
        }
        panic!("the program does not end");
    }

    /// Status line and body.
    async fn get(&self, address: &str, path: &str) -> (String, String) {
        let ask = async {
            let mut stream = self.seams.network.connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = self.seams.spawner.timeout(PATIENCE, ask).await.expect("no answer");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    async fn becomes_ready(&self, admin: &str) {
        let start = self.seams.clock.now();
        while self.get(admin, "/readyz").await.0 != "HTTP/1.1 200 OK" {
            assert!(self.seams.clock.now().since(start) < PATIENCE, "the node does not become ready");
            self.seams.spawner.sleep(PAUSE).await;
        }
    }
}

impl Running {
    /// Waits for a metric of this name that ends so.
    async fn shows(&self, admin: &str, name: &str, value: &str) {
        let start = self.seams.clock.now();
        loop {
            let (status, page) = self.get(admin, "/metrics").await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            let line = page.lines().find(|line| line.starts_with(name)).expect("the metric");
            if line.ends_with(value) {
                return;
            }
            assert!(self.seams.clock.now().since(start) < PATIENCE, "{line}");
            self.seams.spawner.sleep(PAUSE).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_from_file_and_environment_and_ends_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("node.toml"));
    let text = "data_dir = \"/nowhere/at/all\"\n[cluster]\nshards = 4\n";
    #[expect(clippy::disallowed_methods, reason = "the file is the test's own")]
    std::fs::write(&file, text).unwrap();
    for signal in ["TERM", "INT"] {
        let mut node = Running::start(program(&data).arg("--config").arg(&file));
        let admin = node.logged("the node has started").await["admin"].as_str().unwrap().to_owned();
        let hosts = node.logged("the node hosts its shards").await;
        assert_eq!(hosts["shards"], 4, "as the file says");
        node.becomes_ready(&admin).await;
        assert_eq!(node.get(&admin, "/livez").await.0, "HTTP/1.1 200 OK");
        // Its shards have a leader; it owns them once the first entry of its term is applied.
        node.shows(&admin, "berth_node_owned_shards{", " 4").await;
        assert_eq!(node.get(&admin, "/nowhere").await.0, "HTTP/1.1 404 Not Found");
        if signal == "TERM" {
            // It would give everything away first, and nobody is there who could take it: it serves on until told again.
            node.signal(signal);
            node.logged("the node leaves").await;
            assert_eq!(node.get(&admin, "/readyz").await.0, "HTTP/1.1 503 Service Unavailable");
            node.shows(&admin, "berth_node_owned_shards{", " 4").await;
        }
        node.signal(signal);
        assert_eq!(node.ended().await.code(), Some(0));
        node.logged("the node has stopped").await;
    }
    assert!(data.join("identity.json").exists(), "as the environment says");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_for_its_seeds_ends_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    // A port that nobody listens on.
    let seeds = "node-1:7400,127.0.0.1:1,127.0.0.1:2";
    let mut command = program(folder.path());
    let mut node = Running::start(command.env("BERTH_CLUSTER__SEEDS", seeds).env("BERTH_CLUSTER__EXPECT", "3"));
    node.logged("the node looks for its cluster").await;
    node.signal("TERM");
    assert_eq!(node.ended().await.code(), Some(0));
    node.logged("the node has stopped").await;
}

fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    message
}

/// One line that names the program and has all of `parts`.
fn assert_one_clear_line(message: &str, parts: &[&str]) {
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("berth-node: "), "{message}");
    assert!(parts.iter().all(|part| message.matches(part).count() == 1), "{message}");
}

#[test]
fn a_bad_configuration_is_one_clear_line_and_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("bad.toml"));
    #[expect(clippy::disallowed_methods, reason = "the file is the test's own")]
    std::fs::write(&file, "[journal\n").unwrap();
    let with = |name: &str, value: &str| refusal(program(&data).env(name, value));
    assert_one_clear_line(&with("BERTH_CLUSTER__SHARDS", "0"), &["1 to 16384", "BERTH_CLUSTER__SHARDS"]);
    assert_one_clear_line(&with("BERTH_COLOUR", "red"), &["colour is not a key", "BERTH_COLOUR"]);
    assert_one_clear_line(&with("BERTH_CLUSTER__SEEDS", "a:1,a:1"), &["cluster.seeds", "different addresses"]);
    assert_one_clear_line(&with("BERTH_CONFIG", "/nowhere.toml"), &["cannot read", "/nowhere.toml", "No such file"]);
    let message = refusal(program(&data).arg("--config").arg(&file));
    assert_one_clear_line(&message, &["bad.toml is not valid TOML"]);
    assert!(!data.exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_node_from_starting_is_one_clear_line_and_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = |data: &Path| {
        let mut command = program(data);
        command.env("BERTH_TELEMETRY__FILTER", "error").env("BERTH_CLUSTER__SHARDS", "4");
        command
    };
    #[expect(clippy::disallowed_methods, reason = "a port that is really taken")]
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    for key in ["BERTH_LISTEN", "BERTH_ADMIN_LISTEN"] {
        let message = refusal(quiet(&folder.path().join(key)).env(key, &port));
        assert_one_clear_line(&message, &["cannot listen on", &port, "in use"]);
    }

    let data = folder.path().join("data");
    let mut node = Running::start(quiet(&data).env("BERTH_TELEMETRY__FILTER", "info"));
    node.logged("the node hosts its shards").await;
    let message = refusal(&mut quiet(&data));
    assert_one_clear_line(&message, &[data.to_str().unwrap(), "in use by another process"]);
    drop(node);
    let message = refusal(quiet(&data).env("BERTH_CLUSTER__SHARDS", "8"));
    assert_one_clear_line(&message, &["this many shards: 4", "the configuration says 8"]);
}
