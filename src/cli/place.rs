//! What SOURCE and TARGET stand for on the command line.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::makedev;

use cuttle::error::io_error;
use cuttle::rbd::{RbdSpec, SCHEME};
use cuttle::source::raw_file::RawFile;
use cuttle::source::{FreezeRequest, Frozen, Volume};
use cuttle::units::VolumeName;
use cuttle::{Error, ErrorKind, Result};

use super::connect::blocking;
use super::{Context, Ui};

/// Major and minor number of /dev/null (Linux, Documentation/admin-guide/devices.txt).
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Where a volume is read from or written to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Rbd(RbdSpec),
    /// A file or a block device.
    File(PathBuf),
    /// `-`: standard input or output.
    Stream,
    /// A command that prints a volume; never what [`Place::parse`] finds.
    Command(Vec<String>),
}

/// A place as the command line takes it: with what was expected in its message.
pub fn parse(text: &str) -> Result<Place, String> {
    Place::parse(text).map_err(|e| match e.help_text() {
        Some(help) => format!("{e}: {help}"),
        None => e.to_string(),
    })
}

impl Place {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "" => Err(Error::invalid("a source or target is empty").help(HELP)),
            "-" => Ok(Self::Stream),
            _ if text.starts_with(SCHEME) => text.parse().map(Self::Rbd),
            path => Ok(Self::File(path.into())),
        }
    }

    /// The name of the volume, unless the user gives another.
    pub fn volume_name(&self) -> Result<VolumeName> {
        match self {
            Self::Rbd(spec) => spec.volume_name(),
            Self::File(path) => {
                let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
                    Error::invalid(format!("{} has no file name that could name the volume", path.display()))
                        .help("name it with --volume NAME")
                })?;
                name.parse().map_err(|e: Error| e.help("name the volume with --volume NAME"))
            }
            Self::Stream => Err(Error::invalid("a volume on standard input has no name")
                .help("name it with --volume NAME, for example the image's name: --volume vms/db")),
            Self::Command(_) => Err(Error::invalid("a volume that a command prints has no name")
                .help("name it with --volume NAME, before the command: --volume vms/db")),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rbd(spec) => spec.fmt(f),
            Self::File(path) => path.display().fmt(f),
            Self::Stream => f.write_str("-"),
            Self::Command(words) => f.write_str(&words.join(" ")),
        }
    }
}

const HELP: &str = "expected rbd:[POOL/[NAMESPACE/]]IMAGE[@SNAP], the path of a file or block device, or -";

/// Tells of `rbd:` to who named an image as Ceph's own `rbd` does, and there is no such file.
pub fn hint_at_rbd(error: Error, path: &Path) -> Error {
    let text = path.to_string_lossy();
    match error.kind() == ErrorKind::NotFound && !text.starts_with(['/', '.']) && error.help_text().is_none()
    {
        true => error.help(format!("for an RBD image write {SCHEME}{text}")),
        false => error,
    }
}

/// A file or standard input, to be read from its beginning to its end.
pub fn input(place: &Place) -> Result<File> {
    let path = match place {
        Place::Stream => return standard_input(),
        Place::File(path) => path,
        Place::Rbd(_) | Place::Command(_) => {
            return Err(Error::invalid(format!("{place}: expected a file, or - for standard input")));
        }
    };
    let doing = || format!("open {place}");
    let file = File::open(path).map_err(|e| io_error(doing(), e))?;
    if file.metadata().map_err(|e| io_error(doing(), e))?.is_dir() {
        return Err(Error::invalid(format!("{place} is a folder: expected a file")));
    }
    Ok(file)
}

/// A file or device that is read anywhere, and can say whether it held still.
pub async fn still(context: &Context<'_>, path: &Path) -> Result<Arc<dyn Frozen>> {
    let at = path.to_owned();
    let open = move || open_still(&at);
    blocking(context, open).await.map_err(|e| hint_at_rbd(e, path))
}

/// The same, where one may wait.
pub fn open_still(path: &Path) -> Result<Arc<dyn Frozen>> {
    let request = FreezeRequest { own_name: String::new(), own_prefix: String::new(), parent: None };
    Ok(RawFile::find(path)?.freeze(&request)?.into())
}

/// Standard input as a file: without a buffer and a lock of its own.
pub fn standard_input() -> Result<File> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Error::invalid("standard input is a terminal: expected the volume or a diff of it")
            .help(
                "for example: cuttle backup --volume vms/db --from-command -- rbd export-diff --from-snap A vms/db@B -",
            ));
    }
    let owned = stdin.as_fd().try_clone_to_owned();
    owned.map(File::from).map_err(|e| io_error("open standard input", e))
}

/// Standard output as a file; never a terminal. Nothing is what one that was closed becomes, so that is said.
pub fn standard_output(ui: &Ui) -> Result<File> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(Error::invalid("standard output is a terminal, and a volume is no text")
            .help("redirect it: cuttle restore SNAPSHOT - > FILE, or name a file as target"));
    }
    let owned = stdout.as_fd().try_clone_to_owned();
    let file = owned.map(File::from).map_err(|e| io_error("open standard output", e))?;
    let metadata = file.metadata().map_err(|e| io_error("look at standard output", e))?;
    if metadata.file_type().is_char_device() && metadata.rdev() == makedev(NULL_DEVICE.0, NULL_DEVICE.1) {
        ui.warn("standard output is closed or /dev/null: all is read and checked, and kept nowhere");
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn places_and_their_volumes() {
        for (text, volume) in [
            ("rbd:rbd/vm", Some("rbd/vm")),
            ("rbd:p/n/vm@s", Some("p/n/vm")),
            ("/srv/disk.img", Some("disk.img")),
            ("disk.img", Some("disk.img")),
            ("./rbd:x", Some("rbd:x")),
            ("/", None),
            ("a@b", None),
            ("-", None),
        ] {
            let place = Place::parse(text).expect(text);
            assert_eq!(place.to_string(), text);
            assert_eq!(place.volume_name().ok().as_ref().map(|v| v.as_str()), volume, "{text}");
        }
        for text in ["", "rbd:", "rbd:a/b/c/d"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
