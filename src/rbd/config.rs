//! How to reach a cluster, as Ceph's own programs are told.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// How long to look for the cluster before giving up, unless told otherwise.
pub(super) const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// What Ceph's programs take as `--conf`, `--cluster`, `--name`, `--keyring`, `--mon-host` and `CEPH_ARGS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CephConfig {
    /// The configuration file; `None` lets Ceph look in its usual places.
    pub conf: Option<PathBuf>,
    /// Name of the cluster; `None` is `ceph`.
    pub cluster_name: Option<String>,
    /// Full name of the user, `client.backup`; `None` is `client.admin`.
    pub user: Option<String>,
    /// The file with the user's key; `None` lets Ceph look in its usual places.
    pub keyring: Option<PathBuf>,
    /// Addresses of the monitors, for want of a configuration file.
    pub mon_host: Option<String>,
    /// Further arguments in Ceph's own form, `--option=value`, `--option value`. Applied last.
    pub args: Vec<String>,
    /// Bounds the search for the cluster.
    pub connect_timeout: Duration,
}

impl Default for CephConfig {
    fn default() -> Self {
        Self {
            conf: None,
            cluster_name: None,
            user: None,
            keyring: None,
            mon_host: None,
            args: Vec::new(),
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
        }
    }
}

impl CephConfig {
    /// Takes the words of `CEPH_ARGS`. What is set already stays: the command line goes before the environment.
    ///
    /// Those that must be known before the configuration is read (`-c`, `--id`, `-n`, `--cluster`) become fields, the
    /// others go to Ceph.
    pub fn with_args(mut self, words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (word.clone(), None),
            };
            let early = ["-c", "--conf", "--cluster", "-n", "--name", "--id", "--user", "-i"];
            if !early.contains(&name.as_str()) {
                self.args.push(word);
                continue;
            }
            let value = inline
                .or_else(|| words.next())
                .ok_or_else(|| Error::invalid(format!("Ceph argument {name}: expected a value after it")))?;
            match name.as_str() {
                "-c" | "--conf" => drop(self.conf.get_or_insert(value.into())),
                "--cluster" => drop(self.cluster_name.get_or_insert(value)),
                "-n" | "--name" => drop(self.user.get_or_insert(value)),
                _ => drop(self.user.get_or_insert(format!("client.{value}"))),
            }
        }
        Ok(self)
    }

    /// The same as arguments of Ceph's own programs.
    pub fn program_args(&self) -> Vec<String> {
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string());
        let named = [
            ("--conf", path(&self.conf)),
            ("--cluster", self.cluster_name.clone()),
            ("--name", self.user.clone()),
            ("--keyring", path(&self.keyring)),
            ("--mon-host", self.mon_host.clone()),
        ];
        let given = named.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
        given.flatten().chain(self.args.iter().cloned()).collect()
    }

    pub(super) fn user_name(&self) -> Result<&str> {
        let user = self.user.as_deref().unwrap_or("client.admin");
        match user.split_once('.') {
            Some(("client", id)) if !id.is_empty() => Ok(user),
            _ => Err(Error::invalid(format!("Ceph user {user:?}: expected client.ID, such as client.admin"))
                .help("use --id backup, or --name client.backup")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(line: &str) -> CephConfig {
        CephConfig::default().with_args(line.split_whitespace().map(str::to_owned)).unwrap()
    }

    #[test]
    fn early_arguments_become_fields() {
        let config = with("-c /a.conf --id backup --cluster=blue --rbd_cache=true -m 10.0.0.1");
        assert_eq!(config.conf.unwrap().to_str(), Some("/a.conf"));
        assert_eq!(config.user.as_deref(), Some("client.backup"));
        assert_eq!(config.cluster_name.as_deref(), Some("blue"));
        assert_eq!(config.args, ["--rbd_cache=true", "-m", "10.0.0.1"]);
    }

    #[test]
    fn programs_are_told_the_same() {
        let config = with("-c /a.conf --id backup --rbd_cache=true");
        assert_eq!(
            config.program_args(),
            ["--conf", "/a.conf", "--name", "client.backup", "--rbd_cache=true"]
        );
        assert!(CephConfig::default().program_args().is_empty());
    }

    #[test]
    fn what_is_set_already_stays() {
        let config = CephConfig { user: Some("client.a".into()), ..CephConfig::default() };
        let config = config.with_args(["--name=client.b".to_owned()]).unwrap();
        assert_eq!(config.user.as_deref(), Some("client.a"));
    }

    #[test]
    fn a_missing_value_and_a_bare_user_are_refused() {
        assert!(CephConfig::default().with_args(["--id".to_owned()]).is_err());
        for bad in ["backup", "client.", "osd.1", ""] {
            let config = CephConfig { user: Some(bad.into()), ..CephConfig::default() };
            assert!(config.user_name().is_err(), "{bad}");
        }
    }
}
