//! Sizes, counts and times as people write and read them.

use std::time::Duration;

use cuttle::{Error, Result};

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `1.5 GiB`
pub fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        // A whole number is no approximation: sizes of volumes mostly are.
        _ if bytes.is_multiple_of(1 << (10 * unit)) => format!("{} {}", bytes >> (10 * unit), UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// `12,345`
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 volume`, `2 volumes`
pub fn counted(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`
pub fn duration(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{:.1} s", seconds.max(0.0));
    }
    match seconds.round() as u64 {
        s @ ..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// How long ago something was: `5 min`, `3 d`. The two clocks may differ; what is in the future is now.
pub fn age(then_unix_ms: u64, now_unix_ms: u64) -> String {
    match now_unix_ms.saturating_sub(then_unix_ms) / 1000 {
        s @ ..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

fn timestamp(unix_ms: u64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()
}

/// Local time: `2026-11-21 03:00:12`.
pub fn local_time(unix_ms: u64) -> String {
    timestamp(unix_ms).map_or_else(
        || "?".to_owned(),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// RFC 3339 in UTC, for JSON.
pub fn utc_time(unix_ms: u64) -> Option<String> {
    timestamp(unix_ms).map(|t| t.to_string())
}

/// Reads a size: a number and a unit, `4MiB`, `1.5G`, `100kB`. Units of two letters count in thousands, others in 1024s.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad =
        || Error::invalid(format!("size {text:?}: expected a number and a unit, such as 50MiB, 2G or 64KiB"));
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim().to_ascii_lowercase());
    let number: f64 = number.parse().map_err(|_| bad())?;
    let (letter, base) = match unit.as_str() {
        "b" => ("", 1024_f64),
        u => match u.strip_suffix("ib") {
            Some(letter) => (letter, 1024.0),
            None => u.strip_suffix('b').map_or((u, 1024.0), |letter| (letter, 1000.0)),
        },
    };
    let power = match letter {
        "" if unit == "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let bytes = number * base.powi(power);
    // Beyond 2^63 a float no longer tells one size from another, and nothing is so large.
    if bytes.is_finite() && bytes < 9e18 { Ok(bytes.round() as u64) } else { Err(bad()) }
}

/// Reads a time: a whole number and a unit, `90m`, `24h`, `3d`.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || {
        Error::invalid(format!(
            "time {text:?}: expected a whole number and s, m, h, d or w, such as 90m or 3d"
        ))
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds: u64 = match unit {
        // Nothing is nothing in any unit.
        "" if number == "0" => 1,
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

/// Reads a size that is meant to the byte: a bare number is bytes.
pub fn parse_exact_size(text: &str) -> Result<u64> {
    text.parse().or_else(|_| parse_size(text))
}

/// Reads a size that is more than nothing.
pub fn parse_size_nonzero(text: &str) -> Result<u64> {
    match parse_size(text)? {
        0 => Err(Error::invalid(format!("size {text:?}: expected more than 0"))),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::{age, count, counted, duration, parse_duration, parse_size, size};

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1 << 40, "1 TiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (40 << 30, "40 GiB"),
            (123_456_789, "118 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0B", 0),
            ("1k", 1024),
            ("50MiB", 50 << 20),
            ("50 mib", 50 << 20),
            ("1.5G", 3 << 29),
            ("100kB", 100_000),
            ("2TB", 2_000_000_000_000),
            ("4p", 4 << 50),
        ] {
            assert_eq!(parse_size(text).expect(text), bytes, "{text}");
        }
        for text in ["", "5", "MiB", "-1k", "1x", "1.2.3k", "1kk", "1i", "99999999p", "infk", "1e3k"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("0s", 0), ("90m", 5400), ("24h", 86_400), ("3d", 259_200), ("2w", 1_209_600)]
        {
            assert_eq!(parse_duration(text).expect(text).as_secs(), seconds, "{text}");
        }
        for text in ["", "5", "d", "-1d", "1.5h", "1x", "1dd", "99999999999999999w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_and_times() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "key"), counted(2, "key")], ["1 key", "2 keys"]);
        let shown = [0.04, 9.96, 61.0, 7500.0, 90_000.0].map(duration);
        assert_eq!(shown, ["0.0 s", "10 s", "1 min 1 s", "2 h 5 min", "1 d 1 h"]);
        let ages = [59_999, 60_000, 47 * 3_600_000, 48 * 3_600_000].map(|ms| age(1000, 1000 + ms));
        assert_eq!(ages, ["59 s", "1 min", "47 h", "2 d"]);
        assert_eq!(age(5000, 1000), "0 s");
    }
}
