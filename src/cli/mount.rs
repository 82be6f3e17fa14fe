//! `cuttle mount`: snapshots as files.

use std::path::PathBuf;

use serde::Serialize;

use cuttle::Result;
use cuttle::mount::current::Current;
use cuttle::mount::{self, Event, MountOptions};
use cuttle::reading::snapshot::MEMORY_BYTES_DEFAULT;

use super::report::Report;
use super::{Context, Exit, connect, human};

const EXAMPLES: &str = "\
Each snapshot is a sparse, read-only file, MOUNTPOINT/VOLUME/SEQUENCE.raw, and the newest also MOUNTPOINT/VOLUME/latest.raw.
Only what is read is fetched. New backups appear within half a minute. It stays in the foreground, and ends when it is
unmounted, or with Ctrl-C once nothing uses it. It needs /dev/fuse, and for others than root fusermount3 (package fuse3).

Whoever mounts may read the files, and root too where it asked for --allow-other or mounts itself: they hold all that is in the
volumes.

Examples:
  mkdir /mnt/backups && cuttle mount /mnt/backups &
  mount -o loop,ro,noload /mnt/backups/vms/db/latest.raw /mnt/db      one file back: ext4 on the whole volume
  mount -o loop,ro,norecovery /mnt/backups/vms/db/17.raw /mnt/db      the same for xfs
  losetup -rPf --show /mnt/backups/vms/web/latest.raw                 partitions: then mount -o ro /dev/loop0p1
  umount /mnt/db && umount /mnt/backups";

/// Show all snapshots as read-only files
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A folder that exists
    mountpoint: PathBuf,
    /// Let all users read the files; for others than root, /etc/fuse.conf has to say user_allow_other
    #[arg(long)]
    allow_other: bool,
    /// Memory for chunks that were read or are read ahead [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = human::parse_size_nonzero)]
    memory: Option<u64>,
}

#[derive(Serialize)]
struct Mounted {
    mountpoint: String,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    connect::refuse_dry_run(
        context,
        "mount",
        "it only reads, and shows what there is until it is told to end",
    )?;
    let project = connect::data(context).await?;
    let current = Current::new(&project, args.memory.unwrap_or(MEMORY_BYTES_DEFAULT));
    let options = MountOptions { mountpoint: args.mountpoint, allow_other: args.allow_other };
    let shown = options.mountpoint.display().to_string();
    let tell = |event| match event {
        Event::Mounted => mounted(context, &shown),
        Event::Busy => {
            context
                .ui
                .warn(&format!("{shown} is in use: unmount what uses it first; it is served until then"));
            Ok(())
        }
    };
    mount::run(current, &options, tell, context.cancel.clone()).await?;
    Ok(Exit::Success)
}

fn mounted(context: &Context<'_>, mountpoint: &str) -> Result<()> {
    context.ui.remark(&format!("snapshots are in {mountpoint}; `umount {mountpoint}` or Ctrl-C ends it"));
    context.ui.report(&Mounted { mountpoint: mountpoint.to_owned() })
}

/// People were told on standard error.
impl Report for Mounted {
    const MESSAGE_TYPE: &'static str = "mounted";
}
