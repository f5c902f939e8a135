//! An authority made up on the spot, and files of certificates that it gave.

use std::path::PathBuf;

use base64::Engine;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: Vec<u8>,
}

/// A certificate, its key, and the authority's certificate.
pub(crate) struct Files(tempfile::TempDir);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // Two authorities of one name would be taken for one that has changed its key.
        params.distinguished_name.push(DnType::CommonName, format!("{:?}", key.public_key_raw()));
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    #[expect(clippy::disallowed_methods, reason = "real files of the test")]
    pub(crate) fn files(&self, name: &str) -> Files {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files(tempfile::tempdir().unwrap());
        for (name, text) in [
            ("crt", pem("CERTIFICATE", certificate.der())),
            ("key", pem("PRIVATE KEY", &key.serialize_der())),
            ("ca", pem("CERTIFICATE", &self.certificate)),
        ] {
            std::fs::write(files.0.path().join(name), text).unwrap();
        }
        files
    }
}

impl Files {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
