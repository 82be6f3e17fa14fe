//! Development tasks: `cargo xtask help`.

mod ceph;
mod fuzz;
mod servers;
mod test;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((task, rest)) if task == "ceph" => ceph::command(rest),
        Some((task, rest)) if task == "fuzz" => fuzz::command(rest),
        Some((task, rest)) if task == "test" => test::command(rest),
        _ => anyhow::bail!("tasks: ceph, fuzz, test"),
    }
}
