//! Whether the gateway should be sent requests: it knows an owner of every shard, has not lost all nodes, and is not
//! shutting down.

use tokio::sync::watch;

#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    routable: watch::Receiver<bool>,
    leaving: tokio_util::sync::CancellationToken,
}

impl Readiness {
    pub(crate) fn new(routable: watch::Receiver<bool>) -> Self {
        Self { routable, leaving: tokio_util::sync::CancellationToken::new() }
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.routable.borrow() && !self.leaving.is_cancelled()
    }

    /// Waits until requests can be routed; false when the gateway has ended instead.
    pub(crate) async fn ready(&self) -> bool {
        self.routable.clone().wait_for(|routable| *routable).await.is_ok()
    }

    /// Waits until it may have changed; false when it will not change any more.
    pub(crate) async fn changed(&mut self) -> bool {
        if self.leaving.is_cancelled() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.leaving.cancelled() => true,
            changed = self.routable.changed() => changed.is_ok(),
        }
    }

    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }
}
