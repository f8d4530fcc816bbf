//! TLS, SASL, rights and static members on Apache Kafka.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::on_brokers;
use crate::support::program::{Finished, Program, Running};
use crate::support::real::{Operation, RealBroker, Resource};
use crate::support::stage::{Ledger, Stage};

const PARTITIONS: i32 = 2;
const WRONG: &str = "shut-Sesame-8";

fn stage(broker: &RealBroker) -> Stage {
    let mut stage = Stage::new(&broker.address, 1, |_, _| {});
    stage.incoming = broker.create_topic("incoming", PARTITIONS);
    stage.outgoing = broker.create_topic("results", 1);
    stage.dead_letters = broker.create_topic("dlq", 1);
    stage
}

fn ledger(broker: &RealBroker, stage: &Stage) -> Ledger {
    let records = |topic: &str| broker.read_all(topic).into_iter().map(|(_, record)| record);
    Ledger::new(records(&stage.outgoing), records(&stage.dead_letters))
}

/// The worker through one of the ports; `keys` go into the security section.
fn program(broker: &RealBroker, stage: &Stage, protocol: &str, keys: &str) -> Program {
    let (address, folder) = broker.secure(protocol);
    let ca = match protocol.ends_with("SSL") {
        true => format!("ca_file = \"{}\"\n", folder.join("ca.pem").display()),
        false => String::new(),
    };
    let section = format!("[consumer.security]\nprotocol = \"{protocol}\"\n{ca}{keys}\n");
    let config = stage.config(&section);
    Program::new(["run"])
        .config(&config.replace(&stage.bootstrap, &address))
        .file("password", WRONG.as_bytes())
}

fn login(mechanism: &str, user: &str) -> String {
    format!("sasl_mechanism = \"{mechanism}\"\nusername = \"{user}\"\npassword = \"{user}-secret\"")
}

/// Announcements for some seconds, longer than a session with SASL lasts; none is lost or done
/// twice, and no connection is lost for the end of a session.
fn end_to_end(broker: &RealBroker, stage: &Stage, worker: Running) -> Finished {
    worker.line("assigned: ");
    let until = Instant::now() + Duration::from_secs(7);
    let mut sent = 0;
    while Instant::now() < until || sent < 50 {
        broker.load(&stage.incoming, stage.records(sent..sent + 10));
        sent += 10;
        broker.wait("everything is committed", || {
            broker.lag(&stage.group, &stage.incoming) == 0
        });
    }
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert!(
        !finished.stdout.contains("lost broker"),
        "{}",
        finished.stdout
    );
    let ledger = ledger(broker, stage);
    assert_eq!(ledger.lost(0..sent), [""; 0]);
    assert_eq!(ledger.duplicates(), 0);
    finished
}

on_brokers! {
    [apache_3_9, apache_4]
    fn records_go_end_to_end_over_sasl_ssl(broker) {
        let stage = stage(broker);
        let worker = program(broker, &stage, "SASL_SSL", &login("SCRAM-SHA-512", "worker"));
        let finished = end_to_end(broker, &stage, worker.start());
        assert!(!finished.stdout.contains("worker-secret"));
    }

    [apache_3_9, apache_4]
    fn records_go_end_to_end_over_sasl_in_the_open(broker) {
        for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
            let stage = stage(broker);
            let worker = program(broker, &stage, "SASL_PLAINTEXT", &login(mechanism, "worker"));
            end_to_end(broker, &stage, worker.start());
        }
    }

    [apache_3_9, apache_4]
    fn records_go_end_to_end_with_a_client_certificate(broker) {
        let stage = stage(broker);
        let (_, folder) = broker.secure("SSL");
        let path = |name: &str| folder.join(name).display().to_string();
        let keys = format!(
            "certificate_file = \"{}\"\nkey_file = \"{}\"",
            path("client.pem"),
            path("client.key")
        );
        end_to_end(broker, &stage, program(broker, &stage, "SSL", &keys).start());
    }

    [apache_3_9, apache_4]
    fn k17_wrong_credentials_end_with_77(broker) {
        let stage = stage(broker);
        for (protocol, mechanism, user) in [
            ("SASL_SSL", "SCRAM-SHA-512", "worker"),
            ("SASL_SSL", "PLAIN", "worker"),
            ("SASL_PLAINTEXT", "SCRAM-SHA-256", "nobody"),
        ] {
            let keys = format!(
                "sasl_mechanism = \"{mechanism}\"\nusername = \"{user}\"\n\
                 password_file = \"password\"\n[logging]\nlevel = \"trace\""
            );
            let finished = program(broker, &stage, protocol, &keys).finish();
            assert_eq!(finished.code(), 77, "{}", finished.stdout);
            let words = format!("refuses our credentials ({mechanism}): wrong user name or password");
            assert!(finished.stdout.contains(&words), "{}", finished.stdout);
            assert!(!finished.stdout.contains(WRONG), "{}", finished.stdout);
        }
    }

    [apache_3_9, apache_4]
    fn k17_no_right_to_the_group_or_a_topic_ends_with_77(broker) {
        type Case = (Resource, fn(&Stage) -> &str, Operation);
        let cases: [Case; 3] = [
            (Resource::Group, |stage| &stage.group, Operation::Read),
            (Resource::Topic, |stage| &stage.incoming, Operation::Read),
            (Resource::Topic, |stage| &stage.outgoing, Operation::Write),
        ];
        for (resource, of, operation) in cases {
            let stage = stage(broker);
            let name = of(&stage);
            broker.deny(resource, name, operation);
            broker.load(&stage.incoming, stage.records(0..2));
            let keys = login("SCRAM-SHA-256", "limited");
            let finished = program(broker, &stage, "SASL_PLAINTEXT", &keys).finish();
            assert_eq!(finished.code(), 77, "{name}: {}", finished.stdout);
            let errors = finished.stdout.lines().filter(|line| line.contains("ERROR"));
            let errors: Vec<_> = errors.collect();
            assert!(errors.iter().any(|line| line.contains(name)), "{errors:?}");
            assert_eq!(broker.lag(&stage.group, &stage.incoming), 2, "nothing is committed");
        }
    }

    [apache_3_9, apache_4]
    fn k18_ports_of_another_protocol_are_named(broker) {
        let check = |address: &str, section: &str| {
            let config = format!("[consumer]\nbootstrap_servers = [\"{address}\"]\n{section}");
            let checked = Program::new(["check", "--connect"]).config(&config).finish();
            (checked.code(), checked.stdout)
        };
        let (tls, folder) = broker.secure("SASL_SSL");
        let ca = format!("ca_file = \"{}\"\n", folder.join("ca.pem").display());
        let began = Instant::now();
        // TLS to a port without it. The broker takes our greeting for a length and hangs up.
        let section = format!("[consumer.security]\nprotocol = \"SSL\"\n{ca}");
        let (code, says) = check(&broker.address, &section);
        assert_eq!(code, 69, "{says}");
        assert!(says.contains("as a port without TLS does"), "{says}");
        // The reverse: it answers with an alert, or hangs up.
        let (code, says) = check(&tls, "");
        assert_eq!(code, 69, "{says}");
        assert!(says.contains("its port wants TLS"), "{says}");
        // SASL where there is none.
        let section = format!("[consumer.security]\nprotocol = \"SASL_PLAINTEXT\"\n{}", login("PLAIN", "worker"));
        let (code, says) = check(&broker.address, &section);
        assert_eq!(code, 77, "{says}");
        assert!(says.contains("without SASL"), "{says}");
        // No certificate where one is wanted.
        let (strict, _) = broker.secure("SSL");
        let section = format!("[consumer.security]\nprotocol = \"SSL\"\n{ca}");
        let (code, says) = check(&strict, &section);
        assert_eq!(code, 69, "{says}");
        assert!(says.contains("TLS with"), "{says}");
        assert!(began.elapsed() < Duration::from_secs(120));
    }
}

/// A worker with a static id, and a session long enough for a restart on a busy machine.
fn static_worker(stage: &Stage, id: &str) -> Running {
    let keys = format!("[consumer]\ngroup_instance_id = \"{id}\"\n");
    let config = stage
        .config("")
        .replace("[consumer]\n", &keys)
        .replace("session_timeout = \"6s\"", "session_timeout = \"60s\"");
    Program::new(["run"]).config(&config).start()
}

fn load(broker: &RealBroker, stage: &Stage, ids: std::ops::Range<usize>) {
    broker.load(&stage.incoming, stage.records(ids));
    broker.wait("everything is committed", || {
        broker.lag(&stage.group, &stage.incoming) == 0
    });
}

on_brokers! {
    /// First the one that leads goes and comes back, then the other.
    [apache_3_9, apache_4]
    fn k09_a_restart_within_the_session_moves_no_partition(broker) {
        let stage = stage(broker);
        let leads = static_worker(&stage, "worker-0");
        leads.line("assigned: ");
        let follows = static_worker(&stage, "worker-1");
        let generation = "generation 2 assigns ";
        let theirs = follows.line(generation);
        leads.line(generation);
        load(broker, &stage, 0..20);
        leads.signal(Signal::TERM);
        assert_eq!(leads.finish().code(), 0);
        let leads = static_worker(&stage, "worker-0");
        leads.line(generation);
        load(broker, &stage, 20..40);
        follows.signal(Signal::TERM);
        let finished = follows.finish();
        assert_eq!(finished.code(), 0);
        let assigned = finished.stdout.lines().filter(|l| l.contains(" assigns "));
        assert_eq!(assigned.count(), 1, "nobody else had to join again");
        let follows = static_worker(&stage, "worker-1");
        let again = follows.line(generation);
        let partitions = |line: &str| {
            let (_, rest) = line.split_once(generation).unwrap();
            rest.split_once(" to ").unwrap().0.to_owned()
        };
        assert_eq!(partitions(&again), partitions(&theirs));
        load(broker, &stage, 40..60);
        for worker in [leads, follows] {
            worker.signal(Signal::TERM);
            assert_eq!(worker.finish().code(), 0);
        }
        let ledger = ledger(broker, &stage);
        assert_eq!(ledger.lost(0..60), [""; 0]);
        assert_eq!(ledger.duplicates(), 0);
    }

    [apache_3_9, apache_4]
    fn k09_of_two_with_one_static_id_the_first_ends_with_76(broker) {
        let stage = stage(broker);
        let first = static_worker(&stage, "worker-0");
        first.line("assigned: ");
        load(broker, &stage, 0..10);
        let second = static_worker(&stage, "worker-0");
        let finished = first.finish();
        assert_eq!(finished.code(), 76, "{}", finished.stdout);
        let words = "another member uses the same static id (82): worker-0";
        assert!(finished.stdout.contains(words), "{}", finished.stdout);
        second.line("assigned: ");
        load(broker, &stage, 10..20);
        second.signal(Signal::TERM);
        assert_eq!(second.finish().code(), 0);
        let ledger = ledger(broker, &stage);
        assert_eq!(ledger.lost(0..20), [""; 0]);
        assert_eq!(ledger.duplicates(), 0);
    }
}
