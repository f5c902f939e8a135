//! The program `berth` from its start to its end, over real sockets and on a real disk: the tour of the README, restarts,
//! kill -9, and what keeps it from starting. Ports are free ones, so that tests can run next to each other.

mod client;
mod contract;
mod grpc;
mod library;
mod openapi;
mod program;
mod writers;

use std::path::Path;

use berth_shared::seam::Seams;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use client::{Connection, PATIENCE};
use program::{Local, Process, printed, refused};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Method, path, headers and body of a curl line as the greeting prints it.
fn curl(line: &str, url: &str) -> (&'static str, String, Vec<(String, String)>, String) {
    let mut words = Vec::new();
    for (position, part) in line.split('\'').enumerate() {
        match position % 2 {
            0 => words.extend(part.split_whitespace()),
            _ => words.push(part),
        }
    }
    let (mut method, mut path, mut headers, mut body) = ("GET", None, Vec::new(), String::new());
    let mut words = words.into_iter().skip(1);
    while let Some(word) = words.next() {
        match word {
            "-X" => method = if words.next() == Some("POST") { "POST" } else { panic!("{line}") },
            "-H" => {
                let (name, value) = words.next().unwrap().split_once(": ").unwrap();
                headers.push((name.to_owned(), value.to_owned()));
            }
            "-d" => words.next().unwrap().clone_into(&mut body),
            word => path = Some(word.strip_prefix(url).unwrap().to_owned()),
        }
    }
    (method, path.unwrap(), headers, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_greeting_is_true() {
    let local = Local::start(&["--ephemeral"]).await;
    let (seams, greeting) = (&local.process.seams, &local.greeting);
    let mut gateway = local.gateway().await;
    let mut states = Vec::new();
    for line in &greeting.curls {
        let (method, path, headers, body) = curl(line, &greeting.url);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = gateway.try_send(method, &path, &headers, &body).await.unwrap();
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        states.push(answer.json()["state"].clone());
    }
    assert_eq!(states, [json!({ "value": 1 }), json!({ "value": 1 })]);
    assert!(greeting.is_temporary && greeting.data.join("node-3/journal.redb").exists(), "{greeting:?}");

    assert_eq!(greeting.nodes.len(), 3);
    let mut shards = 0.0;
    for (address, metric) in std::iter::once((&greeting.admin, "berth_gateway_requests_total{"))
        .chain(greeting.nodes.iter().map(|node| (node, "berth_node_owned_shards{")))
    {
        let mut admin = Connection::open(seams, address).await;
        assert_eq!((admin.get("/livez").await.status, admin.get("/readyz").await.status), (200, 200));
        let page = admin.get("/metrics").await;
        assert!(page.header("content-type").starts_with("text/plain"));
        let line = page.text().lines().find(|line| line.starts_with(metric)).expect(metric);
        if address != &greeting.admin {
            shards += line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
        }
        assert!(!page.text().contains("visits"), "no id is a label");
    }
    assert!((shards - 64.0).abs() < f64::EPSILON, "every shard has one owner: {shards}");
    local.stop("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_conditions_retries_and_refusals_answer_as_the_contract_says() {
    let local = Local::start(&["--ephemeral"]).await;
    let mut gateway = local.gateway().await;

    let add = r#"{"sku":"tea","quantity":2,"unitPriceCents":450}"#;
    let answer = gateway.post("/v1/entities/cart/alice/add-item", &[JSON], add).await;
    assert_eq!((answer.status, answer.header("etag")), (200, "\"1\""));
    assert!(!answer.header("berth-session").is_empty() && !answer.header("idempotency-key").is_empty());
    let items = json!({ "tea": { "quantity": 2, "unitPriceCents": 450 } });
    let state = json!({ "items": items, "status": "open", "totalCents": 900 });
    let expected =
        json!({ "kind": "cart", "id": "alice", "version": 1, "reply": { "totalCents": 900 }, "state": state });
    assert_eq!(answer.json(), expected);

    let checkout = "/v1/entities/cart/alice/checkout";
    let answer = gateway.post(checkout, &[("if-match", "\"7\"")], "").await;
    assert_problem(&answer, 412, "version-mismatch", checkout);
    assert_eq!(answer.json()["currentVersion"], 1);
    let answer = gateway.post(checkout, &[("if-match", "\"1\"")], "").await;
    assert_eq!((answer.status, answer.header("etag")), (200, "\"2\""));

    let read = gateway.get("/v1/entities/cart/alice").await;
    assert_eq!(
        (read.status, read.header("etag"), &read.json()["state"]["status"]),
        (200, "\"2\"", &"checkedOut".into())
    );
    let unchanged = [("if-none-match", "\"2\"")];
    let read = gateway.try_send("GET", "/v1/entities/cart/alice", &unchanged, "").await.unwrap();
    assert_eq!((read.status, read.text()), (304, ""));

    let page = gateway.get("/v1/entities/cart/alice/events?after=0&limit=10").await.json();
    let events: Vec<(&Value, &Value)> =
        page["events"].as_array().unwrap().iter().map(|event| (&event["version"], &event["type"])).collect();
    assert_eq!(events, [(&json!(1), &json!("item-added")), (&json!(2), &json!("checked-out"))]);
    assert_eq!(page["next"], Value::Null);

    gateway.post("/v1/entities/account/bob/open", &[], "").await;
    let deposit = "/v1/entities/account/bob/deposit";
    let key = ("idempotency-key", "order-17");
    let first = gateway.post(deposit, &[JSON, key], r#"{"amountCents":1000}"#).await;
    let again = gateway.post(deposit, &[JSON, key], r#"{"amountCents":1000}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, ""));
    assert_eq!((again.status, again.header("idempotency-replayed"), again.text()), (200, "true", first.text()));
    let other = gateway.post(deposit, &[JSON, key], r#"{"amountCents":7}"#).await;
    assert_problem(&other, 422, "key-reused", deposit);
    let withdraw = "/v1/entities/account/bob/withdraw";
    let answer = gateway.post(withdraw, &[JSON], r#"{"amountCents":5000}"#).await;
    assert_problem(&answer, 422, "rejected", withdraw);
    assert_eq!(answer.json()["reason"], "insufficient-funds");

    for (path, status, code) in [
        ("/v1/entities/cart/nobody", 404, "not-found"),
        ("/v1/entities/boat/a", 404, "unknown-kind"),
        ("/v1/entities/cart/%00", 400, "invalid-request"),
        ("/nowhere", 404, "not-found"),
    ] {
        assert_problem(&gateway.get(path).await, status, code, path);
    }
    let answer = gateway.post(deposit, &[JSON], "{").await;
    assert_problem(&answer, 400, "invalid-request", deposit);
    let answer = gateway.post("/v1/entities/account/bob/fly", &[], "").await;
    assert_problem(&answer, 404, "unknown-command", "/v1/entities/account/bob/fly");
    assert_eq!(gateway.get("/v1/entities/account/bob").await.json()["version"], 2, "nothing of that was written");

    let kinds = gateway.get("/v1/kinds").await.json();
    let names: Vec<&Value> = kinds["kinds"].as_array().unwrap().iter().map(|kind| &kind["kind"]).collect();
    assert_eq!(names, ["account", "cart", "counter", "document"]);
    assert!(gateway.get("/v1/kinds/cart").await.json()["commands"]["add-item"].is_object());
    local.stop("TERM").await;
}

fn assert_problem(answer: &client::Answer, status: u16, code: &str, instance: &str) {
    assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(
        (&problem["code"], &problem["status"], &problem["instance"]),
        (&json!(code), &json!(status), &json!(instance))
    );
    assert!(problem["title"].is_string() && problem["detail"].is_string() && problem["traceId"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_start_finds_the_data_whatever_its_ports() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("new/data");
    let add = "/v1/entities/counter/visits/add";
    let key = ("idempotency-key", "once");
    let local = Local::on(&data).await;
    assert_eq!((&local.greeting.data, local.greeting.is_temporary), (&data, false));
    let first = local.gateway().await.post(add, &[JSON, key], r#"{"by":5}"#).await;
    assert_eq!(first.status, 200, "{first:?}");
    // Another cluster does not get in its way.
    let other = Local::start(&["--nodes", "1", "--ephemeral"]).await;
    assert_eq!(
        (other.greeting.nodes.len(), other.gateway().await.get("/v1/entities/counter/visits").await.status),
        (1, 404)
    );
    local.stop("INT").await;
    other.stop("INT").await;

    let local = Local::on(&data).await;
    let mut gateway = local.gateway().await;
    assert_eq!(gateway.get("/v1/entities/counter/visits").await.json()["state"], json!({ "value": 5 }));
    let again = gateway.post(add, &[JSON, key], r#"{"by":5}"#).await;
    assert_eq!((again.header("idempotency-replayed"), again.text()), ("true", first.text()));
    // An open connection does not keep it from ending.
    local.stop("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_without_waiting_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut local = Local::on(folder.path()).await;
    local.client().entity("counter", "visits").execute("add", ()).await.unwrap();
    // A request whose body never ends is one that a stop waits for.
    let mut stream =
        local.process.seams.network.connect(local.greeting.url.trim_start_matches("http://")).await.unwrap();
    let request = "POST /v1/entities/counter/visits/add HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{";
    stream.write_all(request.as_bytes()).await.unwrap();
    local.process.signal("INT");
    local.process.said("stopping; Ctrl-C again does not wait for running requests").await;
    local.process.signal("INT");
    assert_eq!(local.process.ended().await.code(), Some(0), "{}", local.process.errors());
    let local = Local::on(folder.path()).await;
    assert_eq!(local.client().entity("counter", "visits").get().await.unwrap().version, 1);
    local.stop("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_are_there_once_after_kill_nine() {
    let folder = tempfile::tempdir().unwrap();
    let mut writes = Vec::new();
    for round in 0..2 {
        let local = Local::on(folder.path()).await;
        writers::check(&local.client(), &writes).await;
        writes.extend(writers::write_until_killed(local, round).await);
    }
    let local = Local::on(folder.path()).await;
    let client = local.client();
    writers::check(&client, &writes).await;
    writers::retry_unknown(&client, &mut writes).await;
    writers::check(&client, &writes).await;
    local.stop("INT").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_given_up_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(&["--data", folder.path().to_str().unwrap()]);
    // By now it listens for signals; whether it is ready when the signal comes makes no difference to what holds.
    process.makes(&folder.path().join("node-1/identity.json")).await;
    process.signal("INT");
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.errors());
    assert_eq!(process.errors(), "");
    Local::on(folder.path()).await.stop("INT").await;
}

/// One line of the program's that has each of `parts` once.
async fn assert_refused(arguments: &[&str], parts: &[&str]) {
    let (code, message) = refused(arguments).await;
    assert_eq!((code, message.lines().count()), (Some(1), 1), "{message}");
    assert!(message.starts_with("berth: "), "{message}");
    assert!(parts.iter().all(|part| message.matches(part).count() == 1), "{parts:?}: {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_it_from_starting_is_one_clear_line_and_a_failure() {
    let taken = Seams::system().network.listen("127.0.0.1:0").await.unwrap();
    let address = taken.local_address().unwrap();
    let port = address.rsplit_once(':').unwrap().1;
    for option in ["--gateway-port", "--admin-port"] {
        assert_refused(&["--ephemeral", option, port], &["cannot listen on", &address, "in use", option]).await;
    }
    assert_refused(&["--ephemeral", "--node-port", port], &["node 1: cannot listen on", &address, "in use"]).await;

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let data = path("data");
    let local = Local::start(&["--nodes", "2", "--data", &data]).await;
    assert_refused(&["--nodes", "2", "--data", &data], &[&data, "in use by another process"]).await;
    assert_eq!(local.gateway().await.get("/v1/entities/counter/a").await.status, 404, "the first one serves on");
    local.stop("INT").await;
    for nodes in ["1", "3"] {
        let number = format!("was made with --nodes 2, not with --nodes {nodes}");
        let parts = [data.as_str(), number.as_str()];
        assert_refused(&["--nodes", nodes, "--data", &data], &parts).await;
    }
    assert!(!Path::new(&data).join("node-3").exists());

    overwrite(&Path::new(&data).join("node-2/identity.json"), b"{");
    assert_refused(&["--nodes", "2", "--data", &data], &["node 2", "identity.json", "damaged"]).await;
    overwrite(&folder.path().join("file"), b"");
    assert_refused(&["--data", &path("file")], &[&path("file"), "Not a directory"]).await;
}

#[expect(clippy::disallowed_methods, reason = "the file is the test's own")]
fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_shows_the_cluster_at_any_admin_port_and_says_clearly_what_is_none() {
    let local = Local::start(&["--ephemeral"]).await;
    let admins = [&local.greeting.admin, &local.greeting.nodes[0]];
    for address in admins {
        // On a busy machine shards may have begun elsewhere than planned, and are on their way.
        let settled = async {
            loop {
                let text = printed(&["status", "--address", address]).await;
                if text.contains("The cluster waits for nothing.") {
                    return text;
                }
            }
        };
        let text = Seams::system().spawner.timeout(PATIENCE, settled).await.expect("the cluster does not settle");
        let [title, _, headings, members @ ..] = &text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(title.starts_with("Cluster ") && title.ends_with(": 3 members, 64 shards, plan 1"), "{text}");
        assert!(headings.starts_with("node ") && headings.ends_with(" owns  holds"), "{text}");
        let holds_all = |line: &&&str| line.contains(" ready ") && line.ends_with("  64  [####################]");
        assert_eq!(members.iter().filter(holds_all).count(), 3, "{text}");
    }
    let url = local.greeting.url.clone();
    assert_refused(&["status", "--address", &url], &["404", "is it an admin port", &url]).await;
    local.stop("INT").await;
    assert_refused(&["status", "--address", &url], &["nothing answers at", "refused", &url, "--address"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_explains_itself() {
    let help = printed(&["--help"]).await;
    for option in
        ["--data <DIR>", "--ephemeral", "--nodes <N>", "--gateway-port <P>", "--admin-port <P>", "--log <FILTER>"]
    {
        assert!(help.contains(option), "{option}: {help}");
    }
    assert_eq!(printed(&["--version"]).await, concat!("berth ", env!("CARGO_PKG_VERSION")));
    let (code, message) = refused(&["--nodes", "65"]).await;
    assert_eq!(code, Some(2));
    assert!(message.contains("'65' for '--nodes <N>'") && message.contains("1..=64"), "{message}");
}
