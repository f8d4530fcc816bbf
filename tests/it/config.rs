//! Configuration as a user meets it: files, variables, `check`.

use std::io::ErrorKind;
use std::net::TcpListener;

use rustix::process::Signal;

use crate::support::program::{Finished, Program};

fn check(toml: &str, variables: &[(&str, &str)]) -> Finished {
    let mut program = Program::new(["check"]).config(toml);
    for (name, value) in variables {
        program = program.env(name, value);
    }
    program.finish()
}

#[test]
fn the_file_of_the_repository_is_good_and_says_nothing_new() {
    let shown = check(include_str!("../../config.toml"), &[]);
    assert_eq!(shown.code(), 0, "{}", shown.stderr);
    let built_in = check("", &[]);
    let values = |output: &str| -> Vec<String> {
        let lines = output.lines().map(|line| match line.split_once("  # ") {
            Some((value, _)) => value.to_owned(),
            None => line.to_owned(),
        });
        lines.collect()
    };
    assert_eq!(values(&shown.stdout), values(&built_in.stdout));
}

#[test]
fn p18_check_and_run_refuse_the_same_with_every_problem() {
    let toml = "[consumer]\n\
                group_ids = 'x'\n\
                session_timeout = '45'\n\
                [worker]\n\
                max_crashes = 1\n\
                threads = 9\n\
                max_in_flight = 8\n\
                [consumer.security]\n\
                protocol = 'SASL_PLAINTEXT'\n\
                sasl_mechanism = 'PLAIN'\n\
                username = 'me'\n\
                password_file = 'not-there'\n";
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    broker.set_nonblocking(true).unwrap();
    let address = broker.local_addr().unwrap().to_string();
    let lines = |arguments: &[&str]| {
        let refused = Program::new(arguments)
            .config(toml)
            .env("CCX_DATA_PIPELINE__LOGGING__FORMAT", "xml")
            .env("CDP_BOOTSTRAP_SERVER", &address)
            .finish();
        assert_eq!(refused.code(), 78, "{arguments:?}");
        assert_eq!(refused.stdout, "", "{arguments:?}");
        refused.stderr
    };
    let said = lines(&["check"]);
    for words in [
        "configuration: 6 problems",
        "config.toml:2: consumer.group_ids: unknown key; did you mean consumer.group_id?",
        "config.toml:3: consumer.session_timeout (or CCX_DATA_PIPELINE__CONSUMER__SESSION_TIMEOUT)",
        "config.toml:5: worker.max_crashes (or CCX_DATA_PIPELINE__WORKER__MAX_CRASHES)",
        "config.toml:7: worker.max_in_flight (or CCX_DATA_PIPELINE__WORKER__MAX_IN_FLIGHT)",
        "config.toml:12: consumer.security.password_file",
        "cannot read \"not-there\"",
        "variable CCX_DATA_PIPELINE__LOGGING__FORMAT: logging.format: \"xml\" is none of text, json",
    ] {
        assert!(said.contains(words), "no {words:?} in\n{said}");
    }
    for arguments in [
        &["run"][..],
        &["health"],
        &["redrive"],
        &["check", "--connect"],
        &["analyze", "--config", "config.toml", "archive.tar.gz"],
    ] {
        assert_eq!(lines(arguments), said, "{arguments:?}");
    }
    let asked = broker.accept().map(|(_, from)| from);
    assert!(
        asked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
        "no network use"
    );
}

#[test]
fn p19_no_secret_comes_out_whatever_happens_to_it() {
    let inside_urls = check(
        "[downloader]\nallowed_urls = ['https://me:hunter2@host/.+']\n",
        &[("HTTPS_PROXY", "http://me:hunter2@proxy:1")],
    );
    let refused = check(
        "[consumer]\nbootstrap_servers = ['me:hunter2@host']\n[consumer.security]\npassword = 'hunter2'\n",
        &[(
            "CCX_DATA_PIPELINE__PUBLISHER__SECURITY__PASSWORD",
            "hunter2",
        )],
    );
    let not_toml = check("[consumer.security]\npassword = 'hunter2\n", &[]);
    let not_text = check("[consumer.security]\npassword = ['hunter2']\n", &[]);
    for (finished, code) in [
        (inside_urls, 0),
        (refused, 78),
        (not_toml, 78),
        (not_text, 78),
    ] {
        assert_eq!(finished.code(), code, "{}", finished.stderr);
        let all = format!("{}{}", finished.stdout, finished.stderr);
        assert!(!all.contains("hunter2"), "{all}");
    }
}

/// The same where nothing is wrong with it, from each place that it can come from.
#[test]
fn p19_a_good_password_is_shown_as_stars() {
    let login = "[consumer]\nbootstrap_servers = ['127.0.0.1:1']\n\
                 [consumer.security]\nprotocol = 'SASL_PLAINTEXT'\nsasl_mechanism = 'PLAIN'\n\
                 username = 'me'\n";
    for source in ["password = 'hunter2'", "password_file = 'secret'", ""] {
        let with = |command: &str| {
            let variable = "CCX_DATA_PIPELINE__CONSUMER__SECURITY__PASSWORD";
            let program = Program::new([command])
                .config(&format!("{login}{source}\n"))
                .file("secret", b"hunter2\n")
                .env("CCX_DATA_PIPELINE__LOGGING__LEVEL", "trace");
            match source {
                "" => program.env(variable, "hunter2"),
                _ => program,
            }
        };
        let shown = with("check").finish();
        assert_eq!(shown.code(), 0, "{}", shown.stderr);
        let stars = "password = \"***\"";
        assert!(shown.stdout.contains(stars), "{}", shown.stdout);
        assert!(!shown.stdout.contains("hunter2"), "{}", shown.stdout);
        let worker = with("run").start();
        worker.line("started: version");
        worker.signal(Signal::TERM);
        let finished = worker.finish();
        assert_eq!(finished.code(), 0, "{}", finished.stdout);
        let all = format!("{}{}", finished.stdout, finished.stderr);
        assert!(!all.contains("hunter2"), "{all}");
    }
}

#[test]
fn values_show_where_they_come_from() {
    let shown = check(
        "[consumer]\ngroup_id = \"${TEAM:nobody}-group\"\n",
        &[("TEAM", "our"), ("CDP_INCOMING_TOPIC", "uploads")],
    );
    assert_eq!(shown.code(), 0, "{}", shown.stderr);
    for line in [
        "group_id = \"our-group\"  # config.toml:2\n",
        "incoming_topic = \"uploads\"  # CDP_INCOMING_TOPIC\n",
        "outgoing_topic = \"ccx.ocp.results\"\n",
    ] {
        assert!(
            shown.stdout.contains(line),
            "no {line:?} in\n{}",
            shown.stdout
        );
    }
}

#[test]
fn only_a_named_file_has_to_be_there() {
    let usual = Program::new(["check"]).finish();
    assert_eq!(usual.code(), 0, "{}", usual.stderr);
    assert!(
        usual.stderr.contains("no config.toml here"),
        "{}",
        usual.stderr
    );
    let named = Program::new(["check", "--config", "other.toml"]).finish();
    assert_eq!(named.code(), 78);
    assert!(
        named.stderr.contains("other.toml: cannot be read"),
        "{}",
        named.stderr
    );
}

#[test]
fn p11_a_directory_that_cannot_be_written_is_refused_at_start() {
    for command in ["check", "run", "analyze"] {
        let mut arguments = vec![command];
        arguments.extend((command == "analyze").then_some("archive.tar.gz"));
        let refused = Program::new(arguments)
            .env(
                "CCX_DATA_PIPELINE__ENGINE__EXTRACT_TMP_DIR",
                "/nowhere/at/all",
            )
            .finish();
        assert_eq!(refused.code(), 78, "{command}");
        assert!(
            refused
                .stderr
                .contains("engine.extract_tmp_dir: /nowhere/at/all is not writable"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn the_readme_has_every_key_with_default_and_meaning() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let keys = std::fs::read_to_string(root.join("config.toml")).unwrap();
    let mut section = "";
    let mut meaning = String::new();
    for line in keys.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
            meaning.clear();
        } else if let Some(comment) = line.strip_prefix("# ") {
            meaning = comment.replace('|', "\\|");
        } else if let Some((key, value)) = line.split_once(" = ") {
            // A list of several lines is too long for a table.
            let shown = match value {
                "[" => "see `config.toml`".to_owned(),
                value => format!("`{value}`"),
            };
            let row = format!("| `{section}.{key}` | {shown} | {meaning} |");
            assert!(readme.lines().any(|line| line == row), "{row} is missing");
        }
    }
}
