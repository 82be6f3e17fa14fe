//! A reader written from `repo-format.md` alone: it shares no code with the library, so that the two cannot be wrong
//! in the same way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::make::folder;
use crate::read::{Expected, expected};

/// An object's plaintext (§4).
fn plain(at: &Path, repo_id: &[u8; 16], name: &str, base: Option<&[u8]>) -> Vec<u8> {
    let object = fs::read(at.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    opened(&object, repo_id, name, base)
}

/// What an envelope holds (§4). Without encryption: the checksum is all that protects it.
fn opened(object: &[u8], repo_id: &[u8; 16], name: &str, base: Option<&[u8]>) -> Vec<u8> {
    let (head, body) = object.split_at(88);
    assert_eq!(&head[..7], b"cuttle\0", "{name}");
    assert_eq!((head[7], head[9]), (1, 0), "{name}: version and sealing");
    let id = if name == "repository" { &[0; 16] } else { repo_id };
    let len = (name.len() as u32).to_le_bytes();
    let sum = blake3::hash(&[&head[..56], id, &len, name.as_bytes(), body].concat());
    assert_eq!(&head[56..], sum.as_bytes(), "{name}: checksum");
    let plain_len = u32::from_le_bytes(head[12..16].try_into().expect("4 bytes")) as usize;
    assert_eq!(u32::from_le_bytes(head[16..20].try_into().expect("4 bytes")) as usize, body.len(), "{name}");
    let out = match (head[10], base) {
        (0, None) => body.to_vec(),
        (1, None) => zstd::bulk::decompress(body, plain_len).expect(name),
        (2, Some(base)) => {
            let patch = zstd::bulk::decompress(body, plain_len + 12).expect(name);
            let word =
                |at: usize| u32::from_le_bytes(patch[at..at + 4].try_into().expect("four bytes")) as usize;
            let mut out = base.to_vec();
            out.resize(plain_len, 0);
            let mut data = 4 + 8 * word(0);
            for run in 0..word(0) {
                let (at, len) = (word(4 + 8 * run), word(8 + 8 * run));
                out[at..at + len].copy_from_slice(&patch[data..data + len]);
                data += len;
            }
            assert_eq!(data, patch.len(), "{name}: nothing behind the runs");
            out
        }
        other => panic!("{name}: compression {other:?}"),
    };
    assert_eq!(out.len(), plain_len, "{name}");
    out
}

/// Reads the fields of a record one after the other (§6).
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, len: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.to_vec()
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn bool(&mut self) -> bool {
        let byte = self.u8();
        assert!(byte < 2, "{byte} is no bool");
        byte == 1
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("4 bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("8 bytes"))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = self.u64() as usize;
        self.take(len)
    }

    fn string(&mut self) -> String {
        String::from_utf8(self.bytes()).expect("UTF-8")
    }

    fn strings(&mut self) -> Vec<String> {
        (0..self.u64()).map(|_| self.string()).collect()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| read(self))
    }

    fn identity(&mut self) {
        match self.u32() {
            0 => (0..5).for_each(|_| drop(self.string())),
            1 => drop(self.string()),
            2 => {}
            other => panic!("identity {other}"),
        }
    }

    fn objects(&mut self) {
        match self.u32() {
            0 | 1 => {}
            2 => drop(self.take(32)),
            other => panic!("objects {other}"),
        }
    }

    fn made(&mut self) {
        let others: Vec<u64> = (0..self.u64()).map(|_| self.u64()).collect();
        assert!(others.len() <= 16 && others.is_sorted());
        let (replaces, _clean) = (self.option(Self::u64), self.option(Self::bool));
        assert!(replaces.is_none_or(|replaces| others.contains(&replaces)));
    }

    fn layout(&mut self) {
        let _order = self.u8();
        let (_features, _stripe_unit, _stripe_count) = (self.u64(), self.u64(), self.u64());
        (0..self.u64()).for_each(|_| drop((self.string(), self.string())));
        self.option(Self::string);
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{} bytes behind the record", self.0.len());
    }
}

/// A reader of one project of an unencrypted repository.
struct Reader<'a> {
    at: &'a Path,
    repo_id: [u8; 16],
    project: &'a str,
    chunk_id_key: [u8; 32],
    page_id_key: [u8; 32],
}

/// A ref (§7): what it holds, where that is, and its closure.
#[derive(Clone)]
struct Ref {
    id: [u8; 32],
    place: Place,
    closure: Vec<Place>,
}

/// An object, or a piece of one (§4.1).
#[derive(Clone)]
struct Place {
    path: String,
    offset: Option<usize>,
    size: usize,
}

impl<'a> Reader<'a> {
    fn open(at: &'a Path, project: &'a str) -> Self {
        let repository = plain(at, &[0; 16], "repository", None);
        let mut fields = Fields(&repository);
        let repo_id: [u8; 16] = fields.take(16).try_into().expect("16 bytes");
        let (chunk_size, encrypted, _create) = (fields.u32(), fields.bool(), fields.bool());
        let (_depth, required, _created) = (fields.u8(), fields.u64(), fields.u64());
        fields.end();
        assert_eq!((chunk_size, encrypted, required), (4096, false, 0));
        let record = plain(at, &repo_id, &format!("projects/{project}/project"), None);
        let mut fields = Fields(&record);
        let (_project_id, root) = (fields.take(16), fields.take(32));
        assert_eq!(fields.string(), project);
        let _created = fields.u64();
        fields.end();
        let chunk_id_key = blake3::derive_key("cuttle v1 chunk id", &root);
        let page_id_key = blake3::derive_key("cuttle v1 page id", &root);
        Self { at, repo_id, project, chunk_id_key, page_id_key }
    }

    fn plain(&self, name: &str, base: Option<&[u8]>) -> Vec<u8> {
        plain(self.at, &self.repo_id, &format!("projects/{}/{name}", self.project), base)
    }

    fn exists(&self, name: &str) -> bool {
        self.at.join(format!("projects/{}/{name}", self.project)).exists()
    }

    /// The names in a record of what was lost (§6.10): kind, generation, first byte of the id, variant.
    fn lost(&self, record: &str) -> Vec<(u32, u32, u8, u32)> {
        let record = self.plain(&format!("lost/{record}"), None);
        let mut fields = Fields(&record);
        let names = (0..fields.u64())
            .map(|_| (fields.u32(), fields.u32(), fields.take(32)[0], fields.u32()))
            .collect();
        let (_host, _at) = (fields.string(), fields.u64());
        fields.end();
        names
    }

    /// A part of one of a round's tables (§8.2), as its record names it, and how many entries it has.
    fn part(&self, g: u32, fields: &mut Fields<'_>) -> (Vec<u8>, u32) {
        let (id, sealed_len_bytes, entries) = (fields.take(32), fields.u32(), fields.u32());
        let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
        let name = format!("gc/parts/{g:010}/{hex}");
        let object = fs::metadata(self.at.join(format!("projects/{}/{name}", self.project))).expect("there");
        assert_eq!(object.len(), u64::from(sealed_len_bytes));
        let part = self.plain(&name, None);
        assert_eq!(blake3::keyed_hash(&self.page_id_key, &part).as_bytes()[..], id[..], "{name}");
        (part, entries)
    }

    /// The live index of a seal (§8.2): the ids of the chunks that it names, all of which are there.
    fn live_index(&self, g: u32) -> Vec<Vec<u8>> {
        let seal = self.plain(&format!("gc/{g:010}.seal"), None);
        let mut fields = Fields(&seal);
        fields.take(4);
        (0..fields.u64()).for_each(|_| drop(fields.take(4 + 32 + 4 + 4)));
        let (count, mut ids) = (fields.u64(), Vec::new());
        for number in 0..count {
            let (part, entries) = self.part(g, &mut fields);
            let mut fields = Fields(&part);
            for _ in 0..entries {
                assert_eq!(fields.take(8), [0; 8], "a chunk");
                let (id, generation, variant, len) =
                    (fields.take(32), fields.u32(), fields.u32(), fields.u32());
                assert_eq!((variant, fields.u32()), (0, 0));
                assert_eq!(u64::from(id[0]) * count / 256, number, "the first bits are the part's number");
                let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
                let name = format!("projects/{}/chunks/{generation:010}/{}/{hex}", self.project, &hex[..2]);
                assert_eq!(fs::metadata(self.at.join(&name)).expect(&name).len(), u64::from(len));
                ids.push(id);
            }
            fields.end();
        }
        assert!(ids.is_sorted_by(|a, b| a < b), "ascending");
        ids
    }

    /// What a seal says of each volume's log (§8.2): number, high water, live.
    fn roster(&self, g: u32) -> Vec<(u32, u32, Vec<u32>)> {
        let seal = self.plain(&format!("gc/{g:010}.seal"), None);
        let mut fields = Fields(&seal);
        assert_eq!(fields.u32(), g);
        let mut roster = Vec::new();
        for _ in 0..fields.u64() {
            let last_volume = fields.u32();
            let (part, entries) = self.part(g, &mut fields);
            let mut fields = Fields(&part);
            assert_eq!(fields.u64(), u64::from(entries));
            for _ in 0..entries {
                let (volume, high_water) = (fields.u32(), fields.u32());
                let live = (0..fields.u64()).map(|_| fields.u32()).collect();
                assert_eq!(fields.u64(), 0, "unfinished");
                let kept: Vec<u32> = (0..fields.u64()).map(|_| fields.u32()).collect();
                assert_eq!(kept, if volume == 1 { vec![2] } else { vec![] });
                roster.push((volume, high_water, live));
            }
            fields.end();
            assert_eq!(roster.last().map(|(volume, ..)| *volume), Some(last_volume));
        }
        roster
    }

    /// Every volume's number and name (§6.4).
    fn volumes(&self) -> Vec<(u32, String)> {
        let mut out = Vec::new();
        for n in (1..).take_while(|n| self.exists(&format!("volumes/{n:010}"))) {
            let record = self.plain(&format!("volumes/{n:010}"), None);
            let mut fields = Fields(&record);
            assert_eq!(fields.u32(), n);
            let name = fields.string();
            fields.identity();
            let _created = fields.u64();
            fields.end();
            out.push((n, name));
        }
        out
    }

    /// A sequence's state, and its content where it lives (§6.5 to §6.7).
    fn sequence(&self, n: u32, s: u32) -> (&'static str, Vec<u8>) {
        let name = |kind: &str| format!("log/{n:010}/{s:010}.{kind}");
        let open = self.plain(&name("open"), None);
        let mut fields = Fields(&open);
        let snapshot_id = fields.take(16);
        let _generation = fields.u32();
        let (_host, _machine, _process) = (fields.string(), fields.string(), fields.u32());
        let (_program, _started) = (fields.string(), fields.u64());
        fields.end();
        let forget = format!("retention/{n:010}/{s:010}.forget");
        if self.exists(&forget) {
            let forget = self.plain(&forget, None);
            assert_eq!(Fields(&forget).take(16), snapshot_id);
        }
        let end = self.plain(&name("end"), None);
        let mut fields = Fields(&end);
        assert_eq!(fields.take(16), snapshot_id);
        if fields.u32() == 1 {
            let (_by, _reason) = (fields.string(), fields.string());
            fields.end();
            return ("aborted", Vec::new());
        }
        assert_eq!((fields.u32(), fields.u32()), (n, s));
        let _generation = fields.u32();
        let (size_bytes, chunk_size_bytes) = (fields.u64(), fields.u32());
        assert_eq!(chunk_size_bytes, 4096);
        fields.identity();
        fields.option(|f| (f.string(), f.u64(), f.bool(), f.option(Fields::made), f.objects()));
        fields.layout();
        let (_host, _program, _started) = (fields.string(), fields.string(), fields.u64());
        assert!(fields.strings().len() <= 1);
        let _parent = fields.option(Fields::u32);
        let _origin = fields.option(|f| (f.u32(), f.u32(), f.take(16), f.string(), f.u64()));
        let _recalled_from = fields.option(Fields::u32);
        let _full = fields.bool();
        let (_nights, _cursor) = (fields.u32(), fields.u64());
        let _stats = [(); 8].map(|()| fields.u64());
        let root = fields.bytes();
        fields.end();
        let state = if self.exists(&forget) { "forgotten" } else { "live" };
        (state, self.content(&root, size_bytes))
    }

    /// Refs of a page (§7).
    fn refs(&self, page: &[u8], level: u8, kind: &str) -> Vec<Option<Ref>> {
        let u32_at = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes"));
        let hex = |at: usize| page[at..at + 32].iter().map(|b| format!("{b:02x}")).collect::<String>();
        let (count, links, bundles) = (u32_at(4) as usize, u32_at(8) as usize, u32_at(12) as usize);
        assert_eq!(page[0], level);
        let refs = 16 + 36 * bundles;
        let mut next_link = refs + 48 * count;
        let mut next_end = next_link + 12 * links;
        let object = |at: usize| {
            let variant = match u32_at(at + 36) {
                0 => String::new(),
                variant => format!(".{variant:08x}"),
            };
            let path = format!("{kind}/{:010}/{}/{}{variant}", u32_at(at + 32), &hex(at)[..2], hex(at));
            Place { path, offset: None, size: u32_at(at + 40) as usize }
        };
        let piece = |at: usize| {
            let bundle = 16 + 36 * u32_at(at) as usize;
            let path = format!("bundles/{:010}/{}/{}", u32_at(bundle + 32), &hex(bundle)[..2], hex(bundle));
            Place { path, offset: Some(u32_at(at + 4) as usize), size: u32_at(at + 8) as usize }
        };
        let mut out = Vec::new();
        for at in (0..count).map(|n| refs + 48 * n) {
            if page[at..at + 48] == [0; 48] {
                out.push(None);
                continue;
            }
            let (below, flags) = (page[at + 44], page[at + 45]);
            let place = if flags & 1 == 0 { object(at) } else { piece(at + 32) };
            let mut closure = Vec::new();
            for left in (0..below).rev() {
                if left == 0 && flags & 2 != 0 {
                    closure.push(object(next_end));
                    next_end += 44;
                } else {
                    closure.push(piece(next_link));
                    next_link += 12;
                }
            }
            out.push(Some(Ref { id: page[at..at + 32].try_into().expect("32 bytes"), place, closure }));
        }
        assert_eq!((next_link, next_end), (refs + 48 * count + 12 * links, page.len()));
        out
    }

    fn content(&self, root: &[u8], size_bytes: u64) -> Vec<u8> {
        // Volumes here have less than 1,024² chunks, so the root is of level 1.
        let mut out = vec![0; size_bytes as usize];
        let leaves = self.refs(root, 1, "pages");
        assert_eq!(leaves.len() as u64, size_bytes.div_ceil(4096 * 1024));
        for (number, leaf) in leaves.iter().enumerate() {
            let Some(leaf) = leaf else { continue };
            let page = self.plain(&leaf.place.path, None);
            assert_eq!(blake3::keyed_hash(&self.page_id_key, &page), leaf.id);
            for (at, chunk) in self.refs(&page, 0, "chunks").iter().enumerate() {
                let Some(chunk) = chunk else { continue };
                let start = (number * 1024 + at) * 4096;
                let plain = self.chunk(chunk);
                out[start..start + plain.len()].copy_from_slice(&plain);
            }
        }
        out
    }

    /// A chunk, decoded from the full one at the end of its chain up.
    fn chunk(&self, chunk: &Ref) -> Vec<u8> {
        let mut base: Option<Vec<u8>> = None;
        for place in chunk.closure.iter().rev().chain([&chunk.place]) {
            let path = self.at.join(format!("projects/{}/{}", self.project, place.path));
            let object = fs::read(path).expect("there");
            let plain = match place.offset {
                None => {
                    assert_eq!(object.len(), place.size);
                    self.plain(&place.path, base.as_deref())
                }
                Some(offset) => {
                    let (id, envelope) = object[offset..offset + place.size].split_at(32);
                    let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
                    let name = format!("projects/{}/pieces/{id}", self.project);
                    let plain = opened(envelope, &self.repo_id, &name, base.as_deref());
                    assert_eq!(blake3::keyed_hash(&self.chunk_id_key, &plain).to_hex().as_str(), id);
                    plain
                }
            };
            base = Some(plain);
        }
        let plain = base.expect("at least one object");
        assert_eq!(blake3::keyed_hash(&self.chunk_id_key, &plain), chunk.id);
        plain
    }

    /// The pieces of a bundle by its table (§4.1): where each begins, its length, and whether it is a delta.
    fn pieces(&self, bundle: &str) -> Vec<(usize, usize, bool)> {
        let name = format!("projects/{}/{bundle}", self.project);
        let object = fs::read(self.at.join(&name)).expect("there");
        let table_len = 88 + u32::from_le_bytes(object[16..20].try_into().expect("4 bytes")) as usize;
        let table = opened(&object[..table_len], &self.repo_id, &name, None);
        let (mut fields, mut next, mut out) = (Fields(&table), table_len, Vec::new());
        for _ in 0..fields.u64() {
            let (id, len, _plain_len) = (fields.take(32), fields.u32() as usize, fields.u32());
            assert_eq!(object[next..next + 32], id);
            let delta = fields.option(|f| {
                assert_eq!(f.u8(), object[next + 32 + 11], "depth");
                f.option(|f| f.take(32));
                f.option(|f| (0..f.u64()).for_each(|_| assert!(f.take(8)[4..] != [0; 4])));
            });
            out.push((next, len, delta.is_some()));
            next += len;
        }
        fields.end();
        assert_eq!(next, object.len(), "{bundle}: nothing behind its pieces");
        out
    }
}

/// All bundles, by their names within the project.
fn files(bundles: &Path) -> Vec<String> {
    let children = |at: &Path| {
        let all = fs::read_dir(at).expect("a folder").map(|entry| entry.expect("an entry").path());
        all.collect::<Vec<_>>()
    };
    let folders = children(bundles).into_iter().flat_map(|generation| children(&generation));
    let all = folders.flat_map(|folder| children(&folder));
    let parent = bundles.parent().expect("a project").to_owned();
    all.map(|path| path.strip_prefix(&parent).expect("below it").to_str().expect("text").to_owned()).collect()
}

#[test]
fn a_reader_made_from_the_specification_alone_reads_the_golden_repository() {
    let at = folder().join("v1-open");
    let expected = expected(&fs::read_to_string(folder().join("v1-open.tsv")).expect("there"));
    let mut found = Expected::new();
    for project in ["default", "tenant-a"] {
        let reader = Reader::open(&at, project);
        for (n, name) in reader.volumes() {
            let opened = |s: &u32| reader.exists(&format!("log/{n:010}/{s:010}.open"));
            for s in (1..).take_while(opened) {
                let (state, content) = reader.sequence(n, s);
                let hash = blake3::hash(&content).to_string();
                let key = (project.to_owned(), name.clone(), s);
                found.insert(key, (state.to_owned(), content.len() as u64, hash));
            }
        }
    }
    assert_eq!(found, expected);
    let states = found.values().fold(BTreeMap::<&str, u32>::new(), |mut states, (state, ..)| {
        *states.entry(state).or_default() += 1;
        states
    });
    let lost = Reader::open(&at, "default").lost("0123456789abcdef0000000000000000");
    assert_eq!(lost, [(0, 0, 0xc1, 7), (1, 0, 0xd2, 0), (2, 0, 0xe3, 400)]);
    let reader = Reader::open(&at, "default");
    let said = [(1, 4, vec![1, 4]), (2, 2, vec![1, 2]), (3, 1, vec![1]), (4, 2, vec![1, 2])];
    assert_eq!(reader.roster(1), said);
    assert!(reader.live_index(1).len() > 10);
    let bundles = files(&at.join("projects/default/bundles"));
    let pieces = bundles.iter().flat_map(|bundle| reader.pieces(bundle));
    assert!(pieces.filter(|(.., is_delta)| *is_delta).count() >= 3);
    assert_eq!(states["aborted"], 1);
    assert_eq!(states["forgotten"], 1);
}
