//! An HTTP server on loopback that gives prepared answers, and remembers what it was asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub body_bytes: usize,
}

/// One prepared answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// Break the connection after so many bytes of the body.
    pub cut_after_bytes: Option<usize>,
    /// Never answer.
    pub hang: bool,
}

/// The body of an answer; its error breaks the connection.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A body that comes whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// An S3 error document.
    pub fn s3_error(status: u16, code: &str) -> Self {
        Self::status(status).body(format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>"))
    }

    /// An object as S3 and GCS give it.
    pub fn object(body: impl Into<Bytes>) -> Self {
        Self::status(200).body(body).object_headers()
    }

    pub fn object_headers(self) -> Self {
        self.header("etag", "\"e\"").header("last-modified", "Sat, 01 Jan 2022 00:00:00 GMT")
    }

    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after_bytes = Some(bytes);
        self
    }

    pub fn hang() -> Self {
        Self { hang: true, ..Self::default() }
    }
}

/// The running server; it ends when this is dropped.
pub struct Script {
    pub url: String,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Script {
    /// Serves the answers in order, then status 500.
    pub async fn serve(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (a, s) = (Arc::clone(&answers), Arc::clone(&seen));
        let (url, task) = serve(move |request| {
            let (answers, seen) = (Arc::clone(&a), Arc::clone(&s));
            async move { answer(request, &answers, &seen).await }
        })
        .await;
        Self { url, answers, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("unpoisoned").clone()
    }

    pub fn answers_left(&self) -> usize {
        self.answers.lock().expect("unpoisoned").len()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves HTTP/1 on a free port of loopback; the address, and the task to end it by.
pub async fn serve<F, R>(handler: F) -> (String, JoinHandle<()>)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handler = handler.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = handler(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let io = TokioIo::new(stream);
                // A client that went away is none of the server's business.
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    (url, task)
}

async fn answer(
    request: Request<Incoming>,
    answers: &Mutex<VecDeque<Answer>>,
    seen: &Mutex<Vec<Seen>>,
) -> Response<Body> {
    let (method, target) = (request.method().to_string(), request.uri().to_string());
    let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    seen.lock().expect("unpoisoned").push(Seen { method, target, body_bytes: body.len() });
    let answer = answers.lock().expect("unpoisoned").pop_front().unwrap_or(Answer::status(500));
    if answer.hang {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let body = match answer.cut_after_bytes {
        None => full(answer.body),
        Some(bytes) => {
            response = response.header("content-length", answer.body.len());
            let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
            let first = stream::iter([Ok(Frame::data(answer.body.slice(..bytes)))]);
            // Waiting makes the server send what it has before it meets the error.
            let second = stream::once(async {
                tokio::task::yield_now().await;
                Err(broken)
            });
            BodyExt::boxed(StreamBody::new(first.chain(second)))
        }
    };
    response.body(body).expect("a response")
}
