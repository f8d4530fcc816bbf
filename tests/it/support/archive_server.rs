//! An HTTP server that answers as it is told, path by path and request by request.
//!
//! Written on a plain socket, since what it must do best is break the rules: stop in the middle,
//! lie about lengths, send nothing, send too much, go away. Every thread ends when the server is
//! dropped.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ccx_data_pipeline::backoff::sleep_unless;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the server does with one request.
#[derive(Debug, Clone)]
pub struct Reply {
    steps: Vec<Step>,
    end: End,
}

#[derive(Debug, Clone)]
enum Step {
    /// Nothing until the gate opens.
    Hold(Gate),
    Send(Vec<u8>),
    /// One byte after each pause.
    Trickle(Vec<u8>, Duration),
    /// The same bytes again and again, until the client goes away.
    Endless(Vec<u8>),
    /// Nothing, until the client goes away.
    Stall,
}

/// What becomes of the connection behind the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Keep,
    Close,
    Reset,
    /// Looks alive, and is closed when the next request arrives.
    Stale,
    /// Looks alive, and never answers again.
    Deaf,
}

/// Holds replies back until a test opens it.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Lets everything through that waits behind it or comes later.
    pub fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Reply {
    /// 200 with a length.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, &[], body)
    }

    /// Any status, with a length.
    pub fn status(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let mut head = format!(
            "HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        Self::raw(head).then_send(body)
    }

    /// 200 in chunks of the given sizes.
    pub fn chunked(chunks: &[Vec<u8>]) -> Self {
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        Self::raw(bytes)
    }

    /// Any bytes at all.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            steps: vec![Step::Send(bytes.into())],
            end: End::Keep,
        }
    }

    /// Nothing at all.
    pub fn nothing() -> Self {
        Self {
            steps: Vec::new(),
            end: End::Keep,
        }
    }

    /// Comes only once the gate is open.
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.steps.insert(0, Step::Hold(gate.clone()));
        self
    }

    pub fn then_send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Send(bytes.into()));
        self
    }

    pub fn then_trickle(mut self, bytes: impl Into<Vec<u8>>, pause: Duration) -> Self {
        self.steps.push(Step::Trickle(bytes.into(), pause));
        self
    }

    pub fn then_endless(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Endless(bytes.into()));
        self
    }

    pub fn then_stall(mut self) -> Self {
        self.steps.push(Step::Stall);
        self
    }

    pub fn then_close(mut self) -> Self {
        self.end = End::Close;
        self
    }

    /// Over plain HTTP the client sees a reset.
    pub fn then_reset(mut self) -> Self {
        self.end = End::Reset;
        self
    }

    pub fn then_stale(mut self) -> Self {
        self.end = End::Stale;
        self
    }

    pub fn then_deaf(mut self) -> Self {
        self.end = End::Deaf;
        self
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    scripts: Mutex<HashMap<String, Script>>,
    heads: Mutex<Vec<String>>,
    connections: AtomicUsize,
    /// A second handle of each open connection, to end it from outside.
    open: Mutex<HashMap<usize, TcpStream>>,
}

struct Script {
    replies: Vec<Reply>,
    requests: usize,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The reply whose turn it is. The last one is repeated; an unknown path is 404.
    fn next_reply(&self, path: &str) -> Reply {
        let mut scripts = self.scripts.lock().unwrap();
        let Some(script) = scripts.get_mut(path) else {
            return Reply::status(404, &[], "<Code>NoSuchKey</Code>");
        };
        let turn = script.requests.min(script.replies.len() - 1);
        script.requests += 1;
        script.replies[turn].clone()
    }
}

pub struct ArchiveServer {
    address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

impl ArchiveServer {
    /// Plain HTTP on a port of the system's choice.
    pub fn start() -> Self {
        Self::run(None)
    }

    pub fn start_tls(config: Arc<ServerConfig>) -> Self {
        Self::run(Some(config))
    }

    fn run(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let is_tls = tls.is_some();
        let accept = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for socket in listener.incoming() {
                    let Ok(socket) = socket else { continue };
                    if shared.stopped() {
                        return;
                    }
                    let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                    let handle = socket.try_clone().unwrap();
                    shared.open.lock().unwrap().insert(number, handle);
                    let (shared, tls) = (Arc::clone(&shared), tls.clone());
                    thread::spawn(move || {
                        // A client that goes away is what many tests are about.
                        let _ = match tls {
                            None => converse(&socket, &shared),
                            Some(config) => {
                                let connection = ServerConnection::new(config).unwrap();
                                converse(StreamOwned::new(connection, &socket), &shared)
                            }
                        };
                        // Only the last handle closes the socket.
                        shared.open.lock().unwrap().remove(&number);
                    });
                }
            })
        };
        Self {
            address,
            tls: is_tls,
            shared,
            accept: Some(accept),
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of a path, by address.
    pub fn url(&self, path: &str) -> String {
        self.url_of("127.0.0.1", path)
    }

    /// The URL of a path, by a name that the test resolves itself.
    pub fn url_of(&self, host: &str, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{host}:{}{path}", self.port())
    }

    /// Answers every request for the path with these bytes.
    pub fn serve(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.script(path, [Reply::ok(body)]);
    }

    /// Answers requests for the path in this order; the last reply is repeated.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies: Vec<_> = replies.into_iter().collect();
        assert!(!replies.is_empty());
        let script = Script {
            replies,
            requests: 0,
        };
        self.shared
            .scripts
            .lock()
            .unwrap()
            .insert(path.to_owned(), script);
    }

    /// How often the path was asked for.
    pub fn requests(&self, path: &str) -> usize {
        self.shared
            .scripts
            .lock()
            .unwrap()
            .get(path)
            .map_or(0, |script| script.requests)
    }

    /// Connections taken so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that neither side has ended.
    pub fn open_connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// The heads of all requests, as they came.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

impl Drop for ArchiveServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
        for (_, socket) in self.shared.open.lock().unwrap().drain() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// One connection: request, reply, and so on. The error of a client that went away ends it.
fn converse(mut stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut stale = false;
    loop {
        let head = read_head(&mut stream)?;
        if stale {
            return Ok(());
        }
        let target = head.split(' ').nth(1).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        shared.heads.lock().unwrap().push(head.clone());
        let reply = shared.next_reply(&path);
        for step in reply.steps {
            play(step, &mut stream, shared)?;
        }
        match reply.end {
            End::Keep => read_last(&mut stream)?,
            End::Close => return read_last(&mut stream),
            // Closing a socket with a byte unread resets it.
            End::Reset => return Ok(()),
            End::Stale => {
                read_last(&mut stream)?;
                stale = true;
            }
            End::Deaf => {
                read_last(&mut stream)?;
                while stream.read(&mut [0; 64])? > 0 {}
                return Ok(());
            }
        }
    }
}

fn play(step: Step, stream: &mut (impl Read + Write), shared: &Shared) -> io::Result<()> {
    match step {
        Step::Hold(gate) => {
            let open = || gate.0.load(Ordering::SeqCst);
            while !open() && sleep_unless(Duration::from_secs(1), || open() || shared.stopped()) {}
            if !open() && shared.stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Step::Send(bytes) => stream.write_all(&bytes)?,
        Step::Trickle(bytes, pause) => {
            for byte in bytes {
                if !sleep_unless(pause, || shared.stopped()) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                stream.write_all(&[byte])?;
                stream.flush()?;
            }
        }
        Step::Endless(bytes) => loop {
            if shared.stopped() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            stream.write_all(&bytes)?;
        },
        Step::Stall => {
            stream.flush()?;
            read_last(stream)?;
            while stream.read(&mut [0; 64])? > 0 {}
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    stream.flush()
}

/// Everything of a head but its last byte, which stays in the socket until [`read_last`].
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn read_last(stream: &mut impl Read) -> io::Result<()> {
    stream.read_exact(&mut [0])
}
