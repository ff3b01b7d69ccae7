//! Certificates of an authority of our own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// An authority, a server at `localhost` and 127.0.0.1, and a client; PEM files in one folder.
pub(crate) struct Certificates {
    /// The authority's certificate.
    pub(crate) ca: PathBuf,
    /// The server's certificate and key.
    pub(crate) server: (PathBuf, PathBuf),
    /// The client's certificate and key.
    pub(crate) client: (PathBuf, PathBuf),
}

impl Certificates {
    /// Makes them in `folder`; the server's key can be read by all, as servers drop their rights first.
    pub(crate) fn make(folder: &Path) -> Certificates {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = folder.join("ca.pem");
        fs::write(&ca, params.self_signed(&key).expect("signed").pem()).expect("the folder is ours");
        let issuer = Issuer::new(params, key);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let server = signed(folder, "server", names, ExtendedKeyUsagePurpose::ServerAuth, &issuer);
        let client = signed(folder, "client", vec!["client".into()], ExtendedKeyUsagePurpose::ClientAuth, &issuer);
        Certificates { ca, server, client }
    }
}

fn signed(
    folder: &Path,
    name: &str,
    names: Vec<String>,
    purpose: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(names).expect("names");
    // A certificate with its issuer's name would pass for one that signed itself.
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    let (cert, private) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    fs::write(&cert, params.signed_by(&key, issuer).expect("signed").pem()).expect("the folder is ours");
    fs::write(&private, key.serialize_pem()).expect("the folder is ours");
    (cert, private)
}
