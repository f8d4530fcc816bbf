//! SASL: proves to a broker who we are.
//!
//! PLAIN hands the password over; SCRAM (RFC 5802, RFC 7677) proves that we know it and, by the
//! server's signature, that the broker knows it too. No I/O here: [`Exchange`] turns what the
//! server says into what to say next. Names and passwords are taken as UTF-8 as they are, which is
//! what brokers do (no SASLprep).
//!
//! Made of `ring`, which TLS brings along: the ready-made crates bring a second set of hash
//! functions and a framework, or lack SHA-512.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SecureRandom as _;
use ring::{digest, hmac, pbkdf2};

use super::options::{Mechanism, Sasl};

/// Fewer make a stolen answer cheap to guess from; RFC 7677 asks for as many.
const MIN_ITERATIONS: u32 = 4096;
/// More would be a way to keep our processor busy: about a second.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Longest message of a server that is looked at.
const MAX_MESSAGE: usize = 64 << 10;

/// Why an exchange cannot go on. Holds nothing of name or password.
pub(super) type Fault = &'static str;

/// The state of one authentication.
pub(super) enum Exchange<'a> {
    /// The one message of PLAIN is said.
    Plain,
    /// SCRAM before the server's salt.
    First {
        sasl: &'a Sasl,
        algorithm: Algorithm,
        nonce: String,
        bare: String,
    },
    /// SCRAM before the server's signature.
    Final { signature: hmac::Tag },
    /// The server has shown that it knows us.
    Done,
}

/// The hash functions of a SCRAM mechanism.
#[derive(Clone, Copy)]
pub(super) struct Algorithm {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

fn algorithm(mechanism: Mechanism) -> Option<Algorithm> {
    match mechanism {
        Mechanism::Plain => None,
        Mechanism::ScramSha256 => Some(Algorithm {
            digest: &digest::SHA256,
            hmac: hmac::HMAC_SHA256,
            pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
        }),
        Mechanism::ScramSha512 => Some(Algorithm {
            digest: &digest::SHA512,
            hmac: hmac::HMAC_SHA512,
            pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
        }),
    }
}

impl<'a> Exchange<'a> {
    /// Begins one, with the first message to send.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn begin(sasl: &'a Sasl) -> Result<(Self, Vec<u8>), Fault> {
        let mut random = [0; 24];
        ring::rand::SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| "the system gives no random numbers")?;
        Ok(Self::begin_with(sasl, BASE64_STANDARD.encode(random)))
    }

    fn begin_with(sasl: &'a Sasl, nonce: String) -> (Self, Vec<u8>) {
        let Some(algorithm) = algorithm(sasl.mechanism) else {
            let message = ["", &sasl.username, sasl.password.reveal()].join("\0");
            return (Self::Plain, message.into_bytes());
        };
        // The only two letters that mean something in a message.
        let name = sasl.username.replace('=', "=3D").replace(',', "=2C");
        let bare = format!("n={name},r={nonce}");
        let message = format!("n,,{bare}").into_bytes();
        let exchange = Self::First {
            sasl,
            algorithm,
            nonce,
            bare,
        };
        (exchange, message)
    }

    /// Takes an answer of the server; `Some` is what to say to it, `None` the end.
    ///
    /// # Errors
    /// The server does not keep to the mechanism, or does not know our password.
    pub(super) fn answer(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        const CUT: Fault = "its SCRAM message is not one";
        if let Self::Plain | Self::Done = self {
            *self = Self::Done;
            return Ok(None);
        }
        let text = Some(message)
            .filter(|message| message.len() <= MAX_MESSAGE)
            .and_then(|message| std::str::from_utf8(message).ok())
            .ok_or(CUT)?;
        match self {
            Self::First {
                sasl,
                algorithm,
                nonce,
                bare,
            } => {
                let proof = prove(sasl, *algorithm, nonce, bare, text)?;
                *self = Self::Final {
                    signature: proof.signature,
                };
                Ok(Some(proof.message.into_bytes()))
            }
            Self::Final { signature } => {
                if text.starts_with("e=") {
                    return Err("wrong user name or password");
                }
                let theirs = text.strip_prefix("v=").ok_or(CUT)?;
                let theirs = theirs.split(',').next().unwrap_or_default();
                let theirs = BASE64_STANDARD.decode(theirs).map_err(|_| CUT)?;
                if !same(signature.as_ref(), &theirs) {
                    return Err("it does not know our password itself: its signature is wrong");
                }
                *self = Self::Done;
                Ok(None)
            }
            Self::Plain | Self::Done => Ok(None),
        }
    }

    /// Whether the server has said all that it has to. One that stops earlier is not trusted.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

struct Proof {
    message: String,
    signature: hmac::Tag,
}

/// The answer to the server's salt: `r=nonce,s=salt,i=iterations`.
fn prove(
    sasl: &Sasl,
    algorithm: Algorithm,
    our_nonce: &str,
    bare: &str,
    server_first: &str,
) -> Result<Proof, Fault> {
    const CUT: Fault = "its SCRAM challenge is not one";
    let mut parts = server_first.split(',');
    let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name));
    if server_first.starts_with("e=") {
        return Err("wrong user name or password");
    }
    let (Some(nonce), Some(salt), Some(iterations)) = (part("r="), part("s="), part("i=")) else {
        return Err(CUT);
    };
    if nonce.len() <= our_nonce.len() || !nonce.starts_with(our_nonce) {
        return Err("its SCRAM challenge is not for us: the nonce is not an extension of ours");
    }
    let salt = BASE64_STANDARD.decode(salt).map_err(|_| CUT)?;
    let iterations: u32 = iterations.parse().map_err(|_| CUT)?;
    if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
        return Err("its SCRAM challenge asks for too few or too many iterations");
    }
    let iterations = NonZeroU32::new(iterations).ok_or(CUT)?;
    let mut salted = vec![0; algorithm.digest.output_len()];
    pbkdf2::derive(
        algorithm.pbkdf2,
        iterations,
        &salt,
        sasl.password.reveal().as_bytes(),
        &mut salted,
    );
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(algorithm.hmac, key), text);
    let client_key = sign(&salted, b"Client Key");
    let stored_key = digest::digest(algorithm.digest, client_key.as_ref());
    // "biws" is the encoded "n,,": no channel binding.
    let unproven = format!("c=biws,r={nonce}");
    let all = format!("{bare},{server_first},{unproven}");
    let client_signature = sign(stored_key.as_ref(), all.as_bytes());
    let proof: Vec<u8> = client_key
        .as_ref()
        .iter()
        .zip(client_signature.as_ref())
        .map(|(key, signature)| key ^ signature)
        .collect();
    let server_key = sign(&salted, b"Server Key");
    Ok(Proof {
        message: format!("{unproven},p={}", BASE64_STANDARD.encode(proof)),
        signature: sign(server_key.as_ref(), all.as_bytes()),
    })
}

/// Compares all bytes however early they differ, so that the time tells nothing.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    let differences = ours
        .iter()
        .zip(theirs)
        .fold(0, |found, (our, their)| found | (our ^ their));
    ours.len() == theirs.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn sasl(mechanism: Mechanism, username: &str, password: &str) -> Sasl {
        Sasl {
            mechanism,
            username: username.into(),
            password: Secret::new(password),
        }
    }

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_example_of_rfc_7677() {
        let sasl = sasl(Mechanism::ScramSha256, "user", "pencil");
        let (mut exchange, first) = Exchange::begin_with(&sasl, NONCE.into());
        assert_eq!(first, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let last = exchange.answer(CHALLENGE.as_bytes()).unwrap().unwrap();
        assert_eq!(
            String::from_utf8(last).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(!exchange.is_done());
        let end = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(exchange.answer(end), Ok(None));
        assert!(exchange.is_done());
    }

    #[test]
    fn plain_is_one_message() {
        let sasl = sasl(Mechanism::Plain, "user", "pen,cil=");
        let (mut exchange, first) = Exchange::begin(&sasl).unwrap();
        assert_eq!(first, b"\0user\0pen,cil=");
        assert_eq!(exchange.answer(b""), Ok(None));
        assert!(exchange.is_done());
    }

    #[test]
    fn names_are_escaped_and_nonces_differ() {
        let sasl = sasl(Mechanism::ScramSha512, "a=b,c", "x");
        let (_, first) = Exchange::begin(&sasl).unwrap();
        let (_, second) = Exchange::begin(&sasl).unwrap();
        assert!(first.starts_with(b"n,,n=a=3Db=2Cc,r="));
        assert_ne!(first, second);
    }

    #[test]
    fn a_server_that_does_not_keep_to_it_is_refused() {
        let sasl = sasl(Mechanism::ScramSha256, "user", "pencil");
        let begin = || Exchange::begin_with(&sasl, NONCE.into()).0;
        let long = "x".repeat(MAX_MESSAGE + 1);
        for challenge in [
            "",
            "r=",
            "r=other,s=AAAA,i=4096",
            // Our own nonce and nothing of theirs: an answer that was recorded.
            "r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=*,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4095",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1000001",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=-1",
            "r=rOprNGfwEbeRWgbNEkqOx,i=4096,s=AAAA",
            "e=unknown-user",
            &long,
        ] {
            assert!(begin().answer(challenge.as_bytes()).is_err(), "{challenge}");
        }
        assert!(begin().answer(&[0xff]).is_err());
        for end in [
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl9",
            "v=",
            "",
            "e=invalid-proof",
        ] {
            let mut exchange = begin();
            exchange.answer(CHALLENGE.as_bytes()).unwrap();
            assert!(exchange.answer(end.as_bytes()).is_err(), "{end}");
            assert!(!exchange.is_done(), "{end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_server_makes_it_panic(
            messages in proptest::collection::vec("(r=rOprNGfwEbeRWgbNEkqO[a-z]{0,2})?(,[sivem]=[A-Za-z0-9+/=]{0,8}){0,4}", 0..4)
        ) {
            let sasl = sasl(Mechanism::ScramSha512, "user", "pencil");
            let mut exchange = Exchange::begin_with(&sasl, NONCE.into()).0;
            for message in messages {
                let _ = exchange.answer(message.as_bytes());
                proptest::prop_assert!(!exchange.is_done());
            }
        }
    }
}
