use super::*;
use crate::backup::who::Who;
use crate::backup::{BackupOptions, DeltaMode};
use crate::error::ErrorKind;
use crate::format::record::{BackupStats, Snapshot};
use crate::repo::history::SnapshotEntry;
use crate::units::{Generation, SnapshotId, VolumeNumber};
use crate::volume::{Identity, ImageLayout};

const CHUNK: u32 = 4096;
const C: u64 = CHUNK as u64;

fn image(id: &str) -> Identity {
    Identity::Rbd {
        cluster_fsid: "f".into(),
        pool: "p".into(),
        namespace: String::new(),
        image: "i".into(),
        image_id: id.into(),
    }
}

fn file() -> Identity {
    Identity::File { path: "/disk".into() }
}

fn point(own: bool) -> SnapshotPoint {
    SnapshotPoint { own, rbd_snap_id: 7, ..SnapshotPoint::named("snap".into()) }
}

fn parent(identity: Identity, nights_since_full: u32, point: Option<SnapshotPoint>) -> SnapshotEntry {
    let snapshot = Snapshot {
        volume: VolumeNumber(1),
        sequence: Sequence(4),
        generation: Generation(0),
        size_bytes: 10 * C,
        chunk_size_bytes: CHUNK,
        identity,
        point,
        layout: ImageLayout::default(),
        host: String::new(),
        program: String::new(),
        started_unix_ms: 0,
        tags: Vec::new(),
        parent: None,
        origin: None,
        full_read: true,
        recalled_from: None,
        nights_since_full,
        sample_cursor: 3,
        stats: BackupStats::default(),
        root: Vec::new(),
    };
    SnapshotEntry {
        volume_name: "v".into(),
        snapshot_id: SnapshotId([1; 16]),
        snapshot,
        committed_unix_ms: 0,
        protected: false,
        tags: Vec::new(),
        notes: 0,
    }
}

/// Facts of a night on which nothing is unusual.
struct Night {
    options: BackupOptions,
    who: Who,
    parent: Option<SnapshotEntry>,
    is_unreadable: bool,
    delta_depth_max: u8,
    fetches: bool,
    answer: Answer,
    distrust: Option<Distrust>,
}

impl Night {
    fn new() -> Self {
        let changed = Extent { offset_bytes: 2 * C + 1, length_bytes: 1, content: Content::Data };
        Self {
            options: BackupOptions::new("v".parse().expect("a name")),
            who: Who { identity: image("one"), moved_from: None, cloned_from: None },
            parent: Some(parent(image("one"), 0, Some(point(true)))),
            is_unreadable: false,
            delta_depth_max: 7,
            fetches: false,
            answer: Answer {
                size_bytes: 10 * C,
                changes: Changes::Since(vec![changed]),
                point: Some(point(true)),
                has_base: true,
                check_command: None,
                forbidden: BTreeSet::new(),
            },
            distrust: None,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut night = Self::new();
        change(&mut night);
        night
    }

    fn past(&self) -> Past<'_> {
        Past {
            options: &self.options,
            who: &self.who,
            parent: self.parent.as_ref(),
            origin: None,
            is_unreadable: self.is_unreadable,
            chunk_size_bytes: CHUNK,
            delta_depth_max: self.delta_depth_max,
            fetches: self.fetches,
        }
    }

    /// Asks and plans, as an honest source would answer: changes are told only to who asked for them.
    fn plan(&self) -> Result<(Asked, BackupPlan)> {
        let asked = ask(&self.past())?;
        let mut answer = self.answer.clone();
        if asked.since.is_none() {
            let all = Extent { offset_bytes: 0, length_bytes: answer.size_bytes, content: Content::Data };
            (answer.changes, answer.has_base) = (Changes::All(vec![all]), false);
        }
        let plan = plan(&self.past(), &asked, &answer, self.distrust)?;
        Ok((asked, plan))
    }

    fn planned(&self) -> BackupPlan {
        self.plan().expect("a plan").1
    }
}

fn chunks(plan: &BackupPlan) -> &ChunkPlan {
    match &plan.pieces {
        Pieces::Chunks(chunks) => chunks,
        Pieces::Stream { .. } => panic!("no stream"),
    }
}

/// First, count, and whether they are read.
fn spans(plan: &BackupPlan) -> Vec<(u64, u64, bool)> {
    chunks(plan).spans.iter().map(|s| (s.first.0, s.count, s.read)).collect()
}

#[test]
fn why_all_is_read_and_why_not() {
    let full = |why| Scope::All(why);
    let changes = Scope::Changes(KnownBy::Id);
    let nights = |n| move |night: &mut Night| night.parent = Some(parent(image("one"), n, Some(point(true))));
    let cases: Vec<(&str, Night, Scope, usize)> = vec![
        ("as ever", Night::new(), changes.clone(), 0),
        ("the first", Night::with(|n| n.parent = None), full(Why::First), 0),
        ("asked for", Night::with(|n| n.options.full = true), full(Why::Asked), 0),
        ("one night before it is due", Night::with(nights(28)), changes.clone(), 0),
        ("due", Night::with(nights(29)), full(Why::Due), 1),
        (
            "never due",
            Night::with(|n| {
                nights(1000)(n);
                n.options.full_every = 0;
            }),
            changes.clone(),
            0,
        ),
        ("every time", Night::with(|n| n.options.full_every = 1), full(Why::Due), 1),
        (
            "due, and asked for",
            Night::with(|n| {
                nights(29)(n);
                n.options.full = true;
            }),
            full(Why::Asked),
            0,
        ),
        ("unreadable", Night::with(|n| n.is_unreadable = true), full(Why::Unreadable), 0),
        (
            "after a stream",
            Night::with(|n| n.parent = Some(parent(Identity::Stream, 0, Some(point(false))))),
            full(Why::WasStream),
            0,
        ),
        (
            "renamed",
            Night::with(|n| {
                let Identity::Rbd { image, .. } = &mut n.who.identity else { return };
                "other".clone_into(image);
            }),
            changes.clone(),
            0,
        ),
        (
            "another one, on purpose",
            Night::with(|n| {
                n.who.identity = image("two");
                n.options.accept_new_identity = true;
            }),
            full(Why::Replaced),
            1,
        ),
        (
            "being moved",
            Night::with(|n| {
                n.who = Who { identity: image("two"), moved_from: Some(image("one")), cloned_from: None }
            }),
            full(Why::Moved),
            1,
        ),
        (
            "being moved, never backed up",
            Night::with(|n| {
                n.who.moved_from = Some(image("zero"));
                n.parent = None;
            }),
            full(Why::First),
            1,
        ),
        (
            "its map is not believed, or its base is gone",
            Night::with(|n| n.answer.changes = Changes::All(Vec::new())),
            full(Why::Untold),
            0,
        ),
        (
            "a file",
            Night::with(|n| {
                n.parent = Some(parent(file(), 0, None));
                n.who.identity = file();
            }),
            full(Why::Untold),
            0,
        ),
        (
            "a change was missed",
            Night::with(|n| n.distrust = Some(Distrust::Missed(ChunkIndex(5)))),
            full(Why::MissedChange),
            1,
        ),
        (
            "the base is not what it was",
            Night::with(|n| n.distrust = Some(Distrust::Base(ChunkIndex(5)))),
            full(Why::BaseDiffers),
            1,
        ),
    ];
    for (what, night, scope, remarks) in cases {
        let (asked, plan) = night.plan().expect(what);
        assert_eq!(plan.scope, scope, "{what}");
        assert_eq!(asked.remarks.len() + plan.remarks.len(), remarks, "{what}");
        // Whatever it reads, it says what it is compared with.
        let compared = night.parent.as_ref().filter(|_| !night.is_unreadable).map(|p| p.snapshot.sequence);
        assert_eq!(plan.parent, compared, "{what}");
        let before = night.parent.as_ref().map_or(0, |p| p.snapshot.nights_since_full);
        let expected = if scope == changes { before + 1 } else { 0 };
        assert_eq!(plan.nights_since_full, expected, "{what}");
        assert!(plan.to_string().lines().count() >= 4, "{what}");
    }
}

#[test]
fn what_may_be_mixed_up_is_refused() {
    let another = Night::with(|n| n.who.identity = image("two"));
    let cut = |change: fn(&mut Night)| {
        Night::with(|n| {
            (n.who.identity, n.parent) = (file(), Some(parent(file(), 0, None)));
            n.answer.size_bytes = 10 * C - 1;
            change(n);
        })
    };
    for night in [another, cut(|_| ())] {
        assert_eq!(night.plan().expect_err("refused").kind(), ErrorKind::Conflict);
    }
    assert_eq!(cut(|n| n.options.accept_smaller = true).planned().remarks.len(), 1);
    // An image gets smaller only when somebody says so.
    assert!(Night::with(|n| n.answer.size_bytes = C).planned().remarks.is_empty());
}

#[test]
fn what_is_read_follows_from_what_changed() {
    let usual = Night::new().planned();
    assert_eq!(spans(&usual), [(2, 1, true)]);
    assert_eq!((usual.changed_bytes, usual.sample_cursor), (Some(1), 3));
    // Nothing is believed of a source that was found wrong, not even its holes.
    let wrong = Night::with(|n| {
        n.distrust = Some(Distrust::Missed(ChunkIndex(5)));
        n.answer.changes = Changes::All(Vec::new());
    });
    assert_eq!(spans(&wrong.planned()), [(0, 10, true)]);
    // What a full answer does not list is zero, and nothing is forced there.
    let holes = Night::with(|n| {
        n.answer.changes = Changes::All(Vec::new());
        n.answer.forbidden = BTreeSet::from([1]);
    });
    assert_eq!(spans(&holes.planned()), [(0, 10, false)]);
}

#[test]
fn chunks_that_cannot_stay_are_read_anyway() {
    for (what, size_bytes, forbidden, forced, expected) in [
        ("forbidden", 10 * C, vec![7], vec![7], vec![(2, 1, true), (7, 1, true)]),
        ("forbidden and changed", 10 * C, vec![2], vec![2], vec![(2, 1, true)]),
        ("grown on a border", 12 * C, vec![], vec![10], vec![(2, 1, true), (10, 1, true)]),
        ("cut in a chunk", 9 * C + 5, vec![], vec![9], vec![(2, 1, true), (9, 1, true)]),
        ("cut on a border", 5 * C, vec![8], vec![], vec![(2, 1, true)]),
        ("cut to nothing", 0, vec![1], vec![], vec![]),
    ] {
        let night = Night::with(|n| {
            n.answer.size_bytes = size_bytes;
            n.answer.forbidden = forbidden.into_iter().collect();
        });
        let plan = night.planned();
        assert_eq!(spans(&plan), expected, "{what}");
        assert_eq!(chunks(&plan).forced.iter().copied().collect::<Vec<_>>(), forced, "{what}");
    }
    // A partial last chunk that becomes longer.
    let grown = Night::with(|n| {
        let mut before = parent(image("one"), 0, Some(point(true)));
        before.snapshot.size_bytes = 9 * C + 5;
        n.parent = Some(before);
    });
    assert_eq!(spans(&grown.planned()), [(2, 1, true), (9, 1, true)]);
}

#[test]
fn deltas_want_a_base_that_is_as_it_was() {
    let depth = |change: fn(&mut Night)| {
        let deltas = Night::with(change).planned().deltas;
        assert!(deltas.is_none_or(|deltas| deltas.base == DeltaBase::Source));
        deltas.map(|deltas| deltas.depth_max)
    };
    assert_eq!(depth(|_| ()), Some(7));
    assert_eq!(depth(|n| n.answer.has_base = false), None);
    assert_eq!(depth(|n| n.delta_depth_max = 0), None);
    assert_eq!(depth(|n| n.options.delta = DeltaMode::Never), None);
    assert_eq!(depth(|n| n.distrust = Some(Distrust::Base(ChunkIndex(0)))), None);
    let fetched = |change: fn(&mut Night)| {
        let night = Night::with(|n| {
            (n.fetches, n.answer.has_base) = (true, false);
            change(n);
        });
        night.planned().deltas.map(|deltas| (deltas.base, deltas.depth_max))
    };
    assert_eq!(fetched(|_| ()), Some((DeltaBase::Repository, 7)));
    assert_eq!(fetched(|n| n.is_unreadable = true), None);
    assert_eq!(fetched(|n| n.parent = None), None);
    assert_eq!(fetched(|n| n.delta_depth_max = 0), None);
    // All is read, but the base is there.
    assert_eq!(depth(|n| n.answer.changes = Changes::All(Vec::new())), Some(7));
}

#[test]
fn what_the_next_backup_can_go_on_from() {
    let next = |point: Option<SnapshotPoint>| Night::with(|n| n.answer.point = point).planned().next;
    assert_eq!(next(Some(point(true))), NextPoint::Own);
    assert_eq!(next(Some(point(false))), NextPoint::Others("snap".into()));
    assert_eq!(next(None), NextPoint::Nothing);
}

#[test]
fn a_sample_lies_within_the_volume() {
    let plan = Night::with(|n| n.answer.size_bytes = 5 * C).planned();
    let plan = plan.with_sample([1, 4, 5, 9].map(ChunkIndex).to_vec(), 6);
    assert_eq!((chunks(&plan).sample.as_slice(), plan.sample_cursor), (&[1, 4].map(ChunkIndex)[..], 6));
    assert_eq!((chunks(&plan).read_bytes(), chunks(&plan).total_bytes()), (3 * C, 3 * C));
    let json = serde_json::to_value(&plan).expect("JSON");
    assert_eq!(
        (&json["reads"], &json["read_chunks"], &json["sample_chunks"]),
        (&"changes".into(), &1.into(), &2.into())
    );
}

#[test]
fn a_stream_goes_on_from_its_parent_or_tells_all() {
    let header = |from: Option<&str>| StreamHeader {
        from: from.map(str::to_owned),
        to: Some("next".into()),
        size_bytes: None,
        layout: ImageLayout::default(),
        has_end: true,
        states: 1,
    };
    let night = Night::with(|n| n.who.identity = Identity::Stream);
    let diff = plan_stream(&night.past(), &header(Some("snap"))).expect("goes on");
    assert_eq!((diff.scope, diff.pieces), (Scope::Changes(KnownBy::Name), Pieces::Stream { is_diff: true }));
    assert_eq!((diff.nights_since_full, diff.remarks.len()), (1, 0));
    assert_eq!(diff.next, NextPoint::Others("next".into()));
    let whole = plan_stream(&night.past(), &header(None)).expect("all of it");
    assert_eq!((whole.scope, whole.remarks.len()), (Scope::All(Why::WholeStream), 1));
    assert_eq!(whole.pieces, Pieces::Stream { is_diff: false });
    let refused = plan_stream(&night.past(), &header(Some("older"))).expect_err("of another snapshot");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let unreadable = Night::with(|n| n.is_unreadable = true);
    let refused = plan_stream(&unreadable.past(), &header(Some("snap"))).expect_err("nothing to patch");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(plan_stream(&unreadable.past(), &header(None)).expect("all of it").parent.is_none());
    let first = Night::with(|n| n.parent = None);
    assert!(plan_stream(&first.past(), &header(Some("snap"))).is_err());
    assert_eq!(plan_stream(&first.past(), &header(None)).expect("a plan").scope, Scope::All(Why::First));
}
