//! What a path names, and the path of a volume.

/// Longest path that is looked at, in bytes: a volume's name, every byte of it percent-encoded, and a token.
pub const PATH_LEN_BYTES_MAX: usize = 4096;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/`
    Index,
    /// `/index.json`
    Json,
    /// `/VOLUME/`
    Volume(String),
    /// `/VOLUME/SEQ.raw`; without a sequence `/VOLUME/latest.raw`.
    Image {
        /// The volume's name, decoded; whether there is such a volume was not asked.
        volume: String,
        /// `None` for `latest`.
        sequence: Option<u32>,
    },
    /// `/VOLUME/SEQ.qcow2`, or `/VOLUME/SEQ,SEQ,SEQ.qcow2` with older snapshots in it; without a sequence `/VOLUME/latest.qcow2`.
    Qcow2 {
        /// The volume's name, decoded; whether there is such a volume was not asked.
        volume: String,
        /// In the order of the path; empty for `latest`.
        sequences: Vec<u32>,
    },
}

/// A path, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What follows `/@` at the beginning: for programs that cannot send a header. No volume's name has an `@`.
    pub token: Option<String>,
    /// What the rest of the path names.
    pub target: Target,
}

/// Takes the path of a request apart. A volume's name may have its slashes as they are or percent-encoded.
pub fn parse(path: &str) -> Option<Asked> {
    if path.len() > PATH_LEN_BYTES_MAX {
        return None;
    }
    let rest = path.strip_prefix('/')?;
    let (token, rest) = match rest.strip_prefix('@') {
        None => (None, rest),
        Some(rest) => {
            let (token, rest) = rest.split_once('/')?;
            (Some(decode(token)?), rest)
        }
    };
    Some(Asked { token, target: target(&decode(rest)?)? })
}

fn target(path: &str) -> Option<Target> {
    match path {
        "" => return Some(Target::Index),
        "index.json" => return Some(Target::Json),
        _ => {}
    }
    let (volume, file) = path.rsplit_once('/').filter(|(volume, _)| !volume.is_empty())?;
    let volume = volume.to_owned();
    if file.is_empty() {
        return Some(Target::Volume(volume));
    }
    let (name, kind) = file.rsplit_once('.')?;
    let sequences = match name {
        "latest" => Vec::new(),
        list => list.split(',').map(sequence).collect::<Option<Vec<u32>>>()?,
    };
    match (kind, sequences.as_slice()) {
        ("raw", [] | [_]) => Some(Target::Image { volume, sequence: sequences.first().copied() }),
        ("qcow2", _) => Some(Target::Qcow2 { volume, sequences }),
        _ => None,
    }
}

fn sequence(digits: &str) -> Option<u32> {
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Undoes percent-encoding (RFC 3986 §2.1); `None` where it is broken or not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |c: Option<u8>| c.and_then(|c| char::from(c).to_digit(16));
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => (digit(bytes.next())? << 4 | digit(bytes.next())?) as u8,
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// A volume's name as part of a path. A slash stays one where no program takes it for anything else.
pub fn encode(volume: &str) -> String {
    use std::fmt::Write;
    let bytes = volume.as_bytes();
    let named = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(|c| *c != b'/');
    let mut out = String::with_capacity(bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        if plain || *byte == b'/' && named(at.checked_sub(1)) && named(Some(at + 1)) {
            out.push(char::from(*byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(volume: &str, sequence: Option<u32>) -> Option<Target> {
        Some(Target::Image { volume: volume.into(), sequence })
    }

    fn qcow2(sequences: &[u32]) -> Option<Target> {
        Some(Target::Qcow2 { volume: "a".into(), sequences: sequences.to_vec() })
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/", Some(Target::Index)),
            ("/index.json", Some(Target::Json)),
            ("/vms/db/", Some(Target::Volume("vms/db".into()))),
            ("/vms/db/3.raw", image("vms/db", Some(3))),
            ("/vms%2Fdb/3.raw", image("vms/db", Some(3))),
            ("/vms%2fdb%2F3.raw", image("vms/db", Some(3))),
            ("/vms/db/latest.raw", image("vms/db", None)),
            ("/%2Fdev%2Fsdb/1.raw", image("/dev/sdb", Some(1))),
            ("//dev/sdb/1.raw", image("/dev/sdb", Some(1))),
            ("/a%20b%25/1.raw", image("a b%", Some(1))),
            ("/%C3%A4/1.raw", image("ä", Some(1))),
            ("/index.json/1.raw", image("index.json", Some(1))),
            ("/a/../b/1.raw", image("a/../b", Some(1))),
            ("", None),
            ("*", None),
            ("/1.raw", None),
            ("//1.raw", None),
            ("/a/1", None),
            ("/a/.raw", None),
            ("/a/-1.raw", None),
            ("/a/+1.raw", None),
            ("/a/4294967296.raw", None),
            ("/a/1.raw/", Some(Target::Volume("a/1.raw".into()))),
            ("/a/1,2.raw", None),
            ("/a/7.qcow2", qcow2(&[7])),
            ("/a/5,6,7.qcow2", qcow2(&[5, 6, 7])),
            ("/a/5%2C6.qcow2", qcow2(&[5, 6])),
            ("/a/latest.qcow2", qcow2(&[])),
            ("/a/,7.qcow2", None),
            ("/a/latest,7.qcow2", None),
            ("/a/7.vmdk", None),
            ("/7.qcow2", None),
            ("/a%/1.raw", None),
            ("/a%2/1.raw", None),
            ("/a%zz/1.raw", None),
            ("/%ff/1.raw", None),
        ] {
            assert_eq!(parse(path).map(|a| a.target), expected, "{path:?}");
        }
        assert!(parse(&format!("/{}/1.raw", "a".repeat(PATH_LEN_BYTES_MAX))).is_none());
    }

    #[test]
    fn tokens() {
        for (path, token, target) in [
            ("/@abc/", "abc", Target::Index),
            ("/@a%2Fb/v/latest.raw", "a/b", Target::Image { volume: "v".into(), sequence: None }),
            ("/@/index.json", "", Target::Json),
        ] {
            assert_eq!(parse(path), Some(Asked { token: Some(token.into()), target }), "{path:?}");
        }
        assert_eq!(parse("/@abc"), None);
        assert_eq!(parse("/x/@abc/1.raw").expect("an image").token, None);
    }

    #[test]
    fn what_is_encoded_is_found_again() {
        for volume in ["vms/db", "/", "//", "/a", "a/", "a//b", "a b", "ä%41", "..", "\"<>&'", "a?b#c"] {
            let path = format!("/{}/7.raw", encode(volume));
            assert_eq!(parse(&path).map(|a| a.target), image(volume, Some(7)), "{path}");
            assert!(path.bytes().all(|c| c.is_ascii_alphanumeric() || b"/%-._~".contains(&c)), "{path}");
            assert!(!path.contains("//"), "{path}");
        }
    }
}
