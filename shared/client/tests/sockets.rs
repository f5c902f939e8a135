//! The client over real sockets, with servers that say and break what a script wants.
#![expect(clippy::disallowed_methods, reason = "the sockets and tasks are the test's own")]

use std::time::Duration;

use berth_client::{Client, Error};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Far beyond what anything here takes, so that what hangs fails its test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads one request: its head in small letters.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return head.to_owned();
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request ends early: {text}");
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), head: &str, body: &str) {
    let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or("")
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

const DONE: &str = r#"{"kind":"counter","id":"x","version":1,"reply":null,"state":{"value":1}}"#;

#[tokio::test]
async fn a_command_whose_gateway_dies_is_done_by_the_next_one_under_the_same_key() {
    let (dying, first) = listen().await;
    let (living, second) = listen().await;
    let (heads, mut received) = mpsc::unbounded_channel();
    let dead = heads.clone();
    tokio::spawn(async move {
        let (mut stream, _) = dying.accept().await.unwrap();
        dead.send(request(&mut stream).await).unwrap();
    });
    tokio::spawn(async move {
        // Two requests on one connection.
        let (mut stream, _) = living.accept().await.unwrap();
        for _ in 0..2 {
            heads.send(request(&mut stream).await).unwrap();
            say(&mut stream, "200 OK\r\nberth-session: t", DONE).await;
        }
    });
    let client = Client::builder(first).address(second).deadline(PATIENCE).build().unwrap();
    let counter = client.entity("counter", "x");
    assert_eq!(counter.execute("add", json!({"by": 1})).await.unwrap().version, 1);
    assert_eq!(counter.get().await.unwrap().version, 1);
    let [lost, done, read] = [received.recv().await, received.recv().await, received.recv().await].map(Option::unwrap);
    assert!(lost.starts_with("post /v1/entities/counter/x/add http/1.1\r\n"), "{lost}");
    assert_eq!(header(&lost, "idempotency-key").len(), 32);
    assert_eq!(header(&lost, "idempotency-key"), header(&done, "idempotency-key"));
    assert_eq!((header(&done, "berth-session"), header(&read, "berth-session")), ("", "t"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    let (listener, url) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"kind\"").await.unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        say(&mut stream, "200 OK\r\nidempotency-replayed: true", DONE).await;
    });
    let client = Client::builder(url).deadline(PATIENCE).build().unwrap();
    assert!(client.entity("counter", "x").execute("add", ()).await.unwrap().replayed);
}

#[tokio::test]
async fn a_live_history_resumes_on_a_new_connection() {
    let (listener, url) = listen().await;
    let (heads, mut received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for version in 1..=3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            heads.send(request(&mut stream).await).unwrap();
            let event = format!("id: {version}\ndata: {{\"type\":\"added\",\"time\":\"t\",\"data\":{version}}}\n\n");
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n",
                event.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let client = Client::builder(url).deadline(PATIENCE).build().unwrap();
    let mut watch = client.entity("counter", "x").watch(0);
    for version in 1..=3_u64 {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        assert_eq!((event.version, &event.data), (version, &json!(version)));
    }
    let resumed = [received.recv().await, received.recv().await, received.recv().await].map(Option::unwrap);
    assert_eq!(resumed.each_ref().map(|head| header(head, "last-event-id")), ["", "1", "2"]);
}

/// A certificate for `localhost` that nobody else has signed, and its key.
#[cfg(feature = "tls")]
fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

#[cfg(feature = "tls")]
fn pem(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    use base64::Engine;

    let text = base64::engine::general_purpose::STANDARD.encode(certificate.cert.der());
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn https_gateways_are_trusted_by_their_certificates_alone() {
    use std::sync::Arc;

    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::{ServerConfig, crypto};

    let own = certificate();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (listener, url) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not trust the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            request(&mut stream).await;
            say(&mut stream, "200 OK", DONE).await;
        }
    });
    let url = url.replace("http://127.0.0.1", "https://localhost");
    let client = |pem: String| Client::builder(&url).root_certificates(pem).attempts_max(2).build().unwrap();
    let trusting = client(pem(&own)).entity("counter", "x").get().await;
    assert_eq!(trusting.unwrap().version, 1);
    let wary = client(pem(&certificate())).entity("counter", "x").execute("add", ()).await;
    assert!(matches!(&wary, Err(Error::Unavailable { last }) if last.contains("certificate")), "{wary:?}");
}
