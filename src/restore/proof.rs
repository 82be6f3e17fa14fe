//! Reads all of a target again once a restore has ended, and holds it against the manifest: that it is the snapshot, not only
//! that what was written to it is.

use std::sync::Arc;

use crate::cancel::Cancel;
use crate::cpu;
use crate::error::{Error, Result};
use crate::reading::compare::compare;
use crate::reading::local::LocalReader;
use crate::restore::Looking;
use crate::sink::Sink;

/// How many bytes were read again, and are the snapshot's: all of it.
///
/// # Errors
/// `Corrupt` where the target is not the snapshot.
pub(crate) async fn check(looking: &Looking<'_>, sink: &Arc<dyn Sink>, cancel: &mut Cancel) -> Result<u64> {
    let Looking { project, snapshot, budget, progress } = *looking;
    let sink = Arc::clone(sink);
    let reader = cpu::block(move || sink.read_back()).await?;
    let (size_bytes, found_bytes) = (snapshot.snapshot.size_bytes, reader.size_bytes());
    if found_bytes < size_bytes {
        return Err(differs(format!("it ends at {found_bytes} of {size_bytes} bytes")));
    }
    progress.phase("verify", Some(size_bytes));
    let local = LocalReader::new(project.clone(), reader, budget.clone());
    let mut found = |range: std::ops::Range<u64>| {
        Err(differs(format!("at offset {} it holds something else", range.start)))
    };
    compare(&local, &snapshot.snapshot, progress, cancel, &mut found).await?;
    Ok(local.read_bytes())
}

fn differs(how: String) -> Error {
    Error::corrupt(format!("the target is not what was restored: {how}")).help(
        "something else writes to it, its storage is faulty, or what it said of its changes was wrong; restore again with \
         --no-rewind, and find out which",
    )
}
