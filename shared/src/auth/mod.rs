//! Who asks, and what they may do: API keys or tokens in `Authorization: Bearer`, roles by kind, and refusals that are counted
//! and logged without the secret. It knows no HTTP server: it is handed the values of the header, and says who it is or why
//! not. Every port has a [`Guard`] of its own.

mod config;
mod fetch;
mod grants;
mod keys;
mod refusals;
mod signature;
mod token;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::seam::Seams;
use crate::telemetry::Metrics;
use crate::tls;
use crate::watched::{self, Watched};

pub use config::{Config, JwtConfig, Mode};
pub use grants::{Grants, Role};
pub use keys::ApiKey;
pub use refusals::Refusal;
#[cfg(any(test, fuzzing))]
pub use token::fuzz;

use fetch::{Fetched, Url};
use keys::Ring;
use refusals::Refusals;
use token::{ALGORITHMS, KeySet, Rules};

/// Longest credential that is looked at.
const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;

/// Who asks, as it is known once the guard of a port has let them in. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// `key:` and the name of an API key, `jwt:` and the subject of a token, or nothing where nobody is asked who they are. It
    /// stays the same while a key is replaced or a token renewed, so limits and idempotency keys are kept by it. Never a secret.
    pub name: Arc<str>,
    pub grants: Arc<Grants>,
}

impl Principal {
    /// Somebody who was not asked, and may do nothing that is asked for.
    pub fn nobody() -> Self {
        Self { name: "".into(), grants: Arc::default() }
    }
}

/// Why a port cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("API keys: {0}")]
    Keys(String),
    #[error(transparent)]
    File(#[from] watched::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Only without a check of the configuration.
    #[error("{0} is missing in the configuration of tokens")]
    Missing(&'static str),
}

/// What one port lets in.
#[derive(Debug)]
pub struct Guard {
    known: Known,
    refusals: Refusals,
}

enum Known {
    Everybody(Principal),
    Keys(Keys),
    Tokens(Box<Tokens>),
}

/// API keys, those of a file among them where there is one.
enum Keys {
    Fixed(Ring),
    Watched(Watched<Ring>),
}

struct Tokens {
    rules: Rules,
    keys: TokenKeys,
    seams: Seams,
}

enum TokenKeys {
    File(Watched<KeySet>),
    Url(Fetched),
}

impl Guard {
    /// Reads what there is to read. `counter` is the metric of refusals, and `port` its label.
    pub async fn start(
        config: &Config,
        metrics: &Metrics,
        counter: &'static str,
        port: &'static str,
        seams: &Seams,
    ) -> Result<Self, Error> {
        let known = match config.mode {
            Mode::Off => Known::everybody(),
            Mode::ApiKeys => Known::Keys(Keys::start(config, seams).await?),
            Mode::Jwt => Known::Tokens(Box::new(Tokens::start(&config.jwt, seams).await?)),
        };
        Ok(Self { known, refusals: Refusals::new(metrics.clone(), counter, port, seams) })
    }

    /// One that lets everybody do everything.
    pub fn open(metrics: &Metrics, counter: &'static str, port: &'static str, seams: &Seams) -> Self {
        Self { known: Known::everybody(), refusals: Refusals::new(metrics.clone(), counter, port, seams) }
    }

    /// Whether everybody may do everything.
    pub fn is_off(&self) -> bool {
        matches!(self.known, Known::Everybody(_))
    }

    /// Who it is, by the values of all `Authorization` headers of a request.
    pub fn authenticate<'a>(&self, headers: impl IntoIterator<Item = &'a [u8]>) -> Result<Principal, Refusal> {
        let principal = match &self.known {
            Known::Everybody(principal) => return Ok(principal.clone()),
            Known::Keys(keys) => credential(headers).and_then(|key| keys.find(key)),
            Known::Tokens(tokens) => credential(headers).and_then(|token| tokens.check(token)),
        };
        principal.inspect_err(|refusal| self.refusals.note(*refusal, ""))
    }

    /// Whether they may do this; without a kind, whether they may do it with anything at all.
    pub fn authorize(&self, principal: &Principal, role: Role, kind: Option<&str>) -> Result<(), Refusal> {
        if principal.grants.allow(role, kind) {
            return Ok(());
        }
        Err(self.forbid(principal))
    }

    /// Whether they may do this with everything: what shows all kinds at once is for nobody who may see only some.
    pub fn authorize_all(&self, principal: &Principal, role: Role) -> Result<(), Refusal> {
        if principal.grants.allow_all(role) { Ok(()) } else { Err(self.forbid(principal)) }
    }

    fn forbid(&self, principal: &Principal) -> Refusal {
        self.refusals.note(Refusal::Forbidden, &principal.name);
        Refusal::Forbidden
    }
}

impl Known {
    fn everybody() -> Self {
        Self::Everybody(Principal { name: "".into(), grants: Arc::new(Grants::all()) })
    }
}

impl Keys {
    async fn start(config: &Config, seams: &Seams) -> Result<Self, Error> {
        let pepper = pepper(seams);
        let Some(file) = config.keys_file.clone() else {
            let ring = Ring::new(&config.keys, None, pepper).map_err(Error::Keys)?;
            return if ring.is_empty() { Err(Error::Keys("there is none".to_owned())) } else { Ok(Self::Fixed(ring)) };
        };
        let configured = config.keys.clone();
        let parse = move |contents: &[Vec<u8>]| Ring::new(&configured, contents.first().map(Vec::as_slice), pepper);
        Ok(Self::Watched(Watched::start(vec![file], seams, parse).await?))
    }

    fn find(&self, key: &[u8]) -> Result<Principal, Refusal> {
        match self {
            Self::Fixed(ring) => ring.find(key),
            Self::Watched(ring) => ring.get().find(key),
        }
    }
}

fn pepper(seams: &Seams) -> [u8; 32] {
    let mut pepper = [0; 32];
    for part in pepper.chunks_mut(16) {
        part.copy_from_slice(&seams.random.next_u128().to_le_bytes());
    }
    pepper
}

impl Tokens {
    async fn start(config: &JwtConfig, seams: &Seams) -> Result<Self, Error> {
        signature::install();
        let listed =
            |name: &String| ALGORITHMS.iter().find(|(known, _)| known == name).map(|(_, algorithm)| *algorithm);
        let rules = Rules {
            issuer: config.issuer.clone().ok_or(Error::Missing("issuer"))?,
            audience: config.audience.clone().ok_or(Error::Missing("audience"))?,
            algorithms: config.algorithms.iter().filter_map(listed).collect(),
            leeway: config.leeway.0,
            roles_claim: config.roles_claim.clone(),
        };
        let keys = match (&config.jwks_file, &config.jwks_url) {
            (Some(file), _) => TokenKeys::File(watch_key_set(file, seams).await?),
            (None, Some(url)) => {
                let url = Url::parse(url).ok_or(Error::Missing("jwks_url"))?;
                let trust = match &config.jwks_ca_file {
                    Some(file) => tls::Trust::file(file, seams).await?,
                    None => tls::Trust::mozilla(seams)?,
                };
                TokenKeys::Url(Fetched::start(url, trust, config.jwks_refresh.0, seams))
            }
            (None, None) => return Err(Error::Missing("jwks_file")),
        };
        Ok(Self { rules, keys, seams: seams.clone() })
    }

    fn check(&self, token: &[u8]) -> Result<Principal, Refusal> {
        let now = self.seams.clock.wall_micros() as f64 / 1e6;
        match &self.keys {
            TokenKeys::File(keys) => self.rules.check(token, &keys.get(), now),
            TokenKeys::Url(fetched) => {
                let keys = fetched.keys().ok_or(Refusal::NoKeys)?;
                let checked = self.rules.check(token, &keys, now);
                if checked == Err(Refusal::UnknownSigner) {
                    fetched.want();
                }
                checked
            }
        }
    }
}

async fn watch_key_set(file: &Path, seams: &Seams) -> Result<Watched<KeySet>, watched::Error> {
    let parse = |contents: &[Vec<u8>]| KeySet::parse(contents.first().map(Vec::as_slice).unwrap_or_default());
    Watched::start(vec![file.to_owned()], seams, parse).await
}

/// What stands after `Bearer` in the one header that there may be (RFC 6750).
fn credential<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Result<&'a [u8], Refusal> {
    let mut headers = headers.into_iter();
    let header = headers.next().ok_or(Refusal::Missing)?;
    if headers.next().is_some() {
        return Err(Refusal::Malformed);
    }
    let scheme = header.iter().position(|byte| *byte == b' ').unwrap_or(header.len());
    let (scheme, rest) = header.split_at(scheme);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Refusal::Malformed);
    }
    let credential = rest.trim_ascii();
    let whole = (1..=CREDENTIAL_BYTES_MAX).contains(&credential.len()) && credential.iter().all(u8::is_ascii_graphic);
    if whole { Ok(credential) } else { Err(Refusal::Malformed) }
}

impl fmt::Debug for Known {
    /// Without keys and hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everybody(_) => "Everybody",
            Self::Keys(_) => "Keys",
            Self::Tokens(_) => "Tokens",
        })
    }
}

#[cfg(test)]
mod tests;
