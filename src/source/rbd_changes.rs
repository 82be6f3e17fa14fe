//! Deciding how to find what changed in an image, and finding it.
//!
//! The fast diff compares the object maps that librbd keeps; it is believed only where nothing speaks against them. What
//! a diff cannot see is added here: the range that a growing image gained, the block that its old end cuts, and a
//! clone's range that its parent no longer shows through.

use std::sync::Arc;

use super::extents::ExtentSet;
use super::{Changes, Content};
use crate::error::Result;
use crate::rbd::{DiffRequest, Image, Snapshot, features, flags};

/// librbd collects a request's ranges before it reports the first: this bounds them.
const DIFF_RANGE_BYTES: u64 = 1 << 40;

/// The parent's snapshot on the image.
pub struct Base {
    pub snapshot: Snapshot,
    pub image: Arc<Image>,
}

/// How the diff will be made. It stays as decided.
pub struct DiffPlan {
    image: Arc<Image>,
    snapshot: Snapshot,
    base: Option<Base>,
    /// Size of a whole number of objects, and of stripes over them.
    period_bytes: u64,
    /// A clone, or one that the base still was.
    cloned: bool,
    /// Why the object maps are not asked; `None` where they are.
    slow: Option<String>,
}

impl DiffPlan {
    /// `image` is open at `snapshot`.
    pub fn new(image: Arc<Image>, snapshot: Snapshot, base: Option<Base>) -> Result<Self> {
        let object_bytes = 1_u64 << image.order()?;
        let period_bytes = object_bytes.saturating_mul(image.stripe_count()?.max(1));
        let cloned = match &base {
            Some(base) => base.image.parent_overlap_bytes()? > 0 || image.parent()?.is_some(),
            None => image.parent()?.is_some(),
        };
        let slow = distrust(&image, &snapshot, base.as_ref())?;
        Ok(Self { image, snapshot, base, period_bytes, cloned, slow })
    }

    pub fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// What the operator should know about the way the diff is made.
    pub fn note(&self) -> Option<String> {
        self.slow.as_ref().map(|why| format!("the slow diff is used: {why}"))
    }

    pub fn changes(&self) -> Result<Changes> {
        let size_bytes = self.snapshot.size_bytes;
        let mut set = ExtentSet::new(size_bytes);
        let Some(base) = &self.base else {
            self.diff(None, &mut set)?;
            return Ok(Changes::All(set.finish()));
        };
        if base.snapshot.id == self.snapshot.id {
            return Ok(Changes::Since(Vec::new()));
        }
        self.diff(Some(&base.snapshot.name), &mut set)?;
        let old_size_bytes = base.snapshot.size_bytes;
        if old_size_bytes != size_bytes {
            // The last block of the smaller size is cut by one of the two ends: it is another chunk now.
            let end = old_size_bytes.min(size_bytes);
            let start = end.saturating_sub(1) / self.period_bytes * self.period_bytes;
            set.add(start..end, Content::Data);
            set.add(old_size_bytes..size_bytes, Content::Zero);
        }
        if self.cloned {
            // Where the parent shows through no more, neither snapshot need have an object to compare. librbd copies
            // such objects up before it cuts a clone that has snapshots; the backup does not rest on that.
            let (old, new) = (base.image.parent_overlap_bytes()?, self.image.parent_overlap_bytes()?);
            set.add(new..old, Content::Data);
        }
        Ok(Changes::Since(set.finish()))
    }

    fn diff(&self, from: Option<&str>, set: &mut ExtentSet) -> Result<()> {
        let size_bytes = self.snapshot.size_bytes;
        // Without a base librbd looks through the whole parent for each request, so a clone is asked for at once.
        let whole = self.cloned && from.is_none();
        let step_bytes = if whole {
            size_bytes
        } else {
            DIFF_RANGE_BYTES.checked_next_multiple_of(self.period_bytes).unwrap_or(size_bytes)
        };
        let mut offset_bytes = 0;
        while offset_bytes < size_bytes {
            let length_bytes = step_bytes.min(size_bytes - offset_bytes);
            let request = DiffRequest { from, offset_bytes, length_bytes, whole_object: self.slow.is_none() };
            self.image.diff(request, &mut |range| {
                let end = range.offset_bytes.saturating_add(range.length_bytes);
                // In a clone an object that is gone would uncover the parent's data. librbd leaves an empty one in its
                // place; the backup does not rest on that, and reads.
                let data = range.exists || (self.cloned && from.is_some());
                // Against nothing, what is not listed reads as zero anyway.
                if data || from.is_some() {
                    let content = if data { Content::Data } else { Content::Zero };
                    set.add(range.offset_bytes..end, content);
                }
                Ok(())
            })?;
            offset_bytes += length_bytes;
        }
        Ok(())
    }
}

/// Why the object maps cannot be believed, if anything speaks against them.
fn distrust(image: &Image, snapshot: &Snapshot, base: Option<&Base>) -> Result<Option<String>> {
    let needed = features::OBJECT_MAP | features::FAST_DIFF;
    if image.features()? & needed != needed {
        return Ok(Some(
            "the image has no fast-diff (`rbd feature enable IMAGE object-map fast-diff`)".into(),
        ));
    }
    let at_base = base.map(|base| (&base.image, &base.snapshot));
    for (image, snapshot) in [Some((image, snapshot)), at_base.map(|(i, s)| (&**i, s))].into_iter().flatten()
    {
        if image.flags()? & (flags::OBJECT_MAP_INVALID | flags::FAST_DIFF_INVALID) != 0 {
            return Ok(Some(format!(
                "the object map of snapshot {} is marked invalid (`rbd object-map rebuild IMAGE@{}`)",
                snapshot.name, snapshot.name
            )));
        }
    }
    Ok(None)
}
