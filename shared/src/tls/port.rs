//! TLS of a port that serves HTTP: a certificate for its clients, who show none.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

use super::identity::Identity;
use super::{provider, wall};
use crate::config::{self, Validate, allow};
use crate::seam::Seams;
use crate::seam::network::Stream;
use crate::watched::{self, Watched};

/// Where the certificate of a port is. Without one, the port speaks plain HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortConfig {
    /// PEM: the certificate, and those that lead to an authority.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
}

impl Validate for PortConfig {
    fn validate(&self) -> Result<(), config::Error> {
        let both = self.certificate_file.is_some() == self.key_file.is_some();
        let key = if self.key_file.is_some() { "certificate_file" } else { "key_file" };
        allow(both, key, "no value", "files, because the other one of certificate and key is given")
    }
}

/// What a port greets its clients with. Cheap to clone.
#[derive(Clone)]
pub struct PortTls(Watched<Arc<ServerConfig>>);

impl PortTls {
    /// Nothing without a certificate. The files are read again when they change, for new connections.
    pub async fn start(config: &PortConfig, seams: &Seams) -> Result<Option<Self>, watched::Error> {
        let (Some(certificate), Some(key)) = (config.certificate_file.clone(), config.key_file.clone()) else {
            return Ok(None);
        };
        let of = seams.clone();
        let parse = move |contents: &[Vec<u8>]| match contents {
            [certificates, key] => server_config(certificates, key, &of).map(Arc::new),
            _ => Err("two files are needed".to_owned()),
        };
        Ok(Some(Self(Watched::start(vec![certificate, key], seams, parse).await?)))
    }

    /// Greets one client. The caller bounds how long that may take.
    pub async fn greet(&self, stream: Stream) -> io::Result<Stream> {
        let config = Arc::clone(&*self.0.get());
        Ok(Box::new(TlsAcceptor::from(config).accept(stream).await?))
    }
}

fn server_config(certificates: &[u8], key: &[u8], seams: &Seams) -> Result<ServerConfig, String> {
    let Identity { chain, key } = Identity::parse(certificates, key)?;
    let said = |error: rustls::Error| error.to_string();
    let mut config = ServerConfig::builder_with_details(provider(), wall(seams))
        .with_safe_default_protocol_versions()
        .map_err(said)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(said)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

impl fmt::Debug for PortTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortTls").finish_non_exhaustive()
    }
}
