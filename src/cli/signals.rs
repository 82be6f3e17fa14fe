//! Ctrl-C and SIGTERM: the first ends cleanly, the second at once.

use tokio::signal::unix::{SignalKind, signal};

use cuttle::Result;
use cuttle::cancel::{self, Cancel};
use cuttle::error::io_error;

use super::{Exit, Ui};

/// Watches for the wish to stop.
pub fn watch(ui: &Ui) -> Result<Cancel> {
    let listen = |kind| signal(kind).map_err(|e| io_error("listen for signals", e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (canceller, cancel) = cancel::pair();
    let ui = ui.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if again {
                std::process::exit(Exit::Interrupted.code());
            }
            ui.note("stopping: once more stops at once");
            canceller.cancel();
        }
    });
    Ok(cancel)
}
