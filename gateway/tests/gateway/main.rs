//! The whole gateway over its two protocols, HTTP on one side and the peer protocol on the other, on a network in memory.

mod auth;
mod certificates;
mod edge;
mod encryption;
mod failover;
mod frost;
mod grpc;
mod hostile;
mod live;
mod names;
mod process;
mod twin;

use std::time::Duration;

use berth_gateway::Config;
use berth_shared::config::HumanDuration;
use berth_shared::ids::ClusterId;
use berth_shared::seam::Seams;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use twin::{Answer, CLUSTER, Does, SHARDS, Twin, ask, finish, gateway, node_and_gateway, owners, request};

const PUBLIC: &str = "gateway:80";
const ADMIN: &str = "gateway:90";
const ALICE: &str = "/v1/entities/counter/alice";
const ADD: &str = "/v1/entities/counter/alice/add";

/// Everything that was sent until the gateway closed, as text.
async fn raw(seams: &Seams, bytes: &[u8]) -> String {
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_reaches_the_owner_and_its_answer_the_client() {
    let seams = Seams::simulated(1);
    let (node, gateway) = node_and_gateway(&seams, Config::default()).await;
    assert_eq!((gateway.public_address(), gateway.admin_address(), gateway.is_ready()), (PUBLIC, ADMIN, true));
    let answer = ask(&seams, "POST", PUBLIC, ADD, &[("content-type", "application/json")], "{\"by\":1}").await;
    assert_eq!(
        (answer.status, answer.text()),
        (200, r#"{"kind":"counter","id":"alice","version":1,"reply":{"by":1},"state":{}}"#)
    );
    for name in ["etag", "berth-session", "idempotency-key", "date"] {
        assert!(answer.headers.contains_key(name), "{name}");
    }
    let state = ask(&seams, "GET", PUBLIC, "/v1/entities/counter/a%2Fb%22", &[], "").await;
    assert_eq!(state.text(), r#"{"kind":"counter","id":"a/b\"","version":1,"state":{}}"#);
    let head = ask(&seams, "HEAD", PUBLIC, ALICE, &[], "").await;
    assert_eq!((head.status, head.headers["content-length"].to_str().unwrap(), head.body.len()), (200, "54", 0));
    assert_eq!(ask(&seams, "GET", PUBLIC, "/v1/kinds", &[], "").await.text(), r#"{"kinds":[{"kind":"counter"}]}"#);
    assert_eq!(node.asked(), 4);
}

#[tokio::test(start_paused = true)]
async fn http_2_with_prior_knowledge_is_served_too() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let stream = seams.network.connect(PUBLIC).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    seams.spawner.spawn(connection);
    let asked = (0..20).map(|_| sender.send_request(request("POST", &format!("http://gateway{ADD}"), &[], "{}")));
    let answers: Vec<_> = asked.collect();
    for answer in answers {
        assert_eq!(finish(answer.await.unwrap()).await.status, 200);
    }
    let head =
        finish(sender.send_request(request("HEAD", &format!("http://gateway{ALICE}"), &[], "")).await.unwrap()).await;
    assert_eq!((head.status, head.headers["content-length"].to_str().unwrap()), (200, "54"));
    assert_eq!(node.asked(), 21);
}

#[tokio::test(start_paused = true)]
async fn requests_in_one_packet_are_answered_in_order() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let read = "GET /v1/entities/counter/a HTTP/1.1\r\nhost: x\r\n\r\n";
    let answers = raw(
        &seams,
        format!("{read}{}{}", read.replace("/a ", "/b "), read.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"))
            .as_bytes(),
    )
    .await;
    let places: Vec<_> = ["\"id\":\"a\"", "\"id\":\"b\""].iter().filter_map(|id| answers.find(id)).collect();
    assert_eq!((answers.matches("HTTP/1.1 200").count(), places.len(), places.is_sorted()), (3, 2, true), "{answers}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http_is_turned_away() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    for (bytes, status) in [
        ("GET\r\n\r\n", "400"),
        ("GET /v1/entities/counter/a b HTTP/1.1\r\n\r\n", "400"),
        ("GET /v1/kinds HTTP/1.1\r\nbad header\r\n\r\n", "400"),
        ("POST /v1/entities/counter/a/add HTTP/1.1\r\ncontent-length: x\r\n\r\n", "400"),
        (
            "POST /v1/entities/counter/a/add HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "400",
        ),
        ("GET /v1/kinds/%zz HTTP/1.1\r\nconnection: close\r\n\r\n", "400"),
        ("OPTIONS * HTTP/1.1\r\nconnection: close\r\n\r\n", "404"),
        ("CONNECT a:1 HTTP/1.1\r\nconnection: close\r\n\r\n", "404"),
        ("GET http://elsewhere/v1/kindz HTTP/1.1\r\nconnection: close\r\n\r\n", "404"),
    ] {
        let answer = raw(&seams, bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{bytes}: {answer}");
    }
    assert_eq!(node.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn long_headers_are_431_and_a_long_body_413() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let long = ask(&seams, "GET", PUBLIC, ALICE, &[("x", &"x".repeat(9 * 1024))], "").await;
    assert_eq!((long.status, long.code().as_str()), (431, "too-large"));
    let head = format!("GET {ALICE} HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(100 * 1024));
    assert!(raw(&seams, head.as_bytes()).await.starts_with("HTTP/1.1 431"), "beyond what is buffered");
    let many = format!("GET {ALICE} HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(200));
    assert!(raw(&seams, many.as_bytes()).await.starts_with("HTTP/1.1 431"));
    // Announced, and never sent: the refusal does not wait for it.
    let announced = format!("POST {ADD} HTTP/1.1\r\ncontent-length: 1048577\r\n\r\n");
    assert!(raw(&seams, announced.as_bytes()).await.starts_with("HTTP/1.1 413"));
    let most = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], &most).await.status, 200);
    assert_eq!(node.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn clients_that_dawdle_are_cut_off() {
    let seams = Seams::simulated(1);
    let header_timeout = HumanDuration::from_secs(3);
    let (_node, _gateway) = node_and_gateway(&seams, Config { header_timeout, ..Config::default() }).await;
    for bytes in
        ["", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /v1/kin", "GET /v1/kinds HTTP/1.1\r\nhost: x\r\n\r\n"]
    {
        let started = seams.clock.now();
        let closed = seams.spawner.timeout(Duration::from_secs(10), async {
            let mut stream = seams.network.connect(PUBLIC).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await
        });
        assert!(closed.await.is_some(), "{bytes:?}");
        assert!(seams.clock.now().since(started) >= Duration::from_secs(3), "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_named_by_another_node_is_connected_and_asked() {
    let seams = Seams::simulated(1);
    let (first, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let second = Twin::start(&seams, "node-2:1", CLUSTER, SHARDS, vec![]).await;
    first.does(Does::Redirect(owners("node-2:1", 2).into_iter().nth(usize::from(shard_of_alice()))));
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await.status, 200);
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await.status, 200);
    assert_eq!((first.asked(), second.asked()), (1, 2), "the second request goes straight to the owner");
}

fn shard_of_alice() -> u16 {
    berth_shared::key::EntityKey::new("counter", "alice").unwrap().shard(SHARDS).0
}

#[tokio::test(start_paused = true)]
async fn a_push_moves_requests_to_the_new_owner() {
    let seams = Seams::simulated(1);
    let (first, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let second = Twin::start(&seams, "node-2:1", CLUSTER, SHARDS, vec![]).await;
    first.push(SHARDS, owners("node-2:1", 2));
    seams.spawner.sleep(Duration::from_millis(1)).await;
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status, 200);
    first.push(SHARDS, owners("node-1:1", 1));
    seams.spawner.sleep(Duration::from_millis(1)).await;
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status, 200);
    assert_eq!((first.asked(), second.asked()), (0, 2), "older knowledge changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_node_that_comes_back() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    drop(node);
    let asking = seams.spawner.spawn({
        let seams = seams.clone();
        async move { ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await }
    });
    seams.spawner.sleep(Duration::from_secs(1)).await;
    let node = Twin::start(&seams, "node-1:1", CLUSTER, SHARDS, owners("node-1:1", 2)).await;
    assert_eq!((asking.await.unwrap().status, node.asked()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn without_its_owner_a_request_is_503_at_its_deadline() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    drop(node);
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let started = seams.clock.now();
    let answer = ask(&seams, "POST", PUBLIC, ADD, &[("prefer", "wait=3")], "{}").await;
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.headers["retry-after"].to_str().unwrap()),
        (503, "unavailable", "1")
    );
    let waited = seams.clock.now().since(started);
    assert!((Duration::from_millis(2500)..=Duration::from_millis(3100)).contains(&waited), "{waited:?}");
}

/// Rule G2: the node may have executed what it did not answer, and afterwards is gone.
#[tokio::test(start_paused = true)]
async fn a_command_whose_owner_dies_with_it_is_504_with_its_key() {
    for does in [Does::Hang, Does::Abandon] {
        let seams = Seams::simulated(1);
        let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
        node.does(does);
        let asking = seams.spawner.spawn({
            let seams = seams.clone();
            async move { ask(&seams, "POST", PUBLIC, ADD, &[("idempotency-key", "mine")], "{}").await }
        });
        seams.spawner.sleep(Duration::from_millis(100)).await;
        assert!(node.asked() >= 1);
        drop(node);
        let answer = asking.await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (504, "unknown-outcome"));
        assert_eq!(answer.headers["idempotency-key"], "mine");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_has_only_so_many_requests_in_flight() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config { in_flight_per_node_max: 2, ..Config::default() }).await;
    node.does(Does::Hang);
    let asking = |seams: Seams| async move { ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await };
    let hanging: Vec<_> = (0..2).map(|_| seams.spawner.spawn(asking(seams.clone()))).collect();
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let answer = ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "overloaded"));
    node.answer_hanging();
    for hanging in hanging {
        assert_eq!(hanging.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_of_another_cluster_or_number_of_shards_are_not_listened_to() {
    let seams = Seams::simulated(1);
    let (first, lone) = node_and_gateway(&seams, Config { nodes_max: 8, ..Config::default() }).await;
    first.push(SHARDS + 1, owners("node-2:1", 9));
    seams.spawner.sleep(Duration::from_millis(1)).await;
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status, 200);
    assert_eq!(first.asked(), 1, "it stays the owner");
    let page = ask(&seams, "GET", ADMIN, "/metrics", &[], "").await;
    assert!(page.text().contains("berth_gateway_map_refusals_total{role=\"gateway\"} 1"), "{}", page.text());
    drop((first, lone));

    let seams = Seams::simulated(2);
    let first = Twin::start(&seams, "node-1:1", CLUSTER, SHARDS, owners("node-1:1", 1)).await;
    let nodes = vec!["node-1:1".to_owned(), "stranger:1".to_owned()];
    let gateway = gateway(&seams, Config { nodes, ..Config::default() }).await;
    gateway.ready().await;
    let stranger = Twin::start(&seams, "stranger:1", ClusterId(8), SHARDS, owners("stranger:1", 9)).await;
    seams.spawner.sleep(Duration::from_secs(5)).await;
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status, 200);
    assert_eq!((first.asked(), stranger.asked()), (1, 0));
}

/// As when a pod gets the address that one of ours had.
#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_at_the_address_of_an_owner_is_asked_for_nothing() {
    let seams = Seams::simulated(3);
    let (owner, _gateway) = node_and_gateway(&seams, Config::default()).await;
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await.status, 200);
    drop(owner);
    seams.spawner.sleep(Duration::from_secs(1)).await;
    let stranger = Twin::start(&seams, "node-1:1", ClusterId(8), SHARDS, owners("node-1:1", 9)).await;
    seams.spawner.sleep(Duration::from_secs(5)).await;
    for (method, path) in [("POST", ADD), ("GET", ALICE)] {
        assert_eq!(ask(&seams, method, PUBLIC, path, &[], "{}").await.status, 503, "{method}");
    }
    assert_eq!(stranger.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_admin_port_tells_life_readiness_and_numbers() {
    let seams = Seams::simulated(1);
    let gateway = gateway(&seams, Config { nodes: vec!["node-1:1".to_owned()], ..Config::default() }).await;
    let admin = async |path: &str| -> Answer { ask(&seams, "GET", ADMIN, path, &[], "").await };
    assert_eq!(admin("/livez").await.status, 200);
    let waiting = admin("/readyz").await;
    assert_eq!((waiting.status, waiting.code().as_str(), gateway.is_ready()), (503, "unavailable", false));
    let node = Twin::start(&seams, "node-1:1", CLUSTER, SHARDS, owners("node-1:1", 1).split_off(1)).await;
    seams.spawner.sleep(Duration::from_secs(5)).await;
    assert_eq!(admin("/readyz").await.status, 503, "one shard has no owner");
    node.push(SHARDS, owners("node-1:1", 1));
    gateway.ready().await;
    assert_eq!(admin("/readyz").await.status, 200);

    ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await;
    ask(&seams, "GET", PUBLIC, "/nowhere", &[], "").await;
    let page = admin("/metrics").await;
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for line in [
        r#"berth_gateway_requests_total{route="command",status="200",role="gateway"} 1"#,
        r#"berth_gateway_requests_total{route="other",status="404",role="gateway"} 1"#,
        r#"berth_gateway_request_seconds_count{route="command",role="gateway"} 1"#,
        r#"berth_gateway_node_calls_total{result="answered",role="gateway"} 1"#,
        r#"berth_gateway_nodes_connected{role="gateway"} 1"#,
        r#"berth_gateway_in_flight{role="gateway"} 0"#,
        r#"berth_gateway_map_changes_total{role="gateway"} 2"#,
    ] {
        assert!(page.text().contains(line), "{line} in {}", page.text());
    }
    assert!(!page.text().contains("alice"), "no id is a label");

    assert_eq!(admin("/nowhere").await.code(), "not-found");
    let wrong = ask(&seams, "POST", ADMIN, "/livez", &[], "").await;
    assert_eq!(
        (wrong.status, wrong.code().as_str(), wrong.headers["allow"].to_str().unwrap()),
        (405, "method-not-allowed", "GET, HEAD")
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_requests_finish_and_takes_no_more() {
    let seams = Seams::simulated(1);
    let (node, gateway) = node_and_gateway(&seams, Config::default()).await;
    node.does(Does::Hang);
    let idle = seams.network.connect(PUBLIC).await.unwrap();
    let hanging = seams.spawner.spawn({
        let seams = seams.clone();
        async move { ask(&seams, "POST", PUBLIC, ADD, &[], "{}").await }
    });
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let shutdown = seams.spawner.spawn(gateway.shutdown());
    seams.spawner.sleep(Duration::from_millis(10)).await;
    assert!(!shutdown.is_finished());
    assert!(seams.network.connect(PUBLIC).await.is_err());
    assert_eq!(ask(&seams, "GET", ADMIN, "/readyz", &[], "").await.status, 503);
    node.answer_hanging();
    assert_eq!(hanging.await.unwrap().status, 200);
    shutdown.await.unwrap();
    drop(idle);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_ever() {
    let seams = Seams::simulated(1);
    let drain_timeout = HumanDuration::from_secs(2);
    let (node, gateway) = node_and_gateway(&seams, Config { drain_timeout, ..Config::default() }).await;
    node.does(Does::Hang);
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    stream.write_all(format!("POST {ADD} HTTP/1.1\r\nprefer: wait=30\r\n\r\n").as_bytes()).await.unwrap();
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let started = seams.clock.now();
    gateway.shutdown().await;
    assert!(seams.clock.now().since(started) < Duration::from_secs(5));
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "cut off");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let seams = Seams::simulated(1);
    let _taken = seams.network.listen("gateway:80").await.unwrap();
    let config = Config { listen: "gateway:80".to_owned(), ..Config::default() };
    let metrics = berth_shared::telemetry::Metrics::new(&[]).unwrap();
    let error = berth_gateway::start(config, seams, berth_shared::telemetry::Tracing::OFF, metrics).await.unwrap_err();
    assert!(error.to_string().contains("gateway:80"), "{error}");
}
