//! Numbers without gaps: generations, volumes, sequences. A listing may lack some, and show some that do not count.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, Result};

/// Numbers beyond a row's end that are opened, to see whether one of them counts: the greatest first.
const STRAYS_MAX: usize = 64;
/// Opened at once.
const STRAYS_INFLIGHT_MAX: usize = 16;
/// Names behind a row's end, one after the other, of which none opens. Beyond it somebody is having his way.
pub(crate) const FOREIGN_MAX: u32 = 64;

/// The last number of a row, as far as a listing tells. Up to `from` it is known to go, whatever is listed: 0 for nothing. What the row leads to is part of it, whether it
/// opens or not. Beyond a gap a number is part of it only when `opens` says so: then what is between is missing.
/// `expected` is a number that was seen to open before.
pub(crate) async fn end<F>(
    from: u32,
    listed: &BTreeSet<u32>,
    expected: u32,
    opens: impl Fn(u32) -> F,
) -> Result<u32>
where
    F: Future<Output = Result<bool>> + Send,
{
    let mut last = from;
    loop {
        while let Some(next) = follows(last).filter(|next| listed.contains(next)) {
            last = next;
        }
        let beyond = listed.range(last..).rev().take(STRAYS_MAX).copied().filter(|n| *n > last);
        let mut strays: Vec<u32> = beyond.collect();
        if expected > last && !strays.contains(&expected) {
            strays.push(expected);
        }
        let looks = strays.into_iter().map(|stray| {
            let look = opens(stray);
            async move { Ok::<_, Error>(look.await?.then_some(stray)) }
        });
        let mut looks = std::pin::pin!(stream::iter(looks).buffered(STRAYS_INFLIGHT_MAX));
        let mut found = None;
        while let (None, Some(look)) = (found, looks.try_next().await?) {
            found = look;
        }
        match found {
            Some(stray) => last = stray,
            None => return Ok(last),
        }
    }
}

/// The number after one, if there is any.
pub(crate) fn follows(number: u32) -> Option<u32> {
    number.checked_add(1)
}

/// Too many names that do not open stand one behind the other.
pub(crate) fn endless(first: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("{FOREIGN_MAX} objects from {first} on do not open, one behind the other"))
        .help("somebody puts them there, or the store answers with something else than what it has; see `cuttle verify`")
}
