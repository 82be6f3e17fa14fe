//! Who may read: whoever has the token, or, without one, programs of this machine.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST};
use hyper::body::Bytes;

use crate::units::hex;

/// A secret that readers must name.
#[derive(Clone)]
pub struct Token(Kind);

#[derive(Clone)]
enum Kind {
    /// Kept as a hash, so that comparing takes the same time whatever is compared.
    One(blake3::Hash),
    Signed(Arc<Signed>),
}

/// Tells the signature of a token that begins so.
type Signed = dyn Fn(&[u8]) -> [u8; 32] + Send + Sync;

/// Digits that a signature takes at a token's end.
const SIGNATURE_DIGITS: usize = 64;

impl Token {
    /// This secret alone. It is kept as a hash.
    pub fn new(secret: &str) -> Self {
        Self(Kind::One(blake3::hash(secret.as_bytes())))
    }

    /// Any that ends with the signature, in hex digits, of what it begins with.
    pub fn signed(signature: impl Fn(&[u8]) -> [u8; 32] + Send + Sync + 'static) -> Self {
        Self(Kind::Signed(Arc::new(signature)))
    }

    fn is(&self, given: &[u8]) -> bool {
        // `blake3::Hash` compares in constant time.
        match &self.0 {
            Kind::One(hash) => *hash == blake3::hash(given),
            Kind::Signed(signature) => {
                let Some(begin) = given.len().checked_sub(SIGNATURE_DIGITS) else { return false };
                let (begin, end) = given.split_at(begin);
                blake3::hash(hex(&signature(begin)).as_bytes()) == blake3::hash(end)
            }
        }
    }
}

/// Who may read.
#[derive(Clone)]
pub enum Access {
    /// Whoever names the token: as Bearer, as a password of any user (Basic), or in the path.
    Token(Token),
    /// Whoever reaches the address, by a name of this machine. A web page that has its own name point here
    /// (DNS rebinding) is refused.
    ThisMachine,
    /// Whoever reaches the address.
    Anybody,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Welcome,
    /// Without the token: status 401.
    Unknown,
    /// Under a name that is not this machine's: status 403.
    WrongName,
}

impl Access {
    pub(super) fn verdict(&self, headers: &HeaderMap, path_token: Option<&str>) -> Verdict {
        let welcome = match self {
            Self::Anybody => true,
            Self::ThisMachine => {
                let host = headers.get(HOST).map(|h| h.to_str().unwrap_or("?"));
                if !host.is_none_or(is_this_machine) {
                    return Verdict::WrongName;
                }
                true
            }
            Self::Token(token) => {
                path_token.is_some_and(|given| token.is(given.as_bytes()))
                    || headers
                        .get(AUTHORIZATION)
                        .and_then(|value| credential(value.as_bytes()))
                        .is_some_and(|given| token.is(&given))
            }
        };
        if welcome { Verdict::Welcome } else { Verdict::Unknown }
    }
}

/// The secret in an Authorization header: RFC 6750 §2.1, RFC 7617 §2.
fn credential(value: &[u8]) -> Option<Bytes> {
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Bytes::copy_from_slice(rest.as_bytes()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|c| *c == b':')?;
    Some(Bytes::from(pair).slice(colon + 1..))
}

/// Whether the name in a Host header is one that only this machine has.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => address,
            Some((address, port)) if port.strip_prefix(':').is_some_and(is_port) => address,
            _ => return false,
        },
        None => match host.rsplit_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        let value = |v: &str| HeaderValue::from_str(v).expect("a value");
        pairs.iter().map(|(name, v)| (name.clone(), value(v))).collect()
    }

    #[test]
    fn a_token_is_asked_for() {
        let access = Access::Token(Token::new("s3:cret"));
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for (value, welcome) in [
            ("Bearer s3:cret".to_owned(), true),
            ("bearer  s3:cret".to_owned(), true),
            (basic("anyone:s3:cret"), true),
            (basic(":s3:cret"), true),
            ("Bearer s3:cre".to_owned(), false),
            ("Bearer ".to_owned(), false),
            ("Bearer".to_owned(), false),
            ("s3:cret".to_owned(), false),
            (basic("s3:cret"), false),
            (basic("s3:cret:x"), false),
            ("Basic !!!".to_owned(), false),
            ("Digest s3:cret".to_owned(), false),
        ] {
            let found = access.verdict(&headers(&[(AUTHORIZATION, &value)]), None);
            assert_eq!(found == Verdict::Welcome, welcome, "{value:?}: {found:?}");
        }
        let none = HeaderMap::new();
        assert_eq!(access.verdict(&none, None), Verdict::Unknown);
        assert_eq!(access.verdict(&none, Some("s3")), Verdict::Unknown);
        assert_eq!(access.verdict(&none, Some("s3:cret")), Verdict::Welcome);
    }

    #[test]
    fn any_token_that_is_signed_is_welcome() {
        let signature = |begin: &[u8]| *blake3::keyed_hash(&[7; 32], begin).as_bytes();
        let access = Access::Token(Token::signed(signature));
        let verdict = |token: &str| access.verdict(&HeaderMap::new(), Some(token));
        let sign = |begin: &str| format!("{begin}{}", hex(&signature(begin.as_bytes())));
        for token in [sign("0011"), sign("2233")] {
            assert_eq!(verdict(&token), Verdict::Welcome);
            for wrong in [&token[1..], &token[..token.len() - 1], &format!("a{}", &token[1..]), &token[4..]] {
                assert_eq!(verdict(wrong), Verdict::Unknown, "{wrong}");
            }
        }
        assert_eq!(verdict(""), Verdict::Unknown);
    }

    #[test]
    fn a_name_of_another_machine_is_refused() {
        for (host, welcome) in [
            ("localhost", true),
            ("localhost:8080", true),
            ("127.0.0.1:1", true),
            ("127.1.2.3", true),
            ("[::1]:80", true),
            ("[::1]", true),
            ("evil.example", false),
            ("localhost.evil.example:80", false),
            ("192.0.2.1:80", false),
            ("[::2]:80", false),
            ("[::1]:", true),
            ("[::1].evil.example", false),
            ("[::1].evil.example:80", false),
            ("[::1]evil:80", false),
            ("[::1]:80:80", false),
            ("[::1", false),
            ("localhost:evil", false),
            ("localhost:80@evil", false),
            ("", false),
        ] {
            let found = Access::ThisMachine.verdict(&headers(&[(HOST, host)]), None);
            assert_eq!(found, if welcome { Verdict::Welcome } else { Verdict::WrongName }, "{host:?}");
            assert_eq!(Access::Anybody.verdict(&headers(&[(HOST, host)]), None), Verdict::Welcome);
        }
        assert_eq!(Access::ThisMachine.verdict(&HeaderMap::new(), None), Verdict::Welcome);
    }
}
