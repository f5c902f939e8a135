//! Browsers that call from pages of other origins, and answers that are compressed, over real HTTP.

use std::time::Duration;

use berth_gateway::Config;
use berth_shared::seam::Seams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::twin::{Answer, Does, ask, node_and_gateway};
use crate::{ADD, ALICE, PUBLIC, auth};

const PAGE: &str = "https://shop.example";
const EVENTS: &str = "/v1/entities/counter/alice/events";

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_browser_asks_first_without_a_credential_and_then_calls_with_one() {
    let seams = Seams::simulated(1);
    let config = Config { cors_origins: vec![PAGE.to_owned()], ..auth::config() };
    let (node, _gateway) = node_and_gateway(&seams, config).await;
    let asks = [
        ("origin", PAGE),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,idempotency-key"),
    ];
    let first = ask(&seams, "OPTIONS", PUBLIC, ADD, &asks, "").await;
    assert_eq!((first.status, header(&first, "access-control-allow-origin")), (200, Some(PAGE)));
    for (name, part) in [("methods", "POST"), ("headers", "authorization"), ("headers", "idempotency-key")] {
        let allowed = header(&first, &format!("access-control-allow-{name}")).unwrap();
        assert!(allowed.contains(part), "{part} is not in {allowed}");
    }
    // Refusals can be read by the page too.
    let refused = ask(&seams, "POST", PUBLIC, ADD, &[("origin", PAGE)], "").await;
    assert_eq!((refused.status, header(&refused, "access-control-allow-origin")), (401, Some(PAGE)));
    assert_eq!(node.asked(), 0);
    let headers = [("origin", PAGE), ("authorization", "Bearer writer-key")];
    let answer = ask(&seams, "POST", PUBLIC, ADD, &headers, "").await;
    assert_eq!((answer.status, header(&answer, "access-control-allow-origin")), (200, Some(PAGE)));
    let exposed = header(&answer, "access-control-expose-headers").unwrap();
    let mut own = answer.headers.keys().map(http::HeaderName::as_str).filter(|name| {
        let known = ["content-type", "content-length", "date", "vary", "cache-control"];
        !known.contains(name) && !name.starts_with("access-control-")
    });
    assert!(own.all(|name| exposed.split(',').any(|exposed| exposed == name)), "{:?}: {exposed}", answer.headers);
}

#[tokio::test(start_paused = true)]
async fn without_origins_a_page_is_told_nothing_and_methods_as_before() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let asks = [("origin", PAGE), ("access-control-request-method", "GET")];
    for (method, status) in [("OPTIONS", 204), ("GET", 200)] {
        let answer = ask(&seams, method, PUBLIC, ALICE, &asks, "").await;
        assert_eq!(answer.status, status, "{method}");
        let added = answer.headers.keys().find(|name| name.as_str().starts_with("access-control-"));
        assert_eq!((added, header(&answer, "vary")), (None, None), "{method}");
        assert_eq!(header(&answer, "allow").is_some(), method == "OPTIONS");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_of_history_is_compressed_and_a_live_one_never() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    node.does(Does::Tell(3));
    let gzip = ("accept-encoding", "gzip");
    let plain = ask(&seams, "GET", PUBLIC, EVENTS, &[], "").await;
    let small = ask(&seams, "GET", PUBLIC, EVENTS, &[gzip], "").await;
    assert_eq!(
        (plain.status, header(&plain, "content-encoding"), header(&plain, "vary")),
        (200, None, Some("accept-encoding"))
    );
    assert_eq!((small.status, header(&small, "content-encoding")), (200, Some("gzip")));
    assert!(plain.body.len() > 3 * 4096 && small.body.len() < 1024, "{} and {}", plain.body.len(), small.body.len());

    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    let request =
        format!("GET {EVENTS} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\naccept-encoding: gzip\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&text).contains("id: 3\n") {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0);
        }
    };
    assert!(
        seams.spawner.timeout(Duration::from_secs(5), reading).await.is_some(),
        "what has happened is sent at once"
    );
    let text = String::from_utf8_lossy(&text).to_lowercase();
    assert!(text.contains("content-type: text/event-stream") && !text.contains("content-encoding"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_may_not_call_changes_nothing() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    for headers in [[("origin", "https://evil.example")], [("sec-fetch-site", "cross-site")]] {
        for (method, path) in [("POST", ADD), ("DELETE", ALICE)] {
            let refused = ask(&seams, method, PUBLIC, path, &headers, "").await;
            assert_eq!((refused.status, header(&refused, "www-authenticate")), (403, None), "{method}: {headers:?}");
            assert!(refused.text().contains("\"code\":\"forbidden\""), "{}", refused.text());
        }
    }
    assert_eq!(node.asked(), 0);
    assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[("sec-fetch-site", "same-origin")], "").await.status, 200);
}
