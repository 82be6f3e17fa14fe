//! Buckets on the test servers, and the configurations that open them.

use bytes::Bytes;
use cuttle::store::{Limits, StoreConfig};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector, HttpRequestBody, ReqwestConnector};

/// Azurite's well-known account; the key is part of its documentation.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// An S3 service and who may use it.
#[derive(Debug, Clone)]
pub struct S3 {
    pub endpoint: String,
    pub key_id: String,
    pub secret: String,
}

impl S3 {
    pub fn new(endpoint: &str, key_id: &str, secret: &str) -> Self {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { endpoint, key_id: key_id.to_owned(), secret: secret.to_owned() }
    }

    /// The environment variables with which an operator would name it.
    pub fn environment(&self) -> Vec<(String, String)> {
        pairs(&[
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", &self.key_id),
            ("AWS_SECRET_ACCESS_KEY", &self.secret),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
        ])
    }

    /// `s3://BUCKET/PREFIX` on it.
    pub fn config(&self, bucket: &str, prefix: &str) -> StoreConfig {
        StoreConfig {
            url: format!("s3://{bucket}/{prefix}"),
            environment: self.environment(),
            limits: quick(),
            ..StoreConfig::default()
        }
    }

    /// Makes a bucket; one that is there already is as good.
    pub async fn create_bucket(&self, bucket: &str) {
        let credential =
            AwsCredential { key_id: self.key_id.clone(), secret_key: self.secret.clone(), token: None };
        let mut request = empty_put(&format!("{}/{bucket}", self.endpoint));
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).expect("sign");
        send_create(request).await;
    }
}

/// `az://CONTAINER/PREFIX` on Azurite.
pub fn azurite_config(endpoint: &str, container: &str, prefix: &str) -> StoreConfig {
    StoreConfig {
        url: format!("az://{container}/{prefix}"),
        environment: pairs(&[
            ("AZURE_STORAGE_USE_EMULATOR", "1"),
            ("AZURITE_BLOB_STORAGE_URL", endpoint),
            ("AZURE_ALLOW_HTTP", "true"),
        ]),
        limits: quick(),
        ..StoreConfig::default()
    }
}

/// Makes a container on Azurite; one that is there already is as good.
pub async fn create_azurite_container(endpoint: &str, container: &str) {
    let key = AzureAccessKey::try_new(AZURITE_KEY).expect("Azurite's key");
    let credential = AzureCredential::AccessKey(key);
    let endpoint = endpoint.trim_end_matches('/');
    let mut request = empty_put(&format!("{endpoint}/{AZURITE_ACCOUNT}/{container}?restype=container"));
    AzureAuthorizer::new(&credential, AZURITE_ACCOUNT).try_authorize(&mut request).expect("sign");
    send_create(request).await;
}

/// `gs://BUCKET/PREFIX` on the fake of Google Cloud Storage.
pub fn gcs_config(endpoint: &str, bucket: &str, prefix: &str) -> StoreConfig {
    let account = format!(
        r#"{{"gcs_base_url":"{endpoint}","disable_oauth":true,"client_email":"","private_key":"","private_key_id":""}}"#
    );
    StoreConfig {
        url: format!("gs://{bucket}/{prefix}"),
        environment: pairs(&[("GOOGLE_SERVICE_ACCOUNT_KEY", &account), ("GOOGLE_ALLOW_HTTP", "true")]),
        limits: quick(),
        ..StoreConfig::default()
    }
}

/// Limits with which a test that provokes failures takes milliseconds.
pub fn quick() -> Limits {
    Limits {
        backoff_first: std::time::Duration::from_millis(1),
        backoff_max: std::time::Duration::from_millis(10),
        jitter_seed: Some(1),
        ..Limits::default()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn empty_put(url: &str) -> http::Request<HttpRequestBody> {
    let body = HttpRequestBody::from(Bytes::new());
    let request = http::Request::builder().method("PUT").uri(url).header("content-length", "0");
    request.body(body).expect("a request")
}

async fn send_create(request: http::Request<HttpRequestBody>) {
    let options = object_store::ClientOptions::new().with_allow_http(true);
    let client = ReqwestConnector::default().connect(&options).expect("an HTTP client");
    let uri = request.uri().clone();
    let status = client.execute(request).await.expect("create a bucket").status();
    assert!(status.is_success() || status == http::StatusCode::CONFLICT, "create {uri}: {status}");
}
