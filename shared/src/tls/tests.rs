//! Certificates made up on the spot, and who is let in with them.

use std::path::PathBuf;

use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::seam::Network;
use crate::seam::network::Stream;

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// An authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate of an authority, as files.
struct Files(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // Two authorities of one name would be taken for one that has changed its key.
        params.distinguished_name.push(DnType::CommonName, format!("{:?}", key.public_key_raw()));
        let certificate = pem("CERTIFICATE", params.self_signed(&key).unwrap().der());
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Certificate and key of somebody with this name.
    fn issue(&self, name: &str, until_year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (pem("CERTIFICATE", certificate.der()), pem("PRIVATE KEY", &key.serialize_der()))
    }

    fn files(&self, name: &str) -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write(&self.issue(name, 4000), &self.certificate);
        files
    }
}

impl Files {
    #[expect(clippy::disallowed_methods, reason = "real files of the test")]
    fn write(&self, (certificate, key): &(String, String), authority: &str) {
        for (name, text) in [("crt", certificate.as_str()), ("key", key), ("ca", authority)] {
            std::fs::write(self.path(name), text).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn mutual(&self, names: &[&str]) -> MutualConfig {
        MutualConfig {
            certificate_file: self.path("crt"),
            key_file: self.path("key"),
            ca_file: self.path("ca"),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

/// Sends a byte each way between two pods; the errors of who connects and of who listens.
async fn talk(seams: &Seams, client: &dyn Network, server: &dyn Network) -> (Option<String>, Option<String>) {
    let mut listener = server.listen("server:0").await.unwrap();
    let address = listener.local_address().unwrap();
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    let asking = async {
        let mut stream = client.connect(&address).await?;
        stream.write_all(&[7]).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await.map(drop)
    };
    let both = async { tokio::join!(asking, serving) };
    let (asked, served) = seams.spawner.timeout(Duration::from_secs(5), both).await.expect("nobody waits");
    let line = |result: io::Result<()>| result.err().map(|error| error.to_string());
    (line(asked), line(served))
}

async fn mutual(files: &Files, names: &[&str], seams: &Seams) -> TlsNetwork {
    TlsNetwork::start(files.mutual(names), seams).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn pods_of_one_authority_talk_and_others_are_refused() {
    let (seams, ours, theirs) = (Seams::simulated(1), Authority::new(), Authority::new());
    let (node, gateway, stranger) = (ours.files("node"), ours.files("gateway"), theirs.files("node"));
    let [node, gateway] = [mutual(&node, &[], &seams).await, mutual(&gateway, &[], &seams).await];
    assert_eq!(talk(&seams, &gateway, &node).await, (None, None));
    let stranger = mutual(&stranger, &[], &seams).await;
    let (client, server) = talk(&seams, &stranger, &node).await;
    assert!(client.is_some_and(|line| line.contains("UnknownIssuer")), "who connects does not know who listens");
    assert!(server.is_some_and(|line| line.starts_with("TLS: ")));
    let plain = seams.network.clone();
    // Who speaks no TLS takes whatever is said in it for an answer.
    let (_, server) = talk(&seams, &*plain, &node).await;
    assert!(server.is_some_and(|line| line.starts_with("TLS: ")));
}

#[tokio::test(start_paused = true)]
async fn who_listens_refuses_the_certificate_of_another_authority() {
    let (seams, ours, theirs) = (Seams::simulated(1), Authority::new(), Authority::new());
    let (node, stranger) = (ours.files("node"), theirs.files("node"));
    // It trusts this authority, and has a certificate of another one.
    stranger.write(&theirs.issue("node", 4000), &ours.certificate);
    let (client, server) = talk(&seams, &mutual(&stranger, &[], &seams).await, &mutual(&node, &[], &seams).await).await;
    assert!(server.is_some_and(|line| line.contains("UnknownIssuer")));
    assert!(client.is_some_and(|line| line.contains("UnknownCA")));
}

#[tokio::test(start_paused = true)]
async fn names_narrow_down_whose_certificates_are_pods() {
    let (seams, ours) = (Seams::simulated(1), Authority::new());
    let (node, web) = (ours.files("berth-node"), ours.files("web-server"));
    let names = ["berth-node", "berth-gateway"];
    let node = mutual(&node, &names, &seams).await;
    assert_eq!(talk(&seams, &node, &node).await, (None, None));
    let web = mutual(&web, &[], &seams).await;
    let (_, server) = talk(&seams, &web, &node).await;
    assert!(server.is_some_and(|line| line.contains("not valid for name") || line.contains("NotValidForName")));
    let (client, _) = talk(&seams, &node, &web).await;
    assert!(client.is_some_and(|line| line.contains("not valid for name") || line.contains("NotValidForName")));
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_refused_by_the_seams_clock() {
    let (seams, ours) = (Seams::simulated(1), Authority::new());
    let (node, old) = (ours.files("node"), ours.files("node"));
    old.write(&ours.issue("node", 2020), &ours.certificate);
    let (_, server) = talk(&seams, &mutual(&old, &[], &seams).await, &mutual(&node, &[], &seams).await).await;
    assert!(server.is_some_and(|line| line.to_lowercase().contains("expired")));
}

#[tokio::test(start_paused = true)]
async fn new_connections_see_new_certificates() {
    let (seams, old, new) = (Seams::simulated(1), Authority::new(), Authority::new());
    let (node, gateway) = (old.files("node"), old.files("gateway"));
    let (first, second) = (mutual(&node, &[], &seams).await, mutual(&gateway, &[], &seams).await);
    // First both know both authorities, then they have certificates of the new one, then the old one is forgotten.
    let both = format!("{}{}", old.certificate, new.certificate);
    node.write(&new.issue("node", 4000), &both);
    seams.spawner.sleep(watched::LOOK_PAUSE * 2).await;
    assert_eq!(talk(&seams, &first, &first).await, (None, None));
    assert!(talk(&seams, &second, &first).await.0.is_some(), "the other one does not know it yet");
    gateway.write(&new.issue("gateway", 4000), &new.certificate);
    seams.spawner.sleep(watched::LOOK_PAUSE * 2).await;
    assert_eq!(talk(&seams, &second, &first).await, (None, None));
    // Spoilt files leave what was there.
    gateway.write(&("x".to_owned(), "y".to_owned()), "z");
    seams.spawner.sleep(watched::LOOK_PAUSE * 2).await;
    assert_eq!(talk(&seams, &second, &first).await, (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_does_not_fit_is_refused_at_the_start() {
    let (seams, ours) = (Seams::simulated(1), Authority::new());
    let files = ours.files("node");
    let ((certificate, _), (_, key)) = (ours.issue("node", 4000), ours.issue("node", 4000));
    for (certificate, key, authority) in [
        (certificate.clone(), key.clone(), ours.certificate.clone()),
        (String::new(), key.clone(), ours.certificate.clone()),
        (certificate.clone(), String::new(), ours.certificate.clone()),
        (certificate, key, String::new()),
    ] {
        files.write(&(certificate, key), &authority);
        assert!(TlsNetwork::start(files.mutual(&[]), &seams).await.is_err());
    }
    assert!(TlsNetwork::start(ours.files("node").mutual(&["not a name"]), &seams).await.is_err());
}

/// A client of the public port that offers these protocols; which one was chosen.
async fn greet(tls: &PortTls, authority: &str, offered: &[&[u8]], seams: &Seams) -> io::Result<Option<Vec<u8>>> {
    let trust = Trust::of(identity::authorities(authority.as_bytes()).unwrap(), seams).unwrap();
    let mut config = ClientConfig::clone(&trust.client());
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("public").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let (asked, greeted) = tokio::join!(connector.connect(name, ours), tls.greet(Box::new(theirs) as Stream));
    greeted?;
    Ok(asked?.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

#[tokio::test(start_paused = true)]
async fn a_port_offers_http_2_and_http_1_and_takes_up_new_certificates() {
    let (seams, old, new) = (Seams::simulated(1), Authority::new(), Authority::new());
    let files = old.files("public");
    let config = PortConfig { certificate_file: Some(files.path("crt")), key_file: Some(files.path("key")) };
    let tls = PortTls::start(&config, &seams).await.unwrap().unwrap();
    for (offered, chosen) in
        [(&[&b"http/1.1"[..], b"h2"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        assert_eq!(greet(&tls, &old.certificate, offered, &seams).await.unwrap().as_deref(), chosen);
    }
    assert!(greet(&tls, &old.certificate, &[b"spdy/1"], &seams).await.is_err());
    files.write(&new.issue("public", 4000), "");
    seams.spawner.sleep(watched::LOOK_PAUSE * 2).await;
    assert!(greet(&tls, &old.certificate, &[], &seams).await.is_err());
    assert!(greet(&tls, &new.certificate, &[], &seams).await.is_ok());
    assert!(PortTls::start(&PortConfig::default(), &seams).await.unwrap().is_none());
}

#[test]
fn certificates_are_pem() {
    let authority = Authority::new();
    assert!(rustls::pki_types::CertificateDer::from_pem_slice(authority.certificate.as_bytes()).is_ok());
    assert!(identity::authorities(authority.certificate.as_bytes()).is_ok_and(|roots| roots.len() == 1));
    assert!(identity::authorities(b"").is_err());
}
