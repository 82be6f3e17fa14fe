//! What was seen of a repository, as a state that lines of text add to: in any order, by any number of processes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::units::{Sequence, SnapshotId};

/// Live snapshots of a volume that are remembered: the newest, and what is protected among the others.
const LIVE_MAX: usize = 128;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) encrypted: Option<bool>,
    pub(super) key: Option<String>,
    pub(super) projects: BTreeMap<String, SeenProject>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SeenProject {
    pub(super) id: Option<String>,
    pub(super) generation: u32,
    /// By number.
    pub(super) volumes: BTreeMap<u32, SeenVolume>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SeenVolume {
    pub(super) name: String,
    /// The highest sequence of which something was opened.
    pub(super) last: u32,
    /// Ascending.
    pub(super) live: Vec<SeenSnapshot>,
}

/// A live snapshot whose outcome was opened, and the newest of its notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SeenSnapshot {
    pub(crate) sequence: Sequence,
    /// The first bytes of its id, as people see them too.
    id: u32,
    /// The newest note that opened; 0 for none.
    pub(crate) notes: u32,
    pub(crate) protected: bool,
}

impl SeenSnapshot {
    pub(crate) fn new(sequence: Sequence, id: SnapshotId) -> Self {
        let [a, b, c, d, ..] = id.0;
        Self { sequence, id: u32::from_be_bytes([a, b, c, d]), notes: 0, protected: false }
    }

    pub(crate) fn with_note(self, number: u32, protected: bool) -> Self {
        Self { notes: number, protected, ..self }
    }

    pub(crate) fn short_id(&self) -> String {
        format!("{:08x}", self.id)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let sequence = Sequence(parts.next()?.parse().ok()?);
        let id = u32::from_str_radix(parts.next()?, 16).ok()?;
        let note = parts.next().unwrap_or("0");
        let (number, protected) = note.strip_suffix('!').map_or((note, false), |number| (number, true));
        let notes = number.parse().ok()?;
        parts.next().is_none().then_some(Self { sequence, id, notes, protected })
    }

    fn text(&self) -> String {
        let mut text = format!("{}:{:08x}", self.sequence, self.id);
        if self.notes > 0 {
            let _ = write!(text, ":{}{}", self.notes, if self.protected { "!" } else { "" });
        }
        text
    }
}

impl SeenVolume {
    pub(super) fn get(&self, sequence: Sequence) -> Option<&SeenSnapshot> {
        self.live.binary_search_by_key(&sequence, |s| s.sequence).ok().map(|at| &self.live[at])
    }

    /// False where nothing of it is new.
    fn add(&mut self, seen: SeenSnapshot) -> bool {
        self.last = self.last.max(seen.sequence.0);
        match self.live.binary_search_by_key(&seen.sequence, |s| s.sequence) {
            Ok(at) if self.live[at].is_same(&seen) && self.live[at].notes >= seen.notes => return false,
            Ok(at) => self.live[at] = seen,
            Err(at) => self.live.insert(at, seen),
        }
        if self.live.len() > LIVE_MAX {
            // The oldest that nobody protects; where all are, the oldest.
            let at = self.live.iter().position(|s| !s.protected).unwrap_or(0);
            let dropped = self.live.remove(at);
            return dropped != seen;
        }
        true
    }

    fn remove(&mut self, sequence: Sequence) -> bool {
        let at = self.live.binary_search_by_key(&sequence, |s| s.sequence);
        at.map(|at| self.live.remove(at)).is_ok()
    }
}

/// One line of a memory file. What it does not say it does not change.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    pub(super) repository: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) encrypted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    pub(super) project: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) generation: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) volume: u32,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) last: u32,
    /// Snapshots seen live: `SEQUENCE:ID` or `SEQUENCE:ID:NOTE`, with `!` where the note protects.
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    pub(super) live: Option<Cow<'a, str>>,
    /// Sequences seen to be forgotten.
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    pub(super) gone: Option<Cow<'a, str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl<'a> Line<'a> {
    pub(super) fn of_project(project: &'a str) -> Self {
        Line { project: Some(project.into()), ..Line::default() }
    }

    pub(super) fn of_volume(project: &'a str, volume: u32) -> Self {
        Line { volume, ..Line::of_project(project) }
    }

    pub(super) fn with_live<'b>(self, live: impl IntoIterator<Item = &'b SeenSnapshot>) -> Self {
        let live: Vec<String> = live.into_iter().map(SeenSnapshot::text).collect();
        Line { live: (!live.is_empty()).then(|| live.join(" ").into()), ..self }
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Seen {
    /// Adds what a line says. `None` where it is no line of ours; false where all was known.
    pub(super) fn add(&mut self, line: &Line<'_>) -> Option<bool> {
        let mut new = false;
        if line.encrypted.is_some() {
            new |= self.encrypted != line.encrypted;
            self.encrypted = line.encrypted;
        }
        if let Some(key) = &line.key {
            new |= self.key.as_deref() != Some(key);
            self.key = Some(key.to_string());
        }
        let Some(name) = &line.project else {
            return (line.repository.is_some() && line.volume == 0).then_some(new);
        };
        if !self.projects.contains_key(name.as_ref()) {
            self.projects.insert(name.to_string(), SeenProject::default());
            new = true;
        }
        let project = self.projects.get_mut(name.as_ref())?;
        if let Some(id) = &line.id {
            new |= project.id.as_deref() != Some(id);
            project.id = Some(id.to_string());
        }
        new |= line.generation > project.generation;
        project.generation = project.generation.max(line.generation);
        match line.volume {
            0 => Some(new),
            volume => Some(project.volumes.entry(volume).or_default().add_line(line)? | new),
        }
    }

    /// Everything that is known, in as few lines as can be.
    pub(super) fn lines(&self, repository: &str) -> String {
        let header = Line {
            repository: Some(repository.into()),
            encrypted: self.encrypted,
            key: self.key.as_deref().map(Cow::from),
            ..Line::default()
        };
        let mut out = header.text() + "\n";
        for (name, project) in &self.projects {
            let (id, generation) = (project.id.as_deref().map(Cow::from), project.generation);
            out += &(Line { id, generation, ..Line::of_project(name) }.text() + "\n");
            for (number, volume) in &project.volumes {
                let line = Line {
                    name: (!volume.name.is_empty()).then(|| volume.name.as_str().into()),
                    last: volume.last,
                    ..Line::of_volume(name, *number)
                };
                out += &(line.with_live(&volume.live).text() + "\n");
            }
        }
        out
    }

    /// Lines that [`lines`](Self::lines) would be.
    pub(super) fn lines_min(&self) -> usize {
        1 + self.projects.values().map(|p| 1 + p.volumes.len()).sum::<usize>()
    }
}

impl SeenVolume {
    fn add_line(&mut self, line: &Line<'_>) -> Option<bool> {
        let mut new = line.last > self.last;
        self.last = self.last.max(line.last);
        if let Some(name) = line.name.as_deref().filter(|name| *name != self.name) {
            self.name = name.to_owned();
            new = true;
        }
        for text in words(line.live.as_ref()) {
            new |= self.add(SeenSnapshot::parse(text)?);
        }
        for text in words(line.gone.as_ref()) {
            new |= self.remove(Sequence(text.parse().ok()?));
        }
        Some(new)
    }
}

fn words<'a>(text: Option<&'a Cow<'_, str>>) -> impl Iterator<Item = &'a str> {
    text.map(AsRef::as_ref).unwrap_or_default().split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sequence: u32, id: u8, notes: u32, protected: bool) -> SeenSnapshot {
        SeenSnapshot::new(Sequence(sequence), SnapshotId([id; 16])).with_note(notes, protected)
    }

    fn read(lines: &str) -> Seen {
        let mut out = Seen::default();
        for line in lines.lines() {
            out.add(&serde_json::from_str(line).expect(line)).expect(line);
        }
        out
    }

    #[test]
    fn lines_hold_what_was_seen_and_come_together_in_any_order() {
        let snapshots = [seen(1, 0xab, 0, false), seen(5, 1, 3, true), seen(9, 2, 2, false)];
        let volume = Line { name: Some("vms/a \"é".into()), last: 12, ..Line::of_volume("p", 7) };
        let lines = [
            Line { repository: Some("ab".into()), encrypted: Some(true), ..Line::default() }.text(),
            Line { generation: 4, id: Some("x".into()), ..Line::of_project("p") }.text(),
            volume.text(),
            Line::of_volume("p", 7).with_live(&snapshots[..1]).text(),
            Line::of_volume("p", 7).with_live(&snapshots[1..]).text(),
        ];
        let forwards = read(&lines.join("\n"));
        let backwards: Vec<String> = lines.iter().rev().cloned().collect();
        assert_eq!(read(&backwards.join("\n")), forwards);
        assert_eq!(read(&forwards.lines("ab")), forwards);
        assert_eq!(forwards.lines("ab").lines().count(), forwards.lines_min());
        let volume = &forwards.projects["p"].volumes[&7];
        assert_eq!((volume.last, volume.live.as_slice()), (12, &snapshots[..]));
    }

    #[test]
    fn notes_go_on_what_is_gone_goes_and_only_news_counts() {
        let mut all = Seen::default();
        let mut add = |line: Line<'_>| all.add(&line).expect("a line");
        let live = |s: SeenSnapshot| Line::of_volume("p", 1).with_live(&[s]);
        assert!(add(live(seen(1, 1, 2, true))));
        assert!(!add(live(seen(1, 1, 1, false))), "an older note");
        assert!(add(live(seen(1, 1, 3, false))));
        assert!(add(Line { gone: Some("1".into()), ..Line::of_volume("p", 1) }));
        assert!(!add(Line { gone: Some("1".into()), ..Line::of_volume("p", 1) }));
        assert!(add(live(seen(1, 2, 0, false))));
        assert_eq!(all.projects["p"].volumes[&1].live, [seen(1, 2, 0, false)]);
    }

    #[test]
    fn of_many_the_newest_and_the_protected_are_remembered() {
        let mut volume = SeenVolume::default();
        volume.add(seen(1, 1, 1, true));
        for sequence in 2..1_000 {
            volume.add(seen(sequence, 1, 0, false));
        }
        assert_eq!((volume.live.len(), volume.live[0].sequence.0, volume.last), (LIVE_MAX, 1, 999));
        assert_eq!(volume.live[1].sequence.0, 1_000 - LIVE_MAX as u32 + 1);
        assert!(!volume.add(seen(2, 1, 0, false)), "what is not kept is no news");
    }

    /// Ten thousand volumes with thirty snapshots each: some megabytes.
    #[test]
    fn ten_thousand_volumes_are_a_few_megabytes() {
        let mut all = Seen::default();
        for volume in 1..=10_000 {
            let live: Vec<_> = (300..330).map(|s| seen(s, s as u8, 0, false)).collect();
            let name = format!("vms/customer-{volume}");
            let line = Line { name: Some(name.into()), ..Line::of_volume("default", volume) };
            all.add(&line.with_live(&live)).expect("a line");
        }
        let text = all.lines("ab");
        assert!(text.len() < 5 << 20, "{} bytes", text.len());
        assert_eq!(read(&text), all);
    }

    #[test]
    fn what_is_no_line_of_ours_is_told() {
        for text in ["{}", r#"{"volume":3}"#, r#"{"project":"p","volume":3,"live":"1:xyz"}"#] {
            assert_eq!(Seen::default().add(&serde_json::from_str(text).expect(text)), None, "{text}");
        }
    }
}
