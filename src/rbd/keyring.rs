//! Which type of key a user has, for when librados refuses it without a word.
//!
//! A key is base64 of u16 type, u32 + u32 time of creation, u16 length, secret (Ceph's `CryptoKey::encode`).

use std::fs::File;
use std::io::Read;

/// `CEPH_CRYPTO_AES`
pub(super) const AES: u16 = 1;
/// `CEPH_CRYPTO_AES256KRB5`, the only type that new clusters make.
pub(super) const AES256K: u16 = 2;
/// Most of a keyring that is read.
const FILE_LEN_BYTES_MAX: u64 = 1 << 20;

/// A key, but for what is secret of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub kind: u16,
    /// Where it was found.
    pub place: String,
}

/// The key that librados takes: the one given, that in a file, or the user's in the first keyring that is there.
pub(super) fn find(user: &str, inline: &str, file: &str, rings: &str) -> Option<Key> {
    let key = |text: &str, place: &str| Some(Key { kind: kind(text.trim())?, place: place.to_owned() });
    if !inline.is_empty() {
        return key(inline, "the option `key`");
    }
    if !file.is_empty() {
        return key(&read(file)?, file);
    }
    let rings = rings.split([',', ';', ' ', '\t']).filter(|path| !path.is_empty());
    let (path, text) = rings.filter_map(|path| Some((path, read(path)?))).next()?;
    key(key_in(&text, user)?, path)
}

fn read(path: &str) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(FILE_LEN_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The value of `key` in the section of a user.
fn key_in<'a>(text: &'a str, user: &str) -> Option<&'a str> {
    let mut within = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            within = section.trim() == user;
        } else if let Some((name, value)) = line.split_once('=')
            && within
            && name.trim() == "key"
        {
            return Some(value.trim().trim_matches('"'));
        }
    }
    None
}

/// The type, from the first three digits of base64.
fn kind(key: &str) -> Option<u16> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |at: usize| DIGITS.iter().position(|d| key.as_bytes().get(at) == Some(d)).map(|d| d as u16);
    let (a, b, c) = (digit(0)?, digit(1)?, digit(2)?);
    Some(u16::from_le_bytes([(a << 2 | b >> 4) as u8, ((b & 15) << 4 | c >> 2) as u8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_a_key() {
        for (key, expected) in [
            ("AQBSNv5mAAAAABAA0pQmKOvXcFYvW3vY1Rq5Vw==", Some(AES)),
            ("AgBSNv5mAAAAACAA0pQmKOvXcFYvW3vY1Rq5Vw==", Some(AES256K)),
            ("A", None),
            ("", None),
            ("!!!!", None),
        ] {
            assert_eq!(kind(key), expected, "{key}");
        }
    }

    #[test]
    fn the_key_of_the_user_and_of_nobody_else() {
        let text = "[client.a]\n\tkey = AQAA\n[client.b]\n  caps mon = \"allow r\"\n key=AgAB\n[client.c]\n";
        assert_eq!(key_in(text, "client.a"), Some("AQAA"));
        assert_eq!(key_in(text, "client.b"), Some("AgAB"));
        assert_eq!(key_in(text, "client.c"), None);
        let dir = tempfile::tempdir().expect("a folder");
        let ring = dir.path().join("keyring").display().to_string();
        std::fs::write(&ring, text).expect("written");
        let rings = format!("/absent/keyring,{ring}");
        assert_eq!(find("client.b", "", "", &rings), Some(Key { kind: AES256K, place: ring }));
        assert_eq!(find("client.b", "AQAA", "", &rings).map(|key| key.kind), Some(AES));
        assert_eq!(find("client.b", "", "/absent", &rings), None);
    }
}
