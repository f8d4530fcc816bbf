//! One stream to one broker: TLS, SASL, frames, correlation ids, timeouts.
//!
//! A broker answers the requests of a connection in order and reads no further one meanwhile, so
//! a request that waits at the broker (Fetch, JoinGroup) wants a connection of its own.
//!
//! An answer is gathered as it comes, over as many looks as it takes: one that stops in the middle
//! holds up nobody who has other things to do.
//!
//! Any error that leaves the stream in doubt (time, cut answer, wrong id, undecodable body) marks
//! the connection dead. Nobody tries to find the next frame in a byte stream.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiVersionsRequest, RequestHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};

use super::error::{Code, Error};
use super::options::{ClusterOptions, Sasl};
use super::sasl::Exchange;
use super::stream::{SHORTEST, Stream, WRITE};
use super::versions::{Api, Versions};
use super::wire;
use crate::error::chain;

/// Largest fetch answer: the limit that we ask for and, on top, one batch that is over it, which
/// a broker sends whole.
const MAX_FETCH_FRAME: usize = 64 << 20;
/// Largest answer that lists a cluster or a group.
const MAX_LIST_FRAME: usize = 16 << 20;
/// Largest other answer.
const MAX_FRAME: usize = 1 << 20;
/// A frame of unknown truth is reserved for in steps.
const CHUNK: usize = 256 << 10;
/// What is taken off the stream at once.
const PIECE: usize = 64 << 10;
/// For the rest of an answer that has begun, and a second for each MiB on top.
const REST: Duration = Duration::from_secs(10);
/// Longest time for what is there already: a fast peer must not hold up others either.
const TURN: Duration = Duration::from_millis(50);
/// What counts at most of the time between two looks: who does not look keeps the peer waiting.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// Longest pause that a broker may impose.
const MAX_THROTTLE: Duration = Duration::from_secs(30);

/// Limits for making a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// For each address that the name resolves to.
    pub(super) connect: Duration,
    /// For everything between connecting and the first request of ours.
    pub(super) setup: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            setup: Duration::from_secs(10),
        }
    }
}

/// A request whose answer is still to come.
#[derive(Debug)]
struct Pending {
    correlation: i32,
    key: i16,
    version: i16,
}

/// An answer, as far as it has come.
#[derive(Debug, Default)]
struct Incoming {
    /// Its length and what is behind it.
    bytes: Vec<u8>,
    /// When the first byte was taken; later by the time in which nobody has looked.
    began: Option<Instant>,
    /// When somebody looked last.
    looked: Option<Instant>,
    /// What ended the stream in the middle of it.
    broken: Option<io::Error>,
}

impl Incoming {
    /// Bytes that are still to come until the next look, 0 when it is whole.
    ///
    /// # Errors
    /// The announced length, when no answer can have it.
    fn missing(&self, limit: usize) -> Result<usize, [u8; 4]> {
        let Some(announced) = self.bytes.first_chunk() else {
            return Ok(4 - self.bytes.len());
        };
        match usize::try_from(i32::from_be_bytes(*announced)) {
            Ok(length) if (4..=limit).contains(&length) => Ok(4 + length - self.bytes.len()),
            _ => Err(*announced),
        }
    }

    /// Time for the whole of it once it has begun, at most `rest` for the smallest.
    fn allowance(&self, rest: Duration) -> Duration {
        let length = self
            .bytes
            .first_chunk()
            .copied()
            .map_or(0, i32::from_be_bytes);
        let length = u64::try_from(length).unwrap_or(0);
        rest.min(REST) + Duration::from_secs(length >> 20)
    }

    /// Somebody looks again. Records may have been held back by ourselves for long, or the process
    /// was stopped; meanwhile the peer could not go on.
    fn look(&mut self) {
        let now = Instant::now();
        if let (Some(began), Some(looked)) = (&mut self.began, self.looked) {
            *began += (now - looked).saturating_sub(BETWEEN_LOOKS);
        }
        self.looked = Some(now);
    }

    fn is_overdue(&self) -> bool {
        self.began
            .is_some_and(|at| at.elapsed() >= self.allowance(REST))
    }

    /// Takes what one read gives. Memory follows the bytes that arrive, not the length that they
    /// announce.
    fn take(&mut self, stream: &mut Stream, missing: usize, deadline: Instant) -> io::Result<()> {
        let held = self.bytes.len();
        let piece = missing.min(PIECE);
        if self.bytes.capacity() < held + piece {
            // Doubling keeps the copies few; the last step fits exactly.
            self.bytes.reserve_exact(missing.min(held.max(CHUNK)));
        }
        self.bytes.resize(held + piece, 0);
        let outcome = stream.read(&mut self.bytes[held..], deadline);
        self.bytes
            .truncate(held + outcome.as_ref().map_or(0, |taken| *taken));
        match outcome {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                self.began.get_or_insert_with(Instant::now);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A connection whose versions are negotiated.
#[derive(Debug)]
pub(super) struct Connection {
    address: Arc<str>,
    peer: SocketAddr,
    stream: Stream,
    client_id: StrBytes,
    versions: Versions,
    correlation: i32,
    pending: VecDeque<Pending>,
    incoming: Incoming,
    /// Why it is dead.
    dead: Option<Arc<str>>,
    quiet_until: Option<Instant>,
    /// Nothing was answered yet but the versions, and nobody asked who we are.
    unproven: bool,
    /// Before the broker ends our session, which it does with the first request after that.
    expires: Option<Instant>,
}

impl Connection {
    /// Connects to `HOST:PORT`, each of its addresses in turn, asks what the broker speaks and
    /// says who we are.
    ///
    /// The name look-up has no time limit; use [`Connection::open_at`] where that matters.
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Connect`], [`Error::Tls`], [`Error::NotKafka`],
    /// [`Error::Authentication`] and those of any request.
    pub(super) fn open(
        address: &str,
        options: &ClusterOptions,
        timeouts: &Timeouts,
    ) -> Result<Self, Error> {
        let name: Arc<str> = Arc::from(address);
        let resolved = address.to_socket_addrs().map_err(|source| Error::Resolve {
            address: name.clone(),
            source: Arc::new(source),
        })?;
        let mut last = None;
        for peer in resolved {
            match Self::open_at(address, peer, options, timeouts) {
                // Only a peer that cannot be reached makes the next address worth a try.
                Err(error @ Error::Connect { .. }) => last = Some(error),
                outcome => return outcome,
            }
        }
        Err(last.unwrap_or_else(|| Error::Resolve {
            address: name,
            source: Arc::new(io::Error::other("the name has no address")),
        }))
    }

    /// Connects without a name look-up. `address` is what messages call the broker.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub(super) fn open_at(
        address: &str,
        peer: SocketAddr,
        options: &ClusterOptions,
        timeouts: &Timeouts,
    ) -> Result<Self, Error> {
        let address: Arc<str> = Arc::from(address);
        let socket = TcpStream::connect_timeout(&peer, timeouts.connect.max(SHORTEST))
            // A request is written in one piece and then waited for: Nagle only adds delay.
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| Error::Connect {
                address: address.clone(),
                source: Arc::new(source),
            })?;
        let deadline = Instant::now() + timeouts.setup;
        let stream = match &options.security.tls {
            None => Stream::Plain(socket),
            Some(tls) => Stream::secure(socket, &address, tls, deadline)?,
        };
        let mut connection = Self {
            address,
            peer,
            stream,
            client_id: StrBytes::from_string(options.client_id.clone()),
            versions: Versions::default(),
            correlation: 0,
            pending: VecDeque::new(),
            incoming: Incoming::default(),
            dead: None,
            quiet_until: None,
            unproven: false,
            expires: None,
        };
        connection.negotiate(deadline)?;
        match &options.security.sasl {
            Some(sasl) => connection.authenticate(sasl, deadline)?,
            None => connection.unproven = true,
        }
        Ok(connection)
    }

    /// `HOST:PORT` as it was given.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The address that the name stood for.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether an error has ended it. Then every further call fails.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    /// What ended it, with its causes.
    pub(super) fn cause_of_death(&self) -> Option<&Arc<str>> {
        self.dead.as_ref()
    }

    /// Requests sent and not yet answered.
    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// The version that requests of this kind go out with.
    ///
    /// # Errors
    /// [`Error::Version`] when nothing is common; the connection stays usable.
    pub(super) fn version<A: Api>(&self) -> Result<i16, Error> {
        self.versions.pick::<A>(&self.address)
    }

    /// An error for each request of ours that the broker does not speak in any version of ours.
    pub(super) fn gaps(&self) -> Vec<Error> {
        self.versions.gaps(&self.address)
    }

    /// Rest of the pause that the broker asked for, during which nothing is sent.
    pub(super) fn throttled(&self) -> Option<Duration> {
        self.quiet_until
            .map(|end| end.saturating_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Those of [`Connection::send`] and [`Connection::receive`].
    pub(super) fn request<A: Api>(
        &mut self,
        request: &A,
        read_timeout: Duration,
    ) -> Result<A::Response, Error> {
        self.send(request)?;
        self.receive::<A>(read_timeout)
    }

    /// Writes a request. Its answer is read later by [`Connection::receive`], in the same order.
    ///
    /// # Errors
    /// [`Error::Throttled`], [`Error::Expired`], [`Error::Version`] and [`Error::Encode`] before
    /// anything is written; all others end the connection.
    pub(super) fn send<A: Api>(&mut self, request: &A) -> Result<(), Error> {
        self.check_alive(A::NAME)?;
        if let Some(left) = self.throttled() {
            return Err(Error::Throttled {
                address: self.address.clone(),
                left,
            });
        }
        // Behind the answers that are still to come there will be a new connection.
        if self.is_expired() && !self.pending.is_empty() {
            return Err(Error::Expired {
                address: self.address.clone(),
            });
        }
        let version = self.version::<A>()?;
        self.write(A::KEY, A::NAME, version, request)
    }

    /// Whether an answer is there to be received as a whole, or the end of the stream or of the
    /// answer's time. Waits for about `wait` at most.
    pub(super) fn ready(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let latest = Instant::now() + wait.max(TURN);
        loop {
            self.incoming.look();
            if self.is_dead() || self.incoming.broken.is_some() || self.incoming.is_overdue() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            let Some(oldest) = self.pending.front() else {
                // Whatever comes now was not asked for.
                return self.stream.ready(left);
            };
            let missing = match self.incoming.missing(longest(oldest.key)) {
                Ok(0) | Err(_) => return true,
                Ok(missing) => missing,
            };
            if Instant::now() > latest || !self.stream.ready(left) {
                return false;
            }
            // It does not wait, as something is there. A process that was stopped here for a while
            // must not take that for the peer's delay.
            let far = Instant::now() + REST;
            self.incoming.broken = self.incoming.take(&mut self.stream, missing, far).err();
        }
    }

    /// The answer to the oldest question, asked at `asked`, if it is there; waits for it for at
    /// most `wait`. It has to begin within `patience`.
    ///
    /// # Errors
    /// Those of [`Connection::receive`].
    pub(super) fn answer<A: Api>(
        &mut self,
        wait: Duration,
        asked: Instant,
        patience: Duration,
    ) -> Option<Result<A::Response, Error>> {
        if self.ready(wait) {
            return Some(self.receive::<A>(REST));
        }
        let waited = asked.elapsed();
        (waited > patience && self.incoming.began.is_none()).then(|| Err(self.give_up::<A>(waited)))
    }

    /// Reads the answer to the oldest request that is still open, which must be an `A`.
    ///
    /// The limit holds for the wait until the answer begins and again for its rest, which has at
    /// most [`REST`], with a second for each MiB on top.
    ///
    /// # Errors
    /// All of them end the connection. A code inside the answer is no error here.
    pub(super) fn receive<A: Api>(&mut self, read_timeout: Duration) -> Result<A::Response, Error> {
        self.check_alive(A::NAME)?;
        let Some(pending) = self.pending.pop_front().filter(|open| open.key == A::KEY) else {
            return Err(self.malformed(A::NAME, "answer without a request".into()));
        };
        let frame = self.read_frame(A::NAME, longest(A::KEY), read_timeout)?;
        let response = wire::answer::<A>(pending.version, pending.correlation, frame);
        match response {
            Ok(response) => {
                self.unproven = false;
                self.throttle(A::throttle(&response));
                Ok(response)
            }
            Err(found) => Err(self.malformed(A::NAME, found)),
        }
    }

    /// Ends it because the answer to its oldest question has not begun after so long.
    pub(super) fn give_up<A: Api>(&mut self, after: Duration) -> Error {
        self.die(Error::Timeout {
            address: self.address.clone(),
            api: A::NAME,
            after: Duration::from_secs(after.as_secs()),
        })
    }

    /// Whether the broker has closed the connection, or sent what nobody asked for, while it was
    /// not used; or the session is about to end. Brokers close idle connections; who asks first
    /// need not fail a request for it.
    pub(super) fn is_stale(&mut self) -> bool {
        !self.is_dead()
            && self.pending.is_empty()
            && (self.is_expired() || self.ready(Duration::ZERO))
    }

    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| Instant::now() >= at)
    }

    /// Since 2.0 a broker answers first and then stops reading: the pause is ours to keep.
    fn throttle(&mut self, millis: i32) {
        self.quiet_until = u64::try_from(millis)
            .ok()
            .filter(|millis| *millis > 0)
            .map(|millis| Instant::now() + Duration::from_millis(millis).min(MAX_THROTTLE));
    }

    fn check_alive(&self, api: &'static str) -> Result<(), Error> {
        if self.is_dead() {
            return Err(Error::Closed {
                address: self.address.clone(),
                api,
            });
        }
        Ok(())
    }

    /// Asks for the versions, in the third version and, where that is refused, in the first.
    fn negotiate(&mut self, deadline: Instant) -> Result<(), Error> {
        const KEY: i16 = 18;
        const NAME: &str = "ApiVersions";
        const UNSUPPORTED_VERSION: i16 = 35;
        for version in [3, 0] {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = StrBytes::from_static_str(env!("CARGO_PKG_NAME"));
                request.client_software_version =
                    StrBytes::from_static_str(env!("CARGO_PKG_VERSION"));
            }
            self.write(KEY, NAME, version, &request)?;
            let sent = self.pending.pop_front().map(|open| open.correlation);
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self
                .read_frame(NAME, MAX_FRAME, left)
                .map_err(|error| match error {
                    Error::Malformed { address, found, .. } => Error::NotKafka { address, found },
                    Error::Closed { address, .. } => Error::NotKafka {
                        address,
                        found: "it closed the connection without an answer".into(),
                    },
                    other => other,
                })?;
            // The header of this answer has no tags, in any version: the peer cannot know yet
            // which ones we speak.
            let mut body = &frame[..];
            let answer = body
                .try_get_i32()
                .map_err(|_| "cut off".to_string())
                .and_then(|correlation| {
                    if Some(correlation) == sent {
                        wire::api_versions(version, body)
                    } else {
                        Err("its first answer is to another request".into())
                    }
                });
            match answer {
                Ok((0, offer)) => {
                    self.versions = Versions::new(offer);
                    return Ok(());
                }
                Ok((UNSUPPORTED_VERSION, _)) if version > 0 => {}
                Ok((code, _)) => {
                    return Err(Error::Refused {
                        address: self.address.clone(),
                        api: NAME,
                        code: Code::try_from_code(code).unwrap_or(Code::Unknown(code)),
                    });
                }
                Err(found) => {
                    return Err(Error::NotKafka {
                        address: self.address.clone(),
                        found,
                    });
                }
            }
        }
        Err(Error::NotKafka {
            address: self.address.clone(),
            found: "it refuses every version of ApiVersions".into(),
        })
    }

    /// Proves to the broker who we are (KIP-43, KIP-152).
    ///
    /// A session has a lifetime where the broker says so (KIP-368). We make a new connection
    /// before it ends instead of proving it again on the old one: the same code, and a connection
    /// is made in milliseconds.
    fn authenticate(&mut self, sasl: &Sasl, deadline: Instant) -> Result<(), Error> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let handshake = SaslHandshakeRequest::default()
            .with_mechanism(StrBytes::from_static_str(sasl.mechanism.name()));
        let answer = self.request(&handshake, left())?;
        match Code::try_from_code(answer.error_code) {
            None => {}
            Some(Code::UnsupportedSaslMechanism) => {
                // Names of mechanisms have no other letters; what has is not worth printing.
                let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                let offered: Vec<&str> = answer
                    .mechanisms
                    .iter()
                    .map(|name| name.as_str())
                    .filter(|name| name.len() <= 20 && name.bytes().all(legal))
                    .take(20)
                    .collect();
                let found = format!("it offers {} only", offered.join(", "));
                return Err(self.unauthenticated(sasl, found));
            }
            Some(Code::IllegalSaslState) => {
                return Err(self.unauthenticated(sasl, "its port is one without SASL".into()));
            }
            Some(code) => return Err(self.refused(SaslHandshakeRequest::NAME, code)),
        }
        let (mut exchange, mut message) =
            Exchange::begin(sasl).map_err(|fault| self.unauthenticated(sasl, fault.into()))?;
        loop {
            let request = SaslAuthenticateRequest::default().with_auth_bytes(message.into());
            let answer = self.request(&request, left())?;
            match Code::try_from_code(answer.error_code) {
                None => {}
                Some(Code::SaslAuthenticationFailed) => {
                    let found = "wrong user name or password, or the user has no such credentials";
                    return Err(self.unauthenticated(sasl, found.into()));
                }
                Some(code) => return Err(self.refused(SaslAuthenticateRequest::NAME, code)),
            }
            match exchange.answer(&answer.auth_bytes) {
                Err(fault) => return Err(self.unauthenticated(sasl, fault.into())),
                Ok(Some(next)) => message = next,
                Ok(None) => {
                    debug_assert!(exchange.is_done());
                    let lifetime = u64::try_from(answer.session_lifetime_ms).unwrap_or(0);
                    if lifetime > 0 {
                        // A share, so that short lifetimes leave time too.
                        let usable = Duration::from_millis(lifetime).mul_f64(0.85);
                        self.expires = Instant::now().checked_add(usable);
                    }
                    return Ok(());
                }
            }
        }
    }

    fn unauthenticated(&mut self, sasl: &Sasl, found: String) -> Error {
        self.die(Error::Authentication {
            address: self.address.clone(),
            mechanism: sasl.mechanism.name(),
            found,
            tries: 1,
        })
    }

    fn refused(&mut self, api: &'static str, code: Code) -> Error {
        self.die(Error::Refused {
            address: self.address.clone(),
            api,
            code,
        })
    }

    fn write<M: Encodable + HeaderVersion>(
        &mut self,
        key: i16,
        api: &'static str,
        version: i16,
        request: &M,
    ) -> Result<(), Error> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(self.client_id.clone()));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header
            .encode(&mut frame, M::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|error| Error::Encode {
                api,
                found: format!("{error:#}"),
            })?;
        let length = i32::try_from(frame.len() - 4).map_err(|_| Error::Encode {
            api,
            found: "more than 2 GiB".into(),
        })?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        if let Err(source) = self.stream.write_all(&frame) {
            return Err(self.broken(api, WRITE, source));
        }
        self.pending.push_back(Pending {
            correlation: self.correlation,
            key,
            version,
        });
        Ok(())
    }

    /// Reads one frame, what has been gathered of it included, without its length.
    fn read_frame(
        &mut self,
        api: &'static str,
        limit: usize,
        timeout: Duration,
    ) -> Result<Bytes, Error> {
        self.incoming.look();
        let begins = Instant::now() + timeout;
        loop {
            let missing = match self.incoming.missing(limit) {
                Ok(0) => break,
                Ok(missing) => missing,
                Err(announced) => return Err(self.malformed(api, wire::no_frame(announced))),
            };
            let (deadline, within) = match self.incoming.began {
                None => (begins, timeout),
                Some(began) => {
                    let rest = self.incoming.allowance(timeout);
                    (began + rest, rest)
                }
            };
            let outcome = match self.incoming.broken.take() {
                Some(broken) => Err(broken),
                None => self.incoming.take(&mut self.stream, missing, deadline),
            };
            outcome.map_err(|source| self.broken(api, within, source))?;
        }
        let frame = std::mem::take(&mut self.incoming).bytes;
        Ok(Bytes::from(frame).split_off(4))
    }

    fn broken(&mut self, api: &'static str, after: Duration, source: io::Error) -> Error {
        let address = self.address.clone();
        let error = match source.kind() {
            // A socket whose time is over says "would block" on Unix.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout {
                address,
                api,
                after,
            },
            ErrorKind::UnexpectedEof if self.unproven => Error::Unwelcome { address, api },
            ErrorKind::UnexpectedEof => Error::Closed { address, api },
            _ if source
                .get_ref()
                .is_some_and(|cause| cause.is::<rustls::Error>()) =>
            {
                Error::Tls {
                    address,
                    source: Arc::new(source),
                }
            }
            _ => Error::Lost {
                address,
                api,
                source: Arc::new(source),
            },
        };
        self.die(error)
    }

    fn malformed(&mut self, api: &'static str, found: String) -> Error {
        self.die(Error::Malformed {
            address: self.address.clone(),
            api,
            found,
        })
    }

    fn die(&mut self, error: Error) -> Error {
        self.dead = Some(chain(&error).into());
        self.pending.clear();
        self.incoming = Incoming::default();
        error
    }
}

/// Longest answer to a request of this kind.
fn longest(key: i16) -> usize {
    match key {
        1 => MAX_FETCH_FRAME,
        3 | 9 | 11 | 14 => MAX_LIST_FRAME,
        _ => MAX_FRAME,
    }
}

#[cfg(test)]
mod tests;
