//! Asks an admin port: HTTP/1.1 over one connection, with a deadline and a bound on what is read.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use berth_shared::seam::{Seams, network};
use berth_shared::watched::read_once;
use bytes::Bytes;
use clap::Args;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// For all questions of one connection together. Whoever is asked waits a while itself for nodes that do not answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The largest cluster, of 16,384 shards, needs some MiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where an admin port is: `http://host:port`, of which `http://` may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// `host:port`
    authority: String,
}

/// Who asks, where admin ports want to know.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Access {
    /// A file that holds the API key or token for the admin port, where it asks for one. `admin_auth` configures that.
    #[arg(long, value_name = "FILE")]
    credential_file: Option<PathBuf>,
}

impl Access {
    /// The header that shows it.
    async fn header(&self, seams: &Seams) -> Result<Option<header::HeaderValue>, Error> {
        let Some(file) = &self.credential_file else { return Ok(None) };
        let unusable = |cause: String| Error::Credential { file: file.clone(), cause };
        let contents = read_once(file, seams).await.map_err(|error| unusable(error.to_string()))?;
        let credential = contents.trim_ascii();
        let is_one_word = !credential.is_empty() && credential.iter().all(u8::is_ascii_graphic);
        let value = header::HeaderValue::from_bytes(&[b"Bearer ", credential].concat()).ok().filter(|_| is_one_word);
        let mut value = value.ok_or_else(|| unusable("it holds no key or token".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl fmt::Display for Access {
    /// As it stands in a command, after a blank.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential_file.as_ref().map_or(Ok(()), |file| write!(f, " --credential-file {}", file.display()))
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the credential in {}: {cause}", file.display())]
    Credential { file: PathBuf, cause: String },
    #[error("nothing answers at {address}: {cause}. {hint}")]
    Silent { address: Address, cause: String, hint: &'static str },
    #[error("{address} does not answer within {} s", ANSWER_MAX.as_secs())]
    Late { address: Address },
    /// With a problem document, which says why.
    #[error("{0}")]
    Problem(String),
    #[error(
        "{address} answers {path} with {status}: is it an admin port? Gateways and nodes have ports of their own for that"
    )]
    Refused { address: Address, path: String, status: StatusCode },
    #[error("{address} answers {path} with something else: {cause}")]
    Garbled { address: Address, path: String, cause: String },
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

/// What is read of a problem document.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

/// A connection to an admin port.
pub(crate) struct Asking<'a> {
    sender: SendRequest<Full<Bytes>>,
    address: &'a Address,
    authorization: Option<header::HeaderValue>,
}

/// Connects to `address`, and asks as `asking` does; `hint` says how to give another address.
pub(crate) async fn ask<'a, T>(
    seams: &Seams,
    address: &'a Address,
    access: &Access,
    hint: &'static str,
    asking: impl AsyncFnOnce(&mut Asking<'a>) -> Result<T, Error>,
) -> Result<T, Error> {
    let silent = |cause: String| Error::Silent { address: address.clone(), cause, hint };
    let authorization = access.header(seams).await?;
    let asked = async {
        let stream = seams.network.connect(&address.authority).await.map_err(|error| silent(error.to_string()))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| silent(error.to_string()))?;
        // It ends when the sender is dropped, and its errors are those of the requests.
        seams.spawner.spawn(async move { drop(connection.await) });
        asking(&mut Asking { sender, address, authorization }).await
    };
    seams.spawner.timeout(ANSWER_MAX, asked).await.unwrap_or_else(|| Err(Error::Late { address: address.clone() }))
}

impl Asking<'_> {
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Error> {
        let request = Request::get(path).body(Full::default());
        self.send(path, request).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: Vec<u8>) -> Result<T, Error> {
        let json = header::HeaderValue::from_static("application/json");
        let request = Request::post(path).header(header::CONTENT_TYPE, json).body(Full::from(body));
        self.send(path, request).await
    }

    async fn send<T: DeserializeOwned>(
        &mut self,
        path: &str,
        request: Result<Request<Full<Bytes>>, http::Error>,
    ) -> Result<T, Error> {
        let address = self.address;
        let garbled = |cause: String| Error::Garbled { address: address.clone(), path: path.to_owned(), cause };
        let mut request = request.map_err(|error| garbled(error.to_string()))?;
        let host = header::HeaderValue::from_str(&address.authority).map_err(|error| garbled(error.to_string()))?;
        request.headers_mut().insert(header::HOST, host);
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let answer = self.sender.send_request(request).await.map_err(|error| garbled(error.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| garbled(error.to_string()))?.to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| garbled(error.to_string()));
        }
        // A path that is not served is answered so by what is no admin port too.
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if status != StatusCode::NOT_FOUND || path.starts_with("/v1/recovery/") => {
                Err(Error::Problem(problem.detail))
            }
            _ => Err(Error::Refused { address: address.clone(), path: path.to_owned(), status }),
        }
    }
}
