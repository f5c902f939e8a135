//! The real resolver with a small DNS server on this machine, and the real network with names.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::seam::Network;
use crate::seam::network::TcpNetwork;

const TYPE_A: u16 = 1;
const TTL_SECONDS: u32 = 7;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
/// More answers than this do not fit a datagram without extensions.
const DATAGRAM_ANSWERS_MAX: usize = 20;

/// Knows `few.berth-test.` with three addresses, `many.berth-test.` with hundreds, which it tells over TCP only, and
/// `local.berth-test.`, which is this machine. Answers until the test's runtime ends.
#[expect(clippy::disallowed_methods, reason = "the server is the test's own")]
async fn server() -> SocketAddr {
    // A port that is free for datagrams may be one that a connection has.
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        match TcpListener::bind(udp.local_addr().unwrap()).await {
            Ok(tcp) => break (udp, tcp),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
        }
    };
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 1500];
        loop {
            let (length, from) = udp.recv_from(&mut question).await.unwrap();
            udp.send_to(&answer(&question[..length], DATAGRAM_ANSWERS_MAX), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.unwrap();
                let answer = answer(&question, usize::MAX);
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        }
    });
    address
}

/// RFC 1035, section 4: a header of 12 bytes, the question as it came, and the records.
fn answer(question: &[u8], answers_max: usize) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while question[at] > 0 {
        let length = usize::from(question[at]);
        name += &String::from_utf8_lossy(&question[at + 1..=at + length]).to_lowercase();
        name.push('.');
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let known: Option<Vec<[u8; 4]>> = match name.as_str() {
        "few.berth-test." => Some(vec![[10, 0, 0, 3], [10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 1]]),
        "many.berth-test." => Some((0..300u16).map(|n| [10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]]).collect()),
        "local.berth-test." => Some(vec![[127, 0, 0, 1]]),
        _ => None,
    };
    let code = match name.as_str() {
        "broken.berth-test." => SERVER_FAILURE,
        _ if known.is_none() => NO_SUCH_NAME,
        _ => 0,
    };
    let addresses = known.filter(|_| kind == TYPE_A).unwrap_or_default();
    let is_truncated = addresses.len() > answers_max;
    let told = if is_truncated { 0 } else { addresses.len() };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81 | u8::from(is_truncated) << 1, 0x80 | code, 0, 1]);
    answer.extend((told as u16).to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(&question[12..at + 5]);
    for address in &addresses[..told] {
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(TTL_SECONDS.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address);
    }
    answer
}

#[tokio::test]
async fn all_addresses_of_a_name_come_in_order_with_the_time_they_hold() {
    let dns = Dns::new(vec![server().await]);
    let found = dns.resolve("few.berth-test.").await.unwrap();
    assert_eq!(found.addresses, [1, 2, 3].map(|n| IpAddr::from([10, 0, 0, n])));
    let seconds = Duration::from_secs(u64::from(TTL_SECONDS));
    assert!(found.valid_for <= seconds && found.valid_for > seconds / 2, "{found:?}");
    assert_eq!(dns.resolve("localhost").await.unwrap().addresses[0], IpAddr::from(Ipv4Addr::LOCALHOST));
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_comes_over_tcp() {
    let dns = Dns::new(vec![server().await]);
    assert_eq!(dns.resolve("many.berth-test.").await.unwrap().addresses.len(), 300);
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_an_error_in_plain_words() {
    let dns = Dns::new(vec![server().await]);
    let error = dns.resolve("nowhere.berth-test.").await.unwrap_err();
    assert_eq!(error.to_string(), "DNS knows no address of nowhere.berth-test.");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let error = dns.resolve("broken.berth-test.").await.unwrap_err().to_string();
    assert!(error.starts_with("DNS was asked for broken.berth-test.: "), "{error}");
}

#[tokio::test]
async fn the_network_connects_and_listens_by_name() {
    let network = TcpNetwork::new(Dns::new(vec![server().await]));
    let mut listener = network.listen("local.berth-test.:0").await.unwrap();
    let address = listener.local_address().unwrap();
    let port = address.strip_prefix("127.0.0.1:").unwrap();
    let _connected = network.connect(&format!("local.berth-test.:{port}")).await.unwrap();
    listener.accept().await.unwrap();
    let error = network.connect("nowhere.berth-test.:7400").await.err().unwrap();
    assert_eq!(error.to_string(), "DNS knows no address of nowhere.berth-test.");
    assert_eq!(network.connect("7400").await.err().unwrap().kind(), io::ErrorKind::InvalidInput);
}
