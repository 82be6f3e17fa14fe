//! What the environment may say: each variable once, with the option that goes before it. Read here, told of in the help
//! ([`super::command`]), listed in docs/options.md.

use std::env;
use std::path::PathBuf;

use cuttle::{Error, Result};

/// A variable of the environment.
#[derive(Debug)]
pub struct Variable {
    pub name: &'static str,
    /// The id of the option that says the same, and goes before it.
    pub option: Option<&'static str>,
    /// What it says, where the help of its option does not say it.
    pub help: &'static str,
}

macro_rules! variables {
    ($($constant:ident = $name:literal for $option:literal $(: $said:literal)?;)* -- $($other:ident = $other_name:literal: $help:literal;)*) => {
        $(pub const $constant: Variable = Variable { name: $name, option: Some($option), help: concat!($($said)?) };)*
        $(pub const $other: Variable = Variable { name: $other_name, option: None, help: $help };)*
        /// All of them.
        pub const VARIABLES: &[Variable] = &[$($constant,)* $($other,)*];
    };
}

variables! {
    REPOSITORY = "CUTTLE_REPOSITORY" for "repo";
    REPOSITORY_FILE = "CUTTLE_REPOSITORY_FILE" for "repo": "a file that holds what --repo says";
    PROJECT = "CUTTLE_PROJECT" for "project";
    CACHE_DIR = "CUTTLE_CACHE_DIR" for "cache_dir";
    PASSWORD_FILE = "CUTTLE_PASSWORD_FILE" for "password_file";
    PASSWORD_COMMAND = "CUTTLE_PASSWORD_COMMAND" for "password_command";
    KEY_FILE = "CUTTLE_KEY_FILE" for "key_file";
    CONF = "CEPH_CONF" for "conf";
    KEYRING = "CEPH_KEYRING" for "keyring";
    --
    PASSWORD = "CUTTLE_PASSWORD": "the password itself";
    SERVE_TOKEN = "CUTTLE_SERVE_TOKEN": "the token that readers of what cuttle serve serves must name, unless --token-file names a file";
    KEEP_FORGOTTEN = "CUTTLE_KEEP_FORGOTTEN": "how long prunes of this host keep what was forgotten, such as 14d; prune --keep-forgotten goes before it";
    LOG = "CUTTLE_LOG": "what is logged, such as info or warn,cuttle::store=debug; goes before -v";
    CEPH_ARGS = "CEPH_ARGS": "options for Ceph, as its own programs take them; options of cuttle go before them";
    XDG_CACHE_HOME = "XDG_CACHE_HOME": "the folder of all caches; cuttle's is in it";
    XDG_STATE_HOME = "XDG_STATE_HOME": "the folder of all states; what this host saw of a repository is in it";
    HOME = "HOME": "where these two are otherwise: .cache and .local/state in it";
    CACHE_DIRECTORY = "CACHE_DIRECTORY": "where neither is set: a service's own, by CacheDirectory=";
    STATE_DIRECTORY = "STATE_DIRECTORY": "the same, by StateDirectory=";
    NO_COLOR = "NO_COLOR": "anything: no colors";
    TERM = "TERM": "dumb: no colors";
}

impl Variable {
    /// Its text, without line ends after it; an empty one is as good as none.
    pub fn text(&self) -> Result<Option<String>> {
        let Some(value) = self.path() else { return Ok(None) };
        let text = value.into_os_string().into_string();
        let mut text =
            text.map_err(|_| Error::invalid(format!("the environment variable {} is not UTF-8", self.name)))?;
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The path that it holds.
    pub fn path(&self) -> Option<PathBuf> {
        env::var_os(self.name).filter(|v| !v.is_empty()).map(PathBuf::from)
    }
}

/// What a command's help says of an option's variables: `[env: CUTTLE_PROJECT]`.
pub fn told(option: &str) -> Option<String> {
    let names: Vec<&str> = VARIABLES.iter().filter(|v| v.option == Some(option)).map(|v| v.name).collect();
    (!names.is_empty()).then(|| format!("[env: {}]", names.join(", ")))
}

/// All variables for `cuttle --help`, a line each.
pub fn described() -> String {
    let line = |variable: &Variable| {
        let help = match variable.option {
            Some(option) if variable.help.is_empty() => {
                format!("the same as --{}, which goes before it", option.replace('_', "-"))
            }
            _ => variable.help.to_owned(),
        };
        format!("  {:24}  {help}\n", variable.name)
    };
    VARIABLES.iter().map(line).collect()
}
