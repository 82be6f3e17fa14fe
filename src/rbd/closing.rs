//! Handles are closed a while after they were opened.
//!
//! The thread of librbd that opens an image, or sets its snapshot, locks the image's state once more after it has said that it is done
//! (`ImageState::complete_action_unlock`: so in 14.2 and 16.2). A close that is through by then has freed that state: the process dies of an assertion or
//! `std::system_error`, or a thread waits for ever on what was a mutex. Seen with 16.2 on a busy machine, most of
//! all where librbd itself does so: a clone of a snapshot that is not protected. Nothing tells when that thread has gone on, so it gets time.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::api::{Api, Handle};
use super::pool::Pool;

/// Of a handle that only reads: nobody sees that it is still open. Far more than a thread waits for its turn on a busy machine.
const READING_MIN: Duration = Duration::from_millis(250);
/// Of a handle that writes, which others see: they wait for it. Closing it asks the cluster, which takes its time too.
const WRITING_MIN: Duration = Duration::from_millis(20);
/// Most handles that wait to be closed; whoever gives up another one waits with them.
const WAITING_MAX: usize = 256;

/// A handle that nobody uses any more.
pub(super) struct Closing {
    pub api: &'static Api,
    pub handle: Handle,
    pub label: String,
    /// Since when it is open as it is.
    pub since: Instant,
    /// Alive as long as the handle is.
    pub pool: Pool,
}

// SAFETY: librbd takes the calls on a handle from any thread.
unsafe impl Send for Closing {}

impl Closing {
    /// Closes it, before this returns, once it may be closed.
    pub(super) fn now(self) {
        self.after(WRITING_MIN);
    }

    /// Closes it later. A process that ends before leaves it open, which is nothing to anybody.
    pub(super) fn later(self) {
        static LATER: OnceLock<Option<SyncSender<Closing>>> = OnceLock::new();
        let later = LATER.get_or_init(|| {
            let (send, receive) = sync_channel::<Self>(WAITING_MAX);
            let closes = move || receive.into_iter().for_each(|closing| closing.after(READING_MIN));
            thread::Builder::new().name("rbd-close".to_owned()).spawn(closes).is_ok().then_some(send)
        });
        match later {
            Some(later) => {
                if let Err(left) = later.send(self) {
                    left.0.after(READING_MIN);
                }
            }
            None => self.after(READING_MIN),
        }
    }

    fn after(self, min: Duration) {
        thread::sleep(min.saturating_sub(self.since.elapsed()));
        // SAFETY: opened by rbd_open*, closed once; no I/O is under way, as all of it is awaited by callers that
        // borrow the image, which is gone; the pool is alive, as this holds it.
        let code = unsafe { (self.api.rbd_close)(self.handle) };
        if code < 0 {
            tracing::warn!("closing {}: error {code}", self.label);
        }
        drop(self.pool);
    }
}
