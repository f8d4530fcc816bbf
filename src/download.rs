//! Fetches an archive: URL policy, size limit, deadlines, retries.
//!
//! - No URL leads to a host or an address that is not allowed, by whatever notation, and no
//!   redirect is followed. See [`policy`].
//! - Every limit holds while bytes arrive: bytes of the head and of the body, time of a phase, of
//!   all attempts together, minimum rate. Bytes are reserved from the shared [`budget`] before the
//!   body is read.
//! - Path, query and user information are in no error, `Debug` output or log line.
//! - It writes nothing but unnamed files in the directory that it is given. It knows neither
//!   Kafka nor what an archive is.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use time::OffsetDateTime;
use ureq::unversioned::transport::{Connector as _, TcpConnector};
use ureq::{Agent, Timeout, http};

use crate::backoff::{Backoff, sleep_unless};
use crate::signed_url::SignedUrl;
use crate::tls;

mod address;
mod body;
pub mod budget;
mod error;
pub mod policy;
mod rate;
mod resolver;
mod retry_after;
mod transport;

pub use body::{Body, MEMORY_LIMIT};
pub use budget::Budget;
pub use error::{Error, Phase, SetupError};
pub use resolver::Lookup;

use budget::Reservation;
use error::{Retry, is_host_errno};
use policy::{DEFAULT_ALLOWED_URLS, Policy, Target};
use rate::{Rate, WINDOW};
use resolver::{CheckedResolver, MAX_LOOKUPS, NoAddress};
use transport::{Fault, GuardConnector, TlsConnector, is_slice};

/// Largest head of a response in bytes; the client allows 128 header lines besides.
const MAX_HEAD: usize = 32 * 1024;
/// Bytes read from a socket at once. Larger than the head, which the client parses in one piece.
const INPUT_BUFFER: usize = 64 * 1024;
/// Holds a whole request line.
const OUTPUT_BUFFER: usize = 2 * policy::MAX_URL;
/// How much of an error's body is looked at, and for how long at most.
const ERROR_BODY: usize = 4 * 1024;
const ERROR_BODY_TIME: Duration = Duration::from_secs(2);
/// Idle connections kept, over all hosts. There are never more than tasks that downloaded at once.
const MAX_IDLE: usize = 64;
/// Pauses between attempts: 500 ms, doubled up to 10 s, half as long to half as long again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);
const JITTER_PERCENT: u32 = 50;
/// What a phase of an attempt gets at least, however near the deadline is.
const LEAST_PHASE: Duration = Duration::from_secs(1);
/// How long a response is held while there is no room for its body.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the downloader may do. The section `downloader` of the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// Regular expressions, each matched in full against `scheme://host[:port]/path`.
    pub allowed_urls: Vec<String>,
    /// Lifts the list, for tests; never the check of addresses.
    pub allow_unsafe_links: bool,
    /// Networks that are allowed besides globally routable addresses.
    pub allowed_networks: Vec<IpNet>,
    /// Bytes, up to and including.
    pub max_archive_size: u64,
    /// Name lookup; then TCP and TLS together.
    pub connect_timeout: Duration,
    /// From the request to the end of the response's head.
    pub response_timeout: Duration,
    /// All attempts of one record together, pauses included.
    pub deadline: Duration,
    /// Bytes per second over ten seconds; 0 switches the rule off.
    pub min_rate: u64,
    /// How often a download is tried, at least once.
    pub attempts: u32,
    /// PEM file with the only authorities to trust; `None`: the host's store.
    pub ca_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            allowed_urls: DEFAULT_ALLOWED_URLS.map(str::to_owned).to_vec(),
            allow_unsafe_links: false,
            allowed_networks: Vec::new(),
            max_archive_size: 100 * 1024 * 1024,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(120),
            min_rate: 1024,
            attempts: 4,
            ca_file: None,
        }
    }
}

impl Options {
    /// Time limits of one attempt: of lookup and connecting each, of request and response each. The
    /// client starts the clock of one when the one before is over, so towards the deadline they
    /// share what is left of it. No share is shorter than [`LEAST_PHASE`], or nothing would ever
    /// arrive in the last moments.
    fn phases(&self, left: Duration) -> (Duration, Duration) {
        let all = self.connect_timeout.saturating_add(self.response_timeout);
        let all = all.saturating_mul(2);
        let share = |limit: Duration| {
            if all <= left {
                return limit;
            }
            let share = limit.mul_f64(left.as_secs_f64() / all.as_secs_f64());
            share.max(LEAST_PHASE).min(limit).min(left)
        };
        (share(self.connect_timeout), share(self.response_timeout))
    }
}

/// Fetches archives. One for all threads: they share its connections.
#[derive(Debug)]
pub struct Downloader {
    options: Options,
    policy: Arc<Policy>,
    agent: Agent,
    budget: Arc<Budget>,
}

/// An archive that has arrived complete. Its bytes stay reserved until it is dropped.
#[derive(Debug)]
pub struct Download {
    /// The archive.
    pub body: Body,
    /// Its length.
    pub bytes: u64,
    /// How often it was tried, this time included.
    pub attempts: u32,
    /// From the first attempt to the last byte.
    pub duration: Duration,
    /// HTTP status, always 200.
    pub status: u16,
    /// `Content-Type` as the server says, up to what no media type holds and to 100 bytes: a login
    /// page says `text/html`.
    pub content_type: Option<String>,
    _reservation: Reservation,
}

impl Download {
    /// Reads the archive from its start, as often as it is called.
    ///
    /// # Errors
    /// A fault of this host's disk.
    pub fn reader(&mut self) -> io::Result<Box<dyn Read + '_>> {
        self.body.reader()
    }
}

/// A download that ended without an archive.
#[derive(Debug, thiserror::Error)]
#[error("no archive after {attempts} attempts")]
pub struct Failure {
    /// What the last attempt ended with.
    #[source]
    pub error: Error,
    /// How often it was tried; 0 when the URL was refused at once.
    pub attempts: u32,
}

impl Downloader {
    /// Checks the options and loads certificates. No network.
    ///
    /// # Errors
    /// Options that could never work.
    pub fn new(options: Options, budget: Arc<Budget>) -> Result<Self, SetupError> {
        Self::with_lookup(options, budget, Arc::new(resolver::system_lookup))
    }

    /// Like [`new`](Self::new), with a name lookup of one's own. The policy judges its answers
    /// like those of the system.
    ///
    /// # Errors
    /// Options that could never work.
    pub fn with_lookup(
        options: Options,
        budget: Arc<Budget>,
        lookup: Arc<Lookup>,
    ) -> Result<Self, SetupError> {
        let policy = Arc::new(Policy::new(
            &options.allowed_urls,
            options.allow_unsafe_links,
            options.allowed_networks.clone(),
        )?);
        let tls = tls::client(options.ca_file.as_deref(), None)?;
        log::info!("downloads trust {}", tls.trusts);
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("ccx-data-pipeline/", env!("CARGO_PKG_VERSION")))
            // An archive must arrive as it is stored; it is compressed already.
            .accept_encoding("")
            .max_response_header_size(MAX_HEAD)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(MAX_IDLE)
            .max_idle_connections_per_host(MAX_IDLE)
            .build();
        let connector =
            ().chain(TcpConnector::default())
                .chain(TlsConnector(tls.config))
                .chain(GuardConnector);
        let resolver = CheckedResolver {
            policy: Arc::clone(&policy),
            lookup,
            lookups: Arc::new(Budget::new(MAX_LOOKUPS)),
        };
        Ok(Self {
            agent: Agent::with_parts(config, connector, resolver),
            options,
            policy,
            budget,
        })
    }

    /// Bytes that bodies have reserved at the moment.
    pub fn reserved_bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Fetches one archive, in as many attempts as it takes and the options allow.
    ///
    /// `announced` is the size that the message gives: it refuses early and is believed in nothing
    /// else. Bodies over 1 MiB go to an unnamed file in `work_dir`. `cancelled` is asked between
    /// reads and in pauses. `on_retry` is told of each failed attempt that another one follows.
    ///
    /// # Errors
    /// What the last attempt ended with. [`Error::is_host_fault`] and [`Error::is_cancelled`] tell
    /// what is not the fault of record or server; neither is retried here.
    pub fn fetch(
        &self,
        url: &SignedUrl,
        announced: Option<u64>,
        work_dir: &Path,
        cancelled: &dyn Fn() -> bool,
        on_retry: &mut dyn FnMut(&Error),
    ) -> Result<Download, Failure> {
        let start = Instant::now();
        let refused = |error| Failure { error, attempts: 0 };
        let target = self
            .policy
            .check(url.reveal())
            .map_err(|refusal| refused(Error::Refused(refusal)))?;
        let limit = self.options.max_archive_size;
        if let Some(announced) = announced.filter(|announced| *announced > limit) {
            return Err(refused(Error::AnnouncedTooLarge { announced, limit }));
        }
        let task = Task {
            downloader: self,
            target: &target,
            work_dir,
            cancelled,
            start,
            deadline: start + self.options.deadline,
            waited: Cell::default(),
        };
        task.run(on_retry)
    }
}

/// An attempt that failed.
struct Failed {
    error: Error,
    /// What the server asked for in `Retry-After`.
    retry_after: Option<Duration>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            retry_after: None,
        }
    }
}

/// One call of [`Downloader::fetch`].
struct Task<'a> {
    downloader: &'a Downloader,
    target: &'a Target,
    work_dir: &'a Path,
    cancelled: &'a dyn Fn() -> bool,
    start: Instant,
    deadline: Instant,
    /// How long it waited for room in the byte budget.
    waited: Cell<Duration>,
}

impl Task<'_> {
    fn run(&self, on_retry: &mut dyn FnMut(&Error)) -> Result<Download, Failure> {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE, JITTER_PERCENT);
        let mut attempts = 0;
        let mut not_found = 0;
        let mut reconnected = false;
        let mut fresh = false;
        loop {
            attempts += 1;
            let mut outcome = self.attempt(fresh);
            // A server may close an idle connection just as a request is written to it. That is
            // no failure, so it is tried once more without a pause, on a fresh connection.
            if let Err(Failed {
                error: Error::NoResponse { .. },
                ..
            }) = &outcome
                && !reconnected
            {
                reconnected = true;
                outcome = self.attempt(true);
            }
            let failed = match outcome {
                Ok(arrived) => return Ok(self.download(arrived, attempts)),
                Err(failed) => failed,
            };
            let again = match failed.error.retry() {
                Retry::Never => false,
                Retry::Once => {
                    not_found += 1;
                    not_found == 1
                }
                Retry::Yes => true,
            };
            let pause = backoff
                .next_pause()
                .max(failed.retry_after.unwrap_or_default());
            // A pause that the deadline would cut short cannot be followed by an attempt.
            if !again || attempts >= self.downloader.options.attempts || pause >= self.left() {
                return Err(Failure {
                    error: failed.error,
                    attempts,
                });
            }
            // Whatever ended this connection may have ended the idle ones too.
            fresh = !failed.error.is_answer();
            on_retry(&failed.error);
            if !sleep_unless(pause, || (self.cancelled)()) {
                return Err(Failure {
                    error: Error::Cancelled,
                    attempts,
                });
            }
        }
    }

    fn download(&self, arrived: Arrived, attempts: u32) -> Download {
        Download {
            body: arrived.body,
            bytes: arrived.bytes,
            attempts,
            duration: self.start.elapsed(),
            status: arrived.status,
            content_type: arrived.content_type,
            _reservation: arrived.reservation,
        }
    }

    /// One request. `fresh`: not on a connection that was used before.
    fn attempt(&self, fresh: bool) -> Result<Arrived, Failed> {
        let mut reservation = None;
        loop {
            self.check_wanted()?;
            let mut response = self
                .request(fresh)
                .map_err(|error| self.explain(error, 0))?;
            let status = response.status().as_u16();
            if status != 200 {
                return Err(self.refused_by_server(&mut response));
            }
            let content_type = header(&response, http::header::CONTENT_TYPE).map(|value| {
                // No more than a media type: a server may say anything here, even what it was asked.
                let in_a_type = |c: &char| c.is_ascii_alphanumeric() || "/.+-_".contains(*c);
                value.chars().take_while(in_a_type).take(100).collect()
            });
            if !is_framing_known(&response) {
                return Err(Error::Protocol {
                    site: self.site(),
                    what: "its transfer coding is none that was asked for",
                }
                .into());
            }
            let limit = self.downloader.options.max_archive_size;
            let declared = response.body().content_length();
            if let Some(declared) = declared.filter(|declared| *declared > limit) {
                let site = self.site();
                return Err(Error::DeclaredTooLarge {
                    site,
                    declared,
                    limit,
                }
                .into());
            }
            let wanted = declared.unwrap_or(limit);
            let enough = wanted.min(self.downloader.budget.max());
            // Too little goes back before more is waited for: two that each hold a part and wait
            // for the rest would wait for each other.
            let held = reservation.take();
            let held = held.filter(|held: &Reservation| held.bytes() >= enough);
            let held = match held {
                Some(held) => Some(held),
                None => self.reserve(wanted, PATIENCE)?,
            };
            let Some(mut held) = held else {
                // No server waits for ever until it may go on. What it does meanwhile must not
                // become the record's failure, so it is asked again once there is room.
                drop(response);
                let rest = self.reserve(wanted, Duration::MAX)?;
                reservation = Some(rest.ok_or(Error::NoRoom { bytes: wanted })?);
                continue;
            };
            let (body, bytes) = self.read_body(response.into_body(), declared)?;
            held.shrink_to(bytes);
            return Ok(Arrived {
                body,
                bytes,
                status,
                content_type,
                reservation: held,
            });
        }
    }

    /// Sends the request and waits for the head of the response.
    fn request(&self, fresh: bool) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let options = &self.downloader.options;
        let (connect, respond) = options.phases(self.left());
        let request = http::Request::get(self.target.uri.clone()).body(())?;
        let mut configured = self
            .downloader
            .agent
            .configure_request(request)
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_send_request(Some(respond))
            .timeout_recv_response(Some(respond))
            // Never reached: it marks the reads of a body, which the guard cuts into slices.
            .timeout_recv_body(Some(options.deadline + WINDOW));
        if fresh {
            configured = configured.max_idle_age(Duration::ZERO);
        }
        self.downloader.agent.run(configured.build())
    }

    /// Waits for room in the byte budget; `None` when there was none within `patience`. However
    /// often it waits, half of the deadline is left for the download itself.
    fn reserve(&self, bytes: u64, patience: Duration) -> Result<Option<Reservation>, Error> {
        let start = Instant::now();
        let most = self.downloader.options.deadline / 2;
        let most = most.saturating_sub(self.waited.get()).min(self.left());
        let stop = || (self.cancelled)() || start.elapsed() >= most.min(patience);
        let reservation = self.downloader.budget.reserve(bytes, &stop);
        self.waited.set(self.waited.get() + start.elapsed());
        match reservation {
            Some(reservation) => Ok(Some(reservation)),
            None if (self.cancelled)() => Err(Error::Cancelled),
            None if patience < most => Ok(None),
            None => Err(Error::NoRoom { bytes }),
        }
    }

    fn read_body(&self, body: ureq::Body, declared: Option<u64>) -> Result<(Body, u64), Error> {
        let limit = self.downloader.options.max_archive_size;
        let mut reader = body.into_reader();
        let mut kept = Body::new(declared.unwrap_or(0));
        let mut received = 0;
        let mut rate = Rate::new(self.downloader.options.min_rate, Instant::now());
        let mut buffer = vec![0; INPUT_BUFFER];
        loop {
            let amount = match reader.read(&mut buffer) {
                Ok(0) => return Ok((kept, received)),
                Ok(amount) => amount,
                Err(error) => match ureq::Error::from(error) {
                    error if is_slice(&error) => 0,
                    error => return Err(self.explain(error, received)),
                },
            };
            let bytes = amount as u64;
            received += bytes;
            if received > limit {
                return Err(Error::BodyTooLarge {
                    site: self.site(),
                    limit,
                });
            }
            kept.write(&buffer[..amount], self.work_dir)
                .map_err(|source| Error::Host {
                    attempted: "writing the archive to the work directory",
                    source,
                })?;
            self.check_wanted()?;
            rate.add(bytes, Instant::now())
                .map_err(|received| Error::TooSlow {
                    site: self.site(),
                    received,
                    window: WINDOW,
                })?;
        }
    }

    /// What a status other than 200 means.
    fn refused_by_server(&self, response: &mut http::Response<ureq::Body>) -> Failed {
        let retry_after = header(response, http::header::RETRY_AFTER)
            .and_then(|value| retry_after::parse(value, OffsetDateTime::now_utc()));
        let site = self.site();
        let error = match response.status().as_u16() {
            status @ 300..=399 if status != 304 => Error::Redirect { site, status },
            status @ (404 | 410) => {
                self.read_error_body(response);
                Error::NotFound { site, status }
            }
            status => {
                // Read for every status: a connection whose response is read to its end is reused.
                let text = self.read_error_body(response);
                match status {
                    400 | 403 if mentions_expiry(&text) => Error::Expired { site, status },
                    _ => Error::Status { site, status },
                }
            }
        };
        Failed { error, retry_after }
    }

    /// The first bytes of the body of an error; what cannot be read is left out.
    fn read_error_body(&self, response: &mut http::Response<ureq::Body>) -> Vec<u8> {
        let mut text = vec![0; ERROR_BODY];
        let mut filled = 0;
        let end = Instant::now() + ERROR_BODY_TIME.min(self.left());
        let mut reader = response.body_mut().as_reader();
        while filled < text.len() && Instant::now() < end && !(self.cancelled)() {
            match reader.read(&mut text[filled..]) {
                Ok(0) => break,
                Ok(amount) => filled += amount,
                Err(error) => {
                    if !is_slice(&ureq::Error::from(error)) {
                        break;
                    }
                }
            }
        }
        text.truncate(filled);
        text
    }

    /// The client's error in our words. It is not kept: some of its texts hold the whole URL.
    fn explain(&self, error: ureq::Error, received: u64) -> Error {
        let site = self.site();
        match error {
            ureq::Error::Io(source) if is_host_errno(&source) => Error::Host {
                attempted: "opening a connection",
                source,
            },
            ureq::Error::Io(source)
                if received > 0 || source.kind() == io::ErrorKind::UnexpectedEof =>
            {
                Error::BrokenOff {
                    site,
                    received,
                    source,
                }
            }
            ureq::Error::Io(source) => Error::Connect { site, source },
            ureq::Error::Timeout(timeout) => Error::Timeout {
                site,
                phase: match timeout {
                    Timeout::Resolve => Phase::Lookup,
                    Timeout::Connect => Phase::Connect,
                    Timeout::SendRequest => Phase::Send,
                    _ => Phase::Response,
                },
            },
            ureq::Error::HostNotFound => Error::Lookup {
                site,
                source: io::Error::other("the name has no address"),
            },
            ureq::Error::LargeResponseHeader(..) => Error::Protocol {
                site,
                what: "its head is too large",
            },
            ureq::Error::Protocol(_) => Error::Protocol {
                site,
                what: "its head or framing is malformed",
            },
            ureq::Error::Other(inner) => self.explain_ours(inner, received),
            // Nothing else is expected: proxies, redirects, cookies and request bodies are off.
            _ => Error::Protocol {
                site,
                what: "the HTTP client gave up",
            },
        }
    }

    /// Errors of our own resolver and transports, on their way back through the client.
    fn explain_ours(
        &self,
        inner: Box<dyn std::error::Error + Send + Sync>,
        received: u64,
    ) -> Error {
        let site = self.site();
        let inner = match inner.downcast::<Fault>() {
            Ok(fault) => {
                return match *fault {
                    Fault::Tls(source) => Error::Tls { site, source },
                    Fault::NoResponse(source) => Error::NoResponse { site, source },
                    Fault::BrokenOff(source) => Error::BrokenOff {
                        site,
                        received,
                        source,
                    },
                };
            }
            Err(inner) => inner,
        };
        match inner.downcast::<NoAddress>().map(|boxed| *boxed) {
            Ok(NoAddress::Failed(source)) if is_host_errno(&source) => Error::Host {
                attempted: "looking up a name",
                source,
            },
            Ok(NoAddress::Failed(source)) => Error::Lookup { site, source },
            Ok(NoAddress::Refused | NoAddress::NotAllowed) => Error::AddressRefused { site },
            Err(_) => Error::Protocol {
                site,
                what: "the HTTP client gave up",
            },
        }
    }

    fn check_wanted(&self) -> Result<(), Error> {
        if (self.cancelled)() {
            return Err(Error::Cancelled);
        }
        if self.left().is_zero() {
            return Err(Error::Deadline {
                site: self.site(),
                limit: self.downloader.options.deadline,
            });
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn site(&self) -> String {
        self.target.site().to_owned()
    }
}

/// What a successful attempt brings.
struct Arrived {
    body: Body,
    bytes: u64,
    status: u16,
    content_type: Option<String>,
    reservation: Reservation,
}

fn header<B>(response: &http::Response<B>, name: http::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// Chunks are undone by the client. Of every other coding, and of chunks where HTTP knows none, it
/// would hand on the encoded bytes.
fn is_framing_known<B>(response: &http::Response<B>) -> bool {
    let codings = response.headers().get_all(http::header::TRANSFER_ENCODING);
    let mut codings = codings.iter().map(|value| value.as_bytes());
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            coding.eq_ignore_ascii_case(b"chunked") && response.version() == http::Version::HTTP_11
        }
        (Some(_), Some(_)) => false,
    }
}

/// S3 says `Request has expired` for links and `ExpiredToken` for session tokens.
fn mentions_expiry(body: &[u8]) -> bool {
    String::from_utf8_lossy(body)
        .to_ascii_lowercase()
        .contains("expired")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u14_the_phases_of_an_attempt_end_with_the_deadline() {
        let secs = Duration::from_secs;
        let sum = |(connect, respond): (Duration, Duration)| 2 * (connect + respond);
        let mut options = Options::default();
        let configured = (options.connect_timeout, options.response_timeout);
        assert_eq!(options.phases(secs(30)), configured);
        assert_eq!(
            options.phases(secs(15)),
            (configured.0 / 2, configured.1 / 2)
        );
        assert_eq!(options.phases(secs(6)), (secs(1), secs(2)));
        assert_eq!(options.phases(secs(1)), (secs(1), secs(1)));
        options.response_timeout = secs(600);
        for left in [secs(7), secs(120), secs(1200)] {
            assert!(sum(options.phases(left)) <= left + 2 * LEAST_PHASE);
        }
        options.connect_timeout = Duration::from_millis(200);
        assert_eq!(options.phases(secs(1)).0, options.connect_timeout);
    }
}
