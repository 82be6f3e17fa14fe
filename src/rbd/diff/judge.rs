//! Whether Ceph's answer to "what changed since?" may be believed: the only place that decides it, pure over facts.
//!
//! Ceph can be asked in two ways. The *fast diff* compares object maps; the *slow diff* asks the cluster about every
//! object. A map says of an object "as in the newest snapshot when this map was forked". A rollback copies an old map,
//! with what it says, over that of the image, and removing a snapshot passes on only "was written", never "is gone". So
//! the fast diff misses changes, silently, on every release (tried on 16.2, 18.2 and 20.2): after a rollback to a snapshot
//! older than the base that has one before it, whether or not they still exist; after shrinking, a snapshot, growing;
//! after writing, snapshots, discarding and a rollback between them.
//!
//! The rule: it is believed where nothing but the base existed since the base was made. Let S be the base and B the
//! snapshot of cuttle's that S replaced.
//!
//! 1. When S was made the image had no other snapshot of any kind than B ([`Made::others`]).
//! 2. None was made since ([`SnapContext::seq`] is S).
//! 3. The map of B had no clean bit right before S was made ([`Made::replaced_has_clean`]): else a rollback to B while
//!    both exist is missed.
//! 4. The maps of both ends are valid.
//!
//! The *slow diff* has a blind side too: it asks for objects, and librbd reads none that a valid map lacks. A map may be valid
//! and lack what is there: that of the image is empty after a rollback to a snapshot whose own map is marked invalid (seen on
//! 16.2; the guest reads zeros until the map is rebuilt). So
//!
//! 5. the base has the objects that it had when it was backed up ([`ObjectsBy`]), else all is read;
//! 6. what the map of one end has and that of the other lacks counts as changed (`hidden` in `compare.rs`).
//!
//! `tests/ceph/object_maps` models the maps, searches all histories of a small image, and finds a miss without each of
//! the first four, and none with all; 5 and 6 are tried on a real cluster. A *full list*, what a snapshot holds, is right by its own map alone,
//! and so is what a clone has of its own.
//!
//! What the rule cannot see: a snapshot that others make and remove between the two looks around the making of the newer
//! end, which are a moment apart. To harm, a shrink before, a growth and the removal after it would have to fall there too.

use std::fmt;

use crate::rbd::advice;
use crate::rbd::bits::{features, flags};
use crate::rbd::class::SnapContext;
use crate::volume::{Made, ObjectsBy};

/// Ids that a message lists.
const IDS_LISTED_MAX: usize = 8;

/// All that is known of an image and of the two ends of a diff.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The image's feature bits; MIGRATING also where an image is that it was cloned from.
    pub features: u64,
    /// The newer end: a snapshot, or the image as it is now.
    pub newer: End<'a>,
    /// What it is compared with; `None`: with nothing, so that all it holds is listed.
    pub base: Option<End<'a>>,
    /// What became of the base since it was backed up; it counts only where there is a base.
    pub base_objects: BaseObjects,
    /// What is known of the time between both ends.
    pub history: &'a History,
}

/// Whether the base still has the objects that it had for the backup that was read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseObjects {
    /// So it has, or nobody backed it up: it counts as what it reads as now.
    Same,
    /// Its map was another one.
    Changed,
    /// It was not recorded, or a map cannot be read.
    Unknown,
}

/// One end of a diff.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The snapshot's id and name; `None` for the image as it is now.
    pub snapshot: Option<(u64, &'a str)>,
    /// Flag bits of its object map.
    pub flags: u64,
}

/// What is known of the time since the base was made.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What the backup that was read from the base recorded. `None`: cuttle did not make the snapshot, or could not see.
    pub made: Option<Made>,
    /// What it recorded of the base's objects; `None` where the base is no backup's.
    pub objects: Option<ObjectsBy>,
    /// Which snapshots there were meanwhile.
    pub between: Between,
}

/// What snapshots there were until the newer end was made.
#[derive(Debug, Clone, Default)]
pub enum Between {
    /// As the cluster had them right before and right after the newer end was made; for an image as it is now, right
    /// before and right after it was compared.
    Seen {
        /// Right before the newer end was made.
        before: SnapContext,
        /// Right after.
        after: SnapContext,
    },
    /// They could not be read, and why.
    Unreadable(String),
    /// Nobody looked: somebody else made the newer end.
    #[default]
    Unknown,
}

/// How to find what changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The object maps say it.
    Fast,
    /// Each object is asked about; where `maps_hold`, only those that the maps say either end has.
    Slow {
        /// Why the object maps are not believed.
        why: Why,
        /// Whether they may be believed as to which objects there are.
        maps_hold: bool,
    },
    /// librbd must not be asked at all.
    ReadAll(Why),
}

/// Why the object maps are not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A live migration is under way, of the image or of what it was cloned from.
    Migrating,
    /// The image has no object map that tells changes.
    NoFastDiff {
        /// Feature bits that it lacks for that.
        missing: u64,
    },
    /// The map of a snapshot, or of the image as it is now, is marked invalid.
    MapInvalid {
        /// Its name; `None` for the image as it is now.
        snapshot: Option<String>,
    },
    /// (5) is broken.
    ObjectsChanged {
        /// Name of the base.
        base: String,
    },
    /// (5) is not known to hold.
    ObjectsUnknown {
        /// Name of the base.
        base: String,
    },
    /// What tells whether they may be believed could not be read.
    Unreadable(String),
    /// The base was not made by cuttle, or what there was then could not be read.
    NotRecorded {
        /// Name of the base; empty where it is no snapshot.
        base: String,
    },
    /// Somebody else made the newer end.
    NotMadeHere {
        /// Its name; `None` for the image as it is now.
        newer: Option<String>,
    },
    /// (1) is broken.
    OthersThen {
        /// Name of the base.
        base: String,
        /// Ids of the snapshots that there were beside the one it replaced.
        others: Vec<u64>,
    },
    /// (2) is broken.
    MadeSince {
        /// Name of the base.
        base: String,
        /// Id of what was made.
        seq: u64,
    },
    /// (3) is broken.
    NotAlone {
        /// Name of the base.
        base: String,
        /// Id of the snapshot that the base replaced.
        replaced: u64,
        /// The snapshot whose map is to be made anew, so that a later backup can believe it.
        rebuild: String,
    },
}

/// Says how what changed is to be found.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    // librbd divides by zero where the source of an import is asked (SIGFPE), and a copy that is under way is no history.
    if facts.features & features::MIGRATING != 0 {
        return Verdict::ReadAll(Why::Migrating);
    }
    if let Some((_, base)) = facts.base.and_then(|base| base.snapshot) {
        let base = base.to_owned();
        match facts.base_objects {
            BaseObjects::Same => {}
            BaseObjects::Changed => return Verdict::ReadAll(Why::ObjectsChanged { base }),
            BaseObjects::Unknown => return Verdict::ReadAll(Why::ObjectsUnknown { base }),
        }
    }
    let missing = (features::EXCLUSIVE_LOCK | features::OBJECT_MAP | features::FAST_DIFF) & !facts.features;
    if missing & (features::OBJECT_MAP | features::FAST_DIFF) != 0 {
        return Verdict::Slow { why: Why::NoFastDiff { missing }, maps_hold: false };
    }
    let invalid = flags::OBJECT_MAP_INVALID | flags::FAST_DIFF_INVALID;
    let ends = [Some(facts.newer), facts.base];
    if let Some(end) = ends.into_iter().flatten().find(|end| end.flags & invalid != 0) {
        let snapshot = end.snapshot.map(|(_, name)| name.to_owned());
        return Verdict::Slow { why: Why::MapInvalid { snapshot }, maps_hold: false };
    }
    let Some(base) = facts.base else { return Verdict::Fast };
    match broken(facts, base) {
        Some(why) => Verdict::Slow { why, maps_hold: true },
        None => Verdict::Fast,
    }
}

/// Which of the conditions (1) to (3) does not hold, or is not known to.
fn broken(facts: &Facts<'_>, base: End<'_>) -> Option<Why> {
    let Some((base_id, name)) = base.snapshot else { return Some(Why::NotRecorded { base: String::new() }) };
    let name = name.to_owned();
    let (before, after) = match &facts.history.between {
        Between::Seen { before, after } => (before, after),
        Between::Unreadable(why) => return Some(Why::Unreadable(why.clone())),
        Between::Unknown => {
            let newer = facts.newer.snapshot.map(|(_, name)| name.to_owned());
            return Some(Why::NotMadeHere { newer });
        }
    };
    let Some(made) = &facts.history.made else { return Some(Why::NotRecorded { base: name }) };
    let others: Vec<u64> =
        made.others.iter().copied().filter(|other| Some(*other) != made.replaces).collect();
    if !others.is_empty() {
        return Some(Why::OthersThen { base: name, others });
    }
    if let Some(replaced) = made.replaces
        && made.replaced_has_clean != Some(false)
    {
        let rebuild = facts.newer.snapshot.map_or_else(|| name.clone(), |(_, newer)| newer.to_owned());
        return Some(Why::NotAlone { base: name, replaced, rebuild });
    }
    // A snapshot's own making is the last that happened; of the image as it is now nothing was made.
    let last = facts.newer.snapshot.map_or(base_id, |(id, _)| id);
    let seq = [(before.seq, base_id), (after.seq, last)].into_iter().find(|(seq, wanted)| seq != wanted);
    if let Some((seq, _)) = seq {
        return Some(Why::MadeSince { base: name, seq });
    }
    // What was there before is there after, or was removed; nothing else may have come.
    let new = after.snapshots.iter().find(|id| **id != last && !before.snapshots.contains(id));
    new.map(|seq| Why::MadeSince { base: name, seq: *seq })
}

impl Verdict {
    /// Why the object maps are not believed; `None` where they are.
    pub fn why(&self) -> Option<&Why> {
        match self {
            Self::Fast => None,
            Self::Slow { why, .. } | Self::ReadAll(why) => Some(why),
        }
    }
}

impl Why {
    /// The command that helps, where one does.
    pub fn advice(&self, path: &str) -> Option<String> {
        match self {
            Self::NoFastDiff { missing } => Some(advice::enable_fast_diff(path, *missing)),
            Self::MapInvalid { snapshot } => Some(advice::rebuild_map(path, snapshot.as_deref())),
            Self::OthersThen { .. } | Self::MadeSince { .. } => Some(advice::list_snapshots(path)),
            Self::NotAlone { rebuild, .. } => Some(advice::rebuild_map(path, Some(rebuild))),
            _ => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Migrating => {
                f.write_str("the image, or what it was cloned from, is under live migration, in which Ceph cannot tell what changed")
            }
            Self::NoFastDiff { .. } => f.write_str("the image has no fast-diff"),
            Self::MapInvalid { snapshot: Some(name) } => {
                write!(f, "the object map of snapshot {name} is marked invalid")
            }
            Self::MapInvalid { snapshot: None } => {
                f.write_str("the object map of the image as it is now is marked invalid")
            }
            Self::ObjectsChanged { base } => write!(
                f,
                "the object map of {base} is not what it was when that was backed up, so what was read of it then may be \
                 something else than what it holds"
            ),
            Self::ObjectsUnknown { base } => {
                write!(f, "which objects {base} had when it was backed up is not known")
            }
            Self::Unreadable(why) => {
                write!(f, "whether the object maps may be believed cannot be found out: {why}")
            }
            Self::NotRecorded { base } => {
                write!(f, "no backup recorded which snapshots there were when {base} was made")
            }
            Self::NotMadeHere { newer: Some(name) } => {
                write!(f, "cuttle did not make {name}, and which snapshots there were before it is not known")
            }
            Self::NotMadeHere { newer: None } => f.write_str("nothing is known of the image's history"),
            Self::OthersThen { base, others } => write!(
                f,
                "when {base} was made the image had other snapshots too ({}), and a rollback to one of them need not show \
                 in the object maps",
                listed(others)
            ),
            Self::MadeSince { base, seq } => write!(
                f,
                "since {base} another snapshot was made (id {seq}), and what was done between them need not show in the \
                 object maps"
            ),
            Self::NotAlone { base, replaced, .. } => write!(
                f,
                "when {base} was made, the object map of the snapshot that it replaced (id {replaced}) still leant on older \
                 ones, or could not be read"
            ),
        }
    }
}

fn listed(ids: &[u64]) -> String {
    let shown: Vec<String> = ids.iter().take(IDS_LISTED_MAX).map(|id| format!("id {id}")).collect();
    let more = if ids.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
