//! Holds the decisions of a shard, for as long as its leadership is handed over: what is in flight settles, commands wait in
//! the mailbox, within its bound, and reads go on. One side asks, the executor is the other one.

use std::sync::Arc;

use tokio::sync::watch;

/// Asks an executor to decide nothing for a while. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hold {
    asked: Arc<watch::Sender<Asked>>,
    settled: watch::Receiver<u64>,
}

/// As long as it lives, nothing is decided.
#[derive(Debug)]
pub struct Held(Arc<watch::Sender<Asked>>);

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// How many hold now. Bounded by those who hand over, of which there is one per shard.
    holders: usize,
    /// Counts the times that somebody has begun to.
    number: u64,
}

/// The executor's side.
#[derive(Debug)]
pub(super) struct Holding {
    asked: watch::Receiver<Asked>,
    settled: watch::Sender<u64>,
}

pub(super) fn channel() -> (Hold, Holding) {
    let (asked_sender, asked) = watch::channel(Asked::default());
    let (settled_sender, settled) = watch::channel(0);
    let hold = Hold { asked: Arc::new(asked_sender), settled };
    (hold, Holding { asked, settled: settled_sender })
}

impl Hold {
    /// Has nothing more decided from now on, and returns once nothing is in flight and nothing that was decided waits to be
    /// answered. Commands that are not decided wait, and are decided or refused afterwards. Decisions go on when what this
    /// returns is dropped, or this call is. `None` where the executor has ended.
    pub async fn begin(&self) -> Option<Held> {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            asked.holders += 1;
            asked.number += 1;
            number = asked.number;
        });
        let held = Held(self.asked.clone());
        let mut settled = self.settled.clone();
        settled.wait_for(|settled| *settled >= number).await.ok()?;
        Some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send_modify(|asked| asked.holders -= 1);
    }
}

impl Holding {
    /// Whether nothing is to be decided. Whoever holds learns that everything has settled, if it has.
    pub(super) fn is_held(&mut self, has_settled: bool) -> bool {
        let Asked { holders, number } = *self.asked.borrow_and_update();
        if holders > 0 && has_settled {
            self.settled.send_if_modified(|settled| std::mem::replace(settled, number) != number);
        }
        holders > 0
    }

    /// Returns when somebody has begun to hold, or has stopped, since [`Self::is_held`].
    pub(super) async fn changed(&mut self) {
        if self.asked.changed().await.is_err() {
            // Nobody is left who could hold.
            std::future::pending::<()>().await;
        }
    }
}
