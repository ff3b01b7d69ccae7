//! One HTTP client per store, with the TLS that its URL asks for.

use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::{Certificate, Client, Identity};

use super::place::{Options, Place};
use crate::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
const IDLE_CONNECTIONS_MAX: usize = 256;
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Makes ring the process's TLS provider, unless somebody chose another.
pub(super) fn install_tls() {
    // An error says that one is installed, which is what we want.
    drop(rustls::crypto::ring::default_provider().install_default());
    // For what opendal asks outside of an operation, such as a role's temporary keys. Made lazily.
    opendal_http_transport_reqwest::install_default();
}

/// A client for requests to `place`. How long a request may take is said above, per attempt.
pub(super) fn client(place: &Place) -> Result<Client> {
    let Place { endpoint, bucket, options, .. } = place;
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .tcp_keepalive(KEEPALIVE)
        .tcp_nodelay(true)
        // One connection per transfer is faster than streams that share one.
        .http1_only()
        .tls_danger_accept_invalid_certs(options.accept_any_certificate);
    if let Some(file) = &options.ca_certs {
        let certs = Certificate::from_pem_bundle(&read_pem(file)?).map_err(|e| unusable(file, &e))?;
        builder = builder.tls_certs_only(certs);
    } else if endpoint.starts_with("http://") {
        // Trusts nobody: spares reading the system's certificates, which may not be installed.
        builder = builder.tls_certs_only([]);
    }
    if endpoint.contains("://localhost") {
        // Names below localhost are this machine (RFC 6761), though not every resolver knows.
        builder = builder.resolve(&format!("{bucket}.localhost"), (Ipv4Addr::LOCALHOST, 0).into());
    }
    if let Some(identity) = identity(options)? {
        builder = builder.identity(identity);
    }
    builder.build().map_err(|e| Error::Config { reason: format!("no HTTP client: {}", with_causes(&e)) })
}

fn identity(options: &Options) -> Result<Option<Identity>> {
    match (&options.ssl_cert, &options.ssl_key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => {
            let mut pem = read_pem(cert)?;
            pem.push(b'\n');
            pem.extend(read_pem(key)?);
            Identity::from_pem(&pem).map(Some).map_err(|e| unusable(cert, &e))
        }
        _ => Err(Error::Config { reason: "ssl-cert and ssl-key go together in a bucket URL".to_owned() }),
    }
}

fn read_pem(file: &str) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| unusable(file, &e))
}

fn unusable(file: &str, error: &dyn std::error::Error) -> Error {
    Error::Config { reason: format!("can't use the certificate or key in {file}: {}", with_causes(error)) }
}

/// An error and what caused it, on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
