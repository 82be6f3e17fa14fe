//! Names of pools, namespaces and images as text that can be shown, typed and split.
//!
//! Ceph takes any bytes but NUL for an image's name: its own programs refuse `/` and `@` only, its library not even those.
//! Here such a name is held with these bytes escaped as `%` and two hexadecimal digits: control characters and what turns
//! text around (a terminal would obey), `/` and `@` (which separate the parts of a name), `%` itself, a name that is `*` alone
//! (which stands for all images), and what is not UTF-8. All other names are as they are. Two names are never escaped alike.

use std::ffi::{CStr, CString, c_char};

use crate::error::{Error, Result};

/// Characters that turn, hide or break the text around them.
fn is_tricky(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A name as Ceph has it, as it is held here.
pub(super) fn escape(name: &[u8]) -> String {
    if name == b"*" {
        return "%2A".to_owned();
    }
    let mut out = String::with_capacity(name.len());
    let hex = |out: &mut String, bytes: &[u8]| bytes.iter().for_each(|b| *out += &format!("%{b:02X}"));
    for piece in name.utf8_chunks() {
        for c in piece.valid().chars() {
            match c {
                '/' | '@' | '%' => hex(&mut out, &[c as u8]),
                c if is_tricky(c) => hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => out.push(c),
            }
        }
        hex(&mut out, piece.invalid());
    }
    out
}

/// The name that was escaped. `%` without two digits after it stands for itself: nobody has to know of this who has no need to.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// What somebody typed, escaped where it must be and nowhere else.
pub(super) fn canonical(text: &str) -> String {
    escape(&unescape(text))
}

/// An escaped name as C wants it.
pub(super) fn c_name(text: &str) -> Result<CString> {
    CString::new(unescape(text))
        .map_err(|_| Error::invalid(format!("{text:?}: a NUL byte cannot be in a name")))
}

/// A name that C handed out; empty where the pointer is null.
///
/// # Safety
/// `name` is null or points to a NUL-terminated string that lives during the call.
pub(super) unsafe fn taken(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the rest is the caller's promise.
    escape(unsafe { CStr::from_ptr(name) }.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::units::VolumeName;

    #[test]
    fn what_is_escaped_and_what_is_not() {
        for (name, text) in [
            (&b"vm-1.disk 0"[..], "vm-1.disk 0"),
            ("Büro/ä".as_bytes(), "Büro%2Fä"),
            (b"bad\nname", "bad%0Aname"),
            (b"a@b", "a%40b"),
            (b"100%", "100%25"),
            (b"100%41", "100%2541"),
            (b"*", "%2A"),
            (b"a*", "a*"),
            ("\u{202e}gpj.exe".as_bytes(), "%E2%80%AEgpj.exe"),
            ("\u{85}".as_bytes(), "%C2%85"),
            (b"\xff\xc3x", "%FF%C3x"),
            (b"\x7f", "%7F"),
        ] {
            assert_eq!(escape(name), text);
            assert_eq!(unescape(text), name, "{text}");
            assert_eq!(canonical(text), text);
            assert!(text.parse::<VolumeName>().is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_typed_needs_no_escaping_where_it_is_clear() {
        for (typed, text) in
            [("100%", "100%25"), ("a%4", "a%254"), ("%zz", "%25zz"), ("a%0ab", "a%0Ab"), ("a\nb", "a%0Ab")]
        {
            assert_eq!(canonical(typed), text, "{typed}");
        }
    }

    #[test]
    fn no_two_names_are_escaped_alike() {
        let alphabet = [b'%', b'2', b'5', b'A', b'*', b'/', b'\n', 0xc3, 0xa9];
        let mut names: Vec<Vec<u8>> = vec![Vec::new()];
        for _ in 0..4 {
            let longer: Vec<Vec<u8>> = names
                .iter()
                .flat_map(|name| alphabet.iter().map(move |b| [name.as_slice(), &[*b]].concat()))
                .collect();
            names.extend(longer);
        }
        let names: BTreeSet<Vec<u8>> = names.into_iter().filter(|n| !n.is_empty()).collect();
        let texts: BTreeSet<String> = names.iter().map(|n| escape(n)).collect();
        assert_eq!(texts.len(), names.len());
        for name in &names {
            assert_eq!(unescape(&escape(name)), *name);
        }
    }
}
