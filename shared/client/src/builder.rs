//! How a client is made: the addresses, the credential and the limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::address::Addresses;
use crate::client::{Client, Shared};
use crate::error::Error;
use crate::transport::{self, Transport};

/// What a client is made of. Every setting has a default but the first address.
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> Result<(), berth_client::Error> {
/// let client = berth_client::Client::builder("http://gateway-a:8080")
///     .address("http://gateway-b:8080")
///     .bearer("the API key or token")
///     .deadline(Duration::from_secs(10))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Builder {
    addresses: Vec<String>,
    bearer: Option<String>,
    roots: Vec<u8>,
    deadline: Duration,
    attempt: Duration,
    attempts_max: u32,
}

impl Builder {
    pub(crate) fn new(address: String) -> Self {
        Self {
            addresses: vec![address],
            bearer: None,
            roots: Vec::new(),
            deadline: Duration::from_secs(30),
            attempt: Duration::from_secs(5),
            attempts_max: 16,
        }
    }

    /// Another gateway of the same cluster. The first address is used until it fails, then the next, and so on in a circle. A
    /// name that stands for several gateways needs no second address.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// An API key or token, sent with every request.
    pub fn bearer(mut self, credential: impl Into<String>) -> Self {
        self.bearer = Some(credential.into());
        self
    }

    /// Certificates, in PEM, of the authorities that `https://` gateways must have theirs from, instead of those that the
    /// system trusts.
    #[cfg(feature = "tls")]
    pub fn root_certificates(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.roots.extend_from_slice(pem.as_ref());
        self.roots.push(b'\n');
        self
    }

    /// How long a call may take with all its attempts: 30 s unless set here or at the call.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a gateway has for one attempt, which it is told in whole seconds, from 1 to 30: 5 s unless set here. A second
    /// later the attempt counts as lost, and the next address is tried.
    pub fn attempt(mut self, attempt: Duration) -> Self {
        self.attempt = attempt;
        self
    }

    /// How often a request is sent at most, the first time included: 16 unless set here. 1 is no retry at all.
    pub fn attempts_max(mut self, attempts_max: u32) -> Self {
        self.attempts_max = attempts_max;
        self
    }

    pub fn build(self) -> Result<Client, Error> {
        let transport = self.transport()?;
        self.build_with(transport)
    }

    /// With something else in the place of connections.
    pub(crate) fn build_with(self, transport: Box<dyn Transport>) -> Result<Client, Error> {
        let addresses = self.parsed()?;
        if self.attempts_max == 0 || self.deadline.is_zero() || self.attempt.is_zero() {
            return Err(Error::Invalid("a call needs time, and at least one attempt".to_owned()));
        }
        let bearer = self.bearer.map(|credential| HeaderValue::from_str(&format!("Bearer {credential}"))).transpose();
        let mut bearer =
            bearer.map_err(|_| Error::Invalid("the bearer credential cannot stand in a header".to_owned()))?;
        if let Some(bearer) = &mut bearer {
            bearer.set_sensitive(true);
        }
        let Self { deadline, attempt, attempts_max, .. } = self;
        let shared = Shared { addresses, transport, bearer, deadline, attempt, attempts_max };
        Ok(Client { shared: Arc::new(shared), session: Arc::default() })
    }

    fn parsed(&self) -> Result<Addresses, Error> {
        Addresses::new(&self.addresses).map_err(|error| Error::Invalid(error.to_string()))
    }

    #[cfg(feature = "tls")]
    fn transport(&self) -> Result<Box<dyn Transport>, Error> {
        if self.parsed()?.need_tls() {
            transport::with_tls(&self.roots).map_err(Error::Invalid)
        } else {
            Ok(transport::plain())
        }
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unnecessary_wraps, reason = "with TLS there is something that fails")]
    fn transport(&self) -> Result<Box<dyn Transport>, Error> {
        let _ = &self.roots;
        Ok(transport::plain())
    }
}

/// Without the credential.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, deadline, attempt, attempts_max, .. } = self;
        f.debug_struct("Builder")
            .field("addresses", addresses)
            .field("deadline", deadline)
            .field("attempt", attempt)
            .field("attempts_max", attempts_max)
            .finish_non_exhaustive()
    }
}
