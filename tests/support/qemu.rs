//! QEMU's own `qemu-img`, which says what a disk image holds.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// `qemu-img`, where it is installed.
pub struct QemuImg;

impl QemuImg {
    /// Absent, the test is skipped.
    pub fn find() -> Option<Self> {
        if Command::new("qemu-img").arg("--version").output().is_ok_and(|o| o.status.success()) {
            return Some(Self);
        }
        super::skip("qemu-img is not installed (package qemu-utils)");
        None
    }

    /// Runs it, which must succeed; its standard output.
    pub fn run(&self, args: &[&str]) -> Vec<u8> {
        let output = Command::new("qemu-img").args(args).output().expect("run qemu-img");
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "qemu-img {}: {said}{error}", args.join(" "));
        output.stdout
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.run(args)).expect("JSON of qemu-img")
    }

    /// No error, no leak, nothing to repair.
    pub fn check(&self, file: &Path) {
        let found = self.json(&["check", "--output=json", "-f", "qcow2", text(file)]);
        for kind in ["corruptions", "leaks", "check-errors"] {
            assert!(found.get(kind).and_then(Value::as_u64).unwrap_or(0) == 0, "{}: {found}", file.display());
        }
    }

    /// The bytes of an image, through its backing files.
    pub fn bytes(&self, file: &Path) -> Vec<u8> {
        let raw = file.with_extension("converted");
        self.run(&["convert", "-f", "qcow2", "-O", "raw", text(file), text(&raw)]);
        let bytes = std::fs::read(&raw).expect("the converted image");
        std::fs::remove_file(&raw).expect("removed");
        bytes
    }

    /// What it says of each image of a backing chain, the newest first.
    pub fn chain(&self, file: &Path) -> Vec<Value> {
        let found = self.json(&["info", "--backing-chain", "--output=json", text(file)]);
        found.as_array().expect("a list").clone()
    }

    /// The ranges of an image that no cluster is allocated for, bytes together: holes, and what a backing file holds.
    pub fn unallocated_bytes(&self, file: &Path) -> u64 {
        let map = self.json(&["map", "--output=json", "-f", "qcow2", text(file)]);
        let range = |range: &Value| match range["present"].as_bool() {
            Some(false) => range["length"].as_u64().expect("a length"),
            _ => 0,
        };
        map.as_array().expect("a list").iter().map(range).sum()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
