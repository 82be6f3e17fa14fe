//! `cuttle log`: what happened, newest first.

use std::time::Duration;

use serde::Serialize;

use cuttle::clock::{Clock, SystemClock};
use cuttle::repo::catalog::Catalog;
use cuttle::repo::events::{Event, Wanted, What};
use cuttle::units::VolumeName;
use cuttle::{Error, Result};

use super::report::note_requests;
use super::table::{Column, table};
use super::{Context, Exit, connect, human};

const EXAMPLES: &str = "\
TIME is when the store took the record, by its own clock. HOST is what the record says: whoever has a key that makes such records can write
any name. Shown are backups (finished, aborted, unfinished), forgets, notes (protect, unprotect, tag) and prune rounds (begun, sealed, done).
What does not open is shown as foreign with the object's name: it counts for nothing. What a prune cleaned away, as the backups of snapshots that
were forgotten long ago, is not there any more.

Any key of the project reads it.

Examples:
  cuttle log                          the newest 50, of all volumes, and the prune rounds
  cuttle log vms/db --latest 10       of one volume
  cuttle log --since 3d               of the last three days, at most 50
  cuttle log --json | jq '.[] | select(.event == \"foreign\")'";

/// Show what happened: backups, forgets, notes and prunes
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only this volume, and no prune rounds
    volume: Option<VolumeName>,
    /// Only the newest N
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    latest: u32,
    /// Only what is not older, such as 90m, 24h or 3d
    #[arg(long, value_name = "TIME", value_parser = human::parse_duration)]
    since: Option<Duration>,
}

/// An event, as JSON shows it; what its kind does not have is null.
#[derive(Serialize, Default)]
struct Line<'a> {
    event: &'static str,
    stored_at: Option<String>,
    volume: Option<&'a str>,
    sequence: Option<u32>,
    snapshot_id: Option<String>,
    /// The number of a prune round.
    generation: Option<u32>,
    host: Option<&'a str>,
    size_bytes: Option<u64>,
    new_bytes: Option<u64>,
    stored_bytes: Option<u64>,
    by: Option<&'a str>,
    reason: Option<&'a str>,
    protected: Option<bool>,
    tags: Option<&'a [String]>,
    last_sign_at: Option<String>,
    object: String,
    problem: Option<&'a str>,
}

pub async fn run(context: &Context<'_>, args: Args) -> Result<Exit> {
    let project = connect::project(context, false).await?;
    let catalog = project.volumes().confirmed().await?;
    let volume = match &args.volume {
        None => None,
        Some(name) => Some(catalog.by_name(name).ok_or_else(|| {
            Error::not_found(format!("there is no volume {name} in project {}", project.name()))
                .help("see `cuttle snapshots` for all volumes")
        })?),
    };
    // The two clocks may differ; nothing is decided by it but what is shown.
    let since = args.since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let wanted = Wanted {
        volume: volume.map(|volume| volume.number),
        latest: args.latest as usize,
        since_unix_ms: since.map_or(0, |since| SystemClock.now_unix_ms().saturating_sub(since)),
    };
    let events = project.events().newest(wanted).await?;
    let lines: Vec<Line<'_>> = events.iter().map(|event| line(&catalog, event)).collect();
    let ui = context.ui;
    if ui.is_json() {
        ui.print_list(&lines)?;
    } else if lines.is_empty() {
        let since = if args.since.is_some() { " in that time" } else { "" };
        ui.remark(&format!("nothing happened{since} in project {}", project.name()));
    } else {
        ui.print(&shown(&events, &lines))?;
    }
    note_requests(context, project.repository().store());
    Ok(Exit::Success)
}

fn line<'a>(catalog: &'a Catalog, event: &'a Event) -> Line<'a> {
    let place = event.place();
    let volume = place.and_then(|(volume, _)| catalog.by_number(volume));
    let line = Line {
        event: name(&event.what),
        stored_at: human::utc_time(event.stored_unix_ms),
        volume: volume.map(|volume| volume.name.as_str()),
        sequence: place.map(|(_, sequence)| sequence.0),
        generation: event.generation().map(|generation| generation.0),
        object: event.name.to_string(),
        ..Line::default()
    };
    match &event.what {
        What::Committed(id, snapshot) => Line {
            snapshot_id: Some(id.to_string()),
            host: Some(&snapshot.host),
            size_bytes: Some(snapshot.size_bytes),
            new_bytes: Some(snapshot.stats.new_bytes),
            stored_bytes: Some(snapshot.stats.stored_bytes),
            ..line
        },
        What::Aborted { by, reason, host } => {
            Line { by: Some(by), reason: Some(reason), host: host.as_deref(), ..line }
        }
        What::Unfinished { host, last_sign_unix_ms } => {
            Line { host: Some(host), last_sign_at: last_sign_unix_ms.and_then(human::utc_time), ..line }
        }
        What::Forgotten { host } => Line { host: Some(host), ..line },
        What::Noted { host, protected, tags } => {
            Line { host: Some(host), protected: Some(*protected), tags: Some(tags), ..line }
        }
        What::RoundBegun | What::RoundSealed | What::RoundDone => line,
        What::Foreign(why) => Line { problem: Some(why), ..line },
    }
}

/// For scripts; people read it without the `_`.
fn name(what: &What) -> &'static str {
    match what {
        What::Committed(..) => "backup",
        What::Aborted { .. } => "aborted",
        What::Unfinished { .. } => "unfinished",
        What::Forgotten { .. } => "forgotten",
        What::Noted { .. } => "noted",
        What::RoundBegun => "prune_begun",
        What::RoundSealed => "prune_sealed",
        What::RoundDone => "prune_done",
        What::Foreign(_) => "foreign",
    }
}

fn shown(events: &[Event], lines: &[Line<'_>]) -> String {
    let columns = ["TIME", "EVENT", "OF", "HOST", "NOTE"].map(Column::Text);
    let rows = events.iter().zip(lines).map(|(event, line)| {
        vec![
            human::local_time(event.stored_unix_ms),
            line.event.replace('_', " "),
            of(line),
            line.host.unwrap_or_default().to_owned(),
            note(event, line),
        ]
    });
    table(&columns, rows)
}

/// The snapshot, or the round.
fn of(line: &Line<'_>) -> String {
    match (line.volume, line.sequence, line.generation) {
        (Some(volume), Some(sequence), _) => format!("{volume}@{sequence}"),
        (_, _, Some(generation)) => format!("round {generation}"),
        // The catalog has no such number.
        _ => "-".to_owned(),
    }
}

fn note(event: &Event, line: &Line<'_>) -> String {
    match &event.what {
        What::Committed(_, snapshot) => format!(
            "{}, {} new, {} stored",
            human::size(snapshot.size_bytes),
            human::size(snapshot.stats.new_bytes),
            human::size(snapshot.stats.stored_bytes)
        ),
        What::Aborted { by, reason, .. } => format!("by {by}: {reason}"),
        What::Unfinished { last_sign_unix_ms: Some(at), .. } => {
            format!("last sign of life {}", human::local_time(*at))
        }
        What::Noted { protected, tags, .. } => {
            let protected = if *protected { "protected" } else { "not protected" };
            let tags =
                if tags.is_empty() { "no tags".to_owned() } else { format!("tags {}", tags.join(", ")) };
            format!("{protected}, {tags}")
        }
        What::Foreign(why) if why.contains(&line.object) => format!("does not open: {why}"),
        What::Foreign(why) => format!("{} does not open: {why}", line.object),
        _ => String::new(),
    }
}
