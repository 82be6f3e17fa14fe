//! Walks the trees of pages of many snapshots, each distinct page once.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{ErrorKind, Result};
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, Page, PageRef, REFS_PER_PAGE, count_of_page, pages_of_level};
use crate::units::{ChunkIndex, Generation, Geometry};
use crate::verify::audit::Audit;
use crate::verify::metadata::Subject;
use crate::verify::report::{Findings, Flaw, Looked, looked};

/// Pages read at once.
const PAGES_INFLIGHT_MAX: usize = 16;
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

/// A walk over the pages of many snapshots.
pub(crate) struct Walk<'a> {
    audit: &'a Audit,
    manner: Manner,
    seen: HashSet<(ContentName, u64)>,
    /// Pages read.
    pub(crate) pages: u64,
}

/// A page to be read.
#[derive(Clone, Copy)]
struct Node {
    number: u64,
    object: ObjectRef,
    /// The newest generation that may be in its name.
    newest: Generation,
    /// It was found damaged before.
    bad: bool,
}

/// Told of each page. Whether the same leaf need not be visited again; asked by [`Manner::Often`] only.
pub(crate) type Visitor<'v> = dyn FnMut(&mut Findings, Visit<'_>) -> Result<bool> + Send + 'v;

impl<'a> Walk<'a> {
    pub(crate) fn new(audit: &'a Audit, manner: Manner) -> Self {
        Self { audit, manner, seen: HashSet::new(), pages: 0 }
    }

    /// Walks one snapshot. Pages that are known as bad are not read again.
    pub(crate) async fn snapshot(
        &mut self,
        subject: &Subject,
        findings: &mut Findings,
        visit: &mut Visitor<'_>,
    ) -> Result<()> {
        let root = match subject.root(self.audit).await {
            // Forgotten meanwhile, and its outcome removed: nobody asks for it any more.
            Err(e) if e.kind() == ErrorKind::Corrupt && self.audit.is_forgotten(subject).await? => {
                return Ok(());
            }
            root => root?,
        };
        self.below(subject, findings, visit, (&root, 0, subject.generation)).await
    }

    /// Walks all pages below one.
    async fn below(
        &mut self,
        subject: &Subject,
        findings: &mut Findings,
        visit: &mut Visitor<'_>,
        (page, number, newest): (&Page, u64, Generation),
    ) -> Result<()> {
        let Some(level) = page.level.checked_sub(1) else { return Ok(()) };
        let geometry = subject.geometry;
        let nodes = self.nodes(page, number, newest, (level, geometry, &*findings));
        let (audit, fresh) = (self.audit, self.manner == Manner::Fresh);
        let mut read = stream::iter(nodes)
            .map(|node| async move {
                let found = audit.node(node, level, geometry, fresh).await?;
                Ok::<_, crate::Error>((node, found))
            })
            .buffered(PAGES_INFLIGHT_MAX);
        while let Some((node, found)) = read.try_next().await? {
            audit.cancel.check()?;
            let name = node.object.name;
            let page = match found {
                Ok(page) => page,
                Err(flaw) => {
                    let chunks = chunks_below(geometry, level, node.number);
                    visit(findings, Visit::Bad { object: node.object, flaw, chunks })?;
                    continue;
                }
            };
            self.pages += 1;
            if level > 0 {
                let below = (&*page, node.number, name.generation);
                Box::pin(self.below(subject, findings, visit, below)).await?;
                continue;
            }
            let first = ChunkIndex(node.number * FANOUT);
            let done = visit(findings, Visit::Leaf { first, page: &page, generation: name.generation })?;
            if done && self.manner == Manner::Often {
                self.saw(&node, level, geometry);
            }
        }
        Ok(())
    }

    /// The pages that a page names and that are to be read.
    fn nodes(
        &mut self,
        page: &Page,
        number: u64,
        newest: Generation,
        (level, geometry, findings): (u8, Geometry, &Findings),
    ) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (at, page_ref) in page.refs.iter().enumerate() {
            let PageRef::Stored { object, .. } = page_ref else { continue };
            let bad = findings.pages.contains_key(&object.name);
            let node = Node { number: number * FANOUT + at as u64, object: *object, newest, bad };
            if self.seen.contains(&key(&node, level, geometry)) {
                continue;
            }
            if self.manner != Manner::Often {
                self.saw(&node, level, geometry);
            }
            nodes.push(node);
        }
        nodes
    }

    fn saw(&mut self, node: &Node, level: u8, geometry: Geometry) {
        if self.seen.len() >= PAGES_SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(key(node, level, geometry));
    }
}

/// What makes two pages the same to verify: the last one of a level depends on the volume's size too.
fn key(node: &Node, level: u8, geometry: Geometry) -> (ContentName, u64) {
    let last = node.number + 1 == pages_of_level(geometry.chunk_count(), level);
    (node.object.name, if last { geometry.size_bytes } else { 0 })
}

fn chunks_below(geometry: Geometry, level: u8, number: u64) -> std::ops::Range<u64> {
    let each = FANOUT.pow(u32::from(level) + 1);
    let start = number.saturating_mul(each);
    start..start.saturating_add(each).min(geometry.chunk_count())
}

impl Audit {
    async fn node(&self, node: Node, level: u8, geometry: Geometry, fresh: bool) -> Looked<Arc<Page>> {
        if node.bad {
            return Ok(Err(Flaw::damaged("it was found damaged before")));
        }
        if node.object.name.generation > node.newest {
            return Ok(Err(Flaw::damaged(format!(
                "generation {}, but what names it is of {}",
                node.object.name.generation, node.newest
            ))));
        }
        let count = count_of_page(geometry.chunk_count(), level, node.number);
        let page = match fresh {
            true => self.page(&node.object, level, count).await?,
            false => match looked(self.project.content().read_page(&node.object, level, count).await)? {
                // What it is exactly that is wrong, the store tells.
                Err(_) => self.page(&node.object, level, count).await?,
                page => page,
            },
        };
        Ok(page.map(Arc::new))
    }
}
