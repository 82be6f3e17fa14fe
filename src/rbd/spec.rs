//! How an image is named: `rbd:[pool/[namespace/]]image[@snap]`, each part escaped as `name.rs` says.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;

use super::cluster::Cluster;
use super::name::{canonical, escape, unescape};
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
    /// Escaped, as the two that follow.
    pub pool: String,
    /// Empty for the default namespace.
    pub namespace: String,
    /// `*` alone for all images of the namespace.
    pub image: String,
    /// As Ceph has it.
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

    /// `pool/[namespace/]image` as Ceph's own programs take it. They take no name that holds `/` or `@`.
    pub fn ceph_path(&self) -> Result<OsString> {
        let parts = [&self.pool, &self.namespace, &self.image].map(|part| unescape(part));
        if parts.iter().any(|part| part.contains(&b'/') || part.contains(&b'@')) {
            return Err(Error::unsupported(format!(
                "{self}: Ceph's own programs take no name with '/' or '@'"
            ))
            .help("rename the image (librbd can, the program `rbd` cannot), or name another one"));
        }
        let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).map(Vec::as_slice).collect();
        Ok(OsString::from_vec(parts.join(&b'/')))
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
        if unescape(rest).contains(&0) {
            return Err(bad("holds a NUL byte"));
        }
        let (path, snapshot) = match rest.split_once('@') {
            Some((path, snapshot)) => (path, Some(snapshot)),
            None => (rest, None),
        };
        if snapshot.is_some_and(|s| s.is_empty() || s.contains(['@', '/'])) {
            return Err(bad("the snapshot's name is empty or holds '@' or '/' (write %40 or %2F)"));
        }
        let snapshot = snapshot.map(|s| String::from_utf8(unescape(s))).transpose();
        let snapshot = snapshot.map_err(|_| bad("the snapshot's name is not UTF-8"))?;
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
        let image = if image == ALL { ALL.to_owned() } else { canonical(image) };
        Ok(Self { pool: canonical(pool), namespace: canonical(namespace), image, snapshot })
    }
}

impl fmt::Display for RbdSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.path())?;
        self.snapshot.as_ref().map_or(Ok(()), |snapshot| write!(f, "@{}", escape(snapshot.as_bytes())))
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
            ("rbd:p/%2A", "p/%2A", None),
            ("rbd:a%40b/n%2f/v\nm@s%40%25", "a%40b/n%2F/v%0Am", Some("s@%")),
            ("rbd:100%", "rbd/100%25", None),
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
            "rbd:v%00m",
            "rbd:vm@%FF",
            "rbd:@s",
        ] {
            assert!(text.parse::<RbdSpec>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn one_image_and_all_images_are_told_apart() {
        let parse = |text: &str| text.parse::<RbdSpec>().unwrap();
        assert!(parse("rbd:p/*").is_all() && !parse("rbd:p/%2A").is_all() && !parse("rbd:p/a*").is_all());
        assert_eq!(parse("rbd:p/%2a").volume_name().unwrap().as_str(), "p/%2A");
        assert_eq!(parse("rbd:p/n/a%0Ab").ceph_path().unwrap(), "p/n/a\nb");
        assert!(parse("rbd:p/a%40b").ceph_path().is_err());
    }
}
