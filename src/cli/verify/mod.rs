//! `cuttle verify`: whether what was backed up can be restored.

mod repair;
mod report;

use std::error::Error as _;
use std::sync::Arc;

use cuttle::backup::own_prefix;
use cuttle::format::role::Role;
use cuttle::plan::shard::Shard;
use cuttle::progress::Progress;
use cuttle::repo::Project;
use cuttle::repo::history::SnapshotEntry;
use cuttle::source::ReadAt;
use cuttle::source::rbd_compare::{Compared, Comparison};
use cuttle::store::Store;
use cuttle::verify::{self, AgainstReport, INFLIGHT_BYTES_DEFAULT, ScrubOptions, Slice, VerifyOptions};
use cuttle::{Error, Result, cpu};

use super::bar::{Bar, Words};
use super::connect::{self, blocking, store_config};
use super::place::{self, Readable};
use super::secret::NoPassword;
use super::{Context, Exit};

const READ: Words = Words { unit: "chunk", new: "read", known: "", zero: "" };
const SCRUBBED: Words = Words { unit: "object", new: "read", known: "", zero: "" };
const COMPARED: Words = Words { unit: "chunk", new: "", known: "compared", zero: "" };

const EXAMPLES: &str = "\
Without options it reads all metadata and looks whether every chunk is there, with its right size. --read-data also
reads, authenticates and re-hashes every chunk, as a restore does; with --slice n/N only an N-th of them.

Examples:
  cuttle verify                               what every snapshot needs is there
  cuttle verify vms/db@latest --read-data     one snapshot, every byte
  cuttle verify --read-data --slice $(( $(date +%-j) % 30 + 1 ))/30     all data, once in thirty nights
  cuttle verify vms/db --against rbd:vms/db   the newest backup, and the snapshot that it was made from
  cuttle verify vms/db --against rbd:new/db   the newest backup, and an image that it was restored to
  cuttle verify --no-key                      every object against its own checksum, without any key
  cuttle verify -n                            the same as without options, and nothing that is lost is remembered
  cuttle verify --read-data --repair -n       what could be mended, and from where
  cuttle verify --read-data --repair          mend it; needs a right to overwrite, which backup hosts should not have
  cuttle verify --quarantine projects/default/retention/0000000001/0000000003.forget -n
                                              what is known of an object that does not open

It goes on after damage, reports all that is hurt, and then ends with exit code 1. Chunks and pages that are lost are
remembered in the repository, if these credentials may write: no backup builds on them, until they are mended.

--repair puts chunks back that are still where they were backed up from (the image, its snapshots, the file), or in what
--repair-from and --repair-from-repo name, and manifest pages that are in this host's cache. A chunk is taken only if it is
the very one that was lost. Damaged objects are copied to quarantine/ before they are replaced; nothing is ever deleted. The
exit code is 0 if nothing stays damaged.

--quarantine is for an object of a log, the catalog or a prune round that does not open: rot, or planted by somebody who has
no key. A prune stops at it where it may keep a snapshot alive. With -n it says what is known of it, and what would be done.";

/// Check that snapshots can be restored
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to verify: VOLUME, VOLUME@latest, VOLUME@SEQ, VOLUME@SNAPNAME or an id [default: all of the project]
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Read every chunk and check what is in it
    #[arg(long)]
    read_data: bool,
    /// Only the n-th of N parts of the data
    #[arg(long, value_name = "n/N")]
    slice: Option<Slice>,
    /// Only volumes in the I-th of N shares, as `backup --shard` has them: for several hosts that share the work
    #[arg(long, value_name = "I/N", conflicts_with_all = ["snapshots", "no_key", "against"])]
    shard: Option<Shard>,
    /// Compare a snapshot with an image, the snapshot of one, a file or a device
    #[arg(long, value_name = "rbd:…|PATH", value_parser = place::parse::<Readable>)]
    #[arg(conflicts_with_all = ["read_data", "slice", "no_key"])]
    against: Option<Readable>,
    /// Compare with the image as it is now, not with a snapshot of it: for who may only read, or after writing on purpose
    #[arg(long, requires = "against")]
    as_it_is: bool,
    /// Check each object's own checksum, for which no key is needed
    #[arg(long, conflicts_with_all = ["read_data", "snapshots"])]
    no_key: bool,
    /// Mend what is damaged or missing, from what the volumes were backed up from and from this host's cache
    #[arg(long, conflicts_with_all = ["against", "no_key"])]
    repair: bool,
    /// Mend from this instead, whichever volume it is: an image, the snapshot of one, a file or a device; may be repeated
    #[arg(long, value_name = "rbd:…|PATH", value_parser = place::parse::<Readable>, requires = "repair")]
    repair_from: Vec<Readable>,
    /// Mend from another repository with the same password: volumes of the same name are looked at; may be repeated
    #[arg(long, value_name = "REPO", requires = "repair")]
    repair_from_repo: Vec<String>,
    /// Put aside an object that does not open and that a prune stops at, by its name in the repository
    #[arg(long, value_name = "NAME", conflicts_with_all = ["snapshots", "read_data", "slice", "against", "no_key", "repair"])]
    quarantine: Option<String>,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    if let Some(Readable::Image(spec)) = &args.against
        && spec.snapshot.is_none()
        && !args.as_it_is
    {
        let why =
            "it may have to make a snapshot of the image; name one, or compare with the image --as-it-is";
        connect::refuse_dry_run(context, "verify --against an image", why)?;
    }
    if args.no_key {
        return scrub(context, args.slice).await;
    }
    if args.against.is_some() && args.snapshots.len() != 1 {
        let found = args.snapshots.len();
        return Err(Error::invalid(format!("--against compares one SNAPSHOT, {found} are named"))
            .help("for example: cuttle verify vms/db --against rbd:vms/db"));
    }
    let project = connect::verifier(context).await.map_err(tell_of_no_key)?;
    if args.repair {
        // It reads what chunks hold, and puts something in their place.
        project.demand(&[])?;
    } else if args.quarantine.is_some() {
        project.demand(&[Role::Keeper])?;
    } else if args.read_data || args.against.is_some() {
        project.demand(&[Role::Restore])?;
    }
    if let Some(name) = &args.quarantine {
        let aside = verify::repair::put_aside(&project, name, context.global.dry_run).await?;
        return report::put_aside(context, &aside);
    }
    if let (Some(place), [snapshot]) = (args.against, &args.snapshots[..]) {
        return compare(context, &project, snapshot, args.as_it_is, place).await;
    }
    let options = VerifyOptions {
        snapshots: args.snapshots,
        shard: args.shard,
        read_data: args.read_data,
        slice: args.slice,
        record: !context.global.dry_run,
        ..VerifyOptions::default()
    };
    if args.repair {
        return repair::run(context, &project, options, args.repair_from, &args.repair_from_repo).await;
    }
    let bar = Bar::new(context.ui, &format!("project {}", project.name()), READ, false);
    let progress: Arc<dyn Progress> = bar.clone();
    let result = verify::run(&project, options, progress, context.cancel.clone()).await;
    bar.done();
    let mut found = result?;
    found.ledger = project.repository().store().ledger();
    report::verified(context, &found)
}

/// Who has no key can do something all the same.
fn tell_of_no_key(error: Error) -> Error {
    if !error.source().is_some_and(|cause| cause.is::<NoPassword>()) {
        return error;
    }
    let help = error.help_text().unwrap_or_default().to_owned();
    error.help(format!("{help}; without any key, `cuttle verify --no-key` checks every object's checksum"))
}

async fn scrub(context: &Context<'_>, slice: Option<Slice>) -> Result<Exit> {
    let store = Store::open(&store_config(context)?)?;
    let bar = Bar::new(context.ui, store.url(), SCRUBBED, false);
    let progress: Arc<dyn Progress> = bar.clone();
    let options = ScrubOptions { slice, ..ScrubOptions::default() };
    let result = verify::scrub(&store, options, progress, context.cancel.clone()).await;
    bar.done();
    report::scrubbed(context, &result?)
}

async fn compare(
    context: &Context<'_>,
    project: &Project,
    snapshot: &str,
    as_it_is: bool,
    place: Readable,
) -> Result<Exit> {
    let snapshot = project.volumes().snapshot(snapshot).await?;
    let other = Other::open(context, project, &snapshot, as_it_is, &place).await?;
    let label = format!("{}@{} and {place}", snapshot.volume_name, snapshot.snapshot.sequence);
    let bar = Bar::new(context.ui, &label, COMPARED, false);
    let progress: Arc<dyn Progress> = bar.clone();
    let (reader, cancel) = (Arc::clone(&other.reader), context.cancel.clone());
    let result = verify::against(project, &snapshot, reader, INFLIGHT_BYTES_DEFAULT, progress, cancel).await;
    bar.done();
    if let Ok(found) = &result {
        other.check(context, found).await;
    }
    other.end(context).await;
    let found: AgainstReport = result?;
    report::compared(context, &place, &found, &project.repository().store().ledger())
}

/// What a snapshot is compared with.
struct Other {
    reader: Arc<dyn ReadAt>,
    /// Whether it still is what it was: a file may change meanwhile, a snapshot may be removed.
    stands: Arc<dyn Fn() -> Result<()> + Send + Sync>,
    /// The image whose snapshot may have been made for this.
    image: Option<Arc<Compared>>,
}

impl Other {
    async fn open(
        context: &Context<'_>,
        project: &Project,
        snapshot: &SnapshotEntry,
        as_it_is: bool,
        place: &Readable,
    ) -> Result<Self> {
        match place {
            Readable::Image(spec) => {
                let (cluster, backup) = (connect::cluster(context).await?, snapshot.snapshot.clone());
                let spec = spec.clone();
                // An own one: where it is left over, the next backup removes it.
                let own_name = format!("{}verify-{}", own_prefix(project), std::process::id());
                // Not given up half way: it may make a snapshot, which somebody must remove.
                let image = cpu::block(move || {
                    let (identity, point) = (&backup.identity, backup.point.as_ref());
                    let comparison = Comparison { identity, point, own_name: &own_name, as_it_is };
                    Compared::open(&cluster, &spec, comparison)
                })
                .await?;
                let image = Arc::new(image);
                let checked = Arc::clone(&image);
                Ok(Self {
                    reader: image.reader(),
                    stands: Arc::new(move || checked.check()),
                    image: Some(image),
                })
            }
            Readable::File(path) => {
                let frozen = place::still(context, path).await?;
                Ok(Self { reader: frozen.reader(), stands: Arc::new(move || frozen.check()), image: None })
            }
        }
    }

    /// Removes what was made for this, also after an interruption.
    async fn end(self, context: &Context<'_>) {
        let Some(image) = self.image else { return };
        if let Err(e) = cpu::block(move || image.end()).await {
            context.ui.warn(&format!("the snapshot made to compare with could not be removed: {e}"));
        }
    }

    /// Says so when what was read changed meanwhile, as then a difference means nothing.
    async fn check(&self, context: &Context<'_>, report: &AgainstReport) {
        if report.ok() {
            return;
        }
        let stands = Arc::clone(&self.stands);
        if let Err(e) = blocking(context, move || stands()).await {
            context.ui.warn(&e.to_string());
        }
    }
}
