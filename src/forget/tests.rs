use super::by_policy::candidate;
use super::*;
use crate::plan::retention::{Policy, decide};
use crate::plan::times::Times;
use crate::repo::notes::Note;
use crate::testing::{Bench, CHUNK};

const C: usize = CHUNK as usize;

async fn with_nights(volumes: &[(&str, u8)]) -> Bench {
    let bench = Bench::new(true).await;
    for (volume, nights) in volumes {
        for night in 0..*nights {
            bench.backup(volume, &vec![night + 1; C]).await;
        }
    }
    bench
}

fn keep_last(last: u32) -> Policy {
    // The bench writes down that its snapshots are of 1970.
    Policy { last, times: Times::Store, ..Policy::default() }
}

fn lines(report: &ForgetReport) -> Vec<String> {
    let fate = |fate: &Fate| match fate {
        Fate::Kept => "keep",
        Fate::Forgotten => "forget",
        Fate::Refused => "refused",
        Fate::Failed(_) => "failed",
    };
    let line = |j: &Judged| format!("{} {}: {}", j.name(), fate(&j.fate), j.reasons.join(", "));
    report.snapshots.iter().map(line).collect()
}

async fn by_name_on(project: &Keeper, specs: &[&str], dry_run: bool) -> ForgetReport {
    let specs: Vec<String> = specs.iter().map(|s| (*s).to_owned()).collect();
    by_name(project, &specs, dry_run, Cancel::never()).await.expect("looked at")
}

async fn live(project: &Keeper, volume: &str) -> Vec<u32> {
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let volume = catalog.by_name(&volume.parse().expect("a name")).expect("a volume").clone();
    let snapshots = project.history(&volume).snapshots().await.expect("a log");
    snapshots.iter().map(|s| s.snapshot.sequence.0).collect()
}

#[tokio::test]
async fn a_policy_forgets_what_nothing_keeps_once() {
    let bench = with_nights(&[("b", 1), ("a", 3)]).await;
    let before = bench.names("").await;
    let run = async |dry_run| {
        let project = bench.reopened().await.expect("opened");
        by_policy(&project, &keep_last(2), dry_run, Cancel::never()).await.expect("done")
    };
    let expected = ["a@1 forget: ", "a@2 keep: last", "a@3 keep: last", "b@1 keep: last, last of its volume"];
    let planned = run(true).await;
    assert_eq!((lines(&planned), planned.ledger.put_requests), (expected.map(str::to_owned).to_vec(), 0));
    assert_eq!(bench.names("").await, before);
    let done = run(false).await;
    assert_eq!((lines(&done), done.kept(), done.forgotten(), done.ok()), (lines(&planned), 3, 1, true));
    assert_eq!((live(&bench.project, "a").await, live(&bench.project, "b").await), (vec![2, 3], vec![1]));
    let again = run(false).await;
    assert_eq!((again.forgotten(), again.ledger.put_requests), (0, 0));
    assert!(by_policy(&bench.project, &Policy::default(), true, Cancel::never()).await.is_err());
}

#[tokio::test]
async fn a_policy_is_for_the_volumes_that_match() {
    let bench = with_nights(&[("vms/a", 2), ("vms/b", 2), ("other", 2)]).await;
    let mut policy = keep_last(1);
    policy.volumes = vec!["vms/*".parse().expect("a pattern")];
    let report = by_policy(&bench.project, &policy, false, Cancel::never()).await.expect("done");
    assert_eq!(report.forgotten(), 2);
    assert_eq!(live(&bench.project, "other").await, [1, 2]);
    policy.volumes = vec!["nothing*".parse().expect("a pattern")];
    let error =
        by_policy(&bench.project, &policy, false, Cancel::never()).await.expect_err("nothing matches");
    assert!(error.message().contains("nothing*"), "{error}");
}

/// What one host planned, another may have protected since.
#[tokio::test]
async fn protection_that_came_later_counts() {
    let bench = with_nights(&[("v", 2)]).await;
    let entry = bench.find("v@1").await;
    let (seen, other) = (Noted::from(&entry), bench.reopened().await.expect("opened"));
    other.notes().change(&seen, |note| note.tags.push("x".into())).await.expect("tagged");
    other.notes().change(&seen, |note| note.protected = true).await.expect("protected");
    let mut judged = vec![Judged::new(&entry, Fate::Forgotten, Vec::new())];
    carry_out(&bench.project, &mut judged, &Cancel::never(), || Fate::Kept).await.expect("done");
    assert!(matches!(judged[0].fate, Fate::Kept) && judged[0].reasons == ["protected"]);
    assert_eq!(live(&bench.project, "v").await, [1, 2]);

    let refused = by_name_on(&bench.project, &["v@1"], false).await;
    assert_eq!((lines(&refused), refused.ok()), (vec!["v@1 refused: protected".to_owned()], false));
    let unprotected = other.notes().change(&seen, |note| note.protected = false).await.expect("unprotected");
    assert_eq!(unprotected.note, Note { protected: false, tags: vec!["x".into()] });
    assert!(by_name_on(&bench.project, &["v@1"], false).await.ok());
    assert_eq!(live(&bench.project, "v").await, [2]);
}

#[tokio::test]
async fn notes_that_say_nothing_new_are_not_written() {
    let bench = with_nights(&[("v", 1)]).await;
    let seen = Noted::from(&bench.find("v").await);
    let protect =
        async || bench.project.notes().change(&seen, |n| n.protected = true).await.expect("changed");
    assert!(protect().await.changed);
    assert!(!protect().await.changed);
    let notes: Vec<_> = bench.names("").await.into_iter().filter(|n| n.contains(".note.")).collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
}

#[tokio::test]
async fn what_the_next_backup_will_miss_is_said() {
    let bench = with_nights(&[("v", 4)]).await;
    for (specs, expected) in [
        (&["v@1"][..], &["v@1 forget: "][..]),
        (&["v@3", "v@1", "v@3"], &["v@1 forget: ", "v@3 forget: "]),
        (
            &["v@3", "v@latest"],
            &[
                "v@3 forget: ",
                "v@4 forget: base of the next incremental: the next backup of v reads everything",
            ],
        ),
        (
            &["v@1", "v@2", "v@3", "v@4"],
            &[
                "v@1 forget: ",
                "v@2 forget: ",
                "v@3 forget: ",
                "v@4 forget: last of its volume: the next backup of v reads everything",
            ],
        ),
    ] {
        assert_eq!(lines(&by_name_on(&bench.project, specs, true).await), expected, "{specs:?}");
    }
    // A volume's name alone might be taken for all of it.
    let id = bench.find("v@2").await.snapshot_id.to_string();
    let report = by_name_on(&bench.project, &["v", "v@9", &id], false).await;
    let failed: Vec<&str> = report.failures.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!((failed, lines(&report)), (vec!["v", "v@9"], vec!["v@2 forget: ".to_owned()]));
    assert_eq!(live(&bench.project, "v").await, [1, 3, 4]);
    let twice = bench.project.notes().forget(&Noted::from(&bench.find("v@1").await)).await;
    assert_eq!(twice.expect("forgotten"), Forgotten::Now);
}

#[tokio::test]
async fn a_damaged_record_keeps_its_volume_but_can_be_forgotten_by_number() {
    let bench = with_nights(&[("bad", 3), ("good", 3)]).await;
    let end = bench.names("").await.into_iter().filter(|n| n.ends_with(".end")).nth(1).expect("an end");
    let mut bytes = bench.get(&end).await;
    bytes[200] ^= 1;
    bench.put(&end, bytes).await;
    let project = bench.reopened().await.expect("opened");
    let report = by_policy(&project, &keep_last(1), false, Cancel::never()).await.expect("done");
    assert_eq!((report.failures[0].0.as_str(), report.failures[0].1.kind()), ("bad", ErrorKind::Corrupt));
    assert_eq!((report.forgotten(), report.ok()), (2, false));
    assert_eq!(live(&project, "good").await, [3]);

    let report = by_name_on(&project, &["bad@2"], false).await;
    assert_eq!(lines(&report), ["bad@2 forget: its own record cannot be read"]);
    assert_eq!((report.ok(), live(&project, "bad").await), (true, vec![1, 3]));
}

/// Whatever a host's clock said, only the store's time counts.
#[tokio::test]
async fn forged_times_change_nothing() {
    let bench = with_nights(&[("v", 3)]).await;
    let catalog = bench.project.volumes().confirmed().await.expect("a catalog");
    let honest = bench.project.history(&catalog.entries()[0]).snapshots().await.expect("a log");
    let policy =
        Policy { last: 1, daily: 1, within: "1h".parse().ok(), times: Times::Store, ..Policy::default() };
    let decided = |entries: &[SnapshotEntry]| {
        decide(&policy, &entries.iter().map(|e| candidate(e, Times::Store)).collect::<Vec<_>>())
    };
    for nth in 0..honest.len() {
        for forged in [0, 1, honest[0].committed_unix_ms, honest[2].committed_unix_ms + 86_400_000, u64::MAX]
        {
            let mut entries = honest.clone();
            entries[nth].snapshot.started_unix_ms = forged;
            assert_eq!(decided(&entries), decided(&honest), "{forged} in the place of {nth}");
        }
    }
    // The store's time does count.
    let mut entries = honest.clone();
    entries[0].committed_unix_ms += 86_400_000;
    assert_ne!(decided(&entries), decided(&honest));
}

/// A copied repository has the times of the copy, and a wrong clock any.
#[tokio::test]
async fn times_that_contradict_each_other_are_left_to_a_person() {
    let bench = with_nights(&[("v", 3)]).await;
    let run = async |times| {
        let policy = Policy { last: 1, times, ..Policy::default() };
        by_policy(&bench.project, &policy, false, Cancel::never()).await.expect("looked at")
    };
    let refused = run(Times::Checked).await;
    assert_eq!((refused.forgotten(), refused.ok()), (0, false));
    let (volume, error) = &refused.failures[0];
    assert_eq!((volume.as_str(), error.kind()), ("v", ErrorKind::Conflict));
    assert!(error.message().contains("v@1, v@2, v@3") && error.message().contains("1970-01-01"), "{error}");
    assert!(error.help_text().is_some_and(|help| help.contains("--times sealed")), "{error}");
    assert_eq!(live(&bench.project, "v").await, [1, 2, 3]);
    assert_eq!(run(Times::Sealed).await.forgotten(), 2);
    assert_eq!(live(&bench.project, "v").await, [3]);
}
