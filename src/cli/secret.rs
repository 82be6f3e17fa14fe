//! Passwords and key files: where they come from. None is ever on a command line, and all are wiped after use.

use std::fmt;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use zeroize::{Zeroize, Zeroizing};

use cuttle::error::io_error;
use cuttle::keys::{KEY_FILE_LEN_BYTES_MAX, Unlock};
use cuttle::{Error, Result};

use super::environment::{KEY_FILE, PASSWORD, PASSWORD_COMMAND, PASSWORD_FILE};
use super::global::SecretOptions;

/// Longest password, in bytes.
const PASSWORD_LEN_BYTES_MAX: usize = 4096;

/// The cause of an error where no secret is given and nobody can be asked for one.
#[derive(Debug)]
pub struct NoPassword;

impl fmt::Display for NoPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no password is given")
    }
}

impl std::error::Error for NoPassword {}

/// Where the secret is to be found.
#[derive(Debug)]
pub enum SecretSource {
    KeyFile(std::path::PathBuf),
    Password(Zeroizing<String>),
    PasswordFile(std::path::PathBuf),
    PasswordCommand(String),
    /// Nothing was given: whoever sits at the terminal is asked.
    Prompt,
}

/// Finds out where the secret is. Options go before the environment; among equals there may be only one.
pub fn source(options: &SecretOptions) -> Result<SecretSource> {
    let given = [
        options.key_file.clone().map(|p| ("--key-file", SecretSource::KeyFile(p))),
        options.password_file.clone().map(|p| ("--password-file", SecretSource::PasswordFile(p))),
        options.password_command.clone().map(|c| ("--password-command", SecretSource::PasswordCommand(c))),
    ];
    if let Some(source) = only(given)? {
        return Ok(source);
    }
    let environment = [
        KEY_FILE.path().map(|p| (KEY_FILE.name, SecretSource::KeyFile(p))),
        PASSWORD.text()?.map(|p| (PASSWORD.name, SecretSource::Password(Zeroizing::new(p)))),
        PASSWORD_FILE.path().map(|p| (PASSWORD_FILE.name, SecretSource::PasswordFile(p))),
        PASSWORD_COMMAND.text()?.map(|c| (PASSWORD_COMMAND.name, SecretSource::PasswordCommand(c))),
    ];
    Ok(only(environment)?.unwrap_or(SecretSource::Prompt))
}

/// The one that is given, if any.
pub fn only<const N: usize>(given: [Option<(&str, SecretSource)>; N]) -> Result<Option<SecretSource>> {
    let mut given: Vec<_> = given.into_iter().flatten().collect();
    if given.len() > 1 {
        let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
        return Err(Error::invalid(format!("{} are given: expected one of them", names.join(" and ")))
            .help("there is one secret that opens a repository: leave only its place"));
    }
    Ok(given.pop().map(|(_, source)| source))
}

/// Somebody says that nothing is encrypted, and with what.
pub fn unencrypted_with_secret() -> Error {
    Error::invalid("--insecure-no-encryption and a password or key are given")
        .help("leave one of them out, also CUTTLE_PASSWORD and its like in the environment")
}

impl SecretSource {
    pub fn is_prompt(&self) -> bool {
        matches!(self, Self::Prompt)
    }

    /// Gets the secret, asking at the terminal where nothing else was given. `stdin_is_data` forbids to ask.
    pub fn get(&self, question: &str, stdin_is_data: bool) -> Result<Unlock> {
        match self {
            Self::KeyFile(path) => {
                read_limited(path, KEY_FILE_LEN_BYTES_MAX, "key file").map(Unlock::KeyFile)
            }
            Self::Password(text) => password(text.as_bytes(), "variable CUTTLE_PASSWORD"),
            Self::PasswordFile(path) => {
                let bytes = read_limited(path, PASSWORD_LEN_BYTES_MAX, "password file")?;
                password(&bytes, &format!("password file {}", path.display()))
            }
            Self::PasswordCommand(command) => from_command(command),
            Self::Prompt => prompt(question, stdin_is_data).map(Unlock::Passphrase),
        }
    }

    /// Refuses what [`get_new`](Self::get_new) would, and asks nobody.
    pub fn check_new(&self) -> Result<()> {
        match self {
            Self::Prompt => may_ask(false),
            _ => self.get_new().map(drop),
        }
    }

    /// Gets a new secret; at the terminal it is asked for twice.
    pub fn get_new(&self) -> Result<Unlock> {
        if !self.is_prompt() {
            return self.get("", false);
        }
        let first = prompt("New password for the repository: ", false)?;
        if first.is_empty() {
            return Err(Error::invalid("the password is empty").help("choose one that is not easily guessed"));
        }
        if *prompt("The same password again: ", false)? != *first {
            return Err(Error::invalid("the two passwords differ").help("run the command again"));
        }
        Ok(Unlock::Passphrase(first))
    }
}

fn may_ask(stdin_is_data: bool) -> Result<()> {
    if stdin_is_data || !std::io::stdin().is_terminal() {
        let why =
            if stdin_is_data { "standard input is the volume" } else { "standard input is no terminal" };
        return Err(Error::invalid(format!("{NoPassword}, and {why}, so none can be asked for"))
            .caused_by(NoPassword)
            .help(
                "set CUTTLE_PASSWORD_FILE, CUTTLE_PASSWORD_COMMAND, CUTTLE_PASSWORD or CUTTLE_KEY_FILE, \
                 or use --password-file, --password-command or --key-file",
            ));
    }
    Ok(())
}

fn prompt(question: &str, stdin_is_data: bool) -> Result<Zeroizing<String>> {
    may_ask(stdin_is_data)?;
    rpassword::prompt_password(question).map(Zeroizing::new).map_err(|e| match e.kind() {
        std::io::ErrorKind::Interrupted => Error::interrupted("interrupted"),
        _ => io_error("ask for the password", e),
    })
}

fn from_command(command: &str) -> Result<Unlock> {
    // What it says may be a secret: it is not repeated.
    let what = "password command".to_owned();
    // It never gets standard input, which may be the volume.
    let child =
        Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| io_error(format!("start the {what}"), e))?;
    let mut out = Zeroizing::new(Vec::with_capacity(PASSWORD_LEN_BYTES_MAX + 1));
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(PASSWORD_LEN_BYTES_MAX as u64 + 1).read_to_end(&mut out).map(|_| ()),
        None => Ok(()),
    };
    let status = child.wait().map_err(|e| io_error(format!("wait for the {what}"), e))?;
    read.map_err(|e| io_error(format!("read from the {what}"), e))?;
    if out.len() <= PASSWORD_LEN_BYTES_MAX && !status.success() {
        return Err(Error::invalid(format!("the {what} failed: {status}"))
            .help("run it by hand; what it prints on standard error is above"));
    }
    password(&out, &what)
}

/// A password from bytes: without the line's end, and without the mark that some editors put before a text.
fn password(bytes: &[u8], what: &str) -> Result<Unlock> {
    if bytes.len() > PASSWORD_LEN_BYTES_MAX {
        return Err(Error::invalid(format!("the {what} gives more than {PASSWORD_LEN_BYTES_MAX} bytes")));
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| {
        Error::invalid(format!("the {what} gives no UTF-8"))
            .help("save it as UTF-8, or use it as a key file: --key-file")
    })?;
    if text.contains(char::is_control) {
        return Err(Error::invalid(format!("the {what} gives more than one line, or control characters"))
            .help("a password is one line, as it is typed; use anything else as a key file: --key-file"));
    }
    if text.is_empty() {
        return Err(Error::invalid(format!("the {what} gives an empty password")));
    }
    Ok(Unlock::Passphrase(Zeroizing::new(text.to_owned())))
}

fn read_limited(path: &Path, len_max: usize, what: &str) -> Result<Zeroizing<Vec<u8>>> {
    let doing = || format!("read the {what} {}", path.display());
    let file = File::open(path).map_err(|e| io_error(doing(), e))?;
    // Enough room from the start, so that no copy is left behind when it would grow.
    let mut bytes = Zeroizing::new(Vec::with_capacity(len_max + 1));
    let read = file.take(len_max as u64 + 1).read_to_end(&mut bytes);
    if let Err(e) = read {
        bytes.zeroize();
        return Err(io_error(doing(), e));
    }
    if bytes.len() > len_max {
        return Err(Error::invalid(format!("{}: expected at most {len_max} bytes", doing())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{SecretSource, from_command, only, password};
    use cuttle::keys::Unlock;

    fn text(unlock: cuttle::Result<Unlock>) -> String {
        match unlock.expect("a password") {
            Unlock::Passphrase(p) => p.to_string(),
            Unlock::KeyFile(_) => panic!("a key file"),
        }
    }

    #[test]
    fn one_line_end_is_no_part_of_the_password() {
        for (bytes, expected) in
            [(&b"a b\n"[..], "a b"), (b"x\r\n", "x"), (b"\xef\xbb\xbfx\n", "x"), (b" x ", " x "), (b"x", "x")]
        {
            assert_eq!(text(password(bytes, "file")), expected);
        }
        for bytes in [&b""[..], b"\n", b"\xff", b"x\n\n", b"a\nb", b"a\0", b"\xef\xbb\xbf", &[b'a'; 5000]] {
            assert!(password(bytes, "file").is_err());
        }
    }

    #[test]
    fn commands_are_run_by_a_shell() {
        assert_eq!(text(from_command("echo 'a  b' | tr b c")), "a  c");
        assert!(from_command("echo x; exit 3").is_err());
        assert!(from_command("cat").is_err(), "there is no input");
        assert!(from_command("yes").is_err(), "endless output");
    }

    #[test]
    fn two_places_are_one_too_many() {
        let prompt = |name| Some((name, SecretSource::Prompt));
        assert!(only([prompt("--a"), None]).expect("one").is_some());
        let error = only([prompt("--a"), None, prompt("--b")]).expect_err("two");
        assert!(error.to_string().contains("--a and --b"), "{error}");
    }
}
