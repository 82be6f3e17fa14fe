//! `cargo xtask fuzz [TARGET…] [--seconds N] [--save]`: feeds the parsers with inputs that coverage leads to.
//!
//! libFuzzer by way of `libfuzzer-sys`, on the stable compiler: the coverage that it needs is an LLVM pass, and only
//! the sanitizers, which safe code needs less, are kept to nightly. Each file in `tests/fuzz/src/bin/` is a target;
//! its saved inputs are in `fixtures/fuzz/TARGET/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "\
cargo xtask fuzz [TARGET...] [--seconds N] [--save]
  TARGET        files of tests/fuzz/src/bin; all of them unless named
  --seconds N   how long each runs (60)
  --save        adds the inputs that reached something new to fixtures/fuzz/TARGET";

/// How long a target runs unless told otherwise.
const SECONDS_DEFAULT: u64 = 60;
/// An input that takes more memory is a finding.
const MEMORY_MIB_MAX: u32 = 512;
/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: u32 = 5;

/// Counters at every edge, the table that tells where they are, and the operands of comparisons.
const COVERAGE_FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg=fuzzing";

struct Options {
    targets: Vec<String>,
    seconds: u64,
    save: bool,
}

pub fn command(args: &[String]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    let Some(options) = parse(args, &targets(root)?)? else {
        println!("{HELP}");
        return Ok(());
    };
    let programs = build(root, &options.targets)?;
    let mut failed = Vec::new();
    for (target, program) in options.targets.iter().zip(programs) {
        if !run(root, target, &program, &options)? {
            failed.push(target.as_str());
        }
    }
    ensure!(failed.is_empty(), "the fuzzer found something in: {}", failed.join(", "));
    println!("fuzz: {} targets found nothing", options.targets.len());
    Ok(())
}

fn parse(args: &[String], known: &[String]) -> Result<Option<Options>> {
    let mut options = Options { targets: Vec::new(), seconds: SECONDS_DEFAULT, save: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--save" => options.save = true,
            "--seconds" => {
                let seconds = args.next().context("--seconds needs a number")?;
                options.seconds = seconds.parse().with_context(|| format!("--seconds {seconds}"))?;
            }
            target if known.iter().any(|k| k == target) => options.targets.push(target.to_owned()),
            other => bail!("{other:?}: expected one of the targets {}\n{HELP}", known.join(", ")),
        }
    }
    if options.targets.is_empty() {
        options.targets = known.to_vec();
    }
    Ok(Some(options))
}

/// The names of all targets, sorted.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/fuzz/src/bin");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if let (Some(stem), Some("rs")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds targets; gives their programs in the same order.
fn build(root: &Path, targets: &[String]) -> Result<Vec<PathBuf>> {
    let host = host_triple()?;
    let target_dir = root.join("target/fuzz");
    let mut cargo = Command::new(env!("CARGO"));
    // Naming the target keeps the flags from build scripts and procedural macros, which could not be linked with them.
    cargo
        .current_dir(root.join("tests/fuzz"))
        .args(["build", "--locked", "--target", &host])
        .arg("--target-dir");
    cargo.arg(&target_dir).args(targets.iter().flat_map(|t| ["--bin", t]));
    cargo.env("RUSTFLAGS", COVERAGE_FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = cargo.status().context("start cargo")?;
    ensure!(status.success(), "the fuzz targets do not build: {status}");
    Ok(targets.iter().map(|t| target_dir.join(&host).join("debug").join(t)).collect())
}

fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(rustc).arg("-vV").output().context("start rustc")?;
    let text = String::from_utf8(out.stdout).context("rustc -vV")?;
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Runs one target; false where it found something.
fn run(root: &Path, target: &str, program: &Path, options: &Options) -> Result<bool> {
    let saved = root.join("fixtures/fuzz").join(target);
    let scratch = root.join("target/fuzz").join(target);
    let found = scratch.join("corpus");
    for folder in [&saved, &found] {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    println!("fuzz: {target}, {} s", options.seconds);
    let mut fuzzer = Command::new(program);
    fuzzer.current_dir(&scratch).args([
        format!("-max_total_time={}", options.seconds),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
    ]);
    // New inputs go to the first folder; the saved ones are only read.
    let mut artifacts = OsString::from("-artifact_prefix=");
    artifacts.push(scratch.join(""));
    fuzzer.arg(artifacts).arg(&found).arg(&saved);
    let (done, log) = logged(&mut fuzzer, &scratch.join("log"))?;
    if !done {
        println!("{log}\nfuzz: {target} found something; the input is in {}", scratch.display());
        println!("fuzz: run it again by: {} INPUT", program.display());
        return Ok(false);
    }
    log.lines().filter(|l| l.starts_with("stat::")).for_each(|l| println!("{l}"));
    if options.save {
        let mut merge = Command::new(program);
        merge.current_dir(&scratch).arg("-merge=1").arg(&saved).arg(&found);
        let (done, log) = logged(&mut merge, &scratch.join("log"))?;
        ensure!(done, "saving the inputs of {target}:\n{log}");
    }
    Ok(true)
}

/// Runs a fuzzer with its many words in a file; gives whether it ended well, and the words.
fn logged(fuzzer: &mut Command, path: &Path) -> Result<(bool, String)> {
    let file = std::fs::File::create(path).with_context(|| format!("make {}", path.display()))?;
    let status = fuzzer.stderr(file).status().context("start the fuzzer")?;
    let log = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok((status.success(), String::from_utf8_lossy(&log).into_owned()))
}
