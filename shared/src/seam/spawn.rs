//! The task seam: every task, every blocking call and every sleep starts here.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::simulation;

/// Where tasks and blocking work run.
#[derive(Clone, Copy, Debug)]
pub enum Spawner {
    /// Tasks on the tokio runtime, blocking work on its thread pool.
    Threads,
    /// Tasks on the tokio runtime, blocking work in the calling task: what a deterministic simulation needs, which may also
    /// say how long the work takes.
    Inline,
}

impl Spawner {
    /// Runs `future` as a task of its own. The task is detached when the handle is dropped.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn spawn<F>(self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(future)
    }

    /// Runs work that may block, such as disk reads and fsync, without blocking other tasks. A panic of `work` goes on here.
    pub async fn blocking<T, F>(self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::Inline => {
                let pauses = simulation::current().map(|world| world.blocking_pauses()).unwrap_or_default();
                self.pause(pauses.before).await;
                let value = work();
                self.pause(pauses.after).await;
                value
            }
            Self::Threads => {
                #[expect(clippy::disallowed_methods, reason = "this is the seam")]
                let task = tokio::task::spawn_blocking(work);
                match task.await {
                    Ok(value) => value,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // The runtime is shutting down and will not poll this task again.
                    Err(_) => std::future::pending().await,
                }
            }
        }
    }

    async fn pause(self, duration: Duration) {
        if !duration.is_zero() {
            self.sleep(duration).await;
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub async fn sleep(self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// `None` when `future` is not ready after `duration`.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub async fn timeout<F: Future>(self, duration: Duration, future: F) -> Option<F::Output> {
        tokio::time::timeout(duration, future).await.ok()
    }
}
