//! The Range header: RFC 9110 §14.

/// What a request asks for of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: there is no range, or one that RFC 9110 §14.2 lets us ignore, as another unit or a broken one.
    Whole,
    /// These bytes; never empty, never beyond the end.
    Part(std::ops::Range<u64>),
    /// Nothing that there is: status 416. Several ranges are refused as well: a list of ranges has no use for an image, and
    /// answered with the whole it would be terabytes by mistake.
    Unsatisfiable,
}

/// Reads the header's value for a body of `size_bytes`.
pub fn wanted(value: &str, size_bytes: u64) -> Wanted {
    let Some((unit, ranges)) = value.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    if ranges.contains(',') {
        return Wanted::Unsatisfiable;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if last < first => Wanted::Whole,
        (Some(first), Some(last)) => part(first, last.saturating_add(1), size_bytes),
        (Some(first), None) if last.is_empty() => part(first, size_bytes, size_bytes),
        (None, Some(suffix)) if first.is_empty() && suffix > 0 => {
            part(size_bytes.saturating_sub(suffix), size_bytes, size_bytes)
        }
        (None, Some(_)) if first.is_empty() => Wanted::Unsatisfiable,
        _ => Wanted::Whole,
    }
}

fn part(start: u64, end: u64, size_bytes: u64) -> Wanted {
    if start >= size_bytes { Wanted::Unsatisfiable } else { Wanted::Part(start..end.min(size_bytes)) }
}

/// Digits alone; what is too large for us is beyond the end of anything.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::Wanted::{Part, Unsatisfiable, Whole};
    use super::wanted;

    #[test]
    fn ranges_of_a_hundred_bytes() {
        for (value, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=0-99", Part(0..100)),
            ("bytes=0-100", Part(0..100)),
            ("bytes=99-", Part(99..100)),
            ("bytes=-1", Part(99..100)),
            ("bytes=-100", Part(0..100)),
            ("bytes=-101", Part(0..100)),
            ("bytes=10-99999999999999999999999", Part(10..100)),
            ("bytes=-99999999999999999999999", Part(0..100)),
            ("Bytes=5-6", Part(5..7)),
            ("bytes= 5-6 ", Part(5..7)),
            ("bytes=100-", Unsatisfiable),
            ("bytes=100-200", Unsatisfiable),
            ("bytes=99999999999999999999999-", Unsatisfiable),
            ("bytes=18446744073709551615-18446744073709551615", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=0-1,5-6", Unsatisfiable),
            ("bytes=0-1,", Unsatisfiable),
            ("bytes=6-5", Whole),
            ("bytes=", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=1-2-3", Whole),
            ("bytes=1 -2", Whole),
            ("bytes", Whole),
            ("", Whole),
            ("lines=1-2", Whole),
        ] {
            assert_eq!(wanted(value, 100), expected, "{value:?}");
        }
        for value in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(wanted(value, 0), Unsatisfiable, "{value:?} of nothing");
        }
    }
}
