//! The HTTP client below object_store: as object_store's own, from the same options, but for redirects. It follows none.
//!
//! A PUT that is answered 303 would be followed as a GET, and the 200 of that GET would pass for the PUT's; and a request
//! that is followed takes its credentials to whoever is named. A redirect is an answer, see `fault`.

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use object_store::{ClientConfigKey as Key, ClientOptions, Error, Result};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::tls::Certificate;
use reqwest::{Client, ClientBuilder, NoProxy, Proxy};
use tokio::task::spawn_blocking;

use super::options::flag;

/// Makes a client.
pub(super) fn client(options: &ClientOptions) -> Result<Client> {
    let options = Values(options);
    let builder = Client::builder().redirect(Policy::none());
    // What is compressed on the way has another length than the object.
    let builder = builder.no_gzip().no_brotli().no_zstd().no_deflate();
    let builder = versions(times(proxy(builder, options)?, options)?, options)?;
    let builder = match options.parsed::<String>(Key::UserAgent)? {
        Some(agent) => builder.user_agent(agent),
        None => builder,
    };
    let builder = match options.flag(Key::RandomizeAddresses)? {
        true => builder.dns_resolver(Shuffled),
        false => builder,
    };
    builder
        .https_only(!options.flag(Key::AllowHttp)?)
        .danger_accept_invalid_certs(options.flag(Key::AllowInvalidCertificates)?)
        .build()
        .map_err(|e| wrong("HTTP client", e))
}

/// What object_store was given, as it hands it out: as text.
#[derive(Clone, Copy)]
struct Values<'a>(&'a ClientOptions);

impl Values<'_> {
    fn text(self, key: Key) -> Option<String> {
        self.0.get_config_value(&key).filter(|value| !value.is_empty())
    }

    fn parsed<T: FromStr<Err: Display>>(self, key: Key) -> Result<Option<T>> {
        self.read(key, |text| text.parse().map_err(|e: T::Err| e.to_string()))
    }

    fn flag(self, key: Key) -> Result<bool> {
        Ok(self.read(key, |text| flag("", text).map_err(|e| e.to_string()))?.unwrap_or(false))
    }

    fn duration(self, key: Key) -> Result<Option<Duration>> {
        self.read(key, |text| humantime::parse_duration(text).map_err(|e| e.to_string()))
    }

    fn read<T>(self, key: Key, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        read(&text).map(Some).map_err(|why| wrong(key.as_ref(), format!("{text:?}: {why}")))
    }
}

fn wrong(what: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "HTTP client", source: format!("{what}: {}", why.into()).into() }
}

fn proxy(mut builder: ClientBuilder, options: Values<'_>) -> Result<ClientBuilder> {
    if let Some(address) = options.text(Key::ProxyUrl) {
        // Its address may hold a password.
        let mut proxy = Proxy::all(address).map_err(|e| wrong("proxy_url", e.without_url()))?;
        if let Some(certificate) = options.text(Key::ProxyCaCertificate) {
            let certificate = Certificate::from_pem(certificate.as_bytes())
                .map_err(|e| wrong("proxy_ca_certificate", e))?;
            builder = builder.tls_certs_merge([certificate]);
        }
        if let Some(excludes) = options.text(Key::ProxyExcludes) {
            proxy = proxy.no_proxy(NoProxy::from_string(&excludes));
        }
        builder = builder.proxy(proxy);
    }
    match options.flag(Key::NoSystemCertificates)? {
        true => Ok(builder.tls_certs_only([])),
        false => Ok(builder),
    }
}

fn times(mut builder: ClientBuilder, options: Values<'_>) -> Result<ClientBuilder> {
    if let Some(timeout) = options.duration(Key::Timeout)? {
        builder = builder.timeout(timeout);
    }
    if let Some(timeout) = options.duration(Key::ConnectTimeout)? {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(timeout) = options.duration(Key::ReadTimeout)? {
        builder = builder.read_timeout(timeout);
    }
    if let Some(timeout) = options.duration(Key::PoolIdleTimeout)? {
        builder = builder.pool_idle_timeout(timeout);
    }
    if let Some(connections) = options.parsed(Key::PoolMaxIdlePerHost)? {
        builder = builder.pool_max_idle_per_host(connections);
    }
    Ok(builder)
}

fn versions(mut builder: ClientBuilder, options: Values<'_>) -> Result<ClientBuilder> {
    if options.flag(Key::Http1Only)? {
        builder = builder.http1_only();
    }
    if options.flag(Key::Http2Only)? {
        builder = builder.http2_prior_knowledge();
    }
    if let Some(interval) = options.duration(Key::Http2KeepAliveInterval)? {
        builder = builder.http2_keep_alive_interval(interval);
    }
    if let Some(timeout) = options.duration(Key::Http2KeepAliveTimeout)? {
        builder = builder.http2_keep_alive_timeout(timeout);
    }
    if options.flag(Key::Http2KeepAliveWhileIdle)? {
        builder = builder.http2_keep_alive_while_idle(true);
    }
    if let Some(bytes) = options.parsed::<u32>(Key::Http2MaxFrameSize)? {
        builder = builder.http2_max_frame_size(bytes);
    }
    Ok(builder)
}

/// Resolves names to their addresses in an order that differs each time: connections spread over all gateways of a name.
struct Shuffled;

impl Resolve for Shuffled {
    fn resolve(&self, name: Name) -> Resolving {
        let resolve = move || (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
        Box::pin(async move {
            let mut found = spawn_blocking(resolve).await??;
            let order = RandomState::new();
            found.sort_by_cached_key(|address| order.hash_one(address));
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::client;
    use object_store::{ClientConfigKey as Key, ClientOptions};

    #[test]
    fn options_are_understood_as_object_store_writes_them() {
        client(&ClientOptions::new()).expect("as it is");
        client(&ClientOptions::new().with_allow_http(true).with_timeout_disabled()).expect("two changed");
        for (key, good, bad) in [
            (Key::AllowHttp, "yes", "perhaps"),
            (Key::AllowInvalidCertificates, "1", "2"),
            (Key::NoSystemCertificates, "on", "x"),
            (Key::Timeout, "1 min 30 s", "soon"),
            (Key::ConnectTimeout, "500ms", "5"),
            (Key::ReadTimeout, "1h", "-1 s"),
            (Key::PoolIdleTimeout, "90 seconds", "s"),
            (Key::PoolMaxIdlePerHost, "7", "many"),
            (Key::Http2MaxFrameSize, "20000", "-1"),
            (Key::Http2KeepAliveInterval, "3s", "x"),
            (Key::ProxyUrl, "http://127.0.0.1:1", "http://u:HUNTER2@:::"),
            (Key::RandomizeAddresses, "false", "x"),
        ] {
            client(&ClientOptions::new().with_config(key, good)).unwrap_or_else(|e| panic!("{key:?}: {e}"));
            let error = client(&ClientOptions::new().with_config(key, bad)).err();
            let said = error.unwrap_or_else(|| panic!("{key:?}={bad} is taken")).to_string();
            assert!(!said.contains("HUNTER2"), "{said}");
        }
    }
}
