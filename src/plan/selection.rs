//! Which volumes and snapshots are meant: by patterns of names, and by tags.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A pattern over whole names: `*` is any number of characters, `/` among them, and `?` is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<char>);

impl Glob {
    /// Takes time in proportion to the product of both lengths at most.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut pattern_at) = (0, 0);
        // Where to go on when the last `*` takes one character more.
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() {
            match (self.0.get(pattern_at), name.get(at)) {
                (Some('*'), _) => {
                    retry = Some((pattern_at + 1, at));
                    pattern_at += 1;
                }
                (Some(p), Some(c)) if *p == '?' || p == c => (at, pattern_at) = (at + 1, pattern_at + 1),
                _ => match &mut retry {
                    None => return false,
                    Some((after_star, taken)) => {
                        *taken += 1;
                        (at, pattern_at) = (*taken, *after_star);
                    }
                },
            }
        }
        self.0.get(pattern_at..).is_some_and(|rest| rest.iter().all(|&p| p == '*'))
    }
}

impl FromStr for Glob {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.is_empty() {
            true => Err(Error::invalid("an empty pattern matches nothing").help("for example: 'vms/*'")),
            false => Ok(Self(text.chars().collect())),
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|c| write!(f, "{c}"))
    }
}

/// Tags that a snapshot must have, all of them; none of them: it must have no tag at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagList(Vec<String>);

impl TagList {
    /// Whether a snapshot with these tags is meant.
    pub fn matches(&self, tags: &[String]) -> bool {
        match self.0.is_empty() {
            true => tags.is_empty(),
            false => self.0.iter().all(|tag| tags.contains(tag)),
        }
    }

    /// Whether one of several lists matches; no list at all does.
    pub fn any_matches(lists: &[Self], tags: &[String]) -> bool {
        lists.is_empty() || lists.iter().any(|list| list.matches(tags))
    }
}

impl FromStr for TagList {
    type Err = Error;

    /// `a,b`
    fn from_str(text: &str) -> Result<Self> {
        Ok(Self(text.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{Glob, TagList};

    fn glob(pattern: &str) -> Glob {
        pattern.parse().expect("a pattern")
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("vms/db", "vms/db", true),
            ("vms/db", "vms/db2", false),
            ("vms/*", "vms/db", true),
            ("vms/*", "vms/", true),
            ("vms/*", "vm/db", false),
            ("*", "", true),
            ("*", "a/b/c", true),
            ("?", "", false),
            ("?b", "äb", true),
            ("*db*", "vms/db-1", true),
            ("*a*b", "aab/aab", true),
            ("*a*b", "aab/aac", false),
            ("**x", "x", true),
        ] {
            assert_eq!(glob(pattern).matches(name), expected, "{pattern} {name}");
        }
        assert!("".parse::<Glob>().is_err());
    }

    /// What the pattern means, said simply.
    fn simply(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some(('*', rest)), None) => simply(rest, name),
            (Some(('*', rest)), Some((_, tail))) => simply(rest, name) || simply(pattern, tail),
            (Some((p, rest)), Some((c, tail))) => (*p == '?' || p == c) && simply(rest, tail),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_mean_what_they_say(pattern in "[ab?*]{1,8}", name in "[ab]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(glob(&pattern).matches(&name), simply(&chars(&pattern), &chars(&name)));
        }
    }

    #[test]
    fn tags() {
        let list = |text: &str| text.parse::<TagList>().expect("tags");
        let tags = ["a".to_owned(), "b".to_owned()];
        for (text, expected) in [("a", true), ("a,b", true), ("b,c", false), ("", false), ("a,", true)] {
            assert_eq!(list(text).matches(&tags), expected, "{text}");
        }
        assert!(list("").matches(&[]) && !list("a").matches(&[]));
        assert!(TagList::any_matches(&[], &tags) && TagList::any_matches(&[list("c"), list("b")], &tags));
        assert!(!TagList::any_matches(&[list("c")], &tags));
    }
}
