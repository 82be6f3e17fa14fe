//! Options given with `-o` and the providers' environment variables: which names there are, and who wins.

use std::str::FromStr;

use crate::error::{Error, Result};

use super::limits::StoreConfig;
use super::setting::Setting;

/// Allows asking the machine's own metadata service for credentials, on every provider.
pub(crate) const INSTANCE_METADATA: &str = "instance_metadata";

/// The names one kind of store understands.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// How its environment variables begin; empty when there are none.
    pub(crate) environment_prefix: &'static str,
    /// Names of our own.
    pub(crate) own: &'static [&'static str],
    /// The provider's names worth telling; those that object_store knows beside them work too.
    pub(crate) names: &'static [&'static str],
}

pub(crate) const LOCAL: Dialect = Dialect { environment_prefix: "", own: &["fsync"], names: &[] };

pub(crate) const S3: Dialect = Dialect {
    environment_prefix: "AWS_",
    own: &[INSTANCE_METADATA],
    names: &[
        "access_key_id",
        "secret_access_key",
        "session_token",
        "region",
        "endpoint_url",
        "endpoint_url_sts",
        "virtual_hosted_style_request",
        "s3_express",
        "role_arn",
        "role_session_name",
        "web_identity_token_file",
        "container_credentials_relative_uri",
        "container_credentials_full_uri",
        "container_authorization_token_file",
        "imdsv1_fallback",
        "metadata_endpoint",
        "unsigned_payload",
        "checksum_algorithm",
        "skip_signature",
        "request_payer",
        "server_side_encryption",
        "sse_kms_key_id",
        "sse_bucket_key_enabled",
        "sse_customer_key_base64",
        "allow_http",
        "allow_invalid_certificates",
        "disable_system_certificates",
        "connect_timeout",
        "pool_idle_timeout",
        "proxy_url",
        "proxy_ca_certificate",
        "proxy_excludes",
        "user_agent",
    ],
};

pub(crate) const GOOGLE: Dialect = Dialect {
    environment_prefix: "GOOGLE_",
    own: &[INSTANCE_METADATA],
    names: &[
        "service_account",
        "service_account_key",
        "application_credentials",
        "bearer_token",
        "base_url",
        "skip_signature",
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "pool_idle_timeout",
        "proxy_url",
        "proxy_ca_certificate",
        "proxy_excludes",
        "user_agent",
    ],
};

pub(crate) const AZURE: Dialect = Dialect {
    environment_prefix: "AZURE_",
    own: &[INSTANCE_METADATA],
    names: &[
        "account_name",
        "account_key",
        "sas_token",
        "bearer_token",
        "client_id",
        "client_secret",
        "tenant_id",
        "authority_host",
        "federated_token_file",
        "msi_endpoint",
        "object_id",
        "msi_resource_id",
        "credential_type",
        "use_azure_cli",
        "use_emulator",
        "use_fabric_endpoint",
        "endpoint",
        "encryption_key",
        "skip_signature",
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "pool_idle_timeout",
        "proxy_url",
        "proxy_ca_certificate",
        "proxy_excludes",
        "user_agent",
    ],
};

/// Part of the address or of the guarantees, so not to be changed by an option.
const RESERVED: [&str; 8] = [
    "bucket",
    "bucket_name",
    "container_name",
    "conditional_put",
    "copy_if_not_exists",
    "disable_bulk_delete",
    "disable_tagging",
    "default_content_type",
];

/// Our own options of one store, by name with underscores.
#[derive(Debug, Default)]
pub(crate) struct Options {
    own: Vec<(String, String)>,
}

impl Options {
    /// Those of a local directory.
    pub(crate) fn local(config: &StoreConfig) -> Result<Self> {
        Ok(settings::<Nothing>(&LOCAL, config)?.0)
    }

    /// The value given last.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.own.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Our own options, and the provider's settings in the order they are to be applied: options after the
/// environment, so that they win. Values are checked; an empty one is as good as none. Secrets come from the environment alone.
pub(crate) fn settings<K: FromStr + AsRef<str>>(
    dialect: &Dialect,
    config: &StoreConfig,
) -> Result<(Options, Vec<(K, String)>)> {
    let mut provider = Vec::new();
    for (given, value) in &config.environment {
        let ours = !dialect.environment_prefix.is_empty() && given.starts_with(dialect.environment_prefix);
        let name = given.to_ascii_lowercase();
        if ours
            && !reserved(dialect, &name)
            && let Ok(key) = name.parse::<K>()
            && let Some(value) = (Setting { name: key.as_ref(), given }).value(value)?
        {
            provider.push((key, value));
        }
    }
    let mut options = Options::default();
    for (given, value) in &config.options {
        let name = given.to_ascii_lowercase().replace('-', "_");
        if dialect.own.contains(&name.as_str()) {
            options.own.push((name, value.trim().to_owned()));
            continue;
        }
        let Some(key) = name.parse::<K>().ok().filter(|_| !reserved(dialect, &name)) else {
            return Err(unknown(dialect, given, &name));
        };
        let shown = format!("option {given}");
        let setting = Setting { name: key.as_ref(), given: &shown };
        if setting.is_secret(value) {
            return Err(on_the_command_line(dialect, &shown, setting.name));
        }
        if let Some(value) = setting.value(value)? {
            provider.push((key, value));
        }
    }
    Ok((options, provider))
}

fn on_the_command_line(dialect: &Dialect, shown: &str, name: &str) -> Error {
    let prefix = dialect.environment_prefix;
    let name = name.to_ascii_uppercase();
    let variable = format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(&name));
    Error::invalid(format!("{shown}: a secret on the command line can be read by every user of this machine"))
        .help(format!("set {variable} in the environment instead"))
}

/// A yes or a no.
pub(crate) fn flag(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Ok(true),
        "0" | "false" | "off" | "no" | "n" => Ok(false),
        _ => Err(Error::invalid(format!("option {name}={value}: expected true or false"))),
    }
}

fn reserved(dialect: &Dialect, name: &str) -> bool {
    let prefix = dialect.environment_prefix.to_ascii_lowercase();
    RESERVED.contains(&name.strip_prefix(prefix.as_str()).unwrap_or(name))
}

fn unknown(dialect: &Dialect, given: &str, name: &str) -> Error {
    let all = dialect.own.iter().chain(dialect.names);
    let near: Vec<&str> = all.clone().copied().filter(|n| similar(n, name)).collect();
    let error = Error::invalid(format!("option {given:?}: this kind of store has no such option"));
    if near.is_empty() {
        error.help(format!("options: {}", all.copied().collect::<Vec<_>>().join(", ")))
    } else {
        error.help(format!("did you mean: {}", near.join(", ")))
    }
}

/// Longest option name that is compared; longer ones are not near anything.
const NAME_LEN_MAX: usize = 64;

fn similar(known: &str, given: &str) -> bool {
    let contained = given.len() >= 4 && (known.contains(given) || given.contains(known));
    contained || (given.len() <= NAME_LEN_MAX && distance(known.as_bytes(), given.as_bytes()) <= 3)
}

/// Levenshtein distance.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The settings of a store that has none but ours.
#[derive(Debug)]
struct Nothing;

impl FromStr for Nothing {
    type Err = ();

    fn from_str(_: &str) -> std::result::Result<Self, ()> {
        Err(())
    }
}

impl AsRef<str> for Nothing {
    fn as_ref(&self) -> &str {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::{AZURE, Dialect, GOOGLE, LOCAL, Nothing, S3, distance, settings};
    use crate::store::StoreConfig;
    use object_store::aws::AmazonS3ConfigKey;
    use object_store::azure::AzureConfigKey;
    use object_store::gcp::GoogleConfigKey;
    use std::str::FromStr;

    fn names_exist<K: FromStr>(dialect: &Dialect) {
        for name in dialect.names {
            assert!(name.parse::<K>().is_ok(), "{name}");
        }
    }

    #[test]
    fn every_name_we_tell_exists() {
        names_exist::<AmazonS3ConfigKey>(&S3);
        names_exist::<GoogleConfigKey>(&GOOGLE);
        names_exist::<AzureConfigKey>(&AZURE);
    }

    #[test]
    fn unknown_names_tell_the_near_ones() {
        let config = |name: &str| StoreConfig {
            options: vec![(name.to_owned(), "x".to_owned())],
            ..StoreConfig::default()
        };
        let help = |dialect, name: &str| {
            let error = settings::<AmazonS3ConfigKey>(dialect, &config(name)).expect_err(name);
            error.help_text().unwrap_or_default().to_owned()
        };
        assert_eq!(help(&S3, "regoin"), "did you mean: region");
        assert!(help(&S3, "endpoint_ulr").contains("endpoint_url"));
        assert!(help(&S3, "zzz").starts_with("options: instance_metadata, access_key_id"));
        assert!(help(&S3, "bucket").starts_with("options: ") || help(&S3, "bucket").contains("mean"));
        let error = settings::<Nothing>(&LOCAL, &config("fsnc")).expect_err("fsnc");
        assert_eq!(error.help_text(), Some("did you mean: fsync"));
    }

    #[test]
    fn options_win_over_the_environment_and_may_have_dashes() {
        let config = StoreConfig {
            options: vec![("allow-http".into(), "true".into()), ("instance-metadata".into(), "1".into())],
            environment: vec![
                ("AWS_ALLOW_HTTP".into(), "false".into()),
                ("AWS_BUCKET".into(), "other".into()),
                ("AWS_PAGER".into(), "".into()),
                ("HOME".into(), "/".into()),
            ],
            ..StoreConfig::default()
        };
        let (own, provider) = settings::<AmazonS3ConfigKey>(&S3, &config).expect("settings");
        assert_eq!(own.get("instance_metadata"), Some("1"));
        let values: Vec<_> = provider.iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(values, ["false", "true"]);
    }

    #[test]
    fn secrets_come_from_the_environment_alone() {
        fn refused<K: FromStr + AsRef<str>>(dialect: &Dialect, name: &str, value: &str, variable: &str) {
            let options = vec![(name.to_owned(), value.to_owned())];
            let config = StoreConfig { options, ..StoreConfig::default() };
            let error = settings::<K>(dialect, &config).err().expect(name);
            assert!(error.help_text().unwrap_or_default().contains(&format!("set {variable} ")), "{error:?}");
            assert!(!format!("{error:?}").contains("HUNTER2"), "{error:?}");
        }
        for (name, variable) in [
            ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
            ("secret-access-key", "AWS_SECRET_ACCESS_KEY"),
            ("token", "AWS_SESSION_TOKEN"),
            ("sse_customer_key_base64", "AWS_SSE_CUSTOMER_KEY_BASE64"),
        ] {
            refused::<AmazonS3ConfigKey>(&S3, name, "HUNTER2", variable);
        }
        refused::<AmazonS3ConfigKey>(&S3, "proxy_url", "http://u:HUNTER2@h", "AWS_PROXY_URL");
        refused::<GoogleConfigKey>(&GOOGLE, "bearer_token", "HUNTER2", "GOOGLE_BEARER_TOKEN");
        refused::<GoogleConfigKey>(&GOOGLE, "service_account_key", "HUNTER2", "GOOGLE_SERVICE_ACCOUNT_KEY");
        for name in ["account_key", "access_key", "master_key"] {
            refused::<AzureConfigKey>(&AZURE, name, "HUNTER2", "AZURE_STORAGE_ACCOUNT_KEY");
        }
        refused::<AzureConfigKey>(&AZURE, "sas_token", "sig=HUNTER2", "AZURE_STORAGE_SAS_KEY");
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
        }
    }
}
