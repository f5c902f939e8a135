//! Tokens (JWT, RFC 7519) that somebody else signs: who signed, for whom, until when, and which roles they give. Only
//! public-key signatures are accepted, and only the algorithms that are listed; keys come from one key set and never from a
//! token's own header.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;

use super::grants::Grants;
use super::{Principal, Refusal};

/// The algorithms that may be listed.
pub(super) const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];
/// Most keys of a set; further ones are left out.
const KEYS_MAX: usize = 100;
/// Most keys that a token without a key id is tried with.
const TRIES_MAX: usize = 4;
/// Longest name of a subject.
const SUBJECT_BYTES_MAX: usize = 255;

/// The public keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The one algorithm that it is for, where the set says so.
    algorithm: Option<Algorithm>,
    public: DecodingKey,
}

/// What tokens must say.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) leeway: Duration,
    pub(super) roles_claim: String,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    /// Seconds since 1970, maybe with a fraction.
    exp: f64,
    nbf: Option<f64>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl KeySet {
    /// Of a document as RFC 7517 has it. Keys that are not for signatures, symmetric ones, and those of unknown kinds are left
    /// out: a set may hold keys for others.
    pub(super) fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document =
            serde_json::from_slice(document).map_err(|error| format!("this is no key set (RFC 7517): {error}"))?;
        let keys: Vec<Key> = document.keys.into_iter().filter_map(Key::parse).take(KEYS_MAX).collect();
        if keys.is_empty() { Err("the key set has no public key for signatures".to_owned()) } else { Ok(Self(keys)) }
    }

    /// Keys that may have signed with this algorithm: those of the id, if there is one.
    fn candidates<'a>(&'a self, id: Option<&'a str>, algorithm: Algorithm) -> impl Iterator<Item = &'a Key> {
        let fits = move |key: &&Key| {
            key.public.family() == algorithm.family()
                && key.algorithm.is_none_or(|only| only == algorithm)
                && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.0.iter().filter(fits).take(TRIES_MAX)
    }
}

impl Key {
    fn parse(value: Value) -> Option<Self> {
        let purpose = value.get("use").and_then(Value::as_str);
        if purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let public = DecodingKey::from_jwk(&jwk).ok().filter(|key| key.family() != AlgorithmFamily::Hmac)?;
        let algorithm = match jwk.common.key_algorithm {
            None => None,
            Some(named) => Some(named.to_string().parse().ok()?),
        };
        Some(Self { id: jwk.common.key_id, algorithm, public })
    }
}

impl Rules {
    /// Whose token it is, at this time in seconds since 1970.
    pub(super) fn check(&self, token: &[u8], keys: &KeySet, now: f64) -> Result<Principal, Refusal> {
        let header = decode_header(token).map_err(|_| Refusal::BadToken)?;
        // What is marked critical must be understood, and nothing is.
        if header.crit.is_some() {
            return Err(Refusal::BadToken);
        }
        if !self.algorithms.contains(&header.alg) {
            return Err(Refusal::WrongAlgorithm);
        }
        let mut validation = Validation::new(header.alg);
        // The library reads a clock of its own; and what these claims may look like is stricter here.
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        let mut refusal = Refusal::UnknownSigner;
        for key in keys.candidates(header.kid.as_deref(), header.alg) {
            match decode::<Claims>(token, &key.public, &validation) {
                Ok(data) => return self.check_claims(data.claims, now),
                Err(error) if matches!(error.kind(), jsonwebtoken::errors::ErrorKind::Json(_)) => {
                    return Err(Refusal::BadToken);
                }
                Err(_) => refusal = Refusal::WrongSignature,
            }
        }
        Err(refusal)
    }

    fn check_claims(&self, claims: Claims, now: f64) -> Result<Principal, Refusal> {
        let leeway = self.leeway.as_secs_f64();
        let for_us = match &claims.aud {
            Audience::One(audience) => *audience == self.audience,
            Audience::Several(audiences) => audiences.contains(&self.audience),
        };
        if claims.iss != self.issuer {
            return Err(Refusal::WrongIssuer);
        }
        if !for_us {
            return Err(Refusal::WrongAudience);
        }
        if claims.exp + leeway <= now {
            return Err(Refusal::Expired);
        }
        if claims.nbf.is_some_and(|begin| now + leeway < begin) {
            return Err(Refusal::Early);
        }
        if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX {
            return Err(Refusal::BadToken);
        }
        let grants = match claims.others.get(&self.roles_claim) {
            Some(Value::Array(entries)) => Grants::parse_known(entries.iter().filter_map(Value::as_str)),
            Some(Value::String(entries)) => Grants::parse_known(entries.split_whitespace()),
            _ => Grants::default(),
        };
        Ok(Principal { name: format!("jwt:{}", claims.sub).into(), grants: Arc::new(grants) })
    }
}

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod tests;
