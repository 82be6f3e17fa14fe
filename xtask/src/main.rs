//! Development tasks: `cargo xtask help`.

mod bench;
mod ceph;
mod demo;
mod disk;
mod fuzz;
mod lint;
mod model;
mod numbers;
mod pages;
mod places;
mod servers;
mod simulate;
mod soak;
mod test;
mod tidy;

const HELP: &str = "\
cargo xtask TASK

  test [ARGUMENTS]    starts every test server, runs all tests, counts what was skipped
  demo [--ceph]       the main job before your eyes, with --ceph on a real cluster
  lint                formatting, clippy, documentation, tidy
  ci                  lint, test, and a minute of each fuzz target
  tidy [--accept]     the rules that the compiler does not check; --accept: specification and code agree as they are
  pages [DIR]         docs/options.md, made from the command line; with DIR manual pages and completions too
  model [--full] [--states N] [--only TEXT]   every state of the protocol, within bounds; --full takes some minutes
  model --broken [NAME]                       the shortest way to a loss when a rule is broken
  fuzz [TARGET…] [--seconds N] [--save]
  simulate [--seeds N] [--seed S]         worlds in which everything goes wrong: a million, or one with its log
  soak [--minutes N] [--cycles N] [--store local|rgw]   the real program on a real store: many at once, and killed
  soak --histories N [--seed S]           random histories of images on a real Ceph cluster
  bench [--size GIB] [--from DIR]         backups and restores against the ceiling and beside other tools
  bench --delta [--size GIB] [--from DIR] a database's day: deltas against whole chunks and against the changed blocks
  bench --ceph        incrementals of a 1 TiB thin image beside `rbd diff` and `rbd export-diff`
  bench --prune       a prune over ten million references: time, memory, requests
  ceph up|down DIR [--port N] [--rgw N]   a real Ceph cluster on loopback
";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    match task.as_str() {
        "bench" => bench::command(rest),
        "ceph" => ceph::command(rest),
        "ci" => lint::ci(),
        "demo" => demo::command(rest),
        "fuzz" => fuzz::command(rest),
        "lint" => lint::lint(),
        "model" => model::command(rest),
        "pages" => pages::command(rest),
        "simulate" => simulate::command(rest),
        "soak" => soak::command(rest),
        "test" => test::command(rest),
        "tidy" => tidy::command(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => anyhow::bail!("unknown task {other:?}\n\n{HELP}"),
    }
}
