//! Addresses behind which no broker is.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

/// A machine that is gone: nothing comes back, not even a refusal.
///
/// A listener whose queue is full: the kernel drops what else wants in.
pub struct BlackHole {
    address: SocketAddr,
    _held: (std::os::fd::OwnedFd, Vec<std::os::fd::OwnedFd>),
}

impl BlackHole {
    pub fn open() -> Self {
        use rustix::fs::{OFlags, fcntl_setfl};
        let stream = || socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let listener = stream();
        bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let fill = (0..4).map(|_| {
            let client = stream();
            fcntl_setfl(&client, OFlags::NONBLOCK).unwrap();
            // Under way, or in the queue; which of the two does not matter.
            let _ = rustix::net::connect(&client, &address);
            client
        });
        let fill = fill.collect();
        Self {
            address,
            _held: (listener, fill),
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

/// A peer that closes every connection, and counts them.
pub struct Closing {
    address: SocketAddr,
    shared: Arc<(AtomicBool, AtomicUsize)>,
    thread: Option<JoinHandle<()>>,
}

impl Closing {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new((AtomicBool::new(false), AtomicUsize::new(0)));
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.0.load(Ordering::SeqCst) {
                        break;
                    }
                    shared.1.fetch_add(1, Ordering::SeqCst);
                    drop(stream);
                }
            })
        };
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How often somebody came.
    pub fn visits(&self) -> usize {
        self.shared.1.load(Ordering::SeqCst)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.shared.0.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
