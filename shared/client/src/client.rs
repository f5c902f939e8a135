//! The client and its handle to one entity: where every call begins.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};
use serde::Serialize;
use serde_json::Value;

use crate::address::Addresses;
use crate::answer;
use crate::builder::Builder;
use crate::call::Call;
use crate::command::{Delete, Execute};
use crate::error::Error;
use crate::read::{Get, List, ReadHistory};
use crate::session::Session;
use crate::transport::Transport;
use crate::watch::Watch;

/// Talks to one cluster. Clones share connections and the session.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) addresses: Addresses,
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) bearer: Option<HeaderValue>,
    /// Of a call, with all its attempts.
    pub(crate) deadline: Duration,
    /// Of one attempt.
    pub(crate) attempt: Duration,
    pub(crate) attempts_max: u32,
}

impl Client {
    /// Of the gateway at `address`, such as `http://localhost:8080`, with the defaults of [`Builder`]. Connects when it is used.
    pub fn new(address: impl Into<String>) -> Result<Self, Error> {
        Self::builder(address).build()
    }

    pub fn builder(address: impl Into<String>) -> Builder {
        Builder::new(address.into())
    }

    /// One entity. Whether there is one is seen when it is asked.
    pub fn entity(&self, kind: impl Into<String>, id: impl Into<String>) -> Entity {
        Entity { client: self.clone(), kind: kind.into(), id: id.into() }
    }

    /// The entities of a kind that exist now, page by page.
    pub fn list(&self, kind: impl Into<String>) -> List {
        List::new(self.clone(), &kind.into())
    }

    /// The kinds that are served, with the JSON Schemas of their commands and events.
    pub async fn kinds(&self) -> Result<Value, Error> {
        answer::json(&self.call(&Call::new(Method::GET, &["kinds"])).await?)
    }

    /// One kind, with the JSON Schemas of its commands and events.
    pub async fn kind(&self, kind: &str) -> Result<Value, Error> {
        answer::json(&self.call(&Call::new(Method::GET, &["kinds", kind])).await?)
    }

    /// A client with a session of its own, which has seen nothing yet, and the same connections.
    ///
    /// A session is one line of requests and answers, such as those of one user. When requests of one session overlap, what
    /// it has seen cannot be put into one token any more; its reads with [`Consistency::Session`](crate::Consistency::Session)
    /// then go to owners, who have seen everything. That costs nothing but the choice of replicas.
    pub fn session(&self) -> Self {
        Self { shared: self.shared.clone(), session: Arc::default() }
    }

    /// The same, going on from a token that [`Self::session_token`] gave, perhaps in another process.
    pub fn session_from(&self, token: &str) -> Result<Self, Error> {
        let token = HeaderValue::from_str(token).map_err(|_| Error::Invalid("this is no session token".to_owned()))?;
        Ok(Self { shared: self.shared.clone(), session: Arc::new(Session::starting_with(Some(token))) })
    }

    /// What this session has seen, as a text to be carried elsewhere. It is opaque, fits a header, and is no secret.
    pub fn session_token(&self) -> Option<String> {
        Some(self.session.carry().token?.to_str().ok()?.to_owned())
    }
}

/// One entity of a cluster. Cheap to make.
#[derive(Clone, Debug)]
pub struct Entity {
    client: Client,
    kind: String,
    id: String,
}

impl Entity {
    /// Runs a command with these arguments, of which `()` are none, when it is awaited.
    pub fn execute(&self, command: &str, arguments: impl Serialize) -> Execute {
        Execute::new(self.client.clone(), self.call(Method::POST, Some(command)), &arguments)
    }

    /// Deletes the entity when it is awaited. Its history stays, and a later command starts anew.
    pub fn delete(&self) -> Delete {
        Delete::new(self.client.clone(), self.call(Method::DELETE, None))
    }

    /// Reads the state when it is awaited: that of now, or an earlier one.
    pub fn get(&self) -> Get {
        Get::new(self.client.clone(), self.call(Method::GET, None))
    }

    /// Reads one page of the history when it is awaited.
    pub fn events(&self) -> ReadHistory {
        ReadHistory::new(self.client.clone(), self.call(Method::GET, Some("events")))
    }

    /// Follows the history from after the event number `after` on; with 0, from the beginning.
    pub fn watch(&self, after: u64) -> Watch {
        Watch::new(self.client.clone(), self.call(Method::GET, Some("events")), after)
    }

    fn call(&self, method: Method, last: Option<&str>) -> Call {
        let mut segments = vec!["entities", &self.kind, &self.id];
        segments.extend(last);
        Call::new(method, &segments)
    }
}
