//! `cargo xtask bench --delta`: a database's day on a real file-system image, taken up as a diff stream: what it uploads and how long it
//! takes, with deltas and without, held against zstd over the changed blocks alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Run, build, make_image, timed};
use crate::numbers::Numbers;

const BLOCK_BYTES: usize = 4096;
const CHUNK_BYTES: usize = 4 << 20;
/// Of the blocks in the database's files, one in so many is written anew.
const REWRITTEN_ONE_IN: u64 = 50;
/// Every other run of so many chunks belongs to the database.
const FILE_CHUNKS: usize = 16;
/// Each run is repeated so often, turn by turn; the fastest counts, as everything else only ever adds.
const RUNS: usize = 5;
const SLOW_STORE: &str = "50MiB";

/// What must be reached.
const UPLOADED_MAX: f64 = 1.15;
const WALL_LOCAL_MAX: f64 = 1.3;
const WALL_SLOW_MAX: f64 = 1.0;

pub fn run(dir: &Path, size_gib: u64, from: &str) -> Result<()> {
    build()?;
    let image = dir.join("fs.img");
    make_image(&image, size_gib, from)?;
    let bench = Bench { dir: dir.to_owned(), cuttle: fs::canonicalize("target/release/cuttle")? };
    let image = Image { file: File::open(&image)?, size_bytes: size_gib << 30 };
    image.write_all(&dir.join("first.diff"))?;
    let day = Day::of(&image, 1)?;
    day.write(&image, &dir.join("day.diff"))?;
    let (blocks, reference) = (day.changed.len() * BLOCK_BYTES, day.compressed_bytes()?);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "the day: {:.1} MiB of changed blocks in {} chunks; zstd 1 makes {:.1} MiB of them",
        mib(blocks as f64),
        day.by_chunk().len(),
        mib(reference as f64)
    );
    bench.first_backup()?;
    println!("\n{:<12}{:>14}{:>14}{:>14}{:>12}", "", "stored MiB", "local", SLOW_STORE, "peak MiB");
    let [deltas, full] = bench.measure()?;
    for (name, found) in [("deltas", &deltas), ("no deltas", &full)] {
        let [local, slow] = found.seconds.map(|s| format!("{s:.2} s"));
        println!("{name:<12}{:>14.1}{local:>14}{slow:>14}{:>12.0}", mib(found.stored_bytes), found.peak_mib);
    }
    println!();
    let verdict = |what: &str, found: f64, bar: f64| {
        println!("{what}: {found:.2}, at most {bar}: {}", if found <= bar { "reached" } else { "MISSED" });
        found <= bar
    };
    let reached = [
        verdict(
            "stored, of zstd 1 over the changed blocks",
            deltas.stored_bytes / reference as f64,
            UPLOADED_MAX,
        ),
        verdict(
            "time on a local store, of that without deltas",
            deltas.seconds[0] / full.seconds[0],
            WALL_LOCAL_MAX,
        ),
        verdict(
            "time on a slow store, of that without deltas",
            deltas.seconds[1] / full.seconds[1],
            WALL_SLOW_MAX,
        ),
    ];
    ensure!(reached.iter().all(|r| *r), "a bar was missed");
    Ok(())
}

struct Image {
    file: File,
    size_bytes: u64,
}

impl Image {
    /// All of it as `rbd diff v1` from nothing to snapshot "one".
    fn write_all(&self, to: &Path) -> Result<()> {
        let mut out = BufWriter::new(File::create(to)?);
        begin(&mut out, None, "one", self.size_bytes)?;
        let mut piece = vec![0; 1 << 20];
        for offset in (0..self.size_bytes).step_by(piece.len()) {
            self.file.read_exact_at(&mut piece, offset)?;
            if !is_zero(&piece) {
                data(&mut out, offset, &piece)?;
            }
        }
        Ok(out.write_all(b"e")?)
    }

    fn block(&self, number: u64) -> Result<Vec<u8>> {
        let mut block = vec![0; BLOCK_BYTES];
        self.file.read_exact_at(&mut block, number * BLOCK_BYTES as u64)?;
        Ok(block)
    }
}

/// A day's changed blocks with their new content.
struct Day {
    changed: BTreeMap<u64, Vec<u8>>,
}

impl Day {
    /// Rewrites blocks of the database's files. What is written is real, too: a block from elsewhere in the image, so nothing of
    /// what was there before is in it.
    fn of(image: &Image, seed: u64) -> Result<Self> {
        let mut numbers = Numbers::new(seed);
        let (mut files, mut others) = (Vec::new(), Vec::new());
        let mut chunk = vec![0; CHUNK_BYTES];
        for number in 0..(image.size_bytes as usize / CHUNK_BYTES) {
            image.file.read_exact_at(&mut chunk, (number * CHUNK_BYTES) as u64)?;
            let blocks = chunk.chunks(BLOCK_BYTES).enumerate().filter(|(_, block)| !is_zero(block));
            let of_file = (number / FILE_CHUNKS).is_multiple_of(2);
            let list = if of_file { &mut files } else { &mut others };
            list.extend(blocks.map(|(at, _)| (number * (CHUNK_BYTES / BLOCK_BYTES) + at) as u64));
        }
        ensure!(files.len() > 1000 && others.len() > 1000, "the image is too small to tell anything");
        let mut changed = BTreeMap::new();
        for block in files {
            if numbers.next().is_multiple_of(REWRITTEN_ONE_IN) {
                let source = others[(numbers.next() % others.len() as u64) as usize];
                changed.insert(block, image.block(source)?);
            }
        }
        Ok(Self { changed })
    }

    /// As `rbd diff v1` from snapshot "one" to "two".
    fn write(&self, image: &Image, to: &Path) -> Result<()> {
        let mut out = BufWriter::new(File::create(to)?);
        begin(&mut out, Some("one"), "two", image.size_bytes)?;
        for (number, block) in &self.changed {
            data(&mut out, number * BLOCK_BYTES as u64, block)?;
        }
        Ok(out.write_all(b"e")?)
    }

    /// The changed blocks of each chunk, one after the other.
    fn by_chunk(&self) -> BTreeMap<u64, Vec<u8>> {
        let mut out: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (number, block) in &self.changed {
            out.entry(number * BLOCK_BYTES as u64 / CHUNK_BYTES as u64).or_default().extend(block);
        }
        out
    }

    fn compressed_bytes(&self) -> Result<usize> {
        let sizes = self.by_chunk().into_values().map(|blocks| Ok(zstd::bulk::compress(&blocks, 1)?.len()));
        sizes.sum()
    }
}

fn begin(out: &mut impl Write, from: Option<&str>, to: &str, size_bytes: u64) -> Result<()> {
    out.write_all(b"rbd diff v1\n")?;
    for (tag, name) in [(b'f', from), (b't', Some(to))] {
        if let Some(name) = name {
            out.write_all(&[tag])?;
            out.write_all(&(name.len() as u32).to_le_bytes())?;
            out.write_all(name.as_bytes())?;
        }
    }
    out.write_all(b"s")?;
    Ok(out.write_all(&size_bytes.to_le_bytes())?)
}

fn data(out: &mut impl Write, offset_bytes: u64, bytes: &[u8]) -> Result<()> {
    out.write_all(b"w")?;
    out.write_all(&offset_bytes.to_le_bytes())?;
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    Ok(out.write_all(bytes)?)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK_BYTES).all(|block| block == &[0; BLOCK_BYTES][..block.len()])
}

/// What the incremental came to, on a local store and on a slow one.
struct Found {
    stored_bytes: f64,
    seconds: [f64; 2],
    peak_mib: f64,
}

struct Bench {
    dir: PathBuf,
    cuttle: PathBuf,
}

impl Bench {
    fn first_backup(&self) -> Result<()> {
        let home = self.dir.join("home");
        self.cuttle(&home, &["init"], None)?;
        self.cuttle(&home, &["backup", "-", "--volume", "disk"], Some("first.diff"))?;
        Ok(())
    }

    /// With deltas and without.
    fn measure(&self) -> Result<[Found; 2]> {
        let mut all =
            [(); 2].map(|()| Found { stored_bytes: 0.0, seconds: [f64::INFINITY; 2], peak_mib: 0.0 });
        for _ in 0..RUNS {
            for (found, option) in all.iter_mut().zip([None, Some("--delta=never")]) {
                for (at, limit) in [None, Some(SLOW_STORE)].into_iter().enumerate() {
                    let mut args = vec!["backup", "-", "--volume", "disk"];
                    args.extend(option);
                    args.extend(limit.into_iter().flat_map(|limit| ["--limit-upload", limit]));
                    let (seconds, peak_mib, stored_bytes) = self.day(&args)?;
                    found.seconds[at] = found.seconds[at].min(seconds);
                    found.peak_mib = found.peak_mib.max(peak_mib);
                    found.stored_bytes = stored_bytes;
                }
            }
        }
        Ok(all)
    }

    /// Backs the day up into a copy of the repository, whose objects never change and so can be shared with it.
    fn day(&self, args: &[&str]) -> Result<(f64, f64, f64)> {
        let home = self.dir.join("copy");
        let copied = Command::new("cp").arg("-al").args([self.dir.join("home"), home.clone()]).status()?;
        ensure!(copied.success(), "cp -al failed");
        let (run, text) = self.cuttle(&home, args, Some("day.diff"))?;
        fs::remove_dir_all(&home)?;
        let field = text.split("\"stored_bytes\":").nth(1).context("no stored_bytes")?;
        let digits: String = field.chars().take_while(char::is_ascii_digit).collect();
        Ok((run.seconds, run.peak_mib, digits.parse()?))
    }

    fn cuttle(&self, home: &Path, args: &[&str], input: Option<&str>) -> Result<(Run, String)> {
        fs::create_dir_all(home)?;
        let output = self.dir.join("output.json");
        let mut command = Command::new(&self.cuttle);
        command.args(args).arg("--json").arg("-r").arg(home.join("repo")).stdout(File::create(&output)?);
        command.env("CUTTLE_PASSWORD", "a passphrase for a benchmark");
        // No memory and no cache of another run.
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, self.dir.join("nobody"));
        }
        let _ = fs::remove_dir_all(self.dir.join("nobody"));
        match input {
            Some(name) => command.stdin(File::open(self.dir.join(name))?),
            None => command.stdin(Stdio::null()),
        };
        let run = timed(command.stderr(Stdio::null()).spawn().context("cuttle")?)?;
        Ok((run, fs::read_to_string(&output)?))
    }
}
