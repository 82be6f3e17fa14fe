//! Where all volumes go: a pool, one namespace of it, or a folder.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use cuttle::plan::placement::Naming;
use cuttle::rbd::{RbdSpec, SCHEME};
use cuttle::{Error, Result};

/// `rbd:POOL[/NAMESPACE]`, or the path of a folder with a `/` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Pool(Space),
    Folder(PathBuf),
}

/// A pool, or one namespace of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    pub pool: String,
    /// Empty for the default one.
    pub namespace: String,
}

impl Space {
    /// The image of this name in it.
    pub fn image(&self, name: String) -> RbdSpec {
        RbdSpec { pool: self.pool.clone(), namespace: self.namespace.clone(), image: name, snapshot: None }
    }
}

impl Destination {
    pub fn naming(&self) -> Naming {
        match self {
            Self::Pool(_) => Naming::Image,
            Self::Folder(_) => Naming::File,
        }
    }
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::invalid(format!("{text:?}: {why}"))
                .help("expected rbd:POOL or rbd:POOL/NAMESPACE for images, or a folder such as /mnt/disks/ for files")
        };
        let Some(path) = text.strip_prefix(SCHEME) else {
            return match text.contains('/') {
                true => Ok(Self::Folder(text.into())),
                false => Err(bad("is neither a pool nor a folder")),
            };
        };
        if path.contains(['@', '*']) || path.chars().any(char::is_control) {
            return Err(bad("is the name of no pool"));
        }
        let (pool, namespace) = match path.split('/').collect::<Vec<_>>()[..] {
            [pool] => (pool, ""),
            [pool, namespace] if !namespace.is_empty() => (pool, namespace),
            _ => return Err(bad("has too many or empty parts")),
        };
        if pool.is_empty() {
            return Err(bad("the pool is empty"));
        }
        Ok(Self::Pool(Space { pool: pool.to_owned(), namespace: namespace.to_owned() }))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(Space { pool, namespace }) if namespace.is_empty() => write!(f, "{SCHEME}{pool}"),
            Self::Pool(Space { pool, namespace }) => write!(f, "{SCHEME}{pool}/{namespace}"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Destination;

    #[test]
    fn destinations_and_what_becomes_of_a_volume_there() {
        for (text, place) in [
            ("rbd:new", Some("rbd:new/db")),
            ("rbd:new/tenant", Some("rbd:new/tenant/db")),
            ("/mnt/disks/", Some("/mnt/disks/db")),
            ("./rbd", Some("./rbd/db")),
            ("new", None),
            ("", None),
            ("-", None),
            ("rbd:", None),
            ("rbd:new/", None),
            ("rbd:/tenant", None),
            ("rbd:new/tenant/db", None),
            ("rbd:new/*", None),
            ("rbd:new@s", None),
        ] {
            let found = text.parse::<Destination>().ok();
            assert_eq!(found.as_ref().map(ToString::to_string), place.map(|_| text.to_owned()), "{text}");
            let at = found.map(|found| match found {
                Destination::Pool(space) => space.image("db".to_owned()).to_string(),
                Destination::Folder(folder) => folder.join("db").display().to_string(),
            });
            assert_eq!(at.as_deref(), place, "{text}");
        }
    }
}
