//! Commands, exit codes, signals and logs of the real binary.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use ccx_data_pipeline::shutdown::Shutdown;
use rustix::process::Signal;

use crate::support::program::{Program, pipe};

/// A worker that touches nothing beyond its process.
/// Port 1 of the loopback: nobody listens, and a worker goes on trying.
const CONFIG: &str = "[consumer]\nbootstrap_servers = ['127.0.0.1:1']\n\
                      [watchers.stats]\naddress = '127.0.0.1'\nport = 0\n";

fn worker() -> Program {
    Program::new(["run"]).config(CONFIG)
}

#[test]
fn usage_errors_end_with_2_and_help_with_0() {
    for (arguments, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["help", "analyze"], 0),
        (&[], 2),
        (&["redrive", "--reason", "bad_luck"], 2),
        (&["redrive", "--limit", "some"], 2),
        (&["run", "--colour"], 2),
        (&["check", "--config"], 2),
        (&["analyze"], 2),
        (&["analyze", "--reference-time", "yesterday", "a.tar.gz"], 2),
        (&["rules", "--format", "xml"], 2),
    ] {
        let finished = Program::new(arguments).finish();
        assert_eq!(finished.code(), code, "{arguments:?}: {}", finished.stderr);
        assert_eq!(finished.stdout.is_empty(), code != 0, "{arguments:?}");
    }
}

#[test]
fn the_version_names_program_commit_and_rules() {
    let version = Program::new(["--version"]).finish().stdout;
    let words = concat!("ccx-data-pipeline ", env!("CARGO_PKG_VERSION"), " (commit ");
    assert!(version.starts_with(words), "{version}");
    assert!(version.contains(", rules "), "{version}");
}

#[test]
fn the_first_signal_ends_the_worker_cleanly() {
    for (signal, name) in [
        (Signal::TERM, "SIGTERM"),
        (Signal::INT, "SIGINT"),
        (Signal::HUP, "SIGHUP"),
    ] {
        let running = worker().start();
        running.line("started");
        running.signal(signal);
        let finished = running.finish();
        assert_eq!(finished.code(), 0, "{}", finished.stdout);
        assert!(finished.stdout.contains(name), "{}", finished.stdout);
        assert_eq!(finished.stderr, "");
    }
}

#[test]
fn a_hangup_that_was_ignored_at_the_start_stays_so() {
    let running = Program::behind("trap '' HUP", ["run"])
        .config(CONFIG)
        .start();
    running.line("started");
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    let finished = running.finish();
    assert_eq!(finished.code(), 0, "the first that counts");
    assert!(finished.stdout.contains("SIGTERM"), "{}", finished.stdout);
}

#[test]
fn a_worker_with_a_blocked_or_closed_log_ends_all_the_same() {
    // Full from the start, and nobody reads.
    let (unread, write) = pipe();
    fill(&write);
    let blocked = worker()
        .env("CCX_DATA_PIPELINE__LOGGING__LEVEL", "trace")
        .stdout(write)
        .start();
    // Nobody can read any more.
    let (read, write) = pipe();
    drop(read);
    let closed = worker().stdout(write).start();
    for running in [blocked, closed] {
        wait_for_handlers(running.pid());
        running.signal(Signal::TERM);
        assert_eq!(running.finish().code(), 0);
    }
    drop(unread);
}

/// Fills a pipe to the last byte.
fn fill(mut pipe: &std::fs::File) {
    let flags = rustix::fs::fcntl_getfl(pipe).unwrap();
    rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while pipe.write(&vec![b'x'; size]).is_ok() {}
    }
    rustix::fs::fcntl_setfl(pipe, flags).unwrap();
}

/// Waits until the process catches SIGTERM, as `/proc` tells.
fn wait_for_handlers(pid: u32) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap();
        if caught & (1 << (15 - 1)) != 0 && caught & (1 << (2 - 1)) != 0 {
            return;
        }
        assert!(std::time::Instant::now() < end, "no handlers");
        std::thread::yield_now();
    }
}

/// Set in a child that a test makes of this very test program.
const CHILD: &str = "CCX_TEST_CHILD";

/// This test program once more, with one test. It ends at the latest when its input is closed,
/// so with this process.
fn this_test_as_child(test: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn the_second_signal_ends_at_once() {
    if std::env::var_os(CHILD).is_some() {
        never_ending_drain();
    }
    for (first, second, code) in [
        (Signal::TERM, Signal::TERM, 143),
        (Signal::TERM, Signal::INT, 130),
        (Signal::INT, Signal::INT, 130),
    ] {
        let mut child = this_test_as_child("cli::the_second_signal_ends_at_once");
        // Taken out, since waiting for a child closes what it still has.
        let _input = child.stdin.take();
        let pid = rustix::process::Pid::from_child(&child);
        let mut told = child.stderr.take().unwrap();
        let mut wait_for = |word: &[u8; 6]| {
            let mut said = [0; 6];
            told.read_exact(&mut said).unwrap();
            assert_eq!(&said, word);
        };
        wait_for(b"ready\n");
        rustix::process::kill_process(pid, first).unwrap();
        wait_for(b"drain\n");
        rustix::process::kill_process(pid, second).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

/// What a worker does that is never done.
fn never_ending_drain() -> ! {
    let shutdown = Shutdown::on_signals().unwrap();
    eprintln!("ready");
    std::thread::spawn(move || {
        while !shutdown.is_requested() {
            std::thread::yield_now();
        }
        eprintln!("drain");
    });
    let _ = std::io::stdin().read(&mut [0]);
    std::process::abort();
}

#[test]
fn a_panic_tells_its_place_and_keeps_its_message() {
    if std::env::var_os(CHILD).is_some() {
        ccx_data_pipeline::logging::log_panics();
        let thread = std::thread::Builder::new().name("a-task".into());
        let task = thread.spawn(|| panic!("while fetching https://hunter2"));
        assert!(task.unwrap().join().is_err());
        return;
    }
    let child = this_test_as_child("cli::a_panic_tells_its_place_and_keeps_its_message");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("panicked at tests/it/cli.rs:"), "{said}");
    assert!(said.contains("a-task"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn health_tells_what_it_was_told() {
    let ask = |port: u16| {
        Program::new(["health"])
            .config(&format!("[watchers.stats]\nport = {port}\n"))
            // Never through a proxy.
            .env("http_proxy", "http://127.0.0.1:1")
            .finish()
    };
    for (status, body, code) in [
        (200, "fine\n", 0),
        (503, "a task is stuck\n", 1),
        (302, "elsewhere\n", 1),
    ] {
        let server = tiny_http::Server::http("127.0.0.1:0").unwrap();
        let port = server.server_addr().to_ip().unwrap().port();
        let finished = std::thread::scope(|scope| {
            scope.spawn(|| {
                let request = server.recv().unwrap();
                assert_eq!(request.url(), "/livez");
                let response = tiny_http::Response::from_string(body).with_status_code(status);
                let _ = request.respond(response);
            });
            ask(port)
        });
        assert_eq!(finished.code(), code, "{}", finished.stderr);
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(said.contains(body.trim()), "{said}");
    }

    // A port that was ours a moment ago and is bound by nobody else: nothing listens there.
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = bound.local_addr().unwrap().port();
    drop(bound);
    assert_eq!(ask(port).code(), 69);

    let none = Program::new(["health"])
        .config("[watchers.stats]\nenabled = false\n")
        .finish();
    assert_eq!(none.code(), 78);
    assert!(
        none.stderr.contains("watchers.stats.enabled"),
        "{}",
        none.stderr
    );
}

#[test]
fn json_logs_are_one_object_a_line() {
    let running = worker()
        .env("CCX_DATA_PIPELINE__LOGGING__FORMAT", "json")
        .start();
    running.line("started");
    running.signal(Signal::TERM);
    let finished = running.finish();
    let mut lines = 0;
    for line in finished.stdout.lines() {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let keys: Vec<_> = object.keys().take(4).map(String::as_str).collect();
        assert_eq!(
            keys,
            ["@timestamp", "levelname", "name", "message"],
            "{line}"
        );
        lines += 1;
    }
    assert!(lines >= 2, "{}", finished.stdout);
    assert_eq!(finished.stderr, "");
}
