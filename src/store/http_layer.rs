//! Below object_store: sees every real HTTP request, counts it, makes error statuses a type, and believes an answer only
//! where it is one that a store gives.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};

use super::client::client;
use super::fault::StatusError;
use super::ledger::{Counters, RequestKind};

/// Longest body of an error answer that is looked at, in bytes.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;

/// An answer that no store gives to what was asked, as a captive portal or the page of a proxy does that has lost its store.
/// Whether anything was done is not known, and it may be another answer in a while.
#[derive(Debug)]
struct Doubtful(String);

impl fmt::Display for Doubtful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is not one of a store: {}", self.0)
    }
}

impl std::error::Error for Doubtful {}

/// Makes the HTTP clients of one object store.
#[derive(Debug)]
pub(crate) struct ObservedConnector {
    pub(crate) counters: Arc<Counters>,
    /// Bucket or container: tells requests to the store from those for credentials.
    pub(crate) bucket: String,
    /// Scheme and authority to send requests to instead of those they name.
    pub(crate) redirect: Option<(http::uri::Scheme, http::uri::Authority)>,
}

impl HttpConnector for ObservedConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Observed {
            inner: HttpClient::new(client(options)?),
            counters: Arc::clone(&self.counters),
            bucket: self.bucket.clone(),
            redirect: self.redirect.clone(),
        }))
    }
}

#[derive(Debug)]
struct Observed {
    inner: HttpClient,
    counters: Arc<Counters>,
    bucket: String,
    redirect: Option<(http::uri::Scheme, http::uri::Authority)>,
}

#[async_trait]
impl HttpService for Observed {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let kind = request_kind(&self.bucket, request.method(), request.uri());
        let is_batch = has_query(request.uri(), "comp=batch");
        self.counters.request(kind);
        if let Some((scheme, authority)) = &self.redirect {
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(scheme.clone());
            parts.authority = Some(authority.clone());
            *request.uri_mut() =
                http::Uri::from_parts(parts).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        }
        let method = request.method().clone();
        let response = self.inner.execute(request).await?;
        let status = response.status();
        if kind == RequestKind::Credentials && !status.is_server_error() && !is_redirect(status) {
            return Ok(response);
        }
        if status.is_success() {
            return match kind {
                _ if status != http::StatusCode::NO_CONTENT && is_page(response.headers()) => {
                    Err(page(status))
                }
                RequestKind::Put => written(response).await,
                RequestKind::Delete if is_batch => batch_answer(response).await,
                _ => Ok(response),
            };
        }
        if status == http::StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let error = status_error(&parts, &read_bounded(body).await?);
        tracing::debug!(%error, "the store refused a request");
        // An answer to HEAD has no body that could tell. Of all others, "not found" must come from the store.
        if error.status == 404
            && error.code.is_none()
            && method != http::Method::HEAD
            && is_page(&parts.headers)
        {
            return Err(page(status));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, error))
    }
}

fn is_redirect(status: http::StatusCode) -> bool {
    status.is_redirection() && status != http::StatusCode::NOT_MODIFIED
}

/// Whether an answer is a web page. No object of a repository is one, and no store answers requests with one. One without
/// anything in it is none, whatever it is called: moto calls its empty answers so.
fn is_page(headers: &http::HeaderMap) -> bool {
    if headers.get(http::header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0") {
        return false;
    }
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
}

fn page(status: http::StatusCode) -> HttpError {
    doubtful(format!("a web page, with status {}", status.as_u16()))
}

fn doubtful(what: String) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Doubtful(what))
}

/// The answer to a write, believed if it is what S3, Google and Azure send when they have written: 200 or 201, an ETag, and
/// no body. All else is in doubt: reading back tells.
async fn written(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let status = parts.status.as_u16();
    let body = read_bounded(body).await?;
    match parts.headers.get(http::header::ETAG) {
        _ if status != 200 && status != 201 => Err(doubtful(format!("status {status} to a write"))),
        None => Err(doubtful(format!("status {status} to a write, without an ETag"))),
        Some(_) if !body.is_empty() => Err(doubtful(format!("status {status} to a write, with a body"))),
        Some(_) => Ok(HttpResponse::from_parts(parts, Bytes::new().into())),
    }
}

fn request_kind(bucket: &str, method: &http::Method, uri: &http::Uri) -> RequestKind {
    let below_bucket = uri.path().split('/').skip(1).take(2).any(|segment| segment == bucket);
    let bucket_host = uri.host().and_then(|h| h.strip_prefix(bucket)).is_some_and(|h| h.starts_with('.'));
    let has = |name: &str| has_query(uri, name);
    if !below_bucket && !bucket_host && !has("comp=batch") {
        return RequestKind::Credentials;
    }
    match *method {
        http::Method::HEAD => RequestKind::Head,
        http::Method::DELETE => RequestKind::Delete,
        http::Method::POST if has("delete") || has("delete=") || has("comp=batch") => RequestKind::Delete,
        http::Method::GET if has("list-type=2") || has("comp=list") => RequestKind::List,
        http::Method::GET => RequestKind::Get,
        _ => RequestKind::Put,
    }
}

fn has_query(uri: &http::Uri, name: &str) -> bool {
    uri.query().unwrap_or("").split('&').any(|q| q == name)
}

/// Azure's answer to a batch. Each names one object here, so what it says of that one is the answer; object_store would
/// keep the status to itself.
async fn batch_answer(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let body = read_bounded(body).await?;
    match part_error(&body) {
        Some(error) => Err(HttpError::new(HttpErrorKind::Unknown, error)),
        None => Ok(HttpResponse::from_parts(parts, body.into())),
    }
}

/// The first answer among the parts of a body, if it is an error.
fn part_error(body: &[u8]) -> Option<StatusError> {
    let text = String::from_utf8_lossy(body);
    let (_, answer) = text.split_once("\nHTTP/1.1 ")?;
    let status = answer.get(..3)?.parse().ok().filter(|status| *status >= 400)?;
    Some(StatusError { code: xml_code(answer.as_bytes()), ..StatusError::new(status) })
}

async fn read_bounded(body: HttpResponseBody) -> Result<Bytes, HttpError> {
    let mut stream = body.bytes_stream();
    let mut read = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        let room = ERROR_BODY_BYTES_MAX - read.len();
        read.extend_from_slice(&piece[..piece.len().min(room)]);
        if read.len() == ERROR_BODY_BYTES_MAX {
            break;
        }
    }
    Ok(read.into())
}

fn status_error(parts: &http::response::Parts, body: &[u8]) -> StatusError {
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    StatusError {
        status: parts.status.as_u16(),
        code: header("x-ms-error-code").or_else(|| xml_code(body)),
        // The form with a date is not used by any of the providers.
        retry_after: header("retry-after").and_then(|v| v.parse().ok()).map(Duration::from_secs),
        region: header("x-amz-bucket-region"),
        location: header("location").filter(|_| is_redirect(parts.status)).map(|to| told_location(&to)),
    }
}

/// Longest place that is told.
const LOCATION_LEN_BYTES_MAX: usize = 200;

/// Where a redirect leads, without what may be secret: user, password, query.
fn told_location(location: &str) -> String {
    let plain = location.split(['?', '#']).next().unwrap_or_default();
    let plain = match plain.split_once("//") {
        None => plain.to_owned(),
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}//{host}{path}")
        }
    };
    // A header that is text is ASCII.
    plain.chars().take(LOCATION_LEN_BYTES_MAX).collect()
}

/// The `<Code>` of an S3, GCS or Azure error document.
fn xml_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let plain = code.len() <= 64 && code.bytes().all(|c| c.is_ascii_alphanumeric());
    plain.then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{part_error, request_kind, told_location, xml_code};
    use crate::store::ledger::RequestKind;
    use http::{Method, Uri};

    #[test]
    fn requests_are_told_apart() {
        for (method, uri, expected) in [
            (Method::PUT, "http://h/b/k", RequestKind::Put),
            (Method::GET, "http://h/b/k", RequestKind::Get),
            (Method::GET, "http://h/b?list-type=2&prefix=x", RequestKind::List),
            (Method::GET, "https://b.s3.eu-west-1.amazonaws.com/?list-type=2", RequestKind::List),
            (Method::HEAD, "http://h/b/k", RequestKind::Head),
            (Method::DELETE, "http://h/b/k", RequestKind::Delete),
            (Method::POST, "http://h/b?delete", RequestKind::Delete),
            (Method::GET, "http://h/account/b?restype=container&comp=list", RequestKind::List),
            (Method::POST, "http://h/account/b?restype=container&comp=batch", RequestKind::Delete),
            (Method::POST, "https://sts.eu-west-1.amazonaws.com/?Action=x", RequestKind::Credentials),
            (Method::GET, "http://169.254.170.2/creds", RequestKind::Credentials),
        ] {
            let uri: Uri = uri.parse().expect("a URI");
            assert_eq!(request_kind("b", &method, &uri), expected, "{method} {uri}");
        }
    }

    #[test]
    fn the_answer_of_a_batch_of_one_is_that_of_its_part() {
        let error = |body: &str| part_error(body.as_bytes()).map(|e| (e.status, e.code));
        let part = |answer: &str| format!("--b\r\nContent-ID: 0\r\n\r\n{answer}\r\n--b--\r\n");
        assert_eq!(error(&part("HTTP/1.1 202 Accepted\r\n")), None);
        assert_eq!(error(&part("HTTP/1.1 409 No\r\n\r\n<Code>x</Code>")), Some((409, Some("x".into()))));
        assert_eq!(error(&part("HTTP/1.1 503 Busy\r\n")), Some((503, None)));
        for nonsense in ["", "HTTP/1.1 ", "\nHTTP/1.1 4", "\nHTTP/1.1 4é", "\nHTTP/1.1 abc"] {
            assert_eq!(error(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn where_a_redirect_leads_is_told_without_secrets() {
        for (location, told) in [
            ("https://other.example/b/k?X-Amz-Signature=abc", "https://other.example/b/k"),
            ("https://user:password@other.example/b#x", "https://other.example/b"),
            ("//other.example/b", "//other.example/b"),
            ("/login?next=/b", "/login"),
            ("", ""),
        ] {
            assert_eq!(told_location(location), told);
        }
        assert_eq!(told_location(&"x".repeat(5000)).len(), 200);
    }

    #[test]
    fn the_code_of_an_error_document_is_bounded_and_plain() {
        assert_eq!(xml_code(b"<Error><Code>SlowDown</Code></Error>").as_deref(), Some("SlowDown"));
        assert_eq!(xml_code(b"<Error><Code>a b</Code></Error>"), None);
        assert_eq!(xml_code(b"<Error><Code>SlowDown"), None);
        assert_eq!(xml_code(b""), None);
    }
}
