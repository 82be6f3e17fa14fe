//! What happens in a history: steps that follow from its seed.

use crate::support::fault_store::split_mix_64;

/// Steps of a history, about.
const STEPS_MIN: u32 = 14;
const STEPS_MORE: u32 = 22;
/// The first and the last of whatever there is.
const FIRST: u32 = 0;
const LAST: u32 = u32::MAX;

/// One step: what is done, and numbers that say to what.
#[derive(Debug, Clone)]
pub struct Step {
    pub kind: &'static str,
    pub numbers: [u32; 4],
    /// What others do between a backup's freeze and its commit.
    pub during: Vec<Step>,
}

/// What cuttle does. All other kinds are the operator's.
pub const MOVES: [&str; 8] =
    ["backup", "backup_named", "restore", "restore_new", "import", "stream", "verify", "forget"];

/// How often each kind is drawn where nothing speaks for another.
const KINDS: [(&str, u32); 42] = [
    ("write", 22),
    ("discard", 9),
    ("write_zeroes", 3),
    ("resize", 8),
    ("snap", 12),
    ("unsnap", 8),
    ("unsnap_all", 3),
    ("snap_rename", 1),
    ("protect", 2),
    ("unprotect", 3),
    ("rollback", 12),
    ("clone", 3),
    ("flatten", 2),
    ("rename", 1),
    ("remove", 2),
    ("create", 1),
    ("deep_copy", 2),
    ("trash", 1),
    ("untrash", 3),
    ("map_off", 1),
    ("map_on", 2),
    ("map_rebuild", 2),
    ("sparsify", 2),
    ("attach", 2),
    ("detach", 3),
    ("group_snap", 2),
    ("group_unsnap", 2),
    ("group_rollback", 2),
    ("group_leave", 1),
    ("migrate", 2),
    ("migrate_execute", 3),
    ("migrate_commit", 3),
    ("migrate_abort", 1),
    ("import_prepare", 1),
    ("backup", 22),
    ("backup_named", 3),
    ("restore", 6),
    ("restore_new", 1),
    ("import", 4),
    ("stream", 4),
    ("verify", 3),
    ("forget", 1),
];

/// Numbers that follow from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u32 {
        (split_mix_64(&mut self.0) >> 32) as u32
    }

    pub fn below(&mut self, end: u32) -> u32 {
        self.number() % end
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    fn kind(&mut self) -> &'static str {
        let mut drawn = self.below(KINDS.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in KINDS {
            if drawn < weight {
                return kind;
            }
            drawn -= weight;
        }
        KINDS[0].0
    }
}

/// The steps of a seed. Those of the kinds that are left out would have been where they are missing.
pub fn history(seed: u64, without: &[String]) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut steps = vec![plain(&mut dice, "create")];
    if dice.one_in(4) {
        steps.push(plain(&mut dice, "create"));
    }
    let wanted = STEPS_MIN + dice.below(STEPS_MORE);
    while (steps.len() as u32) < wanted {
        if dice.one_in(3) {
            scenario(&mut dice, &mut steps);
        } else {
            steps.push(any(&mut dice));
        }
    }
    steps.push(plain(&mut dice, "backup"));
    for step in &mut steps {
        step.during.retain(|inner| !without.iter().any(|kind| kind == inner.kind));
    }
    steps.retain(|step| !without.iter().any(|kind| kind == step.kind));
    steps
}

fn plain(dice: &mut Dice, kind: &'static str) -> Step {
    let mut numbers = [0; 4].map(|_: u32| dice.number());
    // Mostly one image, so that things meet.
    if dice.below(3) > 0 {
        numbers[0] = FIRST;
    }
    Step { kind, numbers, during: Vec::new() }
}

fn any(dice: &mut Dice) -> Step {
    let kind = dice.kind();
    let mut step = plain(dice, kind);
    if kind.starts_with("backup") && dice.one_in(4) {
        meanwhile(dice, &mut step);
    }
    step
}

/// What others do to the same image while it is backed up.
fn meanwhile(dice: &mut Dice, backup: &mut Step) {
    for _ in 0..1 + dice.below(3) {
        let mut kind = dice.kind();
        while MOVES.contains(&kind) {
            kind = dice.kind();
        }
        let mut step = plain(dice, kind);
        step.numbers[0] = backup.numbers[0];
        backup.during.push(step);
    }
}

/// One of the ways to deceive an object map or a human, with other things in between, and parts of it left out.
fn scenario(dice: &mut Dice, steps: &mut Vec<Step>) {
    // A word is a kind, with `<` of the first, with `>` of the last snapshot, or the size made smaller, or larger.
    let words = match dice.below(19) {
        // A rollback to an older snapshot that has one before it.
        0 => "write snap snap write backup rollback backup",
        1 => "write snap snap write snap backup rollback unsnap_all backup",
        2 => "snap write snap write backup write rollback backup rollback backup",
        // Cut off, held by a snapshot, grown again.
        3 => "write backup resize< snap resize> backup",
        4 => "write snap backup resize< snap resize> write restore",
        // Gone, and brought back from before.
        5 => "backup write snap snap discard snap rollback unsnap_all backup",
        6 => "write snap snap discard snap rollback unsnap_all backup write backup rollback< unsnap backup",
        // The newest backup is brought back in place.
        7 => "write snap snap write backup rollback restore backup",
        8 => "backup write snap rollback unsnap> write backup restore backup",
        // A copy that is kept up by diffs.
        9 => "write snap snap deep_copy write snap import rollback import",
        10 => "write snap deep_copy write snap import write snap import backup",
        // Clones.
        11 => "write snap clone write backup rollback< flatten backup resize backup",
        12 => "snap clone write snap discard snap backup resize< rollback backup flatten backup",
        // Snapshots that nobody sees.
        13 => "write group_snap group_snap write backup group_rollback group_unsnap backup",
        14 => "write backup map_off write map_on backup map_rebuild snap snap write backup rollback backup",
        // Moved, put away, made anew.
        15 => "write backup write migrate write backup migrate_execute write backup migrate_commit backup",
        16 => "write backup trash untrash write backup rename backup restore",
        17 => "write snap backup remove backup write snap backup rollback< restore",
        _ => "write snap stream write snap stream rollback snap stream restore",
    };
    let image = if dice.below(4) > 0 { FIRST } else { dice.number() };
    let place = dice.number();
    for word in words.split(' ') {
        if dice.one_in(8) {
            continue;
        }
        if dice.one_in(6) {
            steps.push(any(dice));
        }
        if word.starts_with("backup") && dice.one_in(8) {
            let mut step = plain(dice, "backup");
            step.numbers[0] = image;
            meanwhile(dice, &mut step);
            steps.push(step);
            continue;
        }
        let kind = word.trim_end_matches(['<', '>']);
        let kind = KINDS.iter().find(|(known, _)| *known == kind).map_or("write", |(known, _)| known);
        let mut step = plain(dice, kind);
        step.numbers[0] = image;
        match (word.ends_with('<'), word.ends_with('>')) {
            (true, _) => step.numbers[1] = FIRST,
            (_, true) => step.numbers[1] = LAST,
            // The same object again and again.
            _ if ["write", "discard"].contains(&kind) => step.numbers[1] = place,
            _ => {}
        }
        steps.push(step);
    }
}

/// Leaves those out whose number, counted through all of them and those within, is not among these.
pub fn only(steps: Vec<Step>, kept: &[usize]) -> Vec<Step> {
    let mut number = 0;
    let mut next = || {
        number += 1;
        kept.contains(&(number - 1))
    };
    let mut out = Vec::new();
    for mut step in steps {
        let keep = next();
        step.during.retain(|_| next());
        if keep {
            out.push(step);
        }
    }
    out
}

/// How many there are, with those within.
pub fn count(steps: &[Step]) -> usize {
    steps.iter().map(|step| 1 + step.during.len()).sum()
}
