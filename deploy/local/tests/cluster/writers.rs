//! Clients that write until the cluster is killed under them, and what must be true of their writes afterwards.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::sync::Notify;

use crate::JSON;
use crate::client::{Answer, Connection, PATIENCE};
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
    fn path(&self) -> String {
        format!("/v1/entities/counter/{}", counter(self.amount % COUNTERS))
    }

    async fn send(&self, gateway: &mut Connection) -> hyper::Result<Answer> {
        let (path, key) = (format!("{}/add", self.path()), format!("key-{}", self.amount));
        let headers = [JSON, ("idempotency-key", key.as_str())];
        gateway.try_send("POST", &path, &headers, &format!("{{\"by\":{}}}", self.amount)).await
    }
}

fn counter(number: i64) -> String {
    format!("counter-{number}")
}

/// Kills the cluster in the midst of writes. All writes that were begun come back.
pub(crate) async fn write_until_killed(local: Local, round: i64) -> Vec<Write> {
    let spawner = local.process.seams.spawner;
    let (count, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut gateway = local.gateway().await;
        let (count, enough) = (count.clone(), enough.clone());
        writers.push(spawner.spawn(async move {
            let mut writes = Vec::new();
            let first = 1 + (round * WRITERS + writer) * 1_000_000;
            for amount in first.. {
                let mut write = Write { amount, acknowledged: None };
                let answer = write.send(&mut gateway).await;
                let is_gone = match answer {
                    Ok(answer) if answer.status == 200 => {
                        write.acknowledged = answer.json()["version"].as_u64();
                        false
                    }
                    Ok(answer) => panic!("{answer:?}"),
                    Err(_) => true,
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
pub(crate) async fn retry_unknown(gateway: &mut Connection, writes: &mut [Write]) {
    let unknown = writes.iter_mut().filter(|write| write.acknowledged.is_none());
    for write in unknown {
        let answer = write.send(gateway).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        write.acknowledged = answer.json()["version"].as_u64();
    }
}

/// Every acknowledged write is in the history once, under its version, and one that is not is there at most once; versions
/// have no gap, and the state is the sum of the events.
pub(crate) async fn check(gateway: &mut Connection, writes: &[Write]) {
    let mut found: HashMap<i64, u64> = HashMap::new();
    for number in 0..COUNTERS {
        let path = format!("/v1/entities/counter/{}", counter(number));
        let (mut version, mut sum) = (0, 0);
        loop {
            let page = gateway.get(&format!("{path}/events?after={version}&limit=1000")).await;
            if page.status == 404 && writes.is_empty() {
                break;
            }
            let page = page.json();
            for event in page["events"].as_array().unwrap_or_else(|| panic!("{page}")) {
                version += 1;
                assert_eq!(event["version"].as_u64(), Some(version), "versions have no gap");
                let amount = event["data"]["by"].as_i64().unwrap();
                sum += amount;
                assert_eq!(found.insert(amount, version), None, "{amount} was applied twice");
            }
            if page["next"] == Value::Null {
                let state = gateway.get(&path).await.json();
                assert_eq!((state["version"].as_u64(), state["state"]["value"].as_i64()), (Some(version), Some(sum)));
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
