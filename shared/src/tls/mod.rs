//! TLS by rustls with the cryptography of ring: certificates from PEM files that are read again when they change, for the
//! public port, between pods, and for fetching key sets. Its clock is the seam's. New connections see new certificates, and
//! no session is resumed, so that none outlives the certificate it was begun with.

mod identity;
mod network;
mod port;
mod stream;
mod verify;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};

use crate::seam::{Clock, Seams};
use crate::watched;

pub use network::{MutualConfig, TlsNetwork};
pub use port::{PortConfig, PortTls};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] watched::Error),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("{file}: {why}")]
    Senseless { file: String, why: String },
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The seam's clock as TLS reads it.
#[derive(Debug)]
struct Wall(Arc<dyn Clock>);

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_micros(self.0.wall_micros())))
    }
}

fn wall(seams: &Seams) -> Arc<dyn TimeProvider> {
    Arc::new(Wall(seams.clock.clone()))
}

/// Whose certificates servers on the web may have.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Everybody's whom Mozilla trusts.
    pub fn mozilla(seams: &Seams) -> Result<Self, Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Ok(Self::of(roots, seams)?)
    }

    /// Those of the authorities in a PEM file.
    pub async fn file(file: &Path, seams: &Seams) -> Result<Self, Error> {
        let contents = watched::read_once(file, seams).await?;
        let senseless = |why| Error::Senseless { file: file.display().to_string(), why };
        Ok(Self::of(identity::authorities(&contents).map_err(senseless)?, seams)?)
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }

    fn of(roots: RootCertStore, seams: &Seams) -> Result<Self, rustls::Error> {
        let mut config = ClientConfig::builder_with_details(provider(), wall(seams))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// An error of TLS, as streams give it. Its kind tells it from the end of a connection.
fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests;
