//! The S3 server behind TLS: the options of the bucket URL against real handshakes.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Server, suite};
use crate::remote::http::install_tls;
use crate::{Error, Location, ObjectStore, Result};

use super::{Arc, Env};

/// A signer of certificates, and a certificate each for the server and for us, as PEM files.
struct Papers {
    folder: tempfile::TempDir,
}

impl Papers {
    fn new() -> Papers {
        let papers = Papers { folder: tempfile::tempdir().unwrap() };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        papers.write("ca.pem", &params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            papers.write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
            papers.write(&format!("{name}.key"), &key.serialize_pem());
        }
        papers
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn server_config(&self, ask_client: bool) -> ServerConfig {
        install_tls();
        let builder = match ask_client {
            false => ServerConfig::builder().with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(certificate(&self.path("ca.pem"))).unwrap();
                ServerConfig::builder()
                    .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_file(Path::new(&self.path("server.key"))).unwrap();
        builder.with_single_cert(vec![certificate(&self.path("server.pem"))], key).unwrap()
    }
}

fn certificate(path: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// Answers TLS on a free port and passes the plain bytes to `to`.
async fn tls_door(config: ServerConfig, to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let env = Env::real();
    env.clone().spawn(async move {
        loop {
            let (outside, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            env.spawn(async move {
                // A handshake that fails is what some tests want to see from the other side.
                let Ok(mut outside) = acceptor.accept(outside).await else { return };
                let mut inside = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
            });
        }
    });
    port
}

fn open(server: &Server, port: u16, query: &str) -> Result<Arc<dyn ObjectStore>> {
    let bucket = format!("https://127.0.0.1:{port}/bkt{query}");
    crate::open(&Env::real(), &Location { bucket, ..server.location("bkt") })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_must_be_signed_by_whom_the_url_names() {
    let (server, papers) = (Server::start().await, Papers::new());
    let port = tls_door(papers.server_config(false), server.port).await;
    suite(open(&server, port, &format!("?ca-certs={}", papers.path("ca.pem"))).unwrap()).await;
    let stranger = Papers::new();
    let error = open(&server, port, &format!("?ca-certs={}", stranger.path("ca.pem"))).unwrap();
    let error = error.get("k", None).await.unwrap_err().to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let careless = open(&server, port, "?tls-insecure-skip-verify=true").unwrap();
    assert!(careless.get("k", None).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_our_certificate_gets_it() {
    let (server, papers) = (Server::start().await, Papers::new());
    let port = tls_door(papers.server_config(true), server.port).await;
    let ca = format!("?ca-certs={}", papers.path("ca.pem"));
    let ours = format!("{ca}&ssl-cert={}&ssl-key={}", papers.path("client.pem"), papers.path("client.key"));
    assert!(open(&server, port, &ours).unwrap().get("k", None).await.unwrap_err().is_not_found());
    let without = open(&server, port, &ca).unwrap().get("k", None).await.unwrap_err();
    assert!(!without.is_not_found(), "{without}");
}

#[tokio::test]
async fn files_that_are_no_certificates_are_named() {
    let (server, papers) = (Server::start().await, Papers::new());
    for query in ["?ca-certs=/nowhere/ca.pem", &format!("?ssl-cert={}", papers.path("client.pem"))] {
        let error = open(&server, 1, query).unwrap().get("k", None).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert!(error.to_string().contains("ca.pem") || error.to_string().contains("ssl-key"), "{error}");
    }
}
