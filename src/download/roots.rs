//! Which certificate authorities are trusted, and the TLS configuration made of them.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::error::SetupError;

/// TLS with the configured file alone, else the store of the host, else the compiled-in roots.
///
/// # Errors
/// A configured file that cannot be read or holds no certificate: falling back to other roots
/// would trust servers that the administrator did not name.
pub(super) fn tls_config(ca_file: Option<&Path>) -> Result<ClientConfig, SetupError> {
    let (roots, source) = match ca_file {
        Some(path) => (from_file(path)?, path.display().to_string()),
        None => from_host(),
    };
    log::info!(
        "downloads trust {} certificate authorities from {source}",
        roots.len()
    );
    // Named here, not taken from the process: another crate's default must not change ours.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn from_file(path: &Path) -> Result<RootCertStore, SetupError> {
    let unreadable = |source: rustls::pki_types::pem::Error| SetupError::CaFile {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
        // One unusable certificate in a bundle of many is no reason to refuse the rest.
        let _ = roots.add_parsable_certificates([certificate.map_err(unreadable)?]);
    }
    if roots.is_empty() {
        return Err(SetupError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

fn from_host() -> (RootCertStore, String) {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        log::debug!("{unusable} certificates of the host's store are not usable");
    }
    if !roots.is_empty() {
        return (roots, "the host's store".to_owned());
    }
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    (
        roots,
        "the compiled-in list (the host has no store)".to_owned(),
    )
}
