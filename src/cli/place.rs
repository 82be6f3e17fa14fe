//! What SOURCE, TARGET, FILE and IMAGE stand for on the command line. Each type holds what its commands take and nothing else, so
//! that a place which makes no sense for a command is refused where it is read, and nobody looks at it a second time.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
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

const IMAGE: &str = "rbd:[POOL/[NAMESPACE/]]IMAGE";

/// What a backup reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An image, a snapshot of one, or all images of a pool.
    Image(RbdSpec),
    /// A file or a block device.
    File(PathBuf),
    /// `-`
    Stdin,
    /// A command that prints a volume: told by an option, and by no text.
    Command(Vec<String>),
}

/// What a restore writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One image, and no snapshot of it.
    Image(RbdSpec),
    /// A file or a block device.
    File(PathBuf),
    /// `-`
    Stdout,
}

/// What can be read at any offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readable {
    /// One image, or a snapshot of it.
    Image(RbdSpec),
    /// A file or a block device.
    File(PathBuf),
}

/// What is read or written once, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    File(PathBuf),
    /// `-`: standard input or output.
    Standard,
}

/// What a text can be, before it is asked whether that makes sense.
enum Said {
    Image(RbdSpec),
    File(PathBuf),
    Standard,
}

fn said(text: &str, expected: &str) -> Result<Said> {
    match text {
        "" => Err(Error::invalid("the place is empty").help(format!("expected {expected}"))),
        "-" => Ok(Said::Standard),
        _ if text.starts_with(SCHEME) => text.parse().map(Said::Image),
        path => Ok(Said::File(path.into())),
    }
}

fn refused(found: impl fmt::Display, expected: &str, next: &str) -> Error {
    Error::invalid(format!("{found}: expected {expected}")).help(next)
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(
            match said(text, "rbd:[POOL/[NAMESPACE/]]IMAGE[@SNAP], the path of a file or block device, or -")?
            {
                Said::Image(spec) => Self::Image(spec),
                Said::File(path) => Self::File(path),
                Said::Standard => Self::Stdin,
            },
        )
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match said(text, "rbd:[POOL/[NAMESPACE/]]IMAGE, the path of a file or block device, or -")? {
            Said::Image(spec) => Self::Image(to_be_written(spec)?),
            Said::File(path) => Self::File(path),
            Said::Standard => Self::Stdout,
        })
    }
}

impl FromStr for Readable {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const EXPECTED: &str = "an image, the snapshot of one, a file or a block device";
        match said(text, EXPECTED)? {
            Said::Image(spec) if spec.is_all() => {
                Err(refused(spec, EXPECTED, "name one image: rbd:[POOL/[NAMESPACE/]]IMAGE[@SNAP]"))
            }
            Said::Image(spec) => Ok(Self::Image(spec)),
            Said::File(path) => Ok(Self::File(path)),
            Said::Standard => Err(refused(
                "-",
                EXPECTED,
                "standard input is read only once, front to back: write it to a file, and name that",
            )),
        }
    }
}

fn to_be_written(spec: RbdSpec) -> Result<RbdSpec> {
    match spec.is_all() || spec.snapshot.is_some() {
        true => Err(refused(
            spec,
            "one image, without a snapshot",
            &format!("write {IMAGE}; for all volumes there is `cuttle restore --all --to rbd:POOL`"),
        )),
        false => Ok(spec),
    }
}

/// Reads a place for the command line's parser, which tells no help of an error.
pub fn parse<T: FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e| told(&e))
}

fn told(error: &Error) -> String {
    match error.help_text() {
        Some(help) => format!("{error}: {help}"),
        None => error.to_string(),
    }
}

/// Reads the name of one image that is written to.
pub fn image(text: &str) -> Result<RbdSpec, String> {
    let spec = match said(text, IMAGE) {
        Ok(Said::Image(spec)) => to_be_written(spec),
        Ok(_) => Err(refused(text, "an RBD image", &format!("write {IMAGE}"))),
        Err(e) => Err(e),
    };
    spec.map_err(|e| told(&e))
}

/// Reads the name of a file, or - for standard input.
pub fn input(text: &str) -> Result<Stream, String> {
    stream(text, "a file, or - for standard input", "an image is read by `cuttle backup`")
}

/// Reads the name of a file, or - for standard output.
pub fn output(text: &str) -> Result<Stream, String> {
    stream(
        text,
        "a file, or - for standard output",
        "to bring a snapshot back into an image, use `cuttle restore`",
    )
}

fn stream(text: &str, expected: &str, next: &str) -> Result<Stream, String> {
    let stream = said(text, expected).and_then(|said| match said {
        Said::Image(spec) => Err(refused(spec, expected, next)),
        Said::File(path) => Ok(Stream::File(path)),
        Said::Standard => Ok(Stream::Standard),
    });
    stream.map_err(|e| told(&e))
}

impl Source {
    /// Whether it stands for all images of a pool.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::Image(spec) if spec.is_all())
    }

    /// The name of the volume, unless the user gives another.
    pub fn volume_name(&self) -> Result<VolumeName> {
        match self {
            Self::Image(spec) => spec.volume_name(),
            Self::File(path) => {
                let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
                    Error::invalid(format!("{} has no file name that could name the volume", path.display()))
                        .help("name it with --volume NAME")
                })?;
                name.parse().map_err(|e: Error| e.help("name the volume with --volume NAME"))
            }
            Self::Stdin => Err(Error::invalid("a volume on standard input has no name")
                .help("name it with --volume NAME, for example the image's name: --volume vms/db")),
            Self::Command(_) => Err(Error::invalid("a volume that a command prints has no name")
                .help("name it with --volume NAME, before the command: --volume vms/db")),
        }
    }
}

impl Stream {
    /// Opens it to be read.
    pub fn open(&self) -> Result<File> {
        let Self::File(path) = self else { return standard_input() };
        let doing = || format!("open {self}");
        let file = File::open(path).map_err(|e| io_error(doing(), e))?;
        match file.metadata().map_err(|e| io_error(doing(), e))?.is_dir() {
            true => Err(Error::invalid(format!("{self} is a folder: expected a file"))),
            false => Ok(file),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(spec) => spec.fmt(f),
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("-"),
            Self::Command(words) => f.write_str(&words.join(" ")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(spec) => spec.fmt(f),
            Self::File(path) => path.display().fmt(f),
            Self::Stdout => f.write_str("-"),
        }
    }
}

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(spec) => spec.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Standard => f.write_str("-"),
        }
    }
}

/// Tells of `rbd:` to who named an image as Ceph's own `rbd` does, and there is no such file.
pub fn hint_at_rbd(error: Error, path: &Path) -> Error {
    let text = path.to_string_lossy();
    match error.kind() == ErrorKind::NotFound && !text.starts_with(['/', '.']) && error.help_text().is_none()
    {
        true => error.help(format!("for an RBD image write {SCHEME}{text}")),
        false => error,
    }
}

/// A file or device that is read anywhere, and can say whether it held still.
pub async fn still(context: &Context<'_>, path: &Path) -> Result<Arc<dyn Frozen>> {
    let at = path.to_owned();
    let open = move || open_still(&at);
    blocking(context, open).await.map_err(|e| hint_at_rbd(e, path))
}

/// The same, where one may wait.
pub fn open_still(path: &Path) -> Result<Arc<dyn Frozen>> {
    let request =
        FreezeRequest { own_name: String::new(), own_prefix: String::new(), parent: None, origin: None };
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
    use super::{Readable, Source, Target, image, input, output, parse};

    #[test]
    fn sources_and_their_volumes() {
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
            let place: Source = text.parse().expect(text);
            assert_eq!(place.to_string(), text);
            assert_eq!(place.volume_name().ok().as_ref().map(|v| v.as_str()), volume, "{text}");
        }
        for text in ["", "rbd:", "rbd:a/b/c/d"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    /// What each kind of place takes, and that a refusal says what was found, what was expected, and what to do.
    #[test]
    fn each_command_takes_what_makes_sense_for_it() {
        let source = |t: &str| parse::<Source>(t).map(|p| p.to_string());
        let target = |t: &str| parse::<Target>(t).map(|p| p.to_string());
        let readable = |t: &str| parse::<Readable>(t).map(|p| p.to_string());
        let input = |t: &str| input(t).map(|p| p.to_string());
        let output = |t: &str| output(t).map(|p| p.to_string());
        let image = |t: &str| image(t).map(|p| p.to_string());
        type Read<'a> = (&'a str, &'a dyn Fn(&str) -> Result<String, String>);
        let kinds: [Read<'_>; 6] = [
            ("source", &source),
            ("target", &target),
            ("readable", &readable),
            ("input", &input),
            ("output", &output),
            ("image", &image),
        ];
        for (text, takes) in [
            ("rbd:p/vm", &["source", "target", "readable", "image"][..]),
            ("rbd:p/vm@s", &["source", "readable"]),
            ("rbd:p/*", &["source"]),
            ("disk.img", &["source", "target", "readable", "input", "output"]),
            ("-", &["source", "target", "input", "output"]),
            ("", &[]),
            ("rbd:a/b/c/d", &[]),
        ] {
            for (kind, read) in kinds {
                match read(text) {
                    Ok(place) => {
                        assert!(takes.contains(&kind), "{kind} takes {text:?}");
                        assert_eq!(place, text, "{kind}");
                    }
                    Err(said) => {
                        assert!(!takes.contains(&kind), "{kind} refuses {text:?}: {said}");
                        assert!(said.contains("expected "), "{kind} of {text:?}: {said}");
                        assert!(
                            said.contains(if text.is_empty() { "empty" } else { text }),
                            "{kind}: {said}"
                        );
                    }
                }
            }
        }
    }
}
