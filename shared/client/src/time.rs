//! The only place of the client that touches time and randomness. It does not use the seams of the cluster's own programs,
//! because they would bring all that those programs need into every program that uses the client; tests pause tokio's time.
#![expect(clippy::disallowed_methods, reason = "this is the seam")]

use std::future::Future;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

/// `None` when the time is over first.
pub(crate) async fn timeout<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, future).await.ok()
}

/// From the thread's cryptographically secure generator.
pub(crate) fn random() -> u64 {
    rand::rng().next_u64()
}
