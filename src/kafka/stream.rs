//! The bytes of one connection: plain, or under TLS.
//!
//! Both keep time limits for the whole of what they do, not for each byte of it: a peer that
//! trickles must not hold a thread for longer than one that is silent. With TLS that is why the
//! records are pumped here by hand, where the library's own stream would read on and on.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::error::Error;
use super::options::Tls;

/// `read` treats zero as "wait for ever".
pub(super) const SHORTEST: Duration = Duration::from_millis(1);
/// A peer that takes no byte for so long is gone.
pub(super) const WRITE: Duration = Duration::from_secs(30);

/// A connected stream.
pub(super) enum Stream {
    /// As the socket has it.
    Plain(TcpStream),
    /// Under TLS, behind its handshake.
    Tls(Box<ClientConnection>, TcpStream),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Stream::Plain",
            Self::Tls(..) => "Stream::Tls",
        })
    }
}

impl Stream {
    /// Puts TLS around a socket. The certificate has to be one for the host of `address`.
    ///
    /// # Errors
    /// [`Error::Tls`], which says what stands at the other end where that can be told.
    pub(super) fn secure(
        mut socket: TcpStream,
        address: &str,
        tls: &Tls,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Tls {
            address: address.into(),
            source: source.into(),
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        // The brackets of an IPv6 address and the dot of an absolute name are in no certificate.
        let host = host.trim_matches(['[', ']']).trim_end_matches('.');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| failed(io::Error::other(error)))?;
        let mut connection = ClientConnection::new(tls.config(), name)
            .map_err(|error| failed(io::Error::other(error)))?;
        handshake(&mut connection, &mut socket, deadline).map_err(failed)?;
        Ok(Self::Tls(Box::new(connection), socket))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) | Self::Tls(_, socket) => socket,
        }
    }

    /// Writes all of it.
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.socket().set_write_timeout(Some(WRITE))?;
        match self {
            Self::Plain(socket) => {
                socket.write_all(bytes)?;
                socket.flush()
            }
            Self::Tls(connection, socket) => {
                // It takes at most its buffer at once (64 KiB) and says how much.
                while !bytes.is_empty() {
                    let taken = connection.writer().write(bytes)?;
                    bytes = &bytes[taken..];
                    send_records(connection, socket)?;
                }
                Ok(())
            }
        }
    }

    /// Reads what is there, at least one byte; 0 at the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => {
                patience(socket, deadline)?;
                socket.read(buffer)
            }
            Self::Tls(connection, socket) => loop {
                match connection.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    outcome => return outcome,
                }
                // A look may have found records, or that they are no good.
                let state = connection.process_new_packets().map_err(io::Error::other)?;
                if state.plaintext_bytes_to_read() > 0 {
                    continue;
                }
                patience(socket, deadline)?;
                receive_records(connection, socket)?;
                // A new key of the peer's wants one of ours.
                send_records(connection, socket)?;
            },
        }
    }

    /// Whether there is a byte to read, or the end of the stream, or an error. Waits for at most
    /// `wait` and takes nothing off what [`Stream::read`] gives.
    pub(super) fn ready(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        match self {
            Self::Plain(socket) => waits(look(socket, wait, |socket| {
                socket.peek(&mut [0]).map(|_| ())
            })),
            Self::Tls(connection, socket) => loop {
                // Tickets and keys of the library's own come as records too: only text counts.
                match connection.process_new_packets() {
                    Ok(state) if state.plaintext_bytes_to_read() > 0 => return true,
                    Ok(state) if state.peer_has_closed() => return true,
                    Ok(_) => {}
                    Err(_) => return true,
                }
                let left = until.saturating_duration_since(Instant::now());
                let mut end = false;
                let read = look(socket, left, |mut socket| {
                    end = connection.read_tls(&mut socket)? == 0;
                    Ok(())
                });
                match read {
                    Ok(()) if end => return true,
                    Ok(()) => {}
                    outcome => return waits(outcome),
                }
            },
        }
    }
}

/// Waits on the socket without ever waiting when `wait` is zero.
fn look<'a>(
    socket: &'a TcpStream,
    wait: Duration,
    mut act: impl FnMut(&'a TcpStream) -> io::Result<()>,
) -> io::Result<()> {
    if wait.is_zero() {
        socket.set_nonblocking(true)?;
        let outcome = act(socket);
        socket.set_nonblocking(false).and(outcome)
    } else {
        socket.set_read_timeout(Some(wait.max(SHORTEST)))?;
        act(socket)
    }
}

/// Whether a look found something. Whatever else is wrong shows when it is read.
fn waits(outcome: io::Result<()>) -> bool {
    match outcome {
        Ok(()) => true,
        Err(error) => !matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
        ),
    }
}

/// Limits the next read to what is left.
fn patience(socket: &TcpStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    socket.set_read_timeout(Some(left.max(SHORTEST)))
}

fn send_records(connection: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while connection.wants_write() {
        if connection.write_tls(socket)? == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
    }
    socket.flush()
}

fn receive_records(connection: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    match connection.read_tls(socket) {
        Ok(_) => connection
            .process_new_packets()
            .map(drop)
            .map_err(io::Error::other),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

fn handshake(
    connection: &mut ClientConnection,
    socket: &mut TcpStream,
    deadline: Instant,
) -> io::Result<()> {
    socket.set_write_timeout(Some(WRITE))?;
    let mut greeted = false;
    loop {
        send_records(connection, socket)?;
        if !connection.is_handshaking() {
            return Ok(());
        }
        patience(socket, deadline)?;
        if !std::mem::replace(&mut greeted, true) {
            recognise(socket)?;
        }
        match connection.read_tls(socket) {
            Ok(0) => {
                return Err(io::Error::other(
                    "it closed the connection in the handshake",
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(timely(error)),
        }
        if let Err(error) = connection.process_new_packets() {
            // The alert tells the broker's administrator what we do not like; it may not get there.
            let _ = send_records(connection, socket);
            return Err(io::Error::other(error));
        }
    }
}

/// Looks at the first byte of the answer to our greeting. A peer that speaks something else gets a
/// better name than "corrupt message".
fn recognise(socket: &TcpStream) -> io::Result<()> {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    let mut first = [0; 4];
    let found = match socket.peek(&mut first) {
        Ok(0) => {
            "it closed the connection without an answer to the handshake, as a port without TLS does"
        }
        Ok(_) if matches!(first[0], ALERT | HANDSHAKE) => return Ok(()),
        Ok(_) if first[0] == b'H' => "it answers like an HTTP server without TLS",
        Ok(_) => "it does not answer in TLS",
        Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {
            "it reset the connection in the handshake, as a port without TLS does"
        }
        Err(error) => return Err(timely(error)),
    };
    Err(io::Error::other(found))
}

/// A socket whose time is over says "would block" on Unix, which tells a person nothing.
fn timely(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => io::Error::new(
            ErrorKind::TimedOut,
            "no answer to the handshake, as from a port without TLS",
        ),
        _ => error,
    }
}
