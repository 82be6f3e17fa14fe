//! What real HTTP answers turn into: statuses, error codes, broken and missing answers, and what
//! configurations without credentials or with wrong options say.

use std::time::Duration;

use crate::support::buckets::{S3, azurite_config, gcs_config};
use crate::support::http_script::{Answer, Script};
use bytes::Bytes;
use cuttle::store::{Created, Deleted, Limits, Store, StoreConfig};
use cuttle::{Error, ErrorKind};

async fn s3(answers: impl IntoIterator<Item = Answer>) -> (Script, Store) {
    let script = Script::serve(answers).await;
    let mut config = S3::new(&script.url, "key", "secret").config("bucket", "");
    config.limits.stall_timeout = Duration::from_millis(300);
    let store = Store::open(&config).expect("open");
    (script, store)
}

fn body() -> Bytes {
    Bytes::from(vec![5; 1000])
}

fn put_ok() -> Answer {
    Answer::status(200).header("etag", "\"e\"")
}

fn head_of(size_bytes: usize) -> Answer {
    let range = format!("bytes 0-127/{size_bytes}");
    Answer::status(206).header("content-range", range).body(vec![5; 128]).object_headers()
}

fn summary(script: &Script) -> Vec<String> {
    script.seen().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
}

#[tokio::test]
async fn slow_down_in_all_its_forms_is_tried_again_with_fewer_in_flight() {
    let (script, store) = s3([
        Answer::s3_error(503, "SlowDown"),
        Answer::status(429).header("retry-after", "0"),
        Answer::s3_error(403, "RequestLimitExceeded"),
        Answer::status(503),
        put_ok(),
    ])
    .await;
    assert_eq!(store.create("k", body()).await.expect("create"), Created::New);
    assert_eq!(summary(&script), ["PUT /bucket/k"; 5]);
    assert!(script.seen().iter().all(|seen| seen.body_bytes == 1000));
    let ledger = store.ledger();
    assert_eq!((ledger.put_requests, ledger.retries, ledger.throttled), (5, 4, 4));
    assert_eq!(ledger.uploaded_bytes, 5000);
    assert_eq!(store.inflight_limit(), 2);
}

#[tokio::test]
async fn a_server_error_after_the_write_landed_is_settled_by_reading_back() {
    for status in [500, 502, 504, 409] {
        let (script, store) = s3([Answer::status(status), head_of(1000)]).await;
        assert_eq!(store.create("k", body()).await.expect("create"), Created::New, "{status}");
        assert_eq!(summary(&script), ["PUT /bucket/k", "GET /bucket/k"], "{status}");
    }
    let (script, store) = s3([Answer::status(500), Answer::status(404), put_ok()]).await;
    assert_eq!(store.create("k", body()).await.expect("create"), Created::New);
    assert_eq!(summary(&script), ["PUT /bucket/k", "GET /bucket/k", "PUT /bucket/k"]);

    let (_script, store) = s3([Answer::s3_error(412, "PreconditionFailed"), head_of(1001)]).await;
    let exists = Created::Exists { head: vec![5; 128].into(), size_bytes: 1001 };
    assert_eq!(store.create("k", body()).await.expect("create"), exists);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_settled_too() {
    let (script, store) = s3([Answer::status(200), head_of(1000)]).await;
    assert_eq!(store.create("k", body()).await.expect("create"), Created::New);
    assert_eq!(summary(&script), ["PUT /bucket/k", "GET /bucket/k"]);
}

#[tokio::test]
async fn no_answer_at_all_is_a_timeout_and_settled() {
    let (script, store) = s3([Answer::hang(), head_of(1000)]).await;
    assert_eq!(store.create("k", body()).await.expect("create"), Created::New);
    assert_eq!(summary(&script), ["PUT /bucket/k", "GET /bucket/k"]);

    let (script, store) = s3([Answer::hang(), Answer::object(body())]).await;
    assert_eq!(store.get("k", 1000).await.expect("get"), Some(body()));
    assert_eq!(summary(&script), ["GET /bucket/k"; 2]);
}

#[tokio::test]
async fn a_body_cut_short_is_fetched_again_and_in_the_end_an_error() {
    let cut = || Answer::object(body()).cut_after(400);
    let (script, store) = s3([cut(), cut(), Answer::object(body())]).await;
    assert_eq!(store.get("k", 1000).await.expect("get"), Some(body()));
    assert_eq!(script.seen().len(), 3);
    assert_eq!(store.ledger().downloaded_bytes, 400 + 400 + 1000);

    let (script, store) = s3((0..50).map(|_| cut())).await;
    let error = store.get("k", 1000).await.expect_err("always cut short");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(script.seen().len(), Limits::default().attempts_max as usize);
}

#[tokio::test]
async fn an_object_larger_than_allowed_is_not_downloaded() {
    let (script, store) = s3([Answer::object(vec![5; 100_000])]).await;
    let error = store.get("k", 1000).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(store.ledger().downloaded_bytes, 0);
    assert_eq!(script.seen().len(), 1);
}

#[tokio::test]
async fn refusals_are_clear_and_final() {
    for (answer, kind, said) in [
        (Answer::s3_error(403, "AccessDenied"), ErrorKind::Denied, "may get, put and list"),
        (Answer::s3_error(403, "SignatureDoesNotMatch"), ErrorKind::Denied, "credentials"),
        (Answer::s3_error(401, "Unauthorized"), ErrorKind::Denied, "credentials"),
        (Answer::s3_error(403, "RequestTimeTooSkewed"), ErrorKind::Invalid, "clock"),
        (Answer::s3_error(404, "NoSuchBucket"), ErrorKind::NoRepository, "create the bucket"),
        (
            Answer::s3_error(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-north-1"),
            ErrorKind::Invalid,
            "AWS_REGION=eu-north-1",
        ),
        (Answer::s3_error(400, "InvalidArgument"), ErrorKind::Invalid, ""),
        (Answer::s3_error(403, "QuotaExceeded"), ErrorKind::NoSpace, "cuttle prune"),
        (Answer::s3_error(507, "XMinioStorageFull"), ErrorKind::NoSpace, "cuttle prune"),
        (Answer::s3_error(501, "NotImplemented"), ErrorKind::Unsupported, ""),
    ] {
        let (script, store) = s3([answer.clone(), answer.clone(), answer.clone()]).await;
        for error in [store.create("k", body()).await.expect_err("refused"), get_error(&store).await] {
            assert_eq!(error.kind(), kind, "{answer:?}: {error}");
            assert!(error.help_text().unwrap_or_default().contains(said), "{answer:?}: {error:?}");
            assert!(error.message().contains("s3://bucket/k"), "{error}");
        }
        let heads = script.seen().iter().filter(|seen| seen.method == "HEAD").count();
        // A create that is forbidden, or finds no room, looks once whether that is because of what is there.
        let looks = matches!(answer.status, 403 | 507) && kind != ErrorKind::Invalid;
        let asked = if looks { 3 } else { 2 };
        assert_eq!(script.seen().len() - heads, asked, "{answer:?}: {:?}", summary(&script));
    }
}

/// A PUT that was answered 303 was followed as a GET once, whose 200 passed for the PUT's.
#[tokio::test]
async fn no_redirect_is_followed_by_any_request() {
    let elsewhere = Script::serve((0..50).map(|_| Answer::object(body()))).await;
    for status in [300, 301, 302, 303, 305, 307, 308] {
        let to = format!("{}/bucket/k?X-Amz-Signature=secret", elsewhere.url);
        let answer = || Answer::status(status).header("location", to.clone());
        let (script, store) = s3((0..9).map(|_| answer())).await;
        let errors = [
            store.create("k", body()).await.expect_err("a redirect"),
            store.replace("k", body()).await.expect_err("a redirect"),
            store.get("k", 1000).await.expect_err("a redirect"),
            store.head("k").await.expect_err("a redirect"),
            store.delete("k").await.expect_err("a redirect"),
            store.list("", None).await.expect_err("a redirect"),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{status}: {error}");
            assert!(error.message().contains(&format!("{}/bucket/k\"", elsewhere.url)), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            assert!(error.help_text().unwrap_or_default().contains("AWS_ENDPOINT_URL"), "{error:?}");
        }
        assert_eq!(script.seen().len(), 6, "{:?}", summary(&script));
    }
    let without_a_place = Answer::status(303);
    let (_script, store) = s3([without_a_place]).await;
    let error = store.create("k", body()).await.expect_err("a redirect");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(elsewhere.seen().is_empty(), "{:?}", summary(&elsewhere));
}

/// As a proxy serves it that has lost its store: of any status, with all that a file of a web server has.
fn web_page(status: u16) -> Answer {
    Answer::status(status)
        .body("<html>Back soon</html>")
        .object_headers()
        .header("content-type", "text/html; charset=utf-8")
}

#[tokio::test]
async fn a_create_is_believed_only_from_an_answer_to_a_create() {
    let with_etag = |status: u16| Answer::status(status).header("etag", "\"e\"");
    for doubtful in [
        web_page(200),
        web_page(201),
        Answer::status(200),
        Answer::status(204),
        with_etag(202),
        with_etag(204),
        with_etag(206),
        with_etag(200).body("OK"),
        with_etag(200).header("content-type", "Text/HTML").body("<html>"),
    ] {
        let said = format!("{doubtful:?}");
        // It is there, and nothing was written.
        let (script, store) = s3([doubtful.clone(), head_of(1000)]).await;
        assert_eq!(store.create("k", body()).await.expect(&said), Created::New, "{said}");
        assert_eq!(summary(&script), ["PUT /bucket/k", "GET /bucket/k"], "{said}");
        let (script, store) = s3([doubtful.clone(), Answer::s3_error(404, "NoSuchKey"), put_ok()]).await;
        assert_eq!(store.create("k", body()).await.expect(&said), Created::New, "{said}");
        assert_eq!(script.seen().len(), 3, "{said}");
        let (script, store) = s3([doubtful, head_of(1000)]).await;
        store.replace("k", body()).await.expect(&said);
        assert_eq!(summary(&script), ["PUT /bucket/k", "GET /bucket/k"], "{said}");
    }
    let believed = [with_etag(200), with_etag(201)];
    for answer in believed {
        let (script, store) = s3([answer]).await;
        assert_eq!(store.create("k", body()).await.expect("create"), Created::New);
        assert_eq!(script.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_web_page_is_no_answer_to_anything() {
    for status in [200, 404] {
        let (_script, store) = s3((0..200).map(|_| web_page(status))).await;
        let mut errors = vec![
            store.create("k", body()).await.expect_err("a page"),
            store.replace("k", body()).await.expect_err("a page"),
            store.get("k", 1000).await.expect_err("a page"),
            store.get_range("k", 0..10).await.expect_err("a page"),
            store.delete("k").await.expect_err("a page"),
            store.list("", None).await.expect_err("a page"),
        ];
        if status == 200 {
            errors.push(store.head("k").await.expect_err("a page"));
        }
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.message().contains("web page"), "{error}");
        }
    }
    // Another time it is the store again.
    let (script, store) = s3([web_page(404), Answer::object(body())]).await;
    assert_eq!(store.get("k", 1000).await.expect("get"), Some(body()));
    assert_eq!(script.seen().len(), 2);
}

/// What is there needs no room.
#[tokio::test]
async fn a_create_in_a_full_store_finds_what_is_there() {
    let full = Answer::s3_error(403, "QuotaExceeded");
    let (_script, store) = s3([full, head_of(1000)]).await;
    assert_eq!(store.create("k", body()).await.expect("create"), Created::New);
}

async fn get_error(store: &Store) -> Error {
    store.get("k", 1000).await.expect_err("refused")
}

#[tokio::test]
async fn a_listing_that_breaks_goes_on_after_the_last_key() {
    let page = |keys: &[&str], next: Option<&str>| {
        let contents: String = keys
            .iter()
            .map(|key| {
                format!(
                    "<Contents><Key>{key}</Key><Size>1</Size>\
                     <LastModified>2022-01-01T00:00:00.000Z</LastModified></Contents>"
                )
            })
            .collect();
        let next =
            next.map(|n| format!("<NextContinuationToken>{n}</NextContinuationToken>")).unwrap_or_default();
        Answer::status(200).body(format!("<ListBucketResult>{contents}{next}</ListBucketResult>"))
    };
    let (script, store) =
        s3([Answer::status(500), page(&["a", "b"], Some("token")), Answer::status(503), page(&["c"], None)])
            .await;
    let keys: Vec<String> = store.list("", None).await.expect("list").into_iter().map(|o| o.key).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    let seen = summary(&script);
    assert!(seen[2].contains("continuation-token=token"), "{seen:?}");
    assert!(seen[3].contains("start-after=b") && !seen[3].contains("token="), "{seen:?}");
    assert_eq!(store.ledger().list_requests, 4);
}

/// What S3 says of those that were not deleted.
fn not_deleted(what: &[(&str, &str)]) -> Answer {
    let error = |(key, code): &(&str, &str)| {
        format!("<Error><Key>{key}</Key><Code>{code}</Code><Message>m</Message></Error>")
    };
    let errors: String = what.iter().map(error).collect();
    let other = "<Deleted><Key>other</Key></Deleted>";
    Answer::status(200).body(format!("<DeleteResult>{other}{errors}</DeleteResult>"))
}

#[tokio::test]
async fn what_a_bulk_delete_leaves_open_is_asked_for_singly() {
    let keys = ["a", "b", "c", "d"].map(str::to_owned);
    let (bulk, gone, refused) = ("POST /bucket?delete", Deleted::Gone, Deleted::Refused);
    let all = ["DELETE /bucket/a", "DELETE /bucket/b", "DELETE /bucket/c", "DELETE /bucket/d"];
    for (answers, requests, deleted) in [
        (vec![not_deleted(&[])], vec![bulk], [gone; 4]),
        // What is tried again as it is.
        (vec![Answer::s3_error(503, "SlowDown"), Answer::hang(), not_deleted(&[])], vec![bulk; 3], [gone; 4]),
        // One locked, one that the next request deletes.
        (
            vec![not_deleted(&[("b", "AccessDenied")]), Answer::s3_error(403, "AccessDenied")],
            vec![bulk, all[1]],
            [gone, refused, gone, gone],
        ),
        (
            vec![not_deleted(&[("c", "OperationAborted")]), Answer::status(503), Answer::status(204)],
            vec![bulk, all[2], all[2]],
            [gone; 4],
        ),
        // object_store keeps such an answer to itself.
        (vec![not_deleted(&[("c", "InternalError")]), not_deleted(&[])], vec![bulk; 2], [gone; 4]),
    ] {
        let (script, store) = s3(answers).await;
        assert_eq!(store.delete_all_unless_refused(&keys).await.expect("delete"), deleted);
        assert_eq!(summary(&script), requests);
        assert_eq!(store.ledger().delete_requests, requests.len() as u64);
    }
    // The request as a whole is of no use: not known to the store, not permitted, or its answer is nonsense.
    for (tries, answer) in [
        (1, Answer::s3_error(501, "NotImplemented")),
        (1, Answer::s3_error(403, "AccessDenied")),
        (3, Answer::status(200).body("nonsense")),
        (3, not_deleted(&[("who/asked", "AccessDenied")])),
        (1, not_deleted(&[("a", "AccessDenied"), ("b", "x"), ("c", "x"), ("d", "x")])),
    ] {
        let answers = std::iter::repeat_n(answer, tries).chain([204; 4].map(Answer::status));
        let (script, store) = s3(answers).await;
        assert_eq!(store.delete_all_unless_refused(&keys).await.expect("delete"), [gone; 4]);
        let mut seen = summary(&script);
        seen[tries..].sort();
        assert_eq!(seen, [&vec![bulk; tries], &all[..]].concat());
    }
    let (script, store) = s3([]).await;
    let error = store.delete_all_unless_refused(&keys).await.expect_err("only errors");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(summary(&script).iter().all(|request| request == bulk));
}

/// What Azure answers to a batch that deletes one blob.
fn azure_batch(status: u16, code: &str) -> Answer {
    let part = "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n";
    let body =
        format!("{part}HTTP/1.1 {status} It says\r\n\r\n<Error><Code>{code}</Code></Error>\r\n--b--\r\n");
    Answer::status(202).header("content-type", "multipart/mixed; boundary=b").body(body)
}

/// Locks, holds, leases and missing permissions: not asked again, and no reason to end.
#[tokio::test]
async fn what_a_provider_refuses_to_delete_is_left() {
    type Config = fn(&str) -> StoreConfig;
    let s3: (Config, _) = (|url| S3::new(url, "key", "secret").config("bucket", ""), Answer::status(204));
    let gcs: (Config, _) = (|url| gcs_config(url, "bucket", ""), Answer::status(204));
    let azure: (Config, _) = (|url| azurite_config(url, "bucket", ""), azure_batch(202, ""));
    let (gone, refused) = (Deleted::Gone, Deleted::Refused);
    for ((config, deleted), answer, expected, requests) in [
        (&s3, Answer::s3_error(403, "AccessDenied"), refused, 2),
        (&gcs, Answer::s3_error(403, "RetentionPolicyNotMet"), refused, 2),
        (&gcs, Answer::s3_error(403, "ObjectUnderActiveHold"), refused, 2),
        (&gcs, Answer::s3_error(404, "NoSuchKey"), gone, 2),
        (&azure, Answer::s3_error(403, "AuthorizationFailure"), refused, 2),
        (&azure, azure_batch(403, "AuthorizationPermissionMismatch"), refused, 2),
        (&azure, azure_batch(409, "BlobImmutableDueToPolicy"), refused, 2),
        (&azure, azure_batch(409, "SnapshotsPresent"), refused, 2),
        (&azure, azure_batch(412, "LeaseIdMissing"), refused, 2),
        (&azure, azure_batch(404, "BlobNotFound"), gone, 2),
        // Asked again.
        (&azure, azure_batch(503, "ServerBusy"), gone, 3),
        (&azure, azure_batch(500, "InternalError"), gone, 3),
    ] {
        let context = format!("{answer:?}");
        let script = Script::serve([answer, deleted.clone(), deleted.clone()]).await;
        let store = Store::open(&config(&script.url)).expect("open");
        for (key, expected) in [("a", expected), ("b", gone)] {
            let done = store.delete_unless_refused(key).await;
            assert_eq!(done.unwrap_or_else(|e| panic!("{context}: {e}")), expected, "{context}");
        }
        assert_eq!(script.seen().len(), requests, "{context}: {:?}", summary(&script));
    }
}

#[tokio::test]
async fn nobody_there_is_said_within_a_few_attempts() {
    let port_of_nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address").port()
    };
    let endpoint = format!("http://127.0.0.1:{port_of_nobody}");
    let store = Store::open(&S3::new(&endpoint, "k", "s").config("bucket", "")).expect("open");
    let error = get_error(&store).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("get s3://bucket/k: Connection refused"), "{error}");
    assert!(error.help_text().expect("help").contains("address"), "{error:?}");
    assert_eq!(store.ledger().get_requests, u64::from(Limits::default().attempts_first_contact_max));
}

#[tokio::test]
async fn googles_condition_is_sent_and_understood() {
    let script = Script::serve([
        Answer::s3_error(412, "PreconditionFailed"),
        Answer::status(206).header("content-range", "bytes 0-127/1000").body(vec![5; 128]).object_headers(),
    ])
    .await;
    let store = Store::open(&gcs_config(&script.url, "bucket", "")).expect("open");
    assert_eq!(store.create("k", body()).await.expect("create"), Created::New);
    assert_eq!(summary(&script), ["PUT /bucket/k", "GET /bucket/k"]);
}

fn open_error(url: &str, options: &[(&str, &str)], environment: &[(&str, &str)]) -> Error {
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let config = StoreConfig {
        url: url.to_owned(),
        options: pairs(options),
        environment: pairs(environment),
        limits: Limits::default(),
    };
    Store::open(&config).expect_err("may not open")
}

#[test]
fn missing_credentials_are_said_at_once() {
    for (url, variable) in [
        ("s3://b/p", "AWS_ACCESS_KEY_ID"),
        ("gs://b/p", "GOOGLE_SERVICE_ACCOUNT"),
        ("az://c/p", "AZURE_STORAGE_ACCOUNT_KEY"),
    ] {
        let error = open_error(url, &[], &[("AWS_REGION", "eu-west-1"), ("AWS_PROFILE", "x")]);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.help_text().expect("help").contains(variable), "{error:?}");
        assert!(error.help_text().expect("help").contains("instance-metadata=true"), "{error:?}");
    }
    let error = open_error("az://c/p", &[], &[("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")]);
    assert!(error.help_text().expect("help").contains("AZURE_STORAGE_ACCOUNT_NAME"), "{error:?}");
}

#[test]
fn credentials_that_services_hand_to_their_machines_count() {
    for environment in [
        &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"), ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")][..],
        &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")],
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token"),
        ],
    ] {
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let config = StoreConfig { url: "s3://b".to_owned(), environment, ..StoreConfig::default() };
        Store::open(&config).expect("credentials");
    }
    let options = vec![("instance-metadata".to_owned(), "true".to_owned())];
    let config = StoreConfig { url: "s3://b".to_owned(), options, ..StoreConfig::default() };
    Store::open(&config).expect("asked for");
}

#[test]
fn wrong_configurations_are_refused_before_any_request() {
    let keys = [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let plain = [keys[0], keys[1], ("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
    let error = open_error("s3://b", &[], &plain);
    assert!(error.help_text().expect("help").contains("AWS_ALLOW_HTTP=true"), "{error:?}");
    let error = open_error("s3://b", &[("reigon", "x")], &keys);
    assert_eq!(error.help_text(), Some("did you mean: region"));
    let error = open_error("s3://b", &[("instance-metadata", "maybe")], &[]);
    assert!(error.message().contains("true or false"), "{error}");
    let error = open_error("/nowhere/at/all", &[], &[]);
    assert_eq!(error.kind(), ErrorKind::NoRepository);
    let error = open_error("/", &[("fsync", "perhaps")], &[]);
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = open_error("/etc/hostname", &[], &[]);
    assert_eq!(error.kind(), ErrorKind::NoRepository);
}
