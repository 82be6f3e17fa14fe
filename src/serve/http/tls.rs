//! TLS from certificate files.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::{Error, Result};

/// A certificate and its key, TLS 1.2 and 1.3.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// Reads a certificate chain, the server's own first, and its private key, both PEM.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self> {
        let unreadable = |path: &Path, e: &dyn std::fmt::Display| {
            Error::invalid(format!("{}: {e}", path.display())).help("expected a PEM file")
        };
        let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect)
            .map_err(|e| unreadable(cert, &e))?;
        if chain.is_empty() {
            return Err(unreadable(cert, &"no certificate in it"));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, &e))?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
            .map_err(|e| {
                Error::invalid(format!("{} and {} do not serve: {e}", cert.display(), key.display()))
                    .caused_by(e)
            })?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}
