//! What archives and messages hold, all the way through the program: broken and deep documents,
//! names and texts that want to be more than that.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::archive_builder::Tar;
use crate::support::broker::Broker;
use crate::support::broker::batch::NewRecord;
use crate::support::program::{Finished, Program, Running};
use crate::support::stage::{CLUSTER, Stage, endpoint, get, metric, value};
use crate::support::until::until;

fn stage(broker: &Broker) -> Stage {
    Stage::new(&broker.bootstrap(), 1, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

#[track_caller]
fn settled(broker: &Broker, stage: &Stage, records: i64) {
    until("all are committed", || {
        broker.committed(&stage.group, &stage.incoming, 0) == Some(records)
    });
}

fn finish(worker: Running) -> Finished {
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    finished
}

/// Every file that some rule reads, from the program's own list, with an `x` for each `*`.
fn files_of_rules() -> Vec<String> {
    let rules = Program::new(["rules", "--format", "json"]).finish();
    let rules: Vec<Value> = serde_json::from_str(&rules.stdout).unwrap();
    let files = rules.iter().flat_map(|r| r["files"].as_array().unwrap());
    let files: BTreeSet<String> = files
        .map(|file| file.as_str().unwrap().replace('*', "x"))
        .collect();
    assert!(files.len() > 50, "{files:?}");
    files
        .into_iter()
        .filter(|file| file != "config/id")
        .collect()
}

#[test]
fn a28_a_broken_document_counts_as_absent_and_the_others_are_read() {
    const MANY: usize = 30;
    let broker = Broker::start();
    let stage = stage(&broker);
    let version = json!({"status": {"desired": {"version": "4.14.3"},
        "history": [{"state": "Completed", "version": "4.14.3"}]}});
    let node = r#"{"metadata": {"name": "a"}, "status": {"capa"#;
    let whole = Tar::new()
        .file("config/id", CLUSTER)
        .file("config/version.json", version.to_string());
    let broken = whole.clone().file("config/node/a.json", node);
    let not_json = whole.clone().file("config/node/a.json", "<html>no</html>");
    let many = (0..MANY).fold(whole.clone(), |tar, n| {
        tar.file(format!("config/node/n{n}.json"), node)
    });
    stage.server.serve("/whole", whole.gzip());
    stage.server.serve("/cut", broken.gzip());
    stage.server.serve("/html", not_json.gzip());
    stage.server.serve("/many", many.gzip());
    let paths = ["/whole", "/cut", "/html", "/many"];
    broker.append(&stage.incoming, 0, paths.map(|p| stage.record(p, p)));
    let worker = stage.worker("");
    settled(&broker, &stage, 4);
    assert_eq!(broker.all_records(&stage.dead_letters).len(), 0);

    let report = |id: &str| {
        let results = broker.all_records(&stage.outgoing);
        let found = results.iter().map(value).find(|r| r["RequestId"] == id);
        let mut report = found.unwrap()["Report"].take();
        // All that differs are times.
        report["analysis_metadata"].take();
        report
    };
    // The same as without the document, skips included.
    let absent = report("/whole");
    let skips = absent["skips"].as_array().unwrap();
    let text = absent["skips"].to_string();
    assert!(
        !skips.is_empty() && text.contains("models.nodes.Nodes"),
        "{text}"
    );
    assert_eq!(report("/cut"), absent);
    assert_eq!(report("/html"), absent);
    assert_eq!(report("/many"), absent);

    let damaged = metric(&endpoint(&worker), "ccx_documents_damaged_total");
    assert_eq!(damaged, Some((2 + MANY) as f64));
    let finished = finish(worker);
    let lines = finished.stdout.lines();
    let lines = lines.filter(|line| line.contains("is damaged and counts as absent"));
    // Twenty of one archive are named, all of them are counted.
    assert_eq!(lines.count(), 2 + 20, "{}", finished.stdout);
}

/// Deep nesting in every document of every rule, in each of the forms that a parser could follow.
/// A stack that overflows would end the process, and with it this test.
#[test]
fn a29_deep_documents_are_damage_and_no_end_of_the_process() {
    const DEPTH: usize = 100_000;
    let broker = Broker::start();
    let stage = stage(&broker);
    let workloads = format!("workloads-{}", stage.group);
    broker.create_topic(&workloads, 1);
    let nested = |open: &str, close: &str| open.repeat(DEPTH) + &close.repeat(DEPTH);
    let lists = nested("[", "]");
    let yaml: String = (0..1000).map(|n| " ".repeat(n) + "a:\n").collect();
    let texts = [
        "[".repeat(DEPTH),
        lists.clone(),
        nested("{\"a\":", "}").replace(":}", ":1}"),
        format!("{{\"unknown\":{lists}}}"),
        format!("{{\"items\":{lists},\"status\":{lists},\"spec\":{lists},\"metadata\":{lists}}}"),
        format!("{{\"status\":{{\"conditions\":{lists},\"history\":{lists}}}}}"),
        format!("[{{\"labels\":{lists},\"name\":{lists}}}]"),
        nested("{a: ", "}"),
        nested("- ", ""),
        yaml,
        format!(
            "up{{a={}\"b\"{}}} 1\n",
            "{".repeat(DEPTH),
            "}".repeat(DEPTH)
        ),
        nested("(", ")"),
    ];
    let files = files_of_rules();
    let mut records = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let tar = Tar::new().file("config/id", CLUSTER);
        let tar = files.iter().fold(tar, |tar, file| tar.file(file, text));
        let path = format!("/deep-{number}");
        stage.server.serve(&path, tar.gzip());
        records.push(stage.record(&path, &path));
    }
    broker.append(&stage.incoming, 0, records);
    // Unoptimised code on a busy machine: what counts is the end, not when.
    let config = stage
        .config("[engine]\nmax_ratio = 5000\narchive_deadline = \"1h\"\n[engine.rules]\nprofile = \"internal\"\n")
        .replace(
            "[publisher]",
            &format!("[publisher]\nworkloads_topic = \"{workloads}\""),
        );
    let worker = Program::new(["run"]).config(&config).start();
    let all = texts.len();
    settled(&broker, &stage, all as i64);
    let letters = broker.all_records(&stage.dead_letters);
    let reasons = letters.iter().map(|l| l.header("ccx-dlq-message"));
    assert_eq!(letters.len(), 0, "{:?}", reasons.collect::<Vec<_>>());
    assert_eq!(broker.all_records(&stage.outgoing).len(), all);
    let endpoint = endpoint(&worker);
    let damaged = metric(&endpoint, "ccx_documents_damaged_total").unwrap();
    // All JSON documents of most texts.
    assert!(damaged > (5 * files.len()) as f64, "{damaged}");
    let (_, metrics) = get(&endpoint, "/metrics");
    let failures = metrics
        .lines()
        .filter(|l| l.starts_with("ccx_rule_failures_total"));
    let failed: Vec<_> = failures.filter(|line| !line.ends_with(" 0")).collect();
    assert_eq!(failed, Vec::<&str>::new());
    finish(worker);
}

/// Texts that try to end a line, start another one, colour it, or fill the log.
const INJECTED: [&str; 6] = [
    "a\n2026-01-01T00:00:00.000Z [ERROR] injected: x=y",
    "a\r\n{\"levelname\":\"ERROR\",\"message\":\"injected\"}",
    "a\"},{\"injected\":\"",
    "\u{1b}[31minjected\u{1b}[0m\u{7}\u{0}",
    "injected\u{2028}\u{202e}injected",
    "# TYPE injected counter\ninjected{a=\"b\"} 1",
];

#[test]
fn m15_a16_texts_from_outside_stay_within_their_line_and_out_of_labels() {
    for format in ["json", "text"] {
        let broker = Broker::start();
        let stage = stage(&broker);
        let texts: Vec<String> = INJECTED
            .iter()
            .map(|text| (*text).to_owned())
            .chain(["injected".repeat(100 << 7), "\n".repeat(10_000)])
            .collect();
        let mut records = Vec::new();
        for (number, text) in texts.iter().enumerate() {
            // Names of members: one that is read and broken, one that is refused.
            let name = text.replace('\0', "").replace(['/', '\n'], "\r");
            let name = &name[..name.floor_char_boundary(200)];
            let tar = Tar::new().file("config/id", CLUSTER);
            let broken = tar.clone().file(format!("config/node/{name}.json"), "{");
            let refused = tar.file(format!("../{name}"), "x");
            let remote = json!({"version": text}).to_string();
            let broken = broken.file("insights-operator/remote-configuration.json", remote);
            for (kind, tar) in [("broken", broken), ("refused", refused)] {
                let path = format!("/{kind}-{number}");
                stage.server.serve(&path, tar.gzip());
                let mut message = stage.announcement("x", &path);
                message["request_id"] = json!(text);
                message["cluster_name"] = json!(text);
                message["service"] = json!(text);
                let record = NewRecord::keyed(text.clone(), message.to_string());
                records.push(
                    record
                        .header("service", Some(text.as_bytes()))
                        .header("traceparent", Some(text.as_bytes())),
                );
            }
            let mut wrong = stage.announcement("x", "/archive");
            wrong["request_id"] = json!(text);
            wrong["url"] = json!(format!("http://{text}/"));
            wrong["timestamp"] = json!(text);
            records.push(NewRecord::value(wrong.to_string()));
        }
        let all = records.len();
        broker.append(&stage.incoming, 0, records);
        let logging = format!("[logging]\nformat = \"{format}\"\n");
        let worker = stage.worker(&logging);
        settled(&broker, &stage, all as i64);
        let letters = broker.all_records(&stage.dead_letters);
        let mut reasons = BTreeMap::<String, usize>::new();
        for letter in &letters {
            let header = |name: &str| letter.header(name).unwrap();
            let reason = header("ccx-dlq-reason");
            let message = header("ccx-dlq-message");
            assert!(message.len() <= 1024, "{} bytes", message.len());
            *reasons.entry(reason).or_default() += 1;
        }
        let wanted = ["archive_unsafe", "timestamp"].map(|r| (r.to_owned(), texts.len()));
        assert_eq!(reasons, BTreeMap::from(wanted));
        assert_eq!(broker.all_records(&stage.outgoing).len(), texts.len());

        // A version that an archive names is a label by contract, cut and counted: all others not.
        let endpoint = match format {
            "json" => {
                let line = worker.line("metrics and health on ");
                let (_, url) = line.split_once("http://").unwrap();
                url.split('"').next().unwrap().to_owned()
            }
            _ => endpoint(&worker),
        };
        let (_, metrics) = get(&endpoint, "/metrics");
        for line in metrics.lines() {
            let by_contract = "gathering_conditions_remote_configuration_version_total{";
            let known = [
                "ccx_",
                "kafka_consumer_lag",
                "process_",
                "# HELP ",
                "# TYPE ",
            ];
            assert!(
                line.starts_with(by_contract) && line.len() < 256
                    || known.iter().any(|k| line.starts_with(k)) && !line.contains("injected"),
                "{line:?}"
            );
        }

        let finished = finish(worker);
        for line in finished.stdout.lines() {
            assert!(line.len() < 16 << 10, "{} bytes", line.len());
            let control = |c: char| c.is_control() || c == '\u{2028}' || c == '\u{202e}';
            assert!(!line.contains(control), "{line:?}");
            if format == "json" {
                let object: Value = serde_json::from_str(line).unwrap();
                assert_ne!(object["message"], "injected");
                assert!(object.get("injected").is_none(), "{line}");
            } else {
                // A time begins each line, and a module that there is.
                assert!(line.starts_with("20") && line.contains("Z ["), "{line}");
            }
        }
        // The outcome of each record, and no record took two lines for it.
        let outcomes = finished.stdout.matches("outcome").count();
        assert!(outcomes >= all, "{outcomes}");
    }
}

#[test]
fn a14_long_and_deep_names_are_refused_or_read_and_never_more() {
    let broker = Broker::start();
    let stage = stage(&broker);
    let deep = "d/".repeat(10_000) + "x";
    let longest = "l/".repeat(3000);
    // Each of the first three is over one limit and within the others.
    let refused = [
        (
            "/levels",
            "d/".repeat(64) + "x",
            "is over 64 directories deep",
        ),
        (
            "/component",
            "n".repeat(256),
            "has a component over 255 bytes",
        ),
        (
            "/bytes",
            vec!["b".repeat(250); 20].join("/"),
            "is over 4096 bytes",
        ),
        ("/deep", deep, "is over"),
        ("/longest", longest, "is over"),
    ];
    let read = [
        ("/as-deep-as-may-be", "d/".repeat(63) + "x"),
        ("/as-long-as-may-be", vec!["b".repeat(255); 16].join("/")),
    ];
    let serve = |path: &str, name: &str| {
        let tar = Tar::new().file("config/id", CLUSTER).file(name, "x");
        stage.server.serve(path, tar.gzip());
        broker.append(&stage.incoming, 0, [stage.record(path, path)]);
    };
    for (path, name, _) in &refused {
        serve(path, name);
    }
    for (path, name) in &read {
        serve(path, name);
    }
    let worker = stage.worker("");
    settled(&broker, &stage, (refused.len() + read.len()) as i64);
    let letters = broker.all_records(&stage.dead_letters);
    let id = |letter| value(letter)["request_id"].as_str().unwrap().to_owned();
    let told: BTreeMap<String, _> = letters.iter().map(|letter| (id(letter), letter)).collect();
    assert_eq!(told.len(), refused.len());
    for (path, _, why) in &refused {
        let letter = told[*path];
        let reason = letter.header("ccx-dlq-reason");
        assert_eq!(reason.as_deref(), Some("archive_unsafe"), "{path}");
        let message = letter.header("ccx-dlq-message").unwrap();
        assert!(message.contains(why), "{path}: {message}");
        assert!(message.len() <= 1024, "{message}");
    }
    assert_eq!(broker.all_records(&stage.outgoing).len(), read.len());
    finish(worker);
}
