//! A fake of Google Cloud Storage's XML API, as much of it as a repository uses.
//!
//! Source: <https://cloud.google.com/storage/docs/xml-api/overview>. Listings come in pages of 1,000.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::task::JoinHandle;

use super::http_script::{Body, full, serve};

const PAGE_OBJECTS: usize = 1000;
const MODIFIED: &str = "Sat, 01 Jan 2022 00:00:00 GMT";

type Objects = Arc<Mutex<BTreeMap<String, (u64, Bytes)>>>;

/// What stores and what is before them answered that were not well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A redirect with this status, to itself, whatever is asked.
    Redirects(u16),
    /// 200 and a web page, whatever is asked: a page to log in, of maintenance.
    Page,
    /// 200 and nothing, whatever is asked.
    Nothing,
    /// 200 and a web page to whoever writes.
    PageForWrites,
    /// A write is answered 303, as by a proxy that wants the client to look elsewhere.
    SeeOther,
    /// 403 to whoever writes, as a quota is reached.
    Quota,
}

/// The running server, with one bucket; it ends when this is dropped.
pub struct GcsFake {
    pub url: String,
    lie: Arc<Mutex<Option<Lie>>>,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl GcsFake {
    pub async fn start(bucket: &str) -> Self {
        let objects = Objects::default();
        let bucket = Arc::new(bucket.to_owned());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let lie = Arc::new(Mutex::new(None));
        let told = Arc::clone(&lie);
        let (url, task) = serve(move |request: Request<Incoming>| {
            let lie: Option<Lie> = *told.lock().expect("unpoisoned");
            let line = format!("{} {}", request.method(), request.uri()).replace("%2F", "/");
            log.lock().expect("unpoisoned").push(line);
            let (objects, bucket) = (Arc::clone(&objects), Arc::clone(&bucket));
            async move {
                match lie.and_then(|lie| lie.answer(&request)) {
                    Some(answer) => answer,
                    None => handle(request, &bucket, &objects).await,
                }
            }
        })
        .await;
        Self { url, lie, seen, task }
    }

    /// From now on it answers so, or as it should.
    pub fn lie(&self, lie: Option<Lie>) {
        *self.lie.lock().expect("unpoisoned") = lie;
    }

    /// The requests since the last call, as `METHOD /BUCKET/KEY?QUERY`.
    pub fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().expect("unpoisoned"))
    }
}

impl Lie {
    /// `None` where it answers as it should.
    fn answer(self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let writes = !matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = |status: u16| Response::builder().status(status);
        let page = "<!DOCTYPE html><html><title>Please log in</title></html>";
        let answer = match self {
            Self::Redirects(status) => answer(status).header("location", "/elsewhere").body(full("")),
            Self::SeeOther if writes => answer(303).header("location", "/elsewhere").body(full("")),
            Self::Page => answer(200).header("content-type", "text/html").body(full(page)),
            Self::PageForWrites if writes => answer(200).header("content-type", "text/html").body(full(page)),
            Self::Nothing => answer(200).body(full("")),
            Self::Quota if *request.method() == Method::PUT => {
                answer(403).body(full("<?xml version=\"1.0\"?><Error><Code>QuotaExceeded</Code></Error>"))
            }
            _ => return None,
        };
        Some(answer.expect("a response"))
    }
}

impl Drop for GcsFake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(request: Request<Incoming>, bucket: &str, objects: &Objects) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/');
    let (found, key) = path.split_once('/').unwrap_or((path, ""));
    if found != bucket {
        return error(StatusCode::NOT_FOUND, "NoSuchBucket");
    }
    let key = decode(key);
    let Ok(body) = body.collect().await.map(|b| b.to_bytes()) else {
        return error(StatusCode::BAD_REQUEST, "IncompleteBody");
    };
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
    let mut objects = objects.lock().expect("unpoisoned");
    match parts.method {
        Method::GET if key.is_empty() => list(&objects, parts.uri.query().unwrap_or("")),
        Method::GET | Method::HEAD => match objects.get(&key) {
            Some((generation, bytes)) => {
                get(*generation, bytes, header("range"), parts.method == Method::HEAD)
            }
            None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        Method::PUT => {
            let current = objects.get(&key).map_or(0, |(generation, _)| *generation);
            let wanted = header("x-goog-if-generation-match").map(str::parse::<u64>);
            match wanted {
                Some(Ok(generation)) if generation == current => {}
                None => {}
                Some(_) => return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
            }
            objects.insert(key, (current + 1, body));
            let response = Response::builder().header("etag", format!("\"{}\"", current + 1));
            response
                .header("x-goog-generation", (current + 1).to_string())
                .body(full(Bytes::new()))
                .expect("a response")
        }
        Method::DELETE => match objects.remove(&key) {
            Some(_) => Response::builder()
                .status(StatusCode::NO_CONTENT)
                .body(full(Bytes::new()))
                .expect("a response"),
            None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

fn get(generation: u64, bytes: &Bytes, range: Option<&str>, head: bool) -> Response<Body> {
    let response = Response::builder()
        .header("etag", format!("\"{generation}\""))
        .header("last-modified", MODIFIED)
        .header("x-goog-generation", generation.to_string());
    let Some(range) = range.and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-')) else {
        let length = bytes.len().to_string();
        let body = if head { Bytes::new() } else { bytes.clone() };
        return response.header("content-length", length).body(full(body)).expect("a response");
    };
    let size = bytes.len();
    match (range.0.parse::<usize>(), range.1.parse::<usize>()) {
        (Ok(first), Ok(last)) if first < size && first <= last => {
            let end = (last + 1).min(size);
            response
                .status(StatusCode::PARTIAL_CONTENT)
                .header("content-range", format!("bytes {first}-{}/{size}", end - 1))
                .body(full(bytes.slice(first..end)))
                .expect("a response")
        }
        _ => error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange"),
    }
}

fn list(objects: &BTreeMap<String, (u64, Bytes)>, query: &str) -> Response<Body> {
    let parameter = |name: &str| {
        let pair = query.split('&').find_map(|q| q.strip_prefix(name)?.strip_prefix('='));
        pair.map(decode).unwrap_or_default()
    };
    let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
    let after = parameter("start-after").max(parameter("continuation-token"));
    let (mut xml, mut prefixes) = (String::new(), Vec::new());
    let (mut count, mut next) = (0, None);
    for (key, (_, bytes)) in objects.iter().filter(|(k, _)| k.starts_with(&prefix) && **k > after) {
        if count == PAGE_OBJECTS {
            break;
        }
        count += 1;
        next = Some(key);
        let rest = &key[prefix.len()..];
        if let Some((below, _)) = rest.split_once('/').filter(|_| !delimiter.is_empty()) {
            prefixes.push(format!("{prefix}{below}/"));
            continue;
        }
        let size = bytes.len();
        let _ = write!(
            xml,
            "<Contents><Key>{key}</Key><Size>{size}</Size>\
             <LastModified>2022-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag></Contents>"
        );
    }
    prefixes.dedup();
    for prefix in prefixes {
        let _ = write!(xml, "<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
    }
    if let Some(next) = next.filter(|_| count == PAGE_OBJECTS) {
        let _ = write!(xml, "<NextContinuationToken>{next}</NextContinuationToken>");
    }
    let document = format!("<?xml version=\"1.0\"?><ListBucketResult>{xml}</ListBucketResult>");
    Response::new(full(document))
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let document = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    Response::builder().status(status).body(full(document)).expect("a response")
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let pairs = url::form_urlencoded::parse(text.as_bytes());
    pairs.map(|(name, _)| name.into_owned()).next().unwrap_or_default()
}
