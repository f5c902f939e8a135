//! The greeting that begins every connection, as laid out in the room's header: who speaks, and whether the two may talk.
//! Where there is a shared secret, each side proves to the other that it has it, and neither says it; see `proof`.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::proof::{NONCE_BYTES, Nonce, Proofs};
use super::{Class, Identity, PROTOCOL_VERSION};
use crate::ids::ClusterId;
use crate::seam::Random;
use crate::seam::network::Stream;

const MAGIC: [u8; 4] = *b"BRTH";
/// How TLS begins, whatever its version.
const TLS_HANDSHAKE: [u8; 2] = [22, 3];
const PREFIX_BYTES: usize = 9;
const BODY_BYTES_MAX: usize = 4096;
const WELCOME: u8 = 0;
/// What is said of credentials, on both sides.
const REQUIRED: &str = "a credential is required";
const WRONG: &str = "the credential is wrong";
const UNKNOWN: &str = "the peer asks for a credential, and this side has none";

/// Body of a welcome.
#[derive(Debug, Serialize, Deserialize)]
struct Greeting {
    identity: Identity,
    class: Class,
    /// The longest frame that the speaker reads.
    frame_bytes_max: u32,
    /// Made up for this connection. There if the speaker has a secret, and asks for a proof that the other has it too.
    nonce: Option<Nonce>,
}

/// A message of the handshake: what it says, and its bytes as they were sent.
struct Message {
    body: Vec<u8>,
    bytes: BytesMut,
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
    #[error("the other side speaks TLS, and this one does not")]
    Tls,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The client's side: greets, judges the answer, and where there is a secret, proves that it has it, and is shown the same.
pub(super) async fn client(
    stream: &mut Stream,
    ours: &Identity,
    class: Class,
    frame_bytes_max: usize,
    random: &dyn Random,
) -> Result<Peer, Error> {
    let nonce = ours.credential.is_some().then(|| make_nonce(random));
    let asked = write(stream, WELCOME, &body(ours, class, frame_bytes_max, nonce)?).await?;
    let answer = read(stream).await?;
    let greeting = greeting(&answer.body)?;
    if let Some(secret) = &ours.credential {
        if greeting.nonce.is_none() {
            return Err(Refusal::ours(RefusalCode::Credential, REQUIRED).into());
        }
        let proofs = Proofs::new(secret, &asked, &answer.bytes);
        write(stream, WELCOME, &proofs.of_client()).await?;
        if !proofs.is_of_server(&read(stream).await?.body) {
            return Err(Refusal::ours(RefusalCode::Credential, WRONG).into());
        }
    }
    judge(ours, greeting).map_err(Error::Refused)
}

/// The server's side: judges the greeting, then answers it with a welcome or with a refusal.
pub(super) async fn server(
    stream: &mut Stream,
    ours: &Identity,
    frame_bytes_max: usize,
    random: &dyn Random,
) -> Result<Peer, Error> {
    match serve(stream, ours, frame_bytes_max, random).await {
        Err(Error::Refused(refusal)) if !refusal.by_peer => {
            refuse(stream, &refusal).await?;
            Err(refusal.into())
        }
        greeted => greeted,
    }
}

async fn serve(
    stream: &mut Stream,
    ours: &Identity,
    frame_bytes_max: usize,
    random: &dyn Random,
) -> Result<Peer, Error> {
    let asked = read(stream).await?;
    let greeting = greeting(&asked.body)?;
    match (&ours.credential, greeting.nonce) {
        (Some(_), None) => return Err(Refusal::ours(RefusalCode::Credential, REQUIRED).into()),
        (None, Some(_)) => return Err(Refusal::ours(RefusalCode::Credential, UNKNOWN).into()),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let peer = judge(ours, greeting)?;
    let nonce = ours.credential.is_some().then(|| make_nonce(random));
    let answer = write(stream, WELCOME, &body(ours, peer.class, frame_bytes_max, nonce)?).await?;
    if let Some(secret) = &ours.credential {
        let proofs = Proofs::new(secret, &asked.bytes, &answer);
        if !proofs.is_of_client(&read(stream).await?.body) {
            return Err(Refusal::ours(RefusalCode::Credential, WRONG).into());
        }
        write(stream, WELCOME, &proofs.of_server()).await?;
    }
    Ok(peer)
}

fn make_nonce(random: &dyn Random) -> Nonce {
    let mut nonce = [0; NONCE_BYTES];
    for part in nonce.chunks_mut(16) {
        part.copy_from_slice(&random.next_u128().to_le_bytes());
    }
    nonce
}

/// Sends a refusal instead of a welcome and ends the stream.
pub(super) async fn refuse(stream: &mut Stream, refusal: &Refusal) -> io::Result<()> {
    let _sent = write(stream, refusal.code as u8, refusal.line.as_bytes()).await?;
    stream.shutdown().await
}

impl Refusal {
    pub(super) fn ours(code: RefusalCode, line: impl Into<String>) -> Self {
        Self { code, line: line.into(), by_peer: false }
    }
}

fn judge(ours: &Identity, theirs: Greeting) -> Result<Peer, Refusal> {
    let Greeting { identity, class, frame_bytes_max, nonce: _ } = theirs;
    of_one_cluster(ours.cluster, identity.cluster)?;
    Ok(Peer { identity: Arc::new(identity), class, frame_bytes_max: frame_bytes_max as usize })
}

/// Whether the two may talk, as far as it is known where they belong.
pub(super) fn of_one_cluster(ours: Option<ClusterId>, theirs: Option<ClusterId>) -> Result<(), Refusal> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            let line = format!("this is cluster {ours}, and the peer belongs to {theirs}");
            Err(Refusal::ours(RefusalCode::Cluster, line))
        }
        _ => Ok(()),
    }
}

fn body(
    identity: &Identity,
    class: Class,
    frame_bytes_max: usize,
    nonce: Option<Nonce>,
) -> Result<bytes::Bytes, Refusal> {
    let frame_bytes_max = u32::try_from(frame_bytes_max).unwrap_or(u32::MAX);
    super::encode(&Greeting { identity: identity.clone(), class, frame_bytes_max, nonce })
        .ok()
        .filter(|body| body.len() <= BODY_BYTES_MAX)
        .ok_or_else(|| Refusal::ours(RefusalCode::Greeting, "our own identity is too long to send"))
}

/// The bytes that were sent.
async fn write(stream: &mut Stream, status: u8, body: &[u8]) -> io::Result<BytesMut> {
    let body = &body[..body.len().min(BODY_BYTES_MAX)];
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + body.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u16_le(PROTOCOL_VERSION);
    bytes.put_u8(status);
    bytes.put_u16_le(body.len() as u16);
    bytes.put_slice(body);
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(bytes)
}

/// A message that is no refusal.
async fn read(stream: &mut Stream) -> Result<Message, Error> {
    let mut prefix = [0; PREFIX_BYTES];
    // What speaks another protocol may say less than a prefix and wait.
    stream.read_exact(&mut prefix[..MAGIC.len()]).await?;
    if prefix[..MAGIC.len()] != MAGIC {
        return Err(if prefix.starts_with(&TLS_HANDSHAKE) { Error::Tls } else { Error::Magic });
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
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + body.len());
    bytes.put_slice(&prefix);
    bytes.put_slice(&body);
    Ok(Message { body, bytes })
}

fn greeting(body: &[u8]) -> Result<Greeting, Error> {
    super::decode(body).map_err(|_| Refusal::ours(RefusalCode::Greeting, "the greeting is not an identity").into())
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
mod tests;
