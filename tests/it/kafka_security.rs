//! Connections to brokers under TLS and SASL: that they work, and everything that must not.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ccx_data_pipeline::kafka::options::{
    ClusterOptions, Compression, ConsumerOptions, Mechanism, ProducerOptions, Sasl, Security, Tls,
};
use ccx_data_pipeline::kafka::{Finding, OutgoingRecord, Producer, probe};
use ccx_data_pipeline::secret::Secret;
use ccx_data_pipeline::tls;
use kafka_protocol::error::ResponseError;
use tempfile::TempDir;

use crate::support::authority::Authority;
use crate::support::broker::batch::NewRecord;
use crate::support::broker::{self, ApiKey, Broker, Builder};
use crate::support::member::{self, OurMember};
use crate::support::program::{Finished, Program};
use crate::support::stage::Stage;

const NAME: &str = "127.0.0.1";
const USER: &str = "worker,=1";
const PASSWORD: &str = "open=Sesame,7";
const WRONG: &str = "shut-Sesame-8";

/// A cluster that lets nobody in without the password.
fn guarded() -> broker::sasl::Sasl {
    broker::sasl::Sasl::new(USER, PASSWORD)
}

fn sasl(mechanism: Mechanism, password: &str) -> Option<Sasl> {
    Some(Sasl {
        mechanism,
        username: USER.into(),
        password: Secret::new(password),
    })
}

/// Files of an authority: its own certificate, and a client's with its key.
struct Trust {
    authority: Authority,
    dir: TempDir,
}

impl Trust {
    fn new() -> Self {
        let trust = Self {
            authority: Authority::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        trust.authority.write(&trust.ca());
        trust
            .authority
            .write_client("worker", &trust.certificate(), &trust.key());
        trust
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("client.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("client.key")
    }

    fn tls(&self, with_certificate: bool) -> Option<Tls> {
        let (certificate, key) = (self.certificate(), self.key());
        let identity = with_certificate.then_some((certificate.as_path(), key.as_path()));
        let ca = self.ca();
        Some(Tls::new(tls::client(Some(&ca), identity).unwrap()))
    }
}

fn cluster(address: &str, security: Security) -> ClusterOptions {
    ClusterOptions {
        bootstrap_servers: vec![address.into()],
        security,
        ..ClusterOptions::default()
    }
}

/// What the only broker is found to be like.
fn look(address: &str, security: Security) -> (Finding, String) {
    let lines = probe(&cluster(address, security), &[], None);
    let worst = lines.iter().max_by_key(|line| line.finding).unwrap();
    let text = lines
        .iter()
        .map(|line| line.text.as_str())
        .collect::<Vec<_>>();
    (worst.finding, text.join("\n"))
}

fn topic(broker: &Broker) {
    broker.create_topic("in", 2);
    broker.create_topic("out", 1);
}

#[test]
fn records_go_both_ways_under_every_protection() {
    let trust = Trust::new();
    let server = || trust.authority.server(NAME);
    let plain = Broker::builder;
    let none = || None;
    let cases: Vec<(&str, Builder, Option<Tls>, Option<Sasl>)> = vec![
        ("SSL", plain().tls(server()), trust.tls(false), none()),
        (
            "mutual SSL",
            plain().tls(trust.authority.strict_server(NAME)),
            trust.tls(true),
            none(),
        ),
        (
            "PLAIN",
            plain().sasl(guarded()),
            None,
            sasl(Mechanism::Plain, PASSWORD),
        ),
        (
            "SCRAM-SHA-256",
            plain().sasl(guarded()),
            None,
            sasl(Mechanism::ScramSha256, PASSWORD),
        ),
        (
            "SCRAM-SHA-512 and SSL",
            plain().tls(server()).sasl(guarded()),
            trust.tls(false),
            sasl(Mechanism::ScramSha512, PASSWORD),
        ),
    ];
    for (what, builder, tls, sasl) in cases {
        let broker = builder.nodes(2).start();
        topic(&broker);
        let security = Security { tls, sasl };
        let address = broker.addresses().remove(0);
        let found = probe(&cluster(&address, security.clone()), &["in"], Some("g"));
        assert!(
            found.iter().all(|line| line.finding == Finding::Fine),
            "{what}: {found:#?}"
        );
        // More than a TLS record, and than what the library buffers.
        let large = "x".repeat(300_000);
        let producer = Producer::start(ProducerOptions {
            cluster: cluster(&address, security.clone()),
            compression: Compression::None,
        });
        let record = OutgoingRecord {
            topic: "out".into(),
            partition: None,
            key: None,
            value: Some(large.clone().into()),
            headers: Vec::new(),
        };
        producer.send(record, &|| false).unwrap();
        assert_eq!(broker.records("out", 0)[0].text().len(), large.len());
        for partition in 0..2 {
            broker.append("in", partition, [NewRecord::value(large.clone())]);
        }
        let mut member = OurMember::start(ConsumerOptions {
            cluster: cluster(&address, security),
            ..member::options(&address, "g", "in")
        });
        member.wait("both records", |seen| seen.records.len() == 2);
        // An idle connection with TLS records of the library's own is none with data.
        broker.append("in", 0, [NewRecord::value("later")]);
        member.wait("another", |seen| seen.records.len() == 3);
        broker.wait("commits", |b| b.committed("g", "in", 0) == Some(2));
        member.leave();
    }
}

/// The worker with a security section, and what it wrote.
fn finish(command: &[&str], stage: &Stage, section: &str) -> Finished {
    let more = format!("[consumer.security]\n{section}\n[logging]\nlevel = \"trace\"");
    Program::new(command)
        .config(&stage.config(&more))
        .file("password", WRONG.as_bytes())
        .finish()
}

fn stage(broker: &Broker) -> Stage {
    Stage::new(&broker.bootstrap(), 1, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

/// Nothing of the password, in any form in which it goes over the wire.
fn assert_no_secret(finished: &Finished) {
    let all = format!("{}{}", finished.stdout, finished.stderr);
    for secret in [PASSWORD, WRONG] {
        assert!(!all.contains(secret), "{all}");
    }
}

#[test]
fn k17_wrong_credentials_end_with_77_after_three_tries() {
    for (mechanism, offered, words) in [
        ("PLAIN", None, "wrong user name or password"),
        ("SCRAM-SHA-256", None, "wrong user name or password"),
        ("SCRAM-SHA-512", None, "wrong user name or password"),
        (
            "SCRAM-SHA-512",
            Some(vec!["PLAIN", "GSSAPI"]),
            "it offers PLAIN, GSSAPI only",
        ),
    ] {
        let mut sasl = guarded();
        sasl.mechanisms = offered.unwrap_or(sasl.mechanisms);
        let broker = Broker::builder().sasl(sasl).start();
        let stage = stage(&broker);
        let section = format!(
            "protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"{mechanism}\"\n\
             username = \"{USER}\"\npassword_file = \"password\""
        );
        let began = Instant::now();
        let finished = finish(&["run"], &stage, &section);
        assert_eq!(finished.code(), 77, "{}", finished.stdout);
        let all = &finished.stdout;
        let refused = format!("refuses our credentials ({mechanism}): {words}");
        assert!(all.contains(&refused), "no {refused:?} in {all}");
        assert_eq!(broker.count(ApiKey::SaslHandshake), 3, "{all}");
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_no_secret(&finished);

        let checked = finish(&["check", "--connect"], &stage, &section);
        assert_eq!(checked.code(), 77, "{}", checked.stdout);
        assert!(checked.stdout.contains(&refused), "{}", checked.stdout);
        assert!(checked.stdout.contains("password_file = \"password\""));
        assert_no_secret(&checked);
    }
}

#[test]
fn k17_credentials_that_are_taken_away_end_a_running_worker() {
    let broker = Broker::builder().sasl(guarded()).start();
    let stage = stage(&broker);
    let section = format!(
        "[consumer.security]\nprotocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"SCRAM-SHA-256\"\n\
         username = \"{USER}\"\npassword = \"{PASSWORD}\""
    );
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/archive")]);
    let worker = stage.worker(&section);
    broker.wait("a commit", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(1)
    });
    broker.set_password(WRONG);
    broker.drop_connections(1);
    let finished = worker.finish();
    assert_eq!(finished.code(), 77, "{}", finished.stdout);
    assert!(finished.stdout.contains("refuses our credentials"));
    assert_no_secret(&finished);
}

#[test]
fn k17_no_right_to_the_group_or_a_topic_ends_with_77() {
    let group = ResponseError::GroupAuthorizationFailed.code();
    let topic = ResponseError::TopicAuthorizationFailed.code();
    type Case = (ApiKey, fn(&Stage) -> Option<&str>, i16);
    let cases: [Case; 6] = [
        (ApiKey::FindCoordinator, |_| None, group),
        (ApiKey::JoinGroup, |_| None, group),
        (ApiKey::OffsetFetch, |_| None, group),
        (ApiKey::Metadata, |stage| Some(&stage.incoming), topic),
        // At start, before anything is read.
        (ApiKey::Metadata, |stage| Some(&stage.outgoing), topic),
        (ApiKey::Metadata, |stage| Some(&stage.dead_letters), topic),
    ];
    for (api, of, code) in cases {
        let broker = Broker::start();
        let stage = stage(&broker);
        let hook = broker.on(api);
        let (hook, named) = match of(&stage) {
            Some(topic) => (hook.topic(topic), topic),
            None => (hook, stage.group.as_str()),
        };
        hook.always().error(code);
        let finished = Program::new(["run"]).config(&stage.config("")).finish();
        assert_eq!(finished.code(), 77, "{api:?} {named}: {}", finished.stdout);
        let line = finished.stdout.lines().find(|line| line.contains("ERROR"));
        let line = line.unwrap_or_default();
        assert!(line.contains(named), "{api:?}: {line}");
    }
}

#[test]
fn a_broker_that_does_not_know_the_password_itself_is_not_trusted() {
    let mut sasl_of = guarded();
    sasl_of.impostor = true;
    let broker = Broker::builder().sasl(sasl_of).start();
    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha512] {
        let security = Security {
            tls: None,
            sasl: sasl(mechanism, PASSWORD),
        };
        let (finding, text) = look(&broker.address(1), security);
        assert_eq!(finding, Finding::NotAuthorised, "{text}");
        assert!(text.contains("its signature is wrong"), "{text}");
    }
}

#[test]
fn a_port_that_wants_sasl_is_named() {
    let broker = Broker::builder().sasl(guarded()).start();
    let (finding, text) = look(&broker.address(1), Security::default());
    assert_eq!(finding, Finding::Unreachable, "{text}");
    assert!(text.contains("Metadata: its port may want SASL"), "{text}");
}

#[test]
fn sasl_on_a_port_without_it_is_named() {
    let broker = Broker::start();
    let security = Security {
        tls: None,
        sasl: sasl(Mechanism::Plain, PASSWORD),
    };
    let (finding, text) = look(&broker.address(1), security);
    assert_eq!(finding, Finding::NotAuthorised, "{text}");
    assert!(text.contains("its port is one without SASL"), "{text}");
}

/// Under brokers that end a session (KIP-368) no request comes after its end.
#[test]
fn sessions_are_renewed_before_they_end() {
    let mut sasl_of = guarded();
    sasl_of.lifetime = Some(Duration::from_secs(3));
    let broker = Broker::builder().sasl(sasl_of).start();
    topic(&broker);
    let security = Security {
        tls: None,
        sasl: sasl(Mechanism::ScramSha256, PASSWORD),
    };
    let producer = Producer::start(ProducerOptions {
        cluster: cluster(&broker.address(1), security.clone()),
        compression: Compression::None,
    });
    let member = OurMember::start(ConsumerOptions {
        cluster: cluster(&broker.address(1), security),
        ..member::options(&broker.address(1), "g", "in")
    });
    member.wait("an assignment", |seen| seen.assigned.len() == 2);
    let generation = broker.group("g").generation;
    let began = broker.count(ApiKey::SaslHandshake);
    let until = Instant::now() + broker::PATIENCE;
    let mut sent = 0;
    // Those of the start, three of the producer and of fetching, and each of them again.
    while broker.count(ApiKey::SaslHandshake) < 2 * (began + 3) + 1 {
        assert!(Instant::now() < until, "sessions are not renewed");
        let record = OutgoingRecord {
            topic: "in".into(),
            partition: Some(sent % 2),
            key: None,
            value: Some(sent.to_string().into()),
            headers: Vec::new(),
        };
        producer.send(record, &|| false).unwrap();
        sent += 1;
        member.wait("the record", |seen| seen.records.len() as i32 == sent);
    }
    assert_eq!(
        broker.unwelcome(),
        0,
        "a request after the end of its session"
    );
    assert_eq!(producer.stats().reconnects.get(), 0, "none was lost");
    assert_eq!(broker.group("g").generation, generation);
    assert!(member.look(|seen| seen.refused.is_empty()));
}

#[test]
fn certificates_that_prove_nothing_are_refused() {
    let trust = Trust::new();
    let other = Authority::new();
    for (server, words) in [
        (trust.authority.expired_server(NAME), "expired"),
        (other.server(NAME), "invalid peer certificate"),
        (trust.authority.server("elsewhere.test"), "not valid for"),
    ] {
        let broker = Broker::builder().tls(server).start();
        let security = Security {
            tls: trust.tls(false),
            sasl: sasl(Mechanism::Plain, PASSWORD),
        };
        let address = broker.address(1);
        let (finding, text) = look(&address, security);
        assert_eq!(finding, Finding::Unreachable, "{text}");
        assert!(
            text.contains(&format!("TLS with {address} failed")),
            "{text}"
        );
        assert!(text.contains(words), "no {words:?} in {text}");
        assert!(broker.requests().is_empty(), "nothing is said to it");
    }
    let broker = Broker::builder()
        .tls(trust.authority.strict_server(NAME))
        .start();
    let security = Security {
        tls: trust.tls(false),
        sasl: None,
    };
    let (finding, text) = look(&broker.address(1), security);
    assert_eq!(finding, Finding::Unreachable, "{text}");
    assert!(text.contains("CertificateRequired"), "{text}");
}

/// A server that says these bytes to whatever it hears.
fn babbler(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        // Ends with the test program: whoever asks is answered.
        for stream in listener.incoming().map_while(Result::ok) {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    address
}

/// What `check --connect` finds, in seconds.
fn checked(address: &str, ca: Option<&Path>) -> String {
    let security = match ca {
        None => String::new(),
        Some(ca) => format!(
            "[consumer.security]\nprotocol = \"SSL\"\nca_file = \"{}\"\n",
            ca.display()
        ),
    };
    let config = format!("[consumer]\nbootstrap_servers = [\"{address}\"]\n{security}");
    let began = Instant::now();
    let finished = Program::new(["check", "--connect"])
        .config(&config)
        .finish();
    assert_eq!(finished.code(), 69, "{}", finished.stdout);
    assert!(began.elapsed() < Duration::from_secs(30), "in seconds");
    assert!(finished.stdout.contains(address), "{}", finished.stdout);
    finished.stdout
}

#[test]
fn k18_whoever_speaks_something_else_is_named_in_seconds() {
    let trust = Trust::new();
    let ca = trust.ca();
    let plain = Broker::start();
    let says = checked(&plain.address(1), Some(&ca));
    assert!(says.contains("as a port without TLS does"), "{says}");

    let secure = Broker::builder().tls(trust.authority.server(NAME)).start();
    let says = checked(&secure.address(1), None);
    assert!(says.contains("its port wants TLS"), "{says}");

    let http = babbler(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let says = checked(&http, None);
    assert!(says.contains("it answers like an HTTP server"), "{says}");
    let says = checked(&http, Some(&ca));
    assert!(says.contains("like an HTTP server without TLS"), "{says}");

    let ssh = babbler(b"SSH-2.0-OpenSSH_9.9\r\n");
    let says = checked(&ssh, None);
    assert!(says.contains("not a Kafka broker"), "{says}");
    let says = checked(&ssh, Some(&ca));
    assert!(says.contains("it does not answer in TLS"), "{says}");
}

#[test]
fn k18_a_worker_goes_on_once_the_port_is_what_it_should_be() {
    let trust = Trust::new();
    let broker = Broker::builder().tls(trust.authority.server(NAME)).start();
    let stage = stage(&broker);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/archive")]);
    broker.stop(1);
    let section = format!(
        "[consumer.security]\nprotocol = \"SSL\"\nca_file = \"{}\"\n",
        trust.ca().display()
    );
    let worker = stage.starting_worker(&section);
    worker.line("cannot connect to");
    broker.restart(1);
    broker.wait("a commit", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(1)
    });
    drop(worker);
}

#[test]
fn tls_that_trickles_is_given_up_in_time() {
    let trust = Trust::new();
    // The head of a TLS record that is never completed, and then silence.
    let address = babbler(&[22, 3, 3, 0x40, 0]);
    let began = Instant::now();
    let security = Security {
        tls: trust.tls(false),
        sasl: None,
    };
    let (finding, text) = look(&address, security);
    assert_eq!(finding, Finding::Unreachable, "{text}");
    assert!(began.elapsed() < Duration::from_secs(60), "{text}");
    assert!(text.contains("handshake"), "{text}");
}
