//! U10, P19: everything that can go wrong with a URL, an answer or a message, at the levels debug
//! and trace, and a search through all that the program says about it.
//!
//! This is the case at its hardest. The same search runs over the output of every program of every
//! test; see `support/secrets.rs`.

use std::sync::Mutex;

use ccx_data_pipeline::logging;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::archive_builder::Tar;
use crate::support::archive_server::Reply;
use crate::support::broker::Broker;
use crate::support::broker::batch::{LogRecord, NewRecord};
use crate::support::child::is_child;
use crate::support::program::Program;
use crate::support::secrets;
use crate::support::stage::{CLUSTER, Stage, archive, get, identity};
use crate::support::until::until;

/// In every secret here: signature, credential, token, user, password, object, identity.
const LEAK: &str = "leaky";

/// What a store writes into its refusals: the request and what was signed.
const REFUSAL: &str = "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>leaky-key\
    </AWSAccessKeyId><StringToSign>leaky-text</StringToSign><Resource>/leaky/object</Resource></Error>";

/// The query of a presigned URL.
const QUERY: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=leaky-credential%2F20260102\
    &X-Amz-Security-Token=leaky-token&X-Amz-Expires=86400&X-Amz-Signature=leaky5f4dcc3b5aa765d61";

/// Answers of the server that end badly, by the path that is asked for.
fn answers(stage: &Stage) -> Vec<String> {
    let leaks = [("Location", "http://127.0.0.1/leaky?X-Amz-Signature=leaky")];
    let typed = [("Content-Type", "text/html; charset=utf-8")];
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let id = Tar::new().file("config/id", CLUSTER);
    let mut paths = Vec::new();
    let mut answer = |name: &str, reply: Reply| {
        let path = format!("/leaky/object-{name}");
        stage.server.script(&path, [reply]);
        paths.push(path);
    };
    for status in [
        201, 204, 206, 304, 400, 401, 403, 404, 410, 418, 429, 451, 500, 502, 503,
    ] {
        let name = status.to_string();
        answer(&name, Reply::status(status, &typed, REFUSAL));
    }
    for status in [301, 302, 303, 307, 308] {
        let name = status.to_string();
        answer(&name, Reply::status(status, &leaks, REFUSAL));
    }
    answer("expired", Reply::status(403, &[], "Request has expired"));
    answer("xml", Reply::status(200, &typed, REFUSAL));
    answer("empty", Reply::ok(""));
    answer("cut", Reply::ok(&archive()[..60]));
    answer("evil", Reply::ok(id.clone().file("../evil", "x").gzip()));
    answer(
        "nobody",
        Reply::ok(Tar::new().file("config/version.json", "{}").gzip()),
    );
    answer("short", Reply::raw(short).then_send("leaky").then_close());
    answer("reset", Reply::nothing().then_reset());
    answer("silent", Reply::nothing().then_stall());
    answer(
        "no-http",
        Reply::raw("leaky leaky leaky\r\n\r\n").then_close(),
    );
    answer(
        "bad-status",
        Reply::raw("HTTP/1.1 leaky OK\r\n\r\n").then_close(),
    );
    answer(
        "bad-header",
        Reply::raw("HTTP/1.1 200 OK\r\nleaky\u{1}: \u{2}\r\n\r\n").then_close(),
    );
    answer(
        "bad-length",
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: leaky\r\n\r\n").then_close(),
    );
    let bomb = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "leaky".repeat(1 << 18));
    answer("bomb", Reply::raw(bomb).then_close());
    let huge = "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n";
    answer("huge", Reply::raw(huge).then_close());
    paths
}

/// URLs that are refused, or lead nowhere.
fn urls(port: u16) -> Vec<String> {
    [
        format!("http://leaky-user:leaky-pass@127.0.0.1:{port}/leaky?{QUERY}"),
        format!("https://leaky-user@example.org/leaky?{QUERY}"),
        format!("http://127.0.0.1:1/leaky?{QUERY}"),
        format!("http://127.0.0.1:{port}@example.org/leaky?{QUERY}"),
        format!("http://[::1]:{port}/leaky?{QUERY}"),
        format!("http://169.254.169.254/leaky?{QUERY}"),
        format!("http://no-such-name.invalid/leaky?{QUERY}"),
        format!("https://127.0.0.1:{port}/leaky?{QUERY}"),
        format!("ftp://127.0.0.1/leaky?{QUERY}"),
        format!("file:///leaky?{QUERY}"),
        format!("leaky?{QUERY}"),
        format!("http://127.0.0.1:leaky/?{QUERY}"),
        format!("http://127.0.0.1:{port}/leaky\u{1}\n?{QUERY}"),
        format!("http://127.0.0.1:{port}/leaky %zz?{QUERY}#leaky"),
        "http://[leaky".to_owned(),
        "leaky".repeat(20_000),
        String::new(),
    ]
    .to_vec()
}

/// Messages that are wrong around their secrets.
fn messages(stage: &Stage) -> Vec<NewRecord> {
    let good = stage.announcement("leaky-message", "/archive");
    let with = |field: &str, value: Value| {
        let mut message = good.clone();
        message["url"] = json!(format!("http://127.0.0.1:1/leaky?{QUERY}"));
        message[field] = value;
        // The id is said by design, the secrets beside it are not.
        message["request_id"] = json!("wrong");
        NewRecord::value(message.to_string())
    };
    let whole = good.to_string();
    let mut messages: Vec<NewRecord> = [20, 40, whole.len() / 2, whole.len() - 1]
        .map(|length| NewRecord::value(&whole[..length]))
        .to_vec();
    messages.push(NewRecord::value(format!("{whole},")));
    messages.push(NewRecord::value(format!("\"leaky {whole}")));
    messages.push(NewRecord::value("\"leaky\""));
    messages.push(with("url", json!(["leaky"])));
    messages.push(with("url", json!({"leaky": "leaky"})));
    messages.push(with("b64_identity", json!("leaky")));
    messages.push(with("b64_identity", json!("bGVha3k=leaky")));
    messages.push(with("b64_identity", json!({"leaky": 1})));
    messages.push(with("b64_identity", json!(identity("leaky-org"))));
    messages.push(with("timestamp", json!("leaky")));
    messages
}

/// What the program itself has put into a record.
fn own_headers(letter: &LogRecord) -> Vec<String> {
    let headers = letter.headers.iter();
    let ours = headers.filter(|(name, _)| name.starts_with(b"ccx-dlq-"));
    let text = |value: &Option<bytes::Bytes>| {
        String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned()
    };
    ours.map(|(_, value)| text(value)).collect()
}

#[test]
fn u10_p19_nothing_that_goes_wrong_tells_a_secret() {
    for (level, format) in [("debug", "text"), ("trace", "json")] {
        let broker = Broker::start();
        let stage = Stage::new(&broker.bootstrap(), 1, |name, partitions| {
            broker.create_topic(name, partitions);
        });
        let statuses = format!("statuses-{}", stage.group);
        broker.create_topic(&statuses, 1);
        let announced = |url: &str| {
            let mut message = stage.announcement("wrong", "/archive");
            message["url"] = json!(url);
            NewRecord::value(message.to_string())
        };
        let paths = answers(&stage);
        let asked = paths.iter().map(|path| stage.server.url(path));
        let urls = asked.map(|url| format!("{url}?{QUERY}"));
        let urls = urls.chain(self::urls(stage.server.port()));
        let mut records: Vec<NewRecord> = urls.map(|url| announced(&url)).collect();
        records.extend(messages(&stage));
        let all = records.len();
        broker.append(&stage.incoming, 0, records);

        let unlisted = "allow_unsafe_links = true\nresponse_timeout = \"500ms\"\nallowed_urls";
        let config = stage
            .config(&format!(
                "[watchers.payload_tracker]\nenabled = true\ntopic = \"{statuses}\"\n\
                 [logging]\nlevel = \"{level},ureq=trace,rustls=trace\"\nformat = \"{format}\"\n"
            ))
            .replace("allowed_urls", unlisted);
        let worker = Program::new(["run"])
            .config(&config)
            .without_breaker()
            .without_level()
            .env("HTTPS_PROXY", "http://leaky-user:leaky-pass@proxy:1")
            .start();
        let line = worker.line("metrics and health on ");
        let (_, url) = line.split_once("http://").unwrap();
        let endpoint = url.split(['"', ' ', '\n']).next().unwrap().to_owned();
        until("all are committed", || {
            broker.committed(&stage.group, &stage.incoming, 0) == Some(all as i64)
        });

        let letters = broker.all_records(&stage.dead_letters);
        assert_eq!(letters.len(), all, "each of them has failed");
        for letter in &letters {
            let ours = own_headers(letter).join("\n");
            assert!(!ours.contains(LEAK), "{ours}");
            assert!(!ours.contains("X-Amz"), "{ours}");
        }
        for path in ["/metrics", "/readyz", "/livez", "/leaky?leaky"] {
            let (_, body) = get(&endpoint, path);
            assert!(!body.contains(LEAK), "{path}: {body}");
        }
        worker.signal(Signal::TERM);
        let finished = worker.finish();
        assert_eq!(finished.code(), 0);
        for output in [&finished.stdout, &finished.stderr] {
            let leak = output.lines().find(|line| line.contains(LEAK));
            assert_eq!(leak, None);
            assert!(!output.contains("X-Amz"));
            assert!(!output.contains(&identity("7")));
        }
        let levels = match format {
            "json" => "\"DEBUG\"",
            _ => "[DEBUG]",
        };
        assert!(finished.stdout.contains(levels), "{level} was in force");
        for status in broker.all_records(&statuses) {
            assert!(!status.text().contains(LEAK), "{}", status.text());
        }
    }
}

/// What a panic says may quote what was being worked on.
#[test]
fn u10_a_panic_is_told_by_its_place_alone() {
    struct Said(Mutex<String>);
    static SAID: Said = Said(Mutex::new(String::new()));
    impl log::Log for Said {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            *self.0.lock().unwrap() += &format!("{}\n", record.args());
        }
        fn flush(&self) {}
    }
    if !is_child("secrets::u10_a_panic_is_told_by_its_place_alone") {
        return;
    }
    log::set_logger(&SAID).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    logging::log_panics();
    std::panic::catch_unwind(|| panic!("{LEAK}")).unwrap_err();
    let said = SAID.0.lock().unwrap().clone();
    assert!(said.starts_with("panicked at "), "{said}");
    assert!(
        said.contains("secrets.rs:") && !said.contains(LEAK),
        "{said}"
    );
}

#[test]
fn u10_the_search_over_all_output_finds_what_it_is_for() {
    secrets::register("only-this-test-has-it");
    for (text, found) in [
        ("nothing", None),
        ("GET /a?X-Amz-Signature=00", Some("X-Amz-Signature")),
        (
            "in only-this-test-has-it's words",
            Some("only-this-test-has-it"),
        ),
    ] {
        assert_eq!(secrets::find(text).as_deref(), found);
    }
    let searched = std::panic::catch_unwind(|| secrets::search("a line", "hunter2"));
    assert!(searched.is_err());
}

#[test]
fn p19_no_command_shows_a_secret_of_its_configuration() {
    let config = "[consumer]\nbootstrap_servers = ['leaky-user:leaky-pass@host:9092']\n\
                  [downloader]\nallowed_urls = ['https://leaky-user:leaky-pass@host/.+']\n\
                  [consumer.security]\npassword = 'leaky-pass'\n";
    for command in ["check", "run", "health"] {
        let finished = Program::new([command])
            .config(config)
            .env("CCX_DATA_PIPELINE__LOGGING__LEVEL", "trace")
            .env("CCX_DATA_PIPELINE__PUBLISHER__SECURITY__PASSWORD", "leaky")
            .env("HTTPS_PROXY", "http://leaky-user:leaky-pass@proxy:1")
            .finish();
        assert_eq!(finished.code(), 78, "{command}: {}", finished.stdout);
        let all = format!("{}{}", finished.stdout, finished.stderr);
        assert!(!all.contains(LEAK), "{command}: {all}");
    }
}
