//! `cargo xtask demo [--ceph]`: the main job before one's eyes. Every line that begins with `$` is a command that is run
//! as it stands; what follows is its own output.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::ceph::{self, Cluster, RGW_ACCESS_KEY, RGW_SECRET_KEY};
use crate::places::{cluster_directory, start_cluster};
use crate::{disk, servers};

pub fn command(args: &[String]) -> Result<()> {
    let with_ceph = match args {
        [] => false,
        [option] if option == "--ceph" => true,
        _ => bail!("usage: cargo xtask demo [--ceph]"),
    };
    let mut stage = Stage::new()?;
    if with_ceph { on_ceph(&mut stage) } else { on_this_machine(&mut stage) }?;
    println!("\nDone; everything that the demo made is removed again.");
    Ok(())
}

/// A file with an ext4 file system, and a repository in a folder.
fn on_this_machine(stage: &mut Stage) -> Result<()> {
    stage.volume()?;
    stage.says("A repository. It is encrypted; here the password lies in a file.");
    stage.repository("$PWD/repository")?;
    stage.says("The first backup reads all of the volume. Holes and zeros are not stored.");
    stage.run("cuttle backup disk.img")?;
    stage.changes()?;
    stage.says("The next backup stores only what is new.");
    stage.run("cuttle backup disk.img")?;
    stage.run("cuttle snapshots")?;
    stage.says("A day back: the volume as it was before the changes, byte for byte.");
    stage.run("cuttle restore disk.img@1 yesterday.img")?;
    stage.run("cmp yesterday.img kept.img && echo identical")?;
    stage.run("debugfs -R 'cat letters/march.txt' yesterday.img 2>/dev/null")?;
    stage.says("Set the changed volume itself back: only the chunks that differ are fetched.");
    stage.run("cuttle restore disk.img@1 disk.img --overwrite")?;
    stage.run("cmp disk.img kept.img && echo identical")?;
    stage.says("Everything in the repository, read and checked.");
    stage.run("cuttle verify --read-data")
}

/// An image on one cluster, a repository on the S3 service of another. The first cluster is lost.
fn on_ceph(stage: &mut Stage) -> Result<()> {
    stage.says("Two real Ceph clusters. The second has an S3 service (RGW), where the backups go.");
    ceph::install()?;
    let first = stage.cluster("first", false)?;
    let second = stage.cluster("second", true)?;
    let url = second.rgw_url().context("the second cluster has no RGW")?;
    stage.volume()?;
    stage.export("CEPH_CONF", &first.conf().display().to_string());
    stage.run("rbd import --no-progress disk.img rbd/web")?;
    stage.run("rbd image-meta set rbd/web owner 'web team'")?;

    stage.says("A bucket, and an encrypted repository in it.");
    stage.export("AWS_ENDPOINT_URL", &url);
    for (name, value) in [
        ("AWS_ACCESS_KEY_ID", RGW_ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", RGW_SECRET_KEY),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ALLOW_HTTP", "true"),
    ] {
        stage.export(name, value);
    }
    stage.run(
        "curl -sS --fail -X PUT --aws-sigv4 aws:amz:us-east-1:s3 -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
         --user $AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY $AWS_ENDPOINT_URL/backups",
    )?;
    stage.repository("s3://backups/ceph")?;
    stage.says("The first backup reads what the image holds; where it holds nothing, nothing is read.");
    stage.run("cuttle backup rbd:web")?;
    stage.run("rbd snap ls rbd/web")?;
    stage.changes()?;
    stage.says("A guest would have written these blocks to the image itself; here `rbd import-diff` does.");
    stage.changed_blocks()?;
    stage.run("rbd import-diff --no-progress changes.diff rbd/web")?;
    stage.says(
        "The next backup asks the cluster what changed, and reads that. One snapshot stays as its base.",
    );
    stage.run("cuttle backup rbd:web")?;
    stage.run("rbd snap ls rbd/web")?;
    stage.run("cuttle snapshots")?;

    stage.says(
        "The first cluster is lost, with all its data. Ceph's own export of the image is kept to compare.",
    );
    stage.run("rbd export --no-progress rbd/web lost.img")?;
    stage.lose(&first)?;
    stage.export("CEPH_CONF", &second.conf().display().to_string());
    stage.says("On the other cluster the image comes back, with its layout and its metadata.");
    stage.run("cuttle restore rbd/web rbd:web")?;
    stage.run("rbd info rbd/web && rbd image-meta list rbd/web")?;
    stage.run(
        "rbd export --no-progress rbd/web restored.img && cmp restored.img lost.img && echo identical",
    )?;
    stage.says("And everything in the repository is whole.");
    stage.run("cuttle verify --read-data")
}

/// Where the demo plays: a folder that every command runs in, and variables that each sees.
struct Stage {
    folder: PathBuf,
    variables: Vec<(String, String)>,
    clusters: Vec<PathBuf>,
    step: u32,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for directory in &self.clusters {
            if let Err(error) = ceph::down(directory) {
                eprintln!("{} stays: {error:#}", directory.display());
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Stage {
    fn new() -> Result<Self> {
        let program = build()?;
        ensure_file_system_tools()?;
        // Below cargo's target folder; what an interrupted demo left there goes first.
        let folder = program.ancestors().nth(2).unwrap_or(&program).join("demo");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let beside = program.parent().unwrap_or(&program).display();
        // mkfs and debugfs are not on the path of ordinary users everywhere.
        let path = format!("{beside}:{path}:/usr/sbin:/sbin");
        let variables = vec![("PATH".to_owned(), path), ("HOME".to_owned(), folder.display().to_string())];
        Ok(Self { folder, variables, clusters: Vec::new(), step: 0 })
    }

    fn says(&mut self, what: &str) {
        self.step += 1;
        println!("\n{}. {what}", self.step);
    }

    /// Runs a line of shell, which must succeed.
    fn run(&self, line: &str) -> Result<()> {
        println!("$ {line}");
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&self.folder).stdin(Stdio::null());
        for name in ["CEPH_ARGS", "CEPH_KEYRING", "CUTTLE_PROJECT", "CUTTLE_PASSWORD", "CUTTLE_KEY_FILE"] {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let status = command.status().context("running sh")?;
        ensure!(status.success(), "{line}: {status}");
        Ok(())
    }

    fn export(&mut self, name: &str, value: &str) {
        println!("$ export {name}={value}");
        let value = value.replace("$PWD", &self.folder.display().to_string());
        self.variables.push((name.to_owned(), value));
    }

    /// A volume with something in it: this project's sources, random bytes, a letter.
    fn volume(&mut self) -> Result<()> {
        self.says("A volume of 512 MiB with a real ext4 file system, and files on it.");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("src");
        self.run(&format!("mkdir -p files/letters && cp -r '{}' files/src", sources.display()))?;
        self.run("head -c 60M /dev/urandom > files/photos.tar")?;
        self.run("echo 'Dear Ada, it is raining.' > files/letters/march.txt")?;
        self.run("mkfs.ext4 -q -d files disk.img 512M && cp --sparse=always disk.img kept.img")?;
        self.run("ls -lh disk.img && du -h disk.img")
    }

    fn repository(&mut self, place: &str) -> Result<()> {
        self.run("head -c 24 /dev/urandom | base64 > password")?;
        self.export("CUTTLE_REPOSITORY", place);
        self.export("CUTTLE_PASSWORD_FILE", "$PWD/password");
        self.run("cuttle init")
    }

    fn changes(&mut self) -> Result<()> {
        self.says("A day of work on the volume: one letter is deleted, another is written.");
        self.run("echo 'Dear Ada, the sun is out.' > april.txt")?;
        self.run(
            "printf 'cd letters\\nrm march.txt\\nwrite april.txt april.txt\\n' | debugfs -w -f - disk.img >/dev/null 2>&1",
        )?;
        self.run("debugfs -R 'ls -p letters' disk.img 2>/dev/null")
    }

    /// Makes `changes.diff` of what distinguishes the disk from what was kept of it.
    fn changed_blocks(&self) -> Result<()> {
        let read = |name: &str| fs::read(self.folder.join(name)).with_context(|| format!("reading {name}"));
        let stream = disk::diff_v1(&read("kept.img")?, &read("disk.img")?);
        fs::write(self.folder.join("changes.diff"), stream).context("writing changes.diff")
    }

    fn cluster(&mut self, which: &str, with_rgw: bool) -> Result<Cluster> {
        let directory = cluster_directory(&format!("demo-{which}"))?;
        self.clusters.push(directory.clone());
        let cluster = start_cluster(&directory, with_rgw)?;
        println!("the {which} cluster is up: {}", cluster.conf().display());
        Ok(cluster)
    }

    fn lose(&self, cluster: &Cluster) -> Result<()> {
        let conf = cluster.conf();
        let directory = conf.parent().context("the cluster's folder")?;
        println!("(all its daemons are killed and {} is removed)", directory.display());
        ceph::down(directory)
    }
}

/// Builds the program; its path.
fn build() -> Result<PathBuf> {
    println!("$ cargo build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--quiet", "--bin", "cuttle"]).status();
    ensure!(status.context("running cargo")?.success(), "cuttle does not build");
    // Both programs of the workspace lie in one folder.
    Ok(std::env::current_exe().context("looking for the build's folder")?.with_file_name("cuttle"))
}

fn ensure_file_system_tools() -> Result<()> {
    let found =
        |name: &&str| ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|d| Path::new(d).join(name).exists());
    let needed = ["mkfs.ext4", "debugfs"];
    if needed.iter().all(found) {
        return Ok(());
    }
    servers::apt_install(&["e2fsprogs"]).context("the demo needs mkfs.ext4 and debugfs: install e2fsprogs")
}
