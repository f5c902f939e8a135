//! The clients of a run: each sends one request after the other over HTTP, to one of the gateways, and notes what it was told.
//! It keeps the session token of its newest answer and sends it with every request.

mod answer;
mod http;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_shared::seam::Seams;
use parking_lot::Mutex;

use crate::history::{Call, Consistency, Entity, Event, History, Kind, Listing, Operation, Outcome, Write};
use crate::world::Host;
use answer::outcome;
use http::{Answer, Connection};
pub use workload::{Style, entities};

/// What a client waits beyond the deadline, for an answer that is on its way.
const GRACE: Duration = Duration::from_secs(1);
/// Events per page when the logs are read.
const PAGE: usize = 200;
/// Entities per page of a listing: so few that most have several.
const LISTED: usize = 3;
/// Requests whose outcome a client knows and that it may send again, and deleted entities that it may read again.
const REMEMBERED_MAX: usize = 8;

/// One client.
#[derive(Debug)]
pub struct Client {
    number: usize,
    host: Arc<Host>,
    seams: Seams,
    /// One for each gateway; the client's own comes first.
    connections: Vec<Connection>,
    /// The one in use.
    current: usize,
    style: Style,
    history: Arc<Mutex<History>>,
    /// Writes so far; with the client's number it makes every write another one.
    writes: u64,
    token: Option<String>,
    /// The newest version that the client was told of each entity.
    known: BTreeMap<Entity, u64>,
    settled: Vec<Request>,
    deleted: Vec<Entity>,
}

/// A write as it is sent, each time alike.
#[derive(Clone, Debug)]
struct Request {
    entity: Entity,
    write: Write,
    condition: Option<u64>,
    key: Option<String>,
}

impl Client {
    /// A client of `gateways`, `host:port`, of which it begins with the first.
    pub fn new(
        number: usize,
        host: Arc<Host>,
        seams: Seams,
        gateways: Vec<String>,
        style: Style,
        history: Arc<Mutex<History>>,
    ) -> Self {
        let connections = gateways.into_iter().map(|gateway| Connection::new(seams.clone(), gateway)).collect();
        Self {
            number,
            host,
            seams,
            connections,
            current: 0,
            style,
            history,
            writes: 0,
            token: None,
            known: BTreeMap::new(),
            settled: Vec::new(),
            deleted: Vec::new(),
        }
    }

    /// Sends requests until the run is `end` nanoseconds old.
    pub async fn work_until(&mut self, end: u64) {
        while self.host.elapsed_nanos() < end {
            self.work_once().await;
            let pause = self.seams.random.next_u64() % (2 * self.style.pause.as_nanos() as u64 + 1);
            self.seams.spawner.sleep(Duration::from_nanos(pause)).await;
        }
    }

    async fn work_once(&mut self) {
        if self.is_drawn(self.style.repeats_percent) && !self.settled.is_empty() {
            let request = self.settled[self.draw(self.settled.len() as u64) as usize].clone();
            self.current = self.draw(self.connections.len() as u64) as usize;
            self.write(&request).await;
            return;
        }
        if self.is_drawn(self.style.lives_percent) {
            return self.begin_and_end().await;
        }
        if self.is_drawn(self.style.listings_percent) {
            return self.list(Kind::Counter).await;
        }
        let mut entities = entities();
        entities.retain(|entity| self.style.writes_documents || entity.kind != Kind::Document);
        if self.is_drawn(self.style.reads_percent) {
            entities.extend(self.deleted.iter().cloned());
            let entity = entities[self.draw(entities.len() as u64) as usize].clone();
            return self.read(&entity).await;
        }
        let entity = entities[self.draw(entities.len() as u64) as usize].clone();
        self.writes += 1;
        let write = workload::write(entity.kind, self.number, self.writes, self.seams.random.next_u64());
        let is_conditional = entity.kind == Kind::Counter && self.is_drawn(self.style.conditions_percent);
        let condition = self.known.get(&entity).copied().filter(|_| is_conditional);
        self.write_at_last(entity, write, condition).await;
    }

    /// An entity of this client alone, which it deletes at once, and in some cases writes to again.
    async fn begin_and_end(&mut self) {
        let entity = Entity { kind: Kind::Counter, id: format!("s{}-{}", self.number, self.writes) };
        for number in 0..2 + self.draw(4) / 3 {
            self.writes += 1;
            let write = match number {
                1 => Write::Delete,
                _ => workload::write(entity.kind, self.number, self.writes, 0),
            };
            self.write_at_last(entity.clone(), write, None).await;
            self.read(&entity).await;
        }
        self.deleted.truncate(REMEMBERED_MAX - 1);
        self.deleted.insert(0, entity);
    }

    /// Lists all entities of a kind.
    async fn list(&mut self, kind: Kind) {
        let invoked = self.host.elapsed_nanos();
        let pages = self.pages(kind).await;
        let completed = self.host.elapsed_nanos();
        self.host.note(format_args!("lists {kind:?} since {invoked}: {pages:?}"), &[]);
        if let Ok(ids) = pages {
            self.history.lock().listings.push(Listing { kind, ids, invoked, completed });
        }
    }

    /// The ids of a kind; an error says why some page did not come.
    async fn pages(&mut self, kind: Kind) -> Result<Vec<String>, String> {
        let mut ids = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/entities/{}?limit={LISTED}{cursor}", kind.name());
            let answer = self.send("GET", &path, &[], "").await?;
            let unfit = || format!("{path} is answered with {answer:?}");
            let page = answer.json().filter(|_| answer.status == 200).ok_or_else(unfit)?;
            for entity in page["entities"].as_array().ok_or_else(unfit)? {
                ids.push(entity["id"].as_str().ok_or_else(unfit)?.to_owned());
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(ids),
            }
        }
    }

    async fn read(&mut self, entity: &Entity) {
        let consistency = match self.draw(100) {
            drawn if drawn < self.style.sessions_percent => Consistency::Session,
            _ if self.is_drawn(self.style.stale_percent) => Consistency::Stale,
            _ if self.style.reads_strictly && self.draw(2) == 0 => Consistency::Strict,
            _ => Consistency::Linearizable,
        };
        self.run(entity, Call::Read(consistency), None, None).await;
    }

    /// Tries a write until its outcome is known, or a few times, or once.
    async fn write_at_last(&mut self, entity: Entity, write: Write, condition: Option<u64>) {
        let key = self.is_drawn(self.style.keys_percent).then(|| format!("client-{}-{}", self.number, self.writes));
        // Only who has a key of one's own can try again.
        let mut attempts = if key.is_some() && self.is_drawn(self.style.retries_percent) { 4 } else { 1 };
        let tries_again = attempts > 1;
        let request = Request { entity, write, condition, key };
        while attempts > 0 {
            attempts -= 1;
            let outcome = self.write(&request).await;
            if !matches!(outcome, Outcome::Unknown { .. } | Outcome::NotApplied { .. }) {
                // Now and then a client asks once more for what it knows.
                if tries_again && self.draw(4) == 0 {
                    self.write(&request).await;
                }
                return self.remember(request);
            }
            self.current = self.draw(self.connections.len() as u64) as usize;
        }
    }

    /// Keeps a request that may be sent again, in place of any other.
    fn remember(&mut self, request: Request) {
        if request.key.is_none() {
            return;
        }
        if self.settled.len() < REMEMBERED_MAX {
            self.settled.push(request);
        } else {
            let place = self.draw(REMEMBERED_MAX as u64) as usize;
            self.settled[place] = request;
        }
    }

    /// Opens the accounts, which everything else rests on; tries until it is done.
    pub async fn open_accounts(&mut self) {
        for entity in entities().into_iter().filter(|entity| entity.kind == Kind::Account) {
            let key = Some(format!("open-{}", entity.id));
            let request = Request { entity, write: Write::Open, condition: None, key };
            while !matches!(self.write(&request).await, Outcome::Applied { .. }) {
                self.seams.spawner.sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn draw(&self, below: u64) -> u64 {
        self.seams.random.next_u64() % below
    }

    fn is_drawn(&self, percent: u64) -> bool {
        self.draw(100) < percent
    }

    async fn write(&mut self, request: &Request) -> Outcome {
        let Request { entity, write, condition, key } = request;
        self.run(entity, Call::Write(*write), *condition, key.clone()).await
    }

    /// Sends one request and writes down what came of it.
    async fn run(&mut self, entity: &Entity, call: Call, condition: Option<u64>, key: Option<String>) -> Outcome {
        let invoked = self.host.elapsed_nanos();
        let answer = match &call {
            Call::Write(write) => self.send_write(entity, *write, condition, key.as_deref()).await,
            Call::Read(consistency) => {
                let query = match consistency {
                    Consistency::Linearizable => "",
                    Consistency::Strict => "?consistency=strict",
                    Consistency::Session => "?consistency=session",
                    Consistency::Stale => "?consistency=stale",
                };
                self.send("GET", &format!("{}{query}", path(entity)), &[], "").await
            }
        };
        let outcome = match answer {
            Ok(answer) => outcome(&call, &answer),
            Err(why) => Outcome::Unknown { why },
        };
        let completed = self.host.elapsed_nanos();
        let (client, entity) = (self.number, entity.clone());
        let operation =
            Operation { client, entity, call, condition, key, invoked, completed, outcome: outcome.clone() };
        if let Some(version) = operation.version() {
            let known = self.known.entry(operation.entity.clone()).or_default();
            *known = version.max(*known);
        }
        self.host.note(format_args!("{operation:?}"), &[]);
        self.history.lock().operations.push(operation);
        outcome
    }

    async fn send_write(
        &mut self,
        entity: &Entity,
        write: Write,
        condition: Option<u64>,
        key: Option<&str>,
    ) -> Result<Answer, String> {
        let condition = condition.map(|version| format!("\"{version}\""));
        let mut headers = Vec::new();
        headers.extend(key.map(|key| ("idempotency-key", key)));
        headers.extend(condition.as_deref().map(|tag| ("if-match", tag)));
        if write == Write::Delete {
            return self.send("DELETE", &path(entity), &headers, "").await;
        }
        let (command, arguments) = write.command();
        self.send("POST", &format!("{}/{command}", path(entity)), &headers, &arguments.to_string()).await
    }

    async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer, String> {
        let wait = format!("wait={}", self.style.deadline.as_secs());
        let mut all = vec![("content-type", "application/json"), ("prefer", wait.as_str())];
        all.extend(self.token.as_deref().map(|token| ("berth-session", token)));
        all.extend(headers);
        let patience = self.style.deadline + GRACE;
        let answer = self.connections[self.current].send(method, path, &all, body, patience).await?;
        if answer.token.is_some() {
            self.token.clone_from(&answer.token);
        }
        Ok(answer)
    }

    /// Reads the logs of all entities into the history; an error says which cannot be read.
    pub async fn read_logs(&mut self) -> Result<(), String> {
        let mut all = entities();
        all.extend(self.history.lock().entities().into_iter().cloned());
        all.sort();
        all.dedup();
        for entity in all {
            let log = self.read_log(&entity).await?;
            self.history.lock().logs.insert(entity, log);
        }
        Ok(())
    }

    async fn read_log(&mut self, entity: &Entity) -> Result<Vec<Event>, String> {
        let mut log = Vec::new();
        let mut after = 0;
        loop {
            let path = format!("{}/events?after={after}&limit={PAGE}", path(entity));
            let answer = self.send("GET", &path, &[], "").await?;
            if answer.status == 404 {
                return Ok(log);
            }
            let unfit = || format!("{path} is answered with {answer:?}");
            let page = answer.json().filter(|_| answer.status == 200).ok_or_else(unfit)?;
            for event in page["events"].as_array().ok_or_else(unfit)? {
                let version = event["version"].as_u64().ok_or_else(unfit)?;
                let name = event["type"].as_str().ok_or_else(unfit)?.to_owned();
                log.push(Event { version, name, data: event["data"].clone() });
            }
            match page["next"].as_u64() {
                Some(next) if next > after => after = next,
                Some(_) => return Err(unfit()),
                None => return Ok(log),
            }
        }
    }
}

fn path(entity: &Entity) -> String {
    format!("/v1/entities/{}/{}", entity.kind.name(), entity.id)
}
