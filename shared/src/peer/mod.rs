//! The framed protocol between pods: a [`Client`] asks, a server started with [`serve`] answers, many requests at once
//! on one connection. It carries opaque bytes; what they mean is [`crate::message`]'s business. It touches no socket of
//! its own: streams come from [`crate::seam::Network`], time from [`crate::seam::Clock`].
//!
//! # Bytes
//!
//! All numbers are little-endian. Each side begins with one greeting, the client first; this prefix is the same in every
//! protocol version, so that two programs of different ages can still tell each other so:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | `BRTH` |
//! | 2 | protocol version, [`PROTOCOL_VERSION`] |
//! | 1 | 0 welcome (a client always says 0); otherwise a refusal, see [`RefusalCode`] |
//! | 2 + n | body, n ≤ 4096: of a welcome the identity (postcard, of this protocol version), of a refusal one line of UTF-8 |
//!
//! A welcome ends with 0, or where its speaker has a shared secret, with 1 and 32 random bytes. Where both have one, each side
//! then says once more the same prefix, with 0 and a body of 32 bytes, the client first: the proof that it has the secret
//! (`proof.rs`). A server that finds a proof wrong says a refusal in its place.
//!
//! Then frames, either way:
//!
//! | bytes | field |
//! | --- | --- |
//! | 4 | length of everything after this field |
//! | 1 | kind of frame |
//! | … | by kind: |
//!
//! | kind | from | fields after the kind |
//! | --- | --- | --- |
//! | 1 request | client | 8 correlation id, 4 time left until the deadline in microseconds (all ones: that or more), payload |
//! | 2 reply | server | 8 correlation id, payload |
//! | 3 abandoned | server | 8 correlation id. Given up without an answer: the outcome is unknown |
//! | 4 declined | server | 8 correlation id, 1 why: 1 too many in flight, 2 shutting down. Surely not executed |
//! | 5 push | server | payload |
//! | 6 ping | both | none; answered with a pong |
//! | 7 pong | both | none |
//! | 8 goodbye | server | none. The last frame of one that shuts down: with what it has not answered it never began |
//! | 9 given up | client | 8 correlation id. Nobody waits for this answer any more; what waits to be answered need not |
//!
//! A correlation id is the client's own business; the server gives it back. Deadlines travel as time left, because the
//! clocks of two machines differ; time on the wire is not counted, so the server's deadline is never the earlier one.
//! Whatever does not follow these tables closes the connection.
//!
//! # Payloads without copies
//!
//! [`encode`] writes a message once; a payload above 16 KiB is written to the socket from where it lies, a smaller one
//! is copied once into the buffer that coalesces it with its neighbours. A received payload is a slice of the buffer it
//! was read into: [`decode`] borrows text and bodies from it, and `payload.slice_ref(part)` makes a part of it live on.
//! Whoever keeps a small part for long copies it instead, because a slice keeps the whole buffer (64 KiB or more) alive.
//!
//! # TLS
//!
//! TLS wraps where streams are made: a `Network` that holds another one and wraps what its `connect` and its listeners'
//! `accept` return. `accept` returns at once and the TLS handshake runs at the first read or write, so that it falls
//! under this protocol's handshake time-out and a slow peer holds up nobody else. Nothing in this room changes.

mod calls;
pub mod client;
mod connection;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handshake;
mod keeper;
mod outbox;
mod proof;
pub mod security;
pub mod server;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, NodeId};

pub use client::{CallError, Client, NotSent, Pushed};
pub use handshake::{Refusal, RefusalCode};
pub use server::{Handler, Incoming, PushSender, Reply, serve, serve_on};

/// Two sides of different versions refuse each other.
pub const PROTOCOL_VERSION: u16 = 4;

/// What a program is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    Gateway,
    Node,
}

/// What a connection is for. Each class has connections of its own, so that a snapshot never delays a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Votes, heartbeats, membership.
    Control,
    /// Requests of clients and replication.
    Data,
    /// Snapshots.
    Bulk,
}

/// Who speaks: sent in the handshake by both sides.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub role: Role,
    /// None for a gateway.
    pub node: Option<NodeId>,
    /// None while the speaker does not know its cluster yet. Two that know different ones refuse each other.
    pub cluster: Option<ClusterId>,
    /// Name and version of the program, for logs.
    pub software: String,
    /// A secret that all pods of a cluster share. A side that has one demands the same of the other. It is never sent, only
    /// proven: the identity that a peer is known by carries `None`.
    #[serde(skip)]
    pub credential: Option<String>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("role", &self.role)
            .field("node", &self.node)
            .field("cluster", &self.cluster)
            .field("software", &self.software)
            .field("credential", &self.credential.as_ref().map(|_| "hidden"))
            .finish()
    }
}

/// Room that a message starts with; most fit, larger ones grow it by doubling.
const MESSAGE_BYTES_TYPICAL: usize = 256;

/// Encodes a message with postcard, as the payload of a call, a reply or a push.
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Result<Bytes, postcard::Error> {
    encode_with_capacity(message, MESSAGE_BYTES_TYPICAL)
}

/// [`encode`] for a caller who knows about how long the message will be, such as one with a large body.
pub fn encode_with_capacity<T: Serialize + ?Sized>(message: &T, capacity: usize) -> Result<Bytes, postcard::Error> {
    postcard::serialize_with_flavor(message, Growing(BytesMut::with_capacity(capacity)))
}

/// Decodes a whole payload. Text and byte slices of the message borrow from it.
pub fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, postcard::Error> {
    let (message, rest) = postcard::take_from_bytes(payload)?;
    if rest.is_empty() { Ok(message) } else { Err(postcard::Error::DeserializeBadEncoding) }
}

/// Where postcard writes to: whole slices at once, into a buffer that becomes `Bytes` without a copy.
struct Growing(BytesMut);

impl postcard::ser_flavors::Flavor for Growing {
    type Output = Bytes;

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.extend_from_slice(&[data]);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Bytes> {
        Ok(self.0.freeze())
    }
}
