//! Requests as tasks of their own.

use tokio::task::JoinSet;

use crate::error::{Error, Result};

/// Runs a request as a task, until it is over or nobody waits for it any more.
///
/// A request under way holds one of the few permits that a throttled store leaves. Whoever has several under way and looks
/// after one of them alone (an upload goes on while a page is read) would wait for a permit that only the others can give
/// back, for ever. As a task, a request goes on whoever looks after it.
pub(super) async fn driven<T: Send + 'static>(
    request: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    // Aborts the task when it is dropped.
    let mut task = JoinSet::new();
    task.spawn(request);
    match task.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(e)) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        _ => Err(Error::internal("a request's task was stopped")),
    }
}
