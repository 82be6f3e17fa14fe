//! The file of a memory: lines that are only ever added, so that each command adds what it saw and nothing more, and that are
//! written anew in short form once in a while.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::seen::{Line, Seen};

/// Most bytes in a memory file: ten thousand volumes take some five million.
const FILE_LEN_BYTES_MAX: u64 = 128 << 20;
/// Lines beyond those needed at which a file is written anew, and how many times as many as are needed there may be.
const SPARE_LINES: usize = 4_096;
const SPARE_FACTOR: usize = 2;
/// Openings of a file that another process is just writing anew.
const OPENINGS_MAX: usize = 4;

/// A memory file and the repository that it is of.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) path: PathBuf,
    pub(super) repository: String,
}

/// What a file holds.
pub(super) enum Found {
    Nothing,
    Seen(Seen),
    /// It is there and no memory of this repository.
    Damaged(String),
}

impl Journal {
    /// Reads what was remembered, and writes it anew where it has become long.
    pub(super) fn read(&self) -> io::Result<Found> {
        let (found, is_long) = self.look()?;
        if is_long {
            // It is as good as it was.
            let _ = self.compact();
        }
        Ok(found)
    }

    /// Reads what was remembered, and says whether that has become long.
    pub(super) fn look(&self) -> io::Result<(Found, bool)> {
        let mut text = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(FILE_LEN_BYTES_MAX + 1).read_to_end(&mut text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((Found::Nothing, false)),
            Err(e) => return Err(e),
        };
        if text.len() as u64 > FILE_LEN_BYTES_MAX {
            return Ok((Found::Damaged(format!("more than {FILE_LEN_BYTES_MAX} bytes")), false));
        }
        let (seen, lines) = match self.parse(&text) {
            Ok(None) => return Ok((Found::Nothing, false)),
            Ok(Some(found)) => found,
            Err(why) => return Ok((Found::Damaged(why), false)),
        };
        let is_long = lines > seen.lines_min() * SPARE_FACTOR + SPARE_LINES;
        Ok((Found::Seen(seen), is_long))
    }

    fn parse(&self, text: &[u8]) -> Result<Option<(Seen, usize)>, String> {
        let (mut seen, mut lines, mut ours) = (Seen::default(), 0, false);
        for (at, line) in text.split(|b| *b == b'\n').enumerate() {
            // A line that ends within was cut by a crash or a full disk; what it said is seen again.
            if line.is_empty() || (line.starts_with(b"{") && !line.ends_with(b"}")) {
                continue;
            }
            let line: Line<'_> = serde_json::from_slice(line).map_err(|e| format!("line {}: {e}", at + 1))?;
            if let Some(repository) = &line.repository {
                if *repository != self.repository {
                    return Err(format!("line {}: it is of repository {repository}", at + 1));
                }
                ours = true;
            }
            seen.add(&line).ok_or_else(|| format!("line {}: it says nothing that is known", at + 1))?;
            lines += 1;
        }
        match (ours, lines) {
            (_, 0) => Ok(None),
            (true, _) => Ok(Some((seen, lines))),
            (false, _) => Err("it does not say which repository it is of".to_owned()),
        }
    }

    /// Adds lines. False where another process has the file for itself just now.
    pub(super) fn append(&self, lines: &str) -> io::Result<bool> {
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent)?;
        }
        for _ in 0..OPENINGS_MAX {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            // Where there are no locks, a line may get lost: what it said is seen again.
            if matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)) {
                return Ok(false);
            }
            if !is_at(&file, &self.path)? {
                continue;
            }
            let mut text = String::new();
            if file.metadata()?.len() == 0 {
                let header = Line { repository: Some(self.repository.as_str().into()), ..Line::default() };
                text = header.text();
            }
            // Whatever a crash left of the last line ends here.
            text += "\n";
            text += lines;
            file.write_all(text.as_bytes())?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Puts something in the place of what the file holds.
    pub(super) fn replace(&self, seen: &Seen) -> io::Result<()> {
        write_whole(&self.path, seen.lines(&self.repository).as_bytes())
    }

    fn compact(&self) -> io::Result<()> {
        let file = File::open(&self.path)?;
        if file.try_lock().is_err() || !is_at(&file, &self.path)? {
            return Ok(());
        }
        // Others may have added to it since.
        let text = fs::read(&self.path)?;
        match self.parse(&text) {
            Ok(Some((seen, _))) => self.replace(&seen),
            _ => Ok(()),
        }
    }
}

/// Whether the path still leads to the open file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (open, now) = (file.metadata()?, fs::metadata(path));
    Ok(now.is_ok_and(|now| (now.dev(), now.ino()) == (open.dev(), open.ino())))
}

/// Writes a small file, so that after a crash it holds either what it held or all of this.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a file without a folder"))?;
    fs::create_dir_all(parent)?;
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(dir: &Path) -> Journal {
        Journal { path: dir.join("state/x.jsonl"), repository: "ab".into() }
    }

    fn line(volume: u32) -> String {
        Line { last: volume, ..Line::of_volume("p", volume) }.text() + "\n"
    }

    fn volumes(journal: &Journal) -> usize {
        match journal.read().expect("readable") {
            Found::Seen(seen) => seen.projects["p"].volumes.len(),
            Found::Nothing => 0,
            Found::Damaged(why) => panic!("{why}"),
        }
    }

    #[test]
    fn what_is_added_is_there_though_the_last_line_was_cut() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = journal(dir.path());
        assert_eq!(volumes(&journal), 0);
        assert!(journal.append(&line(1)).expect("written"));
        let mut cut = OpenOptions::new().append(true).open(&journal.path).expect("open");
        cut.write_all(&line(2).as_bytes()[..20]).expect("written");
        assert_eq!(volumes(&journal), 1);
        assert!(journal.append(&line(3)).expect("written"));
        assert_eq!(volumes(&journal), 2);
        fs::write(&journal.path, "").expect("emptied");
        assert_eq!(volumes(&journal), 0);
    }

    #[test]
    fn what_is_no_memory_of_this_repository_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = journal(dir.path());
        journal.append(&line(1)).expect("written");
        for text in ["\0\0\0\0", "rubbish", "{}", "{\"repository\":\"cd\"}", &line(1)] {
            fs::write(&journal.path, text).expect("written");
            assert!(matches!(journal.read(), Ok(Found::Damaged(_))), "{text}");
        }
        fs::remove_file(&journal.path).expect("removed");
        fs::create_dir(&journal.path).expect("a folder instead");
        assert!(journal.read().is_err() && journal.append("x").is_err());
    }

    #[test]
    fn a_long_file_becomes_short_and_nothing_is_lost_while_others_add() {
        let dir = tempfile::tempdir().expect("a folder");
        let ours = journal(dir.path());
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let other = journal(dir.path());
                scope.spawn(move || {
                    for n in 0..4_000 {
                        while !other.append(&line(1 + thread * 10 + n % 10)).expect("written") {}
                        if n % 500 == 0 {
                            assert!(matches!(other.read(), Ok(Found::Seen(_))));
                        }
                    }
                });
            }
        });
        assert_eq!(volumes(&ours), 30);
        let len = fs::metadata(&ours.path).expect("there").len();
        assert!(len < 32 * 4_300 * 2, "{len} bytes");
    }
}
