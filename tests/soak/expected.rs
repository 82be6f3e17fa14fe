//! What the program said, and what has to be true of the repository because of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::images::Hash;

/// Snapshots of each volume that every forget keeps.
pub const KEEP_LAST: usize = 2;

/// What a volume went through.
#[derive(Default)]
struct History {
    /// Backups that ended well, with what their source held.
    acknowledged: BTreeMap<u64, Hash>,
    /// What the source held at backups that never said how they ended.
    attempted: BTreeSet<Hash>,
    /// Sequences that a forget said are gone.
    forgotten: BTreeSet<u64>,
}

/// What the program said in a run.
#[derive(Default)]
pub struct Expected {
    volumes: BTreeMap<String, History>,
    /// Whether forgets are killed, too.
    forget_killed: bool,
}

/// A snapshot as it is listed.
pub type Listed = (String, u64);

impl Expected {
    /// Of runs in which processes are killed: a forget may then have done more than it said.
    pub fn with_kills() -> Self {
        Self { forget_killed: true, ..Self::default() }
    }

    /// Takes note of what a source holds as a backup of it begins whose answer may never come.
    pub fn attempted(&mut self, volume: &str, content: Hash) {
        self.volumes.entry(volume.to_owned()).or_default().attempted.insert(content);
    }

    /// Takes note of the lines of a backup. What came of those it does not name stays open.
    pub fn backed_up(&mut self, lines: &[Value], contents: &BTreeMap<String, Hash>) -> usize {
        let mut count = 0;
        for line in lines.iter().filter(|l| l["message_type"] == "volume" && l["status"] == "ok") {
            let (volume, sequence) = named(line);
            let history = self.volumes.entry(volume.clone()).or_default();
            let before = history.acknowledged.insert(sequence, contents[&volume]);
            assert_eq!(before, None, "{volume}@{sequence} was acknowledged twice");
            count += 1;
        }
        count
    }

    /// Takes note of a forget's report; how many it forgot.
    pub fn forgot(&mut self, lines: &[Value]) -> usize {
        let rows = lines.iter().filter_map(|l| l["snapshots"].as_array()).flatten();
        let gone: Vec<_> = rows.filter(|row| row["action"] == "forget").map(named).collect();
        for (volume, sequence) in &gone {
            self.volumes.entry(volume.clone()).or_default().forgotten.insert(*sequence);
        }
        gone.len()
    }

    /// Compares with all that is listed when nothing is under way; an error for each thing that is wrong.
    pub fn compare(&self, listed: &BTreeSet<Listed>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (volume, history) in &self.volumes {
            let there: BTreeSet<u64> = listed.iter().filter(|l| l.0 == *volume).map(|l| l.1).collect();
            for sequence in history.acknowledged.keys().filter(|s| !there.contains(s)) {
                let said = self.forget_killed || history.forgotten.contains(sequence);
                if !said || there.range(sequence + 1..).count() < KEEP_LAST {
                    wrong.push(format!(
                        "{volume}@{sequence} was acknowledged, nobody forgot it, and it is gone"
                    ));
                }
            }
            for sequence in history.forgotten.intersection(&there) {
                wrong.push(format!("{volume}@{sequence} was forgotten and is there"));
            }
        }
        wrong
    }

    /// Whether a snapshot may hold this.
    pub fn may_hold(&self, (volume, sequence): &Listed, content: &Hash) -> bool {
        self.volumes.get(volume).is_some_and(|history| match history.acknowledged.get(sequence) {
            Some(expected) => expected == content,
            None => history.attempted.contains(content),
        })
    }
}

fn named(row: &Value) -> Listed {
    let volume = row["volume"].as_str().expect("a volume").to_owned();
    (volume, row["sequence"].as_u64().expect("a sequence"))
}

/// All snapshots, from what `cuttle snapshots --json` says.
pub fn listed(lines: &[Value]) -> BTreeSet<Listed> {
    lines.iter().filter_map(Value::as_array).flatten().map(named).collect()
}
