//! Clients of the public port that mean harm, byte by byte: forms that two programs could understand differently, floods, and
//! those who say or read too little.

use std::time::Duration;

use berth_gateway::Config;
use berth_shared::config::HumanDuration;
use berth_shared::seam::Seams;
use berth_shared::seam::network::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::twin::{ask, node_and_gateway};
use crate::{ADD, ADMIN, ALICE, PUBLIC};

/// What a client could hide behind another request.
const HIDDEN: &str = "POST /v1/entities/counter/hidden/add HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Everything that was answered until the gateway closed. What it does not take any more is not sent.
async fn exchange(seams: &Seams, bytes: &[u8]) -> String {
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = seams.spawner.timeout(Duration::from_secs(100), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(start_paused = true)]
async fn forms_that_two_programs_could_understand_differently_are_refused() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    for headers in [
        "content-length: 2\r\ncontent-length: 3",
        "content-length: 2, 3",
        "content-length: 2, 2",
        "content-length: +2",
        "content-length: -2",
        "content-length: 0x2",
        "content-length: 2 2",
        "content-length: 2;",
        "content-length:",
        "content-length: 99999999999999999999",
        "content-length : 2",
        " content-length: 2",
        "transfer-encoding : chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity",
        "transfer-encoding: \x0bchunked",
        "transfer-encoding: chunk\red",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding\0: chunked",
        "x: a\r\n b: c",
        "x: a\r\n\tb",
        "x: a\rcontent-length: 2",
        "x\r\n: a",
        "x: a\0b",
        "x y: a",
        "(x): a",
        ": a",
        "x",
    ] {
        let request = format!("POST {ADD} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{{}}{HIDDEN}");
        let answer = exchange(&seams, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{headers:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{headers:?} is the last word: {answer}");
    }
    let old = format!("POST {ADD} HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{HIDDEN}");
    assert!(exchange(&seams, old.as_bytes()).await.starts_with("HTTP/1.1 400 "));
    for line in [
        format!("POST  {ADD} HTTP/1.1"),
        format!("POST {ADD}  HTTP/1.1"),
        format!("POST {ADD} HTTP/1.1 "),
        format!("POST\t{ADD} HTTP/1.1"),
        format!("POST {ADD} HTTP/1.2"),
        format!("POST {ADD} HTTP/9.9"),
        format!("POST {ADD} http/1.1"),
        format!("POST {ADD}"),
        format!("PO ST {ADD} HTTP/1.1"),
        format!("POST {ADD}\u{e9} HTTP/1.1\r\nx: \r\r"),
    ] {
        let answer = exchange(&seams, format!("{line}\r\nhost: x\r\n\r\n{HIDDEN}").as_bytes()).await;
        let refused = answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 505 ");
        assert!(refused || answer.is_empty(), "{line:?}: {answer}");
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{line:?}: {answer}");
    }
    assert_eq!(node.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn chunks_that_two_programs_could_understand_differently_are_refused() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    for chunks in [
        "2\r\n{}\r\n0x0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r{}\r\n0\r\n\r\n",
        "2;x=\n2\r\n{}\r\n0\r\n\r\n",
        "10000000000000002\r\n{}\r\n0\r\n\r\n",
        "zz\r\n{}\r\n0\r\n\r\n",
    ] {
        let request = format!("POST {ADD} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}{HIDDEN}");
        let answer = exchange(&seams, request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{chunks:?}: {answer}");
        assert!(answer.matches("HTTP/1.1").count() <= 1, "{chunks:?}: {answer}");
    }
    assert_eq!(node.asked(), 0);
    // Endless extensions and trailers are bounded too.
    for endless in [format!("2;{}", "x".repeat(64 * 1024)), format!("2\r\n{{}}\r\n0\r\n{}", "x: y\r\n".repeat(20_000))]
    {
        let request = format!("POST {ADD} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{endless}");
        let answer = exchange(&seams, request.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert_eq!(node.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_be_meant_for_another_host_is_refused() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    for headers in [
        "host: a\r\nhost: a",
        "host: a\r\nhost: b",
        "host: a b",
        "host: a/b",
        "host: user@a",
        "host: a, b",
        "host: a:b:c",
    ] {
        let request = format!("GET {ALICE} HTTP/1.1\r\n{headers}\r\nconnection: close\r\n\r\n");
        let answer = exchange(&seams, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("invalid-request"), "{headers:?}: {answer}");
    }
    assert_eq!(node.asked(), 0);
    for headers in ["host: a", "host: a.example:8080", "host: [::1]:80", "host:", "x: y"] {
        let request = format!("GET {ALICE} HTTP/1.1\r\n{headers}\r\nconnection: close\r\n\r\n");
        let answer = exchange(&seams, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{headers:?}: {answer}");
    }
}

/// Where a length and chunks are both announced, the chunks count (RFC 9112, 6.3), and the connection ends with the answer: what the
/// length would have made another request is not one.
#[tokio::test(start_paused = true)]
async fn with_a_length_and_chunks_nothing_is_hidden_behind() {
    for headers in
        ["content-length: 2\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 2"]
    {
        let seams = Seams::simulated(1);
        let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
        let request = format!("POST {ADD} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{HIDDEN}");
        let answer = exchange(&seams, request.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{headers:?}: {answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(node.asked(), 1, "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_headers_or_bodies_byte_by_byte_is_cut_off() {
    let seams = Seams::simulated(1);
    let (header_timeout, body_timeout) = (HumanDuration::from_secs(5), HumanDuration::from_secs(5));
    let (node, _gateway) = node_and_gateway(&seams, Config { header_timeout, body_timeout, ..Config::default() }).await;
    let first = format!("GET {ALICE} HTTP/1.1\r\nhost: x\r\n\r\n");
    for (begin, status) in [
        (format!("GET {ALICE} HTTP/1.1\r\nx: "), None),
        // Also when it is not the first request.
        (format!("{first}GET {ALICE} HTTP/1.1\r\nx: "), Some("200")),
        (format!("POST {ADD} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"), Some("408")),
        (format!("POST {ADD} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nff\r\n"), Some("408")),
    ] {
        let started = seams.clock.now();
        let stream = seams.network.connect(PUBLIC).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let spawner = seams.spawner;
        writer.write_all(begin.as_bytes()).await.unwrap();
        let trickle = async {
            while writer.write_all(b"a").await.is_ok() {
                spawner.sleep(Duration::from_millis(500)).await;
            }
        };
        let mut answer = Vec::new();
        let read = async {
            let _ = reader.read_to_end(&mut answer).await;
        };
        let both = async { tokio::join!(trickle, read) };
        assert!(spawner.timeout(Duration::from_secs(60), both).await.is_some(), "{begin:?} goes on for ever");
        let lasted = seams.clock.now().since(started);
        assert!((Duration::from_secs(5)..Duration::from_secs(16)).contains(&lasted), "{begin:?}: {lasted:?}");
        let answer = String::from_utf8_lossy(&answer);
        match status {
            Some(status) => assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{begin:?}: {answer}"),
            None => assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{begin:?}: {answer}"),
        }
    }
    assert_eq!(node.asked(), 1);
}

/// How many connections of clients there are, as the admin port says.
async fn connections(seams: &Seams) -> u64 {
    let page = ask(seams, "GET", ADMIN, "/metrics", &[], "").await;
    let line = page.text().lines().find(|line| line.starts_with("berth_gateway_http_connections")).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_does_not_read_is_cut_off() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let stream = seams.network.connect(PUBLIC).await.unwrap();
    let (_unread, mut writer) = tokio::io::split(stream);
    let request = format!("GET {ALICE} HTTP/1.1\r\nhost: x\r\n\r\n");
    let asking = async { while writer.write_all(request.as_bytes()).await.is_ok() {} };
    assert!(seams.spawner.timeout(Duration::from_secs(100), asking).await.is_some());
    assert_eq!(connections(&seams).await, 0);
}

#[tokio::test(start_paused = true)]
async fn one_connection_more_than_allowed_waits() {
    let seams = Seams::simulated(1);
    let (_node, _gateway) = node_and_gateway(&seams, Config { connections_max: 2, ..Config::default() }).await;
    let (first, _second) = (seams.network.connect(PUBLIC).await.unwrap(), seams.network.connect(PUBLIC).await.unwrap());
    seams.spawner.sleep(Duration::from_millis(10)).await;
    let third = seams.spawner.timeout(Duration::from_secs(1), ask(&seams, "GET", PUBLIC, ALICE, &[], "")).await;
    assert!(third.is_none());
    drop(first);
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status, 200);
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /v1/entities/counter/alice` in HPACK, without compression.
fn get() -> Vec<u8> {
    // :method GET, :scheme http, and by its name's number :path and :authority.
    let mut block = vec![0x82, 0x86, 0x04, ALICE.len() as u8];
    block.extend_from_slice(ALICE.as_bytes());
    block.extend_from_slice(&[0x01, 1, b'x']);
    block
}

async fn greet(seams: &Seams) -> Stream {
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Sends what `next` makes until the gateway takes no more; how many there were, and whether the gateway said why.
async fn flood(seams: &Seams, stream: Stream, most: u32, mut next: impl FnMut(u32) -> Vec<u8>) -> (u32, bool) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        for number in 0..most {
            if writer.write_all(&next(number)).await.is_err() {
                return number;
            }
        }
        let _ = writer.shutdown().await;
        most
    };
    let mut answer = Vec::new();
    let reading = async {
        let _ = reader.read_to_end(&mut answer).await;
    };
    let both = seams.spawner.timeout(Duration::from_secs(100), async { tokio::join!(sending, reading) }).await;
    let (sent, ()) = both.expect("the flood ends");
    let mut rest = answer.as_slice();
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        if rest[3] == GOAWAY {
            return (sent, true);
        }
        rest = &rest[(9 + length).min(rest.len())..];
    }
    (sent, false)
}

#[tokio::test(start_paused = true)]
async fn the_frames_of_these_tests_are_http_2() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut stream = greet(&seams).await;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get())).await.unwrap();
    seams.spawner.sleep(Duration::from_secs(1)).await;
    assert_eq!(node.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_opens_and_resets_streams_rapidly_is_told_to_go() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let stream = greet(&seams).await;
    // CVE-2023-44487: a stream is opened and reset at once, so that it counts for no limit of streams.
    let pair = |number: u32| {
        let id = 2 * number + 1;
        let mut bytes = frame(HEADERS, END_STREAM | END_HEADERS, id, &get());
        bytes.extend_from_slice(&frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        bytes
    };
    let (sent, told) = flood(&seams, stream, 100_000, pair).await;
    assert!(sent < 10_000 && told, "{sent} {told}");
    assert!(node.asked() < 5000, "{}", node.asked());
    assert_eq!(ask(&seams, "GET", PUBLIC, ALICE, &[], "").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn headers_that_go_on_for_ever_are_cut_off() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    // CVE-2024-27316 and its like: a block of headers that never ends.
    let mut stream = greet(&seams).await;
    stream.write_all(&frame(HEADERS, END_STREAM, 1, &get())).await.unwrap();
    // A header of 1 KiB that is not to be indexed.
    let mut block = vec![0x00, 1, b'x', 0x7f, 0x81, 0x07];
    block.extend_from_slice(&[b'y'; 1024]);
    let (sent, told) = flood(&seams, stream, 100_000, |_| frame(CONTINUATION, 0, 1, &block)).await;
    assert!(sent < 2000 && told, "{sent} {told}");
    // Small pieces and empty ones.
    for piece in [&b"\x00\x01x\x01y"[..], b""] {
        let mut stream = greet(&seams).await;
        stream.write_all(&frame(HEADERS, END_STREAM, 1, &get())).await.unwrap();
        let (sent, told) = flood(&seams, stream, 1_000_000, |_| frame(CONTINUATION, 0, 1, piece)).await;
        assert!(sent < 100_000 && told, "{sent} {told}");
    }
    assert_eq!(node.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_2_that_is_gone_is_cut_off() {
    let seams = Seams::simulated(1);
    let header_timeout = HumanDuration::from_secs(5);
    let (node, _gateway) = node_and_gateway(&seams, Config { header_timeout, ..Config::default() }).await;
    let mut stream = greet(&seams).await;
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get())).await.unwrap();
    // It answers no ping.
    let mut answer = Vec::new();
    let started = seams.clock.now();
    let ended = seams.spawner.timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_some(), "it is kept for ever");
    let lasted = seams.clock.now().since(started);
    assert!((Duration::from_secs(20)..Duration::from_secs(35)).contains(&lasted), "{lasted:?}");
    assert_eq!((node.asked(), connections(&seams).await), (1, 0));
}

/// Answers every ping, as a client that is there, or says `more` every second, between whose parts nothing else may stand; how long
/// the gateway bore it, and whether it said that the connection ends.
async fn stay(seams: &Seams, stream: Stream, more: &[u8]) -> (Duration, bool) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (started, mut told) = (seams.clock.now(), false);
    let staying = async {
        let mut due = Duration::from_secs(1);
        loop {
            let mut head = [0; 9];
            tokio::select! {
                biased;
                read = reader.read_exact(&mut head) => {
                    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                    if read.is_err() || reader.read_exact(&mut payload).await.is_err() {
                        return;
                    }
                    told |= head[3] == GOAWAY;
                    if head[3] == PING && head[4] & ACK == 0 && more.is_empty() {
                        let _ = writer.write_all(&frame(PING, ACK, 0, &payload)).await;
                    }
                }
                () = seams.spawner.sleep(due.saturating_sub(seams.clock.now().since(started))) => {
                    let _ = writer.write_all(more).await;
                    due += Duration::from_secs(1);
                }
            }
        }
    };
    let ended = seams.spawner.timeout(Duration::from_secs(300), staying).await;
    assert!(ended.is_some(), "it may stay for ever");
    (seams.clock.now().since(started), told)
}

#[tokio::test(start_paused = true)]
async fn who_asks_nothing_or_never_finishes_asking_is_cut_off_in_http_2_too() {
    let seams = Seams::simulated(1);
    let header_timeout = HumanDuration::from_secs(5);
    let (node, _gateway) = node_and_gateway(&seams, Config { header_timeout, ..Config::default() }).await;
    let asks = frame(HEADERS, END_STREAM | END_HEADERS, 1, &get());
    // A block of headers that goes on and on, a little every second.
    let begins = [asks.clone(), frame(HEADERS, END_STREAM, 3, &get())].concat();
    let trickle = frame(CONTINUATION, 0, 3, b"\x00\x01x\x01y");
    for (first, more, told_expected) in [(&b""[..], &b""[..], false), (&asks, b"", true), (&begins, &trickle, true)] {
        let mut stream = greet(&seams).await;
        stream.write_all(first).await.unwrap();
        let (lasted, told) = stay(&seams, stream, more).await;
        assert!((Duration::from_secs(5)..Duration::from_secs(35)).contains(&lasted), "{lasted:?}");
        assert_eq!(told, told_expected);
    }
    assert_eq!((node.asked(), connections(&seams).await), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn who_asks_over_http_2_and_takes_no_answer_is_cut_off() {
    let seams = Seams::simulated(1);
    let (node, _gateway) = node_and_gateway(&seams, Config::default()).await;
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    // A window of nothing for every stream: SETTINGS_INITIAL_WINDOW_SIZE is 4.
    stream.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get())).await.unwrap();
    let (lasted, _) = stay(&seams, stream, b"").await;
    assert!((Duration::from_secs(25)..Duration::from_secs(65)).contains(&lasted), "{lasted:?}");
    assert_eq!((node.asked(), connections(&seams).await), (1, 0));
}
