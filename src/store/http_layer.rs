//! Below object_store: sees every real HTTP request, counts it, and makes error statuses a type.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};

use super::fault::StatusError;
use super::ledger::{Counters, RequestKind};

/// Longest body of an error answer that is looked at, in bytes.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;

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
            inner: ReqwestConnector::default().connect(options)?,
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
        self.counters.request(kind);
        if let Some((scheme, authority)) = &self.redirect {
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(scheme.clone());
            parts.authority = Some(authority.clone());
            *request.uri_mut() =
                http::Uri::from_parts(parts).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        }
        let response = self.inner.execute(request).await?;
        let status = response.status();
        let credentials_refused = kind == RequestKind::Credentials && !status.is_server_error();
        if status.is_success() || status == http::StatusCode::NOT_MODIFIED || credentials_refused {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let error = status_error(&parts, &read_bounded(body).await?);
        tracing::debug!(%error, "the store refused a request");
        Err(HttpError::new(HttpErrorKind::Unknown, error))
    }
}

fn request_kind(bucket: &str, method: &http::Method, uri: &http::Uri) -> RequestKind {
    let below_bucket = uri.path().split('/').skip(1).take(2).any(|segment| segment == bucket);
    let bucket_host = uri.host().and_then(|h| h.strip_prefix(bucket)).is_some_and(|h| h.starts_with('.'));
    let query = uri.query().unwrap_or("");
    let has = |name: &str| query.split('&').any(|q| q == name);
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
    }
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
    use super::{request_kind, xml_code};
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
    fn the_code_of_an_error_document_is_bounded_and_plain() {
        assert_eq!(xml_code(b"<Error><Code>SlowDown</Code></Error>").as_deref(), Some("SlowDown"));
        assert_eq!(xml_code(b"<Error><Code>a b</Code></Error>"), None);
        assert_eq!(xml_code(b"<Error><Code>SlowDown"), None);
        assert_eq!(xml_code(b""), None);
    }
}
