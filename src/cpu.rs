//! Where async code hands CPU work to rayon and waits for the answer.

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Runs `work` on a CPU thread. `work` must not wait for anything.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (answer, wait) = oneshot::channel();
    rayon::spawn(move || {
        // The asker may be gone; then nobody wants the answer.
        let _ = answer.send(work());
    });
    wait.await.unwrap_or_else(|_| Err(Error::internal("a CPU thread ended without an answer")))
}
