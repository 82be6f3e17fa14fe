//! What a host remembers of repositories, and what is left of one: nothing new is made in its place, and a host that cannot
//! remember is kept from nothing.

use std::fs;

use crate::bench::{Bench, fails, ok, random, stderr};

fn with_backup() -> Bench {
    let bench = Bench::with_repository();
    bench.write("disk", &random(1, 100_000));
    bench.ok(&["backup", "disk"]);
    bench
}

/// The command on another host, which remembers nothing.
fn elsewhere(bench: &Bench, args: &[&str]) -> assert_cmd::Command {
    let mut command = bench.cuttle(args);
    command.env("XDG_STATE_HOME", bench.path("other-state")).env("XDG_CACHE_HOME", bench.path("other-cache"));
    command
}

#[test]
fn no_repository_is_made_over_what_is_left_of_one() {
    let bench = with_backup();
    let record = bench.path("repo/repository");
    fs::rename(&record, bench.path("kept")).expect("moved away");
    let before = bench.repository();
    let said = fails(1, &mut elsewhere(&bench, &["init"]));
    assert!(said.contains("what is left of a repository whose object `repository` is gone"), "{said}");
    let said = fails(10, &mut elsewhere(&bench, &["snapshots"]));
    assert!(said.contains("but what is left of one") && said.contains("bring its object"), "{said}");
    assert_eq!(bench.repository(), before);
    fs::rename(bench.path("kept"), &record).expect("brought back");
    bench.ok(&["restore", "disk", "out"]);
    // Keys alone are left by an init that was killed.
    fs::remove_dir_all(bench.path("repo/projects")).expect("removed");
    fs::remove_file(&record).expect("removed");
    ok(&mut elsewhere(&bench, &["init"]));
}

#[test]
fn an_empty_folder_where_a_disk_should_be_is_no_place_for_a_new_repository() {
    let bench = with_backup();
    fs::rename(bench.path("repo"), bench.path("disk-that-is-away")).expect("unmounted");
    for empty in [false, true] {
        if empty {
            fs::create_dir(bench.path("repo")).expect("made");
        }
        let said = bench.fails(1, &["init"]);
        assert!(said.contains("this host saw repository") && said.contains("is the disk mounted"), "{said}");
        assert_eq!(bench.path("repo").exists(), empty, "{said}");
        let said = bench.fails(10, &["snapshots"]);
        assert!(said.contains("this host saw repository") && said.contains("is the disk mounted"), "{said}");
    }
    // Nothing of it is forgotten.
    fs::remove_dir(bench.path("repo")).expect("still empty");
    fs::rename(bench.path("disk-that-is-away"), bench.path("repo")).expect("mounted");
    fs::remove_file(bench.path("repo/projects/default/log/0000000001/0000000001.end")).expect("removed");
    let said = bench.fails(1, &["snapshots"]);
    assert!(said.contains("snapshot 1") && said.contains("--trust-store"), "{said}");
    // Said so, a new one takes its place.
    fs::remove_dir_all(bench.path("repo")).expect("gone for good");
    bench.ok(&["init", "--trust-store"]);
    bench.ok(&["backup", "disk"]);
}

#[test]
fn no_project_is_made_over_what_is_left_of_one() {
    let bench = with_backup();
    fs::remove_file(bench.path("repo/projects/default/project")).expect("removed");
    let said = fails(1, &mut elsewhere(&bench, &["project", "create", "default"]));
    assert!(said.contains("what is left of project default"), "{said}");
    let said = bench.fails(1, &["snapshots"]);
    assert!(said.contains("project default, which had 1 volumes, is not there any more"), "{said}");
    fs::remove_dir_all(bench.path("repo/projects")).expect("removed");
    let said = bench.fails(1, &["project", "create", "default"]);
    assert!(said.contains("project default, which had 1 volumes, is not there any more"), "{said}");
    bench.ok(&["project", "create", "default", "--trust-store"]);
}

/// Restoring needs nothing of this host.
#[test]
fn a_host_that_cannot_remember_says_so_once_and_goes_on() {
    let bench = with_backup();
    bench.write("file", b"");
    type Change = fn(&Bench, &mut assert_cmd::Command);
    let changes: [(&str, Change); 4] = [
        ("cannot be read", |b, c| _ = c.env("XDG_STATE_HOME", b.path("file"))),
        ("remembers nothing", |_, c| _ = c.env_remove("XDG_STATE_HOME").env_remove("HOME")),
        ("the cache is of no use", |b, c| _ = c.env("XDG_CACHE_HOME", b.path("file"))),
        ("cannot be remembered", |b, c| {
            fs::create_dir_all(b.path("blocked/cuttle")).expect("made");
            let full = b.path("blocked/cuttle");
            for file in fs::read_dir(b.path("state/cuttle")).expect("a folder") {
                let file = file.expect("one").path();
                if file.extension().is_some_and(|e| e == "json") {
                    fs::copy(&file, full.join(file.file_name().expect("a name"))).expect("copied");
                } else {
                    // A link that leads nowhere can be neither read nor made.
                    let _ = std::os::unix::fs::symlink(
                        "/nonexistent/x",
                        full.join(file.file_name().expect("a name")),
                    );
                }
            }
            c.env("XDG_STATE_HOME", b.path("blocked"));
        }),
    ];
    for (at, (what, change)) in changes.into_iter().enumerate() {
        let out = format!("out-{at}");
        for args in [&["restore", "disk", &out][..], &["backup", "disk"], &["verify"], &["prune"]] {
            let mut command = bench.cuttle(args);
            change(&bench, &mut command);
            let output = command.output().expect("run cuttle");
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "{what}, {args:?}: {said}");
            let told = said.matches(what).count();
            assert!(
                told == 1 || (told == 0 && what.contains("cache") && args[0] != "backup"),
                "{what}, {args:?}: {said}"
            );
        }
        assert!(bench.read(&out) == bench.read("disk"), "{what}");
    }
}

#[test]
fn one_repository_on_two_paths_is_one() {
    let bench = with_backup();
    std::os::unix::fs::symlink(bench.path("."), bench.path("link")).expect("linked");
    let through = |args: &[&str]| {
        let mut command = bench.cuttle(args);
        command.env("CUTTLE_REPOSITORY", bench.path("link/repo"));
        command
    };
    ok(&mut through(&["snapshots"]));
    let places = fs::read_dir(bench.path("state/cuttle")).expect("a folder");
    let names: Vec<String> =
        places.map(|e| e.expect("one").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names.iter().filter(|n| n.starts_with("place-")).count(), 1, "{names:?}");
    fs::remove_file(bench.path("repo/projects/default/log/0000000001/0000000001.end")).expect("removed");
    fails(1, &mut through(&["snapshots"]));
}

/// Three hundred volumes: what a night adds to the memory is a line for each, not all of it for each.
#[test]
fn a_night_adds_lines_to_the_memory() {
    let bench = with_backup();
    let len = || {
        let files = fs::read_dir(bench.path("state/cuttle")).expect("a folder").map(|e| e.expect("one"));
        let lens = files.map(|f| f.metadata().expect("there").len());
        lens.sum::<u64>()
    };
    let before = len();
    bench.ok(&["backup", "disk"]);
    let night = len() - before;
    assert!((1..1_000).contains(&night), "{night} bytes");
    let before = len();
    bench.ok(&["snapshots"]);
    bench.ok(&["verify"]);
    assert_eq!(len() - before, 0, "nothing was new");
}
