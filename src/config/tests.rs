use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;

use super::*;

const NO_VARIABLES: [(&str, &str); 0] = [];

fn load<'a>(
    text: &str,
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Config, Problems> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("write");
    Config::load(File::Named(file.path()), &Env::of(variables), &|name| {
        name.starts_with("known")
    })
    .map_err(|mut problems| {
        problems.file = "config.toml".into();
        problems
    })
}

fn good<'a>(text: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Config {
    load(text, variables).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad<'a>(text: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    match load(text, variables) {
        Ok(_) => panic!("accepted: {text}"),
        Err(problems) => problems.lines(),
    }
}

#[track_caller]
fn says(lines: &[String], words: &[&str]) {
    assert!(
        lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word))),
        "no line with {words:?} in {lines:#?}"
    );
}

#[test]
fn the_file_of_the_repository_is_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(USUAL_FILE);
    let committed = std::fs::read_to_string(&path).expect("config.toml");
    let made = default_file();
    assert!(
        committed == made,
        "config.toml is not what the table of keys says; it should be:\n{made}"
    );
    let from_file = good(&committed, NO_VARIABLES);
    let built_in = good("", NO_VARIABLES);
    let values = |config: &Config| -> Vec<_> {
        config
            .shown
            .iter()
            .map(|shown| (shown.section, shown.name.clone(), shown.value.clone()))
            .collect()
    };
    assert_eq!(values(&from_file), values(&built_in));
}

#[test]
fn defaults_are_those_of_the_client() {
    let config = good("", NO_VARIABLES);
    assert_eq!(config.consumer.options, ConsumerOptions::default());
    assert_eq!(config.consumer.commit_interval, Duration::from_secs(1));
    assert_eq!(
        config.consumer.max_record_age,
        Some(Duration::from_hours(24))
    );
    assert_eq!(config.publisher.outgoing_topic, "ccx.ocp.results");
    assert!(config.publisher.shares_cluster);
    assert_eq!(config.publisher.options.cluster.name, "publisher");
    assert_eq!(config.dead_letter_queue.topic, None);
    assert_eq!(config.downloader.deadline, Duration::from_secs(120));
    assert_eq!(config.downloader.max_archive_size, 100 << 20);
    assert_eq!(config.engine.extract_tmp_dir, Path::new("/tmp"));
    assert_eq!(
        config.stats.map(|address| address.to_string()).as_deref(),
        Some("0.0.0.0:8000")
    );
    assert!((4..=64).contains(&config.worker.threads));
    assert_eq!(config.worker.max_in_flight, 2 * config.worker.threads);
}

#[test]
fn the_default_list_takes_s3_and_nothing_that_looks_like_it() {
    let config = good("", NO_VARIABLES);
    let patterns: Vec<_> = config
        .downloader
        .allowed_urls
        .iter()
        .map(|url| regex::Regex::new(&format!(r"\A(?:{url})\z")).expect("compiles"))
        .collect();
    let allowed = |url: &str| patterns.iter().any(|pattern| pattern.is_match(url));
    for url in [
        "https://bucket.s3.amazonaws.com/a/b.tar.gz",
        "https://my.bucket-1.s3.us-east-1.amazonaws.com/a",
        "https://bucket.s3-us-west-2.amazonaws.com/a",
        "https://bucket.s3.dualstack.eu-central-1.amazonaws.com/a",
        "https://bucket.s3.us-gov-west-1.amazonaws.com/a",
        "https://bucket.s3.cn-north-1.amazonaws.com.cn/a",
        "https://s3.amazonaws.com/bucket/a",
        "https://s3.us-east-1.amazonaws.com/bucket/a",
    ] {
        assert!(allowed(url), "{url}");
    }
    for url in [
        "http://bucket.s3.amazonaws.com/a",
        "https://s3.amazonaws.com.evil.example/bucket/a",
        "https://evil.example/bucket.s3.amazonaws.com/a",
        "https://bucket.s3.amazonaws.com:8443/a",
        "https://bucket.s3.evil.amazonaws.com/a",
        "https://buckets3.amazonaws.com/a",
        "https://bucket.s3.amazonaws.com/",
        "https://x@bucket.s3.amazonaws.com/a",
        "https://169.254.169.254/latest",
    ] {
        assert!(!allowed(url), "{url}");
    }
}

#[test]
fn sources_in_their_order() {
    let file = "[consumer]\ngroup_id = 'file'\n";
    let own = ("CCX_DATA_PIPELINE__CONSUMER__GROUP_ID", "own");
    let named = ("CDP_GROUP_ID", "named");
    let group = |text: &str, variables: &[(&'static str, &'static str)]| {
        good(text, variables.iter().copied())
            .consumer
            .options
            .group_id
    };
    assert_eq!(group("", &[]), "ccx_data_pipeline_app");
    assert_eq!(group(file, &[]), "file");
    assert_eq!(group(file, &[named]), "named");
    assert_eq!(group(file, &[named, own]), "own");
    assert_eq!(
        group(file, &[("CDP_GROUP_ID", "")]),
        "file",
        "empty is ignored"
    );
}

#[test]
fn the_indirection_can_be_moved() {
    let group = |text: &str, variables: [(&'static str, &'static str); 2]| {
        good(text, variables).consumer.options.group_id
    };
    let both = [("CDP_GROUP_ID", "old"), ("OTHER", "new")];
    assert_eq!(group("[consumer]\ngroup_id_env = 'OTHER'", both), "new");
    assert_eq!(
        group("[consumer]\ngroup_id_env = ''", both),
        "ccx_data_pipeline_app"
    );
    let moved = [
        ("CCX_DATA_PIPELINE__CONSUMER__GROUP_ID_ENV", "OTHER"),
        ("OTHER", "new"),
    ];
    assert_eq!(group("", moved), "new");
}

#[test]
fn p18_a_variable_that_a_key_names_and_that_is_not_there_is_told() {
    let words = "the variable that consumer.group_id_env names has no value";
    let told = |text: &str, variables: &[(&'static str, &'static str)]| {
        let config = good(text, variables.iter().copied());
        config.notes.iter().any(|note| note.text == words)
    };
    let moved = "[consumer]\ngroup_id_env = 'OTHER'";
    assert!(told(moved, &[]));
    assert!(told(moved, &[("OTHER", "")]));
    assert!(!told(moved, &[("OTHER", "new")]));
    // The names that the program gives are there to be used or not.
    assert!(!told("", &[]));
    assert!(!told("[consumer]\ngroup_id_env = 'CDP_GROUP_ID'", &[]));
    assert!(!told(
        moved,
        &[("CCX_DATA_PIPELINE__CONSUMER__GROUP_ID", "own")]
    ));

    let lines = bad(
        "[consumer.security]\nprotocol = 'SASL_SSL'\nsasl_mechanism = 'PLAIN'\nusername = 'u'\npassword_env = 'hunter2'\n",
        NO_VARIABLES,
    );
    let why = "the variable that consumer.security.password_env names has no value";
    says(&lines, &["SASL needs a password; ", why]);
    // Perhaps it is the password itself.
    assert!(!lines.concat().contains("hunter2"), "{lines:#?}");
}

#[test]
fn the_bounds_of_a_key_are_said_with_it() {
    let file = default_file();
    let meaning = |key: &str| {
        let before = file.split_once(&format!("\n{key} = ")).expect(key).0;
        before.rsplit('\n').next().expect("a comment").to_owned()
    };
    for (key, bounds) in [
        ("session_timeout", ". At least 1s."),
        ("fetch_max_wait", ". At most 60s."),
        ("fetch_max_bytes", ". 1B to 60MiB."),
        ("attempts", ". 1 to 1000."),
        ("max_entries", ". At least 1."),
        ("max_consecutive", "or \"off\". At least 1."),
        ("port", ". At most 65535."),
    ] {
        let found = meaning(key);
        assert!(found.ends_with(bounds), "{found}");
    }
    assert!(meaning("deadline").ends_with("together."), "any time");
}

#[test]
fn lists_and_empty_values_from_variables() {
    let config = good(
        "[engine.rules]\nenable = ['known_a']\n",
        [
            ("CDP_BOOTSTRAP_SERVER", "a:1,b:2"),
            ("CCX_DATA_PIPELINE__ENGINE__RULES__ENABLE", ""),
            (
                "CCX_DATA_PIPELINE__ENGINE__RULES__DISABLE",
                "known_b, known_c",
            ),
            ("CCX_DATA_PIPELINE__WATCHERS__STATS__ENABLED", "false"),
            (
                "CCX_DATA_PIPELINE__DOWNLOADER__ALLOWED_NETWORKS",
                "127.0.0.0/8,::1/128",
            ),
            ("TMPDIR", "/var/tmp"),
        ],
    );
    assert_eq!(
        config.consumer.options.cluster.bootstrap_servers,
        ["a:1", "b:2"]
    );
    assert_eq!(
        config.publisher.options.cluster.bootstrap_servers,
        ["a:1", "b:2"]
    );
    assert_eq!(config.engine.rules.enable, [""; 0]);
    assert_eq!(config.engine.rules.disable, ["known_b", "known_c"]);
    assert_eq!(config.stats, None);
    assert_eq!(config.downloader.allowed_networks.len(), 2);
    assert_eq!(config.engine.extract_tmp_dir, Path::new("/var/tmp"));
}

#[test]
fn all_problems_at_once_each_with_its_place() {
    let lines = bad(
        "[consumer]\n\
         sesion_timeout = '45s'\n\
         session_timeout = 45\n\
         group_id = '${NOWHERE}'\n\
         partitions = 'a'\n\
         bootstrap_servers = [\n  'one:1',\n  'two']\n\
         [downloader]\n\
         allowed_urls = ['https://[a']\n\
         allowed_networks = ['10.0.0.0/33']\n\
         attempts = 'many'\n\
         [storage]\n\
         a = 1\n\
         b = 2\n\
         [watchers.payload_tracker]\n\
         enabeld = true\n\
         [engine.rules]\n\
         enable = ['known_a', 'other_rule']\n\
         [publisher]\n\
         outgoing_topic = 'platform.upload.announce'\n",
        [
            ("CCX_DATA_PIPELINE__WORKER__THREADS", "-1"),
            ("CCX_DATA_PIPELINE__WORKER__TREADS", "1"),
            ("CCX_DATA_PIPELINE__CONSUMER__SECURITY__PASSWORD", "hunter2"),
        ],
    );
    says(
        &lines,
        &[
            "config.toml:2: ",
            "consumer.sesion_timeout: unknown key",
            "did you mean consumer.session_timeout?",
        ],
    );
    says(
        &lines,
        &[
            "config.toml:3: consumer.session_timeout (or CCX_DATA_PIPELINE__CONSUMER__SESSION_TIMEOUT)",
            "\"45s\"",
        ],
    );
    says(&lines, &["config.toml:4: consumer.group_id ", "NOWHERE"]);
    says(
        &lines,
        &["config.toml:5: consumer.partitions: not supported by this version"],
    );
    says(
        &lines,
        &["config.toml:6: consumer.bootstrap_servers ", "\"two\""],
    );
    says(
        &lines,
        &["config.toml:10: downloader.allowed_urls ", "unclosed"],
    );
    says(
        &lines,
        &[
            "config.toml:11: downloader.allowed_networks ",
            "10.0.0.0/33",
        ],
    );
    says(
        &lines,
        &["config.toml:12: downloader.attempts ", "from 1 to 1000"],
    );
    says(&lines, &["config.toml:13: storage: unknown section"]);
    says(
        &lines,
        &["config.toml:17: watchers.payload_tracker.enabeld: unknown key"],
    );
    says(
        &lines,
        &["config.toml:19: engine.rules.enable ", "\"other_rule\""],
    );
    says(
        &lines,
        &[
            "config.toml:21: publisher.outgoing_topic ",
            "consumer.incoming_topic",
        ],
    );
    says(
        &lines,
        &[
            "variable CCX_DATA_PIPELINE__WORKER__THREADS: worker.threads: ",
            "\"-1\"",
        ],
    );
    says(
        &lines,
        &[
            "variable CCX_DATA_PIPELINE__WORKER__TREADS: ",
            "CCX_DATA_PIPELINE__WORKER__THREADS?",
        ],
    );
    says(
        &lines,
        &[
            "variable CCX_DATA_PIPELINE__CONSUMER__SECURITY__PASSWORD: consumer.security.password: ",
            "SASL_SSL only",
        ],
    );
    assert_eq!(lines.len(), 15, "{lines:#?}");
    assert!(!lines.concat().contains("hunter2"));
}

#[test]
fn checks_across_keys() {
    for (text, words) in [
        (
            "[consumer]\nheartbeat_interval = '16s'",
            ["consumer.heartbeat_interval", "third"],
        ),
        (
            "[consumer]\nsession_timeout = '8s'",
            ["consumer.session_timeout", "third"],
        ),
        (
            "[consumer]\nrebalance_timeout = '20s'",
            ["consumer.rebalance_timeout", "21s"],
        ),
        (
            "[dead_letter_queue]\ntopic = 'platform.upload.announce'",
            ["dead_letter_queue.topic", "differ"],
        ),
        (
            "[dead_letter_queue]\ntopic = 'ccx.ocp.results'",
            ["dead_letter_queue.topic", "differ"],
        ),
        (
            "[publisher]\nworkloads_topic = 'ccx.ocp.results'",
            ["publisher.workloads_topic", "differ"],
        ),
        (
            "[publisher]\nworkloads_topic = 'platform.upload.announce'",
            ["publisher.workloads_topic", "announcements"],
        ),
        (
            "[publisher]\nworkloads_topic = 'w'\n[dead_letter_queue]\ntopic = 'w'",
            ["dead_letter_queue.topic", "recommendations"],
        ),
        (
            "[engine.rules]\nlifecycle_file = '/nowhere/table.toml'",
            ["engine.rules.lifecycle_file", "/nowhere/table.toml"],
        ),
        (
            "[downloader]\nallowed_urls = []",
            ["downloader.allowed_urls", "empty"],
        ),
        (
            "[downloader]\nmax_archive_size = '1GiB'",
            ["downloader.max_archive_size", "max_in_flight_bytes"],
        ),
        (
            "[worker]\nmax_in_flight_bytes = '1MiB'",
            ["worker.max_in_flight_bytes", "max_archive_size"],
        ),
        (
            "[engine]\nmax_document_size = '1GiB'",
            ["engine.max_document_size", "unpacked_archive_size_limit"],
        ),
        (
            "[worker]\nthreads = 8\nmax_in_flight = 7",
            ["worker.max_in_flight", "(8)"],
        ),
        (
            "[consumer]\nbootstrap_servers = []",
            ["consumer.bootstrap_servers", "at least one"],
        ),
        (
            "[downloader]\nca_file = '/nowhere/ca.pem'",
            ["downloader.ca_file", "/nowhere/ca.pem"],
        ),
        (
            "[consumer.security]\nca_file = '/etc/ssl/ca.pem'",
            ["consumer.security.ca_file", "SSL and SASL_SSL only"],
        ),
        (
            "[consumer.security]\nusername = 'me'",
            ["consumer.security.username", "SASL_SSL only"],
        ),
        (
            "[consumer.security]\nprotocol = 'SASL_PLAINTEXT'\nusername = 'me'\npassword = 'x'",
            ["consumer.security.protocol", "needs a sasl_mechanism"],
        ),
        (
            "[consumer.security]\nprotocol = 'SASL_PLAINTEXT'\nusername = 'me'\nsasl_mechanism = 'PLAIN'",
            ["consumer.security.protocol", "needs a password"],
        ),
        (
            "[consumer.security]\nprotocol = 'SASL_PLAINTEXT'\nusername = 'me'\nsasl_mechanism = 'PLAIN'\npassword_file = '/nowhere'",
            ["consumer.security.password_file", "cannot read"],
        ),
        (
            "[consumer.security]\nprotocol = 'SASL_PLAINTEXT'\nusername = 'me'\nsasl_mechanism = 'GSSAPI'\npassword = 'x'",
            [
                "consumer.security.sasl_mechanism",
                "none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
            ],
        ),
        (
            "[consumer.security]\nprotocol = 'SSL'\nca_file = '/nowhere/ca.pem'",
            [
                "consumer.security.ca_file",
                "/nowhere/ca.pem cannot be read",
            ],
        ),
        (
            "[publisher.security]\nprotocol = 'SSL'",
            ["publisher.security.protocol", "publisher.bootstrap_servers"],
        ),
        (
            "[consumer]\ngroup_instance_id = 'a b'",
            ["consumer.group_instance_id", "no static id"],
        ),
    ] {
        let lines = bad(text, NO_VARIABLES);
        assert_eq!(lines.len(), 1, "{text}: {lines:#?}");
        says(&lines, &words);
        assert!(lines[0].starts_with("config.toml:"), "{lines:#?}");
    }
    // What is allowed at the border, and on another cluster.
    good("[consumer]\nheartbeat_interval = '15s'", NO_VARIABLES);
    good("[worker]\nthreads = 8\nmax_in_flight = 8", NO_VARIABLES);
    good(
        "[downloader]\nallowed_urls = []\nallow_unsafe_links = true",
        NO_VARIABLES,
    );
    good(
        "[publisher]\nbootstrap_servers = ['other:1']\noutgoing_topic = 'platform.upload.announce'",
        NO_VARIABLES,
    );
}

#[test]
fn a_check_across_keys_waits_for_its_keys() {
    let lines = bad(
        "[consumer]\nsession_timeout = 'x'\nheartbeat_interval = '1h'\n",
        NO_VARIABLES,
    );
    says(&lines, &["consumer.session_timeout", "is no time"]);
    assert!(!lines.concat().contains("third"), "{lines:#?}");
}

#[test]
fn types_are_told_and_secrets_are_not() {
    let lines = bad(
        "consumer = 7\npublisher = []\n[downloader]\nattempts = 1.5\n[worker]\nthreads.a = 1\n",
        [("CDP_BOOTSTRAP_SERVER", "me:hunter2@host:9092x")],
    );
    says(&lines, &["config.toml:1: consumer: is a section"]);
    says(&lines, &["config.toml:2: publisher: is a section"]);
    says(&lines, &["config.toml:4: downloader.attempts ", "is 1.5"]);
    says(
        &lines,
        &["config.toml:6: worker.threads ", "is a section here"],
    );
    says(
        &lines,
        &[
            "variable CDP_BOOTSTRAP_SERVER: consumer.bootstrap_servers",
            "***@host:9092x",
        ],
    );
    assert!(!lines.concat().contains("hunter2"), "{lines:#?}");
}

#[test]
fn a_variable_that_is_not_text_is_a_problem() {
    let garbage = OsString::from_vec(vec![0xff]);
    let env = Env::of([(
        OsString::from("CCX_DATA_PIPELINE__CONSUMER__GROUP_ID"),
        garbage,
    )]);
    let problems = Config::load(File::None, &env, &|_| true).expect_err("not UTF-8");
    assert!(problems.to_string().contains("not UTF-8"), "{problems}");
}

#[test]
fn a_named_file_has_to_be_there() {
    let problems = Config::load(
        File::Named(Path::new("/nowhere/config.toml")),
        &Env::default(),
        &|_| true,
    )
    .expect_err("no file");
    assert_eq!(problems.len(), 1);
    assert!(
        problems
            .to_string()
            .starts_with("/nowhere/config.toml: cannot be read"),
        "{problems}"
    );
}

#[test]
fn p18_a_device_is_not_read_for_ever() {
    let zeros = Path::new("/dev/zero");
    let none: [(&str, &str); 0] = [];
    let problems = Config::load(File::Named(zeros), &Env::of(none), &|_| true).unwrap_err();
    assert_eq!(
        problems.lines(),
        ["/dev/zero: cannot be read: it has more than 4 MiB"]
    );
    let secret = "[consumer.security]\npassword_file = '/dev/zero'\n";
    says(&bad(secret, []), &["/dev/zero", "more than 4 MiB"]);
    // Up to and including.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    for (bytes, fits) in [(4 << 20, true), ((4 << 20) + 1, false)] {
        let mut text = "[worker]\nthreads = 5\n".to_owned();
        text += &"#".repeat(bytes - text.len());
        std::fs::write(&file, text).unwrap();
        match Config::load(File::Named(&file), &Env::of(none), &|_| true) {
            Ok(config) => assert!(fits && config.worker.threads == 5),
            Err(problems) => assert!(!fits, "{problems}"),
        }
    }
}

#[test]
fn what_is_worth_a_word() {
    let config = good(
        "[downloader]\nallow_unsafe_links = true\n[dead_letter_queue]\ntopic = 'dead'",
        [
            ("HTTPS_PROXY", "http://me:hunter2@proxy"),
            ("http_proxy", ""),
        ],
    );
    let notes: Vec<_> = config.notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("allow_unsafe_links"), "{notes:?}");
    assert_eq!(
        notes[1],
        "HTTPS_PROXY set but not used: downloads go direct"
    );
    let silent = good("[dead_letter_queue]\ntopic = 'dead'", NO_VARIABLES);
    assert_eq!(silent.notes, []);
}

#[test]
fn what_is_shown_can_be_read_again() {
    let config = good(
        "[consumer]\nmax_record_age = 'off'\ngroup_id = 'a \"b\" \\ c'\n[downloader]\n\
         allowed_urls = ['https://me:hunter2@host/.+', 'https://b\\.c/.+']\nmin_rate = 1000\n",
        [
            ("CDP_INCOMING_TOPIC", "in"),
            ("CCX_DATA_PIPELINE__LOGGING__LEVEL", "warn,kafka=debug"),
        ],
    );
    let shown = config.to_toml();
    assert!(
        shown.contains("incoming_topic = \"in\"  # CDP_INCOMING_TOPIC\n"),
        "{shown}"
    );
    assert!(
        shown.contains("level = \"warn,kafka=debug\"  # CCX_DATA_PIPELINE__LOGGING__LEVEL\n"),
        "{shown}"
    );
    assert!(shown.contains("threads = 0  # in force: "), "{shown}");
    assert!(shown.contains("min_rate = \"1KB\""), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let again = good(&shown, NO_VARIABLES);
    let values = |config: &Config| -> Vec<_> {
        config
            .shown
            .iter()
            .map(|shown| shown.value.clone())
            .collect()
    };
    assert_eq!(values(&again), values(&config));
}

#[test]
fn m17_the_breaker_has_limits_that_can_be_switched_off() {
    let breaker = |text: &str| good(text, NO_VARIABLES).dead_letter_queue.breaker;
    let usual = breaker("");
    assert_eq!(
        (usual.max_ratio, usual.max_consecutive),
        (Some(0.5), Some(20))
    );
    let off = breaker("[dead_letter_queue]\nmax_ratio = 'off'\nmax_consecutive = 'off'\n");
    assert_eq!(off, crate::breaker::Options::default());
    let own = breaker("[dead_letter_queue]\nmax_ratio = 0.25\nmax_consecutive = 7\n");
    assert_eq!((own.max_ratio, own.max_consecutive), (Some(0.25), Some(7)));
    for text in [
        "max_ratio = 0",
        "max_ratio = 1.5",
        "max_consecutive = 0",
        "max_consecutive = 'on'",
    ] {
        let lines = bad(&format!("[dead_letter_queue]\n{text}\n"), NO_VARIABLES);
        says(
            &lines,
            &[
                "config.toml:2: dead_letter_queue.max_",
                "\"off\" switches it off",
            ],
        );
    }
    says(
        &bad("[worker]\nmax_crashes = 1\n", NO_VARIABLES),
        &["config.toml:2: worker.max_crashes ", "from 2 to"],
    );
}

#[test]
fn later_names_are_no_names_of_today() {
    let today: Vec<_> = keys::KEYS.iter().flat_map(keys::Key::paths).collect();
    for later in keys::LATER {
        assert!(!today.iter().any(|path| path == later), "{later}");
        let (section, key) = later.rsplit_once('.').expect("a section");
        let lines = bad(&format!("[{section}]\n{key} = 'x'\n"), NO_VARIABLES);
        assert_eq!(lines.len(), 1, "{lines:?}");
        says(
            &lines,
            &["config.toml:2: ", later, "not supported by this version"],
        );
    }
}

#[test]
fn a_life_cycle_table_takes_the_place_of_the_built_in_one() {
    let mut table = tempfile::NamedTempFile::new().expect("a file");
    let text = format!(
        "[engine.rules]\nlifecycle_file = '{}'\n",
        table.path().display()
    );
    writeln!(
        table,
        "# our own\n'4.30' = {{ available = 2030-01-01, end = 2031-01-01 }}"
    )
    .expect("write");
    let rules = good(&text, NO_VARIABLES).engine.rules;
    assert_ne!(rules.settings.life_cycle, LifeCycle::default());
    writeln!(table, "'4.31' = {{ available = 2030-01-01 }}").expect("write");
    let place = format!("{}:3: 4.31: end is missing", table.path().display());
    says(
        &bad(&text, NO_VARIABLES),
        &["config.toml:2: engine.rules.lifecycle_file ", &place],
    );
}

#[test]
fn the_workloads_topic_may_come_from_a_variable() {
    assert_eq!(good("", NO_VARIABLES).publisher.workloads_topic, None);
    let config = good("", [("CDP_WORKLOADS_TOPIC", "ccx.workloads")]);
    let topic = config.publisher.workloads_topic.as_deref();
    assert_eq!(topic, Some("ccx.workloads"));
}

#[test]
fn the_directory_for_temporary_files_is_tried() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = format!("[engine]\nextract_tmp_dir = '{}'\n", dir.path().display());
    let config = good(&text, NO_VARIABLES);
    config.check_tmp_dir().expect("writable");
    let left = std::fs::read_dir(dir.path()).expect("list").count();
    assert_eq!(left, 0);
    drop(dir);
    let problems = config.check_tmp_dir().expect_err("gone").to_string();
    assert!(
        problems.contains(":2: engine.extract_tmp_dir "),
        "{problems}"
    );
}

#[test]
fn certificate_and_key_belong_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(["me".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let write = |name: &str, text: String| std::fs::write(path(name), text).expect("write");
    write("ca.pem", certificate.pem());
    write("key.pem", key.serialize_pem());
    write(
        "other.pem",
        rcgen::KeyPair::generate().expect("a key").serialize_pem(),
    );
    let section = |keys: &[(&str, &str)]| {
        let mut text = "[consumer.security]\nprotocol = 'SSL'\n".to_owned();
        for (key, name) in keys {
            text.push_str(&format!("{key} = '{}'\n", path(name)));
        }
        text
    };
    let (ca, own, key) = (
        ("ca_file", "ca.pem"),
        ("certificate_file", "ca.pem"),
        ("key_file", "key.pem"),
    );
    let config = good(&section(&[ca, own, key]), NO_VARIABLES);
    let shown = format!("{:?}", config.consumer.options);
    assert!(shown.contains("1 certificate authorities"), "{shown}");
    for (keys, words) in [
        (&[ca, own][..], "belong together"),
        (&[ca, key], "belong together"),
        (
            &[ca, own, ("key_file", "other.pem")],
            "cannot be used with the key",
        ),
        (&[ca, own, ("key_file", "ca.pem")], "ca.pem"),
        (&[("ca_file", "key.pem")], "holds no usable certificate"),
    ] {
        let lines = bad(&section(keys), NO_VARIABLES);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        says(&lines, &[words]);
        assert!(!lines.concat().contains("PRIVATE"), "{lines:#?}");
    }
}

#[test]
fn the_publisher_has_the_consumers_security_or_its_own() {
    let ours = "[consumer.security]\nprotocol = 'SASL_PLAINTEXT'\nsasl_mechanism = 'PLAIN'\n\
                username = 'reader'\npassword = 'hunter2'\n";
    let theirs = "[publisher.security]\nprotocol = 'SASL_PLAINTEXT'\n\
                  sasl_mechanism = 'SCRAM-SHA-256'\nusername = 'writer'\npassword = 'hunter3'\n";
    let user = |options: &ProducerOptions| {
        options
            .cluster
            .security
            .sasl
            .as_ref()
            .expect("SASL")
            .username
            .clone()
    };
    let shared = good(ours, NO_VARIABLES);
    assert!(shared.publisher.shares_cluster);
    assert_eq!(user(&shared.publisher.options), "reader");
    assert!(
        shared
            .notes
            .iter()
            .any(|note| note.text.contains("in the open"))
    );
    // The same brokers, but another user: connections of its own.
    let text = format!("[publisher]\nbootstrap_servers = ['localhost:9092']\n{ours}{theirs}");
    let own = good(&text, NO_VARIABLES);
    assert!(!own.publisher.shares_cluster);
    assert_eq!(user(&own.publisher.options), "writer");
    assert_eq!(user(&own.dead_letter_queue.options), "reader");
    let shown = format!("{own:?}{}", own.to_toml());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(shown.contains("password = \"***\""), "{shown}");
}

/// Where secrets come from, on a table of its own.
mod secrets {
    use super::super::document::Document;
    use super::super::keys::{self, Key};
    use super::super::kinds::Hidden;
    use super::*;
    use crate::secret::Secret;

    keys::settings! {
        /// A section with a secret.
        Login "login" {
            /// A password.
            password: Secret = Secret::default(), Hidden, env(password_env = "PASSWORD"), [file];
        }
    }

    fn read(text: &str, variables: &[(&str, &str)]) -> (Login, Vec<String>, Vec<Shown>) {
        let env = Env::of(variables.iter().copied());
        let mut problems = Problems::default();
        let document = Document::parse(text, &env, &mut problems);
        let mut reader = Reader::new(document, &env, problems);
        reader.refuse_unknown(KEYS, &[]);
        let login = Login::read(&mut reader);
        (login, reader.problems.lines(), reader.shown)
    }

    #[test]
    fn from_a_file_and_never_shown() {
        assert_eq!(SECTIONS.len(), 1);
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"hunter2\n").expect("write");
        let text = format!("[login]\npassword_file = '{}'", file.path().display());
        let (login, problems, shown) = read(&text, &[]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(login.password.reveal(), "hunter2");
        assert!(!format!("{shown:?} {login:?}").contains("hunter2"));

        let (login, problems, _) = read(&text, &[("PASSWORD", "other")]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(login.password.reveal(), "other");
    }

    #[test]
    fn inline_and_file_together_or_a_file_that_is_not_there_are_problems() {
        let (_, problems, _) = read(
            "[login]\npassword = 'hunter2'\npassword_file = '/nowhere'",
            &[],
        );
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("password_file; one of them"),
            "{problems:?}"
        );
        let (_, problems, _) = read("[login]\npassword_file = '/nowhere'", &[]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("login.password_file") && problems[0].contains("/nowhere"));
        let (_, problems, _) = read("[login]\npassword = 7", &[]);
        assert!(
            problems[0].contains("a number") && !problems[0].contains('7'),
            "{problems:?}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_value_of_a_variable_panics(
        which in 0..keys::KEYS.len(),
        value in "[ -~é]{0,12}|[0-9]{1,20}[a-zA-Z]{0,3}",
    ) {
        let variable = keys::variable_of(&keys::KEYS[which].path());
        let env = Env::of([(variable.as_str(), value.as_str())]);
        match Config::load(File::None, &env, &|_| true) {
            Ok(config) => proptest::prop_assert!(!config.to_toml().is_empty()),
            Err(problems) => proptest::prop_assert!(problems.to_string().contains(&variable)),
        }
    }
}
