//! Commands that operators are told to run do run, as a shell reads them.

use std::process::Command;

use cuttle::rbd::{Access, advice, features, flags};

use crate::support::ceph::Ceph;

/// Runs a command as an operator does who copies it from a message; what it said.
fn run(ceph: &Ceph, command: &str) -> String {
    let output =
        Command::new("sh").arg("-c").arg(command).env("CEPH_CONF", &ceph.conf).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_advised_can_be_run() {
    let Some(ceph) = Ceph::first() else { return };
    // Names that Ceph allows and a shell would take apart.
    let (path, snapshot) = ("rbd/it's advised", "last night");
    let plain = ["--object-size", "1M", "--image-feature", "layering"];
    ceph.create(path, 4 << 20, &plain);
    ceph.write(path, 0, b"data");
    ceph.rbd(&["snap", "create", "--no-progress", &format!("{path}@{snapshot}")]);
    let wanted = features::EXCLUSIVE_LOCK | features::OBJECT_MAP | features::FAST_DIFF;
    run(&ceph, &advice::enable_fast_diff(path, wanted));
    let open = |access| ceph.open(&ceph.spec(path), access).expect("open");
    let id = open(Access::ReadOnly).snapshots().list().expect("listed")[0].id;
    assert_eq!(open(Access::ReadOnly).features().expect("read") & wanted, wanted);
    let invalid = flags::OBJECT_MAP_INVALID | flags::FAST_DIFF_INVALID;
    for (access, at) in [(Access::ReadOnly, None), (Access::Snapshot(id), Some(snapshot))] {
        assert_ne!(open(access).flags().expect("read") & invalid, 0, "maps of before are not valid");
        run(&ceph, &advice::rebuild_map(path, at));
        assert_eq!(open(access).flags().expect("read") & invalid, 0, "and are once made anew");
        run(&ceph, &advice::check_map(path, at));
    }
    assert!(run(&ceph, &advice::list_snapshots(path)).contains(snapshot));
    assert!(run(&ceph, &advice::list_images("rbd")).contains("it's advised"));
    run(&ceph, &advice::list_namespaces("rbd"));
    run(&ceph, &advice::show_watchers(path));
    ceph.write(path, 0, b"DATA");
    run(&ceph, &advice::list_locks(path));
    run(&ceph, &advice::roll_back(path, snapshot));
    assert!(ceph.export(path).starts_with(b"data"));
    ceph.rbd(&["migration", "prepare", path]);
    run(&ceph, &advice::abort_migration(path));
    ceph.rbd(&["migration", "prepare", path]);
    for command in advice::end_migration(path) {
        run(&ceph, &command);
    }
    assert!(ceph.export(path).starts_with(b"data"));
    ceph.purge(path);
}
