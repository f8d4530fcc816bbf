//! SaslHandshake and SaslAuthenticate, and the session that they open on a connection.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kafka_protocol::messages::{
    ApiKey, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
    SaslHandshakeResponse,
};
use ring::{digest, hmac, pbkdf2};

use super::connection::{Api, Call};
use super::state::text;

const UNSUPPORTED_MECHANISM: i16 = 33;
const ILLEGAL_STATE: i16 = 34;
const FAILED: i16 = 58;
const ITERATIONS: u32 = 4096;
const SALT: &[u8] = b"salt of the test";

/// Who may come in, and how.
#[derive(Debug, Clone)]
pub struct Sasl {
    pub mechanisms: Vec<&'static str>,
    pub username: String,
    pub password: String,
    /// How long a session lasts; `None`: as long as its connection.
    pub lifetime: Option<Duration>,
    /// The broker does not know the password, but says yes to everybody.
    pub impostor: bool,
}

impl Sasl {
    /// Every mechanism, for one user.
    pub fn new(username: &str, password: &str) -> Self {
        Self {
            mechanisms: vec!["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
            username: username.into(),
            password: password.into(),
            lifetime: None,
            impostor: false,
        }
    }
}

/// What a connection has said so far.
#[derive(Default)]
pub(super) struct Session {
    mechanism: Option<String>,
    /// SCRAM: what the client and we said first.
    said: Option<(String, String)>,
    open: bool,
    ends: Option<Instant>,
}

impl Session {
    /// Whether a request of this kind is answered now.
    pub(super) fn may_ask(&self, api: ApiKey) -> bool {
        match api {
            ApiKey::ApiVersions | ApiKey::SaslHandshake | ApiKey::SaslAuthenticate => true,
            _ => self.open && self.ends.is_none_or(|at| Instant::now() < at),
        }
    }

    /// The answer to a message, and whether that was the last; `None`: refused.
    fn take(&mut self, sasl: &Sasl, message: &[u8]) -> Option<(Vec<u8>, bool)> {
        let message = std::str::from_utf8(message).ok()?;
        if self.mechanism.as_deref()? == "PLAIN" {
            let wanted = format!("\0{}\0{}", sasl.username, sasl.password);
            return (message == wanted).then_some((Vec::new(), true));
        }
        let Some((bare, first)) = self.said.take() else {
            let bare = message.strip_prefix("n,,")?;
            let (name, nonce) = bare.strip_prefix("n=")?.split_once(",r=")?;
            if name.replace("=2C", ",").replace("=3D", "=") != sasl.username {
                return None;
            }
            let salt = BASE64_STANDARD.encode(SALT);
            let first = format!("r={nonce}ours,s={salt},i={ITERATIONS}");
            self.said = Some((bare.into(), first.clone()));
            return Some((first.into(), false));
        };
        let (unproven, proof) = message.rsplit_once(",p=")?;
        let all = format!("{bare},{first},{unproven}");
        let (client, server) = keys(self.mechanism.as_deref()?, &sasl.password);
        let stored = digest::digest(client.algorithm().digest_algorithm(), client.tag());
        let signature = hmac::sign(
            &hmac::Key::new(client.algorithm(), stored.as_ref()),
            all.as_bytes(),
        );
        let key = BASE64_STANDARD.decode(proof).ok()?;
        let key: Vec<u8> = key
            .iter()
            .zip(signature.as_ref())
            .map(|(a, b)| a ^ b)
            .collect();
        if key != client.tag() && !sasl.impostor {
            return None;
        }
        let secret = if sasl.impostor {
            b"guess"
        } else {
            server.tag()
        };
        let signature = hmac::sign(&hmac::Key::new(server.algorithm(), secret), all.as_bytes());
        let last = format!("v={}", BASE64_STANDARD.encode(signature));
        Some((last.into(), true))
    }
}

/// A key of SCRAM with the hash that it is for.
struct Key(hmac::Algorithm, hmac::Tag);

impl Key {
    fn algorithm(&self) -> hmac::Algorithm {
        self.0
    }

    fn tag(&self) -> &[u8] {
        self.1.as_ref()
    }
}

/// Client key and server key.
fn keys(mechanism: &str, password: &str) -> (Key, Key) {
    let (hash, derive) = match mechanism {
        "SCRAM-SHA-256" => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256),
        _ => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512),
    };
    let mut salted = vec![0; hash.digest_algorithm().output_len()];
    let iterations = NonZeroU32::new(ITERATIONS).unwrap();
    pbkdf2::derive(derive, iterations, SALT, password.as_bytes(), &mut salted);
    let salted = hmac::Key::new(hash, &salted);
    let key = |name: &[u8]| Key(hash, hmac::sign(&salted, name));
    (key(b"Client Key"), key(b"Server Key"))
}

impl Api for SaslHandshakeRequest {
    fn handle(self, call: &Call<'_>) -> Option<SaslHandshakeResponse> {
        let mut response = SaslHandshakeResponse::default();
        let state = call.shared.lock();
        let Some(sasl) = &state.settings.sasl else {
            response.error_code = ILLEGAL_STATE;
            return Some(response);
        };
        response.mechanisms = sasl.mechanisms.iter().map(|name| text(*name)).collect();
        let known = sasl.mechanisms.iter().any(|name| **name == *self.mechanism);
        if let Some(scripted) = call.error() {
            response.error_code = scripted.code;
        } else if known {
            call.session.borrow_mut().mechanism = Some(self.mechanism.to_string());
        } else {
            response.error_code = UNSUPPORTED_MECHANISM;
        }
        Some(response)
    }

    fn set_throttle(_: &mut SaslHandshakeResponse, _: i32) {}
}

impl Api for SaslAuthenticateRequest {
    fn handle(self, call: &Call<'_>) -> Option<SaslAuthenticateResponse> {
        let mut response = SaslAuthenticateResponse::default();
        let state = call.shared.lock();
        let sasl = state.settings.sasl.as_ref()?;
        let mut session = call.session.borrow_mut();
        let taken = match call.error() {
            Some(scripted) => Err(scripted.code),
            None => session.take(sasl, &self.auth_bytes).ok_or(FAILED),
        };
        match taken {
            Ok((answer, last)) => {
                response.auth_bytes = answer.into();
                session.open = last;
                if let (true, Some(lifetime)) = (last, sasl.lifetime) {
                    session.ends = Some(Instant::now() + lifetime);
                    if call.version >= 1 {
                        response.session_lifetime_ms = lifetime.as_millis() as i64;
                    }
                }
            }
            Err(code) => {
                response.error_code = code;
                // No broker should say so much; whatever it says must not come out of the program.
                let said = String::from_utf8_lossy(&self.auth_bytes).replace('\0', " ");
                response.error_message = Some(text(format!("{} is not {said}", sasl.password)));
            }
        }
        Some(response)
    }

    fn set_throttle(_: &mut SaslAuthenticateResponse, _: i32) {}
}
