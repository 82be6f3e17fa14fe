//! What a key and the store's credentials can do, as `cuttle whoami` tells it. Accounts with policies: tests/stores/roles.rs.

use crate::bench::{Bench, by, fails, lines, ok};

#[test]
fn each_key_says_what_it_is_for() {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    bench.ok(&["backup", "disk.img"]);
    let rights = ["makes_backups", "reads_volumes", "forgets", "makes_keys"];
    for (role, has) in [
        ("backup", [true, false, false, false]),
        ("restore", [false, true, false, false]),
        ("keeper", [false, false, true, false]),
        ("admin", [true; 4]),
    ] {
        let key = format!("{role}.key");
        bench.ok(&["key", "add", "--role", role, "--out", &key, "--label", "host-7"]);
        let before = bench.repository();
        let told = lines(&ok(&mut by(&bench, &key, &["whoami", "--json"]))).remove(0);
        assert_eq!(rights.map(|right| told[right] == true), has, "{told}");
        assert_eq!(told["message_type"], "whoami");
        assert_eq!((&told["role"], &told["project"]), (&role.into(), &"default".into()), "{told}");
        assert_eq!(told["label"], "host-7");
        let listed = bench.json(&["key", "list"]).remove(0);
        let known = listed.as_array().expect("a list").iter().any(|key| key["key_id"] == told["key_id"]);
        assert!(known, "{told} {listed}");
        // A folder's owner may do all, and a folder is never asked by writing.
        assert_eq!(told["verdict"], if role == "admin" { "fits" } else { "too_much" }, "{told}");
        assert!(before == bench.repository(), "{role}");
        assert_eq!(
            (&told["ledger"]["put_requests"], &told["ledger"]["delete_requests"]),
            (&0.into(), &0.into())
        );
        let said = by(&bench, &key, &["whoami"]).output().expect("run cuttle");
        assert!(said.status.success());
        let warned = String::from_utf8_lossy(&said.stderr).contains("more than the role");
        assert_eq!(warned, role != "admin", "{role}");
        let shown = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(shown.contains(&format!("of the role {role} of project default")), "{shown}");
        assert!(shown.contains("CREATE") && shown.contains("projects/default/retention/"), "{shown}");
    }
}

#[test]
fn the_repositorys_own_key_opens_all_and_without_encryption_there_is_none() {
    let bench = Bench::with_repository();
    let told = bench.json(&["whoami"]).remove(0);
    assert_eq!((&told["role"], &told["encrypted"]), (&"repository".into(), &true.into()));
    assert!(told["project"].is_null() && told["key_id"].is_null(), "{told}");
    assert!(bench.ok(&["whoami"]).contains("it opens every project"));
    let dry = bench.json(&["whoami", "-n"]).remove(0);
    assert!(dry["credentials"].is_null() && dry["verdict"].is_null() && dry["dry_run"] == true, "{dry}");
    assert!(bench.ok(&["whoami", "-n"]).contains("not tried"));
    ok(&mut bench.bare(&["init", "-r", "open", "--insecure-no-encryption"]));
    let told = lines(&ok(&mut bench.bare(&["whoami", "-r", "open", "--json"]))).remove(0);
    assert_eq!(told["encrypted"], false);
    assert!(told["role"].is_null() && told["verdict"] == "fits", "{told}");
    assert!(ok(&mut bench.bare(&["whoami", "-r", "open"])).contains("nothing is encrypted"));
    bench.write("other", &[9; 64]);
    fails(12, &mut by(&bench, "other", &["whoami"]));
}
