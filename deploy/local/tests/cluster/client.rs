//! HTTP by hand over real sockets, for tests of what goes over the wire: one HTTP/1.1 connection, one request at a time. What
//! is about the cluster itself is tested through `berth-client`.

use std::time::Duration;

use berth_shared::seam::Seams;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// Far beyond what anything here takes, so that what hangs fails its test.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Connection {
    seams: Seams,
    address: String,
    sender: SendRequest<Full<Bytes>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Connection {
    /// To `http://host:port`.
    pub(crate) async fn open(seams: &Seams, url: &str) -> Self {
        let address = url.strip_prefix("http://").unwrap().to_owned();
        let stream = seams.network.connect(&address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        seams.spawner.spawn(connection);
        Self { seams: seams.clone(), address, sender }
    }

    /// An error when the server is gone before it has answered.
    pub(crate) async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> hyper::Result<Answer> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        let answered = async {
            self.sender.ready().await?;
            let (parts, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        self.seams.spawner.timeout(PATIENCE, answered).await.expect("no answer")
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.try_send("GET", path, &[], "").await.unwrap()
    }

    pub(crate) async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.try_send("POST", path, headers, body).await.unwrap()
    }
}

impl Answer {
    /// The value of a header, empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
