//! Help and completions.

use crate::bench::{Bench, ok};

const COMMANDS: [&str; 22] = [
    "init",
    "backup",
    "snapshots",
    "log",
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
    "whoami",
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
fn completions_are_made() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&mut bench.bare(&["completions", shell]));
        assert!(COMMANDS.iter().all(|c| script.contains(c)), "{shell}");
    }
}
