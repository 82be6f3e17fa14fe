//! Development tasks: `cargo xtask help`.

fn main() -> anyhow::Result<()> {
    Ok(())
}
