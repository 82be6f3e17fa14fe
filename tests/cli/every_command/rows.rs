//! What each command is run with.

use std::fmt;

/// One run of a command.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its words, with - between them.
    pub command: &'static str,
    pub args: Vec<&'static str>,
    /// How it ends when nothing disturbs it.
    pub code: i32,
    /// It prints a volume, and no words about one.
    pub stdout_is_data: bool,
    /// It ends when it is told to; until then it serves.
    pub serves: bool,
    /// Run again after it was done it fails: the name is taken.
    pub once: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.args.join(" "))
    }
}

fn row(command: &'static str, code: i32, args: &str) -> Row {
    let args = args.to_owned().leak().split(' ').collect();
    Row { command, args, code, stdout_is_data: false, serves: false, once: false }
}

fn data(row: Row) -> Row {
    Row { stdout_is_data: true, ..row }
}

fn serves(row: Row) -> Row {
    Row { serves: true, ..row }
}

fn once(row: Row) -> Row {
    Row { once: true, ..row }
}

/// Each command, as it succeeds and as it fails.
pub fn rows() -> Vec<Row> {
    vec![
        once(row("init", 0, "init -r new --chunk-size 32KiB")),
        row("init", 1, "init"),
        row("backup", 0, "backup x y"),
        row("backup", 3, "backup x nothing.img"),
        row("backup", 1, "backup nothing.img --json"),
        row("backup", 0, "backup --volume c --from-command -- cat x"),
        row("backup", 1, "backup --volume c --from-command -- sh -c false"),
        row("snapshots", 0, "snapshots"),
        row("snapshots", 1, "snapshots nothing"),
        row("log", 0, "log"),
        row("log", 1, "log nothing"),
        once(row("restore", 0, "restore v out")),
        row("restore", 1, "restore v x"),
        data(row("restore", 0, "restore v -")),
        row("restore", 0, "restore --all --to all/ --json"),
        once(row("export", 0, "export v out.qcow2 --format qcow2")),
        row("export", 1, "export v x --format raw"),
        data(row("export", 0, "export v - --format diff-v1")),
        row("diff", 0, "diff v@1 v@2"),
        row("diff", 1, "diff v@1 v@9"),
        row("inspect", 0, "inspect whole.diff --extents"),
        row("inspect", 1, "inspect cut.diff --json"),
        row("import-diff", 1, "import-diff whole.diff rbd:rbd/x -c nothing.conf"),
        serves(row("serve", 0, "serve --listen 127.0.0.1:0")),
        row("serve", 1, "serve nothing"),
        row("verify", 0, "verify --read-data"),
        row("verify", 1, "verify --read-data -r hurt"),
        row("forget", 0, "forget --keep-last 1 --prune"),
        row("forget", 1, "forget v@1 v@9"),
        row("protect", 0, "protect v@1"),
        row("protect", 1, "protect v@9"),
        row("unprotect", 0, "unprotect v@1"),
        row("tag", 0, "tag v@1 --add x"),
        row("tag", 1, "tag v@1 v@9 --add x"),
        row("stats", 0, "stats --snapshots"),
        row("recall", 1, "recall v@1"),
        row("recall", 1, "recall v@9 -n"),
        row("prune", 0, "prune"),
        row("prune", 1, "prune -r hurt"),
        serves(row("mount", 0, "mount mnt")),
        row("mount", 1, "mount no-such-folder"),
        row("key-list", 0, "key list"),
        row("key-add", 0, "key add --new-key-file key2"),
        row("key-add", 1, "key add --new-key-file key"),
        row("key-remove", 1, "key remove 0"),
        once(row("project-create", 0, "project create tenant")),
        row("project-create", 1, "project create default"),
        row("project-list", 0, "project list"),
        row("policy", 0, "policy --role backup --for aws -r s3://b/p"),
        row("policy", 1, "policy --role backup --for rgw"),
        row("whoami", 0, "whoami"),
        row("whoami", 10, "whoami -r nowhere"),
        row("completions", 0, "completions bash"),
        row("completions", 1, "completions nonsense"),
    ]
}
