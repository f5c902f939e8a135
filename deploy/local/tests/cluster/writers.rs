//! Clients that write until the cluster is killed under them, and what must be true of their writes afterwards.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_client::{Client, Code, Entity, Error, Outcome};
use serde_json::json;
use tokio::sync::Notify;

use crate::client::PATIENCE;
use crate::program::Local;

const WRITERS: i64 = 8;
const COUNTERS: i64 = 4;
/// Acknowledged writes after which the cluster is killed.
const ACKNOWLEDGED: usize = 300;

/// One command `add` with an amount that no other write has, so that it can be found in the history.
#[derive(Debug)]
pub(crate) struct Write {
    amount: i64,
    /// None while nobody knows whether it was applied.
    acknowledged: Option<u64>,
}

impl Write {
    async fn send(&self, client: &Client) -> Result<Outcome, Error> {
        let add = counter(client, self.amount % COUNTERS).execute("add", json!({ "by": self.amount }));
        add.idempotency_key(format!("key-{}", self.amount)).await
    }
}

fn counter(client: &Client, number: i64) -> Entity {
    client.entity("counter", format!("counter-{number}"))
}

/// Kills the cluster in the midst of writes. All writes that were begun come back.
pub(crate) async fn write_until_killed(local: Local, round: i64) -> Vec<Write> {
    let spawner = local.process.seams.spawner;
    let (count, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = local.client();
        let (count, enough) = (count.clone(), enough.clone());
        writers.push(spawner.spawn(async move {
            let mut writes = Vec::new();
            let first = 1 + (round * WRITERS + writer) * 1_000_000;
            for amount in first.. {
                let mut write = Write { amount, acknowledged: None };
                let is_gone = match write.send(&client).await {
                    Ok(outcome) => {
                        write.acknowledged = Some(outcome.version);
                        false
                    }
                    Err(Error::UnknownOutcome { .. } | Error::Unavailable { .. }) => true,
                    Err(error) => panic!("{error:?}"),
                };
                writes.push(write);
                if is_gone {
                    break;
                }
                if count.fetch_add(1, Ordering::Relaxed) + 1 == ACKNOWLEDGED {
                    enough.notify_one();
                }
            }
            writes
        }));
    }
    spawner.timeout(PATIENCE, enough.notified()).await.expect("too few writes are acknowledged");
    local.kill();
    let mut writes = Vec::new();
    for writer in writers {
        writes.extend(writer.await.unwrap());
    }
    writes
}

/// Sends again what nobody knows of; afterwards everything is acknowledged.
pub(crate) async fn retry_unknown(client: &Client, writes: &mut [Write]) {
    let unknown = writes.iter_mut().filter(|write| write.acknowledged.is_none());
    for write in unknown {
        write.acknowledged = Some(write.send(client).await.unwrap().version);
    }
}

/// Every acknowledged write is in the history once, under its version, and one that is not is there at most once; versions
/// have no gap, and the state is the sum of the events.
pub(crate) async fn check(client: &Client, writes: &[Write]) {
    let mut found: HashMap<i64, u64> = HashMap::new();
    for number in 0..COUNTERS {
        let counter = counter(client, number);
        let (mut version, mut sum) = (0, 0);
        loop {
            let page = match counter.events().after(version).limit(1000).await {
                Err(error) if writes.is_empty() && error.code() == Some(&Code::NotFound) => break,
                page => page.unwrap(),
            };
            for event in page.events {
                version += 1;
                assert_eq!(event.version, version, "versions have no gap");
                let amount = event.data["by"].as_i64().unwrap();
                sum += amount;
                assert_eq!(found.insert(amount, version), None, "{amount} was applied twice");
            }
            if page.next.is_none() {
                let now = counter.get().await.unwrap();
                assert_eq!((now.version, &now.state["value"]), (version, &json!(sum)));
                break;
            }
        }
    }
    for write in writes {
        let version = found.remove(&write.amount);
        assert!(write.acknowledged.is_none() || version == write.acknowledged, "{write:?} is at {version:?}");
    }
    assert!(found.is_empty(), "nobody wrote {found:?}");
}
