//! Tokens of issuers and of those who would like to be one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;
use crate::auth::{Role, signature};

const NOW: f64 = 1_900_000_000.0;
/// An RSA key of 2048 bits, and its signatures of the one message, made by another program (OpenSSL).
const RSA_MODULUS: &str = "0Ur3BxuJRrwhoEo1ef0NS16oJ203ZCmc1Jfw9wMz05M3C56uj_ZhQgvXLyOTrnP1svnt_ezVmdV506GffdaBIHQlLuzinAltzXnS\
    DVYRMLTD_xnA0CrzAepY0p-wq4i4PjU-c_toQauyRyrkY3Bos-piIkMnmcghaSHkVJ4GPunwSDhRT6-lR3LDIXmIQCfnLLF9D3CW\
    30mOoQnXSy5PxjpsXBaAfG_hyS5YpM1f6FY3MGi1FZcbmGgNzj2bh2sByJ2rI-D52P1-4IqsfWxr08qkEg2AbbNLSsohpqeh46Tj\
    -sehrWv9ZtaFzCE0a5S39r7wdqiIi80dj0xjnk-Y8w";
const RSA_SIGNATURE: &str = "Ei3QTEp3J6j2T0Wz-amT-zF00GeXhSqPZQs_TyEBk2-QppTLglXECUoW7kOHerpBibRmjg_JzPJ9kquyXIEgMofyO6-UyX6O-66V\
    qt8FO8Tr__AG-w-H9dWHAYbaiq86zMNM--iBphpM4ds6c6H8QY1J-rCx3aHRUh5_TjFMI0BRBfzaVW2S2YHW6plM90VdAGCftYs1\
    CnsaivmXVBQkUmQb2KmfVDgJOpA7veVm5hCZFcAcMZHKvK4GjQwIUjr9Pa9D_NIPksRwNFrZmpM1VruU359dQkK2UCwIpzhy-9fa\
    HlaobdHVkYvAyTbZKVYjN76cLHgGzlg0iGXOvcTNoQ";
const PSS_SIGNATURE: &str = "Fp4CII6s7p4JhwCHu_wiraWSNmb6E_Zs_yTJJkPdnQx54-W0ZbzF0ltXXgosjhVHzpI5EIk8qzNJ6v1eABqKBMptaH-rYbuVVOvR\
    7JzWv8-P5jzXSMmttzNJm_EvjbC3VBFpLKXybKiMCNCwZwFM1k9AmYf1PozMCLJfKLeXrx3_zm0A9T-xVuNiIq9pztZTruPplu_Z\
    JO4JuXyf4aMqYzcBVU6jJrEda3hk_vD91kunjOxdhxXgGdIMwVYJqJSizQfiYYXKvzZJTerXY_T5uILgqhFzxUZ3aAWG5pi3jG1o\
    x-7y6MGbKzyxj9Id82KL1mv_L_sYfLNVkqAwI5UDsg";

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with one key of each kind.
struct Issuer {
    random: SystemRandom,
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        signature::install();
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap(),
            random,
        }
    }

    /// Beside keys of other kinds and for other purposes, which are left out.
    fn key_set(&self) -> KeySet {
        let (x, y) = self.ec.public_key().as_ref()[1..].split_at(32);
        let document = json!({"keys": [
            {"kty": "quantum", "kid": "future"},
            {"kty": "oct", "kid": "symmetric", "k": base64("the secret of HS256, which must not be one")},
            {"kty": "RSA", "kid": "rsa", "use": "enc", "n": RSA_MODULUS, "e": "AQAB", "alg": "RSA-OAEP"},
            {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": base64(self.ed.public_key())},
            {"kty": "EC", "kid": "ec", "crv": "P-256", "x": base64(x), "y": base64(y), "alg": "ES256", "use": "sig"},
            {"kty": "RSA", "kid": "rsa", "n": RSA_MODULUS, "e": "AQAB"},
        ]});
        let keys = KeySet::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(keys.0.len(), 3);
        keys
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = match header["alg"].as_str() {
            Some("ES256") => self.ec.sign(&self.random, message.as_bytes()).unwrap().as_ref().to_vec(),
            _ => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", base64(signature))
    }
}

fn rules() -> Rules {
    Rules {
        issuer: "https://id".to_owned(),
        audience: "berth".to_owned(),
        algorithms: ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec(),
        leeway: Duration::from_secs(30),
        roles_claim: "berth".to_owned(),
    }
}

fn claims() -> Value {
    json!({"iss": "https://id", "aud": "berth", "sub": "alice", "exp": NOW + 60.0, "berth": ["read:cart"]})
}

/// `claims` with some of them replaced; those that are null are taken out.
fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

#[test]
fn tokens_of_each_kind_of_key_are_taken() {
    let issuer = Issuer::new();
    let keys = issuer.key_set();
    for header in [
        json!({"alg": "EdDSA", "kid": "ed", "typ": "JWT"}),
        json!({"alg": "EdDSA"}),
        json!({"alg": "ES256", "kid": "ec"}),
    ] {
        let principal = rules().check(issuer.sign(&header, &claims()).as_bytes(), &keys, NOW).unwrap();
        assert_eq!(&*principal.name, "jwt:alice");
        assert!(
            principal.grants.allow(Role::Read, Some("cart")) && !principal.grants.allow(Role::Read, Some("account"))
        );
    }
    for (algorithm, signature) in [("RS256", RSA_SIGNATURE), ("PS256", PSS_SIGNATURE)] {
        let token = format!(
            "{}.{}.{signature}",
            base64(format!(r#"{{"alg":"{algorithm}","kid":"rsa"}}"#)),
            base64(
                r#"{"iss":"https://id","aud":["other","berth"],"sub":"alice","exp":2000000000,"berth":["read","write:cart"]}"#
            )
        );
        let principal = rules().check(token.as_bytes(), &keys, NOW).unwrap();
        assert!(principal.grants.allow(Role::Write, Some("cart")), "{algorithm}");
        let (message, _) = token.rsplit_once('.').unwrap();
        let swapped = format!("{message}.{}", if algorithm == "RS256" { PSS_SIGNATURE } else { RSA_SIGNATURE });
        assert_eq!(rules().check(swapped.as_bytes(), &keys, NOW), Err(Refusal::WrongSignature), "{algorithm}");
    }
}

#[test]
fn what_a_token_must_say_is_checked() {
    let issuer = Issuer::new();
    let keys = issuer.key_set();
    for (changes, expected) in [
        (json!({"iss": "https://evil"}), Refusal::WrongIssuer),
        (json!({"iss": null}), Refusal::BadToken),
        (json!({"iss": ["https://id"]}), Refusal::BadToken),
        (json!({"aud": "other"}), Refusal::WrongAudience),
        (json!({"aud": ["other"]}), Refusal::WrongAudience),
        (json!({"aud": []}), Refusal::WrongAudience),
        (json!({"aud": null}), Refusal::BadToken),
        (json!({"aud": {"berth": 1}}), Refusal::BadToken),
        (json!({"exp": NOW - 30.0}), Refusal::Expired),
        (json!({"exp": 0}), Refusal::Expired),
        (json!({"exp": null}), Refusal::BadToken),
        (json!({"exp": "2000000000"}), Refusal::BadToken),
        (json!({"nbf": NOW + 31.0}), Refusal::Early),
        (json!({"nbf": "soon"}), Refusal::BadToken),
        (json!({"sub": null}), Refusal::BadToken),
        (json!({"sub": ""}), Refusal::BadToken),
        (json!({"sub": "x".repeat(256)}), Refusal::BadToken),
    ] {
        let token = issuer.sign(&json!({"alg": "EdDSA", "kid": "ed"}), &with(&changes));
        assert_eq!(rules().check(token.as_bytes(), &keys, NOW), Err(expected), "{changes}");
    }
    for changes in [
        json!({"exp": NOW - 29.0}),
        json!({"nbf": NOW + 30.0}),
        json!({"nbf": NOW - 1e6, "iat": NOW - 1e6, "jti": "x"}),
        json!({"aud": ["a", "berth"]}),
    ] {
        let token = issuer.sign(&json!({"alg": "EdDSA", "kid": "ed"}), &with(&changes));
        assert!(rules().check(token.as_bytes(), &keys, NOW).is_ok(), "{changes}");
    }
}

#[test]
fn roles_are_a_list_or_a_text_and_unknown_ones_do_not_count() {
    let issuer = Issuer::new();
    let keys = issuer.key_set();
    for (roles, [reads, writes, administers]) in [
        (json!(["read", "offline_access", 7]), [true, false, false]),
        (json!("openid write"), [true, true, false]),
        (json!(["admin"]), [true, true, true]),
        (json!([]), [false, false, false]),
        (json!(true), [false, false, false]),
        (Value::Null, [false, false, false]),
    ] {
        let token = issuer.sign(&json!({"alg": "EdDSA"}), &with(&json!({"berth": roles})));
        let grants = rules().check(token.as_bytes(), &keys, NOW).unwrap().grants;
        let allowed = [Role::Read, Role::Write, Role::Admin].map(|role| grants.allow(role, Some("cart")));
        assert_eq!(allowed, [reads, writes, administers], "{roles}");
    }
}

#[test]
fn nobody_but_the_issuer_makes_tokens() {
    let issuer = Issuer::new();
    let (keys, claims) = (issuer.key_set(), claims());
    let check = |token: &str| rules().check(token.as_bytes(), &keys, NOW).unwrap_err();
    let parts = |header: &Value| format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));

    // Not signed at all.
    assert_eq!(check(&format!("{}.", parts(&json!({"alg": "none"})))), Refusal::BadToken);
    assert_eq!(check(&format!("{}.", parts(&json!({"alg": "EdDSA"})))), Refusal::WrongSignature);
    // By somebody else's key, that of the header among them.
    let other = Issuer::new();
    let token = other.sign(&json!({"alg": "EdDSA", "kid": "ed"}), &claims);
    assert_eq!(check(&token), Refusal::WrongSignature);
    let own_key = json!({"kty": "OKP", "crv": "Ed25519", "x": base64(other.ed.public_key())});
    assert_eq!(check(&other.sign(&json!({"alg": "EdDSA", "jwk": own_key}), &claims)), Refusal::WrongSignature);
    assert_eq!(check(&issuer.sign(&json!({"alg": "EdDSA", "kid": "other"}), &claims)), Refusal::UnknownSigner);
    // With a public key taken for a secret, and with the symmetric key of the set.
    for secret in [issuer.ed.public_key().as_ref(), b"the secret of HS256, which must not be one"] {
        let message = parts(&json!({"alg": "HS256", "kid": "symmetric"}));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let token = format!("{message}.{}", base64(ring::hmac::sign(&key, message.as_bytes())));
        assert_eq!(check(&token), Refusal::WrongAlgorithm);
    }
    // With a key of another kind, or for another algorithm.
    assert_eq!(check(&issuer.sign(&json!({"alg": "EdDSA", "kid": "ec"}), &claims)), Refusal::UnknownSigner);
    assert_eq!(check(&issuer.sign(&json!({"alg": "ES384", "kid": "ec"}), &claims)), Refusal::UnknownSigner);
    // Changed afterwards.
    let token = issuer.sign(&json!({"alg": "EdDSA", "kid": "ed"}), &claims);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let changed = with(&json!({"sub": "root", "berth": ["admin"]}));
    assert_eq!(check(&format!("{header}.{}.{signature}", base64(changed.to_string()))), Refusal::WrongSignature);
    // With a mark that must be understood.
    let marked = issuer.sign(&json!({"alg": "EdDSA", "kid": "ed", "crit": ["exp"], "exp": 1}), &claims);
    assert_eq!(check(&marked), Refusal::BadToken);
    // Not tokens.
    for text in ["", ".", "..", "a.b.c", "a.b.c.d", &token[1..], &format!("{token}.")] {
        assert_eq!(check(text), Refusal::BadToken, "{text}");
    }
    let strict = Rules { algorithms: vec![Algorithm::ES256], ..rules() };
    assert_eq!(strict.check(token.as_bytes(), &keys, NOW), Err(Refusal::WrongAlgorithm));
}

#[test]
fn a_set_without_a_usable_key_is_refused() {
    for document in ["", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, r#"{"keys":[1]}"#] {
        assert!(KeySet::parse(document.as_bytes()).is_err(), "{document}");
    }
}

proptest::proptest! {
    #[test]
    fn hostile_tokens_never_panic(token in "[A-Za-z0-9_.-]{0,80}", header in "\\PC{0,40}", claims in "\\PC{0,40}") {
        let issuer = Issuer::new();
        let keys = issuer.key_set();
        let _ = rules().check(token.as_bytes(), &keys, NOW);
        let _ = rules().check(format!("{}.{}.{token}", base64(header), base64(claims)).as_bytes(), &keys, NOW);
    }
}
