//! The greeting that begins every connection, as laid out in the room's header: who speaks, and whether the two may talk.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Class, Identity, PROTOCOL_VERSION};
use crate::seam::network::Stream;

const MAGIC: [u8; 4] = *b"BRTH";
const PREFIX_BYTES: usize = 9;
const BODY_BYTES_MAX: usize = 4096;
const WELCOME: u8 = 0;

/// Body of a welcome.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    identity: Identity,
    class: Class,
    /// The longest frame that the speaker reads.
    frame_bytes_max: u32,
}

/// What a side learns of the other.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Without its credential.
    pub(super) identity: Arc<Identity>,
    pub(super) class: Class,
    pub(super) frame_bytes_max: usize,
}

/// Why two sides may not talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalCode {
    /// The protocol versions differ.
    Version = 1,
    /// Both know their cluster, and it is not the same.
    Cluster = 2,
    /// The credential is missing or wrong.
    Credential = 3,
    /// The server has as many connections as it allows.
    TooManyConnections = 4,
    /// The greeting made no sense.
    Greeting = 5,
    /// A reason that this version does not know.
    Other = 255,
}

/// One side's refusal to talk to the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {line}", if *by_peer { "the peer refused" } else { "refused the peer" })]
pub struct Refusal {
    pub code: RefusalCode,
    pub line: String,
    /// True when the peer refused us, false when we refused it.
    pub by_peer: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection broke during the handshake: {0}")]
    Stream(#[from] io::Error),
    #[error("the other side does not speak this protocol")]
    Magic,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The client's side: greets, then judges the answer.
pub(super) async fn client(
    stream: &mut Stream,
    ours: &Identity,
    class: Class,
    frame_bytes_max: usize,
) -> Result<Peer, Error> {
    write(stream, WELCOME, &body(ours, class, frame_bytes_max)?).await?;
    let peer = read(stream).await?;
    judge(ours, peer).map_err(Error::Refused)
}

/// The server's side: judges the greeting, then answers it with a welcome or with a refusal.
pub(super) async fn server(stream: &mut Stream, ours: &Identity, frame_bytes_max: usize) -> Result<Peer, Error> {
    let judged = match read(stream).await {
        Ok(greeting) => judge(ours, greeting),
        Err(Error::Refused(refusal)) if !refusal.by_peer => Err(refusal),
        Err(error) => return Err(error),
    };
    match judged {
        Ok(peer) => {
            write(stream, WELCOME, &body(ours, peer.class, frame_bytes_max)?).await?;
            Ok(peer)
        }
        Err(refusal) => {
            refuse(stream, &refusal).await?;
            Err(refusal.into())
        }
    }
}

/// Sends a refusal instead of a welcome and ends the stream.
pub(super) async fn refuse(stream: &mut Stream, refusal: &Refusal) -> io::Result<()> {
    write(stream, refusal.code as u8, refusal.line.as_bytes()).await?;
    stream.shutdown().await
}

impl Refusal {
    pub(super) fn ours(code: RefusalCode, line: impl Into<String>) -> Self {
        Self { code, line: line.into(), by_peer: false }
    }
}

fn judge(ours: &Identity, theirs: Greeting) -> Result<Peer, Refusal> {
    let Greeting { mut identity, class, frame_bytes_max } = theirs;
    if !credentials_agree(ours.credential.as_deref(), identity.credential.as_deref()) {
        let line = if identity.credential.is_some() { "the credential is wrong" } else { "a credential is required" };
        return Err(Refusal::ours(RefusalCode::Credential, line));
    }
    if let (Some(our_cluster), Some(their_cluster)) = (ours.cluster, identity.cluster)
        && our_cluster != their_cluster
    {
        let line = format!("this is cluster {our_cluster}, and the peer belongs to {their_cluster}");
        return Err(Refusal::ours(RefusalCode::Cluster, line));
    }
    identity.credential = None;
    Ok(Peer { identity: Arc::new(identity), class, frame_bytes_max: frame_bytes_max as usize })
}

/// Compares hashes, whose comparison takes the same time wherever the first difference lies, and hides the length too.
fn credentials_agree(ours: Option<&str>, theirs: Option<&str>) -> bool {
    let Some(ours) = ours else { return true };
    theirs.is_some_and(|theirs| blake3::hash(ours.as_bytes()) == blake3::hash(theirs.as_bytes()))
}

fn body(identity: &Identity, class: Class, frame_bytes_max: usize) -> Result<bytes::Bytes, Refusal> {
    let frame_bytes_max = u32::try_from(frame_bytes_max).unwrap_or(u32::MAX);
    super::encode(&Greeting { identity: identity.clone(), class, frame_bytes_max })
        .ok()
        .filter(|body| body.len() <= BODY_BYTES_MAX)
        .ok_or_else(|| Refusal::ours(RefusalCode::Greeting, "our own identity is too long to send"))
}

async fn write(stream: &mut Stream, status: u8, body: &[u8]) -> io::Result<()> {
    let body = &body[..body.len().min(BODY_BYTES_MAX)];
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + body.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u16_le(PROTOCOL_VERSION);
    bytes.put_u8(status);
    bytes.put_u16_le(body.len() as u16);
    bytes.put_slice(body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn read(stream: &mut Stream) -> Result<Greeting, Error> {
    let mut prefix = [0; PREFIX_BYTES];
    // What speaks another protocol may say less than a prefix and wait.
    stream.read_exact(&mut prefix[..MAGIC.len()]).await?;
    if prefix[..MAGIC.len()] != MAGIC {
        return Err(Error::Magic);
    }
    stream.read_exact(&mut prefix[MAGIC.len()..]).await?;
    let version = u16::from_le_bytes([prefix[4], prefix[5]]);
    let status = prefix[6];
    let body_bytes = usize::from(u16::from_le_bytes([prefix[7], prefix[8]]));
    if body_bytes > BODY_BYTES_MAX {
        return Err(Refusal::ours(RefusalCode::Greeting, "the greeting is too long").into());
    }
    let mut body = vec![0; body_bytes];
    stream.read_exact(&mut body).await?;
    if status != WELCOME {
        return Err(Refusal { code: code(status), line: printable(&body), by_peer: true }.into());
    }
    if version != PROTOCOL_VERSION {
        let line = format!("this side speaks protocol version {PROTOCOL_VERSION}, and the peer {version}");
        return Err(Refusal::ours(RefusalCode::Version, line).into());
    }
    super::decode(&body).map_err(|_| Refusal::ours(RefusalCode::Greeting, "the greeting is not an identity").into())
}

fn code(status: u8) -> RefusalCode {
    match status {
        1 => RefusalCode::Version,
        2 => RefusalCode::Cluster,
        3 => RefusalCode::Credential,
        4 => RefusalCode::TooManyConnections,
        5 => RefusalCode::Greeting,
        _ => RefusalCode::Other,
    }
}

/// A peer's line goes to our logs, so it must not be able to write its own lines there.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{ClusterId, NodeId};
    use crate::peer::Role;

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

    async fn greet(client_is: Identity, server_is: Identity) -> (Result<Peer, Error>, Result<Peer, Error>) {
        let (mut a, mut b) = streams();
        tokio::join!(client(&mut a, &client_is, Class::Bulk, 1000), server(&mut b, &server_is, 2000))
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
        ] {
            let (client, server) = greet(ours, theirs).await;
            assert_eq!(refusal(client), (code, true));
            assert_eq!(refusal(server), (code, false));
        }
    }

    #[tokio::test]
    async fn a_client_with_a_credential_does_not_talk_to_a_server_without() {
        let (client, _) = greet(identity(None, Some("s")), identity(None, None)).await;
        assert_eq!(refusal(client), (RefusalCode::Credential, false));
    }

    #[tokio::test]
    async fn another_protocol_version_is_told_so() {
        let (mut a, mut b) = streams();
        a.write_all(b"BRTH\x09\x00\x00\x03\x00???").await.unwrap();
        assert_eq!(refusal(server(&mut b, &identity(None, None), 100).await), (RefusalCode::Version, false));
        let mut answer = Vec::new();
        a.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer[..7], *b"BRTH\x03\x00\x01");
        assert_eq!(&answer[9..], b"this side speaks protocol version 3, and the peer 9");
    }

    /// The wire of protocol version 3: a change here needs a new version.
    #[tokio::test]
    async fn a_greeting_of_version_3_has_these_bytes() {
        let (mut a, mut b) = streams();
        let ours = identity(Some(1), Some("s"));
        let greeting = client(&mut a, &ours, Class::Data, 300);
        let read = async {
            let mut bytes = [0; 25];
            b.read_exact(&mut bytes).await.unwrap();
            drop(b);
            bytes
        };
        let (_, bytes) = tokio::join!(greeting, read);
        assert_eq!(&bytes, b"BRTH\x03\0\0\x10\0\x01\x01\x07\x01\x01\x04test\x01\x01s\x01\xac\x02");
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
                    a.write_all(b"BRTH\x03\0\0").await.unwrap();
                }
                a.write_all(&bytes).await.unwrap();
                a.shutdown().await.unwrap();
                let _ = server(&mut b, &identity(None, None), 100).await;
            });
        }
    }
}
