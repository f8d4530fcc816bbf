//! What stands between the HTTP client and the socket: TLS with our own configuration, and a
//! guard that tells apart what the client lumps together.
//!
//! - TLS: the client's own connector takes certificates only, so that the compiled-in roots need a
//!   feature that pulls them in twice, and builds its configuration anew for every connection whose
//!   request has time limits of its own. Ours holds one configuration for all.
//! - [`Guard`]: the client does not say whether the peer ended the connection before or inside a
//!   response, and takes a reset inside a body without a length for its end.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::Timeout;
use ureq::unversioned::transport::time::{Duration as Span, Instant as Moment};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

/// How long reading a body takes, whether bytes come or not, before the reader may look at clocks
/// and cancellation: the client itself reads on through trailers and the like without end.
const SLICE: Duration = Duration::from_millis(200);

/// Errors of this room, which travel through the client in `ureq::Error::Other`.
#[derive(Debug)]
pub(super) enum Fault {
    /// TLS, from the first byte of the handshake on.
    Tls(io::Error),
    /// The connection ended before the first byte of a response.
    NoResponse(io::Error),
    /// The connection was reset, or ended without TLS saying so, inside a body.
    BrokenOff(io::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls(_) => "TLS failed",
            Self::NoResponse(_) => "no response",
            Self::BrokenOff(_) => "broken off",
        })
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for ureq::Error {
    fn from(fault: Fault) -> Self {
        Self::Other(Box::new(fault))
    }
}

/// Wraps a connection into TLS when the URL asks for it.
pub(super) struct TlsConnector(pub(super) Arc<ClientConfig>);

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsConnector").finish()
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let invalid =
            |error: Box<dyn std::error::Error + Send + Sync>| Fault::Tls(io::Error::other(error));
        let host = details.uri.host().unwrap_or_default();
        let bare = host.trim_matches(['[', ']']).trim_end_matches('.');
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| invalid(error.into()))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name)
            .map_err(|error| invalid(error.into()))?;
        let mut socket = TransportAdapter::new(transport, Arc::clone(&details.current_time));
        socket.set_timeout(left_of(details));
        connection
            .complete_io(&mut socket)
            .map_err(handshake_error)?;
        let config = details.config;
        Ok(Some(Either::B(TlsTransport {
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            stream: StreamOwned::new(connection, socket),
        })))
    }
}

/// What is left of the time to connect, after TCP has had its part.
fn left_of(details: &ConnectionDetails) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Span::Exact(limit), Moment::Exact(start), Moment::Exact(now)) =
        (timeout.after, details.now, (details.current_time)())
    {
        timeout.after = Span::Exact(limit.saturating_sub(now.saturating_duration_since(start)));
    }
    timeout
}

/// What the system reports, such as a reset, is the network's doing; anything else, also an end of
/// file, which is how a server without TLS takes leave, is a failed handshake.
fn handshake_error(error: io::Error) -> ureq::Error {
    let from_client = error
        .get_ref()
        .is_some_and(|inner| inner.is::<ureq::Error>());
    if from_client || error.raw_os_error().is_some() {
        error.into()
    } else {
        Fault::Tls(error).into()
    }
}

/// A TLS connection.
pub(super) struct TlsTransport<In: Transport> {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter<In>>,
}

impl<In: Transport> fmt::Debug for TlsTransport<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsTransport").finish()
    }
}

impl<In: Transport> Transport for TlsTransport<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream
            .write_all(output)
            .and_then(|()| self.stream.flush())
            .map_err(record_error)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input).map_err(record_error)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// The client looks for bytes behind an answer in our buffer and, by this, on the socket. Those
    /// that have left the socket and are not decrypted, or not handed on, lie between the two.
    fn is_open(&mut self) -> bool {
        let all_handed_on = self.stream.conn.wants_read();
        let socket = self.stream.get_mut().get_mut();
        all_handed_on && socket.buffers().input().is_empty() && socket.is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// An alert or a record that cannot be decrypted, behind the handshake.
fn record_error(error: io::Error) -> ureq::Error {
    let from_tls = error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    if from_tls {
        Fault::Tls(error).into()
    } else {
        error.into()
    }
}

/// Puts a [`Guard`] around every connection.
#[derive(Debug)]
pub(super) struct GuardConnector;

impl<In: Transport> Connector<In> for GuardConnector {
    type Out = Guard<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|inner| Guard {
            inner,
            answered: false,
            slice_end: None,
        }))
    }
}

/// The outermost layer of a connection.
#[derive(Debug)]
pub(super) struct Guard<In: Transport> {
    inner: In,
    /// Whether a byte has come since the last request was written.
    answered: bool,
    /// When the reader of a body gets its say.
    slice_end: Option<Instant>,
}

impl<In: Transport> Guard<In> {
    fn explain(&self, error: ureq::Error) -> ureq::Error {
        match error {
            ureq::Error::Io(source) if is_end(&source) => match self.answered {
                false => Fault::NoResponse(source).into(),
                true => Fault::BrokenOff(source).into(),
            },
            other => other,
        }
    }
}

impl<In: Transport> Transport for Guard<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.answered = false;
        self.slice_end = None;
        self.inner
            .transmit_output(amount, timeout)
            .map_err(|error| self.explain(error))
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if timeout.reason == Timeout::RecvBody {
            let now = Instant::now();
            let left = self
                .slice_end
                .get_or_insert(now + SLICE)
                .saturating_duration_since(now);
            if left.is_zero() {
                self.slice_end = None;
                return Err(ureq::Error::Timeout(Timeout::PerRead));
            }
            if *timeout.after > left {
                timeout.after = Span::Exact(left);
                timeout.reason = Timeout::PerRead;
            }
        }
        let progress = self
            .inner
            .await_input(timeout)
            .map_err(|error| self.explain(error))?;
        if !progress && !self.answered {
            return Err(Fault::NoResponse(io::ErrorKind::UnexpectedEof.into()).into());
        }
        self.answered |= progress;
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// Whether the peer ended the connection.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// Whether a read came back only to let the reader look at its clocks.
pub(super) fn is_slice(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Timeout(Timeout::PerRead))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u23_what_the_system_reports_is_not_the_fault_of_tls() {
        // EPIPE, ENETUNREACH, ECONNRESET, ENOBUFS, EHOSTUNREACH; numbers of Linux.
        for number in [32, 101, 104, 105, 113] {
            let error = handshake_error(io::Error::from_raw_os_error(number));
            assert!(matches!(error, ureq::Error::Io(_)), "{number}: {error:?}");
        }
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        for source in [
            io::ErrorKind::UnexpectedEof.into(),
            io::Error::new(io::ErrorKind::InvalidData, untrusted),
        ] {
            let error = handshake_error(source);
            assert!(matches!(error, ureq::Error::Other(_)), "{error:?}");
        }
        let late = ureq::Error::Timeout(Timeout::Connect).into_io();
        let late = handshake_error(late);
        assert!(matches!(late, ureq::Error::Timeout(_)), "{late:?}");
    }
}
