//! Pruning as an operator runs it.

use std::path::PathBuf;

use serde_json::json;

use crate::bench::Bench;

#[test]
fn a_prune_tells_what_it_found_and_did() {
    let bench = Bench::with_repository();
    bench.sparse("disk.img");
    bench.ok(&["backup", "disk.img"]);
    let said = bench.ok(&["prune"]);
    assert!(said.contains("1 volume, 1 snapshot") && said.contains("nothing to delete"), "{said}");
    let found = bench.json(&["prune", "-n"]).remove(0);
    assert_eq!((&found["message_type"], &found["dry_run"]), (&json!("summary"), &json!(true)));
    assert_eq!((&found["unreferenced"]["objects"], &found["deletes_to_come"]), (&json!(0), &json!(0)));

    // An upload that came to nothing, and what a crash left beside it.
    let chunk = PathBuf::from(bench.chunks().remove(0));
    let name = chunk.file_name().expect("a name").to_str().expect("ASCII").to_owned();
    let other = chunk.with_file_name(format!("{name}.0000beef"));
    std::fs::copy(&chunk, &other).expect("copied");
    let staged = chunk.with_file_name(format!("{name}#7"));
    std::fs::write(&staged, "half").expect("written");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 3600);
    let file = std::fs::File::options().write(true).open(&staged).expect("open");
    file.set_modified(old).expect("aged");

    let said = bench.ok(&["prune", "--dry-run"]);
    assert!(said.contains("dry run: 1 object") && said.contains("about 1 delete"), "{said}");
    assert!(other.exists() && staged.exists());
    let said = bench.ok(&["prune", "--lease", "40h"]);
    assert!(said.contains("deleted 1 object") && said.contains("(1 chunk, 0 pages, 0 bundles)"), "{said}");
    assert!(!other.exists() && staged.exists() && chunk.exists());
    let said = bench.ok(&["prune"]);
    assert!(said.contains("nothing to delete") && said.contains("removed 1 object (4 B)"), "{said}");
    assert!(!staged.exists());
    bench.ok(&["verify", "--read-data"]);
    bench.fails(1, &["prune", "--lease", "soon"]);
}
