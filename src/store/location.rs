//! Addresses of stores.

use std::path::PathBuf;

use url::Url;

use crate::error::{Error, Result};

use super::attempt::key_path;
/// Where a store is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Local(PathBuf),
    Bucket { provider: Provider, bucket: String, prefix: String },
}

/// Whose protocol a bucket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    S3,
    Google,
    Azure,
}

impl Provider {
    /// Where credentials come from.
    pub(crate) fn credentials_help(self) -> &'static str {
        match self {
            Self::S3 => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN for temporary \
    ones); profiles of ~/.aws are not read: `aws configure export-credentials --format env` prints them. On \
    EC2, -o instance-metadata=true asks the instance's own role"
            }
            Self::Google => {
                "set GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS to a JSON key file, or \
    GOOGLE_SERVICE_ACCOUNT_KEY to its content. On Google's machines, -o instance-metadata=true asks the \
    machine's own account"
            }
            Self::Azure => {
                "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or \
    AZURE_STORAGE_SAS_TOKEN, or AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID. On Azure's \
    machines, -o instance-metadata=true asks the managed identity"
            }
        }
    }
}

/// Splits an address. Everything without `://` is a path.
pub(crate) fn locate(address: &str) -> Result<Location> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return match address {
            "" => Err(Error::invalid("the store's address is empty").help(HELP_ADDRESS)),
            path if path.contains('\0') => Err(Error::invalid("the store's path holds a NUL byte")),
            path => Ok(Location::Local(PathBuf::from(path))),
        };
    };
    let provider = match scheme {
        "file" => return locate_file(address),
        "s3" | "s3a" => Provider::S3,
        "gs" => Provider::Google,
        "az" | "azure" => Provider::Azure,
        _ => {
            let what = "expected a path, file://, s3://, gs:// or az://";
            return Err(Error::invalid(format!("store {}: {what}", shown(address))).help(HELP_ADDRESS));
        }
    };
    if rest.contains('@') {
        // Whatever stands before it is most likely a secret: it is not repeated.
        return Err(Error::invalid(format!("store {}: an address holds no credentials", shown(address)))
            .help(provider.credentials_help()));
    }
    let url = parse(address)?;
    let plain = url.query().is_none() && url.fragment().is_none();
    let bucket = url.host_str().unwrap_or("");
    if !plain || url.port().is_some() || !is_bucket(bucket) {
        let message = format!("store {address:?}: expected {scheme}://BUCKET or {scheme}://BUCKET/PREFIX");
        return Err(Error::invalid(message).help(HELP_ADDRESS));
    }
    let prefix = url.path().trim_matches('/').to_owned();
    if !prefix.is_empty() {
        key_path(&prefix).map_err(|e| e.context(format!("store {address:?}")))?;
    }
    Ok(Location::Bucket { provider, bucket: bucket.to_owned(), prefix })
}

/// Whether it can be part of an address as it is. `$root` and its like are Azure's.
fn is_bucket(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._$".contains(&c))
}

/// An address as it may be told: what stands before an `@` may be a secret.
fn shown(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{:?}", format!("{scheme}://…@{rest}")),
        _ => format!("{address:?}"),
    }
}

const HELP_ADDRESS: &str = "examples: /srv/backup, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix; \
    the address of an S3 service other than Amazon's goes into AWS_ENDPOINT_URL";

fn locate_file(address: &str) -> Result<Location> {
    let path = parse(address)?.to_file_path().map_err(|()| {
        Error::invalid(format!("store {}: expected file:///ABSOLUTE/PATH", shown(address))).help(HELP_ADDRESS)
    })?;
    Ok(Location::Local(path))
}

fn parse(address: &str) -> Result<Url> {
    Url::parse(address)
        .map_err(|e| Error::invalid(format!("store {}: {e}", shown(address))).help(HELP_ADDRESS))
}

#[cfg(test)]
mod tests {
    use super::{Location, Provider, locate};
    use std::path::PathBuf;

    #[test]
    fn addresses() {
        let bucket = |provider, bucket: &str, prefix: &str| Location::Bucket {
            provider,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (address, expected) in [
            ("/srv/x", Location::Local(PathBuf::from("/srv/x"))),
            ("x", Location::Local(PathBuf::from("x"))),
            ("file:///srv/a%20b", Location::Local(PathBuf::from("/srv/a b"))),
            ("s3://b", bucket(Provider::S3, "b", "")),
            ("s3://b/", bucket(Provider::S3, "b", "")),
            ("s3://b/p/q/", bucket(Provider::S3, "b", "p/q")),
            ("gs://b/p", bucket(Provider::Google, "b", "p")),
            ("az://c/p", bucket(Provider::Azure, "c", "p")),
        ] {
            assert_eq!(locate(address).expect(address), expected, "{address}");
        }
        for address in
            ["", "ftp://x", "s3://", "s3:///x", "s3://b/a//c", "s3://b/a b", "s3://b?x=y", "file://host/x"]
        {
            assert!(locate(address).is_err(), "{address}");
        }
        for address in [
            "s3://AK:HUNTER2@b/p",
            "s3://HUNTER2@b",
            "s3://a:HUNTER2/x@b",
            "gs://x:HUNTER2@b",
            "x://HUNTER2@b",
            "az://a:HUNTER2@ b",
        ] {
            let error = locate(address).expect_err(address);
            assert!(!format!("{error:?}").contains("HUNTER2"), "{error:?}");
        }
    }
}
