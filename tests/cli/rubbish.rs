//! Whatever stands in a variable or after an option: an error that helps, and never a panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::bench::{Bench, ok, stderr};

/// What may end up in a variable of a systemd unit, a shell or a secret store.
fn rubbish() -> Vec<OsString> {
    let text = ["", "\n", "a\nb", "\u{feff}x", "s3://AK:HUNTER2@b/p", "é"];
    let mut all: Vec<OsString> = text.into_iter().map(OsString::from).collect();
    all.push(OsString::from_vec(vec![b'a', 0xff, b'b']));
    all
}

#[test]
fn no_setting_makes_the_program_panic() {
    let bench = Bench::with_repository();
    let variables = [
        "CUTTLE_REPOSITORY",
        "CUTTLE_REPOSITORY_FILE",
        "CUTTLE_PASSWORD",
        "CUTTLE_PASSWORD_FILE",
        "CUTTLE_PASSWORD_COMMAND",
        "CUTTLE_KEY_FILE",
        "CUTTLE_PROJECT",
        "CUTTLE_CACHE_DIR",
        "CUTTLE_LOG",
        "TZ",
        "HOME",
        "XDG_STATE_HOME",
        "XDG_CACHE_HOME",
        "TERM",
        "NO_COLOR",
    ];
    let check = |what: String, command: &mut assert_cmd::Command| {
        let output = command.output().expect("run cuttle");
        let (said, code) = (stderr(&output), output.status.code());
        assert!(matches!(code, Some(0 | 1 | 3 | 10 | 12)), "{what}: {code:?} {said:.2000}");
        assert!(code == Some(0) || said.contains("error:"), "{what}: {said:.2000}");
        assert!(!said.contains("panicked"), "{what}: {said:.2000}");
        // Elsewhere it is the path of a file.
        let is_address = what.starts_with("CUTTLE_REPOSITORY=") || what.starts_with("\"-r");
        assert!(!is_address || !said.contains("HUNTER2"), "{what}: {said:.2000}");
    };
    for value in rubbish() {
        for name in variables {
            check(format!("{name}={value:?}"), bench.cuttle(&["snapshots"]).env(name, &value));
        }
        for option in [
            "-r",
            "--project",
            "-o",
            "--limit-upload",
            "--cache-dir",
            "--password-file",
            "--key-file",
            "--password-command",
        ] {
            let mut command = bench.cuttle(&["snapshots"]);
            if ["--password-file", "--password-command", "--key-file"].contains(&option) {
                command.env_remove("CUTTLE_KEY_FILE");
            }
            let mut given = OsString::from(option);
            given.push(if option.starts_with("--") { "=" } else { "" });
            given.push(&value);
            check(format!("{given:?}"), command.arg(given));
        }
    }
}

#[test]
fn what_is_nearly_right_works() {
    let bench = Bench::new();
    bench.write("password", b"\xef\xbb\xbfcorrect horse\r\n");
    ok(&mut bench.bare(&["-r", "repo", "init", "--password-file", "password"]));
    for password in ["correct horse", "correct horse\n", "\u{feff}correct horse"] {
        ok(bench.bare(&["-r", "repo", "snapshots"]).env("CUTTLE_PASSWORD", password));
    }
    bench.write("two", b"correct horse\nbattery\n");
    let output = bench.bare(&["-r", "repo", "snapshots", "--password-file", "two"]).output().expect("run");
    assert!(stderr(&output).contains("more than one line"), "{}", stderr(&output));
    let mut command = bench.bare(&["snapshots"]);
    ok(command.env("CUTTLE_REPOSITORY", "repo\n").env("CUTTLE_PASSWORD", "correct horse"));
}

/// A store that holds an unencrypted repository in the place of an encrypted one is given nothing by a host that would ask for
/// its password, and never saw either.
#[test]
fn what_is_not_encrypted_is_opened_only_where_somebody_says_so_or_remembers() {
    let bench = Bench::new();
    ok(&mut bench.bare(&["-r", "repo", "init", "--insecure-no-encryption"]));
    bench.write("a.img", b"some content");
    ok(&mut bench.bare(&["-r", "repo", "backup", "a.img"]));
    let another_host = |args: &[&str]| {
        let mut command = bench.bare(args);
        command.env("XDG_STATE_HOME", bench.path("state-2")).env("XDG_CACHE_HOME", bench.path("cache-2"));
        command
    };
    let before = bench.repository();
    for args in [&["-r", "repo", "backup", "a.img"][..], &["-r", "repo", "snapshots"]] {
        let output = another_host(args).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("--insecure-no-encryption"), "{}", stderr(&output));
    }
    assert!(bench.repository() == before);
    let output =
        another_host(&["-r", "repo", "snapshots", "--insecure-no-encryption", "--key-file", "key"]).output();
    assert_eq!(output.expect("run").status.code(), Some(1));
    ok(&mut another_host(&["-r", "repo", "snapshots", "--insecure-no-encryption"]));
    ok(&mut another_host(&["-r", "repo", "backup", "a.img"]));
}

#[test]
fn images_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::with_repository();
    bench.sparse("a.img");
    bench.ok(&["backup", "a.img"]);
    bench.ok(&["restore", "a.img", "out"]);
    bench.ok(&["export", "a.img", "out.qcow2", "--format", "qcow2"]);
    for name in ["out", "out.qcow2"] {
        let mode = std::fs::metadata(bench.path(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// The folder that every ext4 has in its root.
#[test]
fn a_folder_that_is_not_ours_stops_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::with_repository();
    let folder = bench.path("repo/lost+found");
    std::fs::create_dir(&folder).expect("make it");
    std::fs::write(folder.join("projects#1"), b"not ours").expect("a file in it");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o000)).expect("close it");
    bench.sparse("a.img");
    bench.ok(&["backup", "a.img"]);
    bench.ok(&["forget", "a.img@1"]);
    bench.ok(&["prune", "--lease", "0s"]);
    bench.ok(&["verify"]);
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("open it");
    assert!(folder.join("projects#1").exists(), "it was swept away");
}
