//! The pages for users: every command in them is one that the program takes, those that can be run on one machine are run in
//! the pages' order, every link leads somewhere, and every key of the JSON is named.
//!
//! A shell runs the blocks marked `sh`, in a folder of the test's. It finds there a few programs of the system, others that do
//! nothing, and `cuttle`: the real one where all is local, else the real one against a place where nothing can be, which then
//! must not complain of how it was called. Whatever else a page calls is not found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::bench::{Bench, random};

const README_LINES_MAX: usize = 120;
const MIB: usize = 1 << 20;

/// Pages whose blocks are run, in this order: what one makes, the next finds.
const RUN: [&str; 5] = ["README.md", "docs/export.md", "docs/json.md", "docs/recover.md", "docs/operate.md"];
/// What stands for the places that the pages name; `{}` is the test's folder.
const PLACES: [(&str, &str); 8] = [
    ("s3://backups/ceph", "{}/repository"),
    ("s3://other/copy", "{}/copy"),
    ("/etc/", "{}/etc/"),
    ("/mnt/", "{}/mnt/"),
    ("/root/", "{}/root/"),
    ("/srv/", "{}/srv/"),
    ("/usr/local/bin/cuttle", "cuttle"),
    // As systemd reads a unit.
    ("%%", "%"),
];
/// Programs of the system that a page may call.
const REAL: [&str; 6] = ["base64", "cat", "date", "head", "mkdir", "timeout"];
/// Programs that a page may call, and that do nothing here but read what they are given.
const STUBS: [&str; 21] = [
    "aws",
    "az",
    "cargo",
    "ceph",
    "cp",
    "curl",
    "gcloud",
    "journalctl",
    "jq",
    "losetup",
    "mount",
    "nbdcopy",
    "nbdinfo",
    "qemu-img",
    "qemu-nbd",
    "radosgw-admin",
    "rbd",
    "ssh",
    "systemctl",
    "umount",
    "vgs",
];

/// The program, against a place where nothing can be: only how it was called can be wrong.
const CHECK: &str = r#"#!/bin/bash
echo "cuttle $*" >> "$ROOT/checked"
said=$(CUTTLE_REPOSITORY=/dev/null/none CEPH_CONF=/dev/null/none timeout 60 "$REAL" "$@" 2>&1 < /dev/null)
case "$said" in *"try '--help'"*) echo "cuttle $*: $said" >> "$ROOT/wrong";; esac
exit 0
"#;

/// The program on files in place of images: an image of the pool `vms` is the file `vms/IMAGE`, and one of `newpool` is where
/// `restore --all` puts it.
const RUNNER: &str = r#"#!/bin/bash
case " $* " in
*" serve "*|*" mount "*|*" import-diff "*|*" --instant "*|*" --quarantine "*|*" --shard "*) exec "$ROOT/check" "$@";;
esac
echo "cuttle $*" >> "$ROOT/ran"
args=() images=() backup= named=
for arg in "$@"; do
    case "$arg" in
    backup) backup=1; args+=("$arg") ;;
    --volume) named=1; args+=("$arg") ;;
    'rbd:vms/*') images+=(vms/db vms/web) ;;
    rbd:newpool) args+=("$ROOT/newpool/") ;;
    rbd:*) if [ "$backup" ]; then images+=("${arg#rbd:}"); else args+=("$ROOT/$(place "$arg")"); fi ;;
    *) args+=("$arg") ;;
    esac
done
if [ ${#images[@]} = 0 ]; then exec "$REAL" "${args[@]}"; fi
for image in "${images[@]}"; do
    name=(); if [ ! "$named" ]; then name=(--volume "$image"); fi
    "$REAL" "${args[@]}" "$ROOT/$(place "rbd:$image")" "${name[@]}" || exit
done
"#;
const PLACE: &str = r#"#!/bin/bash
case "$1" in
rbd:newpool/*) echo "newpool/vms/${1#rbd:newpool/}.raw" ;;
*) echo "${1#rbd:}" ;;
esac
"#;

/// The root of the source tree.
fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(page: &str) -> String {
    fs::read_to_string(tree().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}

/// The names of all pages below the tree's root and in `docs/`.
fn pages() -> Vec<String> {
    let mut out = Vec::new();
    for folder in ["", "docs/"] {
        for entry in fs::read_dir(tree().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            if name.ends_with(".md") {
                out.push(format!("{folder}{name}"));
            }
        }
    }
    out.sort();
    out
}

/// Those that are for users: they show commands.
fn for_users() -> Vec<String> {
    let is = |page: &String| page.starts_with("docs/") || page == "README.md";
    let pages: Vec<_> = pages().into_iter().filter(is).collect();
    assert!(pages.len() >= 11, "{pages:?}");
    pages
}

struct Block {
    language: String,
    text: String,
}

/// The fenced blocks of a page, those in lists too, and the page without them.
fn blocks(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut rest, mut open) = (Vec::new(), String::new(), None::<Block>);
    for line in text(page).lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => rest += &format!("{line}\n"),
        }
    }
    assert!(open.is_none(), "{page}: a block without an end");
    (blocks, rest)
}

/// What a page says to run: its blocks, and the commands of its units.
fn scripts(page: &str) -> Vec<String> {
    let mut out = Vec::new();
    for Block { language, text } in blocks(page).0 {
        match language.as_str() {
            "sh" => out.push(text),
            "ini" => out.extend(text.lines().filter_map(|l| l.strip_prefix("ExecStart=")).map(str::to_owned)),
            "yaml" => out.extend(text.lines().filter_map(|l| in_manifest(l.trim_start()))),
            "json" | "text" => {
                assert!(!text.contains("\ncuttle "), "{page}: commands are to be marked sh:\n{text}")
            }
            other => panic!("{page}: a block marked {other:?}:\n{text}"),
        }
    }
    out
}

/// What a pod runs, as its first one: `command: ["sh", "-c", …]`.
fn in_manifest(line: &str) -> Option<String> {
    let words: Vec<String> = serde_json::from_str(line.strip_prefix("command: ")?).expect("a list of words");
    let script = words.last().expect("a script").trim_start_matches("exec ");
    Some(format!("JOB_COMPLETION_INDEX=0\n{script}\n"))
}

/// A folder with all that the pages' commands find.
struct Shell {
    dir: TempDir,
}

impl Shell {
    fn new() -> Self {
        let shell = Self { dir: tempfile::tempdir().expect("a folder") };
        for folder in ["bin", "vms", "srv", "root", "mnt", "etc/cuttle", "home"] {
            fs::create_dir_all(shell.path(folder)).expect("a folder");
        }
        for stub in STUBS.iter().chain(&["vgchange"]) {
            shell.program(
                &format!("bin/{stub}"),
                "#!/bin/bash\nif [ -p /dev/stdin ]; then cat > /dev/null; fi\n",
            );
        }
        let path = std::env::var("PATH").expect("a PATH");
        for real in REAL {
            let found = std::env::split_paths(&path).map(|p| p.join(real)).find(|p| p.exists());
            symlink(found.unwrap_or_else(|| panic!("no {real}")), shell.path(&format!("bin/{real}")))
                .expect("a link");
        }
        shell.program("check", CHECK);
        shell.program("runner", RUNNER);
        shell.program("bin/place", PLACE);
        shell.change(0);
        fs::write(shell.path("srv/disk.raw"), random(9, MIB)).expect("write");
        shell
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> String {
        self.dir.path().to_str().expect("UTF-8").to_owned()
    }

    fn program(&self, name: &str, script: &str) {
        fs::write(self.path(name), script).expect("write a program");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("make it one");
    }

    /// A night of what stands for the images.
    fn change(&self, night: u64) {
        for (image, seed) in [("db", 1), ("web", 2)] {
            let mut content = random(seed, 9 * MIB);
            content[5 * MIB..6 * MIB].copy_from_slice(&random(100 + night, MIB));
            fs::write(self.path(&format!("vms/{image}")), content).expect("write an image");
        }
    }

    /// Runs a script, with this `cuttle`; it must end well.
    fn run(&self, cuttle: &str, page: &str, script: &str) {
        let link = self.path("bin/cuttle");
        let _ = fs::remove_file(&link);
        symlink(self.path(cuttle), link).expect("a link");
        let script = PLACES.iter().fold(script.to_owned(), |text, (named, place)| {
            text.replace(named, &place.replace("{}", &self.root()))
        });
        let outside = script.lines().find(|line| {
            line.split('>').skip(1).any(|to| {
                let to = to.trim_start();
                to.starts_with('/') && !to.starts_with(&self.root())
            })
        });
        assert_eq!(outside, None, "{page}: writes outside of the test's folder");
        let script = format!("set -eo pipefail\n{script}\nwait\n");
        let output = Command::new("/bin/bash")
            .args(["-c", &script])
            .current_dir(self.dir.path())
            .env_clear()
            .envs([("ROOT", self.root()), ("HOME", self.root() + "/home"), ("PATH", self.root() + "/bin")])
            .envs([
                ("REAL", env!("CARGO_BIN_EXE_cuttle")),
                ("AWS_EC2_METADATA_DISABLED", "true"),
                ("TZ", "UTC"),
            ])
            .output()
            .expect("run a shell");
        let (said, told) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{page}: {}\n{script}\n{told}{said}", output.status);
    }

    /// What the commands left in a file of the test's.
    fn left(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

/// The variables that a page finds set, as its first block or the README sets them.
fn with_settings(script: &str) -> String {
    format!("set -a; . /etc/cuttle/env; set +a\n{script}")
}

#[test]
fn every_command_of_the_pages_is_one_that_the_program_takes() {
    let shell = Shell::new();
    fs::write(shell.path("etc/cuttle/env"), "CUTTLE_KEY_FILE=/dev/null\n").expect("write");
    let mut written = 0;
    for page in for_users() {
        let scripts = scripts(&page);
        for script in &scripts {
            shell.run("check", &page, script);
        }
        let is_command = |line: &&str| line.trim_start().starts_with("cuttle ");
        written += scripts.iter().flat_map(|s| s.lines()).filter(is_command).count();
    }
    let checked = shell.left("checked");
    // Some stand behind other words of their line.
    assert!(written > 60 && checked.lines().count() >= written, "{written} written\n{checked}");
    assert_eq!(shell.left("wrong"), "", "commands that the program does not take");
}

#[test]
fn every_command_in_the_text_of_the_pages_is_one_that_the_program_takes() {
    let shell = Shell::new();
    let mut commands = BTreeSet::new();
    for page in for_users() {
        let rest = blocks(&page).1;
        // What is between backquotes: every second part.
        let quoted = rest.split('`').skip(1).step_by(2);
        commands.extend(quoted.filter(|q| q.starts_with("cuttle ")).map(|q| (page.clone(), q.to_owned())));
    }
    assert!(commands.len() > 30, "{commands:?}");
    for (page, command) in &commands {
        shell.run("check", page, command);
        if !shell.left("wrong").is_empty() {
            // It only names a command: then its help is there.
            fs::remove_file(shell.path("wrong")).expect("remove");
            shell.run("check", page, &format!("{command} --help"));
        }
        assert_eq!(shell.left("wrong"), "", "{page}: `{command}`");
    }
}

#[test]
fn the_pages_can_be_followed_from_the_first_command_to_the_last() {
    let shell = Shell::new();
    for page in RUN {
        let script =
            blocks(page).0.into_iter().filter(|b| b.language == "sh").map(|b| b.text).collect::<String>();
        if page == "README.md" {
            shell.run("runner", page, &script);
            for night in 1..=2 {
                shell.change(night);
                shell.run("runner", page, &with_settings("cuttle backup 'rbd:vms/*'"));
            }
            shell.run("runner", page, &with_settings("cuttle verify vms/db --against rbd:vms/db"));
            copy(&shell.path("repository"), &shell.path("copy"));
            continue;
        }
        shell.run("runner", page, &with_settings(&script));
        if page == "docs/recover.md" {
            // The page ends with another image than it begins with.
            shell.run("runner", page, &with_settings("cuttle backup rbd:vms/db --accept-new-identity"));
        }
    }
    let ran = shell.left("ran");
    assert!(ran.lines().count() > 50, "{ran}");
    assert_eq!(shell.left("wrong"), "");
    // Nothing that a page writes is for others to read.
    let mode = |name: &str| fs::metadata(shell.path(name)).expect(name).permissions().mode() & 0o777;
    for secret in ["password", "second", "new", "env"] {
        assert_eq!(mode(&format!("etc/cuttle/{secret}")), 0o600, "{secret}");
    }
    let back = fs::read(shell.path("newpool/vms/web.raw")).expect("a volume");
    assert_eq!(back, fs::read(shell.path("vms/web")).expect("an image"), "what came back is what was there");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).expect("an entry");
        match path.is_dir() {
            true => copy(&path, &to.join(name)),
            false => fs::copy(&path, to.join(name)).map(drop).expect("copied"),
        }
    }
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = text("README.md");
    assert!(readme.lines().count() <= README_LINES_MAX, "{} lines", readme.lines().count());
    for page in pages().iter().filter(|page| *page != "README.md") {
        assert!(readme.contains(&format!("]({page})")), "{page} is not linked from README.md");
    }
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for page in pages() {
        let rest = blocks(&page).1;
        for target in rest.split("](").skip(1).filter_map(|part| part.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let folder = tree().join(&page).parent().expect("a folder").to_owned();
            let path = if file.is_empty() { tree().join(&page) } else { folder.join(file) };
            assert!(path.exists(), "{page}: {target}");
            if !place.is_empty() {
                let text = fs::read_to_string(&path).expect("a page");
                let mut anchors = text
                    .lines()
                    .filter(|l| l.starts_with('#'))
                    .map(|l| anchor(l.trim_start_matches('#').trim()));
                assert!(anchors.any(|a| a == place), "{page}: {target}");
            }
        }
    }
    assert!(links > 40, "{links}");
}

fn keys(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                out.insert(key.clone());
                keys(value, out);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, out)),
        _ => {}
    }
}

/// The part of docs/json.md below a heading.
fn section(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("no section {name}"));
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// Every line of JSON that a run tells, whatever becomes of it.
fn told(bench: &Bench, args: &[&str]) -> Vec<Value> {
    let output = bench.cuttle(&[args, &["--json"]].concat()).output().expect("run cuttle");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("UTF-8")).concat();
    let told: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for line in told.iter().filter(|line| line.is_object()) {
        assert_eq!(line["schema"], 1, "{args:?}: {line}");
    }
    assert!(!told.is_empty(), "{args:?}: {said}");
    told
}

/// What a part of the page says of keys: in backquotes, as they are. Values have quotes of their own there.
fn keys_said(part: &str) -> BTreeSet<String> {
    let is_key = |word: &&str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    part.split('`').skip(1).step_by(2).filter(is_key).map(str::to_owned).collect()
}

/// Parts about what this test does not do: it has no cluster, and nobody to serve.
const NOT_RUN: [&str; 4] = ["restore --instant", "import-diff", "serve", "mount"];
/// Keys that an image has, and a backup that is waited for.
const RARE: [(&str, &[&str]); 2] = [
    (
        "snapshots",
        &[
            "cluster_fsid",
            "pool",
            "namespace",
            "image",
            "image_id",
            "name",
            "rbd_snap_id",
            "own",
            "made",
            "others",
            "replaces",
            "replaced_has_clean",
            "objects",
        ],
    ),
    ("prune", &["volume", "sequence", "host", "process", "last_sign_at"]),
];

/// Runs of everything, each with the part of the page that says what it tells.
fn all_told() -> Vec<(&'static str, Vec<&'static str>, Vec<Value>)> {
    let bench = Bench::with_repository();
    bench.sparse("disk.raw");
    bench.write("key2", &random(3, 64));
    let mut out = Vec::new();
    let mut run = |part, args: &[&'static str]| out.push((part, args.to_vec(), told(&bench, args)));
    run("init", &["init", "-n", "-r", "another"]);
    run("init", &["init", "-r", "another"]);
    run("backup", &["backup", "disk.raw", "--volume", "vms/db", "--tag", "a"]);
    run("backup", &["backup", "disk.raw", "--volume", "vms/db"]);
    run("backup", &["backup", "-n", "disk.raw", "--volume", "vms/db"]);
    run("backup", &["backup", "disk.raw", "nothing.raw"]);
    run("snapshots", &["snapshots"]);
    run("log", &["log"]);
    run("whoami", &["whoami"]);
    run("whoami", &["whoami", "-n"]);
    run("diff", &["diff", "vms/db"]);
    run("restore", &["restore", "vms/db", "back.raw", "--verify"]);
    run("restore", &["restore", "-n", "vms/db", "another.raw"]);
    run("restore", &["restore", "--all", "--to", "./all/"]);
    bench.write("all/vms/db.raw", b"somebody's");
    run("restore", &["restore", "--all", "--to", "./all/"]);
    run("export", &["export", "-n", "vms/db@2", "night.diff", "--format", "diff-v1"]);
    run("export", &["export", "vms/db@2", "night.diff", "--format", "diff-v1"]);
    run("export", &["export", "vms/db@2", "night.image", "--format", "image-v2"]);
    run("inspect", &["inspect", "night.diff", "--extents"]);
    run("inspect", &["inspect", "night.image"]);
    run("verify", &["verify", "--read-data"]);
    run("verify", &["verify", "--no-key"]);
    run("verify", &["verify", "vms/db", "--against", "disk.raw"]);
    run("verify", &["verify", "vms/db", "--against", "key2"]);
    run("stats", &["stats", "--snapshots"]);
    run("protect, unprotect, tag", &["protect", "vms/db@2"]);
    run("forget", &["forget", "vms/db@1"]);
    run("recall", &["recall", "-n", "vms/db@1"]);
    run("recall", &["recall", "vms/db@1"]);
    run("prune", &["prune", "-n"]);
    run("prune", &["prune"]);
    run("key, project", &["key", "list"]);
    run("key, project", &["key", "add", "-n", "--new-key-file", "key2"]);
    run("key, project", &["key", "add", "--new-key-file", "key2"]);
    let id = told(&bench, &["key", "list"])[0][1]["key_id"].as_str().expect("an id").to_owned().leak();
    out.push(("key, project", vec!["key", "remove"], told(&bench, &["key", "remove", id])));
    let mut run = |part, args: &[&'static str]| out.push((part, args.to_vec(), told(&bench, args)));
    run("key, project", &["project", "create", "-n", "tenant-a"]);
    run("key, project", &["project", "create", "tenant-a"]);
    run("key, project", &["project", "list"]);
    run("key, project", &["policy", "--role", "keeper", "--for", "rgw", "-r", "s3://bucket/ceph"]);
    fs::remove_file(&bench.chunks()[0]).expect("lose a chunk");
    run("verify", &["verify", "-n"]);
    run("verify", &["verify"]);
    run("verify", &["verify", "--repair", "-n"]);
    bench.write("disk.raw", b"another");
    run("verify", &["verify", "--repair"]);
    run("prune", &["prune"]);
    let planted = "projects/default/retention/0000000001/0000000002.forget";
    fs::create_dir_all(bench.path("repo/projects/default/retention/0000000001")).expect("a folder");
    bench.write(&format!("repo/{planted}"), b"planted");
    run("verify", &["verify", "--quarantine", planted, "-n"]);
    out
}

/// Whoever writes a script finds all that a line has, and finds in the line all that the page says.
#[test]
fn the_page_about_json_names_every_key_and_no_other() {
    let page = text("docs/json.md");
    let everywhere = section(&page, "Everywhere");
    let (mut all, mut by_part) = (BTreeSet::new(), BTreeMap::<&str, BTreeSet<String>>::new());
    for (part, args, told) in all_told() {
        let mut found = BTreeSet::new();
        told.iter().for_each(|line| keys(line, &mut found));
        // What is said of restore is said of an export, too.
        let also = if part == "export" { section(&page, "restore") } else { String::new() };
        let said = keys_said(&[section(&page, part), also, everywhere.clone()].join(" "));
        let unsaid: Vec<_> = found.difference(&said).collect();
        assert!(unsaid.is_empty(), "{args:?}: docs/json.md does not name {unsaid:?} in section {part}");
        all.extend(found.clone());
        by_part.entry(part).or_default().extend(found);
    }
    let missing: Vec<_> = keys_said(&everywhere).difference(&all).cloned().collect();
    assert!(missing.is_empty(), "docs/json.md names {missing:?}, which no line has");
    for part in page.lines().filter_map(|line| line.strip_prefix("## ")) {
        if part == "Everywhere" || NOT_RUN.contains(&part) {
            continue;
        }
        let found = by_part.get(part).unwrap_or_else(|| panic!("nothing is run for section {part}"));
        let rare = RARE.iter().find(|(of, _)| *of == part).map_or(&[][..], |(_, keys)| keys);
        let missing: Vec<_> = keys_said(&section(&page, part)).difference(found).cloned().collect();
        let missing: Vec<_> = missing.iter().filter(|key| !rare.contains(&key.as_str())).collect();
        assert!(missing.is_empty(), "section {part} names {missing:?}, which no line of it has");
    }
}
