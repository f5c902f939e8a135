//! How one request gets to one address and its answer back: hyper's pool of connections. It decides nothing. Tests have a
//! script in its place.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::retry::Failure;

/// How long it may take to connect to an address.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Gateways keep idle connections for longer, so that a connection is rarely lost just when it is used again.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Idle connections kept for each address.
const IDLE_CONNECTIONS_MAX: usize = 64;

pub(crate) type Body = BoxBody<Bytes, Broken>;
pub(crate) type Sent = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

/// Why the rest of a body did not come.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(String);

pub(crate) trait Transport: Send + Sync + fmt::Debug {
    fn send(&self, request: Request<Bytes>) -> Sent;
}

#[derive(Debug)]
struct Pool<C>(legacy::Client<C, Full<Bytes>>);

impl<C> Transport for Pool<C>
where
    C: Connect + Clone + Send + Sync + fmt::Debug + 'static,
{
    fn send(&self, request: Request<Bytes>) -> Sent {
        let sent = self.0.request(request.map(Full::new));
        Box::pin(async move {
            match sent.await {
                Ok(response) => Ok(response.map(|body| body.map_err(|error| Broken(causes(&error))).boxed())),
                Err(error) if error.is_connect() => Err(Failure::Unreached(causes(&error))),
                Err(error) => Err(Failure::Lost(causes(&error))),
            }
        })
    }
}

/// For `http://` addresses alone.
pub(crate) fn plain() -> Box<dyn Transport> {
    pool(connector())
}

/// For `https://` addresses too. Servers must have a certificate from one of the authorities in `roots` (PEM), or where there
/// is nothing in it, from one that the system trusts.
#[cfg(feature = "tls")]
pub(crate) fn with_tls(roots: &[u8]) -> Result<Box<dyn Transport>, String> {
    use hyper_rustls::ConfigBuilderExt;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider);
    let tls = tls.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let tls = if roots.is_empty() {
        tls.with_native_roots().map_err(|error| format!("the system's certificates cannot be read: {error}"))?
    } else {
        let malformed = |error: &dyn fmt::Display| format!("the root certificates are not PEM: {error}");
        let mut store = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(roots) {
            let certificate = certificate.map_err(|error| malformed(&error))?;
            store.add(certificate).map_err(|error| malformed(&error))?;
        }
        if store.is_empty() {
            return Err("there is no certificate among the root certificates".to_owned());
        }
        tls.with_root_certificates(store)
    };
    let mut connector = connector();
    connector.enforce_http(false);
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth());
    Ok(pool(builder.https_or_http().enable_http1().wrap_connector(connector)))
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_MAX));
    connector
}

fn pool<C>(connector: C) -> Box<dyn Transport>
where
    C: Connect + Clone + Send + Sync + fmt::Debug + 'static,
{
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_MAX).pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
    Box::new(Pool(builder.build(connector)))
}

/// An error and what it came from, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
