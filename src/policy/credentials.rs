//! What the key at hand and the store's credentials can do, and whether the two fit.

use serde::Serialize;

use crate::error::Result;
use crate::format::ObjectName;
use crate::format::role::Role;
use crate::policy::{Verb, needs};
use crate::repo::Keeper;
use crate::store::permitted::{self, Permitted};
use crate::units::ProjectName;

/// Where it is tried, below the project: what hosts create, and what only the keeper creates. A policy by prefixes tells these apart.
/// Chunks first: they are what it harms least to be wrong about.
const PLACES: [&str; 4] = ["chunks/", "log/", "retention/", "gc/"];

/// What a key of a role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rights {
    /// Makes backups.
    pub makes_backups: bool,
    /// Opens chunks: restores, serves, exports.
    pub reads_volumes: bool,
    /// Forgets, prunes, tags and protects.
    pub forgets: bool,
    /// Makes and removes keys.
    pub makes_keys: bool,
}

/// What the credentials permit below one place, and what a role needs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Relative to the repository; ends with a slash.
    pub place: String,
    /// Whether objects may be made.
    pub create: Permitted,
    /// Whether they may be removed.
    pub delete: Permitted,
}

/// Whether credentials fit a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They can what the role needs, and no more.
    Fits,
    /// They can more, whatever else: who takes them over can do that.
    TooMuch,
    /// They can less: some of what the role is for will fail.
    TooLittle,
    /// Not all could be tried; what could be fits.
    Unknown,
}

/// Something that may be done below a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// As in [`Tried`].
    pub place: String,
    /// Create or delete.
    pub verb: Verb,
}

/// Credentials, held against what a role needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// In a word.
    pub verdict: Verdict,
    /// What is permitted, and not needed.
    pub too_much: Vec<Right>,
    /// What is needed, and not permitted.
    pub too_little: Vec<Right>,
}

/// What a key of a role is for.
pub fn rights(role: Role) -> Rights {
    let admin = role == Role::Admin;
    Rights {
        makes_backups: admin || role == Role::Backup,
        reads_volumes: admin || role == Role::Restore,
        forgets: admin || role == Role::Keeper,
        makes_keys: admin,
    }
}

/// Whether a role needs to create or delete below a place.
pub fn is_needed(role: Role, project: &ProjectName, right: &Right) -> bool {
    needs(role, project).iter().any(|need| need.covers(&right.place) && need.verbs.contains(&right.verb))
}

/// Tries what the credentials permit in a project. Nothing is left, but for the marks of [`permitted::may_delete`].
pub async fn try_in(project: &Keeper) -> Result<Vec<Tried>> {
    let mut tried = Vec::new();
    for name in PLACES {
        let place = format!("projects/{}/{name}", project.name());
        let store = project.store();
        let create = permitted::may_create(store, &place, is_timeless).await?;
        let delete = permitted::may_delete(store, &place).await?;
        tried.push(Tried { place, create, delete });
    }
    Ok(tried)
}

/// Of chunks, begins of backups and rounds, notes and tables nothing goes by the store's time but a lease, which then ends later. Policies go by that of an
/// outcome.
fn is_timeless(name: &str) -> bool {
    use ObjectName::{Chunk, GcBegin, GcPart, GcSeal, Note, Open};
    matches!(
        ObjectName::parse(name),
        Some(
            Chunk(..) | Open(..) | GcBegin(..) | GcSeal(..) | GcPart(..) | Note(..) | ObjectName::Forget(..)
        )
    )
}

/// Holds what was tried against what a role needs.
pub fn judge(role: Role, project: &ProjectName, tried: &[Tried]) -> Judged {
    let (mut too_much, mut too_little, mut unknown) = (Vec::new(), Vec::new(), false);
    for Tried { place, create, delete } in tried {
        for (verb, permitted) in [(Verb::Create, create), (Verb::Delete, delete)] {
            let right = Right { place: place.clone(), verb };
            match (permitted, is_needed(role, project, &right)) {
                (Permitted::Yes, false) => too_much.push(right),
                (Permitted::No, true) => too_little.push(right),
                (Permitted::Unknown(_), _) => unknown = true,
                (Permitted::Yes, true) | (Permitted::No, false) => {}
            }
        }
    }
    let verdict = match (too_much.is_empty(), too_little.is_empty()) {
        (false, _) => Verdict::TooMuch,
        (true, false) => Verdict::TooLittle,
        (true, true) if unknown => Verdict::Unknown,
        (true, true) => Verdict::Fits,
    };
    Judged { verdict, too_much, too_little }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What policies of one role permit, judged for each.
    #[test]
    fn each_role_fits_its_own_policy_and_who_may_delete_is_no_backup_host() {
        let project: ProjectName = "p".parse().expect("a name");
        let by_policy_of = |role: Role| -> Vec<Tried> {
            let tried = |name: &&str| {
                let place = format!("projects/p/{name}");
                let may = |verb| match is_needed(role, &project, &Right { place: place.clone(), verb }) {
                    true => Permitted::Yes,
                    false => Permitted::No,
                };
                Tried { create: may(Verb::Create), delete: may(Verb::Delete), place: place.clone() }
            };
            PLACES.iter().map(tried).collect()
        };
        for role in Role::ALL {
            assert_eq!(judge(role, &project, &by_policy_of(role)).verdict, Verdict::Fits, "{role}");
            if role != Role::Admin {
                let judged = judge(role, &project, &by_policy_of(Role::Admin));
                assert_eq!(judged.verdict, Verdict::TooMuch, "{role}");
                let judged = judge(Role::Admin, &project, &by_policy_of(role));
                assert_eq!(judged.verdict, Verdict::TooLittle, "{role}");
            }
        }
        let mut tried = by_policy_of(Role::Backup);
        tried[3].create = Permitted::Unknown("nothing is there yet".to_owned());
        assert_eq!(judge(Role::Backup, &project, &tried).verdict, Verdict::Unknown);
        tried[0].delete = Permitted::Yes;
        let judged = judge(Role::Backup, &project, &tried);
        assert_eq!(judged.verdict, Verdict::TooMuch);
        assert_eq!(judged.too_much, [Right { place: "projects/p/chunks/".to_owned(), verb: Verb::Delete }]);
    }
}
