//! The clients of S3, Google Cloud Storage and Azure Blob Storage, from options and environment.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};

use crate::error::{Error, Result};

use super::attempt::Bulk;
use super::http_layer::ObservedConnector;
use super::ledger::Counters;
use super::limits::StoreConfig;
use super::location::Provider;
use super::options::{AZURE, GOOGLE, INSTANCE_METADATA, Options, S3, flag, settings};
use super::setting::Setting;

/// Objects that one `DeleteObjects` of S3 takes. Google has nothing like it, and Azure bills a batch by the name.
const S3_NAMES_MAX: usize = 1_000;

/// The clients of one bucket.
pub(crate) struct Clients {
    /// Deletes objects one by one.
    pub(crate) plain: Arc<dyn ObjectStore>,
    pub(crate) bulk: Option<Bulk>,
}

/// Builds the clients. Asks nothing of the network.
pub(crate) fn build(
    provider: Provider,
    bucket: &str,
    config: &StoreConfig,
    counters: &Arc<Counters>,
) -> Result<Clients> {
    let connector =
        ObservedConnector { counters: Arc::clone(counters), bucket: bucket.to_owned(), redirect: None };
    match provider {
        Provider::S3 => s3(bucket, config, connector),
        Provider::Google => google(bucket, config, connector),
        Provider::Azure => azure(bucket, config, connector),
    }
}

fn s3(bucket: &str, config: &StoreConfig, connector: ObservedConnector) -> Result<Clients> {
    let (own, provider) = settings::<AmazonS3ConfigKey>(&S3, config)?;
    let mut builder = AmazonS3Builder::new().with_client_options(client_options(config));
    for (key, value) in provider {
        builder = builder.with_config(key, value);
    }
    let set = |key: AmazonS3ConfigKey| is_set(builder.get_config_value(&key));
    use AmazonS3ConfigKey as Key;
    let credentials = (set(Key::AccessKeyId) && set(Key::SecretAccessKey))
        || (set(Key::WebIdentityTokenFile) && set(Key::RoleArn))
        || set(Key::ContainerCredentialsRelativeUri)
        || (set(Key::ContainerCredentialsFullUri) && set(Key::ContainerAuthorizationTokenFile))
        || is_true(builder.get_config_value(&Key::SkipSignature))
        || instance_metadata(&own)?;
    if !credentials {
        return Err(no_credentials(bucket, config, Provider::S3.credentials_help()));
    }
    for key in [Key::S3Endpoint, Key::Endpoint] {
        let allow_http = builder.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
        check_http(builder.get_config_value(&key), allow_http, "AWS_ALLOW_HTTP")?;
    }
    let builder = builder.with_bucket_name(bucket).with_retry(no_retries()).with_http_connector(connector);
    let build = |builder: AmazonS3Builder| builder.build().map_err(|e| not_built("S3", bucket, e));
    let plain = build(builder.clone().with_disable_bulk_delete(true))?;
    // Temporary credentials are asked for once, not by each client.
    let credentials = Arc::clone(plain.credentials());
    let bulk = build(builder.with_disable_bulk_delete(false).with_credentials(credentials))?;
    let bulk = Bulk { client: Arc::new(bulk), names_max: S3_NAMES_MAX };
    Ok(Clients { plain: Arc::new(plain), bulk: Some(bulk) })
}

fn google(bucket: &str, config: &StoreConfig, connector: ObservedConnector) -> Result<Clients> {
    let (own, provider) = settings::<GoogleConfigKey>(&GOOGLE, config)?;
    let mut builder = GoogleCloudStorageBuilder::new().with_client_options(client_options(config));
    let mut named = false;
    for (key, value) in provider {
        named |= matches!(
            key,
            GoogleConfigKey::ServiceAccount
                | GoogleConfigKey::ServiceAccountKey
                | GoogleConfigKey::ApplicationCredentials
                | GoogleConfigKey::BearerToken
        ) && !value.is_empty();
        builder = builder.with_config(key, value);
    }
    let skip = is_true(builder.get_config_value(&GoogleConfigKey::SkipSignature));
    if !named && !skip && !instance_metadata(&own)? {
        return Err(no_credentials(bucket, config, Provider::Google.credentials_help()));
    }
    let store = builder
        .with_bucket_name(bucket)
        .with_retry(no_retries())
        .with_http_connector(connector)
        .build()
        .map_err(|e| not_built("Google Cloud Storage", bucket, e))?;
    Ok(Clients { plain: Arc::new(store), bulk: None })
}

fn azure(container: &str, config: &StoreConfig, mut connector: ObservedConnector) -> Result<Clients> {
    let (own, provider) = settings::<AzureConfigKey>(&AZURE, config)?;
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(client_options(config));
    for (key, value) in provider {
        builder = builder.with_config(key, value);
    }
    let value = |name: &str| {
        let found = config.environment.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, v)| v.trim().to_owned()).filter(|v| !v.is_empty())
    };
    if let Some(endpoint) = value("IDENTITY_ENDPOINT") {
        let setting = Setting { name: "azure_msi_endpoint", given: "IDENTITY_ENDPOINT" };
        builder = builder.with_msi_endpoint(setting.value(&endpoint)?.unwrap_or_default());
    }
    use AzureConfigKey as Key;
    let set = |key: AzureConfigKey| is_set(builder.get_config_value(&key));
    let emulator = is_true(builder.get_config_value(&Key::UseEmulator));
    let credentials = emulator
        || set(Key::AccessKey)
        || set(Key::SasKey)
        || set(Key::Token)
        || (set(Key::ClientId) && set(Key::ClientSecret) && set(Key::AuthorityId))
        || set(Key::FederatedTokenFile)
        || set(Key::FabricTokenServiceUrl)
        || set(Key::MsiEndpoint)
        || is_true(builder.get_config_value(&Key::UseAzureCli))
        || is_true(builder.get_config_value(&Key::SkipSignature))
        || instance_metadata(&own)?;
    if !credentials {
        return Err(no_credentials(container, config, Provider::Azure.credentials_help()));
    }
    if !emulator && !set(Key::AccountName) {
        return Err(Error::invalid(format!("store {:?}: the storage account is not named", config.url))
            .help("set AZURE_STORAGE_ACCOUNT_NAME, or -o account_name=NAME"));
    }
    if emulator && let Some(url) = value("AZURITE_BLOB_STORAGE_URL") {
        // The builder takes the emulator's address from the process environment only; it is handed in here.
        connector.redirect = Some(emulator_address(&url)?);
    } else {
        let allow_http = builder.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
        check_http(builder.get_config_value(&Key::Endpoint), allow_http, "AZURE_ALLOW_HTTP")?;
    }
    let store = builder
        .with_container_name(container)
        .with_retry(no_retries())
        .with_http_connector(connector)
        .build()
        .map_err(|e| not_built("Azure", container, e))?;
    Ok(Clients { plain: Arc::new(store), bulk: None })
}

fn client_options(config: &StoreConfig) -> ClientOptions {
    const AGENT: &str = concat!("cuttle/", env!("CARGO_PKG_VERSION"));
    ClientOptions::new()
        .with_user_agent(http::HeaderValue::from_static(AGENT))
        // Its timeout spans a request with its body, whatever its size; ours do not.
        .with_timeout_disabled()
        .with_connect_timeout(config.limits.connect_timeout)
        .with_pool_max_idle_per_host(config.limits.requests_inflight_max)
}

/// Retries are this layer's own: it knows when a create has to be settled first.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, backoff: BackoffConfig::default(), ..RetryConfig::default() }
}

fn no_credentials(bucket: &str, config: &StoreConfig, help: &str) -> Error {
    Error::invalid(format!("store {:?}: found no credentials for {bucket}", config.url)).help(help)
}

fn not_built(provider: &str, bucket: &str, error: object_store::Error) -> Error {
    Error::invalid(format!("{provider}, {bucket}: {error}")).caused_by(error)
}

fn instance_metadata(own: &Options) -> Result<bool> {
    own.get(INSTANCE_METADATA).map_or(Ok(false), |value| flag("instance-metadata", value))
}

fn is_set(value: Option<String>) -> bool {
    value.is_some_and(|v| !v.is_empty())
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|v| flag("", &v).unwrap_or(false))
}

/// Plain HTTP has to be asked for, else the first request fails with a message that does not say so.
fn check_http(endpoint: Option<String>, allow_http: Option<String>, variable: &str) -> Result<()> {
    match endpoint {
        Some(endpoint) if is_plain_http(&endpoint) && !is_true(allow_http) => {
            Err(Error::invalid(format!("endpoint {endpoint}: plain HTTP is not allowed unless asked for"))
                .help(format!("set {variable}=true, or -o allow-http=true, if that is what you want")))
        }
        _ => Ok(()),
    }
}

fn is_plain_http(endpoint: &str) -> bool {
    endpoint.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("http"))
}

fn emulator_address(url: &str) -> Result<(http::uri::Scheme, http::uri::Authority)> {
    let wrong = || Error::invalid(format!("AZURITE_BLOB_STORAGE_URL={url}: expected http://HOST:PORT"));
    let parts = url.parse::<http::Uri>().map_err(|e| wrong().caused_by(e))?.into_parts();
    parts.scheme.zip(parts.authority).ok_or_else(wrong)
}
