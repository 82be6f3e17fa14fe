//! Buckets on the test servers, and the configurations that open them.

use aws_lc_rs::hmac;
use bytes::Bytes;
use cuttle::store::{Limits, StoreConfig};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector, HttpRequestBody, HttpResponse, ReqwestConnector};

/// Azurite's well-known account; the key is part of its documentation.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A bucket's name, fresh for each run, so that servers left from an earlier one do no harm.
pub fn fresh(name: &str) -> String {
    format!("cuttle-{name}-{}", std::process::id())
}

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

    /// The test RGW; absent, the test is skipped.
    pub fn on_rgw() -> Option<Self> {
        Some(Self::new(&super::server("CUTTLE_TEST_RGW")?, "AKTEST", "SKTEST"))
    }

    /// moto; absent, the test is skipped.
    pub fn on_moto() -> Option<Self> {
        Some(Self::new(&super::server("CUTTLE_TEST_MOTO")?, "any", "any"))
    }

    /// Another moto, which can be told to look at who asks; absent, the test is skipped.
    pub fn on_moto_with_iam() -> Option<Self> {
        Some(Self::new(&super::server("CUTTLE_TEST_MOTO_IAM")?, "any", "any"))
    }

    /// A user of moto's with this policy.
    pub async fn iam_user(&self, user: &str, policy: &str) -> Self {
        self.iam(&[("Action", "CreateUser"), ("UserName", user)]).await;
        let made = self.iam(&[("Action", "CreateAccessKey"), ("UserName", user)]).await;
        let put = [
            ("Action", "PutUserPolicy"),
            ("UserName", user),
            ("PolicyName", "cuttle"),
            ("PolicyDocument", policy),
        ];
        self.iam(&put).await;
        let field = |tag: &str| {
            let (_, rest) = made.split_once(&format!("<{tag}>")).expect("a key");
            rest.split_once("</").expect("its end").0.to_owned()
        };
        Self::new(&self.endpoint, &field("AccessKeyId"), &field("SecretAccessKey"))
    }

    async fn iam(&self, form: &[(&str, &str)]) -> String {
        let form = form.iter().chain([&("Version", "2010-05-08")]);
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let credential =
            AwsCredential { key_id: self.key_id.clone(), secret_key: self.secret.clone(), token: None };
        let mut request = http::Request::builder()
            .method("POST")
            .uri(format!("{}/", self.endpoint))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("content-length", body.len().to_string())
            .body(HttpRequestBody::from(Bytes::from(body)))
            .expect("a request");
        AwsAuthorizer::new(&credential, "iam", "us-east-1").try_authorize(&mut request, None).expect("sign");
        let answer = send(request).await;
        let status = answer.status();
        let text =
            String::from_utf8_lossy(&answer.into_body().bytes().await.expect("an answer")).into_owned();
        assert!(status.is_success(), "{status}: {text}");
        text
    }

    /// After so many requests moto refuses what no policy allows.
    pub async fn enforce_iam_after(&self, requests: u32) {
        let body = requests.to_string();
        let uri = format!("{}/moto-api/reset-auth", self.endpoint);
        let request =
            http::Request::builder().method("POST").uri(uri).header("content-length", body.len().to_string());
        let request = request.body(HttpRequestBody::from(Bytes::from(body))).expect("a request");
        assert!(send(request).await.status().is_success());
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
        let made = self.request("PUT", bucket, &[], "").await;
        let status = made.status();
        assert!(status.is_success() || status == http::StatusCode::CONFLICT, "create {bucket}: {status}");
    }

    /// Makes a bucket that keeps every version of its objects and can lock them.
    pub async fn create_locking_bucket(&self, bucket: &str) {
        let made = self.request("PUT", bucket, &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
        assert!(made.status().is_success(), "create {bucket}: {}", made.status());
    }

    /// Locks the newest version of each object below a prefix for a day, so that nobody can delete it.
    pub async fn lock_all(&self, bucket: &str, prefix: &str) {
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let until = until.strftime("%Y-%m-%dT%H:%M:%SZ");
        let retention = format!(
            "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
        );
        for (key, version) in self.versions(bucket, prefix).await {
            let address = format!("{bucket}/{key}?retention=&versionId={version}");
            let locked = self.request("PUT", &address, &[], &retention).await;
            assert!(locked.status().is_success(), "lock {key}: {}", locked.status());
        }
    }

    /// The versions of objects below a prefix, as key and version; what marks a deletion is not among them.
    pub async fn versions(&self, bucket: &str, prefix: &str) -> Vec<(String, String)> {
        self.listed_versions(bucket, prefix, "Version").await
    }

    /// What marks deletions below a prefix, as key and version: without it the object is there again.
    pub async fn deletions(&self, bucket: &str, prefix: &str) -> Vec<(String, String)> {
        self.listed_versions(bucket, prefix, "DeleteMarker").await
    }

    async fn listed_versions(&self, bucket: &str, prefix: &str, what: &str) -> Vec<(String, String)> {
        let address = format!("{bucket}?prefix={}&versions=", prefix.replace('/', "%2F"));
        let listed = self.request("GET", &address, &[], "").await;
        assert!(listed.status().is_success(), "list versions: {}", listed.status());
        let body = listed.into_body().bytes().await.expect("a listing");
        let text = String::from_utf8_lossy(&body).into_owned();
        let field = |part: &str, tag: &str| {
            let (_, rest) = part.split_once(&format!("<{tag}>"))?;
            Some(rest.split_once("</")?.0.to_owned())
        };
        let versions = text.split(&format!("<{what}>")).skip(1).collect::<Vec<_>>();
        versions.iter().filter_map(|part| Some((field(part, "Key")?, field(part, "VersionId")?))).collect()
    }

    /// A request of one's own. `address` is what follows the endpoint; its parameters are sorted.
    pub async fn request(
        &self,
        method: &str,
        address: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> HttpResponse {
        let credential =
            AwsCredential { key_id: self.key_id.clone(), secret_key: self.secret.clone(), token: None };
        let url = format!("{}/{address}", self.endpoint);
        let mut request = http::Request::builder().method(method).uri(&url);
        if method != "GET" {
            request = request.header("content-length", body.len().to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request =
            request.body(HttpRequestBody::from(Bytes::from(body.to_owned()))).expect("a request");
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).expect("sign");
        send(request).await
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

/// The same by a SAS of the container with these permissions (its version 2020-12-06, "Create a service SAS").
pub fn azurite_sas_config(endpoint: &str, container: &str, prefix: &str, permissions: &str) -> StoreConfig {
    let (version, expiry) = ("2020-12-06", "2040-01-01T00:00:00Z");
    let resource = format!("/blob/{AZURITE_ACCOUNT}/{container}");
    let fields = [permissions, "", expiry, &resource, "", "", "", version, "c", "", "", "", "", "", "", ""];
    let key = hmac::Key::new(hmac::HMAC_SHA256, &base64_decoded(AZURITE_KEY));
    let signature = base64(hmac::sign(&key, fields.join("\n").as_bytes()).as_ref());
    let token = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("sv", version),
            ("sr", "c"),
            ("sp", permissions),
            ("se", expiry),
            ("sig", &signature),
        ])
        .finish();
    let mut config = azurite_config(endpoint, container, prefix);
    config.environment.push(("AZURE_STORAGE_SAS_TOKEN".to_owned(), token));
    config
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = BASE64[(word >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= three.len() { digit.into() } else { '=' });
        }
    }
    out
}

fn base64_decoded(text: &str) -> Vec<u8> {
    let digits = text.bytes().filter_map(|byte| BASE64.iter().position(|digit| *digit == byte));
    let digits: Vec<u32> = digits.map(|digit| digit as u32).collect();
    let word = |four: &[u32]| four.iter().fold(0, |word, digit| word << 6 | digit) << (6 * (4 - four.len()));
    digits.chunks(4).flat_map(|four| word(four).to_be_bytes()[1..four.len()].to_vec()).collect()
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
    let uri = request.uri().clone();
    let status = send(request).await.status();
    assert!(status.is_success() || status == http::StatusCode::CONFLICT, "create {uri}: {status}");
}

async fn send(request: http::Request<HttpRequestBody>) -> HttpResponse {
    let options = object_store::ClientOptions::new().with_allow_http(true);
    let client = ReqwestConnector::default().connect(&options).expect("an HTTP client");
    client.execute(request).await.expect("an answer")
}
