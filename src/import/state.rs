//! Whether an image is in the state that a diff is relative to: its content that of the snapshot, byte for byte.

use std::sync::Arc;

use crate::cancel::Cancel;
use crate::codec::is_zero;
use crate::diff::DiffHeader;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::rbd::diff::judge::{History, Why};
use crate::rbd::diff::{Comparison, End};
use crate::rbd::{Access, Cluster, Image, OpenBy, RbdSpec, Snapshot, advice, features, lock};
use crate::sink::rbd::{Found, MARK, refuse_open_elsewhere};

/// What is compared at a time.
const READ_BYTES: u64 = 4 << 20;

/// Opens the image and keeps others from writing to it. Refuses one that lacks the diff's first snapshot, has its last
/// one, or is in use.
pub(super) fn open(
    cluster: &Cluster,
    spec: &RbdSpec,
    header: &DiffHeader,
    read_only: bool,
) -> Result<Arc<Image>> {
    if spec.is_all() || spec.snapshot.is_some() {
        return Err(Error::invalid(format!("{spec}: expected one image, without a snapshot, as target")));
    }
    let pool = cluster.pool(&spec.pool, &spec.namespace)?;
    if !read_only {
        refuse_open_elsewhere(&pool, &spec.image, Found::Other)?;
    }
    let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
    let image = Image::open(&pool, OpenBy::Name(&spec.image), access)?;
    if !read_only && image.features()? & features::EXCLUSIVE_LOCK != 0 {
        lock::take(&image)?;
    }
    if image.metadata().list()?.iter().any(|(key, _)| key == MARK) {
        return Err(Error::conflict(format!("{spec} holds an unfinished restore"))
            .help("finish the restore first, by running it again"));
    }
    let snapshots = image.snapshots().list()?;
    let named = |name: &str| snapshots.iter().any(|s| s.name == name);
    if let Some(from) = header.from.as_deref().filter(|from| !named(from)) {
        let newest =
            snapshots.last().map_or("none at all".to_owned(), |s| format!("{:?} as its newest", s.name));
        return Err(Error::conflict(format!(
            "the diff is relative to snapshot {from:?}, which {spec} does not have: it has {newest}"
        ))
        .help("apply the diffs in the order in which they were made"));
    }
    if let Some(to) = header.to.as_deref().filter(|to| named(to)) {
        return Err(Error::conflict(format!("{spec} has snapshot {to:?} already, which the diff leads to"))
            .help("the diff was applied before, or the image is another one"));
    }
    Ok(Arc::new(image))
}

/// Refuses an image that holds anything else than a snapshot of it, or anything at all where none is named.
///
/// librbd tells which objects were touched; what they hold is compared, so that an image which was rolled back, or
/// written to with what it held, is no changed one. An import knows nothing of the image's past, so each object that either
/// has is asked about.
pub(super) fn require_unchanged(
    image: &Arc<Image>,
    from: Option<&str>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    let base = from.map(|from| Since::open(image, from)).transpose()?;
    let size_bytes = image.size_bytes()?;
    if let Some(base) = &base
        && base.snapshot.size_bytes != size_bytes
    {
        let (name, old) = (&base.snapshot.name, base.snapshot.size_bytes);
        return Err(changed(image, name, &format!("it has {size_bytes} bytes, and had {old} then")));
    }
    let at_base = base.as_ref().map(|base| End::at(Arc::clone(&base.image), base.snapshot.clone()));
    let newer = End::now(Arc::clone(image));
    let comparison = Comparison::new(image.label(), newer, at_base, &History::default())?;
    // That nothing is known of the past is no news; that the image cannot tell what it has is.
    if let (Some(remark), false) =
        (comparison.remark(), matches!(comparison.verdict().why(), Some(Why::NotMadeHere { .. })))
    {
        progress.warn(&format!("{}: {remark}", image.label()));
    }
    for extent in comparison.changed_while(&|| cancel.check())? {
        let end = extent.offset_bytes.saturating_add(extent.length_bytes);
        compare(image, base.as_ref(), extent.offset_bytes..end, cancel)?;
    }
    Ok(())
}

/// Whether that is why an image was refused, and no other failure.
pub(super) fn is_changed(error: &Error) -> bool {
    error.kind() == ErrorKind::Conflict
}

/// The snapshot that a diff is relative to, open.
struct Since {
    snapshot: Snapshot,
    image: Arc<Image>,
}

impl Since {
    fn open(head: &Image, name: &str) -> Result<Self> {
        let snapshot = head.snapshots().list()?.into_iter().find(|s| s.name == name);
        let snapshot = snapshot
            .ok_or_else(|| Error::not_found(format!("{}: snapshot {name:?} was removed", head.label())))?;
        let id = head.id()?;
        let name = head.label().rsplit('/').next().unwrap_or_default();
        let by = OpenBy::Id { name, id: &id };
        let image = Image::open(head.pool(), by, Access::Snapshot(snapshot.id))?;
        Ok(Self { snapshot, image: Arc::new(image) })
    }
}

fn compare(image: &Image, base: Option<&Since>, range: std::ops::Range<u64>, cancel: &Cancel) -> Result<()> {
    let mut at = range.start;
    let (mut now, mut then) = (Vec::new(), Vec::new());
    while at < range.end {
        cancel.check()?;
        let len = (range.end - at).min(READ_BYTES);
        now.resize(len as usize, 0);
        image.read_at(at, &mut now)?;
        match base {
            Some(base) => {
                then.resize(len as usize, 0);
                base.image.read_at(at, &mut then)?;
                if let Some(byte) = now.iter().zip(&then).position(|(now, then)| now != then) {
                    let at = at + byte as u64;
                    return Err(changed(
                        image,
                        &base.snapshot.name,
                        &format!("at offset {at} it was written to"),
                    ));
                }
            }
            None if !is_zero(&now) => {
                return Err(Error::conflict(format!(
                    "{} holds data near offset {at}: a full diff is relative to an image in which all is zero",
                    image.label()
                ))
                .help("make a new image with `rbd create` and import into that"));
            }
            None => {}
        }
        at += len;
    }
    Ok(())
}

fn changed(image: &Image, from: &str, how: &str) -> Error {
    let path = image.label();
    Error::conflict(format!(
        "{path} was changed since snapshot {from:?}, which the diff is relative to: {how}"
    ))
    .help(format!(
        "if what was written since may be lost, add --discard-changes or run `{}`",
        advice::roll_back(path, from)
    ))
}
