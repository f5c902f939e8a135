//! What PEM files say: a certificate with its chain and key, or authorities.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Whom a process is.
#[derive(Debug)]
pub(super) struct Identity {
    /// Its own certificate first, then those that lead to an authority.
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    pub(super) fn parse(certificates: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = certificates_of(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the file of the key: {error}"))?;
        Ok(Self { chain, key })
    }
}

pub(super) fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(pem)? {
        roots.add(certificate).map_err(|error| format!("an authority: {error}"))?;
    }
    Ok(roots)
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("a file of certificates: {error}"))?;
    if certificates.is_empty() {
        Err("a file of certificates has none in PEM form".to_owned())
    } else {
        Ok(certificates)
    }
}
