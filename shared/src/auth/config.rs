//! How a port is told whom to let in. The same table for the public port and for admin ports.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fetch::Url;
use super::keys::ApiKey;
use super::token::ALGORITHMS;
use crate::config::{self, HumanDuration, Validate, allow, nested, within};

/// How callers show who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everybody may do everything.
    #[default]
    Off,
    ApiKeys,
    Jwt,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub mode: Mode,
    /// Whether the port may be reachable from other machines while `mode` is off.
    pub allow_anonymous: bool,
    pub keys: Vec<ApiKey>,
    /// A file with more keys, read again when it changes.
    pub keys_file: Option<PathBuf>,
    pub jwt: JwtConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// What `iss` must be.
    pub issuer: Option<String>,
    /// What `aud` must be or contain.
    pub audience: Option<String>,
    /// The issuer's public keys (RFC 7517), read again when the file changes …
    pub jwks_file: Option<PathBuf>,
    /// … or where they are fetched.
    pub jwks_url: Option<String>,
    /// Whose certificates the server at `jwks_url` may have, PEM; absent: those that Mozilla trusts.
    pub jwks_ca_file: Option<PathBuf>,
    /// How often `jwks_url` is fetched; sooner, but twice a minute at most, when a token names a key that is not known.
    pub jwks_refresh: HumanDuration,
    /// Which signatures are accepted.
    pub algorithms: Vec<String>,
    /// By how much clocks may differ.
    pub leeway: HumanDuration,
    /// The claim that lists roles.
    pub roles_claim: String,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            jwks_file: None,
            jwks_url: None,
            jwks_ca_file: None,
            jwks_refresh: HumanDuration::from_secs(300),
            algorithms: ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
            leeway: HumanDuration::from_secs(30),
            roles_claim: "berth".to_owned(),
        }
    }
}

impl Config {
    /// Refuses to serve everybody at an address that other machines reach, unless that is asked for. `key` is the name of this
    /// table and `listen` that of the address.
    pub fn check_exposure(&self, key: &str, listen: &str, address: &str) -> Result<(), config::Error> {
        let anonymous = self.mode == Mode::Off && !self.allow_anonymous && !config::is_loopback(address);
        let allowed = format!(
            "\"api-keys\" and \"jwt\" where {listen} ({address}) is not a loopback address, unless {key}.allow_anonymous = true \
             says that everybody who reaches the port may use it"
        );
        allow(!anonymous, &format!("{key}.mode"), "\"off\"", allowed)
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), config::Error> {
        match self.mode {
            Mode::Off => Ok(()),
            Mode::ApiKeys => {
                // Whether the keys make sense is found out where they are read, those of the file among them.
                let some = !self.keys.is_empty() || self.keys_file.is_some();
                allow(some, "keys", "[]", "lists of at least one key, or a keys_file, because mode is \"api-keys\"")
            }
            Mode::Jwt => nested("jwt", &self.jwt),
        }
    }
}

impl Validate for JwtConfig {
    fn validate(&self) -> Result<(), config::Error> {
        for (key, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            let given = value.as_ref().is_some_and(|value| !value.is_empty());
            allow(given, key, "no value", "texts that are not empty, because mode is \"jwt\"")?;
        }
        let one = self.jwks_file.is_some() != self.jwks_url.is_some();
        let value = if self.jwks_file.is_some() { "a value beside jwks_file" } else { "no value" };
        allow(
            one,
            "jwks_url",
            value,
            "addresses of key sets where there is no jwks_file, and none where there is one",
        )?;
        if let Some(url) = &self.jwks_url {
            let allowed = "https:// addresses, and http:// ones of this machine alone";
            allow(Url::parse(url).is_some(), "jwks_url", format!("{url:?}"), allowed)?;
        }
        let unknown = self.algorithms.iter().find(|name| !ALGORITHMS.iter().any(|(known, _)| known == name));
        let known = ALGORITHMS.map(|(known, _)| known).join(", ");
        allow(unknown.is_none(), "algorithms", format!("{:?}", self.algorithms), format!("lists of {known}"))?;
        allow(!self.algorithms.is_empty(), "algorithms", "[]", format!("lists of one or more of {known}"))?;
        allow(!self.roles_claim.is_empty(), "roles_claim", "\"\"", "names of claims")?;
        let seconds = HumanDuration::from_secs;
        within("jwks_refresh", self.jwks_refresh, seconds(30)..=seconds(24 * 3600))?;
        within("leeway", self.leeway, seconds(0)..=seconds(300))
    }
}
