//! tiny_http: `/metrics`, `/livez`, `/readyz`, behind a gate that bounds it.
//!
//! ```text
//! client ── gate: ≤ 32 connections, 8 KiB of head, 5 s ── loopback ── tiny_http ── answers
//! ```
//!
//! tiny_http has no limits of its own: it starts a thread for every connection, buffers a request
//! line of any length, and its accept thread ends for good when descriptors run out. The public
//! port is therefore ours. A connection of the gate reads one request under the limits, and hands
//! tiny_http a request written anew, one at a time; the answer is taken whole before the client
//! sees it, so that a slow client holds up nobody. When tiny_http fails it is built again; the
//! public port stays open throughout.
//!
//! When all places are taken, the client that has kept its place for longest without waiting for
//! an answer makes room: whoever opens connections and says nothing does not keep out the probes
//! whose silence would end the process.
//!
//! It reads the metrics and the health it is given and can change neither.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error as ThisError;
use tiny_http::{Header, Method, Request, Response};

use super::health::Health;
use crate::backoff::{Backoff, sleep_unless};

/// Connections at once.
const MAX_CONNECTIONS: usize = 32;
/// How long a newcomer waits for the one that makes room for it.
const MAKING_ROOM: Duration = Duration::from_secs(1);
/// Bytes of request line and headers.
const MAX_HEAD: usize = 8 * 1024;
/// For one connection, from its first to its last byte.
const MAX_TIME: Duration = Duration::from_secs(5);
/// No answer of ours comes near it.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
/// What is still read from a client that was refused: closing a socket with unread bytes resets
/// it, and the refusal would be lost.
const MAX_DRAIN: usize = 256 * 1024;
/// Stack of a connection's thread.
const STACK: usize = 256 * 1024;

/// Why the endpoint cannot start.
#[derive(Debug, ThisError)]
pub enum Error {
    /// Most often: another process has the port.
    #[error("watchers.stats: cannot listen on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// No thread, no loopback port.
    #[error("watchers.stats: cannot start the server behind {address}")]
    Start {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// The running endpoint. Ends on drop.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on `addr` (port 0: one that is free), and answers from threads of its own.
    /// `metrics` makes the text of `/metrics`.
    ///
    /// # Errors
    /// The address cannot be used, or the process can have no more threads or sockets.
    pub fn start(
        addr: SocketAddr,
        metrics: impl Fn() -> String + Send + 'static,
        health: Arc<Health>,
    ) -> Result<Self, Error> {
        let start_error = |source| Error::Start {
            address: addr,
            source,
        };
        let listener = TcpListener::bind(addr).map_err(|source| Error::Listen {
            address: addr,
            source,
        })?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: addr,
            source,
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let first = Backend::open().map_err(start_error)?;
        let backend = Arc::new(Behind {
            address: Mutex::new(first.address),
            broken: AtomicBool::new(false),
        });
        let mut server = Self {
            address,
            stop: Arc::clone(&stop),
            threads: Vec::new(),
        };
        let answers = Answers { metrics, health };
        let serve = {
            let (backend, stop) = (Arc::clone(&backend), Arc::clone(&stop));
            move || serve(first, &answers, &backend, &stop)
        };
        let accept = move || accept(&listener, &backend, &stop);
        server
            .threads
            .push(spawn("endpoint", serve).map_err(start_error)?);
        server
            .threads
            .push(spawn("endpoint-gate", accept).map_err(start_error)?);
        log::info!("metrics and health on http://{address}");
        Ok(server)
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits in `accept`. Without a descriptor for that, it ends with the
        // next connection, and nobody waits for it.
        let woken =
            TcpStream::connect_timeout(&reachable(self.address), Duration::from_secs(1)).is_ok();
        for thread in self.threads.drain(..) {
            if woken {
                // A panic in there was reported when it happened.
                let _ = thread.join();
            }
        }
    }
}

/// Where a listening address can be connected to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

// --- tiny_http -----------------------------------------------------------------------------------

/// Where the gate finds tiny_http.
struct Behind {
    address: Mutex<SocketAddr>,
    /// Set by the gate when nobody answers there.
    broken: AtomicBool,
}

impl Behind {
    fn address(&self) -> MutexGuard<'_, SocketAddr> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// tiny_http on a loopback port of its own.
struct Backend {
    http: tiny_http::Server,
    address: SocketAddr,
}

impl Backend {
    fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        // It panics when the process can have no more threads.
        let open = AssertUnwindSafe(|| tiny_http::Server::from_listener(listener, None));
        match catch_unwind(open) {
            Ok(http) => Ok(Self {
                http: http.map_err(io::Error::other)?,
                address,
            }),
            Err(_) => Err(io::Error::other("tiny_http panicked")),
        }
    }
}

/// Answers requests; builds tiny_http anew whenever it fails.
fn serve<M: Fn() -> String>(
    first: Backend,
    answers: &Answers<M>,
    behind: &Behind,
    stop: &AtomicBool,
) {
    let stopped = || stop.load(Ordering::SeqCst);
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), 20);
    let mut backend = Some(first);
    while !stopped() {
        let Some(open) = backend.take() else {
            sleep_unless(backoff.next_pause(), stopped);
            match Backend::open() {
                Ok(open) => {
                    *behind.address() = open.address;
                    behind.broken.store(false, Ordering::SeqCst);
                    backend = Some(open);
                }
                Err(error) => log::debug!("the endpoint cannot be built again: {error}"),
            }
            continue;
        };
        match open.http.recv_timeout(Duration::from_millis(100)) {
            // A panic in its accept thread reports nothing.
            Ok(None) if behind.broken.load(Ordering::SeqCst) => {
                log::warn!("the endpoint is built again: it does not answer");
            }
            Ok(None) => backend = Some(open),
            Ok(Some(request)) => {
                backoff.reset();
                answers.answer(request);
                backend = Some(open);
            }
            // Its accept thread is gone: descriptors ran out.
            Err(error) => log::warn!("the endpoint is built again: {error}"),
        }
    }
}

/// What is asked of the worker.
struct Answers<M> {
    metrics: M,
    health: Arc<Health>,
}

impl<M: Fn() -> String> Answers<M> {
    fn answer(&self, request: Request) {
        let path = request.url().split('?').next().unwrap_or_default();
        let known = matches!(path, "/metrics" | "/livez" | "/readyz");
        let (status, kind, text) = if !known {
            (404, PLAIN, "not found\n".to_owned())
        } else if *request.method() != Method::Get {
            (405, PLAIN, "only GET\n".to_owned())
        } else {
            match path {
                "/metrics" => match catch_unwind(AssertUnwindSafe(&self.metrics)) {
                    Ok(text) => (200, METRICS, text),
                    Err(_) => (500, PLAIN, "the metrics cannot be written\n".to_owned()),
                },
                "/livez" => state(self.health.live()),
                _ => state(self.health.ready()),
            }
        };
        let mut response = Response::from_string(text)
            .with_status_code(status)
            // A length instead of chunks, however long.
            .with_chunked_threshold(usize::MAX);
        if let Ok(header) = Header::from_bytes("Content-Type", kind) {
            response.add_header(header);
        }
        if status == 405
            && let Ok(header) = Header::from_bytes("Allow", "GET")
        {
            response.add_header(header);
        }
        // The gate may have given up meanwhile.
        let _ = request.respond(response);
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";
/// The text format of Prometheus.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn state(state: Result<(), String>) -> (u16, &'static str, String) {
    match state {
        Ok(()) => (200, PLAIN, "ok\n".to_owned()),
        Err(cause) => {
            // One line, whatever a library put into its message.
            let line: String = cause
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            (503, PLAIN, format!("{line}\n"))
        }
    }
}

// --- the gate ------------------------------------------------------------------------------------

/// Takes connections while there is room for them.
fn accept(listener: &TcpListener, behind: &Arc<Behind>, stop: &AtomicBool) {
    let stopped = || stop.load(Ordering::SeqCst);
    let places = Arc::new(Places::default());
    while !stopped() {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) => {
                // Out of descriptors, most often. The waiting connection stays in the queue, so
                // that trying again at once would spin.
                log::debug!("the endpoint cannot take a connection: {error}");
                sleep_unless(Duration::from_millis(100), stopped);
                continue;
            }
        };
        let Some(place) = places.take(client) else {
            continue;
        };
        let behind = Arc::clone(behind);
        let connection = move || Connection::new(place).run(&behind);
        let thread = thread::Builder::new()
            .name("endpoint-client".to_owned())
            .stack_size(STACK);
        if let Err(error) = thread.spawn(connection) {
            log::debug!("the endpoint cannot serve a connection: {error}");
        }
    }
}

/// The places for connections.
#[derive(Default)]
struct Places {
    /// The oldest first.
    taken: Mutex<Vec<Taken>>,
    given_up: Condvar,
}

struct Taken {
    client: Arc<TcpStream>,
    /// We wait for the client, not the client for us.
    waits_for_client: bool,
}

impl Places {
    /// A place for a client. `None` when all are taken and none of them can be had.
    fn take(self: &Arc<Self>, client: TcpStream) -> Option<Place> {
        let client = Arc::new(client);
        let full = |taken: &mut Vec<Taken>| taken.len() >= MAX_CONNECTIONS;
        let mut taken = self.taken();
        if full(&mut taken) {
            let slow = taken.iter().find(|taken| taken.waits_for_client)?;
            // Ends what its thread waits for, which then gives the place up.
            let _ = slow.client.shutdown(Shutdown::Both);
            let waited = self.given_up.wait_timeout_while(taken, MAKING_ROOM, full);
            (taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if full(&mut taken) {
                return None;
            }
        }
        taken.push(Taken {
            client: Arc::clone(&client),
            waits_for_client: true,
        });
        drop(taken);
        Some(Place {
            places: Arc::clone(self),
            client,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the places, and the client that has it.
struct Place {
    places: Arc<Places>,
    client: Arc<TcpStream>,
}

impl Place {
    fn waits_for_client(&self, waits: bool) {
        let mut taken = self.places.taken();
        let own = taken
            .iter_mut()
            .find(|taken| Arc::ptr_eq(&taken.client, &self.client));
        if let Some(own) = own {
            own.waits_for_client = waits;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.retain(|taken| !Arc::ptr_eq(&taken.client, &self.client));
        drop(taken);
        self.places.given_up.notify_one();
    }
}

/// One connection of a client.
struct Connection {
    place: Place,
    end: Instant,
}

impl Connection {
    fn new(place: Place) -> Self {
        Self {
            place,
            end: Instant::now() + MAX_TIME,
        }
    }

    fn client(&self) -> &TcpStream {
        &self.place.client
    }

    /// One request, one answer. Whatever fails, the client sees the connection close.
    fn run(self, behind: &Behind) {
        let outcome = match self.read_head() {
            Ok(Some(head)) => match RequestLine::parse(&head) {
                Some(request) => {
                    self.place.waits_for_client(false);
                    let answer = self.ask(behind, &request);
                    self.place.waits_for_client(true);
                    match answer {
                        Ok(answer) => self.write(&answer),
                        Err(_) => self.refuse("503 Service Unavailable"),
                    }
                }
                None => self.refuse("400 Bad Request"),
            },
            Ok(None) => self.refuse("431 Request Header Fields Too Large"),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            log::trace!("a client of the endpoint: {error}");
        }
    }

    /// The bytes up to the empty line. `None`: more than the limit.
    fn read_head(&self) -> io::Result<Option<Vec<u8>>> {
        let mut head = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let room = chunk.len().min(MAX_HEAD - head.len());
            if room == 0 {
                return Ok(None);
            }
            self.client().set_read_timeout(Some(self.left()?))?;
            let amount = match self.client().read(&mut chunk[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(amount) => amount,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            // The end may lie across two reads.
            let seen = head.len().saturating_sub(3);
            head.extend_from_slice(&chunk[..amount]);
            let ended = |end: &[u8]| head[seen..].windows(end.len()).any(|window| window == end);
            if ended(b"\r\n\r\n") || ended(b"\n\n") {
                return Ok(Some(head));
            }
        }
    }

    /// Has tiny_http answer. One request at a time: it never has more than one connection.
    fn ask(&self, behind: &Behind, request: &RequestLine) -> io::Result<Vec<u8>> {
        let address = behind.address();
        let left = self.left()?;
        let mut server = TcpStream::connect_timeout(&address, left)
            .inspect_err(|_| behind.broken.store(true, Ordering::SeqCst))?;
        let RequestLine {
            method,
            target,
            version,
        } = request;
        let line =
            format!("{method} {target} {version}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        server.set_write_timeout(Some(self.left()?))?;
        server.write_all(line.as_bytes())?;
        server.set_read_timeout(Some(self.left()?))?;
        let mut answer = Vec::new();
        server.take(MAX_ANSWER).read_to_end(&mut answer)?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }

    fn refuse(&self, status: &str) -> io::Result<()> {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.write(answer.as_bytes())?;
        let mut drained = 0;
        let mut chunk = [0; 4096];
        while drained < MAX_DRAIN {
            self.client().set_read_timeout(Some(self.left()?))?;
            match self.client().read(&mut chunk)? {
                0 => break,
                amount => drained += amount,
            }
        }
        Ok(())
    }

    fn write(&self, mut answer: &[u8]) -> io::Result<()> {
        // Not `write_all`: its time limit would start anew with every part that is taken.
        while !answer.is_empty() {
            self.client().set_write_timeout(Some(self.left()?))?;
            match self.client().write(answer) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(amount) => answer = &answer[amount..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.client().shutdown(Shutdown::Write)
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left)
        }
    }
}

/// What is handed on of a request. Headers and body are not: no answer depends on them.
#[derive(Debug, PartialEq, Eq)]
struct RequestLine {
    method: String,
    target: String,
    /// Of HTTP/1.0, the answer must not come in chunks.
    version: String,
}

impl RequestLine {
    fn parse(head: &[u8]) -> Option<Self> {
        let line = head.split(|byte| *byte == b'\n').next()?;
        let line = str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
        let mut parts = line.split(' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
        // The form for proxies, which servers have to take as well; whom it names does not matter.
        let target = match target.strip_prefix("http://") {
            Some(rest) => rest.find('/').map_or("/", |path| &rest[path..]),
            None => target,
        };
        let sound = parts.next().is_none()
            && matches!(version, "HTTP/1.0" | "HTTP/1.1")
            && (1..=16).contains(&method.len())
            && method.bytes().all(|byte| byte.is_ascii_uppercase())
            && target.starts_with('/')
            && target.bytes().all(|byte| byte.is_ascii_graphic());
        sound.then(|| Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_request_lines_are_handed_on() {
        let parsed = RequestLine::parse(b"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(
            (parsed.method.as_str(), parsed.target.as_str()),
            ("GET", "/metrics?a=b")
        );
        assert!(RequestLine::parse(b"GET / HTTP/1.0\n\n").is_some());
        for (form, target) in [("http://x:80/livez", "/livez"), ("http://x", "/")] {
            let head = format!("GET {form} HTTP/1.1\r\n\r\n");
            let parsed = RequestLine::parse(head.as_bytes()).unwrap();
            assert_eq!(parsed.target, target);
        }
        for head in [
            &b""[..],
            b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET / HTTP/1.1 x\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"get / HTTP/1.1\r\n\r\n",
            b"GET metrics HTTP/1.1\r\n\r\n",
            b"GET ftp://x/ HTTP/1.1\r\n\r\n",
            b"GET /\x01 HTTP/1.1\r\n\r\n",
            b"GET /\rX: y HTTP/1.1\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n",
            b"ABCDEFGHIJKLMNOPQ / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(RequestLine::parse(head), None, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        for (address, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(
                reachable(address.parse().unwrap()),
                expected.parse().unwrap()
            );
        }
    }
}
