//! API keys: long random texts, of which only hashes are kept. Whoever reads the configuration cannot use them.

use std::collections::HashMap;
use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format, Toml};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::grants::Grants;
use super::{Principal, Refusal};

/// Most keys of one port.
const KEYS_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 64;

/// One key, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Whose key it is. Several keys may have one name, as while one is replaced by the next.
    pub name: String,
    /// `sha256:` or `blake3:` and the hash of the key in hexadecimal digits.
    pub hash: String,
    /// Such as `read` and `write:cart`.
    pub roles: Vec<String>,
}

/// The file of keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: Vec<ApiKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Algorithm {
    Sha256,
    Blake3,
}

/// All keys, found by their hashes.
pub(super) struct Ring {
    /// The hashes are looked up under a key that only this process knows, so that nobody can learn from the time it takes how
    /// far a guess was right.
    pepper: [u8; 32],
    keys: HashMap<[u8; 32], Known>,
    algorithms: Vec<Algorithm>,
}

struct Known {
    hash: blake3::Hash,
    principal: Principal,
}

impl Ring {
    /// Of the keys of the configuration and those of a file, or what is wrong with them.
    pub(super) fn new(configured: &[ApiKey], file: Option<&[u8]>, pepper: [u8; 32]) -> Result<Self, String> {
        let from_file = file.map(parse_file).transpose()?.unwrap_or_default();
        let mut ring = Self { pepper, keys: HashMap::new(), algorithms: Vec::new() };
        for key in configured.iter().chain(&from_file) {
            ring.add(key).map_err(|why| format!("the key {:?}: {why}", key.name))?;
        }
        Ok(ring)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose key it is.
    pub(super) fn find(&self, key: &[u8]) -> Result<Principal, Refusal> {
        for algorithm in &self.algorithms {
            let hash = algorithm.hash(key);
            // Hashes of this type are compared in constant time.
            if let Some(known) = self.keys.get(&self.place(*algorithm, hash)).filter(|known| known.hash == hash) {
                return Ok(known.principal.clone());
            }
        }
        Err(Refusal::UnknownKey)
    }

    fn add(&mut self, key: &ApiKey) -> Result<(), String> {
        let named =
            (1..=NAME_BYTES_MAX).contains(&key.name.len()) && key.name.bytes().all(|byte| byte.is_ascii_graphic());
        if !named {
            return Err(format!("a name has 1 to {NAME_BYTES_MAX} visible ASCII characters without blanks"));
        }
        let (algorithm, hash) = parse_hash(&key.hash).ok_or(
            "its hash is not sha256: or blake3: and 64 hexadecimal digits, as of printf %s \"$KEY\" | sha256sum",
        )?;
        let grants = Grants::parse(key.roles.iter().map(String::as_str)).map_err(|error| error.to_string())?;
        let principal = Principal { name: format!("key:{}", key.name).into(), grants: Arc::new(grants) };
        if self.keys.len() == KEYS_MAX {
            return Err(format!("there are more than {KEYS_MAX} keys"));
        }
        if self.keys.insert(self.place(algorithm, hash), Known { hash, principal }).is_some() {
            return Err("another key has the same hash".to_owned());
        }
        if !self.algorithms.contains(&algorithm) {
            self.algorithms.push(algorithm);
        }
        Ok(())
    }

    fn place(&self, algorithm: Algorithm, hash: blake3::Hash) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.pepper);
        hasher.update(&[algorithm as u8]).update(hash.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

impl Algorithm {
    fn hash(self, key: &[u8]) -> blake3::Hash {
        match self {
            Self::Blake3 => blake3::hash(key),
            Self::Sha256 => {
                let mut bytes = [0; 32];
                // SHA-256 has 32 bytes.
                bytes.copy_from_slice(digest(&SHA256, key).as_ref());
                blake3::Hash::from_bytes(bytes)
            }
        }
    }
}

fn parse_file(contents: &[u8]) -> Result<Vec<ApiKey>, String> {
    let text = std::str::from_utf8(contents).map_err(|_| "the file is not UTF-8".to_owned())?;
    let file: File = Figment::from(Toml::string(text)).extract().map_err(|error| error.to_string())?;
    Ok(file.keys)
}

fn parse_hash(text: &str) -> Option<(Algorithm, blake3::Hash)> {
    let (name, digits) = text.split_once(':')?;
    let algorithm = match name {
        "sha256" => Algorithm::Sha256,
        "blake3" => Algorithm::Blake3,
        _ => return None,
    };
    Some((algorithm, blake3::Hash::from_hex(digits).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    fn key(name: &str, hash: String, roles: &[&str]) -> ApiKey {
        ApiKey { name: name.to_owned(), hash, roles: roles.iter().map(|role| (*role).to_owned()).collect() }
    }

    fn blake3_of(key: &str) -> String {
        format!("blake3:{}", blake3::hash(key.as_bytes()).to_hex())
    }

    #[test]
    fn a_key_is_found_by_either_hash_and_others_are_not() {
        let sha_of_one = format!("sha256:{}", Algorithm::Sha256.hash(b"secret-one").to_hex());
        let keys = [
            key("one", sha_of_one, &["read"]),
            key("two", blake3_of("secret-two"), &["write:cart"]),
            key("two", format!("sha256:{}", "ab".repeat(32)), &["admin"]),
        ];
        let ring = Ring::new(&keys, None, [7; 32]).unwrap();
        assert_eq!(&*ring.find(b"secret-one").unwrap().name, "key:one");
        let two = ring.find(b"secret-two").unwrap();
        assert_eq!((&*two.name, two.grants.allow(Role::Write, Some("cart"))), ("key:two", true));
        for wrong in ["", "secret-on", "secret-one ", "one", &keys[0].hash, &keys[1].hash[7..]] {
            assert_eq!(ring.find(wrong.as_bytes()).unwrap_err(), Refusal::UnknownKey, "{wrong}");
        }
    }

    #[test]
    fn sha256_is_what_everybody_computes() {
        // The first vector of FIPS 180-4.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Algorithm::Sha256.hash(b"abc").to_hex().as_str(), abc);
    }

    #[test]
    fn a_file_adds_keys_to_those_of_the_configuration() {
        let file = format!("[[keys]]\nname = \"f\"\nhash = \"{}\"\nroles = [\"read\"]\n", blake3_of("from-file"));
        let ring = Ring::new(&[key("c", blake3_of("from-config"), &["read"])], Some(file.as_bytes()), [0; 32]).unwrap();
        assert_eq!(&*ring.find(b"from-file").unwrap().name, "key:f");
        assert_eq!(&*ring.find(b"from-config").unwrap().name, "key:c");
        assert!(Ring::new(&[], Some(b""), [0; 32]).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said_by_its_name() {
        let good = || blake3_of("x");
        for (keys, part) in [
            (vec![key("a b", good(), &[])], "a name has"),
            (vec![key("a", "x".to_owned(), &[])], "sha256: or blake3:"),
            (vec![key("a", "md5:00".to_owned(), &[])], "sha256: or blake3:"),
            (vec![key("a", good(), &["owner"])], "\"owner\" is not a role"),
            (vec![key("b", good(), &[]), key("a", good(), &[])], "the same hash"),
        ] {
            let error = Ring::new(&keys, None, [0; 32]).err().unwrap();
            assert!(error.starts_with("the key \"a") && error.contains(part), "{error}");
        }
        for file in ["keys = 1", "[[keys]]\nname = \"a\"", "colour = 1", "\u{fffd}["] {
            assert!(Ring::new(&[], Some(file.as_bytes()), [0; 32]).is_err(), "{file}");
        }
    }
}
