//! Ctrl-C, SIGTERM and SIGHUP: the first ends cleanly, the second at once.

use tokio::signal::unix::{SignalKind, signal};

use cuttle::Result;
use cuttle::cancel::{self, Cancel};
use cuttle::error::io_error;
use cuttle::rbd::leave;

use super::{Exit, Ui};

/// Watches for the wish to stop.
pub fn watch(ui: &Ui) -> Result<Cancel> {
    let listen = |kind| signal(kind).map_err(|e| io_error("listen for signals", e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    // Whoever is started by nohup wants to outlive the terminal: listening would undo that.
    let mut hangup = if is_hangup_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
    let (canceller, cancel) = cancel::pair();
    let ui = ui.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                Some(_) = async { hangup.as_mut()?.recv().await } => {}
            }
            if again {
                leave(Exit::Interrupted.code());
            }
            ui.remark("stopping: once more stops at once");
            canceller.cancel();
        }
    });
    Ok(cancel)
}

/// Whether SIGHUP was ignored when this process was started, as the kernel tells: a bit for each signal, from 1 on.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & 1 == 1)
}
