//! A real cluster, and images on it, for tests. What is expected is always made by Ceph's own `rbd`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use cuttle::rbd::{Access, CephConfig, Cluster, Image, OpenBy, RbdSpec};
use cuttle::source::rbd::RbdVolume;
use cuttle::source::{Changes, Content, Extent, FreezeRequest, Frozen, ReadAt, Volume};
use cuttle::volume::SnapshotPoint;

/// What the names of cuttle's own snapshots begin with in tests.
pub const OWN: &str = "cuttle-test-";

/// A connected cluster.
pub struct Ceph {
    pub conf: String,
    pub cluster: Cluster,
}

impl Ceph {
    /// The first cluster; absent, the test is skipped.
    pub fn first() -> Option<Self> {
        Self::at("CUTTLE_TEST_CEPH_CONF")
    }

    /// The second cluster, which shares nothing with the first.
    pub fn second() -> Option<Self> {
        Self::at("CUTTLE_TEST_CEPH_CONF_2")
    }

    fn at(variable: &str) -> Option<Self> {
        super::server(variable).map(Self::of)
    }

    /// The cluster of a configuration file.
    pub fn of(conf: String) -> Self {
        let config = CephConfig { conf: Some(conf.clone().into()), ..CephConfig::default() };
        let cluster = Cluster::connect(&config).expect("connect to the test cluster");
        Self { conf, cluster }
    }

    /// Runs `ceph`, which must succeed.
    pub fn ceph(&self, args: &[&str]) {
        let output = Command::new("ceph").args(["--conf", &self.conf]).args(args).output().expect("run ceph");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ceph {}: {said}", args.join(" "));
    }

    /// Runs `rbd`, which must succeed; its standard output.
    pub fn rbd(&self, args: &[&str]) -> Vec<u8> {
        self.rbd_with(args, &[])
    }

    pub fn rbd_with(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("rbd");
        command.args(["--conf", &self.conf]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start rbd");
        // One that gives up early says why on its own; that is of more use than a broken pipe.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        let output = child.wait_with_output().expect("wait for rbd");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rbd {}: {said}", args.join(" "));
        output.stdout
    }

    /// Removes an image with its snapshots, if it is there.
    pub fn purge(&self, path: &str) {
        let quiet = |args: &[&str]| {
            let mut command = Command::new("rbd");
            command.args(["--conf", &self.conf, "--no-progress"]).args(args);
            let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        };
        let listed = self.spec(path);
        if let Ok(image) = self.open(&listed, Access::ReadWrite) {
            for snapshot in image.snapshots().list().expect("list snapshots") {
                if image.snapshots().is_protected(&snapshot.name).expect("ask for protection") {
                    image.snapshots().unprotect(&snapshot.name).expect("unprotect");
                }
            }
        }
        quiet(&["snap", "purge", path]);
        quiet(&["rm", path]);
    }

    /// Makes an image afresh: `rbd create` with further arguments.
    pub fn create(&self, path: &str, size_bytes: u64, args: &[&str]) {
        self.purge(path);
        let size = format!("{size_bytes}B");
        self.rbd(&[&["create", path, "--size", &size], args].concat());
    }

    /// What Ceph itself says an image or snapshot holds.
    pub fn export(&self, path: &str) -> Vec<u8> {
        self.rbd(&["export", "--no-progress", path, "-"])
    }

    /// Discards ranges as a guest's trim does: through `rbd import-diff`.
    pub fn discard(&self, path: &str, ranges: &[(u64, u64)]) {
        let size = self.open(&self.spec(path), Access::ReadOnly).expect("open").size_bytes().expect("size");
        let mut stream = b"rbd diff v1\ns".to_vec();
        stream.extend(size.to_le_bytes());
        for (offset, length) in ranges {
            stream.push(b'z');
            stream.extend(offset.to_le_bytes());
            stream.extend(length.to_le_bytes());
        }
        stream.push(b'e');
        self.rbd_with(&["import-diff", "--no-progress", "-", path], &stream);
    }

    pub fn spec(&self, path: &str) -> RbdSpec {
        format!("rbd:{path}").parse().expect("a test's image name")
    }

    pub fn open(&self, spec: &RbdSpec, access: Access) -> cuttle::Result<Image> {
        let pool = self.cluster.pool(&spec.pool, &spec.namespace)?;
        Image::open(&pool, OpenBy::Name(&spec.image), access)
    }

    pub fn write(&self, path: &str, offset_bytes: u64, data: &[u8]) {
        let image = self.open(&self.spec(path), Access::ReadWrite).expect("open to write");
        image.write_at(offset_bytes, data).expect("write");
    }

    pub fn volume(&self, path: &str) -> RbdVolume {
        RbdVolume::open(&self.cluster, &self.spec(path)).expect("find the volume")
    }

    /// Freezes as a backup does, under an own snapshot's name.
    pub fn freeze(&self, path: &str, own: &str, parent: Option<SnapshotPoint>) -> Box<dyn Frozen> {
        self.volume(path).freeze(&request(own, parent)).expect("freeze")
    }

    /// Names of an image's snapshots, oldest first.
    pub fn snapshots(&self, path: &str) -> Vec<String> {
        let image = self.open(&self.spec(path), Access::ReadOnly).expect("open");
        image.snapshots().list().expect("list snapshots").into_iter().map(|s| s.name).collect()
    }

    /// `rbd diff --format json`, as extents.
    pub fn diff(&self, args: &[&str]) -> Vec<Extent> {
        let json = self.rbd(&[&["diff", "--format", "json"], args].concat());
        let listed: serde_json::Value = serde_json::from_slice(&json).expect("JSON of rbd diff");
        let number = |v: &serde_json::Value| v.as_u64().expect("a number");
        let extents = listed.as_array().expect("a list").iter().map(|e| Extent {
            offset_bytes: number(&e["offset"]),
            length_bytes: number(&e["length"]),
            content: if e["exists"] == "true" { Content::Data } else { Content::Zero },
        });
        merge(extents)
    }
}

pub fn request(own: &str, parent: Option<SnapshotPoint>) -> FreezeRequest {
    FreezeRequest { own_name: format!("{OWN}{own}"), own_prefix: OWN.to_owned(), parent, origin: None }
}

/// Joins neighbours.
pub fn merge(extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::new();
    for extent in extents {
        match merged.last_mut() {
            Some(last)
                if last.content == extent.content
                    && last.offset_bytes + last.length_bytes == extent.offset_bytes =>
            {
                last.length_bytes += extent.length_bytes;
            }
            _ => merged.push(extent),
        }
    }
    merged
}

/// All bytes of a reader.
pub fn read_all(reader: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; reader.size_bytes() as usize];
    reader.read_at(0, &mut bytes).expect("read all");
    bytes
}

/// What changes make of a base: what they do not name is taken from it, or is zero where they are complete.
pub fn apply(changes: &Changes, base: &[u8], reader: &dyn ReadAt) -> Vec<u8> {
    let size = reader.size_bytes() as usize;
    let (mut bytes, extents) = match changes {
        Changes::All(extents) => (vec![0; size], extents),
        Changes::Since(extents) => {
            // What the volume grew by was not there before: it must be named.
            let mut bytes = base.to_vec();
            bytes.resize(size, 0xee);
            (bytes, extents)
        }
    };
    let mut end = 0;
    for extent in extents {
        assert!(extent.offset_bytes >= end && extent.length_bytes > 0, "ascending and disjoint: {extent:?}");
        end = extent.offset_bytes + extent.length_bytes;
        assert!(end <= size as u64, "within the size: {extent:?}");
        let target = &mut bytes[extent.offset_bytes as usize..end as usize];
        match extent.content {
            Content::Zero => target.fill(0),
            Content::Data => reader.read_at(extent.offset_bytes, target).expect("read an extent"),
        }
    }
    bytes
}

/// What `rbd` says of how an image is made.
pub fn layout(ceph: &Ceph, image: &str) -> (Vec<Value>, Value) {
    let json = |args: &[&str]| -> Value {
        let said = ceph.rbd(&[args, &["--format", "json", image]].concat());
        // Of no metadata at all `rbd` says nothing.
        if said.is_empty() { Value::Null } else { serde_json::from_slice(&said).expect("JSON of rbd") }
    };
    let info = json(&["info"]);
    let keys = ["size", "objects", "object_size", "features", "stripe_unit", "stripe_count"];
    (keys.iter().map(|key| info[key].clone()).collect(), json(&["image-meta", "list"]))
}

/// A pool of one test's own, gone at the end of it.
pub struct OwnPool<'a>(&'a Ceph, &'a str);

impl<'a> OwnPool<'a> {
    pub fn new(ceph: &'a Ceph, name: &'a str) -> Self {
        let this = Self(ceph, name);
        this.remove();
        ceph.ceph(&["osd", "pool", "create", name, "8"]);
        ceph.rbd(&["pool", "init", name]);
        this
    }

    fn remove(&self) {
        self.0.ceph(&["config", "set", "mon", "mon_allow_pool_delete", "true"]);
        self.0.ceph(&["osd", "pool", "rm", self.1, self.1, "--yes-i-really-really-mean-it"]);
    }
}

impl Drop for OwnPool<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.remove();
        }
    }
}
