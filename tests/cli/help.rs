//! Help, manual pages and completions.

use crate::bench::{Bench, ok};

const COMMANDS: [&str; 20] = [
    "init",
    "backup",
    "snapshots",
    "restore",
    "export",
    "diff",
    "inspect",
    "import-diff",
    "serve",
    "verify",
    "forget",
    "prune",
    "mount",
    "protect",
    "unprotect",
    "tag",
    "stats",
    "key",
    "project",
    "completions",
];

#[test]
fn every_command_explains_itself_with_examples() {
    let bench = Bench::new();
    let all = ok(&mut bench.bare(&["--help"]));
    for command in COMMANDS {
        assert!(all.contains(&format!("\n  {command} ")), "{command} is listed:\n{all}");
        let help = ok(&mut bench.bare(&[command, "--help"]));
        assert!(help.contains("Examples:") && help.contains("--repo"), "{command}:\n{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 122), "{command}: lines fit");
    }
    for part in ["Exit codes:", "CUTTLE_REPOSITORY_FILE", "CEPH_ARGS", "\n  12 "] {
        assert!(all.contains(part), "{part}:\n{all}");
    }
}

#[test]
fn manual_pages_and_completions_are_made() {
    let bench = Bench::new();
    ok(&mut bench.bare(&["man", "pages"]));
    for page in COMMANDS.map(|c| format!("cuttle-{c}.1")).iter().map(String::as_str).chain(["cuttle.1"]) {
        let text = String::from_utf8(bench.read(&format!("pages/{page}"))).expect("UTF-8");
        assert!(text.contains(".TH") && text.contains("Examples:"), "{page}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&mut bench.bare(&["completions", shell]));
        assert!(COMMANDS.iter().all(|c| script.contains(c)), "{shell}");
    }
}
