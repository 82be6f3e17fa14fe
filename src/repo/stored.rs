//! Everything that is stored of a kind, listed whole: as many requests as it takes to show the names, whatever generations they are
//! spread over, and several at once where there are many.
//!
//! A listing goes on in batches. Where a batch was not the end, what is left is cut: within its generation where that holds many
//! more (ids are spread evenly, so a batch tells how many), else between the generations that come. A cut costs at most a request.

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};

use crate::cancel::Cancel;
use crate::error::Result;
use crate::format::ObjectName;
use crate::format::names::{ContentKind, ContentName, content_prefix, generation_prefix};
use crate::repo::Project;
use crate::units::Generation;

/// Listings under way at once.
const LISTS_INFLIGHT_MAX: usize = 16;
/// Names of one batch: ten requests of a thousand names each.
const BATCH: usize = 10_000;

/// A chunk, page or bundle as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) kind: ContentKind,
    pub(crate) name: ContentName,
    pub(crate) size_bytes: u64,
}

/// Where a name stands in the order of a listing: its generation, and the first byte of its id.
type Place = (u32, u16);

/// What is still to be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    /// What was listed already; where the range begins, if nothing was.
    after: After,
    /// The first place that is not in it.
    until: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Start(Place),
    Name(ContentName),
}

/// Shows every name of a kind to `each`, in any order, each once. Foreign names are left out.
pub(super) async fn each(
    project: &Project,
    kind: ContentKind,
    newest: Generation,
    cancel: &Cancel,
    mut each: impl FnMut(Listed),
) -> Result<()> {
    // A directory is walked whole by every listing.
    let batch = if project.repository().store().is_local() { usize::MAX } else { BATCH };
    let mut left = vec![Range { after: After::Start((0, 0)), until: (u32::MAX, 256) }];
    let mut going = FuturesUnordered::new();
    loop {
        while going.len() < LISTS_INFLIGHT_MAX
            && let Some(range) = left.pop()
        {
            going.push(some(project, kind, range, batch));
        }
        cancel.check()?;
        let Some((range, listed, is_end)) = going.try_next().await? else { return Ok(()) };
        if !is_end {
            let names: Vec<ContentName> = listed.iter().map(|listed| listed.name).collect();
            let room = LISTS_INFLIGHT_MAX.saturating_sub(going.len() + left.len());
            left.extend(cut(range, &names, newest, room));
        }
        listed.into_iter().for_each(&mut each);
    }
}

/// The first names of a range, and whether these are all.
async fn some(
    project: &Project,
    kind: ContentKind,
    range: Range,
    batch: usize,
) -> Result<(Range, Vec<Listed>, bool)> {
    let (prefix, name) = (content_prefix(project.name(), kind), project.name());
    let after = match range.after {
        After::Start((0, 0)) => None,
        After::Start((g, first)) => {
            // The folder itself, which is before all that is in it: a key does not end in a slash.
            let folder = generation_prefix(name, kind, Generation(g), u8::try_from(first).ok());
            Some(folder.trim_end_matches('/').to_owned())
        }
        After::Name(content) => Some(ObjectName::content(name, kind, content).to_string()),
    };
    let store = project.repository().store();
    let mut listing = std::pin::pin!(store.list_stream(&prefix, after.as_deref()));
    let mut listed = Vec::new();
    while let Some(info) = listing.next().await {
        let info = info?;
        let (kind, name) = match ObjectName::parse(&info.key) {
            Some(ObjectName::Chunk(_, name)) => (ContentKind::Chunk, name),
            Some(ObjectName::Page(_, name)) => (ContentKind::Page, name),
            Some(ObjectName::Bundle(_, name)) => (ContentKind::Bundle, name),
            _ => continue,
        };
        if place(&name) >= range.until {
            // A directory does not list in order.
            if batch == usize::MAX {
                continue;
            }
            return Ok((range, listed, true));
        }
        listed.push(Listed { kind, name, size_bytes: info.size_bytes });
        if listed.len() >= batch {
            return Ok((range, listed, false));
        }
    }
    Ok((range, listed, true))
}

fn place(name: &ContentName) -> Place {
    (name.generation.0, u16::from(name.id.0[0]))
}

/// Cuts what is left of a range after a batch, into at most `room` and one.
fn cut(range: Range, batch: &[ContentName], newest: Generation, room: usize) -> Vec<Range> {
    let Some(last) = batch.last() else { return Vec::new() };
    let rest = Range { after: After::Name(*last), until: range.until };
    let generation = last.generation.0;
    let whole_end = (generation.saturating_add(1), 0);
    let end = range.until.min(whole_end);
    // How many more of this generation there are, if ids go on as they did.
    let first = batch.iter().find(|name| name.generation == last.generation).map_or(0, position);
    let here = batch.iter().filter(|name| name.generation == last.generation).count();
    let stop = if end == whole_end { 1 << 16 } else { u32::from(end.1) << 8 };
    let (seen, to_come) = (position(last).saturating_sub(first).max(1), stop.saturating_sub(position(last)));
    let more = here as u64 * u64::from(to_come) / u64::from(seen);
    let parts = (more / batch.len() as u64).min(room as u64 + 1) as u16;
    let from = last.id.0[0];
    let bytes = (stop >> 8).saturating_sub(u32::from(from)) as u16;
    if parts >= 2 && bytes > parts {
        let starts = (1..parts).map(|part| (generation, u16::from(from) + part * bytes / parts));
        let mut ends: Vec<Place> = starts.chain([end]).collect();
        if range.until > whole_end {
            ends.push(range.until);
        }
        let mut after = rest.after;
        return ends
            .into_iter()
            .map(|until| {
                let range = Range { after, until };
                after = After::Start(until);
                range
            })
            .collect();
    }
    let last_generation = range.until.0.min(newest.0.saturating_add(1));
    let middle = (generation.midpoint(last_generation).max(generation.saturating_add(1)), 0);
    if room == 0 || middle.0 <= generation || middle >= range.until || middle.0 > newest.0 {
        return vec![rest];
    }
    vec![Range { until: middle, ..rest }, Range { after: After::Start(middle), until: range.until }]
}

/// Of an id, among 65,536.
fn position(name: &ContentName) -> u32 {
    u32::from(u16::from_be_bytes([name.id.0[0], name.id.0[1]]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::units::ChunkId;

    fn names(generations: &[usize]) -> BTreeSet<ContentName> {
        let mut all = BTreeSet::new();
        for (generation, count) in generations.iter().enumerate() {
            for n in 0..*count {
                let id = blake3::hash(format!("{generation} {n}").as_bytes());
                all.insert(ContentName::plain(Generation(generation as u32), ChunkId(*id.as_bytes())));
            }
        }
        all
    }

    /// Lists as a store does, a thousand names a request, and what it took: requests, and how many of them one after the other.
    fn list(all: &BTreeSet<ContentName>, newest: u32) -> (usize, usize) {
        let mut left = vec![(Range { after: After::Start((0, 0)), until: (u32::MAX, 256) }, 0)];
        let (mut seen, mut requests, mut longest) = (BTreeSet::new(), 0, 0);
        while let Some((range, before)) = left.pop() {
            let begins = |name: &&ContentName| match range.after {
                After::Start(start) => place(name) >= start,
                After::Name(after) => **name > after,
            };
            let batch: Vec<ContentName> = all
                .iter()
                .filter(begins)
                .take_while(|name| place(name) < range.until)
                .take(BATCH)
                .copied()
                .collect();
            let took = batch.len() / 1_000 + usize::from(batch.len() < BATCH);
            requests += took;
            longest = longest.max(before + took);
            if batch.len() == BATCH {
                let room = LISTS_INFLIGHT_MAX.saturating_sub(left.len());
                left.extend(
                    cut(range, &batch, Generation(newest), room).into_iter().map(|r| (r, before + took)),
                );
            }
            for name in batch {
                assert!(seen.insert(name), "{name} twice");
            }
        }
        assert_eq!(seen.len(), all.len());
        (requests, longest)
    }

    #[test]
    fn everything_is_listed_once_with_few_requests_however_it_is_spread() {
        let spreads: [(&str, Vec<usize>); 5] = [
            ("nothing", vec![]),
            ("one generation", vec![120_000]),
            ("a first backup and many nights", [vec![60_000], vec![40; 1_500]].concat()),
            ("as many each night", vec![100; 1_200]),
            ("a second large one", [vec![300; 20], vec![90_000], vec![300; 20]].concat()),
        ];
        for (what, generations) in spreads {
            let all = names(&generations);
            let (requests, longest) = list(&all, generations.len() as u32);
            println!("{what}: {} names, {requests} requests, {longest} one after the other", all.len());
            assert!(requests <= all.len() / 1_000 * 12 / 10 + 16, "{what}: {requests}");
            assert!(longest <= 40 || requests < 40, "{what}: {longest}");
        }
    }
}
