//! What a failure is called and whose fault it is.
//!
//! Every stage error answers [`Reason`]; the words are the same in metrics, logs, dead-letter
//! headers and watchers.

use std::error::Error;
use std::fmt::Write as _;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $class:ident;)*) => {
        /// Why a record was not published.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, for label sets that exist from the start.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The fixed word.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $word,)* }
            }

            /// Whose fault it is.
            pub fn class(self) -> Class {
                match self { $(Reason::$variant => Class::$class,)* }
            }
        }
    };
}

/// Whose fault a failure is, which decides what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The record or what it announces: dead letter at once.
    Input,
    /// The other side, which may recover: dead letter after the stage's own retries.
    Remote,
    /// Not a failure: the record is not for us.
    Skip,
}

reasons! {
    /// Null or empty value.
    MessageEmpty = "message_empty", Input;
    /// Not one JSON document.
    MessageJson = "message_json", Input;
    /// Not an object, or a needed field is missing or of another type.
    MessageSchema = "message_schema", Input;
    /// The identity is not BASE64 of JSON with an organisation.
    Identity = "identity", Input;
    /// The organisation is no 32-bit number.
    OrgId = "org_id", Input;
    /// Not RFC 3339.
    Timestamp = "timestamp", Input;
    /// The URL policy refuses it.
    UrlRefused = "url_refused", Input;
    /// The presigned link is over its time.
    UrlExpired = "url_expired", Input;
    /// The object is not there.
    NotFound = "not_found", Input;
    /// The server wants to send us elsewhere.
    HttpRedirect = "http_redirect", Input;
    /// TLS handshake or certificate.
    Tls = "tls", Remote;
    /// Network, server or rate.
    DownloadFailed = "download_failed", Remote;
    /// No byte or no member.
    ArchiveEmpty = "archive_empty", Input;
    /// The first bytes are neither gzip nor tar.
    NotAnArchive = "not_an_archive", Input;
    /// An archive, but of a kind that is not read.
    UnsupportedContainer = "unsupported_container", Input;
    /// Damaged or cut.
    ArchiveCorrupt = "archive_corrupt", Input;
    /// Body, announced or unpacked size over its limit.
    ArchiveTooLarge = "archive_too_large", Input;
    /// Too many members.
    ArchiveEntries = "archive_entries", Input;
    /// Inflates too much.
    ArchiveRatio = "archive_ratio", Input;
    /// A name that leads out of the archive, or is out of bounds.
    ArchiveUnsafe = "archive_unsafe", Input;
    /// No cluster id anywhere.
    ClusterId = "cluster_id", Input;
    /// The broker refuses the result for its size, or it is larger than any broker takes.
    ReportTooLarge = "report_too_large", Input;
    /// The archive's deadline is spent.
    Timeout = "timeout", Input;
    /// In work at too many crashes of the process in a row.
    CrashLoop = "crash_loop", Input;
    /// A panic or broken invariant of ours.
    Internal = "internal", Input;
    /// The record is for another service.
    OtherService = "other_service", Skip;
    /// The record is older than the configured age.
    TooOld = "too_old", Skip;
}

/// Writes an error and its causes on one line, `what: why: why`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        // Writing to a String cannot fail.
        let _ = write!(line, ": {next}");
        cause = next.source();
    }
    line
}
