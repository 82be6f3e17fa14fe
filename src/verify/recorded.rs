//! What a verification found lost is remembered in the repository, and forgotten when it is good again
//! (repo-format.md §8.6).

use std::collections::HashSet;

use crate::error::{ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::lost::LostName;
use crate::format::names::{ContentKind, ContentName};
use crate::repo::{Keeper, Writer};
use crate::verify::VerifyOptions;
use crate::verify::audit::Audit;
use crate::verify::report::VerifyReport;

/// Records what chunks and pages are hurt. A repair, which tells what it `mended`, also lets go of what is good. Who may
/// not write verifies all the same.
pub(crate) async fn remember(
    audit: &Audit,
    writer: &Writer,
    options: &VerifyOptions,
    report: &mut VerifyReport,
    mended: Option<(&Keeper, &[&str])>,
) -> Result<()> {
    match try_to_remember(audit, writer, options, report, mended).await {
        Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Internal) => Err(e),
        Err(e) => {
            audit.progress.warn(&format!(
                "what was found lost could not be recorded, so that backups may go on building on it: {e}"
            ));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn try_to_remember(
    audit: &Audit,
    writer: &Writer,
    options: &VerifyOptions,
    report: &mut VerifyReport,
    mended: Option<(&Keeper, &[&str])>,
) -> Result<()> {
    let hurt: Vec<LostName> = report.damage.iter().filter_map(|d| lost_name(&d.object)).collect();
    let read_all = options.read_data && options.slice.is_none();
    let read_all = read_all && options.snapshots.is_empty() && options.shard.is_none();
    let all_listed = report.damage_omitted == 0 && report.ranges_omitted == 0;
    if hurt.is_empty() && mended.is_none() {
        return Ok(());
    }
    let mut known = audit.project.lost_records().read().await?;
    if !options.record {
        report.recorded = known.lacks(&hurt).len() as u64;
        return Ok(());
    }
    if let Some((keeper, mended)) = mended.filter(|_| !known.is_empty()) {
        let hurt: HashSet<&LostName> = hurt.iter().collect();
        let mended: HashSet<LostName> = mended.iter().filter_map(|object| lost_name(object)).collect();
        // What was read and is not hurt is good, or nobody needs it.
        let settled =
            |name: &LostName| !hurt.contains(name) && (mended.contains(name) || read_all && all_listed);
        keeper.lost_records().settle(&known, settled).await?;
    }
    report.recorded = writer.lost_records().remember(&mut known, &hurt).await? as u64;
    Ok(())
}

/// The chunk or page that an object's name is of.
fn lost_name(object: &str) -> Option<LostName> {
    let (object, offset_bytes) = match object.split_once('+') {
        Some((object, offset)) => (object, Some(offset.parse().ok()?)),
        None => (object, None),
    };
    match ObjectName::parse(object)? {
        ObjectName::Bundle(_, name) => Some(LostName::new(
            ContentKind::Bundle,
            ContentName { offset_bytes: Some(offset_bytes?), ..name },
        )),
        ObjectName::Chunk(_, name) => Some(LostName::new(ContentKind::Chunk, name)),
        ObjectName::Page(_, name) => Some(LostName::new(ContentKind::Page, name)),
        _ => None,
    }
}
