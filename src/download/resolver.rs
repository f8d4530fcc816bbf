//! Names to addresses, under the policy.
//!
//! One lookup per attempt, and the client is handed the addresses that were judged: it never looks
//! a name up itself, so that a second answer of the name server changes nothing.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::budget::Budget;
use super::error::is_host_errno;
use super::policy::{Host, Policy, Target};

/// Looks up the addresses of a name, like `getaddrinfo`.
pub type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Lookups at once, each with a thread and a descriptor. One that hangs outlives its attempt, and
/// the next attempt would begin another.
pub(super) const MAX_LOOKUPS: u64 = 32;
/// The client connects to the first that answers; more are not kept.
const MAX_ADDRESSES: usize = 16;

/// The system's lookup.
pub(super) fn system_lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match (host, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        // Without a free descriptor the C library says "no such name". Ask for one ourselves, so
        // that a fault of our host is not blamed on the record.
        Err(error) => match UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            Err(own) if is_host_errno(&own) => Err(own),
            _ => Err(error),
        },
    }
}

/// What the client is told instead of addresses. Travels through it in `ureq::Error::Other`.
#[derive(Debug)]
pub(super) enum NoAddress {
    /// The text of the URL is not allowed. Cannot happen: it was checked before.
    Refused,
    /// Addresses, but none that is allowed.
    NotAllowed,
    Failed(io::Error),
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the URL is not allowed",
            Self::NotAllowed => "no address is allowed",
            Self::Failed(_) => "the lookup failed",
        })
    }
}

impl std::error::Error for NoAddress {}

impl From<NoAddress> for ureq::Error {
    fn from(error: NoAddress) -> Self {
        Self::Other(Box::new(error))
    }
}

/// The lookup under the policy, as the client calls it.
pub(super) struct CheckedResolver {
    pub(super) policy: Arc<Policy>,
    pub(super) lookup: Arc<Lookup>,
    /// Not of bytes, but of lookups.
    pub(super) lookups: Arc<Budget>,
}

impl fmt::Debug for CheckedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedResolver").finish_non_exhaustive()
    }
}

impl Resolver for CheckedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        // Judged once more, so that no way through the client leads around the policy.
        let target = self
            .policy
            .check(&uri.to_string())
            .map_err(|_| NoAddress::Refused)?;
        let found = match &target.host {
            Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
            // As written: with a trailing dot the system's search list is left out.
            Host::Name(name) => self.look_up(uri.host().unwrap_or(name), &target, timeout)?,
        };
        if found.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        let mut allowed = self.empty();
        for address in found
            .iter()
            .filter(|found| self.policy.allows(found.ip()))
            .take(MAX_ADDRESSES)
        {
            allowed.push(*address);
        }
        if allowed.is_empty() {
            return Err(NoAddress::NotAllowed.into());
        }
        Ok(allowed)
    }
}

impl CheckedResolver {
    /// On a thread of its own: the C library has no time limit. A thread that is left behind ends
    /// with its lookup, which the system's resolver bounds.
    fn look_up(
        &self,
        name: &str,
        target: &Target,
        timeout: NextTimeout,
    ) -> Result<Vec<SocketAddr>, ureq::Error> {
        let (limit, start) = (*timeout.after, Instant::now());
        let left = || limit.saturating_sub(start.elapsed());
        let Some(slot) = self.lookups.reserve(1, &|| left().is_zero()) else {
            return Err(ureq::Error::Timeout(timeout.reason));
        };
        let (sender, receiver) = mpsc::sync_channel(1);
        let lookup = Arc::clone(&self.lookup);
        let (name, port) = (name.to_owned(), target.port);
        thread::Builder::new()
            .name("lookup".to_owned())
            .spawn(move || {
                // Nobody listens any more when the time is up.
                let _ = sender.send(lookup(&name, port));
                drop(slot);
            })
            .map_err(|error| {
                NoAddress::Failed(io::Error::new(io::ErrorKind::OutOfMemory, error))
            })?;
        match receiver.recv_timeout(left()) {
            Ok(answer) => Ok(answer.map_err(NoAddress::Failed)?),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(ureq::Error::Timeout(timeout.reason)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(NoAddress::Failed(io::Error::other(
                "the lookup ended without an answer",
            ))
            .into()),
        }
    }
}
