//! The file below an overlay: it must hold the snapshot that the overlay is relative to.

use std::fs::File;
use std::io::{ErrorKind as Io, Read};
use std::path::Path;

use crate::error::{Error, Result, io_error};
use crate::export::Since;
use crate::qcow2::{BACKING_NAME_LEN_MAX, Backing, MAGIC, SECTOR_BYTES};

/// Looks at the backing file where it will be looked for: relative to the overlay's folder. One that is not there yet is
/// taken for qcow2; one of another size is refused.
pub(super) fn find(base: &Since, overlay: &Path) -> Result<Backing> {
    let given = base.file.as_ref().ok_or_else(|| {
        Error::invalid("an overlay needs to know the file that holds the snapshot below it")
            .help("Export that snapshot first, and name its file with --backing FILE.")
    })?;
    let name = given.to_str().filter(|name| !name.is_empty() && name.len() <= BACKING_NAME_LEN_MAX);
    // QEMU takes what stands before a colon for a protocol.
    let name = name.filter(|name| !name.split('/').next().is_some_and(|first| first.contains(':')));
    let name = name.ok_or_else(|| {
        Error::invalid(format!(
            "backing file {}: expected a name of 1 to {BACKING_NAME_LEN_MAX} bytes of UTF-8, without a colon",
            given.display()
        ))
    })?;
    let place = overlay.parent().unwrap_or(Path::new("")).join(given);
    let backing = |is_qcow2| Backing { name: name.to_owned(), is_qcow2 };
    let doing = || format!("look at backing file {}", place.display());
    let mut file = match File::open(&place) {
        Err(e) if e.kind() == Io::NotFound => return Ok(backing(true)),
        file => file.map_err(|e| io_error(doing(), e))?,
    };
    let mut head = Vec::new();
    file.by_ref().take(32).read_to_end(&mut head).map_err(|e| io_error(doing(), e))?;
    let is_qcow2 = head.starts_with(MAGIC);
    let size_bytes = match (is_qcow2, head.get(24..32).map(<[u8; 8]>::try_from)) {
        (true, Some(Ok(size))) => u64::from_be_bytes(size),
        (true, _) => return Err(Error::corrupt(format!("{}: its header is cut off", doing()))),
        (false, _) => file.metadata().map_err(|e| io_error(doing(), e))?.len(),
    };
    if size_bytes.next_multiple_of(SECTOR_BYTES) != base.size_bytes.next_multiple_of(SECTOR_BYTES) {
        return Err(Error::conflict(format!(
            "backing file {} holds a volume of {size_bytes} bytes: expected {}, the size of {}",
            place.display(),
            base.size_bytes,
            base.name
        ))
        .help("Name the file that the snapshot given with --from was exported to."));
    }
    Ok(backing(is_qcow2))
}
