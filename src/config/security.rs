//! The security sections: what their keys ask of each other, and the files that they name.

use std::path::PathBuf;

use super::keys::{self, Protocol, Settings};
use super::reader::Reader;
use crate::error::chain;
use crate::kafka::options::{Sasl, Security, Tls};
use crate::tls;

/// The keys of a security section.
const KEYS: [&str; 7] = [
    "protocol",
    "ca_file",
    "certificate_file",
    "key_file",
    "sasl_mechanism",
    "username",
    "password",
];

impl Protocol {
    fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl keys::Security {
    /// Whether nobody said anything of a key, as far as its value tells.
    fn is_default(&self, name: &str) -> bool {
        match name {
            "protocol" => self.protocol == Protocol::Plaintext,
            "ca_file" => self.ca_file.is_none(),
            "certificate_file" => self.certificate_file.is_none(),
            "key_file" => self.key_file.is_none(),
            "sasl_mechanism" => self.sasl_mechanism.is_none(),
            "username" => self.username.is_empty(),
            _ => self.password.is_empty(),
        }
    }
}

/// What the security sections ask of their keys, and of the brokers beside them.
pub(super) fn check(settings: &Settings, reader: &mut Reader<'_>) {
    check_section("consumer.security", &settings.consumer_security, reader);
    check_section("publisher.security", &settings.publisher_security, reader);
    for name in KEYS {
        let path = format!("publisher.security.{name}");
        reader.require(
            !settings.publisher.bootstrap_servers.is_empty()
                || settings.publisher_security.is_default(name),
            &[&path, "publisher.bootstrap_servers"],
            "without bootstrap_servers of its own the publisher uses those of the consumer, and its security",
        );
    }
}

/// What the keys of a security section ask of each other.
fn check_section(section: &str, keys: &keys::Security, reader: &mut Reader<'_>) {
    let path = |name: &str| format!("{section}.{name}");
    let protocol = path("protocol");
    for name in ["ca_file", "certificate_file", "key_file"] {
        reader.require(
            keys.protocol.has_tls() || keys.is_default(name),
            &[&path(name), &protocol],
            format!("{name} is of use with the protocols SSL and SASL_SSL only"),
        );
    }
    for name in ["sasl_mechanism", "username", "password"] {
        reader.require(
            keys.protocol.has_sasl() || keys.is_default(name),
            &[&path(name), &protocol],
            format!("{name} is of use with the protocols SASL_PLAINTEXT and SASL_SSL only"),
        );
        let unset = reader.unset().find(|(key, _)| *key == path(name));
        let missing = match unset {
            Some((_, why)) => format!("SASL needs a {name}; {why}"),
            None => format!("SASL needs a {name}"),
        };
        reader.require(
            !keys.protocol.has_sasl() || !keys.is_default(name),
            &[&path(name), &protocol],
            missing,
        );
    }
    reader.require(
        keys.certificate_file.is_some() == keys.key_file.is_some(),
        &[&path("certificate_file"), &path("key_file")],
        "certificate_file and key_file belong together",
    );
}

/// What the client is given of a security section, its files read.
pub(super) fn read(section: &str, keys: &keys::Security, reader: &mut Reader<'_>) -> Security {
    let sasl = keys.sasl_mechanism.filter(|_| keys.protocol.has_sasl());
    let identity = keys
        .certificate_file
        .as_deref()
        .zip(keys.key_file.as_deref());
    let tls = keys
        .protocol
        .has_tls()
        .then(|| tls::client(keys.ca_file.as_deref(), identity));
    if let Some(Err(error)) = &tls {
        let at = |file: &Option<PathBuf>| file.is_some() && file.as_deref() == error.path();
        let name = if at(&keys.ca_file) {
            "ca_file"
        } else if at(&keys.key_file) {
            "key_file"
        } else if at(&keys.certificate_file) {
            "certificate_file"
        } else {
            "protocol"
        };
        reader.require(false, &[&format!("{section}.{name}")], chain(error));
    }
    Security {
        tls: tls.and_then(Result::ok).map(Tls::new),
        sasl: sasl.map(|mechanism| Sasl {
            mechanism,
            username: keys.username.clone(),
            password: keys.password.clone(),
        }),
    }
}
