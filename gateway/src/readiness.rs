//! Whether the gateway should be sent requests: it knows an owner of every shard and is not shutting down.

use tokio::sync::watch;

#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    complete: watch::Receiver<bool>,
    leaving: tokio_util::sync::CancellationToken,
}

impl Readiness {
    pub(crate) fn new(complete: watch::Receiver<bool>) -> Self {
        Self { complete, leaving: tokio_util::sync::CancellationToken::new() }
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.complete.borrow() && !self.leaving.is_cancelled()
    }

    /// Waits until every shard has an owner; false when the gateway has ended instead.
    pub(crate) async fn ready(&self) -> bool {
        self.complete.clone().wait_for(|complete| *complete).await.is_ok()
    }

    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }
}
