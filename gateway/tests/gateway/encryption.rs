//! TLS on the public port, and both ways between gateway and node.

use std::sync::Arc;
use std::time::Duration;

use berth_gateway::Config;
use berth_shared::config::HumanDuration;
use berth_shared::peer::security;
use berth_shared::seam::Seams;
use berth_shared::tls::PortConfig;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::certificates::{Authority, Files};
use crate::twin::{CLUSTER, SHARDS, Twin, ask, finish, gateway, node_and_gateway, owners, request};
use crate::{ADD, ALICE, PUBLIC};

pub(crate) fn connector(authority: &Authority, protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.certificate.clone())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

pub(crate) fn port(files: &Files) -> PortConfig {
    PortConfig { certificate_file: Some(files.path("crt")), key_file: Some(files.path("key")) }
}

#[tokio::test(start_paused = true)]
async fn the_public_port_serves_both_versions_of_http_over_tls() {
    let (seams, authority) = (Seams::simulated(1), Authority::new());
    let files = authority.files("gateway");
    let (node, _gateway) = node_and_gateway(&seams, Config { tls: port(&files), ..Config::default() }).await;
    let connect = async |protocol: &[u8]| {
        let stream = seams.network.connect(PUBLIC).await.unwrap();
        let name = ServerName::try_from("gateway").unwrap();
        TokioIo::new(connector(&authority, protocol).connect(name, stream).await.unwrap())
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(connect(b"http/1.1").await).await.unwrap();
    seams.spawner.spawn(connection);
    let most = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
    assert_eq!(finish(sender.send_request(request("POST", ADD, &[], &most)).await.unwrap()).await.status, 200);
    let stream = connect(b"h2").await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    seams.spawner.spawn(connection);
    let asked = sender.send_request(request("GET", &format!("https://gateway{ALICE}"), &[], ""));
    assert_eq!(finish(asked.await.unwrap()).await.status, 200);
    assert_eq!(node.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_greet_in_tls_is_cut_off_and_holds_up_nobody() {
    let (seams, authority) = (Seams::simulated(1), Authority::new());
    let files = authority.files("gateway");
    let header_timeout = HumanDuration::from_secs(60);
    let config = Config { tls: port(&files), header_timeout, ..Config::default() };
    let (node, _gateway) = node_and_gateway(&seams, config).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(seams.network.connect(PUBLIC).await.unwrap());
    }
    let stream = seams.network.connect(PUBLIC).await.unwrap();
    let name = ServerName::try_from("gateway").unwrap();
    assert!(connector(&authority, b"http/1.1").connect(name, stream).await.is_ok());
    let started = seams.clock.now();
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    }
    assert!(seams.clock.now().since(started) < Duration::from_secs(11));
    // Plain HTTP gets no answer in HTTP.
    let mut stream = seams.network.connect(PUBLIC).await.unwrap();
    stream.write_all(format!("GET {ALICE} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(node.asked(), 0);
}

fn mutual(files: &Files) -> security::Config {
    security::Config {
        security: security::Mode::Mtls,
        certificate_file: Some(files.path("crt")),
        key_file: Some(files.path("key")),
        ca_file: Some(files.path("ca")),
        ..security::Config::default()
    }
}

#[tokio::test(start_paused = true)]
async fn gateway_and_node_talk_over_tls_if_one_authority_vouches_for_both() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    for (authority, status) in [(&ours, 200), (&theirs, 503)] {
        let seams = Seams::simulated(1);
        let (node_files, gateway_files) = (ours.files("node"), authority.files("gateway"));
        let (_, node_seams) = mutual(&node_files).start(&seams).await.unwrap();
        let node = Twin::start(&node_seams, "node-1:1", CLUSTER, SHARDS, owners("node-1:1", 1)).await;
        let config = Config { nodes: vec!["node-1:1".to_owned()], peer: mutual(&gateway_files), ..Config::default() };
        let gateway = gateway(&seams, config).await;
        let _ = seams.spawner.timeout(Duration::from_secs(5), gateway.ready()).await;
        assert_eq!(gateway.is_ready(), status == 200);
        assert_eq!(ask(&seams, "POST", PUBLIC, ADD, &[("prefer", "wait=1")], "{}").await.status, status);
        assert_eq!(node.gateways(), usize::from(status == 200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_tls_is_no_peer_of_a_node_with_it() {
    let (seams, authority) = (Seams::simulated(1), Authority::new());
    let files = authority.files("node");
    let (_, node_seams) = mutual(&files).start(&seams).await.unwrap();
    let node = Twin::start(&node_seams, "node-1:1", CLUSTER, SHARDS, owners("node-1:1", 1)).await;
    let gateway = gateway(&seams, Config { nodes: vec!["node-1:1".to_owned()], ..Config::default() }).await;
    seams.spawner.sleep(Duration::from_secs(5)).await;
    assert!(!gateway.is_ready() && node.gateways() == 0);
}
