//! Carries the gossip library's messages as requests between nodes, so that gossip has no port of its own, and whoever is
//! refused there, for its cluster, its protocol or its credential, is refused here. It promises what a datagram does: a
//! message comes whole, once or never, and nobody hears which.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_shared::peer::{self, Client};
use berth_shared::seam::Seams;
use bytes::Bytes;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::names::Names;
use crate::transport::peers::Peers;
use crate::transport::wire::NodeRequest;

/// How long a message may be under way. An older one is no news.
const SEND_MAX: Duration = Duration::from_secs(1);
/// Messages under way from this node; more are dropped.
const SENDING_MAX: usize = 256;
/// Messages that have come and wait for the library; more are dropped.
const ARRIVED_MAX: usize = 256;
/// Connections to nodes that this one knows by address only, seeds for the most part; the one not used for longest goes.
const STRANGERS_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();

/// A message and where it came from.
type Arrived = (SocketAddr, Bytes);

/// What messages travel on.
pub(super) struct Wire {
    pub(super) names: Names,
    /// This node's own.
    address: String,
    peers: Peers,
    seams: Seams,
    /// To the library, while it is there.
    arrived: Mutex<Option<mpsc::Sender<Arrived>>>,
    sending: Arc<Semaphore>,
    strangers: Mutex<LruCache<Arc<str>, Client>>,
}

impl Wire {
    pub(super) fn new(address: String, peers: Peers, seams: Seams) -> Arc<Self> {
        Arc::new(Self {
            names: Names::default(),
            address,
            peers,
            seams,
            arrived: Mutex::default(),
            sending: Arc::new(Semaphore::new(SENDING_MAX)),
            strangers: Mutex::new(LruCache::new(STRANGERS_MAX)),
        })
    }

    /// Takes in a message of the node at `from`.
    pub(super) fn receive(&self, from: &str, message: Bytes) {
        let from = self.names.learn(from);
        let arrived = self.arrived.lock();
        if arrived.as_ref().is_some_and(|arrived| arrived.try_send((from, message)).is_err()) {
            tracing::debug!("a gossip message is dropped, because too many wait");
        }
    }

    fn send(&self, to: SocketAddr, message: &[u8]) {
        // Whoever was just heard of is in the table from the next look on.
        let Some(address) = self.names.find(to) else { return };
        let Ok(permit) = self.sending.clone().try_acquire_owned() else {
            return tracing::debug!(%address, "a gossip message is dropped, because too many are under way");
        };
        let payload = match peer::encode(&NodeRequest::Gossip { from: &self.address, message }) {
            Ok(payload) => payload,
            Err(error) => return tracing::error!(%error, "a gossip message cannot be encoded"),
        };
        let (client, deadline) = (self.client(address), self.seams.clock.now() + SEND_MAX);
        self.seams.spawner.spawn(async move {
            // Whether it arrives shows in what the other says later, or not at all.
            let _ = client.call(payload, deadline).await;
            drop(permit);
        });
    }

    fn client(&self, address: Arc<str>) -> Client {
        let mut strangers = self.strangers.lock();
        if let Some(client) = self.peers.control_at(&address) {
            strangers.pop(&address);
            return client;
        }
        strangers.get_or_insert(address.clone(), || self.peers.connect(&address)).clone()
    }
}

/// What the library opens. Whoever opened it before hears nothing any more.
pub(super) struct Line(pub(super) Arc<Wire>);

#[async_trait]
impl Transport for Line {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (sender, arrived) = mpsc::channel(ARRIVED_MAX);
        *self.0.arrived.lock() = Some(sender);
        Ok(Box::new(OpenLine { wire: self.0.clone(), arrived }))
    }
}

struct OpenLine {
    wire: Arc<Wire>,
    arrived: mpsc::Receiver<Arrived>,
}

#[async_trait]
impl Socket for OpenLine {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.wire.send(to, &message.serialize_to_vec());
        Ok(())
    }

    /// Loses nothing when it is given up.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (from, bytes) = self.arrived.recv().await.ok_or_else(|| anyhow::anyhow!("nothing comes any more"))?;
            match ChitchatMessage::deserialize(&mut &bytes[..]) {
                Ok(message) => return Ok((from, message)),
                Err(error) => {
                    tracing::warn!(from = ?self.wire.names.find(from), "a gossip message makes no sense: {error}");
                }
            }
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("address", &self.address).finish_non_exhaustive()
    }
}
