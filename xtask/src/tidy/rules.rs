//! What a line, a signature and a file must look like.

use super::signatures::tuples;
use super::source::{Source, without_comment};

/// Lines of a source file without its tests.
const FILE_LINES_MAX: usize = 450;

pub(super) fn check(source: &Source, faults: &mut Vec<String>) {
    let path = &source.path;
    let lines = source.lines.len();
    if lines > FILE_LINES_MAX {
        faults.push(format!(
            "{}: {lines} lines, at most {FILE_LINES_MAX}: is it still one idea?",
            path.display()
        ));
    }
    for function in tuples(&source.code()) {
        faults.push(format!(
            "{}: fn {function} takes a tuple: parameters of their own, or a struct with a name",
            path.display()
        ));
    }
    let mut before: Vec<&str> = Vec::new();
    for (number, line) in &source.lines {
        let code = without_comment(line);
        let mut fault = |what: &str| faults.push(format!("{}:{number}: {what}", path.display()));
        for banned in [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "#[ignore"] {
            if code.contains(banned) {
                fault(&format!("{banned} does not belong here: input never panics"));
            }
        }
        let has_unsafe = code.contains("unsafe {") || code.contains("unsafe impl");
        if has_unsafe && !path.starts_with("src/rbd") {
            fault("unsafe outside src/rbd");
        }
        if has_unsafe
            && !before.iter().rev().take(12).any(|l| l.contains("SAFETY:"))
            && !line.contains("SAFETY:")
        {
            fault("unsafe without a SAFETY comment");
        }
        before.push(line);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_behind_a_module_of_tests_keeps_the_rules_too() {
        let text =
            "#[cfg(test)]\nmod tests;\nfn f((a, b): (u8, u8)) {\n    x.unwrap();\n    unsafe { y }\n}\n";
        let mut faults = Vec::new();
        check(&Source::new(Path::new("src/a.rs"), text), &mut faults);
        let said =
            ["fn f takes a tuple", "a.rs:4: .unwrap()", "a.rs:5: unsafe outside", "a.rs:5: unsafe without"];
        assert_eq!(faults.len(), said.len(), "{faults:?}");
        assert!(said.iter().zip(&faults).all(|(said, fault)| fault.contains(said)), "{faults:?}");
    }
}
