//! Commands that operators are told to run. Each is run by a test (`tests/ceph/object_maps`), as a shell reads it.

use super::bits::features;
pub use crate::units::quoted;

/// The command that gives an image what the fast diff needs. `missing` are bits of [`features`].
pub fn enable_fast_diff(path: &str, missing: u64) -> String {
    let names = [
        (features::EXCLUSIVE_LOCK, "exclusive-lock"),
        (features::OBJECT_MAP, "object-map"),
        (features::FAST_DIFF, "fast-diff"),
    ];
    let names: Vec<_> = names.iter().filter(|(bit, _)| missing & bit != 0).map(|(_, name)| *name).collect();
    format!("rbd feature enable {} {}", quoted(path), names.join(" "))
}

/// The command that makes an object map anew: that of a snapshot, or of the image as it is now.
pub fn rebuild_map(path: &str, snapshot: Option<&str>) -> String {
    format!("rbd object-map rebuild {}", quoted(&spec(path, snapshot)))
}

/// The command that compares an object map with the objects there are.
pub fn check_map(path: &str, snapshot: Option<&str>) -> String {
    format!("rbd object-map check {}", quoted(&spec(path, snapshot)))
}

/// The command that lists an image's snapshots, of every kind.
pub fn list_snapshots(path: &str) -> String {
    format!("rbd snap ls --all {}", quoted(path))
}

/// The command that makes an image what a snapshot of it holds.
pub fn roll_back(path: &str, snapshot: &str) -> String {
    format!("rbd snap rollback {}", quoted(&spec(path, Some(snapshot))))
}

/// The command that lists a pool's images.
pub fn list_images(pool: &str) -> String {
    format!("rbd ls {}", quoted(pool))
}

/// The command that lists a pool's namespaces.
pub fn list_namespaces(pool: &str) -> String {
    format!("rbd namespace ls {}", quoted(pool))
}

/// The command that shows who has an image open.
pub fn show_watchers(path: &str) -> String {
    format!("rbd status {}", quoted(path))
}

/// The command that shows who holds an image's locks.
pub fn list_locks(path: &str) -> String {
    format!("rbd lock ls {}", quoted(path))
}

/// The commands that end a live migration whose source can be read, in their order.
pub fn end_migration(path: &str) -> [String; 2] {
    let path = quoted(path);
    [format!("rbd migration execute {path}"), format!("rbd migration commit {path}")]
}

/// The command that gives a live migration up.
pub fn abort_migration(path: &str) -> String {
    format!("rbd migration abort {}", quoted(path))
}

fn spec(path: &str, snapshot: Option<&str>) -> String {
    snapshot.map_or_else(|| path.to_owned(), |snapshot| format!("{path}@{snapshot}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_it_for_one_word() {
        for (word, expected) in
            [("rbd/a@b-1", "rbd/a@b-1"), ("rbd/a b", "'rbd/a b'"), ("rbd/it's", r"'rbd/it'\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), expected);
        }
        assert_eq!(rebuild_map("p/n/i", Some("$(x)")), "rbd object-map rebuild 'p/n/i@$(x)'");
    }
}
