//! What a fuzzer tries on tokens that nobody has signed, and on sets of keys; see `loadtests/fuzz`. It panics where something
//! that must hold does not.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{ALGORITHMS, Claims, KeySet, Rules, SUBJECT_BYTES_MAX};
use crate::auth::signature;

const NOW: f64 = 1_900_000_000.0;
/// Public keys of which the standards tell (RFC 8037, A.2, and RFC 7517, A.1).
const KEYS: &str = r#"{"keys": [
    {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    {"kty": "EC", "crv": "P-256", "kid": "1", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
     "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}
]}"#;

/// A credential as it is; a header, claims and a signature, each on a line, as a token; claims that somebody has signed; and a
/// set of keys.
pub fn token(data: &[u8]) {
    signature::install();
    let keys = KeySet::parse(KEYS.as_bytes()).expect("these are keys");
    let rules = Rules {
        issuer: "i".to_owned(),
        audience: "a".to_owned(),
        algorithms: ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec(),
        leeway: Duration::from_secs(60),
        roles_claim: "roles".to_owned(),
    };
    assert!(rules.check(data, &keys, NOW).is_err(), "nobody has signed it");
    let parts: Vec<_> = data.splitn(3, |byte| *byte == b'\n').map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
    assert!(rules.check(parts.join(".").as_bytes(), &keys, NOW).is_err(), "nobody has signed it");
    if let Ok(claims) = serde_json::from_slice::<Claims>(data) {
        let (subject, expires) = (claims.sub.clone(), claims.exp);
        if let Ok(principal) = rules.check_claims(claims, NOW) {
            assert_eq!(*principal.name, format!("jwt:{subject}"));
            assert!((1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && expires + 60.0 > NOW);
        }
    }
    if let Ok(keys) = KeySet::parse(data) {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        assert!(rules.check(format!("{header}.e30.e30").as_bytes(), &keys, NOW).is_err(), "that is no signature");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        crate::replay::replay("bearer_token", super::token);
    }
}
