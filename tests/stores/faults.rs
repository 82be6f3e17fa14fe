//! Every fault at every operation: the outcome must be the one without faults, or an honest error.

use std::sync::Arc;

use crate::support::fault_store::{FAULTS, Fault, FaultStore, OpKind};
use bytes::Bytes;
use cuttle::ErrorKind;
use cuttle::store::{Created, Limits, Store};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::chunked::ChunkedStore;
use object_store::memory::InMemory;

fn faulty() -> (FaultStore, Store) {
    let faulty = FaultStore::new(Arc::new(InMemory::new()));
    let limits = Limits { jitter_seed: Some(7), ..Limits::default() };
    let store = Store::with_object_store(Arc::new(faulty.clone()), limits);
    (faulty, store)
}

fn body(n: u8) -> Bytes {
    vec![n; 1000].into()
}

/// Uses every operation, and tells all that a caller can see.
async fn scenario(store: &Store) -> cuttle::Result<Vec<String>> {
    let mut seen = Vec::new();
    let mut note = |what: String| seen.push(what);
    for n in 1..=3 {
        note(format!("{:?}", store.create(&format!("d/{n}"), body(n)).await?));
    }
    note(format!("{:?}", store.create("d/1", body(9)).await?));
    note(format!("{:?}", store.create("d/1", body(1)).await?));
    note(format!("{:?}", store.get("d/2", 1000).await?));
    note(format!("{:?}", store.get("d/none", 1000).await?));
    note(format!("{:?}", store.get_range("d/3", 990..2000).await?));
    note(format!("{:?}", store.head("d/3").await?.map(|o| o.size_bytes)));
    note(format!("{:?}", store.list("d", None).await?.into_iter().map(|o| o.key).collect::<Vec<_>>()));
    note(format!("{:?}", store.list_prefixes("").await?));
    store.replace("d/2", body(8)).await?;
    store.delete("d/3").await?;
    store.delete("d/none").await?;
    note(format!("{:?}", store.list("", Some("d/1")).await?.into_iter().map(|o| o.key).collect::<Vec<_>>()));
    Ok(seen)
}

async fn content(faulty: &FaultStore) -> Vec<(String, u64)> {
    faulty.fail_always(None);
    let objects: Vec<_> = faulty.list(None).try_collect().await.expect("list");
    objects.into_iter().map(|o| (o.location.to_string(), o.size)).collect()
}

#[tokio::test(start_paused = true)]
async fn any_single_fault_at_any_operation_heals() {
    let (faulty, store) = faulty();
    let expected = scenario(&store).await.expect("no faults");
    assert_eq!(store.ledger().retries, 0);
    let operations = faulty.ops().len();
    let expected_content = content(&faulty).await;
    assert!(operations > 15, "{operations}");
    for fault in FAULTS {
        for k in 0..operations {
            let (faulty, store) = self::faulty();
            faulty.fail_at(k, fault);
            let seen = scenario(&store).await.unwrap_or_else(|e| panic!("{fault:?} at {k}: {e}"));
            assert_eq!(seen, expected, "{fault:?} at {k}");
            assert_eq!(content(&faulty).await, expected_content, "{fault:?} at {k}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn any_pair_of_faults_heals() {
    let (plain, store) = faulty();
    let expected = scenario(&store).await.expect("no faults");
    let operations = plain.ops().len();
    for first in FAULTS {
        for second in FAULTS {
            for k in 0..operations {
                let (faulty, store) = self::faulty();
                faulty.fail_at(k, first);
                faulty.fail_at(k + 1, second);
                let seen = scenario(&store).await;
                let seen = seen.unwrap_or_else(|e| panic!("{first:?}, {second:?} at {k}: {e}"));
                assert_eq!(seen, expected, "{first:?}, {second:?} at {k}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_random_faults_heal() {
    let (_, store) = faulty();
    let expected = scenario(&store).await.expect("no faults");
    for seed in 0..200 {
        let (faulty, store) = self::faulty();
        faulty.fail_at_random(seed, 3);
        let seen = scenario(&store).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(seen, expected, "seed {seed}");
        assert!(store.ledger().retries > 0 || faulty.ops().len() < 20, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_down_is_an_error_after_a_named_number_of_attempts() {
    for fault in FAULTS {
        let (faulty, store) = faulty();
        store.create("a", body(1)).await.expect("create");
        let before = faulty.ops().len();
        faulty.fail_always(Some(fault));
        let attempts_max = Limits::default().attempts_max as usize;

        let error = store.get("a", 1000).await.expect_err("the store is down");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
        assert!(error.help_text().is_some(), "{fault:?}: {error}");
        assert_eq!(faulty.ops().len() - before, attempts_max, "{fault:?}");

        let error = store.create("b", body(1)).await.expect_err("the store is down");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
        // A create and its read-backs.
        assert!(faulty.ops().len() - before <= 4 * attempts_max, "{fault:?}");
        assert_eq!(store.delete("a").await.map_err(|e| e.kind()), Err(ErrorKind::Unavailable), "{fault:?}");
        assert_eq!(
            store.list("", None).await.map_err(|e| e.kind()),
            Err(ErrorKind::Unavailable),
            "{fault:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_tried_again() {
    for (status, kind) in [
        (401, ErrorKind::Denied),
        (403, ErrorKind::Denied),
        (400, ErrorKind::Invalid),
        (501, ErrorKind::Unsupported),
    ] {
        let (faulty, store) = faulty();
        faulty.fail_always(Some(Fault::Status(status)));
        let error = store.create("a", body(1)).await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(&status.to_string()), "{error}");
        // What may not be replaced may be there: one look tells.
        let asked = if status == 403 { 2 } else { 1 };
        assert_eq!(faulty.ops().len(), asked, "{status}: {:?}", faulty.ops());
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_landed_without_an_answer_is_ours() {
    let (faulty, store) = faulty();
    faulty.fail_at(0, Fault::TimeoutAfter);
    assert_eq!(store.create("log/1/1.end", body(1)).await.expect("create"), Created::New);
    let kinds: Vec<OpKind> = faulty.ops().into_iter().map(|op| op.kind).collect();
    assert_eq!(kinds, [OpKind::Create, OpKind::Get], "no second upload");
}

#[tokio::test(start_paused = true)]
async fn a_commit_lost_to_another_while_in_doubt_is_lost() {
    let (faulty, store) = faulty();
    faulty.fail_at(0, Fault::TimeoutBefore);
    let mut gate = faulty.gate(|op| op.kind == OpKind::Get);
    let other = Store::with_object_store(Arc::new(faulty.clone()), Limits::default());
    let (created, ()) = tokio::join!(store.create("log/1/1.end", body(1)), async {
        gate.reached().await;
        assert_eq!(other.create("log/1/1.end", body(2)).await.expect("create"), Created::New);
        gate.open();
    });
    assert_eq!(created.expect("create"), Created::Exists { head: body(2).slice(..128), size_bytes: 1000 });
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_landed_late_is_ours_though_the_store_then_refuses() {
    let faulty = FaultStore::new(Arc::new(InMemory::new()));
    let limits = Limits { attempts_max: 3, ..Limits::default() };
    let store = Store::with_object_store(Arc::new(faulty.clone()), limits);
    let late = Store::with_object_store(Arc::new(faulty.clone()), Limits::default());
    // The first create is in doubt and not there yet; the second and third are refused.
    for (k, fault) in [(0, Fault::TimeoutBefore), (2, Fault::Status(503)), (3, Fault::Status(503))] {
        faulty.fail_at(k, fault);
    }
    let mut second = faulty.gate(|op| op.kind == OpKind::Get);
    let (created, ()) = tokio::join!(store.create("log/1/1.end", body(1)), async {
        second.reached().await;
        let mut third = faulty.gate(|op| op.kind == OpKind::Create);
        second.open();
        third.reached().await;
        let mut fourth = faulty.gate(|op| op.kind == OpKind::Create);
        third.open();
        fourth.reached().await;
        late.replace("log/1/1.end", body(1)).await.expect("land");
        fourth.open();
    });
    assert_eq!(created.expect("create"), Created::New);
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out() {
    let (faulty, store) = faulty();
    assert!(store.probe_create_if_absent("p").await.expect("probe"));
    faulty.ignore_conditions();
    assert!(!store.probe_create_if_absent("p").await.expect("probe"));
    assert_eq!(content(&faulty).await, []);
    store.without_create_if_absent();
    assert_eq!(store.create("a", body(1)).await.expect("create"), Created::New);
    let exists = Created::Exists { head: body(1).slice(..128), size_bytes: 1000 };
    assert_eq!(store.create("a", body(2)).await.expect("create"), exists);
}

#[tokio::test(start_paused = true)]
async fn slow_down_lowers_the_number_in_flight_and_success_raises_it() {
    let (faulty, store) = faulty();
    assert_eq!(store.inflight_limit(), 32);
    faulty.fail_at(0, Fault::Status(503));
    faulty.fail_at(1, Fault::Status(429));
    store.create("a", body(1)).await.expect("create");
    assert_eq!(store.inflight_limit(), 8);
    assert_eq!(store.ledger().throttled, 2);
    for _ in 0..1000 {
        store.head("a").await.expect("head");
    }
    assert_eq!(store.inflight_limit(), 32);
}

#[tokio::test(start_paused = true)]
async fn bandwidth_limits_hold_over_the_long_run() {
    let limits = Limits {
        upload_bytes_per_second: Some(1 << 20),
        download_bytes_per_second: Some(2 << 20),
        ..Limits::default()
    };
    let store = Store::with_object_store(Arc::new(InMemory::new()), limits);
    let bytes = Bytes::from(vec![1; 1 << 20]);
    let begin = tokio::time::Instant::now();
    for n in 0..11 {
        store.create(&n.to_string(), bytes.clone()).await.expect("create");
    }
    assert_eq!(begin.elapsed().as_secs(), 10);
    let begin = tokio::time::Instant::now();
    for n in 0..11 {
        store.get(&n.to_string(), 1 << 20).await.expect("get");
    }
    assert_eq!(begin.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_come_in_small_pieces_keep_to_the_bandwidth_limit() {
    let limits = Limits { download_bytes_per_second: Some(1 << 20), ..Limits::default() };
    let pieces = ChunkedStore::new(Arc::new(InMemory::new()), 1000);
    let store = Store::with_object_store(Arc::new(pieces), limits);
    store.create("a", vec![1; 1 << 20].into()).await.expect("create");
    let begin = tokio::time::Instant::now();
    for _ in 0..10 {
        store.get("a", 1 << 20).await.expect("get");
    }
    assert!((9..=10).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded() {
    let faulty = FaultStore::new(Arc::new(InMemory::new()));
    let limits = Limits { requests_inflight_max: 2, ..Limits::default() };
    let store = Store::with_object_store(Arc::new(faulty.clone()), limits);
    let mut gates = [faulty.gate(|_| true), faulty.gate(|_| true)];
    let gets = futures::future::join_all((0..5).map(|_| store.get("a", 10)));
    let watch = async {
        gates[0].reached().await;
        gates[1].reached().await;
        // Nothing else can move until a gate opens, so a third would have been seen.
        tokio::task::yield_now().await;
        assert_eq!(faulty.ops().len(), 2);
        for gate in gates {
            gate.open();
        }
    };
    let (results, ()) = tokio::join!(gets, watch);
    assert!(results.into_iter().all(|r| r.expect("get").is_none()));
}

/// Whoever has several requests under way may look after one of them alone for a while: the others must not keep it
/// waiting for their turn.
#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_looks_after_goes_on() {
    let faulty = FaultStore::new(Arc::new(InMemory::new()));
    let limits = Limits { requests_inflight_max: 1, ..Limits::default() };
    let store = Store::with_object_store(Arc::new(faulty.clone()), limits);
    store.create("a", body(1)).await.expect("created");
    for kind in ["get", "head", "range", "create", "replace", "delete", "unless refused", "many", "prefixes"]
    {
        let mut gate = faulty.gate(|_| true);
        let waiting = async {
            match kind {
                "get" => store.get("a", 2000).await.map(drop),
                "head" => store.head("a").await.map(drop),
                "range" => store.get_range("a", 0..10).await.map(drop),
                "create" => store.create("a", body(2)).await.map(drop),
                "replace" => store.replace("a", body(1)).await,
                "delete" => store.delete("none").await,
                "unless refused" => store.delete_unless_refused("none").await.map(drop),
                "many" => store.delete_all_unless_refused(&["x".into(), "y".into()]).await.map(drop),
                _ => store.list_prefixes("").await.map(drop),
            }
        };
        let mut waiting = std::pin::pin!(waiting);
        tokio::select! {
            biased;
            done = &mut waiting => panic!("{kind} is held: {done:?}"),
            () = gate.reached() => {}
        }
        gate.open();
        let other = tokio::time::timeout(std::time::Duration::from_secs(3600), store.get("a", 2000));
        other.await.unwrap_or_else(|_| panic!("it waits for {kind} for ever")).expect("got");
        waiting.await.unwrap_or_else(|e| panic!("{kind}: {e}"));
    }
}
