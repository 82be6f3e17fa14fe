//! How an image is named: `rbd:[pool/[namespace/]]image[@snap]`.

use std::fmt;
use std::str::FromStr;

use super::cluster::Cluster;
use crate::error::{Error, Result};
use crate::units::VolumeName;

/// What an image's name begins with on the command line.
pub const SCHEME: &str = "rbd:";
/// The pool of an image for which none is named: Ceph's own default.
const POOL_DEFAULT: &str = "rbd";
/// In place of an image: all images there.
const ALL: &str = "*";

/// An image, one snapshot of it, or (as `*`) all images of a pool's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RbdSpec {
    pub pool: String,
    /// Empty for the default namespace.
    pub namespace: String,
    pub image: String,
    pub snapshot: Option<String>,
}

impl RbdSpec {
    /// Whether this stands for all images there; [`RbdSpec::expand`] names them.
    pub fn is_all(&self) -> bool {
        self.image == ALL
    }

    /// The volume's name: `pool/image` or `pool/namespace/image`.
    pub fn volume_name(&self) -> Result<VolumeName> {
        self.path().parse()
    }

    /// `pool/[namespace/]image`, without the snapshot.
    pub fn path(&self) -> String {
        if self.namespace.is_empty() {
            format!("{}/{}", self.pool, self.image)
        } else {
            format!("{}/{}/{}", self.pool, self.namespace, self.image)
        }
    }

    /// All images that this stands for, by name: itself, or for `*` those of the namespace. None there is an error.
    pub fn expand(&self, cluster: &Cluster) -> Result<Vec<Self>> {
        if !self.is_all() {
            return Ok(vec![self.clone()]);
        }
        let pool = cluster.pool(&self.pool, &self.namespace)?;
        let images = pool.images()?;
        if images.is_empty() {
            return Err(Error::not_found(format!("{} holds no images", pool.path())));
        }
        Ok(images.into_iter().map(|entry| Self { image: entry.name, ..self.clone() }).collect())
    }
}

impl FromStr for RbdSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::invalid(format!("{text:?}: {why}"))
                .help("expected rbd:[POOL/[NAMESPACE/]]IMAGE[@SNAP], or rbd:POOL/* for all images of a pool")
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| bad("does not begin with rbd:"))?;
        if rest.chars().any(char::is_control) {
            return Err(bad("holds a control character"));
        }
        let (path, snapshot) = match rest.split_once('@') {
            Some((path, snapshot)) => (path, Some(snapshot)),
            None => (rest, None),
        };
        if snapshot.is_some_and(|s| s.is_empty() || s.contains(['@', '/'])) {
            return Err(bad("the snapshot's name is empty or holds '@' or '/'"));
        }
        let parts: Vec<&str> = path.split('/').collect();
        let (pool, namespace, image) = match parts[..] {
            [image] => (POOL_DEFAULT, "", image),
            [pool, image] => (pool, "", image),
            [pool, namespace, image] if !namespace.is_empty() => (pool, namespace, image),
            _ => return Err(bad("has too many or empty parts")),
        };
        if pool.is_empty() || image.is_empty() {
            return Err(bad("the pool or the image is empty"));
        }
        if image == ALL && snapshot.is_some() {
            return Err(bad("one snapshot's name cannot stand for all images"));
        }
        Ok(Self {
            pool: pool.to_owned(),
            namespace: namespace.to_owned(),
            image: image.to_owned(),
            snapshot: snapshot.map(str::to_owned),
        })
    }
}

impl fmt::Display for RbdSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.path())?;
        self.snapshot.as_ref().map_or(Ok(()), |snapshot| write!(f, "@{snapshot}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_ceph_reads_them() {
        for (text, path, snapshot) in [
            ("rbd:vm", "rbd/vm", None),
            ("rbd:p/vm", "p/vm", None),
            ("rbd:p/n/vm", "p/n/vm", None),
            ("rbd:p/n/vm@s", "p/n/vm", Some("s")),
            ("rbd:vm@s:1", "rbd/vm", Some("s:1")),
            ("rbd:p/*", "p/*", None),
        ] {
            let spec: RbdSpec = text.parse().unwrap();
            assert_eq!((spec.path().as_str(), spec.snapshot.as_deref()), (path, snapshot), "{text}");
            assert_eq!(spec.to_string().parse::<RbdSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for text in [
            "",
            "vm",
            "rbd:",
            "rbd:/vm",
            "rbd:p/",
            "rbd:p//vm",
            "rbd:a/b/c/d",
            "rbd:vm@",
            "rbd:vm@a@b",
            "rbd:vm@a/b",
            "rbd:p/*@s",
            "rbd:v\0m",
            "rbd:@s",
        ] {
            assert!(text.parse::<RbdSpec>().is_err(), "{text:?}");
        }
    }
}
