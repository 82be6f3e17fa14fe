//! How an operation is told to stop: at its next step, cleaning up after itself.

use tokio::sync::watch;

use crate::error::{Error, Result};

/// Held by the operation.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<bool>);

/// Held by whoever may stop it.
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

/// A connected pair.
pub fn pair() -> (Canceller, Cancel) {
    let (tx, rx) = watch::channel(false);
    (Canceller(tx), Cancel(rx))
}

impl Canceller {
    /// Ends all that has a [`Cancel`] of this pair. More than once is the same.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// One that never comes.
    pub fn never() -> Self {
        pair().1
    }

    /// Without waiting.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// An error of kind `Interrupted` once cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(interrupted()) } else { Ok(()) }
    }

    /// Returns when cancelled; never otherwise.
    pub async fn cancelled(&mut self) {
        if self.0.wait_for(|&stop| stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What an operation ends with once it is cancelled.
pub fn interrupted() -> Error {
    Error::interrupted("interrupted").help("run the same command again; it goes on where it was")
}
