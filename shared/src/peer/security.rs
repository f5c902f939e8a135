//! How pods know that they talk to pods of their cluster: TLS both ways, a shared secret, or not at all. One table, alike for
//! gateways and nodes.
//!
//! | | who can connect | what somebody on the way can do |
//! | --- | --- | --- |
//! | `mtls` | who has a key and a certificate of the authority | nothing but cut connections |
//! | `secret` | who has the secret | read and change everything once the greeting is over |
//! | `off` | everybody | the same |

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{self, Validate, allow};
use crate::seam::Seams;
use crate::tls::{MutualConfig, TlsNetwork};
use crate::watched;

/// So that it cannot be guessed from what one connection shows.
const SECRET_BYTES_MIN: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    Off,
    Secret,
    Mtls,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub security: Mode,
    /// Whether pods may reach each other from other machines while `security` is off.
    pub allow_insecure: bool,
    /// What all pods of the cluster share, or …
    pub secret: Option<Secret>,
    /// … a file that holds it; blanks around it do not count.
    pub secret_file: Option<PathBuf>,
    /// PEM: this pod's certificate, and those that lead to the authority.
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// PEM: the authority whose certificates pods have.
    pub ca_file: Option<PathBuf>,
    /// DNS names one of which the certificate of a pod must have; empty: any certificate of the authority is a pod's.
    pub names: Vec<String>,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// Why pods cannot be told from others.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("between pods: {0}")]
    File(#[from] watched::Error),
    #[error("between pods: {file} has {found} bytes, and a secret needs {SECRET_BYTES_MIN}")]
    Short { file: String, found: usize },
    #[error("between pods: {file} is not UTF-8")]
    NotUtf8 { file: String },
}

impl Config {
    /// The secret that this pod proves to have, where that is what is asked for. [`Self::start`] reads it from its file.
    pub fn credential(&self) -> Option<String> {
        self.secret.as_ref().filter(|_| self.security == Mode::Secret).map(|secret| secret.0.clone())
    }

    /// Reads what there is to read: this configuration with its secret, and the seams on whose network pods reach each other.
    pub async fn start(mut self, seams: &Seams) -> Result<(Self, Seams), Error> {
        match (self.security, &self.secret_file) {
            (Mode::Secret, Some(file)) => {
                let name = || file.display().to_string();
                let contents = watched::read_once(file, seams).await?;
                let secret = std::str::from_utf8(&contents).map_err(|_| Error::NotUtf8 { file: name() })?.trim();
                if secret.len() < SECRET_BYTES_MIN {
                    return Err(Error::Short { file: name(), found: secret.len() });
                }
                self.secret = Some(Secret(secret.to_owned()));
                Ok((self, seams.clone()))
            }
            (Mode::Mtls, _) => {
                let network = TlsNetwork::start(self.mutual(), seams).await?;
                Ok((self, Seams { network: Arc::new(network), ..seams.clone() }))
            }
            (Mode::Off | Mode::Secret, _) => Ok((self, seams.clone())),
        }
    }

    /// Refuses to let everybody who reaches the peer port be a pod, unless that is asked for.
    pub fn check_exposure(&self, listen: &str) -> Result<(), config::Error> {
        let who = "that everybody who reaches the peer port may be a node or a gateway";
        self.check_open(config::is_loopback(listen), &format!("listen ({listen})"), who)
    }

    /// Refuses to take whoever answers at an address of another machine for a node, unless that is asked for.
    pub fn check_reach(&self, key: &str, addresses: &[String]) -> Result<(), config::Error> {
        let elsewhere = addresses.iter().find(|address| !config::is_loopback(address));
        let named = elsewhere.map(|address| format!("{key} ({address})")).unwrap_or_default();
        self.check_open(elsewhere.is_none(), &named, "that whoever answers there is a node")
    }

    fn check_open(&self, is_local: bool, named: &str, who: &str) -> Result<(), config::Error> {
        let allowed = format!(
            "\"mtls\" and \"secret\" where {named} is not a loopback address, unless peer.allow_insecure = true says {who}"
        );
        let open = self.security == Mode::Off && !self.allow_insecure && !is_local;
        allow(!open, "peer.security", "\"off\"", allowed)
    }

    fn mutual(&self) -> MutualConfig {
        // Absent ones, which a check of the configuration finds, are files without a name, which cannot be read.
        let file = |file: &Option<PathBuf>| file.clone().unwrap_or_default();
        MutualConfig {
            certificate_file: file(&self.certificate_file),
            key_file: file(&self.key_file),
            ca_file: file(&self.ca_file),
            names: self.names.clone(),
        }
    }
}

impl Validate for Config {
    fn validate(&self) -> Result<(), config::Error> {
        match self.security {
            Mode::Off => Ok(()),
            Mode::Secret => {
                let one = self.secret.is_some() != self.secret_file.is_some();
                allow(one, "secret", "none or two values", "texts, or a secret_file, because security is \"secret\"")?;
                let long = self.secret.as_ref().is_none_or(|secret| secret.0.len() >= SECRET_BYTES_MIN);
                allow(long, "secret", "a short value", format!("random texts of {SECRET_BYTES_MIN} bytes or more"))
            }
            Mode::Mtls => {
                for (key, file) in [
                    ("certificate_file", &self.certificate_file),
                    ("key_file", &self.key_file),
                    ("ca_file", &self.ca_file),
                ] {
                    allow(file.is_some(), key, "no value", "files, because security is \"mtls\"")?;
                }
                Ok(())
            }
        }
    }
}
