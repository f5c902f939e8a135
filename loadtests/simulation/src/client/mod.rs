//! The clients of a run: each sends one request after the other to a gateway over HTTP, and notes what it was told.

mod http;
mod workload;

use std::sync::Arc;
use std::time::Duration;

use berth_shared::seam::Seams;
use parking_lot::Mutex;
use serde_json::Value;

use crate::history::{Call, Entity, Event, History, Kind, Operation, Outcome, Write};
use crate::world::Host;
use http::{Answer, Connection};
pub use workload::{Style, entities};

/// What a request may take at most, which every request says.
const DEADLINE: Duration = Duration::from_secs(5);
/// What a client waits beyond the deadline, for an answer that is on its way.
const GRACE: Duration = Duration::from_secs(1);
/// Events per page when the logs are read.
const PAGE: usize = 200;

/// One client.
#[derive(Debug)]
pub struct Client {
    number: usize,
    host: Arc<Host>,
    seams: Seams,
    connection: Connection,
    style: Style,
    history: Arc<Mutex<History>>,
    /// Writes so far; with the client's number it makes every write another one.
    writes: u64,
}

impl Client {
    /// A client of the gateway at `gateway`, `host:port`.
    pub fn new(
        number: usize,
        host: Arc<Host>,
        seams: Seams,
        gateway: String,
        style: Style,
        history: Arc<Mutex<History>>,
    ) -> Self {
        let connection = Connection::new(seams.clone(), gateway);
        Self { number, host, seams, connection, style, history, writes: 0 }
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
        let mut entities = entities();
        entities.retain(|entity| self.style.writes_documents || entity.kind != Kind::Document);
        let entity = entities[self.draw(entities.len() as u64) as usize].clone();
        if self.draw(100) < self.style.reads_percent {
            let is_strict = self.style.reads_strictly && self.draw(2) == 0;
            self.run(&entity, Call::Read { is_strict }, None).await;
            return;
        }
        self.writes += 1;
        let write = workload::write(entity.kind, self.number, self.writes, self.seams.random.next_u64());
        let key = (self.draw(100) < self.style.keys_percent).then(|| format!("client-{}-{}", self.number, self.writes));
        let mut attempts = 1;
        // Only who has a key of one's own can try again.
        if key.is_some() && self.draw(100) < self.style.retries_percent {
            attempts += 3;
        }
        for _ in 0..attempts {
            let outcome = self.run(&entity, Call::Write(write), key.clone()).await;
            if !matches!(outcome, Outcome::Unknown { .. } | Outcome::NotApplied { .. }) {
                // Now and then a client asks once more for what it knows.
                if attempts > 1 && self.draw(4) == 0 {
                    self.run(&entity, Call::Write(write), key.clone()).await;
                }
                return;
            }
        }
    }

    /// Opens the accounts, which everything else rests on; tries until it is done.
    pub async fn open_accounts(&mut self) {
        for entity in entities().into_iter().filter(|entity| entity.kind == Kind::Account) {
            let key = Some(format!("open-{}", entity.id));
            loop {
                let outcome = self.run(&entity, Call::Write(Write::Open), key.clone()).await;
                if matches!(outcome, Outcome::Applied { .. }) {
                    break;
                }
                self.seams.spawner.sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn draw(&self, below: u64) -> u64 {
        self.seams.random.next_u64() % below
    }

    /// Sends one request and writes down what came of it.
    async fn run(&mut self, entity: &Entity, call: Call, key: Option<String>) -> Outcome {
        let invoked = self.host.elapsed_nanos();
        let answer = match &call {
            Call::Write(write) => self.send_write(entity, *write, key.as_deref()).await,
            Call::Read { is_strict } => {
                let query = if *is_strict { "?consistency=strict" } else { "" };
                self.send("GET", &format!("{}{query}", path(entity)), None, "").await
            }
        };
        let outcome = match answer {
            Ok(answer) => outcome(&call, &answer),
            Err(why) => Outcome::Unknown { why },
        };
        let completed = self.host.elapsed_nanos();
        let (client, entity) = (self.number, entity.clone());
        let operation = Operation { client, entity, call, key, invoked, completed, outcome: outcome.clone() };
        self.host.note(format_args!("{operation:?}"), &[]);
        self.history.lock().operations.push(operation);
        outcome
    }

    async fn send_write(&mut self, entity: &Entity, write: Write, key: Option<&str>) -> Result<Answer, String> {
        let (command, arguments) = write.command();
        self.send("POST", &format!("{}/{command}", path(entity)), key, &arguments.to_string()).await
    }

    async fn send(&mut self, method: &str, path: &str, key: Option<&str>, body: &str) -> Result<Answer, String> {
        let wait = format!("wait={}", DEADLINE.as_secs());
        let mut headers = vec![("content-type", "application/json"), ("prefer", wait.as_str())];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        self.connection.send(method, path, &headers, body, DEADLINE + GRACE).await
    }

    /// Reads the logs of all entities into the history; an error says which cannot be read.
    pub async fn read_logs(&mut self) -> Result<(), String> {
        for entity in entities() {
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
            let answer = self.send("GET", &path, None, "").await?;
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

/// What an answer means by the contract.
fn outcome(call: &Call, answer: &Answer) -> Outcome {
    let nonsense = || Outcome::Nonsense { answer: format!("{answer:?}") };
    let Some(body) = answer.json() else { return nonsense() };
    let code = body["code"].as_str().unwrap_or_default();
    match (answer.status, call) {
        (200, _) => {
            let (Some(version), state) = (body["version"].as_u64(), body["state"].clone()) else { return nonsense() };
            match call {
                _ if state == Value::Null => nonsense(),
                Call::Write(_) => Outcome::Applied { version, state, replayed: answer.replayed },
                Call::Read { .. } => Outcome::State { version, state },
            }
        }
        (404, Call::Read { .. }) if code == "not-found" => Outcome::Absent,
        (422, Call::Write(_)) if code == "rejected" => {
            let reason = body["reason"].as_str().unwrap_or_default().to_owned();
            Outcome::Rejected { reason, replayed: answer.replayed }
        }
        (409 | 429 | 503, _) => Outcome::NotApplied { status: answer.status },
        (504, _) => Outcome::Unknown { why: "504".to_owned() },
        _ => nonsense(),
    }
}
