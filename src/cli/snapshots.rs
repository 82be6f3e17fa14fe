//! `cuttle snapshots`: what can be restored.

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use cuttle::clock::{Clock, SystemClock};
use cuttle::format::record::{BackupStats, SnapshotOrigin, VolumeRecord};
use cuttle::plan::selection::TagList;
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::units::VolumeName;
use cuttle::volume::{Identity, ImageLayout, SnapshotPoint};
use cuttle::{Error, Result};

use super::report::note_requests;
use super::table::{Column, table};
use super::{Context, Exit, connect, human};

/// Volumes whose logs are read at once.
const VOLUMES_INFLIGHT_MAX: usize = 8;

const EXAMPLES: &str = "\
TIME is when the store says that the backup was finished. NEW is what the backup found that the repository did not
have, STORED what that takes in the store.

Examples:
  cuttle snapshots                    all volumes of the project
  cuttle snapshots vms/db             one volume
  cuttle snapshots --latest 1         the newest of each volume
  cuttle snapshots --tag release      those that have a tag
  cuttle snapshots --json | jq -r '.[] | select(.committed_at < \"2026-01-01\") | .snapshot'";

/// List the snapshots that can be restored
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only this volume
    volume: Option<VolumeName>,
    /// Only the newest N of each volume
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    latest: Option<u32>,
    /// Only those that have all these tags; may be repeated: one of the lists must match; '' for those without any tag
    #[arg(long = "tag", value_name = "TAG[,TAG…]")]
    tags: Vec<TagList>,
}

/// A snapshot, as JSON shows it.
#[derive(Serialize)]
struct Listed<'a> {
    volume: &'a str,
    sequence: u32,
    snapshot_id: String,
    /// By the host's clock; everything else goes by the store's.
    taken_at: Option<String>,
    committed_at: Option<String>,
    size_bytes: u64,
    tags: &'a [String],
    protected: bool,
    host: &'a str,
    program: &'a str,
    parent: Option<u32>,
    recalled_from: Option<u32>,
    origin: Option<Origin<'a>>,
    full_read: bool,
    source: Source<'a>,
    point: Option<&'a SnapshotPoint>,
    layout: &'a ImageLayout,
    #[serde(flatten)]
    stats: BackupStats,
}

/// The backup of what an image was cloned from, as JSON shows it.
#[derive(Serialize)]
struct Origin<'a> {
    snapshot_id: String,
    image_id: &'a str,
    rbd_snap_id: u64,
}

impl<'a> From<&'a SnapshotOrigin> for Origin<'a> {
    fn from(origin: &'a SnapshotOrigin) -> Self {
        let SnapshotOrigin { snapshot_id, image_id, rbd_snap_id, .. } = origin;
        Self { snapshot_id: snapshot_id.to_string(), image_id, rbd_snap_id: *rbd_snap_id }
    }
}

/// What was backed up, as JSON shows it.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Source<'a> {
    Rbd { cluster_fsid: &'a str, pool: &'a str, namespace: &'a str, image: &'a str, image_id: &'a str },
    File { path: &'a str },
    Stream,
}

impl<'a> From<&'a Identity> for Source<'a> {
    fn from(identity: &'a Identity) -> Self {
        match identity {
            Identity::Rbd { cluster_fsid, pool, namespace, image, image_id } => {
                Self::Rbd { cluster_fsid, pool, namespace, image, image_id }
            }
            Identity::File { path } => Self::File { path },
            Identity::Stream => Self::Stream,
        }
    }
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let project = connect::project(context, false).await?;
    let snapshots = find(&project, &args).await?;
    let ui = context.ui;
    if ui.is_json() {
        ui.print_list(&snapshots.iter().map(listed).collect::<Vec<_>>())?;
    } else if snapshots.is_empty() {
        let tagged = if args.tags.is_empty() { "" } else { " with such tags" };
        ui.remark(&format!("no snapshots{tagged} in project {}", project.name()));
    } else {
        ui.print(&shown(&snapshots))?;
    }
    note_requests(context, project.repository().store());
    Ok(Exit::Success)
}

async fn find(project: &Project, args: &Args) -> Result<Vec<SnapshotEntry>> {
    let catalog = project.volumes().confirmed().await?;
    let mut volumes: Vec<&VolumeRecord> = match &args.volume {
        None => catalog.entries().iter().collect(),
        Some(name) => vec![catalog.by_name(name).ok_or_else(|| {
            Error::not_found(format!("there is no volume {name} in project {}", project.name()))
                .help("see `cuttle snapshots` for all volumes")
        })?],
    };
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let latest = args.latest.map_or(usize::MAX, |n| n as usize);
    let found: Vec<Vec<SnapshotEntry>> = stream::iter(volumes)
        .map(|volume| project.history(volume).snapshots())
        .buffered(VOLUMES_INFLIGHT_MAX)
        .map_ok(|mut snapshots| {
            snapshots.retain(|s| TagList::any_matches(&args.tags, &s.tags));
            snapshots.split_off(snapshots.len().saturating_sub(latest))
        })
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

fn listed(entry: &SnapshotEntry) -> Listed<'_> {
    let snapshot = &entry.snapshot;
    Listed {
        volume: &entry.volume_name,
        sequence: snapshot.sequence.0,
        snapshot_id: entry.snapshot_id.to_string(),
        taken_at: human::utc_time(snapshot.started_unix_ms),
        committed_at: human::utc_time(entry.committed_unix_ms),
        size_bytes: snapshot.size_bytes,
        tags: &entry.tags,
        protected: entry.protected,
        host: &snapshot.host,
        program: &snapshot.program,
        parent: snapshot.parent.map(|s| s.0),
        recalled_from: snapshot.recalled_from.map(|s| s.0),
        origin: snapshot.origin.as_ref().map(Origin::from),
        full_read: snapshot.full_read,
        source: Source::from(&snapshot.identity),
        point: snapshot.point.as_ref(),
        layout: &snapshot.layout,
        stats: snapshot.stats,
    }
}

fn shown(snapshots: &[SnapshotEntry]) -> String {
    use Column::{Number, Text};
    let columns = [
        Text("ID"),
        Text("VOLUME"),
        Number("SEQ"),
        Text("TIME"),
        Number("AGE"),
        Number("SIZE"),
        Number("NEW"),
        Number("STORED"),
        Text("SNAPSHOT"),
        Text("TAGS"),
    ];
    let now = SystemClock.now_unix_ms();
    let row = |entry: &SnapshotEntry| {
        let (snapshot, mut tags) = (&entry.snapshot, entry.tags.join(","));
        if entry.protected {
            tags = format!("{tags} (protected)").trim_start().to_owned();
        }
        vec![
            short(&entry.snapshot_id.to_string()),
            entry.volume_name.clone(),
            snapshot.sequence.to_string(),
            human::local_time(entry.committed_unix_ms),
            human::age(entry.committed_unix_ms, now),
            human::size(snapshot.size_bytes),
            human::size(snapshot.stats.new_bytes),
            human::size(snapshot.stats.stored_bytes),
            snapshot.point.as_ref().map(|p| p.name.clone()).unwrap_or_default(),
            tags,
        ]
    };
    table(&columns, snapshots.iter().map(row))
}

/// Enough of an id to name a snapshot.
pub fn short(id: &str) -> String {
    id.chars().take(8).collect()
}
