//! The page of `serve` in a real browser: what it shows, that nothing in it is refused, and that it asks nobody else.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::support::repo::{CHUNK, MemoryVolume, back_up, default, init_on, options};
use cuttle::cancel;
use cuttle::serve::Shelf;
use cuttle::serve::http::{Access, HttpOptions, HttpServer};
use cuttle::store::{Limits, Store};
use object_store::memory::InMemory;

const PROGRAM: &str = "chromium";
/// Without what a browser asks its maker for; what is left of that finds no address.
const FLAGS: [&str; 13] = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--window-size=1000,900",
];

/// What it wrote on both outputs.
fn browse(profile: &Path, more: &[&str], url: &str) -> (String, String) {
    let mut command = Command::new(PROGRAM);
    command.args(FLAGS).arg(format!("--user-data-dir={}", profile.display())).args(more).arg(url);
    let said = command.output().expect("run the browser");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&said.stdout), text(&said.stderr));
    assert!(said.status.success(), "{error}");
    (out, error)
}

fn check_index(dir: &Path, url: &str) {
    let log = dir.join("requests.json");
    let log_option = format!("--log-net-log={}", log.display());
    let (page, said) = browse(&dir.join("profile"), &["--dump-dom", &log_option], url);
    for expected in [
        "<h1>cuttle</h1>",
        "2 volumes, 3 snapshots",
        ">vms/db<",
        ">nightly &amp; &lt;odd&gt;<",
        "<b>@2</b>",
        "4.1 MiB",
        "2 KiB",
        "<mark>before-upgrade</mark>",
        "href=\"vms/db/2.raw\"",
        "href=\"vms/db/latest.raw\"",
        "curl -fo volume.raw",
        " --project default restore --instant vms/db@2 rbd:POOL/IMAGE",
        "rbd migration prepare --import-only",
        "/vms/db/2.qcow2",
        " --project default mount /mnt/cuttle",
    ] {
        assert!(page.contains(expected), "{expected}\n{page}");
    }
    assert_eq!(page.matches(" ago</span>").count(), 3, "each has its age: {page}");
    // Text that looks like markup has not become any.
    assert!(!page.contains("<odd>") && !page.contains("<script"), "{page}");
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert_eq!(console, Vec::<&str>::new());
    // What the page asked for, and not the browser for itself, names the page as who asked.
    let requests = std::fs::read_to_string(&log).expect("the log of requests");
    let page_asked = format!("\"initiator\":\"{}\"", url.trim_end_matches('/'));
    let own = format!("\"url\":\"{url}");
    assert!(requests.contains(&own), "the page itself");
    let elsewhere =
        |line: &&str| line.contains(&page_asked) && line.contains("\"url\":") && !line.contains(&own);
    assert_eq!(requests.lines().filter(elsewhere).collect::<Vec<_>>(), Vec::<&str>::new());
}

/// A picture in light and one in dark, which differ; `CUTTLE_TEST_PICTURES` names a folder where they are kept to be looked at.
fn check_pictures(dir: &Path, url: &str) {
    let kept = std::env::var_os("CUTTLE_TEST_PICTURES");
    let folder = kept.as_ref().map_or(dir, Path::new);
    let picture = |name: &str, scheme: &str| {
        let path = folder.join(name);
        browse(
            &dir.join(scheme),
            &[
                &format!("--screenshot={}", path.display()),
                &format!("--blink-settings=preferredColorScheme={scheme}"),
            ],
            url,
        );
        std::fs::read(path).expect("a picture")
    };
    let (light, dark) = (picture("light.png", "1"), picture("dark.png", "0"));
    assert!(light.starts_with(b"\x89PNG") && dark.starts_with(b"\x89PNG") && light != dark);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_it_and_asks_nobody_else() {
    if Command::new(PROGRAM).arg("--version").output().is_err() {
        return crate::support::skip("there is no program chromium");
    }
    let store = Store::with_object_store(Arc::new(InMemory::new()), Limits::default());
    let project = default(&init_on(store, CHUNK, true).await).await;
    let volume = MemoryVolume::new(vec![7; (4 << 20) + (100 << 10)]);
    let mut tagged = options("vms/db");
    tagged.tags = vec!["before-upgrade".to_owned()];
    back_up(&project, &volume, &options("vms/db")).await.expect("backed up");
    back_up(&project, &volume, &tagged).await.expect("backed up");
    let odd = MemoryVolume::new(vec![1; 2048]);
    back_up(&project, &odd, &options("nightly & <odd>")).await.expect("backed up");
    let shelf = Arc::new(Shelf::of_project(&project, 4 << 20).await.expect("a shelf"));
    let server = HttpServer::bind(shelf, HttpOptions::on_loopback(Access::ThisMachine)).await.expect("bound");
    let (url, (canceller, cancel)) = (format!("{}/", server.url()), cancel::pair());
    let served = tokio::spawn(server.run(cancel));
    let looked = tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().expect("a folder");
        check_index(dir.path(), &url);
        check_pictures(dir.path(), &url);
    });
    looked.await.expect("it looks right");
    canceller.cancel();
    served.await.expect("it ends").expect("no error");
}
