//! TLS as a client: whom we trust, and who we say we are.
//!
//! Used by downloads and by the Kafka client, so that both trust the same and a second
//! cryptographic provider cannot come in by one of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

/// Why TLS cannot be set up. A fault of the configuration.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The file cannot be read, or is no PEM.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// As configured.
        path: PathBuf,
        /// What the system or the parser says.
        source: Box<pem::Error>,
    },
    /// No server could ever be trusted, or no certificate be shown.
    #[error("{} holds no usable certificate", path.display())]
    NoCertificate {
        /// As configured.
        path: PathBuf,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("the certificate of {} cannot be used with the key of {}", certificate.display(), key.display())]
    Identity {
        /// As configured.
        certificate: PathBuf,
        /// As configured.
        key: PathBuf,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// The TLS library refuses its settings.
    #[error("TLS cannot be set up")]
    Library(#[source] rustls::Error),
}

impl SetupError {
    /// The file at fault, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. } | Self::NoCertificate { path } => Some(path),
            Self::Identity { certificate, .. } => Some(certificate),
            Self::Library(_) => None,
        }
    }
}

/// Settings for connections, and whom they trust, for a log line.
#[derive(Debug)]
pub struct Client {
    /// What connections are made with.
    pub config: Arc<ClientConfig>,
    /// `3 certificate authorities from the host's store`.
    pub trusts: String,
}

/// TLS that trusts the configured file alone, else the store of the host, else the compiled-in
/// roots; with `identity`, a certificate chain and its key, both PEM, it can say who we are.
///
/// # Errors
/// A configured file that cannot be read or used: falling back to other roots would trust servers
/// that the administrator did not name.
pub fn client(
    ca_file: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<Client, SetupError> {
    let (roots, source) = match ca_file {
        Some(path) => (roots_of(path)?, path.display().to_string()),
        None => from_host(),
    };
    let trusts = format!("{} certificate authorities from {source}", roots.len());
    // Named here, not taken from the process: another crate's default must not change ours.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Library)?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates_of(certificate)?, key_of(key)?)
            .map_err(|source| SetupError::Identity {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                source,
            })?,
    };
    Ok(Client {
        config: Arc::new(config),
        trusts,
    })
}

fn unreadable(path: &Path) -> impl Fn(pem::Error) -> SetupError {
    move |source| SetupError::Unreadable {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

fn roots_of(path: &Path) -> Result<RootCertStore, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable(path))? {
        // One unusable certificate in a bundle of many is no reason to refuse the rest.
        let _ = roots.add_parsable_certificates([certificate.map_err(unreadable(path))?]);
    }
    if roots.is_empty() {
        return Err(SetupError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(roots)
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(unreadable(path))?;
    if certificates.is_empty() {
        return Err(SetupError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

/// Of an unreadable key no byte is said: the parser's errors name the section at most.
fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, SetupError> {
    PrivateKeyDer::from_pem_file(path).map_err(unreadable(path))
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
