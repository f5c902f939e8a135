//! HTTP/1.1 over the network seam: one connection, one request at a time, made anew when it is lost.

use std::time::Duration;

use berth_shared::seam::Seams;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// Pause after a connection was not made.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Connection {
    seams: Seams,
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) replayed: bool,
    /// Of the entity tag.
    pub(super) version: Option<u64>,
    /// What the client has seen with this answer.
    pub(super) token: Option<String>,
    body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl Connection {
    pub(super) fn new(seams: Seams, address: String) -> Self {
        Self { seams, address, sender: None }
    }

    /// The answer, or why there is none; then the connection is given up, so that a late answer is nobody else's.
    pub(super) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        patience: Duration,
    ) -> Result<Answer, String> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).map_err(|e| e.to_string())?;
        let sender = self.sender.take();
        let (seams, address) = (self.seams.clone(), self.address.clone());
        let exchange = async {
            let mut sender = match sender {
                Some(sender) if !sender.is_closed() => sender,
                _ => connect(&seams, &address).await?,
            };
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
            let replayed = parts.headers.contains_key("idempotency-replayed");
            let version = text("etag").and_then(|tag| tag.trim_matches('"').parse().ok());
            let token = text("berth-session").map(str::to_owned);
            let status = parts.status.as_u16();
            Ok::<_, hyper::Error>((Answer { status, replayed, version, token, body }, sender))
        };
        match seams.spawner.timeout(patience, exchange).await {
            Some(Ok((answer, sender))) => {
                self.sender = Some(sender);
                Ok(answer)
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Err("no answer in time".to_owned()),
        }
    }
}

/// Tries until it is connected.
async fn connect(seams: &Seams, address: &str) -> hyper::Result<SendRequest<Full<Bytes>>> {
    let stream = loop {
        match seams.network.connect(address).await {
            Ok(stream) => break stream,
            Err(_) => seams.spawner.sleep(PAUSE).await,
        }
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    seams.spawner.spawn(connection);
    Ok(sender)
}
