//! Which volume goes where when all of a project are restored.

use std::collections::BTreeMap;

use crate::units::VolumeNumber;

use crate::error::{Error, Result};

/// What a volume is called where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// An image of one pool: `vms/tenant/db` becomes `db`.
    Image,
    /// A file below a folder: `vms/tenant/db` becomes `vms/tenant/db.raw`.
    File,
}

/// What is to be restored.
#[derive(Debug, Clone, Copy)]
pub struct Volume<'a> {
    /// Its name in the catalog, in which a slash is nothing but a character.
    pub name: &'a str,
    /// Its place in the catalog.
    pub number: VolumeNumber,
}

/// A volume, and its new name or why it has none.
#[derive(Debug)]
pub struct Placed<'a> {
    /// Its name in the catalog.
    pub volume: &'a str,
    /// What it is called where it goes; `Conflict` where another gets that name, `Invalid` where it can have none.
    pub name: Result<String>,
}

/// Names all volumes, in their order. Of those that would get the same name the first of the catalog gets it, in this run and
/// every other; the rest get none, and keep nobody else from being restored.
pub fn place<'a>(volumes: &[Volume<'a>], naming: Naming) -> Vec<Placed<'a>> {
    let named: Vec<Result<String>> = volumes.iter().map(|volume| name(volume.name, naming)).collect();
    let mut firsts: BTreeMap<String, Volume<'_>> = BTreeMap::new();
    for (volume, name) in volumes.iter().zip(&named) {
        let Ok(name) = name else { continue };
        let first = firsts.entry(name.clone()).or_insert(*volume);
        if volume.number < first.number {
            *first = *volume;
        }
    }
    let placed = volumes.iter().zip(named).map(|(volume, name)| {
        let first = name.as_ref().ok().and_then(|name| firsts.get(name));
        let name = match (first, name) {
            (Some(first), Ok(name)) if first.number != volume.number => {
                Err(taken(volume.name, first.name, &name))
            }
            (_, name) => name,
        };
        Placed { volume: volume.name, name }
    });
    placed.collect()
}

fn taken(volume: &str, first: &str, name: &str) -> Error {
    Error::conflict(format!("{first} becomes {name}, and {volume} cannot, too")).help(format!(
        "restore it under another name: cuttle restore {volume} TARGET; or to another pool or namespace, with --volume '{volume}'"
    ))
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
    use super::{Naming, Placed, Volume, place};
    use crate::error::ErrorKind;
    use crate::units::VolumeNumber;

    fn placed<'a>(volumes: &[&'a str], naming: Naming) -> Vec<Placed<'a>> {
        let numbered =
            volumes.iter().zip(1..).map(|(name, number)| Volume { name, number: VolumeNumber(number) });
        place(&numbered.collect::<Vec<_>>(), naming)
    }

    fn names(volumes: &[&str], naming: Naming) -> Vec<Option<String>> {
        let placed = placed(volumes, naming);
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
    fn of_two_that_would_be_one_the_first_of_the_catalog_is_it() {
        let volumes = ["a/db", "a/web", "b/ns/db"];
        let all = placed(&volumes, Naming::Image);
        assert_eq!(all[0].name.as_deref().expect("the first"), "db");
        assert_eq!(all[1].name.as_deref().expect("nobody's rival"), "web");
        let error = all[2].name.as_ref().expect_err("the name is taken");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        for part in ["a/db", "b/ns/db", "becomes db"] {
            assert!(error.message().contains(part), "{error}");
        }
        assert_eq!(names(&volumes, Naming::File).iter().flatten().count(), 3);
        // Whatever the order they come in.
        let [late, early] =
            [(9, "z/db"), (2, "y/db")].map(|(n, name)| Volume { name, number: VolumeNumber(n) });
        let all = place(&[late, early], Naming::Image);
        assert!(all[0].name.is_err() && all[1].name.is_ok());
        // What cannot be named is nobody's rival.
        assert_eq!(names(&["a/", "b/"], Naming::Image), [None, None]);
    }
}
