//! Downloads from a server that is told how to behave. Case ids are those of the list of faults.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use ccx_data_pipeline::download::{
    Body, Budget, Download, Downloader, Error, Failure, Lookup, MEMORY_LIMIT, Options, Phase,
    SetupError,
};
use ccx_data_pipeline::error::{Reason, chain};
use ccx_data_pipeline::signed_url::SignedUrl;
use ccx_data_pipeline::tls;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use crate::support::archive_server::{ArchiveServer, Gate, Reply};
use crate::support::authority::Authority;
use crate::support::child::{is_child, limit_descriptors, take_descriptors};

const NAME: &str = "archives.test";

/// Everything that looks like this stands for a secret.
const QUERY: &str = "?X-Amz-Signature=s3cret&X-Amz-Credential=s3cret";

fn options() -> Options {
    Options {
        allowed_urls: vec![format!(r"https?://(127\.0\.0\.1|{NAME}):[0-9]+/.*")],
        allowed_networks: vec!["127.0.0.1/32".parse().unwrap()],
        deadline: Duration::from_secs(30),
        attempts: 2,
        ..Options::default()
    }
}

/// Whatever the name, it is this machine.
fn local(_: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
}

struct Client {
    downloader: Downloader,
    budget: Arc<Budget>,
    work_dir: TempDir,
    retries: AtomicUsize,
}

impl Client {
    fn new(options: Options) -> Self {
        Self::with_lookup(options, Arc::new(local))
    }

    fn with_lookup(options: Options, lookup: Arc<Lookup>) -> Self {
        let budget = Arc::new(Budget::new(1024 * 1024 * 1024));
        Self {
            downloader: Downloader::with_lookup(options, Arc::clone(&budget), lookup).unwrap(),
            budget,
            work_dir: tempfile::tempdir().unwrap(),
            retries: AtomicUsize::new(0),
        }
    }

    fn fetch(&self, url: &str) -> Result<Download, Failure> {
        self.fetch_unless(url, &|| false)
    }

    fn fetch_unless(&self, url: &str, cancelled: &dyn Fn() -> bool) -> Result<Download, Failure> {
        self.fetch_in(url, None, self.work_dir.path(), cancelled)
    }

    fn fetch_in(
        &self,
        url: &str,
        announced: Option<u64>,
        dir: &Path,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Download, Failure> {
        let url = SignedUrl::new(url);
        let mut on_retry = |error: &Error| {
            assert!(!chain(error).contains("s3cret"), "{error}");
            self.retries.fetch_add(1, Ordering::SeqCst);
        };
        let result = self
            .downloader
            .fetch(&url, announced, dir, cancelled, &mut on_retry);
        // Case U10, in every test of this file.
        if let Err(failure) = &result {
            for text in [chain(failure), format!("{failure:?}")] {
                assert!(!text.contains("s3cret"), "{text}");
                assert!(!text.contains("/private/"), "{text}");
            }
            assert_eq!(self.budget.used(), 0, "a failed download holds nothing");
        }
        assert_eq!(std::fs::read_dir(self.work_dir.path()).unwrap().count(), 0);
        result
    }

    fn retries(&self) -> usize {
        self.retries.load(Ordering::SeqCst)
    }
}

fn bytes_of(mut download: Download) -> Vec<u8> {
    let mut bytes = Vec::new();
    download.reader().unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(download.bytes, bytes.len() as u64);
    bytes
}

/// Fails, with that reason and after that many attempts.
fn assert_failed(result: Result<Download, Failure>, reason: Reason, attempts: u32) -> Error {
    let failure = result.map(bytes_of).unwrap_err();
    let text = chain(&failure);
    assert!(
        !failure.error.is_host_fault() && !failure.error.is_cancelled(),
        "{text}"
    );
    assert_eq!(
        (failure.error.reason(), failure.attempts),
        (reason, attempts),
        "{text}"
    );
    failure.error
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn an_archive_arrives_whole() {
    let server = ArchiveServer::start();
    let client = Client::new(options());
    for (size, in_memory) in [
        (0, true),
        (1, true),
        (MEMORY_LIMIT, true),
        (MEMORY_LIMIT + 1, false),
        (5_000_000, false),
    ] {
        let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        server.script(
            "/private/a",
            [
                Reply::status(200, &[("Content-Type", "application/gzip")], body.clone()),
                Reply::chunked(&[body.clone(), b"x".to_vec()].map(|chunk| {
                    if chunk.is_empty() {
                        b"y".to_vec()
                    } else {
                        chunk
                    }
                })),
                Reply::raw("HTTP/1.1 200 OK\r\n\r\n")
                    .then_send(body.clone())
                    .then_close(),
            ],
        );
        let url = server.url(&format!("/private/a{QUERY}"));
        let download = client.fetch(&url).unwrap();
        assert_eq!(
            matches!(download.body, Body::Memory(_)),
            in_memory,
            "{size}"
        );
        assert_eq!(client.budget.used(), size as u64);
        assert_eq!((download.attempts, download.status), (1, 200));
        assert_eq!(download.content_type.as_deref(), Some("application/gzip"));
        assert_eq!(bytes_of(download), body);
        assert_eq!(client.budget.used(), 0);
        let chunked = bytes_of(client.fetch(&url).unwrap());
        assert_eq!(chunked.last(), Some(&b'x'));
        assert_eq!(chunked.len(), size.max(1) + 1);
        assert_eq!(
            bytes_of(client.fetch(&url).unwrap()),
            body,
            "until the server closes"
        );
    }
    assert_eq!(client.retries(), 0);
}

#[test]
fn a_body_can_be_read_again() {
    let server = ArchiveServer::start();
    server.serve("/private/a", vec![1; 2 * MEMORY_LIMIT]);
    let mut download = Client::new(options())
        .fetch(&server.url("/private/a"))
        .unwrap();
    for _ in 0..2 {
        let mut bytes = Vec::new();
        download.reader().unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 2 * MEMORY_LIMIT);
    }
}

#[test]
fn connections_are_reused() {
    let server = ArchiveServer::start();
    server.serve("/private/a", "archive");
    server.script(
        "/private/b",
        [Reply::status(503, &[], "slow down"), Reply::ok("archive")],
    );
    let client = Client::new(options());
    for path in ["/private/a", "/private/b", "/private/a"] {
        client.fetch(&server.url(path)).unwrap();
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn u01_other_schemes_make_no_connection() {
    let client = Client::new(Options {
        allow_unsafe_links: true,
        ..options()
    });
    for url in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "gopher://127.0.0.1/",
        "data:,a",
        "unix:/a",
        "://a/b",
        "",
    ] {
        assert_failed(client.fetch(url), Reason::UrlRefused, 0);
    }
}

#[test]
fn u01_https_only_unless_the_list_says_otherwise() {
    let server = ArchiveServer::start();
    server.serve("/private/a", "archive");
    let client = Client::new(Options {
        allowed_urls: vec!["https://.*".to_owned()],
        ..options()
    });
    assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::UrlRefused,
        0,
    );
    assert_eq!(server.connections(), 0);
}

#[test]
fn u02_u03_u04_nothing_refused_reaches_a_connection() {
    let server = ArchiveServer::start();
    let port = server.port();
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    let lookup = move |name: &str, port: u16| {
        counted.fetch_add(1, Ordering::SeqCst);
        local(name, port)
    };
    for networks in [vec![], vec!["127.0.0.1/32".parse().unwrap()]] {
        let allowed = !networks.is_empty();
        let client = Client::with_lookup(
            Options {
                allow_unsafe_links: true,
                allowed_networks: networks,
                ..options()
            },
            Arc::new(lookup.clone()),
        );
        for host in [
            "user:s3cret@127.0.0.1",
            "bucket.s3.amazonaws.com@127.0.0.1",
            "2130706433",
            "0177.0.0.1",
            "0x7f000001",
            "0x7f.0.0.1",
            "127.1",
            "127.0.1",
            "127.0.0.1.",
            "[::1]",
            "[::ffff:10.0.0.1]",
            "169.254.169.254",
            "127.0.0.2",
            "0.0.0.0",
        ] {
            assert_failed(
                client.fetch(&format!("http://{host}:{port}/private/a")),
                Reason::UrlRefused,
                0,
            );
        }
        if !allowed {
            for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"] {
                assert_failed(
                    client.fetch(&format!("http://{host}:{port}/private/a")),
                    Reason::UrlRefused,
                    0,
                );
            }
        }
    }
    let listed = Client::new(Options::default());
    for url in [
        format!("https://127.0.0.1:{port}?x.s3.amazonaws.com/a"),
        format!("https://127.0.0.1:{port}/x.s3.amazonaws.com/a"),
        format!("https://127.0.0.1:{port}/#https://x.s3.amazonaws.com/a"),
        format!("https://x.s3.amazonaws.com@127.0.0.1:{port}/a"),
    ] {
        assert_failed(listed.fetch(&url), Reason::UrlRefused, 0);
    }
    assert_eq!(
        (server.connections(), lookups.load(Ordering::SeqCst)),
        (0, 0)
    );
}

#[test]
fn u05_a_name_that_leads_to_a_private_address() {
    let server = ArchiveServer::start();
    server.serve("/private/a", "archive");
    let url = server.url_of(NAME, "/private/a");
    for address in [
        "127.0.0.1",
        "127.0.0.2",
        "10.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "fe80::1",
    ] {
        let ip = address.parse().unwrap();
        let client = Client::with_lookup(
            Options {
                allowed_networks: Vec::new(),
                ..options()
            },
            Arc::new(move |_: &str, port| Ok(vec![SocketAddr::new(ip, port)])),
        );
        assert_failed(client.fetch(&url), Reason::UrlRefused, 1);
    }
    // The system's own lookup is under the same rule.
    let budget = Arc::new(Budget::new(1 << 30));
    let unsafe_links = Options {
        allow_unsafe_links: true,
        allowed_networks: Vec::new(),
        ..options()
    };
    let downloader = Downloader::new(unsafe_links, budget).unwrap();
    let localhost = SignedUrl::new(server.url_of("localhost", "/private/a"));
    let dir = tempfile::tempdir().unwrap();
    let failure = downloader
        .fetch(&localhost, None, dir.path(), &|| false, &mut |_| {})
        .unwrap_err();
    assert_eq!(failure.error.reason(), Reason::UrlRefused);
    assert_eq!(server.connections(), 0);
}

#[test]
fn u05_only_the_allowed_addresses_of_a_name_are_tried() {
    let server = ArchiveServer::start();
    server.serve("/private/a", "archive");
    let lookup = |_: &str, port| {
        let addresses = [
            "10.0.0.1",
            "::1",
            "169.254.169.254",
            "127.0.0.1",
            "127.0.0.2",
        ];
        Ok(addresses
            .iter()
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
            .collect())
    };
    let client = Client::with_lookup(options(), Arc::new(lookup));
    assert_eq!(
        bytes_of(client.fetch(&server.url_of(NAME, "/private/a")).unwrap()),
        b"archive"
    );
    assert_eq!(server.connections(), 1);
}

#[test]
fn u06_the_connection_goes_to_the_address_that_was_checked() {
    let server = ArchiveServer::start();
    server.serve("/private/a", "archive");
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    // The first answer is allowed, every later one is not.
    let lookup = move |_: &str, port| {
        let turn = counted.fetch_add(1, Ordering::SeqCst);
        Ok(vec![SocketAddr::from((
            [127, 0, 0, if turn == 0 { 1 } else { 2 }],
            port,
        ))])
    };
    let client = Client::with_lookup(options(), Arc::new(lookup));
    let url = server.url_of(NAME, "/private/a");
    assert_eq!(bytes_of(client.fetch(&url).unwrap()), b"archive");
    assert_eq!(
        lookups.load(Ordering::SeqCst),
        1,
        "one lookup for an attempt"
    );
    // An idle connection of before is no way around the second answer.
    assert_failed(client.fetch(&url), Reason::UrlRefused, 1);
    assert_eq!(
        (lookups.load(Ordering::SeqCst), server.connections()),
        (2, 1)
    );
}

#[test]
fn u07_redirects_are_not_followed() {
    let server = ArchiveServer::start();
    server.serve("/private/target", "archive");
    let client = Client::new(options());
    for status in [300, 301, 302, 303, 307, 308] {
        for target in [
            server.url("/private/target"),
            "/private/target".to_owned(),
            "http://10.0.0.1/".to_owned(),
            "file:///etc/passwd".to_owned(),
            "http://[".to_owned(),
        ] {
            server.script(
                "/private/a",
                [Reply::status(status, &[("Location", &target)], "")],
            );
            assert_failed(
                client.fetch(&server.url("/private/a")),
                Reason::HttpRedirect,
                1,
            );
        }
    }
    server.script("/private/a", [Reply::status(302, &[], "no location")]);
    assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::HttpRedirect,
        1,
    );
    assert_eq!(server.requests("/private/target"), 0);
}

#[test]
fn u09_the_request_is_sent_byte_for_byte() {
    let server = ArchiveServer::start();
    let client = Client::new(options());
    let path = "/a%2Fb%2fc+d%7Ee~f//g;h=i,j:k@l";
    server.serve(path, "archive");
    let target = format!("{path}?x=%2F%2f+%7e&y==&&X-Amz-Signature=ABCdef%3D");
    client.fetch(&server.url(&target)).unwrap();
    let heads = server.heads();
    assert!(
        heads[0].starts_with(&format!("GET {target} HTTP/1.1\r\n")),
        "{}",
        heads[0]
    );
    let head = heads[0].to_ascii_lowercase();
    assert!(!head.contains("accept-encoding"), "{head}");
    assert!(
        head.contains(&format!("host: 127.0.0.1:{}\r\n", server.port())),
        "{head}"
    );
}

#[test]
fn an_encoded_body_stays_as_it_is() {
    let server = ArchiveServer::start();
    let body = b"\x1f\x8b\x08 not inflated".to_vec();
    server.script(
        "/private/a",
        [Reply::status(
            200,
            &[("Content-Encoding", "gzip")],
            body.clone(),
        )],
    );
    assert_eq!(
        bytes_of(
            Client::new(options())
                .fetch(&server.url("/private/a"))
                .unwrap()
        ),
        body
    );
}

#[test]
fn u11_connection_refused() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let client = Client::new(options());
    let error = assert_failed(
        client.fetch(&format!("http://127.0.0.1:{port}/private/a")),
        Reason::DownloadFailed,
        2,
    );
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!(client.retries(), 1);
}

#[test]
fn u11_reset_before_a_response() {
    let server = ArchiveServer::start();
    server.script("/private/a", [Reply::nothing().then_reset()]);
    let client = Client::new(options());
    let error = assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        2,
    );
    assert!(matches!(error, Error::NoResponse { .. }), "{error:?}");
    // One of the three was the try at once, which does not count.
    assert_eq!((server.requests("/private/a"), client.retries()), (3, 1));
}

#[test]
fn u11_a_name_without_address_is_tried_again() {
    let turn = AtomicUsize::new(0);
    let server = ArchiveServer::start();
    server.serve("/private/a", "archive");
    let lookup = move |name: &str, port| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Err(std::io::Error::other(
            "temporary failure in name resolution",
        )),
        1 => Ok(Vec::new()),
        _ => local(name, port),
    };
    let client = Client::with_lookup(
        Options {
            attempts: 3,
            ..options()
        },
        Arc::new(lookup),
    );
    assert_eq!(
        client
            .fetch(&server.url_of(NAME, "/private/a"))
            .unwrap()
            .attempts,
        3
    );
}

#[test]
fn u12_a_lookup_that_hangs() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let lookup = move |_: &str, _| {
        let _ = held.lock().unwrap().recv();
        Ok(Vec::new())
    };
    let options = Options {
        connect_timeout: Duration::from_millis(100),
        attempts: 1,
        ..options()
    };
    let client = Client::with_lookup(options, Arc::new(lookup));
    let error = assert_failed(
        client.fetch(&format!("http://{NAME}:1/private/a")),
        Reason::DownloadFailed,
        1,
    );
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Lookup,
                ..
            }
        ),
        "{error:?}"
    );
    drop(release);
}

/// With long time limits, too, one that hangs does not take all of the time.
#[test]
fn u12_u14_a_lookup_that_hangs_leaves_time_for_another_attempt() {
    let gate = Arc::new(RwLock::new(()));
    let passage = Arc::clone(&gate);
    let lookup = move |_: &str, _| {
        drop(passage.read().unwrap());
        Ok(Vec::new())
    };
    let closed = gate.write().unwrap();
    let options = Options {
        connect_timeout: Duration::from_secs(60),
        response_timeout: Duration::from_secs(60),
        deadline: Duration::from_secs(6),
        attempts: 2,
        ..options()
    };
    let client = Client::with_lookup(options, Arc::new(lookup));
    let outcome = client.fetch(&format!("http://{NAME}:1/private/a"));
    assert_failed(outcome, Reason::DownloadFailed, 2);
    drop(closed);
}

/// Each is a thread and a descriptor that outlive their attempt.
#[test]
fn u12_lookups_that_hang_are_limited() {
    const LIMIT: usize = 32;
    let server = ArchiveServer::start();
    server.serve("/private/a", "archive");
    let begun = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(RwLock::new(()));
    let (count, passage) = (Arc::clone(&begun), Arc::clone(&gate));
    let lookup = move |name: &str, port| {
        count.fetch_add(1, Ordering::SeqCst);
        drop(passage.read().unwrap());
        local(name, port)
    };
    let closed = gate.write().unwrap();
    let options = Options {
        connect_timeout: Duration::from_millis(20),
        attempts: 1,
        ..options()
    };
    let client = Client::with_lookup(options, Arc::new(lookup));
    let url = server.url_of(NAME, "/private/a");
    for _ in 0..LIMIT + 10 {
        let error = assert_failed(client.fetch(&url), Reason::DownloadFailed, 1);
        let expected = matches!(
            error,
            Error::Timeout {
                phase: Phase::Lookup,
                ..
            }
        );
        assert!(expected, "{error:?}");
    }
    wait_until("begun", || begun.load(Ordering::SeqCst) >= LIMIT);
    assert_eq!(begun.load(Ordering::SeqCst), LIMIT);
    drop(closed);
    wait_until("a lookup again", || client.fetch(&url).is_ok());
}

#[test]
fn u12_a_connect_that_hangs() {
    // A socket whose queue is full drops every further SYN.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(waiting) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(waiting);
        assert!(queue.len() < 10_000, "the queue is never full");
    }
    let client = Client::new(Options {
        connect_timeout: Duration::from_millis(200),
        ..options()
    });
    let error = assert_failed(
        client.fetch(&format!("http://{address}/private/a")),
        Reason::DownloadFailed,
        2,
    );
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Connect,
                ..
            }
        ),
        "{error:?}"
    );
}

/// The server takes the connection and says nothing, or breaks off, before TLS stands.
#[test]
fn u11_u12_a_handshake_that_hangs_or_is_reset() {
    let trusted = Trusted::new();
    for hangs in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "https://{NAME}:{}/private/a",
            listener.local_addr().unwrap().port()
        );
        let server = std::thread::spawn(move || {
            let mut open = Vec::new();
            for _ in 0..2 {
                let (mut client, _) = listener.accept().unwrap();
                // Closing a socket with a byte unread resets it.
                client.read_exact(&mut [0]).unwrap();
                if hangs {
                    open.push(client);
                }
            }
            open
        });
        let client = Client::new(Options {
            ca_file: Some(trusted.file()),
            connect_timeout: Duration::from_millis(500),
            ..options()
        });
        let error = assert_failed(client.fetch(&url), Reason::DownloadFailed, 2);
        let as_expected = match error {
            Error::Timeout { phase, .. } => hangs && phase == Phase::Connect,
            Error::Connect { .. } => !hangs,
            _ => false,
        };
        assert!(as_expected, "{error:?}");
        server.join().unwrap();
    }
}

#[test]
fn u13_no_response() {
    let server = ArchiveServer::start();
    let client = Client::new(Options {
        response_timeout: Duration::from_millis(200),
        ..options()
    });
    server.script("/private/a", [Reply::nothing().then_stall()]);
    let error = assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        2,
    );
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Response,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(server.requests("/private/a"), 2);
    server.script(
        "/private/a",
        [Reply::nothing().then_stall(), Reply::ok("archive")],
    );
    assert_eq!(client.fetch(&server.url("/private/a")).unwrap().attempts, 2);
}

#[test]
fn u14_trickle_ends_at_the_deadline() {
    let server = ArchiveServer::start();
    let pause = Duration::from_millis(50);
    let client = Client::new(Options {
        deadline: Duration::from_secs(1),
        ..options()
    });
    for reply in [
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            .then_trickle(vec![0; 1_000_000], pause),
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").then_stall(),
        Reply::raw("HTTP/1.1 200 OK\r\n\r\n").then_trickle(vec![0; 1_000_000], pause),
    ] {
        server.script("/private/a", [reply]);
        let error = assert_failed(
            client.fetch(&server.url("/private/a")),
            Reason::DownloadFailed,
            1,
        );
        assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    }
    // A head that trickles counts against the deadline too.
    let head = "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(10_000);
    server.script("/private/a", [Reply::nothing().then_trickle(head, pause)]);
    let error = assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        1,
    );
    assert!(
        matches!(
            error,
            Error::Timeout {
                phase: Phase::Response,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn u14_trickle_below_the_minimum_rate() {
    let server = ArchiveServer::start();
    server.script(
        "/private/a",
        [
            Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                .then_trickle(vec![0; 1_000_000], Duration::from_millis(100)),
        ],
    );
    let client = Client::new(Options {
        attempts: 1,
        ..options()
    });
    let error = assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        1,
    );
    assert!(matches!(error, Error::TooSlow { .. }), "{error:?}");
}

#[test]
fn u15_u16_the_limit_is_up_to_and_including() {
    const LIMIT: usize = 100_000;
    let server = ArchiveServer::start();
    let client = Client::new(Options {
        max_archive_size: LIMIT as u64,
        ..options()
    });
    let fetch = |reply| {
        server.script("/private/a", [reply]);
        client.fetch(&server.url("/private/a"))
    };
    for size in [LIMIT - 1, LIMIT] {
        assert_eq!(
            bytes_of(fetch(Reply::ok(vec![0; size])).unwrap()).len(),
            size
        );
        assert_eq!(
            bytes_of(fetch(Reply::chunked(&[vec![0; size]])).unwrap()).len(),
            size
        );
        let until_closed = Reply::raw("HTTP/1.1 200 OK\r\n\r\n")
            .then_send(vec![0; size])
            .then_close();
        assert_eq!(bytes_of(fetch(until_closed).unwrap()).len(), size);
    }
    let declared = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", LIMIT + 1);
    let error = assert_failed(
        fetch(Reply::raw(declared).then_stall()),
        Reason::ArchiveTooLarge,
        1,
    );
    assert!(
        matches!(error, Error::DeclaredTooLarge { .. }),
        "no byte of the body is waited for"
    );
    for endless in [
        Reply::chunked(&[vec![0; LIMIT + 1]]),
        Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .then_endless("4\r\nbomb\r\n"),
        Reply::raw("HTTP/1.1 200 OK\r\n\r\n").then_endless(vec![0; 4096]),
    ] {
        let error = assert_failed(fetch(endless), Reason::ArchiveTooLarge, 1);
        assert!(matches!(error, Error::BodyTooLarge { .. }), "{error:?}");
    }
}

#[test]
fn u15_the_announced_size_refuses_early_and_is_not_believed() {
    let server = ArchiveServer::start();
    server.serve("/private/a", vec![0; 1000]);
    let client = Client::new(Options {
        max_archive_size: 1000,
        ..options()
    });
    let fetch = |announced| {
        client.fetch_in(
            &server.url("/private/a"),
            Some(announced),
            client.work_dir.path(),
            &|| false,
        )
    };
    assert_failed(fetch(1001), Reason::ArchiveTooLarge, 0);
    assert_eq!(server.connections(), 0);
    for announced in [0, 1, 999, 1000] {
        assert_eq!(bytes_of(fetch(announced).unwrap()).len(), 1000);
    }
}

#[test]
fn u17_a_short_body_is_no_archive() {
    let server = ArchiveServer::start();
    let client = Client::new(options());
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let unknown = "HTTP/1.1 200 OK\r\n\r\n";
    for short in [
        Reply::raw(length).then_send(vec![0; 500]).then_close(),
        Reply::raw(length).then_send(vec![0; 500]).then_reset(),
        Reply::raw(length).then_close(),
        Reply::raw(chunked).then_send("64\r\nhalf").then_close(),
        Reply::raw(chunked).then_send("4\r\nhalf\r\n").then_close(),
        Reply::raw(chunked).then_send("4\r\nhalf\r\n").then_reset(),
        // Without a length the end of the connection is the end of the body, but a reset is not.
        Reply::raw(unknown).then_send("half").then_reset(),
    ] {
        server.script("/private/a", [short.clone()]);
        let error = assert_failed(
            client.fetch(&server.url("/private/a")),
            Reason::DownloadFailed,
            2,
        );
        assert!(
            matches!(error, Error::BrokenOff { .. }),
            "{short:?}: {error:?}"
        );
        server.script("/private/a", [short, Reply::ok("whole")]);
        assert_eq!(
            bytes_of(client.fetch(&server.url("/private/a")).unwrap()),
            b"whole"
        );
    }
    server.script(
        "/private/a",
        [Reply::raw(chunked).then_send("nonsense\r\n").then_close()],
    );
    assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        2,
    );
}

#[test]
fn u18_an_expired_link() {
    let server = ArchiveServer::start();
    let client = Client::new(options());
    let expired = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    let token = "<Error><Code>ExpiredToken</Code></Error>";
    for (status, body) in [(403, expired), (403, token), (400, token), (400, "EXPIRED")] {
        server.script("/private/a", [Reply::status(status, &[], body)]);
        assert_failed(
            client.fetch(&server.url("/private/a")),
            Reason::UrlExpired,
            1,
        );
        server.script("/private/a", [Reply::chunked(&[body.into()])]);
    }
    for (status, body) in [
        (403, "<Code>AccessDenied</Code>"),
        (400, ""),
        (401, expired),
        (418, expired),
    ] {
        server.script("/private/a", [Reply::status(status, &[], body)]);
        assert_failed(
            client.fetch(&server.url("/private/a")),
            Reason::DownloadFailed,
            1,
        );
    }
    // Only the first 4 KiB are looked at, and a body that stays out costs no attempt.
    let late = "x".repeat(4096) + expired;
    server.script("/private/a", [Reply::status(403, &[], late)]);
    assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        1,
    );
    let silent = Reply::raw("HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\n").then_stall();
    server.script("/private/a", [silent]);
    assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        1,
    );
}

#[test]
fn u19_a_missing_object_is_asked_for_twice() {
    let server = ArchiveServer::start();
    let client = Client::new(Options {
        attempts: 4,
        ..options()
    });
    for status in [404, 410] {
        server.script(
            "/private/a",
            [Reply::status(status, &[], "<Code>NoSuchKey</Code>")],
        );
        assert_failed(client.fetch(&server.url("/private/a")), Reason::NotFound, 2);
        assert_eq!(server.requests("/private/a"), 2);
    }
    server.script(
        "/private/a",
        [Reply::status(404, &[], ""), Reply::ok("archive")],
    );
    assert_eq!(client.fetch(&server.url("/private/a")).unwrap().attempts, 2);
}

#[test]
fn u20_server_trouble_is_retried() {
    let server = ArchiveServer::start();
    let client = Client::new(options());
    for status in [408, 425, 429, 500, 502, 503, 504, 599] {
        server.script(
            "/private/a",
            [Reply::status(status, &[], "SlowDown"), Reply::ok("archive")],
        );
        assert_eq!(
            client.fetch(&server.url("/private/a")).unwrap().attempts,
            2,
            "{status}"
        );
    }
    server.script("/private/a", [Reply::status(503, &[], "SlowDown")]);
    assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        2,
    );
    assert_eq!(server.requests("/private/a"), 2);
}

#[test]
fn u20_retry_after_is_followed_within_the_deadline() {
    let server = ArchiveServer::start();
    let busy = |seconds| Reply::status(503, &[("Retry-After", seconds)], "");
    server.script("/private/a", [busy("2"), Reply::ok("archive")]);
    let download = Client::new(options())
        .fetch(&server.url("/private/a"))
        .unwrap();
    // The longest pause without the header is 750 ms.
    assert!(
        download.duration >= Duration::from_secs(2),
        "{:?}",
        download.duration
    );
    // Thirty seconds, which are not left: no use in waiting.
    server.script("/private/a", [busy("3600"), Reply::ok("archive")]);
    let client = Client::new(Options {
        deadline: Duration::from_secs(20),
        ..options()
    });
    assert_failed(
        client.fetch(&server.url("/private/a")),
        Reason::DownloadFailed,
        1,
    );
    assert_eq!(server.requests("/private/a"), 1);
}

#[test]
fn u21_success_with_a_page_is_a_fact_for_the_log() {
    let server = ArchiveServer::start();
    let hostile = "text/html".to_owned() + &"x".repeat(1000);
    for (kind, length) in [
        ("text/html", 9),
        ("text/html ; charset=utf-8; url=s3cret", 9),
        ("text/html?X-Amz-Signature=s3cret", 9),
        (hostile.as_str(), 100),
    ] {
        server.script(
            "/private/a",
            [Reply::status(200, &[("Content-Type", kind)], "<html>")],
        );
        let download = Client::new(options())
            .fetch(&server.url("/private/a"))
            .unwrap();
        let shown = download.content_type.clone().unwrap();
        assert!(
            shown.starts_with("text/html") && shown.len() == length,
            "{shown}"
        );
        assert_eq!(bytes_of(download), b"<html>");
    }
}

#[test]
fn u22_anything_but_200_is_a_failure() {
    let server = ArchiveServer::start();
    let client = Client::new(options());
    for status in [
        101, 201, 202, 203, 204, 205, 206, 226, 304, 400, 401, 402, 403, 405, 418, 451, 499, 600,
        999,
    ] {
        server.script(
            "/private/a",
            [Reply::status(status, &[], ""), Reply::ok("archive")],
        );
        let error = assert_failed(
            client.fetch(&server.url("/private/a")),
            Reason::DownloadFailed,
            1,
        );
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    // Information before the answer is not the answer.
    server.script("/private/a", [Reply::raw("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]);
    assert_eq!(
        bytes_of(client.fetch(&server.url("/private/a")).unwrap()),
        b"ok"
    );
}

struct Trusted {
    authority: Authority,
    dir: TempDir,
}

impl Trusted {
    fn new() -> Self {
        let trusted = Self {
            authority: Authority::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        trusted.authority.write(&trusted.file());
        trusted
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn client(&self) -> Client {
        Client::new(Options {
            ca_file: Some(self.file()),
            ..options()
        })
    }
}

#[test]
fn u23_over_tls_with_a_ca_of_its_own() {
    let trusted = Trusted::new();
    let server = ArchiveServer::start_tls(trusted.authority.server(NAME));
    let body: Vec<u8> = (0..3_000_000).map(|i| (i % 251) as u8).collect();
    server.serve("/private/a", body.clone());
    let client = trusted.client();
    for host in [NAME, NAME, "archives.test."] {
        let client = if host.ends_with('.') {
            &trusted.client()
        } else {
            &client
        };
        assert_eq!(
            bytes_of(client.fetch(&server.url_of(host, "/private/a")).unwrap()),
            body
        );
    }
    assert_eq!(
        server.connections(),
        2,
        "the first client has used its connection again"
    );
}

#[test]
fn u23_limits_hold_over_tls() {
    let trusted = Trusted::new();
    let server = ArchiveServer::start_tls(trusted.authority.server(NAME));
    let url = server.url_of(NAME, "/private/a");
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    let slow = Client::new(Options {
        ca_file: Some(trusted.file()),
        deadline: Duration::from_secs(1),
        ..options()
    });
    server.script(
        "/private/a",
        [Reply::raw(head).then_trickle(vec![0; 1_000_000], Duration::from_millis(50))],
    );
    let error = assert_failed(slow.fetch(&url), Reason::DownloadFailed, 1);
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    // Slices of time in the middle of a record do no harm.
    let body: Vec<u8> = (0..40).collect();
    server.script(
        "/private/a",
        [Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
            .then_trickle(body.clone(), Duration::from_millis(30))],
    );
    assert_eq!(bytes_of(trusted.client().fetch(&url).unwrap()), body);
    // An end that TLS does not announce may be anybody's.
    server.script(
        "/private/a",
        [Reply::raw("HTTP/1.1 200 OK\r\n\r\n")
            .then_send("half")
            .then_close()],
    );
    let error = assert_failed(trusted.client().fetch(&url), Reason::DownloadFailed, 2);
    assert!(matches!(error, Error::BrokenOff { .. }), "{error:?}");
}

#[test]
fn u23_servers_that_are_not_trusted() {
    let trusted = Trusted::new();
    let stranger = Authority::new();
    for (config, host) in [
        (trusted.authority.server("other.test"), NAME),
        (trusted.authority.server(NAME), "127.0.0.1"),
        (trusted.authority.expired_server(NAME), NAME),
        (stranger.server(NAME), NAME),
    ] {
        let server = ArchiveServer::start_tls(config);
        server.serve("/private/a", "archive");
        let client = trusted.client();
        let error = assert_failed(
            client.fetch(&server.url_of(host, "/private/a")),
            Reason::Tls,
            2,
        );
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
        assert_eq!(server.requests("/private/a"), 0, "nothing was sent");
    }
    // Without the file, the authorities of the host do not know ours.
    let server = ArchiveServer::start_tls(trusted.authority.server(NAME));
    let client = Client::new(options());
    assert_failed(
        client.fetch(&server.url_of(NAME, "/private/a")),
        Reason::Tls,
        2,
    );
}

#[test]
fn u23_what_is_no_tls() {
    let trusted = Trusted::new();
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x15\x03\x01\x00\x02\x02\x46", // the alert of a server that speaks older versions only
        b"",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut client, _) = listener.accept().unwrap();
                // All that came is read, so that the client sees an end and not a reset.
                let mut hello = [0; 16 * 1024];
                let _ = client.read(&mut hello).unwrap();
                client.write_all(answer).unwrap();
            }
        });
        let url = format!("https://{NAME}:{port}/private/a");
        assert_failed(trusted.client().fetch(&url), Reason::Tls, 2);
        server.join().unwrap();
    }
}

#[test]
fn p20_a_ca_file_without_certificates_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let new = || {
        let options = Options {
            ca_file: Some(path.clone()),
            ..options()
        };
        Downloader::new(options, Arc::new(Budget::new(1))).unwrap_err()
    };
    let missing = new();
    assert!(
        matches!(missing, SetupError::Tls(tls::SetupError::Unreadable { .. })),
        "{missing:?}"
    );
    for text in [
        "",
        "no certificate\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&path, text).unwrap();
        let error = new();
        assert!(
            matches!(
                error,
                SetupError::Tls(tls::SetupError::NoCertificate { .. })
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("downloader.ca_file"), "{error}");
    }
}

#[test]
fn u24_header_bombs() {
    let server = ArchiveServer::start();
    let client = Client::new(options());
    let many: String = (0..10_000).map(|i| format!("X-{i}: y\r\n")).collect();
    let long = "x".repeat(1024 * 1024);
    for bomb in [
        Reply::raw(format!("HTTP/1.1 200 OK\r\n{many}\r\n")),
        Reply::raw(format!("HTTP/1.1 200 OK\r\nX: {long}\r\n\r\n")),
        Reply::raw("HTTP/1.1 200 OK\r\n").then_endless("X: y\r\n"),
        Reply::raw("HTTP/1.1 200 ").then_endless("O"),
        Reply::nothing().then_endless("HTTP/1.1 100 Continue\r\n\r\n"),
        Reply::nothing().then_endless("\0"),
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        Reply::raw("SSH-2.0-OpenSSH_9.6\r\n").then_close(),
    ] {
        server.script("/private/a", [bomb.clone()]);
        let short = Client::new(Options {
            response_timeout: Duration::from_secs(1),
            ..options()
        });
        assert_failed(
            short.fetch(&server.url("/private/a")),
            Reason::DownloadFailed,
            2,
        );
        server.script("/private/a", [bomb, Reply::ok("archive")]);
    }
    server.serve("/private/b", "archive");
    client.fetch(&server.url("/private/b")).unwrap();
}

#[test]
fn u24_framings_that_contradict_or_break_off_are_no_archive() {
    let server = ArchiveServer::start();
    let ok = |rest: &str| Reply::raw(format!("HTTP/1.1 200 OK\r\n{rest}")).then_close();
    let chunked = |rest: &str| ok(&format!("Transfer-Encoding: chunked\r\n\r\n{rest}"));
    for broken in [
        ok("Content-Length: +7\r\n\r\narchive"),
        ok("Content-Length: 0x7\r\n\r\narchive"),
        ok("Content-Length:\r\n\r\narchive"),
        ok("Content-Length : 7\r\n\r\narchive"),
        ok("X: folded\r\n here\r\nContent-Length: 7\r\n\r\narchive"),
        ok("X: \0\r\nContent-Length: 7\r\n\r\narchive"),
        ok("no colon\r\nContent-Length: 7\r\n\r\narchive"),
        ok("Content-Length: 7\r\n"),
        ok("Content-Length: 7\r\n\r\n"),
        chunked("fffffffffffffffff\r\narchive"),
        chunked("-7\r\narchive\r\n0\r\n\r\n"),
        chunked("0x7\r\narchive\r\n0\r\n\r\n"),
        chunked("\r\narchive\r\n0\r\n\r\n"),
        chunked("7\r\narchive??0\r\n\r\n"),
        chunked("7\r\narchive\r\n"),
        // Codings that nobody has asked for, and chunks where HTTP has none.
        ok("Transfer-Encoding: gzip\r\n\r\narchive"),
        ok("Transfer-Encoding: gzip\r\nContent-Length: 7\r\n\r\narchive"),
        ok("Transfer-Encoding: gzip, chunked\r\n\r\n7\r\narchive\r\n0\r\n\r\n"),
        ok("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
            .then_send("7\r\narchive\r\n0\r\n\r\n"),
        ok("Transfer-Encoding: chunked, chunked\r\n\r\n7\r\narchive\r\n0\r\n\r\n"),
        Reply::raw("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .then_send("7\r\narchive\r\n0\r\n\r\n")
            .then_close(),
        Reply::raw("archive").then_close(),
        Reply::raw("HTTP/2.0 200 OK\r\nContent-Length: 7\r\n\r\narchive").then_close(),
        Reply::raw("HTTP/1.1 20 OK\r\nContent-Length: 7\r\n\r\narchive").then_close(),
    ] {
        server.script("/private/a", [broken]);
        let client = Client::new(options());
        assert_failed(
            client.fetch(&server.url("/private/a")),
            Reason::DownloadFailed,
            2,
        );
    }
    for whole in [
        chunked("7;name=\"value\"\r\narchive\r\n0\r\nX-Trailer: y\r\n\r\n"),
        ok("Content-Length: 007\r\n\r\narchive"),
        // Chunks count, whatever else is said.
        ok("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n7\r\narchive\r\n0\r\n\r\n"),
        Reply::raw("HTTP/1.0 200 OK\r\n\r\narchive").then_close(),
        Reply::raw("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n")
            .then_send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\narchive"),
    ] {
        server.script("/private/a", [whole]);
        let client = Client::new(options());
        let download = client.fetch(&server.url("/private/a")).unwrap();
        assert_eq!(bytes_of(download), b"archive");
    }
}

/// Whatever a server says, it is an archive or the server's failure, and costs nobody else.
#[test]
fn u24_any_answer_ends_in_an_archive_or_a_reason() {
    const PIECES: [&str; 29] = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 \r\n",
        "HTTP/1.1 302 Found\r\n",
        "HTTP/1.1 403 \r\n",
        "HTTP/1.1 999 \r\n",
        "Content-Length: 7\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 99999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        "Location: \r\n",
        "Retry-After: 0\r\n",
        "Content-Type: a;charset=utf-16\r\n",
        "Content-Encoding: gzip\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "7\r\narchive\r\n",
        "0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "archive",
        "Request has expired",
        ":",
        " ",
        "\0",
        "\u{7f}",
        "\u{fc}",
    ];
    let answers = (any::<bool>(), prop::collection::vec(select(&PIECES), 0..12));
    let server = ArchiveServer::start();
    server.serve("/private/b", "innocent");
    let client = Client::new(Options {
        attempts: 1,
        ..options()
    });
    let case = |(begins_well, pieces): (bool, Vec<&str>)| {
        let start = if begins_well { PIECES[0] } else { "" };
        let answer = start.to_owned() + &pieces.concat();
        server.script("/private/a", [Reply::raw(answer).then_close()]);
        match client.fetch(&server.url(&format!("/private/a{QUERY}"))) {
            Ok(download) => prop_assert!(bytes_of(download).len() < 1000),
            Err(failure) => {
                let reasons = [
                    Reason::DownloadFailed,
                    Reason::HttpRedirect,
                    Reason::UrlExpired,
                    Reason::ArchiveTooLarge,
                ];
                prop_assert!(!failure.error.is_host_fault() && !failure.error.is_cancelled());
                prop_assert!(reasons.contains(&failure.error.reason()), "{failure:?}");
            }
        }
        let next = client.fetch(&server.url("/private/b")).unwrap();
        prop_assert_eq!(bytes_of(next), b"innocent");
        Ok(())
    };
    let config = ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new(config).run(&answers, case).unwrap();
}

/// Bytes come all the time, but none of them is one of the body.
#[test]
fn u14_what_surrounds_a_body_ends_at_the_deadline_too() {
    let server = ArchiveServer::start();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\narchive\r\n0\r\n";
    let endless = Reply::raw(head).then_endless("X-Trailer: y\r\n".repeat(50));
    server.script("/private/a", [endless]);
    let url = server.url("/private/a");
    let client = Client::new(Options {
        deadline: Duration::from_secs(1),
        ..options()
    });
    let error = assert_failed(client.fetch(&url), Reason::DownloadFailed, 1);
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    // The caller has its say as well.
    let asked = AtomicUsize::new(0);
    let client = Client::new(options());
    let cancelled = || asked.fetch_add(1, Ordering::SeqCst) > 3;
    let failure = client.fetch_unless(&url, &cancelled).unwrap_err();
    assert!(failure.error.is_cancelled(), "{failure:?}");
}

/// One record's server must not choose what another record's archive is.
#[test]
fn u25_bytes_behind_an_answer_are_not_the_next_one() {
    let server = ArchiveServer::start();
    server.serve("/private/b", "innocent");
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for head in [
        "Content-Length: 7\r\n\r\narchive",
        "Transfer-Encoding: chunked\r\n\r\n7\r\narchive\r\n0\r\n\r\n",
        "Content-Length: 7\r\nConnection: close\r\n\r\narchive",
    ] {
        let reply = Reply::raw(format!("HTTP/1.1 200 OK\r\n{head}{evil}"));
        server.script("/private/a", [reply]);
        let client = Client::new(options());
        let download = client.fetch(&server.url("/private/a")).unwrap();
        assert_eq!(bytes_of(download), b"archive");
        let next = client.fetch(&server.url("/private/b")).unwrap();
        assert_eq!(bytes_of(next), b"innocent");
    }
}

/// Over TLS such bytes may have left the socket and still be encrypted.
#[test]
fn u25_bytes_behind_an_answer_are_not_the_next_one_over_tls_either() {
    let trusted = Trusted::new();
    let server = ArchiveServer::start_tls(trusted.authority.server(NAME));
    server.serve("/private/b", "innocent");
    let evil = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n{:3000}",
        "evil"
    );
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 16342\r\n\r\n";
    // The first record of TLS ends with the body.
    let answer = format!("{head}{:16342}", "archive");
    assert_eq!(answer.len(), 16 * 1024);
    server.script("/private/a", [Reply::raw(answer + &evil)]);
    let client = trusted.client();
    let download = client.fetch(&server.url_of(NAME, "/private/a")).unwrap();
    assert!(bytes_of(download).starts_with(b"archive "));
    let next = client.fetch(&server.url_of(NAME, "/private/b")).unwrap();
    let next = String::from_utf8(bytes_of(next)).unwrap();
    assert_eq!(next.trim_end(), "innocent");
}

#[test]
fn u25_a_stale_connection_is_no_failure() {
    let server = ArchiveServer::start();
    server.script("/private/a", [Reply::ok("archive").then_stale()]);
    let client = Client::new(Options {
        attempts: 1,
        ..options()
    });
    for _ in 0..5 {
        assert_eq!(client.fetch(&server.url("/private/a")).unwrap().attempts, 1);
    }
    assert_eq!((server.connections(), client.retries()), (5, 0));
    // Several stale ones at once: the second try takes none of them.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| client.fetch(&server.url("/private/a")).unwrap());
        }
    });
    assert_eq!(client.fetch(&server.url("/private/a")).unwrap().attempts, 1);
    assert_eq!(client.retries(), 0);
}

/// A router that forgets its connections tells neither side.
#[test]
fn u25_a_second_attempt_takes_no_idle_connection() {
    let server = ArchiveServer::start();
    let client = Client::new(Options {
        response_timeout: Duration::from_secs(2),
        ..options()
    });
    let gate = Gate::default();
    server.script(
        "/private/a",
        [Reply::ok("archive").behind(&gate).then_deaf()],
    );
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| client.fetch(&server.url("/private/a")).unwrap());
        }
        wait_until("asked twice", || server.requests("/private/a") == 2);
        gate.open();
    });
    assert_eq!((server.connections(), client.retries()), (2, 0));
    server.serve("/private/b", "archive");
    let download = client.fetch(&server.url("/private/b")).unwrap();
    assert_eq!((download.attempts, server.connections()), (2, 3));
}

#[test]
fn a_download_that_nobody_wants_any_more_ends() {
    let server = ArchiveServer::start();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    for (reply, attempts) in [
        (Reply::raw(head).then_stall(), 1),
        (
            Reply::raw(head).then_trickle(vec![0; 1_000_000], Duration::from_millis(20)),
            1,
        ),
        // In the pause, which may be 30 seconds long.
        (Reply::status(503, &[("Retry-After", "29")], ""), 1),
    ] {
        server.script("/private/a", [reply]);
        let client = Client::new(options());
        let cancelled = || server.requests("/private/a") > 0;
        let failure = client
            .fetch_unless(&server.url("/private/a"), &cancelled)
            .unwrap_err();
        assert!(failure.error.is_cancelled(), "{failure:?}");
        assert_eq!(failure.attempts, attempts);
    }
    let connections = server.connections();
    let failure = Client::new(options())
        .fetch_unless(&server.url("/private/a"), &|| true)
        .unwrap_err();
    assert!(failure.error.is_cancelled());
    assert_eq!(server.connections(), connections, "not even connected");
}

#[test]
fn p08_a_work_directory_that_is_gone_is_our_fault() {
    let server = ArchiveServer::start();
    server.serve("/private/a", vec![0; MEMORY_LIMIT + 1]);
    let client = Client::new(options());
    let gone = client.work_dir.path().join("gone");
    let failure = client
        .fetch_in(&server.url("/private/a"), None, &gone, &|| false)
        .unwrap_err();
    assert!(failure.error.is_host_fault(), "{failure:?}");
    assert_eq!(
        (failure.attempts, client.retries()),
        (1, 0),
        "not retried here"
    );
    // A small one needs no disk.
    server.serve("/private/a", vec![0; MEMORY_LIMIT]);
    client
        .fetch_in(&server.url("/private/a"), None, &gone, &|| false)
        .unwrap();
}

#[test]
fn p09_bytes_are_reserved_before_they_are_read() {
    let server = ArchiveServer::start();
    server.serve("/private/a", vec![0; 1000]);
    server.script("/private/b", [Reply::chunked(&[vec![0; 1000]])]);
    let mut client = Client::new(options());
    let budget = Arc::new(Budget::new(10_000));
    client.budget = Arc::clone(&budget);
    let options = Options {
        max_archive_size: 8_000,
        deadline: Duration::from_secs(2),
        ..options()
    };
    client.downloader = Downloader::new(options, Arc::clone(&budget)).unwrap();

    let held = budget.reserve(9_500, &|| false).unwrap();
    let arrived = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let download = client.fetch(&server.url("/private/a"));
            arrived.store(true, Ordering::SeqCst);
            download
        });
        wait_until("asked", || server.requests("/private/a") == 1);
        assert!(!arrived.load(Ordering::SeqCst));
        drop(held);
        let download = waiting.join().unwrap().unwrap();
        assert_eq!(budget.used(), 1_000);
        drop(download);
    });
    assert_eq!(budget.used(), 0);

    // Without a length the whole limit is reserved, and what was too much is given back.
    let held = budget.reserve(2_000, &|| false).unwrap();
    let download = client.fetch(&server.url("/private/b")).unwrap();
    assert_eq!(budget.used(), 3_000);
    drop((held, download));

    // No room until the deadline is no fault of the record; nor is it the record's to be unwanted.
    let held = budget.reserve(2_001, &|| false).unwrap();
    let dir = client.work_dir.path();
    let url = SignedUrl::new(server.url("/private/b"));
    let mut on_retry = |_: &Error| {};
    let failure = client
        .downloader
        .fetch(&url, None, dir, &|| false, &mut on_retry)
        .unwrap_err();
    assert!(failure.error.is_host_fault(), "{failure:?}");
    let before = server.requests("/private/b");
    let unwanted = || server.requests("/private/b") > before;
    let failure = client
        .downloader
        .fetch(&url, None, dir, &unwanted, &mut on_retry)
        .unwrap_err();
    assert!(failure.error.is_cancelled(), "{failure:?}");
    drop(held);
    assert_eq!(budget.used(), 0);
}

/// Room that others hold is a matter of this host: what a server or the deadline does meanwhile is
/// not the record's failure.
#[test]
fn p09_a_wait_for_room_costs_no_attempt_and_no_record() {
    let server = ArchiveServer::start();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let waits = Reply::raw(head).then_send("begun").then_stall();
    server.script("/private/a", [waits, Reply::ok(vec![7; 1000])]);
    let mut client = Client::new(options());
    let budget = Arc::new(Budget::new(10_000));
    client.budget = Arc::clone(&budget);
    let limited = |deadline| {
        let options = Options {
            attempts: 1,
            max_archive_size: 8_000,
            deadline,
            ..options()
        };
        Downloader::new(options, Arc::clone(&budget)).unwrap()
    };
    client.downloader = limited(Duration::from_secs(60));
    let held = budget.reserve(9_500, &|| false).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.fetch(&server.url("/private/a")));
        wait_until("asked", || server.requests("/private/a") == 1);
        wait_until("let go", || server.open_connections() == 0);
        assert_eq!(server.requests("/private/a"), 1);
        drop(held);
        let download = waiting.join().unwrap().unwrap();
        assert_eq!(download.attempts, 1);
        assert_eq!(budget.used(), 1_000);
        assert_eq!(bytes_of(download), [7; 1000]);
    });
    assert_eq!((budget.used(), server.requests("/private/a")), (0, 2));

    // Room that comes late would leave no time for the download.
    let slow = Reply::raw(head).then_trickle(vec![7; 1000], Duration::from_secs(1));
    server.script("/private/a", [slow]);
    client.downloader = limited(Duration::from_secs(4));
    let held = Mutex::new(budget.reserve(9_500, &|| false));
    let start = Instant::now();
    let late = || {
        if start.elapsed() > Duration::from_secs(3) {
            held.lock().unwrap().take();
        }
        false
    };
    let url = SignedUrl::new(server.url("/private/a"));
    let dir = client.work_dir.path();
    let failure = client
        .downloader
        .fetch(&url, None, dir, &late, &mut |_| {})
        .unwrap_err();
    assert!(failure.error.is_host_fault(), "{failure:?}");
}

#[test]
fn p10_descriptors_run_out() {
    if !is_child("download::p10_descriptors_run_out") {
        return;
    }
    let server = ArchiveServer::start();
    server.serve("/private/a", vec![0; 2 * MEMORY_LIMIT]);
    limit_descriptors(64);
    let budget = Arc::new(Budget::new(1 << 30));
    let options = Options {
        allowed_urls: vec![".*".to_owned()],
        ..options()
    };
    let downloader = Downloader::new(options, budget).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let fetch = |host: &str| {
        let url = SignedUrl::new(server.url_of(host, "/private/a"));
        downloader.fetch(&url, None, dir.path(), &|| false, &mut |_| {})
    };
    // By address: no lookup, so the first thing that fails is the socket. By a name that does not
    // exist: without a descriptor the system's answer is worth nothing.
    for host in ["127.0.0.1", "no-such-name.invalid"] {
        let taken = take_descriptors();
        let failure = fetch(host).unwrap_err();
        assert!(failure.error.is_host_fault(), "{host}: {}", chain(&failure));
        assert_eq!(failure.attempts, 1);
        drop(taken);
    }
    assert_eq!(fetch("127.0.0.1").unwrap().bytes, 2 * MEMORY_LIMIT as u64);
}
