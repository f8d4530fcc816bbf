//! What can go wrong with a download.
//!
//! No variant holds more of a URL than scheme, host and port. The HTTP client's own errors never
//! leave this room: some of them print the whole URL.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::policy::Refusal;
use crate::error::Reason;
use crate::tls;

/// Why a downloader cannot be made. A fault of the configuration.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A pattern that is no regular expression.
    #[error("downloader.allowed_urls: {pattern:?} is not a valid regular expression")]
    Pattern {
        /// As configured.
        pattern: String,
        /// What is wrong with it.
        source: Box<regex::Error>,
    },
    /// Nothing could ever be downloaded.
    #[error("downloader.allowed_urls is empty and downloader.allow_unsafe_links is off")]
    EmptyList,
    /// TLS cannot be set up, for its file or otherwise.
    #[error("downloader.ca_file")]
    Tls(#[from] tls::SetupError),
}

/// Which time limit ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Name lookup.
    Lookup,
    /// TCP and TLS.
    Connect,
    /// Writing the request.
    Send,
    /// Waiting for the head of the response.
    Response,
}

impl Phase {
    fn what(self) -> &'static str {
        match self {
            Self::Lookup => "looking up the name",
            Self::Connect => "connecting",
            Self::Send => "sending the request",
            Self::Response => "waiting for the response",
        }
    }
}

/// Why an archive could not be fetched. `site` is always `scheme://host[:port]`.
#[derive(Debug, Error)]
pub enum Error {
    /// The URL itself is not allowed.
    #[error("the URL is refused: {0}")]
    Refused(Refusal),
    /// The name leads to no address that is allowed.
    #[error("{site} has no address that is allowed")]
    AddressRefused {
        /// Where.
        site: String,
    },
    /// The message announces more than the limit.
    #[error("the announced size of {announced} bytes is over the limit of {limit}")]
    AnnouncedTooLarge {
        /// Bytes, as the message says.
        announced: u64,
        /// Bytes, as configured.
        limit: u64,
    },
    /// The server declares more than the limit.
    #[error("{site} declares {declared} bytes, over the limit of {limit}")]
    DeclaredTooLarge {
        /// Where.
        site: String,
        /// Bytes, as the server says.
        declared: u64,
        /// Bytes, as configured.
        limit: u64,
    },
    /// The body went on behind the limit.
    #[error("{site} sends more than the limit of {limit} bytes")]
    BodyTooLarge {
        /// Where.
        site: String,
        /// Bytes, as configured.
        limit: u64,
    },
    /// The presigned link is over its time.
    #[error("{site} answers {status}: the link has expired")]
    Expired {
        /// Where.
        site: String,
        /// HTTP status.
        status: u16,
    },
    /// The object is not there.
    #[error("{site} answers {status}: there is no such object")]
    NotFound {
        /// Where.
        site: String,
        /// HTTP status.
        status: u16,
    },
    /// The server points elsewhere, which is never followed.
    #[error("{site} answers {status}: redirects are not followed")]
    Redirect {
        /// Where.
        site: String,
        /// HTTP status.
        status: u16,
    },
    /// Any other status than 200.
    #[error("{site} answers {status}")]
    Status {
        /// Where.
        site: String,
        /// HTTP status.
        status: u16,
    },
    /// The name has no address at the moment.
    #[error("the name of {site} cannot be looked up")]
    Lookup {
        /// Where.
        site: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// Refused, unreachable, or reset while connecting.
    #[error("cannot connect to {site}")]
    Connect {
        /// Where.
        site: String,
        /// What the system says.
        source: io::Error,
    },
    /// Handshake or certificate.
    #[error("TLS with {site} failed")]
    Tls {
        /// Where.
        site: String,
        /// What the TLS library says.
        source: io::Error,
    },
    /// A time limit of one phase.
    #[error("{site}: timed out {}", phase.what())]
    Timeout {
        /// Where.
        site: String,
        /// In what.
        phase: Phase,
    },
    /// The connection ended before the first byte of a response.
    #[error("{site} closed the connection without a response")]
    NoResponse {
        /// Where.
        site: String,
        /// What the system says.
        source: io::Error,
    },
    /// The connection ended inside the response.
    #[error("{site} broke off after {received} bytes of the body")]
    BrokenOff {
        /// Where.
        site: String,
        /// Bytes of the body until then.
        received: u64,
        /// What the system says.
        source: io::Error,
    },
    /// What came is no HTTP response within the limits on headers.
    #[error("{site} sends no acceptable HTTP response: {what}")]
    Protocol {
        /// Where.
        site: String,
        /// In our own words.
        what: &'static str,
    },
    /// Below the minimum rate.
    #[error("{site} sent {received} bytes in {} s, below the minimum rate", window.as_secs())]
    TooSlow {
        /// Where.
        site: String,
        /// Bytes in the window.
        received: u64,
        /// Length of the window.
        window: Duration,
    },
    /// The time for all attempts together is spent.
    #[error("{site}: the archive was not there after {} s, all attempts together", limit.as_secs_f64())]
    Deadline {
        /// Where.
        site: String,
        /// As configured.
        limit: Duration,
    },
    /// Somebody said that the result is no longer wanted.
    #[error("the download was given up")]
    Cancelled,
    /// The other tasks held all of the byte budget for half of the deadline. A fault of our host.
    #[error("{bytes} bytes of worker.max_in_flight_bytes were not free for half of the deadline")]
    NoRoom {
        /// Bytes wanted.
        bytes: u64,
    },
    /// A fault of our own host: no descriptor, no memory, no disk.
    #[error("{attempted} failed on this host")]
    Host {
        /// What was attempted.
        attempted: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// What a failed attempt allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// The next attempt would end like this one.
    Never,
    /// One more: an object may be visible a moment after it was announced.
    Once,
    /// As often as attempts and deadline allow.
    Yes,
}

impl Error {
    /// The fixed word of the failure. It means nothing when [`is_host_fault`](Self::is_host_fault)
    /// or [`is_cancelled`](Self::is_cancelled): those are no outcomes of a record.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(_) | Self::AddressRefused { .. } => Reason::UrlRefused,
            Self::AnnouncedTooLarge { .. }
            | Self::DeclaredTooLarge { .. }
            | Self::BodyTooLarge { .. } => Reason::ArchiveTooLarge,
            Self::Expired { .. } => Reason::UrlExpired,
            Self::NotFound { .. } => Reason::NotFound,
            Self::Redirect { .. } => Reason::HttpRedirect,
            Self::Tls { .. } => Reason::Tls,
            Self::Status { .. }
            | Self::Lookup { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::NoResponse { .. }
            | Self::BrokenOff { .. }
            | Self::Protocol { .. }
            | Self::TooSlow { .. }
            | Self::Deadline { .. }
            | Self::Cancelled
            | Self::NoRoom { .. }
            | Self::Host { .. } => Reason::DownloadFailed,
        }
    }

    /// Whether our own host is at fault, which never costs a record.
    pub fn is_host_fault(&self) -> bool {
        matches!(self, Self::Host { .. } | Self::NoRoom { .. })
    }

    /// Whether the caller itself ended the download.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// Whether the server has said it, on a connection that does its work.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::NotFound { .. })
    }

    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Refused(_)
            | Self::AddressRefused { .. }
            | Self::AnnouncedTooLarge { .. }
            | Self::DeclaredTooLarge { .. }
            | Self::BodyTooLarge { .. }
            | Self::Expired { .. }
            | Self::Redirect { .. }
            | Self::Deadline { .. }
            | Self::Cancelled
            | Self::NoRoom { .. }
            | Self::Host { .. } => Retry::Never,
            Self::NotFound { .. } => Retry::Once,
            Self::Status { status, .. } => match status {
                408 | 425 | 429 | 500..=599 => Retry::Yes,
                _ => Retry::Never,
            },
            Self::Lookup { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. }
            | Self::NoResponse { .. }
            | Self::BrokenOff { .. }
            | Self::Protocol { .. }
            | Self::TooSlow { .. } => Retry::Yes,
        }
    }
}

/// Whether this is a fault of our own host rather than of the other side: out of descriptors or
/// memory. Any error of our own disk is one too, whatever its number.
pub(super) fn is_host_errno(error: &io::Error) -> bool {
    // ENOMEM, ENFILE, EMFILE, ENOSPC, EROFS, ENOBUFS, EDQUOT; numbers of Linux.
    const NUMBERS: [i32; 7] = [12, 23, 24, 28, 30, 105, 122];
    error.kind() == io::ErrorKind::OutOfMemory
        || error
            .raw_os_error()
            .is_some_and(|number| NUMBERS.contains(&number))
}
