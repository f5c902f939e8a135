//! Asks an admin port: HTTP/1.1 over one connection, with a deadline and a bound on what is read.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use berth_shared::seam::{Seams, network};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::Seen;

/// For both questions together. Whoever is asked waits a while itself for nodes that do not answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The largest cluster, of 16,384 shards, needs some MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where an admin port is: `http://host:port`, of which `http://` may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// `host:port`
    authority: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("nothing answers at {address}: {cause}. Give the admin port of a gateway or a node with --address URL")]
    Silent { address: Address, cause: String },
    #[error("{address} does not answer {path} within {} s", ANSWER_MAX.as_secs())]
    Late { address: Address, path: &'static str },
    #[error(
        "{address} answers {path} with {status}: is it the admin port of a gateway or a node? They have ports of their own for that"
    )]
    Refused { address: Address, path: &'static str, status: StatusCode },
    #[error("{address} answers {path} with something else: {cause}")]
    Garbled { address: Address, path: &'static str, cause: String },
}

impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if text.starts_with("https://") {
            return Err(invalid("admin ports speak plain http://"));
        }
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        match network::parts(authority)? {
            ("", _) => Err(invalid("the host is missing, as in http://127.0.0.1:8090")),
            _ if authority.contains('/') => Err(invalid("only host and port, as in http://127.0.0.1:8090")),
            _ => Ok(Self { authority: authority.to_owned() }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// Asks for everything that is shown.
pub(super) async fn look(seams: &Seams, address: &Address) -> Result<Seen, Error> {
    let silent = |cause: String| Error::Silent { address: address.clone(), cause };
    let path = "/v1/cluster";
    let asking = async {
        let stream = seams.network.connect(&address.authority).await.map_err(|error| silent(error.to_string()))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| silent(error.to_string()))?;
        // It ends when the sender is dropped, and its errors are those of the requests.
        seams.spawner.spawn(async move { drop(connection.await) });
        let cluster = get(&mut sender, address, path).await?;
        let shards = get(&mut sender, address, "/v1/cluster/shards").await?;
        Ok(Seen { cluster, shards, at_micros: seams.clock.wall_micros() })
    };
    let late = || Err(Error::Late { address: address.clone(), path });
    seams.spawner.timeout(ANSWER_MAX, asking).await.unwrap_or_else(late)
}

async fn get<T: DeserializeOwned>(
    sender: &mut SendRequest<Empty<Bytes>>,
    address: &Address,
    path: &'static str,
) -> Result<T, Error> {
    let garbled = |cause: String| Error::Garbled { address: address.clone(), path, cause };
    let request = Request::get(path).header(header::HOST, &address.authority).body(Empty::new());
    let request = request.map_err(|error| garbled(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| garbled(error.to_string()))?;
    if answer.status() != StatusCode::OK {
        return Err(Error::Refused { address: address.clone(), path, status: answer.status() });
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| garbled(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| garbled(error.to_string()))
}
