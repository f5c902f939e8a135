//! Whom a pod takes for a pod: who has a certificate of the cluster's authority, with one of the expected names if there are
//! any. The address that is connected to is not compared: pods have addresses that no certificate foresees.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

/// The names that a pod's certificate may have; any, where there are none.
#[derive(Clone, Debug)]
pub(super) struct Names(Vec<ServerName<'static>>);

impl Names {
    pub(super) fn parse(names: &[String]) -> Result<Self, String> {
        let parse = |name: &String| ServerName::try_from(name.clone()).map_err(|_| format!("{name:?} is no DNS name"));
        Ok(Self(names.iter().map(parse).collect::<Result<_, _>>()?))
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let fits = self.0.is_empty() || self.0.iter().any(|name| verify_server_name(&certificate, name).is_ok());
        if fits { Ok(()) } else { Err(Error::InvalidCertificate(CertificateError::NotValidForName)) }
    }
}

/// Looks at who was connected to.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) names: Names,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        self.names.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Looks at who connected.
#[derive(Debug)]
pub(super) struct Clients {
    chains: Arc<dyn ClientCertVerifier>,
    names: Names,
}

impl Clients {
    pub(super) fn new(roots: Arc<RootCertStore>, names: Names, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let chains = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        Ok(Self { chains: chains.map_err(|error| error.to_string())?, names })
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chains.verify_client_cert(end_entity, intermediates, now)?;
        self.names.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
