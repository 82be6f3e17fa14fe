//! Which volume goes where when all of a project are restored.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// What a volume is called where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// An image of one pool: `vms/tenant/db` becomes `db`.
    Image,
    /// A file below a folder: `vms/tenant/db` becomes `vms/tenant/db.raw`.
    File,
}

/// A volume, and its new name or why it has none.
#[derive(Debug)]
pub struct Placed<'a> {
    pub volume: &'a str,
    pub name: Result<String>,
}

/// Names all volumes, in their order.
///
/// # Errors
/// `Conflict` where two would get the same name.
pub fn place<'a>(volumes: impl IntoIterator<Item = &'a str>, naming: Naming) -> Result<Vec<Placed<'a>>> {
    let placed: Vec<Placed<'_>> =
        volumes.into_iter().map(|volume| Placed { volume, name: name(volume, naming) }).collect();
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for Placed { volume, name } in &placed {
        let Ok(name) = name else { continue };
        if let Some(other) = taken.insert(name, volume) {
            return Err(Error::conflict(format!("{other} and {volume} would both become {name}; nothing was written"))
                .help(
                    "choose some with --volume PATTERN and restore the others to another pool or namespace, or restore \
                     one of them by itself: cuttle restore VOLUME TARGET",
                ));
        }
    }
    Ok(placed)
}

fn name(volume: &str, naming: Naming) -> Result<String> {
    let parts: Vec<&str> = volume.split('/').collect();
    // Such a name leads out of the folder, or to where another volume's leads.
    let strange = |part: &&str| matches!(*part, "" | "." | "..");
    match (naming, parts.last()) {
        (Naming::Image, Some(last)) if !strange(last) && *last != "*" => Ok((*last).to_owned()),
        (Naming::File, _) if !parts.iter().any(strange) => Ok(format!("{volume}.raw")),
        _ => {
            let what = if naming == Naming::Image { "an image" } else { "a file" };
            Err(Error::invalid(format!("the volume's name {volume:?} is none for {what}"))
                .help("restore it by itself: cuttle restore VOLUME TARGET"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Naming, place};
    use crate::error::ErrorKind;

    fn names(volumes: &[&str], naming: Naming) -> Vec<Option<String>> {
        let placed = place(volumes.iter().copied(), naming).expect("no two alike");
        assert!(placed.iter().zip(volumes).all(|(p, v)| p.volume == *v));
        placed.into_iter().map(|p| p.name.ok()).collect()
    }

    #[test]
    fn every_volume_gets_a_name_or_is_told_why_not() {
        for (volume, image, file) in [
            ("db", Some("db"), Some("db.raw")),
            ("vms/db", Some("db"), Some("vms/db.raw")),
            ("vms/tenant/db", Some("db"), Some("vms/tenant/db.raw")),
            ("disk.raw", Some("disk.raw"), Some("disk.raw.raw")),
            ("vms/", None, None),
            ("/etc", Some("etc"), None),
            ("a//b", Some("b"), None),
            ("../b", Some("b"), None),
            ("a/..", None, None),
            ("./b", Some("b"), None),
            ("vms/*", None, Some("vms/*.raw")),
        ] {
            assert_eq!(names(&[volume], Naming::Image), [image.map(str::to_owned)], "{volume}");
            assert_eq!(names(&[volume], Naming::File), [file.map(str::to_owned)], "{volume}");
        }
    }

    #[test]
    fn two_of_one_name_are_refused_together() {
        let volumes = ["a/db", "a/web", "b/ns/db"];
        let error = place(volumes, Naming::Image).expect_err("two are named db");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        for part in ["a/db", "b/ns/db", "become db"] {
            assert!(error.message().contains(part), "{error}");
        }
        assert_eq!(names(&volumes, Naming::File).iter().flatten().count(), 3);
        // What cannot be named is nobody's rival.
        assert_eq!(names(&["a/", "b/"], Naming::Image), [None, None]);
    }
}
