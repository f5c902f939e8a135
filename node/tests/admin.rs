//! The admin port of a node: its views of the cluster, its refusals, and its bounds.

mod support;

use std::sync::Arc;
use std::time::Duration;

use berth_node::disk::SimulatedDisk;
use berth_shared::auth::{self, ApiKey, Mode};
use berth_shared::message::{Request, Response};
use berth_shared::seam::Seams;
use serde_json::Value;
use support::{Call, Caller, config, decode, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ADMIN: &str = "node:7490";

/// Status line, headers and body.
async fn get(seams: &Seams, method: &str, path: &str) -> (String, String, String) {
    get_with(seams, method, path, "").await
}

/// The same with more headers.
async fn get_with(seams: &Seams, method: &str, path: &str, more: &str) -> (String, String, String) {
    let mut stream = seams.network.connect(ADMIN).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_owned(), body.to_owned())
}

async fn json(seams: &Seams, path: &str) -> Value {
    let (status, headers, body) = get(seams, "GET", path).await;
    assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
    assert!(headers.contains("content-type: application/json"), "{headers}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_shows_the_cluster_and_explains_where_an_entity_is() {
    let seams = Seams::simulated(1);
    let config = berth_node::config::Config { admin_listen: ADMIN.to_owned(), ..config() };
    let node = start(config, Arc::new(SimulatedDisk::new()), &seams).await;
    let caller = Caller::new(&seams, 64);
    caller.execute(&Call::new("counter", "a", "add", "{}", "k1")).await.unwrap();

    let cluster = json(&seams, "/v1/cluster").await;
    let member = &cluster["members"][0];
    assert_eq!(
        (member["id"].as_str(), &member["answered"]),
        (Some(node.node.to_string().as_str()), &Value::Bool(true))
    );
    let shards = json(&seams, "/v1/cluster/shards").await;
    assert_eq!(shards["shards"].as_array().unwrap().len(), 64);
    assert_eq!(shards["shards"][0]["owner"], member["id"]);
    let system = &cluster["system"];
    assert_eq!((&system["owner"], &system["replicas"][0]), (&member["id"], &member["id"]), "{system}");
    assert!(system["appliedIndex"].as_u64() > Some(0), "{system}");
    let hashes = json(&seams, "/v1/cluster/hashes").await;
    let numbers: Vec<_> = hashes["shards"].as_array().unwrap().iter().map(|shard| shard["shard"].as_u64()).collect();
    assert_eq!(
        numbers,
        (0..64).chain([u64::from(u16::MAX)]).map(Some).collect::<Vec<_>>(),
        "the system shard is the last"
    );
    assert_eq!(hashes["shards"][64]["replicas"][0]["node"], member["id"]);
    let explained = json(&seams, "/v1/cluster/explain/counter/a").await;
    assert_eq!((&explained["owner"], &explained["shard"]), (&member["id"], &Value::from(46)));
    let other = json(&seams, "/v1/cluster/explain/counter/a%2Fb%3F").await;
    assert_eq!(other["id"], "a/b?");

    let answer = caller.request(&Request::Report).await.unwrap();
    let Response::Report(report) = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!((report.node, report.replicas.len()), (node.node, 65));
    assert!(report.replicas.iter().all(|replica| replica.owns));
    let answer = caller.request(&Request::Owners).await.unwrap();
    let Response::Owners { shards: 64, owners } = decode(&answer) else { panic!("{:?}", decode(&answer)) };
    assert_eq!(owners.len(), 64);

    for (method, path, status, code) in [
        ("GET", "/nowhere", "404 Not Found", "not-found"),
        ("GET", "/v1/cluster/explain/Cart/a", "400 Bad Request", "invalid-request"),
        ("GET", "/v1/cluster/explain/cart/..%01", "400 Bad Request", "invalid-request"),
        ("GET", "/v1/cluster/explain/cart/%ff", "400 Bad Request", "invalid-request"),
        ("GET", "/v1/cluster/explain/%c3%28/a", "400 Bad Request", "invalid-request"),
        ("POST", "/v1/cluster", "405 Method Not Allowed", "method-not-allowed"),
    ] {
        let (status_line, headers, body) = get(&seams, method, path).await;
        assert_eq!(status_line, format!("HTTP/1.1 {status}"), "{path}");
        assert!(headers.contains("content-type: application/problem+json"), "{headers}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((problem["code"].as_str(), &problem["instance"]), (Some(code), &Value::from(path)), "{path}");
        assert_eq!(headers.contains("allow: GET, HEAD"), code == "method-not-allowed", "{headers}");
    }
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn connections_of_the_admin_port_are_bounded_and_idle_ones_end() {
    let seams = Seams::simulated(1);
    let mut config = berth_node::config::Config { admin_listen: ADMIN.to_owned(), ..config() };
    config.cluster.shards = 1;
    let node = start(config, Arc::new(SimulatedDisk::new()), &seams).await;
    let mut idle = Vec::new();
    for _ in 0..256 {
        idle.push(seams.network.connect(ADMIN).await.unwrap());
    }
    seams.spawner.sleep(Duration::from_millis(1)).await;
    let started = seams.clock.now();
    let waits = seams.spawner.timeout(Duration::from_secs(10), get(&seams, "GET", "/livez")).await;
    assert!(waits.is_none(), "all places are taken");
    idle.pop();
    assert_eq!(get(&seams, "GET", "/livez").await.0, "HTTP/1.1 200 OK");
    idle.push(seams.network.connect(ADMIN).await.unwrap());
    seams.spawner.sleep(Duration::from_millis(1)).await;
    assert_eq!(get(&seams, "GET", "/livez").await.0, "HTTP/1.1 200 OK");
    let waited = seams.clock.now().since(started);
    assert!((Duration::from_secs(55)..Duration::from_secs(65)).contains(&waited), "{waited:?}");
    assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    node.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_an_administrator_changes_something_and_probes_need_no_credential() {
    let seams = Seams::simulated(1);
    let key = |name: &str, hash: &str, role: &str| ApiKey {
        name: name.to_owned(),
        hash: format!("sha256:{hash}"),
        roles: vec![role.to_owned()],
    };
    // The hashes of reader-key and admin-key, as sha256sum has them.
    let reader = key("reader", "ec4408df15da46b328f6f3246fa723d0aa6cb0f0a0dd9c4626080ab1b02aa3b2", "read");
    let admin = key("admin", "69a5265506c94c77b787a7d7377b7685a0eff82e33920a71e7ee22cd6154953e", "admin");
    let admin_auth = auth::Config { mode: Mode::ApiKeys, keys: vec![reader, admin], ..auth::Config::default() };
    let config = berth_node::config::Config { admin_listen: ADMIN.to_owned(), admin_auth, ..config() };
    let node = start(config, Arc::new(SimulatedDisk::new()), &seams).await;
    for (method, path, credential, status) in [
        ("GET", "/livez", "", "200 OK"),
        ("GET", "/readyz", "", "200 OK"),
        ("GET", "/metrics", "", "401 Unauthorized"),
        ("GET", "/v1/cluster", "", "401 Unauthorized"),
        ("GET", "/v1/recovery", "", "401 Unauthorized"),
        ("GET", "/nowhere", "", "401 Unauthorized"),
        ("POST", "/drain", "", "401 Unauthorized"),
        ("POST", "/drain", "guess", "401 Unauthorized"),
        ("GET", "/metrics", "reader-key", "200 OK"),
        ("GET", "/v1/recovery", "reader-key", "200 OK"),
        ("POST", "/drain", "reader-key", "403 Forbidden"),
        ("POST", "/v1/recovery/0", "reader-key", "403 Forbidden"),
        ("GET", "/v1/cluster", "admin-key", "200 OK"),
        ("POST", "/v1/recovery/0", "admin-key", "400 Bad Request"),
        ("POST", "/drain", "admin-key", "202 Accepted"),
    ] {
        let header = format!("authorization: Bearer {credential}\r\n");
        let header = if credential.is_empty() { "" } else { header.as_str() };
        let (status_line, headers, body) = get_with(&seams, method, path, header).await;
        assert_eq!(status_line, format!("HTTP/1.1 {status}"), "{method} {path} {credential}");
        assert_eq!(
            headers.contains("www-authenticate: Bearer"),
            status.starts_with("40") && !status.starts_with("400")
        );
        assert!(credential.is_empty() || !body.contains(credential));
    }
    node.shutdown().await.unwrap();
}
