//! Reads what was in a new chunk's place, by threads of its own, and has the chunk encoded against it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::backup::delta::Below;
use crate::backup::encode::Encoded;
use crate::backup::pipeline::{Held, Line, spawn_thread};
use crate::error::{Context, Result};
use crate::plan::delta::Chain;
use crate::source::ReadAt;
use crate::units::{ChunkId, Geometry};

/// Budget of a chunk that wants its base: itself and the base.
pub const PERMITS: u32 = 2;

/// A chunk that turned out to be new, and what it would be a delta against.
pub struct Wanted {
    pub held: Held,
    pub id: ChunkId,
    pub chain: Chain,
}

/// Takes chunks whose base is to be read. Unbounded, as the budget bounds what can be in it.
#[derive(Clone)]
pub struct WantedSender(mpsc::UnboundedSender<Wanted>);

impl WantedSender {
    pub fn send(&self, wanted: Wanted) {
        // The threads are gone only when the backup failed already.
        let _ = self.0.send(wanted);
    }
}

/// Starts the threads. They end when the last sender is gone, or at the first error, which they pass on.
pub fn spawn(base: &Arc<dyn ReadAt>, geometry: Geometry, line: &Line) -> Result<WantedSender> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for n in 0..base.reads_inflight() {
        let reader = Reader { base: Arc::clone(base), geometry, line: line.clone() };
        let receiver = Arc::clone(&receiver);
        spawn_thread(format!("base-{n}"), move || reader.run(&receiver))?;
    }
    Ok(WantedSender(sender))
}

struct Reader {
    base: Arc<dyn ReadAt>,
    geometry: Geometry,
    line: Line,
}

impl Reader {
    fn run(self, wanted: &Mutex<mpsc::UnboundedReceiver<Wanted>>) {
        loop {
            let next = wanted.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
            let Some(next) = next else { return };
            if self.line.budget.is_stopped() {
                return;
            }
            if let Err(error) = self.read(next) {
                let _ = self.line.items.send(Err(error));
                return;
            }
        }
    }

    fn read(&self, wanted: Wanted) -> Result<()> {
        let Wanted { held, id, chain } = wanted;
        let range = self.geometry.range_bytes(held.index);
        if self.base.size_bytes() < range.end {
            self.line.pass_on(held, Ok(Encoded::BaseDiffers));
            return Ok(());
        }
        let mut plain = self.line.budget.buffer(held.plain.len() as u32);
        self.base.read_at(range.start, &mut plain).context(format!(
            "read {} bytes at offset {} of the base",
            plain.len(),
            range.start
        ))?;
        let line = self.line.clone();
        rayon::spawn(move || {
            let below = Below { chain, plain };
            let encoded = match line.encoder.is_base(&below.chain, &below.plain) {
                true => line.encoder.encode_new(id, &held.plain, Some(&below)),
                false => Ok(Encoded::BaseDiffers),
            };
            line.budget.give_back(below.plain);
            line.pass_on(held, encoded);
        });
        Ok(())
    }
}
