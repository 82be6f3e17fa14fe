//! Which answer a request gets.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use jiff::Timestamp;

use super::access::{Access, Verdict};
use super::body::{Body, File, part, whole};
use super::door::Busy;
use super::listing;
use super::page::{self, Commands};
use super::range::{Wanted, wanted};
use super::target::{self, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::repo::history::SnapshotEntry;
use crate::serve::qcow2::Qcow2;
use crate::serve::{Shelf, Which};

/// After this many seconds a store that was away may be back.
const RETRY_AFTER_S: u32 = 10;
/// Nothing of a page comes from elsewhere, and nothing in it runs.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// What all connections share.
pub(super) struct Answers {
    pub(super) shelf: Arc<Shelf>,
    pub(super) access: Access,
    pub(super) scheme: &'static str,
    pub(super) address: SocketAddr,
    pub(super) nbd: Option<SocketAddr>,
}

impl Answers {
    pub(super) async fn answer<B>(&self, request: &Request<B>, busy: Busy) -> Response<Body> {
        let answer = match self.found(request, busy).await {
            Ok(answer) => answer,
            Err(error) => refused(&error),
        };
        answer.unwrap_or_else(|error| {
            tracing::warn!(%error, "an answer could not be made");
            let mut answer = Response::new(whole("an answer could not be made\n"));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        })
    }

    async fn found<B>(&self, request: &Request<B>, busy: Busy) -> Result<http::Result<Response<Body>>> {
        let asked = target::parse(request.uri().path());
        let token = asked.as_ref().and_then(|asked| asked.token.clone());
        match self.access.verdict(request.headers(), token.as_deref()) {
            Verdict::Welcome => {}
            Verdict::Unknown => return Ok(unknown()),
            Verdict::WrongName => {
                let why = "this is not the name of this machine: use localhost or 127.0.0.1\n";
                return Ok(plain(StatusCode::FORBIDDEN, why));
            }
        }
        let head = match *request.method() {
            Method::GET => false,
            Method::HEAD => true,
            _ => {
                let answer = Response::builder().status(StatusCode::METHOD_NOT_ALLOWED);
                return Ok(answer.header(header::ALLOW, "GET, HEAD").body(whole("GET or HEAD\n")));
            }
        };
        match asked.map(|asked| asked.target) {
            Some(Target::Index) => {
                let text = page::index(&self.shelf, &self.commands(request.headers(), token.as_deref()));
                Ok(page_answer("text/html; charset=utf-8", text, head))
            }
            Some(Target::Volume(volume)) if !self.shelf.volume(&volume).is_empty() => {
                let commands = self.commands(request.headers(), token.as_deref());
                let text = page::volume(&self.shelf, &volume, &commands);
                Ok(page_answer("text/html; charset=utf-8", text, head))
            }
            Some(Target::Json) => Ok(page_answer("application/json", listing::json(&self.shelf)?, head)),
            Some(Target::Image { volume, sequence }) => {
                let which = sequence.map_or(Which::Latest, Which::Sequence);
                let Some(snapshot) = self.shelf.find(&volume, which) else { return Ok(no_snapshot()) };
                let served = Served { snapshot, variant: String::new(), head };
                self.file(File::Raw(self.shelf.open(snapshot)?), &served, request.headers(), busy).await
            }
            Some(Target::Qcow2 { volume, sequences }) => {
                let latest = self.shelf.find(&volume, Which::Latest).map(|s| vec![s.snapshot.sequence.0]);
                let sequences = if sequences.is_empty() { latest.unwrap_or_default() } else { sequences };
                let last = sequences.last().map(|n| Which::Sequence(*n));
                let found = last.and_then(|last| self.shelf.find(&volume, last));
                let file =
                    found.map(|_| Qcow2::open(&self.shelf, &volume, &sequences)).transpose()?.flatten();
                let (Some(snapshot), Some(file)) = (found, file) else { return Ok(no_snapshot()) };
                // Numbers of a volume are never used again.
                let variant = sequences.iter().fold(".qcow2".to_owned(), |all, n| format!("{all}.{n}"));
                let served = Served { snapshot, variant, head };
                self.file(File::Qcow2(file), &served, request.headers(), busy).await
            }
            _ => Ok(plain(StatusCode::NOT_FOUND, "there is nothing here; see /\n")),
        }
    }

    async fn file(
        &self,
        file: File,
        served: &Served<'_>,
        headers: &HeaderMap,
        busy: Busy,
    ) -> Result<http::Result<Response<Body>>> {
        let (size_bytes, Served { snapshot, variant, head }) = (file.size_bytes(), served);
        let tag = format!("\"{}{variant}\"", snapshot.snapshot_id);
        let modified = http_date(snapshot.committed_unix_ms);
        let answer = Response::builder()
            .header(header::ETAG, &tag)
            .header(header::LAST_MODIFIED, &modified)
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::CACHE_CONTROL, "private, no-cache");
        if text(headers, header::IF_NONE_MATCH).is_some_and(|tags| names(tags, &tag)) {
            return Ok(answer.status(StatusCode::NOT_MODIFIED).body(whole("")));
        }
        let answer = answer.header(header::CONTENT_TYPE, "application/octet-stream");
        // RFC 9110 §14.2: a range means something for GET alone, §13.1.5: and for the image that the client knows.
        let range = text(headers, header::RANGE).filter(|_| !head).filter(|_| {
            text(headers, header::IF_RANGE).is_none_or(|known| known == tag || known == modified)
        });
        let (status, range) = match range.map_or(Wanted::Whole, |range| wanted(range, size_bytes)) {
            Wanted::Whole => (StatusCode::OK, 0..size_bytes),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Unsatisfiable => {
                let answer = answer.status(StatusCode::RANGE_NOT_SATISFIABLE);
                let answer = answer.header(header::CONTENT_RANGE, format!("bytes */{size_bytes}"));
                return Ok(answer.body(whole("")));
            }
        };
        let mut answer = answer.status(status).header(header::CONTENT_LENGTH, range.end - range.start);
        if status == StatusCode::PARTIAL_CONTENT {
            let place = format!("bytes {}-{}/{size_bytes}", range.start, range.end.saturating_sub(1));
            answer = answer.header(header::CONTENT_RANGE, place);
        }
        let body = match head {
            true => whole(""),
            false => part(file, range, busy).await?,
        };
        Ok(answer.body(body))
    }

    fn commands(&self, headers: &HeaderMap, path_token: Option<&str>) -> Commands {
        let plain = |host: &&str| {
            !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c))
        };
        let host = text(headers, header::HOST).filter(plain);
        let host = host.map_or_else(|| self.address.to_string(), str::to_owned);
        let token = path_token.map_or_else(String::new, |token| format!("/@{}", target::encode(token)));
        let secret = matches!(self.access, Access::Token(_)) && path_token.is_none();
        Commands {
            scheme: self.scheme,
            place: format!("{host}{token}"),
            secret,
            nbd: self.nbd,
            cuttle: page::cuttle(&self.shelf),
        }
    }
}

/// A file that is asked for.
struct Served<'a> {
    snapshot: &'a SnapshotEntry,
    /// What tells it from other files of the same snapshot.
    variant: String,
    /// Whether only its head is wanted.
    head: bool,
}

fn no_snapshot() -> http::Result<Response<Body>> {
    plain(StatusCode::NOT_FOUND, "no such snapshot; see / for all\n")
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether a list of entity tags names this one; weakly, as RFC 9110 §13.1.2 wants it.
fn names(tags: &str, tag: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|t| t.trim().trim_start_matches("W/") == tag)
}

/// RFC 9110 §5.6.7.
fn http_date(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or_default().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn plain(status: StatusCode, why: &'static str) -> http::Result<Response<Body>> {
    let answer = Response::builder().status(status);
    answer.header(header::CONTENT_TYPE, "text/plain; charset=utf-8").body(whole(why))
}

fn unknown() -> http::Result<Response<Body>> {
    Response::builder()
        .status(StatusCode::UNAUTHORIZED)
        .header(header::WWW_AUTHENTICATE, "Basic realm=\"cuttle\", charset=\"UTF-8\"")
        .body(whole("a token is needed\n"))
}

fn page_answer(kind: &'static str, text: String, head: bool) -> http::Result<Response<Body>> {
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_LENGTH, text.len())
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::REFERRER_POLICY, "no-referrer")
        .body(whole(if head { String::new() } else { text }))
}

/// An error as a status. What exactly is wrong is for the operator, and in the log.
fn refused(error: &Error) -> http::Result<Response<Body>> {
    tracing::warn!(%error, "a request failed");
    let mut answer = match error.kind() {
        ErrorKind::Unavailable => plain(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n"),
        ErrorKind::Conflict => plain(StatusCode::GONE, "the snapshot was forgotten meanwhile\n"),
        ErrorKind::Corrupt => plain(StatusCode::INTERNAL_SERVER_ERROR, "this part is damaged\n"),
        ErrorKind::Unsupported => plain(StatusCode::NOT_IMPLEMENTED, "this volume has no such form\n"),
        _ => plain(StatusCode::INTERNAL_SERVER_ERROR, "it could not be read\n"),
    }?;
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::{http_date, names};

    #[test]
    fn dates_and_tags() {
        assert_eq!(http_date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        for (tags, expected) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
        ] {
            assert_eq!(names(tags, "\"a\""), expected, "{tags}");
        }
    }
}
