//! What a gateway does when it doubts its map: it asks nodes who owns what. Owners push that themselves, so this only mends
//! what a lost push left behind; it is one question at a time for all requests together, however many are waiting.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use berth_shared::message::{Request, Response};
use berth_shared::peer::{self, Client};
use futures_util::future::join_all;

use super::Connections;

/// The shortest time between two inquiries.
const INQUIRY_INTERVAL: Duration = Duration::from_millis(250);
/// How long nodes have to answer one.
const INQUIRY_TIME: Duration = Duration::from_millis(500);
/// Nodes that are asked at once; others are asked the next time.
const ASKED_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Inquiry {
    running: AtomicBool,
    /// Nanoseconds of the boot clock.
    began: AtomicU64,
    /// How many there were.
    turn: AtomicUsize,
}

impl Connections {
    /// Asks nodes who owns what, in the background, unless that was just done.
    pub(super) fn inquire(&self) {
        let now = self.seams.clock.now();
        let began = self.inquiry.began.load(Ordering::Relaxed);
        let just_done = began != 0 && now.0.saturating_sub(began) < INQUIRY_INTERVAL.as_nanos() as u64;
        if just_done || self.inquiry.running.swap(true, Ordering::AcqRel) {
            return;
        }
        self.inquiry.began.store(now.0.max(1), Ordering::Relaxed);
        let Some(connections) = self.this.upgrade() else { return };
        self.seams.spawner.spawn(async move {
            connections.ask_around().await;
            connections.inquiry.running.store(false, Ordering::Release);
        });
    }

    async fn ask_around(&self) {
        let Ok(request) = peer::encode(&Request::Owners) else { return };
        let deadline = self.seams.clock.now() + INQUIRY_TIME;
        let mut clients = self.connected_clients();
        let turn = self.inquiry.turn.fetch_add(ASKED_MAX, Ordering::Relaxed);
        if clients.len() > ASKED_MAX {
            let first = turn % clients.len();
            clients.rotate_left(first);
            clients.truncate(ASKED_MAX);
        }
        let asked = clients.iter().map(|client| async {
            let answer = client.call(request.clone(), deadline).await.ok()?;
            let Ok(Response::Owners { shards, owners }) = peer::decode(&answer) else { return None };
            // Each as it comes: a stopped node among them holds up only itself.
            self.take_in_owners(client.address(), shards, owners);
            Some(())
        });
        join_all(asked).await;
    }

    fn connected_clients(&self) -> Vec<Client> {
        let snapshot = self.snapshot.load();
        snapshot.clients.values().filter(|client| client.peer().is_some()).cloned().collect()
    }
}
