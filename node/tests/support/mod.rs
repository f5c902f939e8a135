//! A node on a simulated disk and network, and a client that speaks to it as a gateway does.
#![expect(unreachable_pub, reason = "several tests share it")]
#![allow(dead_code, reason = "and each uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use berth_node::app;
use berth_node::cluster::membership::Chitchat;
use berth_node::config::Config;
use berth_node::disk::Disk;
use berth_node::entity::Registry;
use berth_shared::ids::RequestId;
use berth_shared::key::EntityKey;
use berth_shared::message::{Consistency, Execute, KeyOrigin, Precondition, Request, Response};
use berth_shared::peer::{self, CallError, Class, Client, Identity, NotSent, Role};
use berth_shared::seam::Seams;
use berth_shared::telemetry::Tracing;
use bytes::Bytes;

pub const ADDRESS: &str = "node:7400";

pub fn config() -> Config {
    Config { listen: ADDRESS.to_owned(), admin_listen: "127.0.0.1:0".to_owned(), ..Config::default() }
}

/// A running node with the built-in kinds, that owns all its shards.
pub async fn start(config: Config, disk: Arc<dyn Disk>, seams: &Seams) -> app::Handle {
    start_with(Registry::built_in(), config, disk, seams).await
}

/// The same with any kinds.
pub async fn start_with(kinds: Registry, config: Config, disk: Arc<dyn Disk>, seams: &Seams) -> app::Handle {
    let node = app::start(config, kinds, disk, Arc::new(Chitchat), seams.clone(), Tracing::OFF).await.unwrap();
    while !node.is_ready() {
        seams.spawner.sleep(Duration::from_millis(10)).await;
    }
    node
}

/// Calls a node over its network.
#[derive(Clone, Debug)]
pub struct Caller {
    client: Client,
    seams: Seams,
    shards: u16,
}

/// One command, with what most tests leave alone.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub kind: &'a str,
    pub id: &'a str,
    pub command: &'a str,
    pub body: &'a str,
    pub key: &'a str,
    pub origin: KeyOrigin,
    pub precondition: Precondition,
    pub request_id: u128,
    pub attempt: u32,
}

impl<'a> Call<'a> {
    pub fn new(kind: &'a str, id: &'a str, command: &'a str, body: &'a str, key: &'a str) -> Self {
        Self {
            kind,
            id,
            command,
            body,
            key,
            origin: KeyOrigin::Client,
            precondition: Precondition::None,
            request_id: 0,
            attempt: 1,
        }
    }
}

impl Caller {
    pub fn new(seams: &Seams, shards: u16) -> Self {
        Self::with_credential(seams, shards, None)
    }

    /// Of another node than the usual one.
    pub fn at(seams: &Seams, address: &str, shards: u16) -> Self {
        Self::connect(seams, address, shards, None)
    }

    pub fn with_credential(seams: &Seams, shards: u16, credential: Option<String>) -> Self {
        Self::connect(seams, ADDRESS, shards, credential)
    }

    fn connect(seams: &Seams, address: &str, shards: u16, credential: Option<String>) -> Self {
        let identity =
            Identity { role: Role::Gateway, node: None, cluster: None, software: "test".to_owned(), credential };
        let config = peer::client::Config::default();
        let client = Client::new(seams.clone(), config, address.to_owned(), Class::Data, identity, None);
        Self { client, seams: seams.clone(), shards }
    }

    pub async fn execute(&self, call: &Call<'_>) -> Result<Bytes, CallError> {
        self.request(&Request::Execute(self.execution(call))).await
    }

    /// Deletes the entity; command and body of the call do not matter.
    pub async fn delete(&self, call: &Call<'_>) -> Result<Bytes, CallError> {
        self.request(&Request::Delete(self.execution(call))).await
    }

    fn execution<'a>(&self, call: &'a Call<'_>) -> Execute<'a> {
        Execute {
            shard: EntityKey::new(call.kind, call.id).unwrap().shard(self.shards),
            kind: call.kind,
            id: call.id,
            command: call.command,
            body: call.body.as_bytes(),
            precondition: call.precondition.clone(),
            principal: "",
            idempotency_key: call.key,
            key_origin: call.origin,
            request_id: RequestId(call.request_id),
            attempt: call.attempt,
            wants_state: true,
            traceparent: "",
        }
    }

    pub async fn read(&self, kind: &str, id: &str) -> Result<Bytes, CallError> {
        let shard = EntityKey::new(kind, id).unwrap().shard(self.shards);
        self.request(&Request::Read { shard, kind, id, consistency: Consistency::Linearizable, traceparent: "" }).await
    }

    pub async fn events(&self, kind: &str, id: &str, after: u64) -> Result<Bytes, CallError> {
        let shard = EntityKey::new(kind, id).unwrap().shard(self.shards);
        let consistency = Consistency::Linearizable;
        let (limit, bytes_max, wait_millis) = (1000, 1 << 20, 0);
        let traceparent = "";
        let request =
            Request::Events { shard, kind, id, after, limit, bytes_max, wait_millis, consistency, traceparent };
        self.request(&request).await
    }

    pub async fn request(&self, request: &Request<'_>) -> Result<Bytes, CallError> {
        let payload = peer::encode(request).unwrap();
        let deadline = self.seams.clock.now() + Duration::from_secs(5);
        loop {
            match self.client.call(payload.clone(), deadline).await {
                // The connection is still being made.
                Err(CallError::NotSent(reason))
                    if !matches!(reason, NotSent::Refused(_)) && self.seams.clock.now() < deadline =>
                {
                    self.seams.spawner.sleep(Duration::from_millis(5)).await;
                }
                result => return result,
            }
        }
    }
}

pub fn decode(payload: &Bytes) -> Response<'_> {
    peer::decode(payload).unwrap()
}
