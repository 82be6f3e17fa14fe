//! Snapshots over HTTP: every kind of range, many readers, hostile clients, tokens, TLS, and a store that fails.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::support::Numbers;
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::repo::{CHUNK, MemoryVolume, back_up, default, init_on, options};
use cuttle::cancel::{self, Canceller};
use cuttle::repo::Keeper;
use cuttle::serve::Shelf;
use cuttle::serve::http::{Access, HttpOptions, HttpServer, Limits, Tls, Token};
use cuttle::store::{Limits as StoreLimits, Store};
use object_store::memory::InMemory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const C: usize = CHUNK as usize;
const MEMORY_BYTES: u64 = 4 << 20;

/// A repository with a volume of two nights.
struct World {
    faulty: FaultStore,
    project: Keeper,
    nights: [Vec<u8>; 2],
}

/// A server, gone when this is dropped.
struct Served {
    address: SocketAddr,
    canceller: Canceller,
    task: JoinHandle<cuttle::Result<()>>,
}

/// A parsed answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl World {
    async fn new() -> Self {
        let faulty = FaultStore::new(Arc::new(InMemory::new()));
        // A store that is away is told so within a moment.
        let limits = StoreLimits {
            attempts_max: 3,
            backoff_first: Duration::from_millis(1),
            jitter_seed: Some(7),
            ..StoreLimits::default()
        };
        let store = Store::with_object_store(Arc::new(faulty.clone()), limits);
        let project = default(&init_on(store, CHUNK, true).await).await;
        let mut numbers = Numbers::new(1);
        let mut content = numbers.bytes(300 * C);
        content.resize(900 * C, 0);
        content.extend(numbers.bytes(100 * C + 77));
        let volume = MemoryVolume::new(content);
        let mut nights = [Vec::new(), Vec::new()];
        for night in &mut nights {
            back_up(&project, &volume, &options("vms/db")).await.expect("backed up");
            *night = volume.content();
            volume.edit(|content| content[5 * C..6 * C].fill(0x77));
        }
        Self { faulty, project, nights }
    }

    async fn serve(&self, access: Access, tls: Option<Tls>, limits: Limits) -> Served {
        let shelf = Shelf::of_project(&self.project, MEMORY_BYTES).await.expect("a shelf");
        let options = HttpOptions { tls, limits, ..HttpOptions::on_loopback(access) };
        let server = HttpServer::bind(Arc::new(shelf), options).await.expect("bound");
        let (address, (canceller, cancel)) = (server.address(), cancel::pair());
        Served { address, canceller, task: tokio::spawn(server.run(cancel)) }
    }

    async fn plain(&self) -> Served {
        self.serve(Access::ThisMachine, None, Limits::default()).await
    }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connect")
    }

    /// Sends a request of its own connection, and reads the answer to its end.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut stream = self.connect().await;
        let host = self.address;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("ask");
        let mut bytes = Vec::new();
        // A cut answer may end with a reset.
        let _ = stream.read_to_end(&mut bytes).await;
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let body = bytes.split_off(end);
        let head = String::from_utf8(bytes).expect("text").to_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        Answer { status, head, body }
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        self.ask("GET", path, headers).await
    }

    async fn stop(self) {
        self.canceller.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.task).await;
        ended.expect("it ends").expect("no panic").expect("no error");
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges() {
    let world = World::new().await;
    let served = world.plain().await;
    let data = &world.nights[1];
    let n = data.len();
    for (range, expected) in [
        ("", Some(0..n)),
        ("bytes=0-0", Some(0..1)),
        ("bytes=0-", Some(0..n)),
        ("bytes=4095-4096", Some(4095..4097)),
        ("bytes=5000-1000000", Some(5000..1_000_001)),
        ("bytes=-1", Some(n - 1..n)),
        ("bytes=-77", Some(n - 77..n)),
        ("bytes=-99999999999999999999", Some(0..n)),
        ("bytes=3-99999999999999999999", Some(3..n)),
        ("bytes=5-3", Some(0..n)),
        ("bytes=x", Some(0..n)),
        ("bytes=-0", None),
        ("bytes=99999999999999999999-", None),
        ("bytes=0-1,3-4", None),
    ] {
        let header = if range.is_empty() { String::new() } else { format!("Range: {range}\r\n") };
        let answer = served.get("/vms/db/2.raw", &header).await;
        let whole = expected.clone().is_some_and(|e| e.len() == n) && !range.ends_with(['-', '9']);
        match expected {
            None => {
                assert_eq!(answer.status, 416, "{range}: {answer:?}");
                assert_eq!(answer.header("content-range"), Some(&*format!("bytes */{n}")), "{range}");
                assert!(answer.body.is_empty(), "{range}");
            }
            Some(expected) => {
                assert!(answer.body == data[expected.clone()], "{range}: {}", answer.head);
                assert_eq!(answer.status, if whole { 200 } else { 206 }, "{range}");
                assert_eq!(answer.header("content-length"), Some(&*expected.len().to_string()), "{range}");
                let place = format!("bytes {}-{}/{n}", expected.start, expected.end - 1);
                assert_eq!(answer.header("content-range"), (!whole).then_some(&*place), "{range}");
            }
        }
    }
    let one_more = served.get("/vms/db/2.raw", &format!("Range: bytes={n}-\r\n")).await;
    assert_eq!(one_more.status, 416);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_methods_and_paths() {
    let world = World::new().await;
    let served = world.plain().await;
    let first = served.get("/vms/db/1.raw", "Range: bytes=0-0\r\n").await;
    let second = served.ask("HEAD", "/vms/db/2.raw", "Range: bytes=0-0\r\n").await;
    assert_eq!((second.status, second.body.len()), (200, 0));
    assert_eq!(second.header("content-length"), Some(&*world.nights[1].len().to_string()));
    assert_eq!(second.header("accept-ranges"), Some("bytes"));
    let (tag, modified) =
        (second.header("etag").expect("a tag"), second.header("last-modified").expect("a date"));
    assert_ne!(first.header("etag"), Some(tag), "each snapshot has a tag of its own");
    let other = first.header("etag").expect("a tag");
    for (headers, status) in [
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-None-Match: \"x\", {tag}\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        (format!("If-None-Match: {other}\r\n"), 200),
        (format!("Range: bytes=0-9\r\nIf-Range: {tag}\r\n"), 206),
        (format!("Range: bytes=0-9\r\nIf-Range: {other}\r\n"), 200),
        (format!("Range: bytes=0-9\r\nIf-Range: W/{tag}\r\n"), 200),
        ("Range: bytes=0-9\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT\r\n".to_owned(), 200),
    ] {
        assert_eq!(served.get("/vms/db/2.raw", &headers).await.status, status, "{headers}");
    }
    // Dates are compared as they were sent.
    assert!(modified.ends_with(" gmt"), "{modified}");
    for (path, status) in [
        ("/", 200),
        ("/index.json", 200),
        ("/vms/db/", 200),
        ("/vms%2Fdb/2.raw", 200),
        ("/vms/db/latest.raw", 200),
        ("/vms/db/3.raw", 404),
        ("/vms/nothing/1.raw", 404),
        ("/vms/", 404),
        ("/../../etc/passwd", 404),
        ("/vms/db/%zz.raw", 404),
    ] {
        assert_eq!(served.ask("HEAD", path, "").await.status, status, "{path}");
    }
    let latest = served.get("/vms/db/latest.raw", "").await;
    assert_eq!(latest.header("etag"), Some(tag));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = served.ask(method, "/vms/db/2.raw", "Content-Length: 0\r\n").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("get, head")), "{method}");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_names_everything_and_runs_nothing() {
    let world = World::new().await;
    let odd = "<script>\"o'dd\"&/x";
    back_up(&world.project, &MemoryVolume::new(vec![1; 10]), &options(odd)).await.expect("backed up");
    let served = world.plain().await;
    let answer = served.get("/", "").await;
    let page = String::from_utf8(answer.body).expect("UTF-8");
    assert!(page.contains("vms/db/2.raw") && page.contains("vms/db/1.raw") && page.contains("latest.raw"));
    assert!(
        page.contains("&lt;script&gt;&quot;o&#39;dd&quot;&amp;/x") && !page.contains("<script"),
        "{page}"
    );
    for (what, gone) in [("http", "src="), ("no asset from elsewhere", "<link rel=stylesheet")] {
        assert!(!page.contains(gone), "{what}");
    }
    assert!(answer.head.contains("content-security-policy: default-src 'none'"));
    let json = served.get("/index.json", "").await.body;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    for entry in json.as_array().expect("a list") {
        let path = format!("/{}", entry["path"].as_str().expect("a path"));
        let found = served.ask("HEAD", &path, "").await;
        assert_eq!(found.header("content-length"), Some(&*entry["size_bytes"].to_string()), "{path}");
        assert!(page.contains(&path[1..].replace('\'', "&#39;")), "{path} is on the page");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_token_that_is_not_right_sees_nothing() {
    let world = World::new().await;
    let served = world.plain().await;
    let mut stream = served.connect().await;
    let request = "GET /vms/db/1.raw HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    served.stop().await;

    let secret = "a token of some length";
    let served = world.serve(Access::Token(Token::new(secret)), None, Limits::default()).await;
    let encoded = secret.replace(' ', "%20");
    let basic = "YW55Ym9keTphIHRva2VuIG9mIHNvbWUgbGVuZ3Ro";
    for (path, headers, status) in [
        ("/vms/db/1.raw".to_owned(), String::new(), 401),
        ("/".to_owned(), String::new(), 401),
        ("/nothing".to_owned(), String::new(), 401),
        ("/vms/db/1.raw".to_owned(), "Authorization: Bearer a token of some lengt\r\n".to_owned(), 401),
        ("/@a%20token/vms/db/1.raw".to_owned(), String::new(), 401),
        ("/vms/db/1.raw".to_owned(), format!("Authorization: Bearer {secret}\r\n"), 200),
        ("/vms/db/1.raw".to_owned(), format!("Authorization: Basic {basic}\r\n"), 200),
        (format!("/@{encoded}/vms/db/1.raw"), String::new(), 200),
        (format!("/@{encoded}/"), String::new(), 200),
    ] {
        let answer = served.get(&path, &headers).await;
        assert_eq!(answer.status, status, "{path} {headers}");
        if status == 401 {
            assert!(answer.header("www-authenticate").is_some() && answer.header("etag").is_none(), "{path}");
        }
    }
    served.stop().await;

    let shelf = Arc::new(Shelf::of_project(&world.project, MEMORY_BYTES).await.expect("a shelf"));
    let options = HttpOptions {
        listen: "0.0.0.0:0".parse().expect("an address"),
        ..HttpOptions::on_loopback(Access::ThisMachine)
    };
    assert!(HttpServer::bind(shelf, options).await.is_err(), "open to all without a token");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_at_once() {
    let world = World::new().await;
    let served = Arc::new(world.plain().await);
    let data = Arc::new(world.nights.clone());
    let readers: Vec<_> = (0..40_u64)
        .map(|n| {
            let (served, data) = (Arc::clone(&served), Arc::clone(&data));
            tokio::spawn(async move {
                let mut numbers = Numbers::new(n);
                for _ in 0..10 {
                    let night = numbers.below(2) as usize;
                    let start = numbers.below(data[night].len() as u64) as usize;
                    let end = (start + numbers.below(500_000) as usize).min(data[night].len() - 1);
                    let path = format!("/vms/db/{}.raw", night + 1);
                    let answer = served.get(&path, &format!("Range: bytes={start}-{end}\r\n")).await;
                    assert_eq!(answer.status, 206);
                    assert!(answer.body == data[night][start..=end], "{start}-{end} of {path}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.expect("right");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_clients_hurt_nobody_else() {
    let world = World::new().await;
    let limits = Limits { connections_max: 8, ..Limits::default() };
    let served = world.serve(Access::ThisMachine, None, limits).await;
    let fine = async || {
        let asked = served.get("/vms/db/1.raw", "Range: bytes=0-9\r\n");
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await.expect("an answer in time");
        assert_eq!(answer.body, world.nights[0][..10]);
    };
    // All places are taken by those who never finish a request, over and over.
    let mut held = Vec::new();
    for n in 0..100 {
        let mut stream = served.connect().await;
        let begin: &[u8] = match n % 4 {
            0 => b"",
            1 => b"GET /vms/db/1.raw HT",
            2 => b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n",
            _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        };
        // One that was ended already may refuse it.
        let _ = stream.write_all(begin).await;
        held.push(stream);
        if n % 10 == 9 {
            fine().await;
        }
    }
    // Some who ask for much and take nothing.
    for _ in 0..4 {
        let mut stream = served.connect().await;
        let _ = stream.write_all(b"GET /vms/db/1.raw HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        held.push(stream);
    }
    fine().await;
    let huge = "X".repeat(100_000);
    let answer = served.get("/", &format!("X-Huge: {huge}\r\n")).await;
    assert_eq!(answer.status, 431, "{}", answer.head);
    let many: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(served.get("/", &many).await.status, 431);
    let long = format!("/{}", "a".repeat(10_000));
    assert_eq!(served.get(&long, "").await.status, 404);
    // They come and go, thousands of them.
    for n in 0..10_000 {
        let mut stream = served.connect().await;
        if n % 3 == 0 {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n").await;
        }
        if n % 1000 == 0 {
            fine().await;
        }
    }
    fine().await;
    drop(held);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slow_are_ended_in_time() {
    let world = World::new().await;
    let short = Duration::from_millis(300);
    let limits = Limits { head_timeout: short, stall_timeout: short, ..Limits::default() };
    let served = world.serve(Access::ThisMachine, None, limits).await;
    let mut slow = served.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.expect("ask");
    let mut silent = served.connect().await;
    let mut rest = Vec::new();
    // Either an answer that says so, or just the end.
    let _ = slow.read_to_end(&mut rest).await;
    let _ = silent.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    // Takes nothing of four megabytes: it is cut off, and what it gets is short.
    let mut stuck = served.connect().await;
    let request = "GET /vms/db/1.raw HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(40);
    let _ = stuck.write_all(request.as_bytes()).await;
    served.canceller.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(20), served.task).await;
    ended.expect("a client that takes nothing does not keep it").expect("no panic").expect("no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_told_by_a_status_and_comes_back() {
    let world = World::new().await;
    let served = world.plain().await;
    assert_eq!(served.get("/vms/db/2.raw", "Range: bytes=0-9\r\n").await.status, 206);
    world.faulty.fail_always(Some(Fault::Status(503)));
    let away = served.get("/vms/db/2.raw", "Range: bytes=3800000-3800009\r\n").await;
    assert_eq!((away.status, away.header("retry-after")), (503, Some("10")));
    let kept = served.get("/vms/db/2.raw", "Range: bytes=0-9\r\n").await;
    assert_eq!(kept.body, world.nights[1][..10], "what is in memory is there");
    // It goes away in the middle: the answer is cut short, never filled up.
    let cut = served.get("/vms/db/2.raw", "Range: bytes=0-\r\n").await;
    assert!(cut.body.len() < world.nights[1].len(), "{} {}", cut.status, cut.body.len());
    world.faulty.fail_always(None);
    let back = served.get("/vms/db/2.raw", "").await;
    assert!(back.body == world.nights[1], "the store is back");
    served.stop().await;
}

/// Runs a program that must be there in CI; `None` where it is not.
fn program(name: &str, args: &[&str]) -> Option<std::process::Output> {
    match Command::new(name).args(args).output() {
        Ok(output) => Some(output),
        Err(_) => {
            crate::support::skip(&format!("there is no program {name}"));
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
    let made =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let args = [&made[..], &subject[..], &["-keyout", &key, "-out", &cert]].concat();
    let Some(made) = program("openssl", &args) else { return };
    assert!(made.status.success(), "{made:?}");
    let world = World::new().await;
    let files = |cert: &str, key: &str| Tls::from_files(cert.as_ref(), key.as_ref());
    let tls = files(&cert, &key).expect("TLS");
    assert!(files(&key, &cert).is_err() && files(&cert, &path("none")).is_err());
    let served = world.serve(Access::ThisMachine, Some(tls), Limits::default()).await;
    let url = format!("https://{}/vms/db/2.raw", served.address);
    let args = ["-sSf".to_owned(), "--cacert".to_owned(), cert, url];
    let args = move || program("curl", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let Some(got) = tokio::task::spawn_blocking(args).await.expect("run curl") else { return };
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(got.stdout == world.nights[1]);
    // Who does not speak it hurts nobody.
    let mut plain = served.connect().await;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("ask");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    served.stop().await;
}

/// qemu reads the image as any HTTP client of its own does: through nbdkit's curl, which is there wherever nbdkit is.
#[tokio::test(flavor = "multi_thread")]
async fn qemu_finds_the_image_identical() {
    let world = World::new().await;
    let served = world.plain().await;
    let dir = tempfile::tempdir().expect("a folder");
    let raw = dir.path().join("original.raw");
    // Whole sectors, as a block device has.
    let mut original = world.nights[1].clone();
    original.resize(original.len().next_multiple_of(512), 0);
    std::fs::write(&raw, original).expect("written");
    let url = format!("url=http://{}/vms/db/2.raw", served.address);
    let compare = format!("qemu-img compare -f raw \"$uri\" -F raw {}", raw.display());
    let run = move || {
        program("nbdkit", &["-U", "-", "--filter=truncate", "curl", &url, "round-up=512", "--run", &compare])
    };
    let Some(said) = tokio::task::spawn_blocking(run).await.expect("run nbdkit") else { return };
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && text.contains("Images are identical"), "{text}");
    served.stop().await;
}
