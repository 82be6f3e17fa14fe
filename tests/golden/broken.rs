//! Golden repositories with something broken: what is said tells what it is and what to do.

use std::sync::Arc;

use cuttle::format::ObjectName;
use cuttle::format::record::{EndRecord, Outcome};
use cuttle::{Error, ErrorKind};
use object_store::memory::InMemory;

use crate::make::key_file;
use crate::read::{GOLDEN, copy, damage, open, restored};
use crate::support::by_hand::{ByHand, delete, get, names, put};

/// What is broken, and what must be said of it.
struct Case {
    what: &'static str,
    kind: ErrorKind,
    /// Parts of the message.
    says: &'static [&'static str],
    /// A part of what to do next.
    helps: &'static str,
    /// Whether the repository still opens, so that `verify` finds it too.
    opens: bool,
}

const CASES: &[Case] = &[
    Case {
        what: "a page is missing",
        kind: ErrorKind::Corrupt,
        says: &["/pages/", "is missing"],
        helps: "cuttle verify",
        opens: true,
    },
    Case {
        what: "a chunk is missing",
        kind: ErrorKind::Corrupt,
        says: &["deltas@2", "at offset", "/chunks/", "is missing"],
        helps: "cuttle verify",
        opens: true,
    },
    Case {
        what: "a chunk is truncated",
        kind: ErrorKind::Corrupt,
        says: &["/chunks/", "bytes", "manifest says"],
        helps: "cuttle verify",
        opens: true,
    },
    Case {
        what: "bundles are swapped",
        kind: ErrorKind::Corrupt,
        says: &["deltas@2", "/bundles/"],
        helps: "cuttle verify",
        opens: true,
    },
    Case {
        what: "a chunk holds something else, sealed as it must be",
        kind: ErrorKind::Corrupt,
        says: &["deltas@2", "/chunks/", "its content has another id"],
        helps: "cuttle verify",
        opens: true,
    },
    Case {
        what: "a page holds something else, sealed as it must be",
        kind: ErrorKind::Corrupt,
        says: &["deltas@2", "/pages/", "its content has another id"],
        helps: "cuttle verify",
        opens: true,
    },
    Case {
        what: "a chunk has a later version",
        kind: ErrorKind::Unsupported,
        says: &["/chunks/", "format version 2", "version 1"],
        helps: "newer cuttle",
        opens: true,
    },
    Case {
        what: "a snapshot is damaged",
        kind: ErrorKind::Corrupt,
        says: &["/log/", ".end"],
        helps: "cuttle verify",
        opens: true,
    },
    Case {
        // The last one: nothing follows it, so only its log tells `verify` that there was one.
        what: "a catalog entry is missing",
        kind: ErrorKind::NotFound,
        says: &["no volume", "\"deltas\""],
        helps: "volumes of project default are",
        opens: true,
    },
    Case {
        what: "an unknown feature is required",
        kind: ErrorKind::Unsupported,
        says: &["features 0x20"],
        helps: "newer cuttle",
        opens: false,
    },
    Case {
        what: "the repository has a later version",
        kind: ErrorKind::Unsupported,
        says: &["repository", "format version 2", "version 1"],
        helps: "newer cuttle",
        opens: false,
    },
    Case {
        what: "the repository object is damaged",
        kind: ErrorKind::Corrupt,
        says: &["repository"],
        helps: "cuttle verify",
        opens: false,
    },
    Case {
        what: "the repository object is missing",
        kind: ErrorKind::NoRepository,
        says: &["no repository", "what is left of one", "objects"],
        helps: "bring its object `repository` back",
        opens: false,
    },
    Case {
        what: "the project record is missing",
        kind: ErrorKind::NotFound,
        says: &["no project default"],
        helps: "cuttle project list",
        opens: false,
    },
];

/// The chunk objects of the volume `deltas`, its page, and its snapshot.
struct Parts {
    chunks: Vec<String>,
    page: String,
    end: String,
}

async fn parts(objects: &Arc<InMemory>) -> Parts {
    let hand = ByHand::open(objects.clone(), &key_file(), "default").await;
    let end = "projects/default/log/0000000004/0000000002.end".to_owned();
    let record: EndRecord = hand.record(&ObjectName::parse(&end).expect("ours")).await;
    let Outcome::Committed(snapshot) = record.outcome else { panic!("it was committed") };
    let root = snapshot.root_page().expect("a root");
    let page = root.refs[0].object().expect("a page").name;
    let page = ObjectName::Page(hand.project.clone(), page);
    let leaf = hand.page(&page, 0, 6).await;
    let objects = leaf.refs[0].objects();
    let chunks = objects.map(|o| hand.object_name(o.name).to_string()).collect();
    Parts { chunks, page: page.to_string(), end }
}

/// Seals other plaintexts under a name until one makes an object of the same size.
async fn replace(objects: &Arc<InMemory>, name: &str, change: impl Fn(&mut Vec<u8>, u8)) {
    let hand = ByHand::open(objects.clone(), &key_file(), "default").await;
    let parsed = ObjectName::parse(name).expect("ours");
    let size = get(&**objects, name).await.len();
    let plain = hand.plain(&parsed).await;
    for by in 1..=255 {
        let mut other = plain.clone();
        change(&mut other, by);
        if hand.put_plain(&parsed, &other).await as usize == size {
            return;
        }
    }
    panic!("{name}: no other content has {size} bytes");
}

async fn break_it(what: &str, objects: &Arc<InMemory>) {
    let parts = parts(objects).await;
    let at = |objects: &Arc<InMemory>, name: &str, at: usize, byte: u8| {
        let (objects, name) = (objects.clone(), name.to_owned());
        async move {
            let mut bytes = get(&*objects, &name).await.to_vec();
            bytes[at] = byte;
            put(&*objects, &name, bytes).await;
        }
    };
    let last = parts.chunks.last().expect("a full chunk");
    match what {
        "a page is missing" => delete(&**objects, &parts.page).await,
        "a chunk is missing" => delete(&**objects, last).await,
        "a chunk is truncated" => {
            let bytes = get(&**objects, last).await;
            put(&**objects, last, bytes.slice(..bytes.len() / 2)).await;
        }
        "bundles are swapped" => {
            let (a, b) = (get(&**objects, &parts.chunks[0]).await, get(&**objects, &parts.chunks[1]).await);
            put(&**objects, &parts.chunks[0], b).await;
            put(&**objects, &parts.chunks[1], a).await;
        }
        "a chunk holds something else, sealed as it must be" => {
            replace(objects, last, |plain, by| plain[usize::from(by)] ^= 1).await;
        }
        "a page holds something else, sealed as it must be" => {
            // In the id of a chunk that occurs once, behind the names of bundles.
            replace(objects, &parts.page, |plain, by| {
                let bundles = usize::from(plain[12]);
                plain[16 + 36 * bundles + 48 * 4 + usize::from(by % 32)] ^= by;
            })
            .await;
        }
        "a chunk has a later version" => at(objects, last, 7, 2).await,
        "a snapshot is damaged" => at(objects, &parts.end, 140, 0xff).await,
        "a catalog entry is missing" => {
            let Some(ObjectName::End(p, n, _)) = ObjectName::parse(&parts.end) else { panic!("an outcome") };
            delete(&**objects, &ObjectName::Volume(p, n).to_string()).await;
        }
        "an unknown feature is required" => {
            let hand = ByHand::open(objects.clone(), &key_file(), "default").await;
            let mut record = hand.repository.clone();
            record.required_features = 0x20;
            hand.put_record(&ObjectName::Repository, &record).await;
        }
        "the repository has a later version" => at(objects, "repository", 7, 2).await,
        "the repository object is damaged" => at(objects, "repository", 100, 0xee).await,
        "the repository object is missing" => delete(&**objects, "repository").await,
        "the project record is missing" => delete(&**objects, "projects/default/project").await,
        other => panic!("{other}: no such case"),
    }
}

async fn attempt(objects: Arc<InMemory>) -> Result<Vec<u8>, Error> {
    let repository = open(objects, key_file).await?;
    let project = repository.keeper(&"default".parse().expect("valid")).await?;
    restored(&project, "deltas").await
}

#[tokio::test]
async fn whatever_is_broken_is_named_and_what_to_do_is_said() {
    for (name, unlock) in GOLDEN {
        for case in CASES {
            let context = format!("{name}, {}", case.what);
            let objects = copy(name).await;
            attempt(objects.clone()).await.expect("nothing is broken yet");
            break_it(case.what, &objects).await;
            let error = attempt(objects.clone()).await.expect_err(&context);
            assert_eq!(error.kind(), case.kind, "{context}: {error}");
            for part in case.says {
                assert!(error.message().contains(part), "{context}: {error}");
            }
            let help = error.help_text().unwrap_or_else(|| panic!("{context}: {error} and no help"));
            assert!(help.contains(case.helps), "{context}: {error}: {help}");
            if case.opens {
                let repository = open(objects.clone(), unlock).await.expect(&context);
                let project = repository.keeper(&"default".parse().expect("valid")).await.expect(&context);
                assert!(!damage(&project).await.is_empty(), "{context}: verify found nothing");
            }
        }
    }
}

/// A full chunk stands in the way of the next backup of the same content: found out, left to verify, and written under
/// another name.
#[tokio::test]
async fn a_broken_object_in_the_way_of_a_new_one_is_passed_by() {
    use crate::support::repo::{MemoryVolume, back_up, options};
    let objects = copy("v1-open").await;
    let repository = open(objects.clone(), key_file).await.expect("opened");
    let project = repository.keeper(&"tenant-a".parse().expect("valid")).await.expect("opened");
    let content = restored(&project, "vms/image").await.expect("restored");
    let chunks = names(&*objects, "projects/tenant-a/chunks/").await;
    for name in &chunks {
        put(&*objects, name, get(&*objects, name).await.slice(..100)).await;
    }
    let volume = MemoryVolume::new(content.clone());
    let report = back_up(&project, &volume, &options("another volume")).await.expect("backed up");
    assert_eq!(report.stats.new_chunks as usize, chunks.len(), "{:?}", report.stats);
    assert_eq!(restored(&project, "another volume").await.expect("restored"), content);
    restored(&project, "vms/image").await.expect_err("that one is broken");
}

/// A diff that changes a chunk in part needs the rest of it: what cannot be read is never taken for zeros.
#[tokio::test]
async fn a_diff_onto_a_broken_chunk_is_refused() {
    use crate::support::repo::{back_up_stream, diff_v1, options};
    for (name, unlock) in GOLDEN {
        let objects = copy(name).await;
        for chunk in names(&*objects, "projects/default/chunks/").await {
            let mut bytes = get(&*objects, &chunk).await.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            put(&*objects, &chunk, bytes).await;
        }
        let repository = open(objects.clone(), unlock).await.expect("opened");
        let project = repository.keeper(&"default".parse().expect("valid")).await.expect("opened");
        let diff = diff_v1(Some("tuesday"), "wednesday", 12_988, &[(5, vec![1; 10])]);
        let error = back_up_stream(&project, diff, &options("from a stream")).await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        assert!(error.message().contains("/chunks/") && error.help_text().is_some(), "{name}: {error}");
        let newest = project.volumes().snapshot("from a stream").await.expect("found").snapshot.sequence.0;
        assert_eq!(newest, 2, "{name}: nothing is committed");
    }
}
