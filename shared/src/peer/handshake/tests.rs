//! Greetings between two sides, and between one side and whatever else may speak.

use proptest::prelude::*;

use super::*;
use crate::ids::{ClusterId, NodeId};
use crate::peer::Role;
use crate::seam::random::SeededRandom;

fn identity(cluster: Option<u128>, credential: Option<&str>) -> Identity {
    Identity {
        role: Role::Node,
        node: Some(NodeId(7)),
        cluster: cluster.map(ClusterId),
        software: "test".to_owned(),
        credential: credential.map(str::to_owned),
    }
}

fn streams() -> (Stream, Stream) {
    let (a, b) = tokio::io::duplex(64 * 1024);
    (Box::new(a), Box::new(b))
}

fn random() -> SeededRandom {
    SeededRandom::new(7)
}

async fn greet(client_is: Identity, server_is: Identity) -> (Result<Peer, Error>, Result<Peer, Error>) {
    let (mut a, mut b) = streams();
    let (one, other) = (random(), SeededRandom::new(8));
    tokio::join!(client(&mut a, &client_is, Class::Bulk, 1000, &one), server(&mut b, &server_is, 2000, &other))
}

fn refusal(result: Result<Peer, Error>) -> (RefusalCode, bool) {
    match result {
        Err(Error::Refused(refusal)) => (refusal.code, refusal.by_peer),
        other => panic!("not a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is_but_not_its_credential() {
    let (client, server) = greet(identity(None, Some("s")), identity(Some(1), Some("s"))).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(*client.identity, identity(Some(1), None));
    assert_eq!(*server.identity, identity(None, None));
    assert_eq!((server.class, client.frame_bytes_max, server.frame_bytes_max), (Class::Bulk, 2000, 1000));
}

#[tokio::test]
async fn both_sides_name_the_same_refusal() {
    for (ours, theirs, code) in [
        (identity(Some(1), None), identity(Some(2), None), RefusalCode::Cluster),
        (identity(None, Some("wrong")), identity(None, Some("right")), RefusalCode::Credential),
        (identity(None, None), identity(None, Some("right")), RefusalCode::Credential),
        (identity(None, Some("s")), identity(None, None), RefusalCode::Credential),
    ] {
        let (client, server) = greet(ours, theirs).await;
        assert_eq!(refusal(client), (code, true));
        assert_eq!(refusal(server), (code, false));
    }
}

/// What both sides say when they have a secret, the client's bytes first.
async fn overheard(secret: &str) -> (Vec<u8>, Vec<u8>) {
    let ((mut a, mut to_a), (mut b, mut to_b)) = (streams(), streams());
    let (one, other) = (random(), SeededRandom::new(8));
    let (ours, theirs) = (identity(None, Some(secret)), identity(None, Some(secret)));
    let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
    let pass_on = async {
        let (mut buffer, mut other) = ([0; 4096], [0; 4096]);
        loop {
            tokio::select! {
                biased;
                read = to_a.read(&mut buffer) => match read.unwrap() {
                    0 => return,
                    n => {
                        from_a.extend_from_slice(&buffer[..n]);
                        to_b.write_all(&buffer[..n]).await.unwrap();
                    }
                },
                read = to_b.read(&mut other) => {
                    let n = read.unwrap();
                    from_b.extend_from_slice(&other[..n]);
                    to_a.write_all(&other[..n]).await.unwrap();
                }
            }
        }
    };
    let talk = async {
        let greeted = tokio::join!(client(&mut a, &ours, Class::Data, 300, &one), server(&mut b, &theirs, 300, &other));
        assert!(greeted.0.is_ok() && greeted.1.is_ok());
        drop(a);
    };
    tokio::join!(pass_on, talk);
    (from_a, from_b)
}

#[tokio::test]
async fn a_secret_is_never_sent() {
    let secret = "correct horse battery staple";
    let (from_client, from_server) = overheard(secret).await;
    for bytes in [&from_client, &from_server] {
        // A prefix, what is said without a secret, a number, and a prefix with a proof.
        assert_eq!(bytes.len(), 9 + 13 + 32 + 9 + 32);
        assert!(!bytes.windows(8).any(|part| secret.as_bytes().windows(8).any(|of_secret| of_secret == part)));
    }
}

#[tokio::test]
async fn what_was_overheard_proves_nothing_on_another_connection() {
    let (from_client, from_server) = overheard("s").await;
    let (mut a, mut b) = streams();
    a.write_all(&from_client).await.unwrap();
    // This server makes up another number than the one that was overheard.
    let greeted = server(&mut b, &identity(None, Some("s")), 300, &SeededRandom::new(9)).await;
    assert_eq!(refusal(greeted), (RefusalCode::Credential, false));
    let (mut a, mut b) = streams();
    b.write_all(&from_server).await.unwrap();
    let greeted = client(&mut a, &identity(None, Some("s")), Class::Data, 300, &SeededRandom::new(9)).await;
    assert_eq!(refusal(greeted), (RefusalCode::Credential, false));
}

#[tokio::test]
async fn a_greeting_that_was_changed_on_the_way_is_refused() {
    let (mut a, mut to_a) = streams();
    let (mut to_b, mut b) = streams();
    let (one, other) = (random(), SeededRandom::new(8));
    let ours = identity(None, Some("s"));
    let change = async {
        let mut greeting = [0; 54];
        to_a.read_exact(&mut greeting).await.unwrap();
        // The node that speaks.
        assert_eq!(std::mem::replace(&mut greeting[11], 8), 7);
        to_b.write_all(&greeting).await.unwrap();
        tokio::io::copy_bidirectional(&mut to_a, &mut to_b).await
    };
    let talk = async {
        let (client, server) =
            tokio::join!(client(&mut a, &ours, Class::Data, 300, &one), server(&mut b, &ours, 300, &other));
        drop((a, b));
        (refusal(client), refusal(server))
    };
    let (refusals, _) = tokio::join!(talk, change);
    assert_eq!(refusals, ((RefusalCode::Credential, true), (RefusalCode::Credential, false)));
}

#[tokio::test]
async fn who_speaks_tls_is_told_apart() {
    let (mut a, mut b) = streams();
    a.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
    let greeted = server(&mut b, &identity(None, None), 100, &random()).await;
    assert!(matches!(greeted, Err(Error::Tls)));
}

#[tokio::test]
async fn another_protocol_version_is_told_so() {
    let (mut a, mut b) = streams();
    a.write_all(b"BRTH\x09\x00\x00\x03\x00???").await.unwrap();
    assert_eq!(refusal(server(&mut b, &identity(None, None), 100, &random()).await), (RefusalCode::Version, false));
    let mut answer = Vec::new();
    a.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer[..7], *b"BRTH\x04\x00\x01");
    assert_eq!(&answer[9..], b"this side speaks protocol version 4, and the peer 9");
}

/// The wire of protocol version 4: a change here needs a new version.
#[tokio::test]
async fn a_greeting_of_version_4_has_these_bytes() {
    for (credential, expected) in [
        (None, &b"BRTH\x04\0\0\x0e\0\x01\x01\x07\x01\x01\x04test\x01\xac\x02\0"[..]),
        (Some("s"), b"BRTH\x04\0\0\x2e\0\x01\x01\x07\x01\x01\x04test\x01\xac\x02\x01"),
    ] {
        let (mut a, mut b) = streams();
        let ours = identity(Some(1), credential);
        let random = random();
        let greeting = client(&mut a, &ours, Class::Data, 300, &random);
        let read = async {
            let mut bytes = vec![0; 9 + usize::from(expected[7])];
            b.read_exact(&mut bytes).await.unwrap();
            drop(b);
            bytes
        };
        let (_, bytes) = tokio::join!(greeting, read);
        assert_eq!(&bytes[..expected.len()], expected);
        let nonce = if credential.is_some() { 32 } else { 0 };
        assert_eq!(bytes.len(), expected.len() + nonce);
    }
}

#[test]
fn a_line_of_the_peer_cannot_write_lines_of_its_own_into_a_log() {
    assert_eq!(printable(b"a\nb\x1b[0m"), "a b [0m");
}

proptest! {
    #[test]
    fn hostile_greetings_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..100), magic in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut a, mut b) = streams();
            if magic {
                a.write_all(b"BRTH\x04\0\0").await.unwrap();
            }
            a.write_all(&bytes).await.unwrap();
            a.shutdown().await.unwrap();
            let _ = server(&mut b, &identity(None, Some("s")), 100, &random()).await;
        });
    }
}
