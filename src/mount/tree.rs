//! Volume names as folders: `vms/db` is the folder `db` in the folder `vms`. Pure.

use std::collections::BTreeMap;

use super::current::Which;
use crate::units::VolumeNumber;

/// What snapshots' files end in.
const SUFFIX: &str = ".raw";

/// A folder; the root is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FolderId(pub usize);

pub(super) const ROOT: FolderId = FolderId(0);

/// Folders, which only ever become more: a catalog never loses a volume.
#[derive(Debug)]
pub(super) struct Tree {
    folders: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    parent: FolderId,
    children: BTreeMap<String, FolderId>,
    volume: Option<VolumeNumber>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { folders: vec![Folder { parent: ROOT, children: BTreeMap::new(), volume: None }] }
    }
}

impl Tree {
    /// Adds a volume's folders. To add it again changes nothing.
    pub(super) fn add(&mut self, volume_name: &str, number: VolumeNumber) {
        let mut at = ROOT;
        for part in volume_name.split('/') {
            at = self.ensure(at, folder_name(part));
        }
        if let Some(folder) = self.folders.get_mut(at.0) {
            folder.volume = Some(number);
        }
    }

    fn ensure(&mut self, parent: FolderId, name: String) -> FolderId {
        let next = FolderId(self.folders.len());
        let Some(folder) = self.folders.get_mut(parent.0) else { return parent };
        let id = *folder.children.entry(name).or_insert(next);
        if id == next {
            self.folders.push(Folder { parent, children: BTreeMap::new(), volume: None });
        }
        id
    }

    pub(super) fn has(&self, folder: FolderId) -> bool {
        folder.0 < self.folders.len()
    }

    pub(super) fn parent(&self, folder: FolderId) -> FolderId {
        self.folders.get(folder.0).map_or(ROOT, |f| f.parent)
    }

    pub(super) fn child(&self, folder: FolderId, name: &str) -> Option<FolderId> {
        self.folders.get(folder.0)?.children.get(name).copied()
    }

    pub(super) fn children(&self, folder: FolderId) -> impl Iterator<Item = (&str, FolderId)> {
        let children = self.folders.get(folder.0).into_iter().flat_map(|f| &f.children);
        children.map(|(name, id)| (name.as_str(), *id))
    }

    /// The volume whose snapshots are in a folder.
    pub(super) fn volume(&self, folder: FolderId) -> Option<VolumeNumber> {
        self.folders.get(folder.0)?.volume
    }
}

/// A part of a volume's name as a folder's. What no folder can be called, and what could be a snapshot's file, is written with
/// `%`, and so is `%` itself: two volumes never share a folder.
fn folder_name(part: &str) -> String {
    let escaped = part.replace('%', "%25");
    match escaped.as_str() {
        "" => "%".to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ if which(&escaped).is_some() => escaped.replace('.', "%2E"),
        _ => escaped,
    }
}

/// The file of a snapshot.
pub(super) fn file_name(which: Which) -> String {
    match which {
        Which::Latest => format!("latest{SUFFIX}"),
        Which::Sequence(sequence) => format!("{sequence}{SUFFIX}"),
    }
}

/// The snapshot of a file.
pub(super) fn which(file_name: &str) -> Option<Which> {
    Which::parse(file_name.strip_suffix(SUFFIX)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Sequence;

    fn find(tree: &Tree, path: &str) -> Option<VolumeNumber> {
        let folder = path.split('/').try_fold(ROOT, |at, name| tree.child(at, name))?;
        tree.volume(folder)
    }

    #[test]
    fn each_volume_has_a_folder_of_its_own() {
        let volumes = [
            ("rbd/vm1", "rbd/vm1"),
            ("rbd/vm2", "rbd/vm2"),
            ("rbd", "rbd"),
            ("disk", "disk"),
            ("/abs/disk.img", "%/abs/disk.img"),
            ("a//b", "a/%/b"),
            ("a/", "a/%"),
            ("../../etc", "%2E%2E/%2E%2E/etc"),
            ("./x", "%2E/x"),
            ("%2E/x", "%252E/x"),
            ("%", "%25"),
            ("rbd/17.raw", "rbd/17%2Eraw"),
            ("rbd/latest.raw", "rbd/latest%2Eraw"),
            ("rbd/017.raw", "rbd/017.raw"),
            ("è /ü", "è /ü"),
        ];
        let mut tree = Tree::default();
        for _ in 0..2 {
            for (number, (name, _)) in volumes.iter().enumerate() {
                tree.add(name, VolumeNumber(number as u32 + 1));
            }
        }
        for (number, (name, path)) in volumes.iter().enumerate() {
            assert_eq!(find(&tree, path), Some(VolumeNumber(number as u32 + 1)), "{name}");
        }
        let names: Vec<_> = tree.children(ROOT).map(|(name, _)| name).collect();
        assert_eq!(names, ["%", "%25", "%252E", "%2E", "%2E%2E", "a", "disk", "rbd", "è "]);
        let rbd = tree.child(ROOT, "rbd").expect("a folder");
        let vm1 = tree.child(rbd, "vm1").expect("a folder");
        assert_eq!((tree.parent(vm1), tree.parent(rbd), tree.parent(ROOT)), (rbd, ROOT, ROOT));
        assert!(tree.has(vm1) && !tree.has(FolderId(1000)));
        assert_eq!((tree.child(FolderId(1000), "x"), tree.volume(FolderId(1000))), (None, None));
    }

    #[test]
    fn files_are_named_for_snapshots() {
        for (name, expected) in [
            ("17.raw", Some(Which::Sequence(Sequence(17)))),
            ("latest.raw", Some(Which::Latest)),
            ("017.raw", None),
            ("17", None),
            (".raw", None),
        ] {
            assert_eq!(which(name), expected, "{name}");
            if let Some(found) = expected {
                assert_eq!(file_name(found), name);
            }
        }
    }
}
