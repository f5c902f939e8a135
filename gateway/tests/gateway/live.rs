//! Reads at replicas and live histories over both protocols.

use std::time::Duration;

use berth_gateway::Config;
use berth_shared::seam::Seams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::twin::{CLUSTER, Does, SHARDS, Twin, ask, gateway, node_and_gateway, owners};
use crate::{ADMIN, ALICE, PUBLIC};

const EVENTS: &str = "/v1/entities/counter/alice/events";

/// A client that asks for a live history and then does nothing.
async fn open_stream(seams: &Seams) -> berth_shared::seam::network::Stream {
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    let request = format!("GET {EVENTS} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn metric(seams: &Seams, name: &str) -> Option<f64> {
    let page = ask(seams, "GET", ADMIN, "/metrics", &[], "").await;
    page.text().lines().find(|line| line.starts_with(name))?.rsplit_once(' ')?.1.parse().ok()
}

#[tokio::test(start_paused = true)]
async fn reads_at_replicas_go_to_the_own_zone_and_to_who_is_connected() {
    let seams = Seams::simulated(1);
    let nodes = ["node-1:1", "node-2:1", "node-3:1"];
    let mut twins = Vec::new();
    for address in nodes {
        let owned = if address == nodes[0] { owners(address, 1) } else { vec![] };
        twins.push(Twin::start(&seams, address, CLUSTER, SHARDS, owned).await);
    }
    let config =
        Config { nodes: nodes.map(str::to_owned).to_vec(), zone: Some("here".to_owned()), ..Config::default() };
    let gateway = gateway(&seams, config).await;
    gateway.ready().await;
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let read = async || {
        for _ in 0..30 {
            assert_eq!(ask(&seams, "GET", PUBLIC, &format!("{ALICE}?consistency=session"), &[], "").await.status, 200);
        }
    };
    let asked = |twins: &[Twin]| -> Vec<usize> { twins.iter().map(Twin::asked).collect() };
    read().await;
    assert_eq!(asked(&twins), [30, 0, 0], "nobody has told yet where it can be read");

    twins.iter().for_each(|twin| twin.push_replicas(Some("there")));
    seams.spawner.sleep(Duration::from_millis(10)).await;
    read().await;
    let spread = asked(&twins);
    assert!(spread[0] > 30 && spread[1] > 0 && spread[2] > 0 && spread.iter().sum::<usize>() == 60, "{spread:?}");

    twins[2].push_replicas(Some("here"));
    seams.spawner.sleep(Duration::from_millis(10)).await;
    read().await;
    assert_eq!(asked(&twins), [spread[0], spread[1], spread[2] + 30]);

    drop(twins.pop());
    seams.spawner.sleep(Duration::from_secs(1)).await;
    read().await;
    assert_eq!(asked(&twins).iter().sum::<usize>(), spread[0] + spread[1] + 30);

    // Who answers nothing costs a part of the time, and the owner is asked with the rest.
    twins[1].push_replicas(Some("here"));
    twins[1].does(Does::Hang);
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let began = seams.clock.now();
    assert_eq!(ask(&seams, "GET", PUBLIC, &format!("{ALICE}?consistency=stale"), &[], "").await.status, 200);
    assert!(seams.clock.now().since(began) < Duration::from_secs(3));
}

/// Long polls that fill their own connection leave room for what is answered at once.
#[tokio::test(start_paused = true)]
async fn long_polls_are_no_requests_in_flight() {
    let seams = Seams::simulated(2);
    let config = Config { in_flight_max: 2, in_flight_per_node_max: 2, ..Config::default() };
    let (node, _gateway) = node_and_gateway(&seams, config).await;
    node.does(Does::HangWaits);
    let mut polls = Vec::new();
    for _ in 0..20 {
        let asking = seams.clone();
        let path = format!("{EVENTS}?wait=20");
        polls.push(seams.spawner.spawn(async move { ask(&asking, "GET", PUBLIC, &path, &[], "").await.status }));
        seams.spawner.sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.asked(), 40, "each was asked for what there is, and then waited");
    node.does(Does::Answer);
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status, 200);
    assert_eq!(metric(&seams, "berth_gateway_streams").await, Some(20.0));
    node.answer_hanging();
    for poll in polls {
        assert_eq!(poll.await.unwrap(), 200);
    }
    assert_eq!(metric(&seams, "berth_gateway_streams").await, Some(0.0));
}

/// A credential may end while its live histories go on, so they end now and then, and whoever comes back is asked again.
#[tokio::test(start_paused = true)]
async fn where_credentials_are_asked_for_a_live_history_ends_with_a_hint_when_to_come_again() {
    let seams = Seams::simulated(5);
    let (node, _gateway) = node_and_gateway(&seams, crate::auth::config()).await;
    node.does(Does::Tell(3));
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    let credential = "authorization: Bearer reader-key";
    let request = format!(
        "GET {EVENTS} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{credential}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let began = seams.clock.now();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    let lasted = seams.clock.now().since(began);
    assert!((Duration::from_secs(299)..Duration::from_secs(310)).contains(&lasted), "{lasted:?}");
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.matches("retry: ").count() == 2, "{text}");
    assert!(text.ends_with("0\r\n\r\n"), "a whole answer");
}

/// Its connection would be held up by what it does not read.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_loses_its_connection() {
    let seams = Seams::simulated(3);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    node.does(Does::Tell(100_000));
    let mut stream = open_stream(&seams).await;
    seams.spawner.sleep(Duration::from_secs(25)).await;
    assert_eq!(metric(&seams, "berth_gateway_http_connections").await, Some(1.0));
    let fetched = node.asked();
    assert!(fetched < 20, "{fetched} pages were fetched");
    seams.spawner.sleep(Duration::from_secs(10)).await;
    assert_eq!(metric(&seams, "berth_gateway_http_connections").await, Some(0.0));
    assert_eq!(metric(&seams, "berth_gateway_streams").await, Some(0.0));
    assert!(node.asked() <= fetched + 1, "{} pages were fetched", node.asked());
    let mut text = Vec::new();
    // Whatever there is to read ends without the end of the answer.
    let _ = stream.read_to_end(&mut text).await;
    assert!(!text.ends_with(b"0\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_live_history_survives_the_time_out_of_idle_connections_and_ends_with_the_gateway() {
    let seams = Seams::simulated(4);
    let (node, gateway) = node_and_gateway(&seams, Config::default()).await;
    node.does(Does::Tell(3));
    let mut stream = open_stream(&seams).await;
    seams.spawner.sleep(Duration::from_secs(120)).await;
    assert_eq!(metric(&seams, "berth_gateway_streams").await, Some(1.0));
    let began = seams.clock.now();
    let shutdown = seams.spawner.spawn(gateway.shutdown());
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    shutdown.await.unwrap();
    assert!(seams.clock.now().since(began) < Duration::from_secs(2));
    let text = String::from_utf8(text).unwrap();
    let ids: Vec<&str> = text.lines().filter(|line| line.starts_with("id: ")).collect();
    assert_eq!(ids, ["id: 1", "id: 2", "id: 3"]);
    assert!(text.matches(": ping").count() >= 8 && text.matches("retry: ").count() == 2, "{text}");
    assert!(text.ends_with("0\r\n\r\n"), "a whole answer");
}
