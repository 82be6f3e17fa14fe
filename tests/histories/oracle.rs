//! What is right: plain bytes, and diffs between them made and applied the plain way.

use cuttle::diff::{DiffHeader, DiffVersion, DiffWriter};

/// How a diff is made.
#[derive(Debug, Clone, Copy)]
pub struct Grain {
    pub version: DiffVersion,
    /// Blocks that are compared: ranges that differ are widened to such.
    pub block_bytes: usize,
}

/// What differs, as `rbd export-diff` would tell it.
pub struct Diff {
    pub from: Option<String>,
    pub to: Option<String>,
    /// What all is like afterwards.
    pub bytes: Vec<u8>,
    /// Offset and length, ascending.
    extents: Vec<(usize, usize)>,
    grain: Grain,
}

impl Diff {
    pub fn between(from: Option<(&str, &[u8])>, to: Option<&str>, bytes: Vec<u8>, grain: Grain) -> Self {
        let mut base = from.map_or_else(Vec::new, |(_, base)| base.to_vec());
        base.resize(bytes.len(), 0);
        let block = grain.block_bytes;
        let extents = (0..bytes.len())
            .step_by(block)
            .map(|at| (at, block.min(bytes.len() - at)))
            .filter(|(at, len)| bytes[*at..at + len] != base[*at..at + len])
            .collect();
        Self { from: from.map(|(name, _)| name.to_owned()), to: to.map(str::to_owned), bytes, extents, grain }
    }

    /// What it makes of a base, whether or not it was made for that one.
    pub fn apply(&self, base: &[u8]) -> Vec<u8> {
        let mut out = base.to_vec();
        out.resize(self.bytes.len(), 0);
        for (at, len) in &self.extents {
            out[*at..at + len].copy_from_slice(&self.bytes[*at..at + len]);
        }
        out
    }

    pub fn stream(&self) -> Vec<u8> {
        let header = DiffHeader {
            from: self.from.clone(),
            to: self.to.clone(),
            protected: None,
            size_bytes: self.bytes.len() as u64,
        };
        let mut writer = DiffWriter::begin(Vec::new(), self.grain.version, &header).expect("a header");
        for (at, len) in &self.extents {
            let data = &self.bytes[*at..at + len];
            let (at, len) = (*at as u64, *len as u64);
            if data.iter().all(|byte| *byte == 0) {
                writer.zero(at, len).expect("zeros");
            } else {
                writer.begin_data(at, len).and_then(|()| writer.data(data)).expect("data");
            }
        }
        writer.finish().expect("the end")
    }
}

/// Where two differ, for people.
pub fn difference(found: &[u8], expected: &[u8]) -> Option<String> {
    if found == expected {
        return None;
    }
    let common = found.len().min(expected.len());
    let at = (0..common).find(|&at| found[at] != expected[at]).unwrap_or(common);
    let blocks = (0..common).step_by(512).filter(|&at| {
        let end = common.min(at + 512);
        found[at..end] != expected[at..end]
    });
    let sizes = format!("{} bytes, expected {}", found.len(), expected.len());
    let show = |bytes: &[u8]| {
        let bytes = &bytes[at.min(bytes.len())..bytes.len().min(at + 24)];
        String::from_utf8_lossy(bytes).replace('\0', "0")
    };
    Some(format!(
        "{sizes}; from {at} on, {} of {} blocks: {:?}, expected {:?}",
        blocks.count(),
        common.div_ceil(512),
        show(found),
        show(expected)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::apply::apply;

    #[test]
    fn a_diff_says_what_it_makes() {
        let (old, new) = (vec![1; 10_000], [vec![1; 5000], vec![0; 1000], vec![2; 9000]].concat());
        for version in [DiffVersion::V1, DiffVersion::V2] {
            for block_bytes in [512, 4096, 65536] {
                let grain = Grain { version, block_bytes };
                let diff = Diff::between(Some(("s1", &old)), Some("s2"), new.clone(), grain);
                assert_eq!(diff.apply(&old), new);
                let mut stream = cuttle::source::diff_stream::open(
                    std::io::Cursor::new(diff.stream()),
                    Default::default(),
                )
                .expect("a stream");
                assert_eq!(apply(&mut *stream, old.clone()).expect("applied"), new);
            }
        }
        assert!(difference(&old, &old).is_none() && difference(&old, &new).is_some());
    }
}
