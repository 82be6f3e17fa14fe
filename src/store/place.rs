//! The full name of the place that a store is at: what tells two stores apart whose addresses read the same.

use std::path::{Path, PathBuf};

use object_store::aws::AmazonS3ConfigKey as S3Key;
use object_store::azure::AzureConfigKey as AzureKey;
use object_store::gcp::GoogleConfigKey as GoogleKey;

use crate::error::Result;

use super::limits::StoreConfig;
use super::location::{Location, Provider, locate};
use super::options::{AZURE, GOOGLE, S3, settings};

/// Names the place by all that decides where requests go: a path without links; or bucket, prefix, endpoint and account.
/// Asks nothing of the network. Two names may still be one place; one name is never two.
pub(crate) fn place(config: &StoreConfig) -> Result<String> {
    let (provider, bucket, prefix) = match locate(&config.url)? {
        Location::Local(path) => return Ok(without_links(&path).display().to_string()),
        Location::Bucket { provider, bucket, prefix } => (provider, bucket, prefix),
    };
    let (scheme, endpoint, account) = match provider {
        Provider::S3 => {
            let (_, given) = settings::<S3Key>(&S3, config)?;
            let endpoint = last(&given, |key| matches!(key, S3Key::S3Endpoint));
            let endpoint = endpoint.or_else(|| last(&given, |key| matches!(key, S3Key::Endpoint)));
            ("s3", endpoint, last(&given, |key| matches!(key, S3Key::AccessKeyId)))
        }
        Provider::Google => {
            let (_, given) = settings::<GoogleKey>(&GOOGLE, config)?;
            ("gs", last(&given, |key| matches!(key, GoogleKey::BaseUrl)), None)
        }
        Provider::Azure => {
            let (_, given) = settings::<AzureKey>(&AZURE, config)?;
            let endpoint = last(&given, |key| matches!(key, AzureKey::Endpoint));
            ("az", endpoint, last(&given, |key| matches!(key, AzureKey::AccountName)))
        }
    };
    let mut name = format!("{scheme}://{bucket}");
    if !prefix.is_empty() {
        name = format!("{name}/{prefix}");
    }
    if let Some(endpoint) = endpoint {
        name = format!("{name} at {}", endpoint.trim_end_matches('/').to_lowercase());
    }
    if let Some(account) = account {
        name = format!("{name} of {account}");
    }
    Ok(name)
}

/// The value that counts of those given under some keys; an empty one is as good as none.
fn last<K>(given: &[(K, String)], is: impl Fn(&K) -> bool) -> Option<String> {
    let value = given.iter().rev().find(|(key, _)| is(key)).map(|(_, value)| value.trim().to_owned());
    value.filter(|v| !v.is_empty())
}

/// The path itself where it exists; else as far as it does.
fn without_links(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for known in absolute.ancestors() {
        if let (Ok(real), Ok(rest)) = (known.canonicalize(), absolute.strip_prefix(known)) {
            return real.join(rest).components().collect();
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(url: &str, environment: &[(&str, &str)]) -> String {
        let pairs = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let config = StoreConfig { url: url.into(), environment: pairs.collect(), ..StoreConfig::default() };
        place(&config).expect("a place")
    }

    #[test]
    fn buckets_of_one_name_on_two_endpoints_or_of_two_accounts_are_two_places() {
        let key = ("AWS_ACCESS_KEY_ID", "AK");
        let places = [
            named("s3://backup/ceph", &[]),
            named("s3://backup/ceph", &[key]),
            named("s3://backup/ceph", &[key, ("AWS_ENDPOINT_URL", "https://a.example")]),
            named("s3://backup/ceph", &[key, ("AWS_ENDPOINT_URL", "https://b.example")]),
            named("s3://backup", &[key]),
            named("gs://backup/ceph", &[]),
            named("az://backup/ceph", &[("AZURE_STORAGE_ACCOUNT_NAME", "one")]),
            named("az://backup/ceph", &[("AZURE_STORAGE_ACCOUNT_NAME", "two")]),
        ];
        for (at, one) in places.iter().enumerate() {
            assert!(!places[at + 1..].contains(one), "{one}");
        }
        let slash = named("s3://backup/ceph/", &[key, ("AWS_ENDPOINT_URL", "https://A.example/")]);
        assert_eq!(slash, places[2]);
    }

    #[test]
    fn a_folder_has_one_name_however_one_gets_there() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("real")).expect("made");
        std::os::unix::fs::symlink(dir.path().join("real"), dir.path().join("link")).expect("linked");
        let at = |name: &str| named(&dir.path().join(name).display().to_string(), &[]);
        assert_eq!(at("link/repo"), at("real/repo"), "before it exists");
        std::fs::create_dir(dir.path().join("real/repo")).expect("made");
        assert_eq!(at("link/repo"), at("real/repo"));
        assert_ne!(at("real/repo"), at("real/other"));
    }
}
