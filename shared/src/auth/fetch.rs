//! Key sets from an address: fetched at the start, every few minutes, and when a token names a key that is not known, but then
//! only so often, because anybody can make such tokens up. While nothing new can be had, the old keys hold.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::token::KeySet;
use crate::cause::in_one_line;
use crate::seam::Seams;
use crate::seam::network::Stream;
use crate::tls;

/// Between two attempts, at least.
const PAUSE_MIN: Duration = Duration::from_secs(30);
/// For one attempt.
const TIME_MAX: Duration = Duration::from_secs(10);
/// The longest key set that is read.
const BYTES_MAX: usize = 1 << 20;

/// Where a key set is: `https://host[:port]/path`, or `http://` for a loopback address, which nobody can stand in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    encrypted: bool,
    host: String,
    port: u16,
    path: String,
}

/// The keys that were fetched last. They are fetched again until this is dropped.
#[derive(Debug)]
pub(super) struct Fetched {
    keys: Arc<ArcSwapOption<KeySet>>,
    wanted: Arc<Notify>,
    _fetching: DropGuard,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no answer within {} s", TIME_MAX.as_secs())]
    Late,
    #[error(transparent)]
    Stream(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is {0}, and 200 is needed")]
    Status(StatusCode),
    #[error("{0}")]
    Senseless(String),
}

impl Url {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: http::Uri = text.parse().ok()?;
        let encrypted = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let named = !host.is_empty() && !authority.as_str().contains('@');
        if !named || !(encrypted || is_local) {
            return None;
        }
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Some(Self { encrypted, host, port, path })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl Fetched {
    pub(super) fn start(url: Url, trust: tls::Trust, refresh: Duration, seams: &Seams) -> Self {
        let (keys, wanted, stop) =
            (Arc::new(ArcSwapOption::empty()), Arc::new(Notify::new()), CancellationToken::new());
        let fetching =
            Fetching { url, trust, refresh, seams: seams.clone(), keys: keys.clone(), wanted: wanted.clone() };
        let stopped = stop.clone();
        seams.spawner.spawn(stopped.run_until_cancelled_owned(fetching.run()));
        Self { keys, wanted, _fetching: stop.drop_guard() }
    }

    /// Nothing until they could be fetched.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// A key was named that is not among them.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }
}

struct Fetching {
    url: Url,
    trust: tls::Trust,
    refresh: Duration,
    seams: Seams,
    keys: Arc<ArcSwapOption<KeySet>>,
    wanted: Arc<Notify>,
}

impl Fetching {
    async fn run(self) {
        let spawner = self.seams.spawner;
        loop {
            let fetched = spawner.timeout(TIME_MAX, self.fetch()).await.unwrap_or(Err(Error::Late));
            let pause = match fetched {
                Ok(keys) => {
                    self.keys.store(Some(Arc::new(keys)));
                    self.refresh
                }
                Err(error) => {
                    tracing::warn!(url = ?self.url, "the keys of tokens cannot be fetched: {}", in_one_line(&error));
                    PAUSE_MIN
                }
            };
            spawner.sleep(PAUSE_MIN).await;
            spawner.timeout(pause.saturating_sub(PAUSE_MIN), self.wanted.notified()).await;
        }
    }

    async fn fetch(&self) -> Result<KeySet, Error> {
        let stream = self.seams.network.connect(&self.url.authority()).await?;
        let stream: Stream = if self.url.encrypted {
            let name = ServerName::try_from(self.url.host.clone());
            let name = name.map_err(|error| Error::Senseless(error.to_string()))?;
            Box::new(TlsConnector::from(self.trust.client()).connect(name, stream).await?)
        } else {
            stream
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(&self.url.path)
            .header(header::HOST, self.url.authority())
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| Error::Senseless(error.to_string()))?;
        let read = async {
            let answer = sender.send_request(request).await?;
            if answer.status() != StatusCode::OK {
                return Err(Error::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await.map_err(Error::Body)?;
            KeySet::parse(&body.to_bytes()).map_err(Error::Senseless)
        };
        // The connection does its part until the answer is there, and is dropped with it. How it ends the request hears too.
        let carry = async {
            drop(connection.await);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            keys = read => keys,
            never = carry => never,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn only_addresses_that_nobody_can_stand_in_for_are_taken() {
        let url = |encrypted, host: &str, port, path: &str| {
            Some(Url { encrypted, host: host.to_owned(), port, path: path.to_owned() })
        };
        for (text, parsed) in [
            ("https://id.example.com/keys?a=1", url(true, "id.example.com", 443, "/keys?a=1")),
            ("https://[2001:db8::1]:8443", url(true, "2001:db8::1", 8443, "/")),
            ("http://127.0.0.1:81/k", url(false, "127.0.0.1", 81, "/k")),
            ("http://localhost/k", url(false, "localhost", 80, "/k")),
            ("http://id.example.com/keys", None),
            ("https://user@id.example.com/", None),
            ("ftp://id.example.com/", None),
            ("id.example.com/keys", None),
            ("/keys", None),
            ("", None),
        ] {
            assert_eq!(Url::parse(text), parsed, "{text}");
        }
    }

    /// Serves one answer to each who asks, and counts them.
    fn serve(seams: &Seams, answers: Vec<String>) -> Arc<std::sync::atomic::AtomicUsize> {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (network, count) = (seams.network.clone(), asked.clone());
        seams.spawner.spawn(async move {
            let mut listener = network.listen("127.0.0.1:81").await.unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let turn = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /keys HTTP/1.1\r\nhost: 127.0.0.1:81\r\n"));
                let body = &answers[turn.min(answers.len() - 1)];
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).await.unwrap();
            }
        });
        asked
    }

    fn key_set(id: &str) -> String {
        format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{id}","x":"{}"}}]}}"#, "A".repeat(43))
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_again_in_time_and_when_wanted_but_not_more_often() {
        let seams = Seams::simulated(1);
        let asked = serve(&seams, vec!["nonsense".to_owned(), key_set("a"), key_set("b")]);
        let asked = || asked.load(std::sync::atomic::Ordering::Relaxed);
        let url = Url::parse("http://127.0.0.1:81/keys").unwrap();
        let fetched = Fetched::start(url, tls::Trust::mozilla(&seams).unwrap(), Duration::from_secs(300), &seams);
        let sleep = async |seconds| seams.spawner.sleep(Duration::from_secs(seconds)).await;
        sleep(1).await;
        assert!(asked() == 1 && fetched.keys().is_none(), "nonsense is no key set");
        sleep(30).await;
        assert!(asked() == 2 && fetched.keys().is_some());
        for _ in 0..100 {
            fetched.want();
            sleep(0).await;
        }
        sleep(20).await;
        assert_eq!(asked(), 2, "not before the pause is over");
        sleep(10).await;
        assert_eq!(asked(), 3, "once");
        sleep(297).await;
        assert_eq!(asked(), 3);
        sleep(5).await;
        assert_eq!(asked(), 4);
    }
}
