//! Walks the trees of pages of many snapshots, each distinct page once.

use std::collections::HashSet;

use crate::error::{ErrorKind, Result};
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, Page, REFS_PER_PAGE, pages_of_level};
use crate::repo::walk::{self, Node, Tree, Walk, Walker};
use crate::units::{ChunkIndex, Generation, Geometry};
use crate::verify::audit::Audit;
use crate::verify::report::{Findings, Flaw, Looked, looked};
use crate::verify::subject::Subject;

/// Pages that are remembered as seen (about 50 MiB). Beyond, all are forgotten and some read again.
const PAGES_SEEN_MAX: usize = 1 << 19;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// What a walk comes to.
pub(crate) enum Visit<'a> {
    Leaf {
        first: ChunkIndex,
        page: &'a Page,
        generation: Generation,
    },
    /// A page that cannot be read, and the chunks that it stands for.
    Bad {
        object: ObjectRef,
        flaw: Flaw,
        chunks: std::ops::Range<u64>,
    },
}

/// How pages are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// From the store itself, each once.
    Fresh,
    /// Copies will do, each once.
    Again,
    /// Copies will do, and each as often as its visitor wants.
    Often,
}

/// The pages of many snapshots.
pub(crate) struct Pages<'a> {
    audit: &'a Audit,
    manner: Manner,
    seen: HashSet<(ContentName, u64)>,
    /// How many were read.
    pub(crate) read: u64,
}

/// Told of each page. Whether the same leaf need not be visited again; asked by [`Manner::Often`] only.
pub(crate) type Visitor<'v> = dyn FnMut(&mut Findings, Visit<'_>) -> Result<bool> + Send + 'v;

impl<'a> Pages<'a> {
    pub(crate) fn new(audit: &'a Audit, manner: Manner) -> Self {
        Self { audit, manner, seen: HashSet::new(), read: 0 }
    }

    /// Walks one snapshot. Pages that are known as bad are not read again.
    pub(crate) async fn snapshot(
        &mut self,
        subject: &Subject,
        findings: &mut Findings,
        visit: &mut Visitor<'_>,
    ) -> Result<()> {
        let (audit, often) = (self.audit, self.manner == Manner::Often);
        let root = match subject.root(&audit.project).await {
            // Forgotten meanwhile, and its outcome removed: nobody asks for it any more.
            Err(e) if e.kind() == ErrorKind::Corrupt && subject.is_forgotten(&audit.project).await? => {
                return Ok(());
            }
            root => root?,
        };
        let bad = findings.pages.keys().copied().collect();
        let auditing = Auditing { pages: self, geometry: subject.geometry, made_in: subject.generation, bad };
        let mut walk = Walk::over(auditing, Tree::new(subject.geometry, root));
        while let Some(step) = walk.next().await? {
            audit.cancel.check()?;
            match step {
                walk::Visit::Skipped(_) => {}
                walk::Visit::Flawed(Node { object, level, number, .. }, flaw) => {
                    walk.walker.bad.insert(object.name);
                    let chunks = chunks_below(subject.geometry, level, number);
                    visit(findings, Visit::Bad { object, flaw, chunks })?;
                }
                walk::Visit::Leaf(leaf) => {
                    let Some(node) = leaf.node else { continue };
                    let first = ChunkIndex(leaf.number * FANOUT);
                    let generation = node.object.name.generation;
                    let done = visit(findings, Visit::Leaf { first, page: &leaf.page, generation })?;
                    if done && often {
                        walk.walker.saw(&node);
                    }
                }
            }
        }
        let read = walk.pages;
        self.read += read;
        Ok(())
    }
}

/// Walks one snapshot.
struct Auditing<'p, 'a> {
    pages: &'p mut Pages<'a>,
    geometry: Geometry,
    /// The generation of the snapshot: none of its pages is of a newer one.
    made_in: Generation,
    /// Pages that were found damaged before.
    bad: HashSet<ContentName>,
}

impl Auditing<'_, '_> {
    fn saw(&mut self, node: &Node) {
        let key = self.key(node);
        let seen = &mut self.pages.seen;
        if seen.len() >= PAGES_SEEN_MAX {
            seen.clear();
        }
        seen.insert(key);
    }

    /// What makes two pages the same to verify: the last one of a level depends on the volume's size too.
    fn key(&self, node: &Node) -> (ContentName, u64) {
        let last = node.number + 1 == pages_of_level(self.geometry.chunk_count(), node.level);
        (node.object.name, if last { self.geometry.size_bytes } else { 0 })
    }
}

impl Walker for Auditing<'_, '_> {
    type Flaw = Flaw;

    fn enters(&mut self, node: &Node) -> bool {
        if self.pages.seen.contains(&self.key(node)) {
            return false;
        }
        if self.pages.manner != Manner::Often {
            self.saw(node);
        }
        true
    }

    async fn read(&self, node: &Node) -> Looked<Page> {
        let (audit, object) = (self.pages.audit, &node.object);
        if self.bad.contains(&object.name) {
            return Ok(Err(Flaw::damaged("it was found damaged before")));
        }
        let newest = node.above.map_or(self.made_in, |name| name.generation);
        if object.name.generation > newest {
            return Ok(Err(Flaw::damaged(format!(
                "generation {}, but what names it is of {newest}",
                object.name.generation
            ))));
        }
        if self.pages.manner != Manner::Fresh
            && let Ok(page) = looked(audit.project.content().read_page(object, node.level, node.count).await)?
        {
            return Ok(Ok(page));
        }
        // What it is exactly that is wrong, the store tells.
        audit.page(object, node.level, node.count).await
    }
}

fn chunks_below(geometry: Geometry, level: u8, number: u64) -> std::ops::Range<u64> {
    let each = FANOUT.pow(u32::from(level) + 1);
    let start = number.saturating_mul(each);
    start..start.saturating_add(each).min(geometry.chunk_count())
}
