//! The endpoint for metrics and health, also under hostile clients.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ccx_data_pipeline::backoff::sleep_unless;
use ccx_data_pipeline::error::chain;
use ccx_data_pipeline::telemetry::health::{Fault, Health};
use ccx_data_pipeline::telemetry::server::{Error, Server};

use crate::support::child::{is_child, limit_descriptors, take_descriptors};

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const METRICS: &str = "# TYPE a counter\na 1\n";

fn started(health: &Arc<Health>) -> Server {
    Server::start(ANY_PORT, || METRICS.to_owned(), Arc::clone(health)).unwrap()
}

/// What comes back for these bytes, until the server closes.
fn exchange(server: &Server, request: &[u8]) -> io::Result<String> {
    let mut client = TcpStream::connect(server.local_addr())?;
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    client.write_all(request)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Status and body.
fn get(server: &Server, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = exchange(server, request.as_bytes()).unwrap();
    let status = status(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1);
    status
        .unwrap_or_else(|| panic!("no status: {answer:?}"))
        .parse()
        .unwrap()
}

/// The threads of this process that serve connections of clients.
fn client_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.flat_map(|task| std::fs::read_to_string(task.path().join("comm")));
    // The kernel cuts names at 15 bytes.
    names
        .filter(|name| name.trim_end() == "endpoint-client")
        .count()
}

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_for(Duration::from_secs(60), what, condition);
}

fn wait_for(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        sleep_unless(Duration::from_millis(20), || false);
    }
}

#[test]
fn metrics_and_health() {
    let health = Arc::new(Health::new());
    let server = started(&health);
    assert_eq!(get(&server, "/metrics"), (200, METRICS.to_owned()));
    assert_eq!(get(&server, "/metrics?name=a"), (200, METRICS.to_owned()));
    assert_eq!(get(&server, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(get(&server, "/readyz").0, 503);
    health.membership(None);
    assert_eq!(get(&server, "/readyz"), (200, "ok\n".to_owned()));
    let _raised = health.raise(Fault::Host, "no space\nleft on device".to_owned());
    assert_eq!(
        get(&server, "/readyz"),
        (503, "host: no space left on device\n".to_owned())
    );
    assert_eq!(get(&server, "/livez").0, 200);
    health.stuck("the task of upload-0 offset 7 is stuck".to_owned());
    assert_eq!(get(&server, "/livez").0, 503);
    for path in [
        "/",
        "/metric",
        "/metrics/",
        "/METRICS",
        "/livez/x",
        "//livez",
    ] {
        assert_eq!(get(&server, path).0, 404, "{path}");
    }
}

#[test]
fn other_methods_and_versions() {
    let server = started(&Arc::default());
    for method in [
        "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW",
    ] {
        let request = format!("{method} /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
        let answer = exchange(&server, request.as_bytes()).unwrap();
        assert_eq!(status(&answer), 405, "{method}");
        assert!(answer.contains("Allow: GET\r\n"), "{answer}");
    }
    let old = exchange(&server, b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(status(&old), 200);
    assert!(old.ends_with(METRICS) && !old.contains("chunked"), "{old}");
    // What an old client sends by hand.
    assert_eq!(
        status(&exchange(&server, b"GET /livez HTTP/1.1\n\n").unwrap()),
        200
    );
    for bad in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET /livez\r\n\r\n",
        "GET /livez HTTP/3\r\n\r\n",
        "get /livez HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}\n\n",
    ] {
        assert_eq!(
            status(&exchange(&server, bad.as_bytes()).unwrap()),
            400,
            "{bad:?}"
        );
    }
    assert_eq!(get(&server, "/livez").0, 200);
}

#[test]
fn large_metrics_come_whole_and_a_panic_costs_one_answer() {
    let calls = AtomicUsize::new(0);
    let text = "a_metric{label=\"value\"} 1\n".repeat(100_000);
    let expected = text.clone();
    let metrics = move || {
        assert!(
            calls.fetch_add(1, Ordering::SeqCst) != 1,
            "a registry that fails"
        );
        text.clone()
    };
    let server = Server::start(ANY_PORT, metrics, Arc::default()).unwrap();
    assert_eq!(get(&server, "/metrics"), (200, expected.clone()));
    assert_eq!(get(&server, "/metrics").0, 500);
    assert_eq!(get(&server, "/metrics"), (200, expected));
}

#[test]
fn p15_an_address_in_use_is_named() {
    let taken = TcpListener::bind(ANY_PORT).unwrap();
    let address = taken.local_addr().unwrap();
    let error = Server::start(address, String::new, Arc::default()).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error:?}");
    let text = chain(&error);
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("watchers.stats"), "{text}");
}

#[test]
fn p15_port_0_is_chosen_and_given_back() {
    let server = started(&Arc::default());
    let address = server.local_addr();
    assert_ne!(address.port(), 0);
    drop(server);
    assert!(
        TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
    Server::start(address, String::new, Arc::default()).unwrap();
}

#[test]
fn p15_an_unspecified_address_ends_too() {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let Ok(server) = Server::start(any.parse().unwrap(), String::new, Arc::default()) else {
            // A machine without IPv6.
            assert!(any.starts_with('['));
            continue;
        };
        drop(server);
    }
}

#[test]
fn p16_a_thousand_connections() {
    let server = started(&Arc::default());
    let mut open = Vec::new();
    for _ in 0..1_000 {
        // Some are refused: that is what the bound is for.
        if let Ok(client) = TcpStream::connect(server.local_addr()) {
            open.push(client);
        }
        // Other tests of this process have a few of these threads of their own.
        assert!(client_threads() <= 4 * 32, "threads grow with connections");
    }
    // Whoever has a place loses it after five seconds, though it says nothing; the others have
    // made room.
    let start = Instant::now();
    for client in &mut open {
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let ended = client.read(&mut [0]);
        assert!(!matches!(ended, Ok(1..)), "an answer without a request");
        assert!(
            !ended.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock),
            "still open after {:?}",
            start.elapsed()
        );
    }
    assert_eq!(get(&server, "/livez").0, 200, "and it serves as before");
}

/// A liveness probe that is not answered ends the process.
#[test]
fn p16_whoever_keeps_a_place_for_nothing_makes_room() {
    let server = started(&Arc::default());
    // Says nothing, stops in the middle, and stays after it was refused.
    for said in ["", "GET /livez HTTP/1.1\r\n", "\n\n"] {
        let hold = || {
            let mut client = TcpStream::connect(server.local_addr()).unwrap();
            client.write_all(said.as_bytes()).unwrap();
            client
        };
        let mut held: Vec<TcpStream> = (0..100).map(|_| hold()).collect();
        for _ in 0..3 {
            assert_eq!(get(&server, "/livez").0, 200, "{said:?}");
            assert_eq!(get(&server, "/metrics").0, 200, "{said:?}");
            held.push(hold());
        }
    }
}

#[test]
fn p16_whoever_does_not_read_its_answer_makes_room() {
    // More than the system takes off our hands.
    let metrics = || "x".repeat(4 << 20);
    let server = Server::start(ANY_PORT, metrics, Arc::default()).unwrap();
    let held: Vec<TcpStream> = (0..32)
        .map(|_| {
            let mut client = TcpStream::connect(server.local_addr()).unwrap();
            client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            assert_eq!(client.peek(&mut [0]).unwrap(), 1);
            client
        })
        .collect();
    assert_eq!(get(&server, "/livez").0, 200);
    drop(held);
}

#[test]
fn p16_whoever_waits_for_an_answer_keeps_its_place() {
    let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
    let closed = gate.lock().unwrap();
    let metrics = {
        let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            drop(gate.lock());
            METRICS.to_owned()
        }
    };
    let server = Server::start(ANY_PORT, metrics, Arc::default()).unwrap();
    let mut first = TcpStream::connect(server.local_addr()).unwrap();
    first.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    wait_until("it is asked", || asked.load(Ordering::SeqCst) == 1);
    let mut silent: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(server.local_addr()).unwrap())
        .collect();
    wait_until("others make room", || is_closed(&mut silent[0]));
    drop(closed);
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(METRICS), "{answer:?}");
}

#[test]
fn p16_one_byte_at_a_time() {
    let server = started(&Arc::default());
    let mut client = TcpStream::connect(server.local_addr()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut ended = false;
    // Each byte comes in time for a limit on single reads, all together never end.
    for byte in b"GET /metrics HTTP/1.1\r\nX: "
        .iter()
        .chain(std::iter::repeat_n(&b'x', 500))
    {
        ended = client.write_all(&[*byte]).is_err() || matches!(client.read(&mut [0; 64]), Ok(0));
        if ended {
            break;
        }
    }
    assert!(ended, "a slow client keeps its place");
    assert_eq!(get(&server, "/livez").0, 200);
}

#[test]
fn p16_a_client_that_does_not_read() {
    let text = "x".repeat(32 * 1024 * 1024);
    let server = Server::start(ANY_PORT, move || text.clone(), Arc::default()).unwrap();
    let mut lazy = TcpStream::connect(server.local_addr()).unwrap();
    lazy.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    // Others are served meanwhile.
    for _ in 0..3 {
        assert_eq!(get(&server, "/livez").0, 200);
    }
    // Its time is over before its answer is.
    wait_until("a lazy client loses its place", || client_threads() == 0);
    drop(lazy);
}

#[test]
fn p16_a_request_line_of_a_megabyte() {
    let server = started(&Arc::default());
    for length in [8 * 1024, 100_000, 1024 * 1024] {
        let request = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(length));
        match exchange(&server, request.as_bytes()) {
            Ok(answer) => assert_eq!(status(&answer), 431),
            // Closed before all of it was written.
            Err(error) => assert!(length > 256 * 1024, "{length}: {error}"),
        }
    }
    let headers = format!("GET /livez HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2_000));
    assert_eq!(status(&exchange(&server, headers.as_bytes()).unwrap()), 431);
    let fits = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(8_000));
    assert_eq!(status(&exchange(&server, fits.as_bytes()).unwrap()), 200);
}

/// Everything that this process has logged.
struct Said(Mutex<String>);

static SAID: Said = Said(Mutex::new(String::new()));

impl Said {
    fn count(&self, words: &str) -> usize {
        self.0.lock().unwrap().matches(words).count()
    }
}

/// A request whose answer is not waited for long: it may never come.
fn knock(server: &Server) {
    let asked = TcpStream::connect(server.local_addr()).and_then(|mut client| {
        client.set_read_timeout(Some(Duration::from_millis(50)))?;
        client.write_all(b"GET /livez HTTP/1.1\r\n\r\n")?;
        client.read_to_end(&mut Vec::new())
    });
    // Whatever comes of it.
    drop(asked);
}

fn is_closed(client: &mut TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let read = client.read(&mut [0]);
    !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl log::Log for Said {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        *self.0.lock().unwrap() += &format!("{}\n", record.args());
    }

    fn flush(&self) {}
}

/// One after the other is out of descriptors, says so, and is well again once there are some: who
/// takes connections, tiny_http, and who builds it anew.
#[test]
fn p10_whoever_runs_out_of_descriptors_goes_on() {
    if !is_child("endpoint::p10_whoever_runs_out_of_descriptors_goes_on") {
        return;
    }
    log::set_logger(&SAID).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let server = started(&Arc::default());
    // Not /livez, which misses the poll loop after a minute.
    let serves = || {
        exchange(&server, b"GET /metrics HTTP/1.1\r\n\r\n")
            .is_ok_and(|answer| answer.contains(" 200 "))
    };
    assert!(serves());
    limit_descriptors(64);
    const AGAIN: &str = "the endpoint is built again: ";
    const UNANSWERED: &str = "the endpoint is built again: it does not answer";

    // Who waits for a connection has a descriptor for it already. So somebody comes in, says
    // nothing, and there is none for the next one. That is tried ten times a second.
    let refused = || SAID.count("the endpoint cannot take a connection");
    let began = Instant::now();
    let mut taken = take_descriptors();
    let mut idle: Option<TcpStream> = None;
    wait_until("no connection can be taken, ten times", || {
        // Its time may be over before that.
        if idle.as_mut().is_none_or(is_closed) {
            taken.pop();
            idle = TcpStream::connect(server.local_addr()).ok();
        }
        taken.extend(take_descriptors());
        refused() >= 10
    });
    assert!(began.elapsed() > Duration::from_millis(500), "and no more");
    drop((taken, idle));
    wait_until("it serves again", serves);

    // Enough for a request to reach tiny_http, and not for the next one; or not even for that; and
    // then none for a while.
    let by_error = || SAID.count(AGAIN) > SAID.count(UNANSWERED);
    let unanswered = || SAID.count(UNANSWERED) > 0;
    let not_built = || SAID.count("the endpoint cannot be built again") > 0;
    let signs: [(&str, &dyn Fn() -> bool); 3] = [
        ("tiny_http ends", &by_error),
        ("tiny_http does not answer", &unanswered),
        ("tiny_http cannot be built", &not_built),
    ];
    let mut free = 0;
    let mut ends = 0;
    for (what, so) in signs {
        let mut taken = take_descriptors();
        // Which step fails is left to chance each time, and on a busy machine a try takes long.
        wait_for(Duration::from_secs(240), what, || {
            taken.extend(take_descriptors());
            if SAID.count(AGAIN) > ends {
                ends = SAID.count(AGAIN);
                sleep_unless(Duration::from_secs(1), so);
            } else {
                free = free % 8 + 1;
                taken.truncate(taken.len() - free);
                knock(&server);
            }
            so()
        });
        drop(taken);
        wait_until("it serves again", serves);
    }
}

#[test]
fn p10_descriptors_run_out() {
    if !is_child("endpoint::p10_descriptors_run_out") {
        return;
    }
    let server = started(&Arc::default());
    assert_eq!(get(&server, "/livez").0, 200);
    limit_descriptors(64);
    // With every number of free descriptors another step fails: ours to accept, to connect, or
    // one of tiny_http's, which ends it.
    for free in 0..8 {
        let mut taken = take_descriptors();
        taken.truncate(taken.len() - free);
        let _ = exchange(&server, b"GET /livez HTTP/1.1\r\n\r\n");
        drop(taken);
        wait_until("it serves again", || {
            exchange(&server, b"GET /metrics HTTP/1.1\r\n\r\n")
                .is_ok_and(|answer| answer.contains(" 200 "))
        });
    }
}
