//! Development tasks: `cargo xtask help`.

mod ceph;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((task, rest)) if task == "ceph" => ceph::command(rest),
        _ => anyhow::bail!("tasks: ceph"),
    }
}
