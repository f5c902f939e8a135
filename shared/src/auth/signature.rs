//! Signatures of tokens, checked by ring in the place that the library of tokens leaves for it. Nothing is ever signed here,
//! and symmetric keys, which whoever can check could also sign with, are refused.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature::{self as with, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm, key| {
        let key = key_of(*algorithm, key).ok_or(ErrorKind::InvalidKeyFormat)?;
        Ok(Box::new(Checker { algorithm: *algorithm, key }))
    },
    // Only for thumbprints and for keys made of others.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has tokens checked by ring, in this process.
pub(super) fn install() {
    // Whoever was first has installed the same one: nothing else in this program uses the library.
    let _ = PROVIDER.install_default();
}

struct Checker {
    algorithm: Algorithm,
    key: Key,
}

enum Key {
    Rsa(&'static RsaParameters, RsaPublicKeyComponents<Vec<u8>>),
    Other(UnparsedPublicKey<Vec<u8>>),
}

fn key_of(algorithm: Algorithm, key: &DecodingKey) -> Option<Key> {
    if key.family() != algorithm.family() {
        return None;
    }
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let parameters = match algorithm {
                Algorithm::RS256 => &with::RSA_PKCS1_2048_8192_SHA256,
                Algorithm::RS384 => &with::RSA_PKCS1_2048_8192_SHA384,
                Algorithm::RS512 => &with::RSA_PKCS1_2048_8192_SHA512,
                Algorithm::PS256 => &with::RSA_PSS_2048_8192_SHA256,
                Algorithm::PS384 => &with::RSA_PSS_2048_8192_SHA384,
                Algorithm::PS512 => &with::RSA_PSS_2048_8192_SHA512,
                _ => return None,
            };
            // Numbers are given to ring without leading zeros, which some issuers write.
            let plain = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
            Some(Key::Rsa(parameters, RsaPublicKeyComponents { n: plain(n), e: plain(e) }))
        }
        DecodingKeyKind::SecretOrDer(bytes) => {
            let checked_with: &'static dyn VerificationAlgorithm = match algorithm {
                Algorithm::ES256 => &with::ECDSA_P256_SHA256_FIXED,
                Algorithm::ES384 => &with::ECDSA_P384_SHA384_FIXED,
                Algorithm::EdDSA => &with::ED25519,
                _ => return None,
            };
            Some(Key::Other(UnparsedPublicKey::new(checked_with, bytes.clone())))
        }
    }
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Error> {
        let checked = match &self.key {
            Key::Rsa(parameters, key) => key.verify(parameters, message, signature),
            Key::Other(key) => key.verify(message, signature),
        };
        checked.map_err(|_| Error::new())
    }
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
