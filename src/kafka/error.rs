//! What can go wrong between us and a broker, and whether it passes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use kafka_protocol::error::ResponseError as Code;

/// A failed exchange with a broker.
///
/// Everything that is known about the place is in the message; nothing of a record is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The name of a broker has no address.
    #[error("cannot resolve {address} (no such name, or no name server reached)")]
    Resolve {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// What the resolver said.
        source: Arc<io::Error>,
    },
    /// None of the addresses of a broker takes connections.
    #[error("cannot connect to {address}")]
    Connect {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// What the last address said.
        source: Arc<io::Error>,
    },
    /// No complete answer in time. What became of the request is unknown.
    #[error("{address} did not answer {api} within {after:?}")]
    Timeout {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the request.
        api: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// The broker ended the connection. What became of the request is unknown.
    #[error("{address} closed the connection during {api}")]
    Closed {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the request.
        api: &'static str,
    },
    /// The broker ended the connection at the first thing that we asked for without having said who
    /// we are, which is how it refuses us where it wants to know (or it went away just then).
    #[error("{address} closed the connection at our first request, {api}: its port may want SASL")]
    Unwelcome {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the request.
        api: &'static str,
    },
    /// The connection broke. What became of the request is unknown.
    #[error("lost the connection to {address} during {api}")]
    Lost {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the request.
        api: &'static str,
        /// What the socket said.
        source: Arc<io::Error>,
    },
    /// TLS could not be agreed on, or broke: the certificate, the name, the version, or a port
    /// that speaks something else.
    #[error("TLS with {address} failed")]
    Tls {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Which of these.
        source: Arc<io::Error>,
    },
    /// The broker does not accept who we say we are.
    #[error("{address} refuses our credentials ({mechanism}): {found}")]
    Authentication {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the SASL mechanism.
        mechanism: &'static str,
        /// Why, in our own words: a broker's may hold the name.
        found: String,
        /// How often in a row it has refused them.
        tries: u32,
    },
    /// The first answer is not one of a Kafka broker.
    #[error("not a Kafka broker at {address}, or its port wants TLS: {found}")]
    NotKafka {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// What stood there instead.
        found: String,
    },
    /// An answer that the protocol does not allow.
    #[error("bad answer of {address} to {api}: {found}")]
    Malformed {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the request.
        api: &'static str,
        /// What is wrong with it.
        found: String,
    },
    /// The broker and we have no version of a request in common.
    #[error("{address} and we share no version of {api}: ours {}-{}, {}", ours.0, ours.1, offered(*theirs))]
    Version {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the request.
        api: &'static str,
        /// First and last version that we speak.
        ours: (i16, i16),
        /// First and last version that the broker speaks; `None`: it does not know the request.
        theirs: Option<(i16, i16)>,
    },
    /// The broker is too old for something that the settings ask for.
    #[error(
        "{address} has no {feature}: that takes version {wanted} of {api}, it offers up to {offered}"
    )]
    Feature {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// What it cannot do.
        feature: &'static str,
        /// Name of the request.
        api: &'static str,
        /// First version that can.
        wanted: i16,
        /// Last version that we both speak.
        offered: i16,
    },
    /// A request that cannot be written, which is a mistake of ours.
    #[error("cannot write {api}: {found}")]
    Encode {
        /// Name of the request.
        api: &'static str,
        /// What is wrong with it.
        found: String,
    },
    /// The broker answers with an error code.
    #[error("{address} refused {api}: {code} ({})", code.code())]
    Refused {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Name of the request.
        api: &'static str,
        /// The code.
        code: Code,
    },
    /// The broker asked to be left alone on this connection for a while (quotas).
    #[error("{address} throttles us for another {left:?}")]
    Throttled {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Rest of the pause.
        left: Duration,
    },
    /// Not tried: the time of the broker's session is up, and a new connection is due.
    #[error("the session with {address} is to be renewed")]
    Expired {
        /// `HOST:PORT`.
        address: Arc<str>,
    },
    /// Not tried: the last attempt failed a moment ago.
    #[error("{address} is not reachable, next attempt in {left:?}: {last}")]
    Waiting {
        /// `HOST:PORT`.
        address: Arc<str>,
        /// Rest of the pause.
        left: Duration,
        /// Why the last attempt failed, with its causes.
        last: Arc<str>,
    },
    /// The connection is being made.
    #[error("connecting to {address}")]
    Connecting {
        /// `HOST:PORT`.
        address: Arc<str>,
    },
    /// No broker told us about the cluster.
    #[error("no broker of the cluster answers: {last}")]
    NoBroker {
        /// Until the first of them is worth another attempt.
        left: Duration,
        /// Why the last one did not, with its causes.
        last: Arc<str>,
    },
    /// The cluster says of a topic neither that it is there nor that it is not.
    #[error("topic {topic} is not available: {found}")]
    Topic {
        /// Its name.
        topic: Arc<str>,
        /// What the cluster says instead.
        found: String,
    },
    /// A broker that metadata does not list.
    #[error("broker {node} is not listed in the metadata")]
    UnknownBroker {
        /// Its number.
        node: i32,
    },
}

fn offered(theirs: Option<(i16, i16)>) -> String {
    match theirs {
        Some((first, last)) => format!("its {first}-{last}"),
        None => "it does not know this request".into(),
    }
}

/// Whether what was refused with this may succeed later as it is.
///
/// Two that pass are not called retriable in the protocol: a fault that the broker has no word for,
/// and one that old brokers give while they start.
pub(super) fn passes(code: Code) -> bool {
    code.is_retriable() || matches!(code, Code::UnknownServerError | Code::BrokerNotAvailable)
}

/// Whether metadata with this code says that nobody need wait for the topic: we may not see it, or
/// no topic can have that name.
pub(super) fn ends_a_topic(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopicException
    )
}

impl Error {
    /// The code, where a broker refused the request with one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether a broker refuses us a topic, group or cluster.
    pub fn is_authorisation(&self) -> bool {
        matches!(
            self.code(),
            Some(
                Code::TopicAuthorizationFailed
                    | Code::GroupAuthorizationFailed
                    | Code::ClusterAuthorizationFailed
            )
        )
    }

    /// So many refusals of our credentials in a row are no accident of a broker that has just
    /// started. More would look like an attack, and lock the user out.
    pub const AUTHENTICATION_TRIES: u32 = 3;

    /// Whether the same may succeed later without anybody's help.
    ///
    /// A broker that speaks another language or version passes too: brokers are replaced one by
    /// one, and behind one address may stand several.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Resolve { .. }
            | Error::Connect { .. }
            | Error::Timeout { .. }
            | Error::Closed { .. }
            | Error::Unwelcome { .. }
            | Error::Lost { .. }
            | Error::Tls { .. }
            | Error::NotKafka { .. }
            | Error::Malformed { .. }
            | Error::Throttled { .. }
            | Error::Expired { .. }
            | Error::Waiting { .. }
            | Error::Connecting { .. }
            | Error::NoBroker { .. }
            | Error::Topic { .. }
            | Error::UnknownBroker { .. } => true,
            Error::Authentication { tries, .. } => *tries < Self::AUTHENTICATION_TRIES,
            Error::Version { .. } | Error::Feature { .. } | Error::Encode { .. } => false,
            Error::Refused { code, .. } => passes(*code),
        }
    }

    /// How long to wait before asking again, where that is known.
    pub fn pause(&self) -> Option<Duration> {
        /// After which it is worth asking for a connection again.
        const CONNECTING: Duration = Duration::from_millis(20);
        match self {
            Error::Connecting { .. } | Error::Expired { .. } => Some(CONNECTING),
            Error::Throttled { left, .. }
            | Error::Waiting { left, .. }
            | Error::NoBroker { left, .. } => Some(*left),
            _ => None,
        }
    }
}
