//! What is served, for people: one page without scripts and without anything from elsewhere.

use std::fmt::Write;
use std::net::SocketAddr;

use jiff::Timestamp;

use super::target::encode;
use crate::repo::history::SnapshotEntry;
use crate::serve::{Shelf, qcow2};
use crate::units::{is_invisible, quoted};

const STYLE: &str = include_str!("page.css");
/// Snapshots on the index page; of each volume at least the newest. The others are on the volume's own page.
const SNAPSHOTS_SHOWN: usize = 200;

/// How snapshots are reached from where the reader is.
pub(super) struct Commands {
    pub(super) scheme: &'static str,
    /// Host and port, and the token where it was in the path.
    pub(super) place: String,
    /// Whether a token is asked for that the path does not have.
    pub(super) secret: bool,
    pub(super) nbd: Option<SocketAddr>,
    /// How the program is called for this repository and project: the reader's own defaults may be others.
    pub(super) cuttle: String,
}

/// `cuttle -r PLACE --project NAME`.
pub(super) fn cuttle(shelf: &Shelf) -> String {
    let place = quoted(shelf.project().repository().store().url());
    format!("cuttle -r {place} --project {}", quoted(shelf.project().name().as_str()))
}

/// Volumes with their newest snapshots.
pub(super) fn index(shelf: &Shelf, commands: &Commands) -> String {
    let (volumes, snapshots) = shelf.volumes().fold((0, 0), |(v, s), (_, all)| (v + 1, s + all.len()));
    let shown_of_each = (SNAPSHOTS_SHOWN / volumes.max(1)).max(1);
    let mut out = begin(&format!("project {}", shelf.project().name()));
    let _ = write!(out, "<p class=sum>{}, {}. ", counted(volumes, "volume"), counted(snapshots, "snapshot"));
    out += "Read-only, as they were when the server began. <a href=index.json>index.json</a></p>";
    if volumes == 0 {
        let _ = write!(
            out,
            "<section><p>There is no snapshot yet. Make one with <code>{} backup</code>.</p></section>",
            escape(&commands.cuttle)
        );
    }
    for (volume, snapshots) in shelf.volumes() {
        let link = format!("{}/", encode(volume));
        section(&mut out, shelf, &Shown { volume, snapshots, link: &link, count: shown_of_each }, commands);
    }
    end(out, commands)
}

/// All snapshots of one volume.
pub(super) fn volume(shelf: &Shelf, volume: &str, commands: &Commands) -> String {
    let mut out = begin(volume);
    let snapshots = shelf.volume(volume);
    section(&mut out, shelf, &Shown { volume, snapshots, link: "", count: usize::MAX }, commands);
    end(out, commands)
}

struct Shown<'a> {
    volume: &'a str,
    /// Oldest first.
    snapshots: &'a [SnapshotEntry],
    /// From this page to the volume's.
    link: &'a str,
    count: usize,
}

fn begin(title: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\"><link rel=icon href=\"data:,\">\
         <title>{title} · cuttle</title><style>{STYLE}</style></head><body>\
         <header><h1>cuttle</h1><p>{title}</p></header><main>"
    )
}

fn end(mut out: String, commands: &Commands) -> String {
    let _ = writeln!(
        out,
        "</main><footer>Files, not whole volumes? <code>{} mount /mnt/cuttle</code>, then \
         <code>mount -o loop,ro /mnt/cuttle/VOLUME/latest.raw /mnt/fs</code></footer></body></html>",
        escape(&commands.cuttle)
    );
    out
}

fn section(out: &mut String, shelf: &Shelf, shown: &Shown<'_>, commands: &Commands) {
    let now = shelf.project().repository().environment.clock.now_unix_ms();
    let Some(newest) = shown.snapshots.last() else { return };
    let name = escape(shown.volume);
    let _ = write!(
        out,
        "<section><h2><a href=\"{}\">{name}</a></h2><p class=sum>{} · {} · newest {} ago</p>",
        if shown.link.is_empty() { "." } else { shown.link },
        size(newest.snapshot.size_bytes),
        counted(shown.snapshots.len(), "snapshot"),
        age(newest.committed_unix_ms, now),
    );
    for (at, entry) in shown.snapshots.iter().rev().take(shown.count).enumerate() {
        snapshot(out, entry, at == 0 && shown.snapshots.len() == 1, now);
        let file = format!("{}.raw", entry.snapshot.sequence);
        let _ = write!(out, "<p><a class=get href=\"{}{file}\">{file}</a>", shown.link);
        if at == 0 {
            let _ = write!(out, " <a class=get href=\"{}latest.raw\">latest.raw</a>", shown.link);
        }
        *out += "</p>";
        use_it(out, shown.volume, entry, commands);
        *out += "</details>";
    }
    let left = shown.snapshots.len().saturating_sub(shown.count);
    if left > 0 {
        let _ = write!(out, "<p><a href=\"{}\">{} more</a></p>", shown.link, counted(left, "older snapshot"));
    }
    *out += "</section>";
}

fn snapshot(out: &mut String, entry: &SnapshotEntry, open: bool, now_unix_ms: u64) {
    let snapshot = &entry.snapshot;
    let _ = write!(
        out,
        "<details{}><summary><b>@{}</b><time>{}</time><span>{} ago</span><span>{}</span>",
        if open { " open" } else { "" },
        snapshot.sequence,
        time(entry.committed_unix_ms),
        age(entry.committed_unix_ms, now_unix_ms),
        size(snapshot.size_bytes),
    );
    if let Some(point) = snapshot.point.as_ref().filter(|point| !point.own) {
        let _ = write!(out, "<i>{}</i>", escape(&point.name));
    }
    for tag in entry.tags.iter().map(String::as_str).chain(entry.protected.then_some("protected")) {
        let _ = write!(out, "<mark>{}</mark>", escape(tag));
    }
    *out += "</summary>";
}

fn use_it(out: &mut String, volume: &str, entry: &SnapshotEntry, commands: &Commands) {
    let sequence = entry.snapshot.sequence;
    let file = format!("{}/{sequence}.raw", encode(volume));
    let (scheme, place) = (commands.scheme, &commands.place);
    // In double quotes, where the shell puts the token in.
    let user = if commands.secret { "cuttle:$CUTTLE_SERVE_TOKEN@" } else { "" };
    let url = format!("\"{scheme}://{user}{place}/{file}\"");
    // librbd takes holes for holes in qcow2 alone.
    let (kind, thin) = match qcow2::holds(entry) {
        true => ("qcow", format!("{}/{sequence}.qcow2", encode(volume))),
        false => ("raw", file.clone()),
    };
    let spec = format!(
        "{{\"type\":\"{kind}\",\"stream\":{{\"type\":\"http\",\"url\":\"{scheme}://{place}/{thin}\"}}}}"
    );
    let spec = spec.replace('"', "\\\"");
    let mut all = vec![
        ("Download", format!("curl -fo volume.raw {url}")),
        ("Look inside, convert", format!("qemu-img convert -p -O qcow2 {url} volume.qcow2")),
        (
            "A Ceph image, at once",
            format!(
                "{} restore --instant {} rbd:POOL/IMAGE",
                commands.cuttle,
                quoted(&format!("{volume}@{sequence}"))
            ),
        ),
    ];
    // librbd's client sends no headers: there the token must be in the path.
    let spec = if commands.secret {
        spec.replace(&format!("://{place}/"), &format!("://{place}/@$CUTTLE_SERVE_TOKEN/"))
    } else {
        spec
    };
    all.push((
        "The same by hand",
        format!("rbd migration prepare --import-only --source-spec \"{spec}\" POOL/IMAGE"),
    ));
    if let Some(nbd) = commands.nbd {
        let export = format!("{}/{sequence}", encode(volume));
        all.push(("NBD", format!("qemu-nbd -r -c /dev/nbd0 \"nbd://{nbd}/{export}\"")));
    }
    all.push(("A single file", format!("{} mount /mnt/cuttle", commands.cuttle)));
    *out += "<dl>";
    for (what, command) in all {
        let _ = write!(out, "<dt>{what}</dt><dd><code>{}</code></dd>", escape(&command));
    }
    *out += "</dl>";
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            hidden if hidden.is_control() || is_invisible(hidden) => out.extend(hidden.escape_unicode()),
            other => out.push(other),
        }
    }
    out
}

fn counted(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.95 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let name = units.get(unit).copied().unwrap_or_default();
    if value.fract() == 0.0 { format!("{value:.0} {name}") } else { format!("{value:.1} {name}") }
}

fn age(then_unix_ms: u64, now_unix_ms: u64) -> String {
    match now_unix_ms.saturating_sub(then_unix_ms) / 1000 {
        s @ ..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
