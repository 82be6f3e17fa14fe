//! What the store really holds, and what it held before.

use std::collections::BTreeMap;

use bytes::Bytes;

#[derive(Clone)]
pub struct Object {
    pub bytes: Bytes,
    pub modified_unix_ms: u64,
}

/// What a listing shows of an object.
#[derive(Clone, Copy)]
pub struct Shown {
    pub size_bytes: u64,
    pub modified_unix_ms: u64,
}

/// A name, and what it was before it changed.
type Change = (String, Option<Shown>);

#[derive(Clone, Default)]
pub struct Objects {
    all: BTreeMap<String, Object>,
    changes: Vec<Change>,
}

impl Object {
    fn shown(&self) -> Shown {
        Shown { size_bytes: self.bytes.len() as u64, modified_unix_ms: self.modified_unix_ms }
    }
}

impl Objects {
    pub fn get(&self, name: &str) -> Option<&Object> {
        self.all.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    pub fn put(&mut self, name: &str, object: Object) {
        let before = self.all.insert(name.to_owned(), object);
        self.changes.push((name.to_owned(), before.map(|b| b.shown())));
    }

    /// False where there was none.
    pub fn delete(&mut self, name: &str) -> bool {
        let Some(before) = self.all.remove(name) else { return false };
        self.changes.push((name.to_owned(), Some(before.shown())));
        true
    }

    /// How many changes there were: a moment to which [`listed`](Self::listed) can go back.
    pub fn moment(&self) -> usize {
        self.changes.len()
    }

    /// What a listing shows that is as old as a moment.
    pub fn listed(&self, prefix: &str, moment: usize) -> BTreeMap<String, Shown> {
        let within = self.all.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        let mut listed: BTreeMap<String, Shown> =
            within.map(|(name, object)| (name.clone(), object.shown())).collect();
        for (name, before) in self.changes[moment..].iter().rev() {
            if name.starts_with(prefix) {
                match before {
                    Some(shown) => listed.insert(name.clone(), *shown),
                    None => listed.remove(name),
                };
            }
        }
        listed
    }

    /// Forgets what was: nothing can go back to before now.
    pub fn settle(&mut self) {
        self.changes.clear();
    }
}
