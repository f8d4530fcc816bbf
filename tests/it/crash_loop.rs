//! A record that ends the process again and again is found by what stands in the metadata of
//! committed offsets, and becomes a dead letter. A crash is a SIGKILL while it is in work.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::support::archive_builder::{Tar, gzip};
use crate::support::archive_server::Reply;
use crate::support::broker::Broker;
use crate::support::broker::batch::NewRecord;
use crate::support::program::{Program, Running};
use crate::support::stage::{CLUSTER, Ledger, Stage, archive, endpoint, metric, value};

/// Records in work at once; also how many are handled with care behind a first crash.
const IN_FLIGHT: usize = 8;

fn stage(broker: &Broker, partitions: usize) -> Stage {
    let stage = Stage::new(&broker.bootstrap(), partitions, |name, partitions| {
        broker.create_topic(name, partitions);
    });
    stall(&stage, "/bomb");
    stage
}

/// The server keeps whoever asks for the path until the end.
fn stall(stage: &Stage, path: &str) {
    stage.server.script(path, [Reply::nothing().then_stall()]);
}

fn worker(stage: &Stage) -> Running {
    worker_with(stage, "")
}

fn worker_with(stage: &Stage, key: &str) -> Running {
    let threads = IN_FLIGHT / 2;
    stage.worker(&format!(
        "[worker]\nthreads = {threads}\nmax_in_flight = {IN_FLIGHT}\nshutdown_timeout = \"1s\"\n{key}"
    ))
}

/// The end of a process that cannot say good-bye. The broker need not wait for its session.
fn crash(broker: &Broker, stage: &Stage, worker: Running) {
    worker.signal(Signal::KILL);
    drop(worker);
    for member in broker.group(&stage.group).members {
        broker.kick(&stage.group, &member.id);
    }
}

fn wait_for_requests(broker: &Broker, stage: &Stage, path: &str, count: usize) {
    broker.wait("the archive is asked for", |_| {
        stage.server.requests(path) >= count
    });
}

fn wait_for_all(broker: &Broker, stage: &Stage, counts: &[i64]) {
    broker.wait("everything is committed", |b| {
        (0..).zip(counts).all(|(partition, count)| {
            b.committed(&stage.group, &stage.incoming, partition) == Some(*count)
        })
    });
    broker.wait("nothing is marked", |b| {
        (0..).zip(counts).all(|(partition, _)| {
            let text = b.committed_metadata(&stage.group, &stage.incoming, partition);
            text.is_some_and(|text| text.is_empty())
        })
    });
}

/// Request ids and reasons of all dead letters.
fn letters(broker: &Broker, stage: &Stage) -> Vec<(String, String)> {
    let letters = broker.all_records(&stage.dead_letters);
    let told = letters.iter().map(|letter| {
        let id = value(letter)["request_id"].as_str().unwrap().to_owned();
        (id, letter.header("ccx-dlq-reason").unwrap())
    });
    told.collect()
}

fn crash_loop(id: &str) -> Vec<(String, String)> {
    vec![(id.to_owned(), "crash_loop".to_owned())]
}

fn ledger(broker: &Broker, stage: &Stage) -> Ledger {
    Ledger::new(
        broker.all_records(&stage.outgoing),
        broker.all_records(&stage.dead_letters),
    )
}

#[test]
fn p05_a_record_in_work_at_three_crashes_is_a_dead_letter() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, stage.records(0..5));
    broker.append(&stage.incoming, 0, [stage.record("r-5", "/bomb")]);
    broker.append(&stage.incoming, 0, stage.records(6..20));
    for crashes in 1..=3 {
        let worker = worker(&stage);
        wait_for_requests(&broker, &stage, "/bomb", crashes);
        crash(&broker, &stage, worker);
        let committed = broker.committed(&stage.group, &stage.incoming, 0);
        assert!(committed.unwrap() <= 5, "{committed:?}");
    }
    let last = worker(&stage);
    last.line("3 in a row");
    wait_for_all(&broker, &stage, &[20]);
    assert_eq!(stage.server.requests("/bomb"), 3, "not opened any more");
    assert_eq!(letters(&broker, &stage), crash_loop("r-5"));
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..20), Vec::<String>::new());
    // What was done and not committed at each of the crashes.
    assert!(ledger.duplicates() <= 3 * 20, "{}", ledger.duplicates());
}

/// Whoever kills the worker while the topic of results is down does not condemn the records that
/// wait for it.
#[test]
fn p05_k13_a_record_whose_result_waits_is_not_blamed() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, stage.records(0..3));
    broker
        .on(ApiKey::Produce)
        .topic(&stage.outgoing)
        .always()
        .error(ResponseError::NotEnoughReplicas.code());
    for crashes in 1..=3 {
        let worker = worker(&stage);
        wait_for_requests(&broker, &stage, "/archive", 3 * crashes);
        broker.wait("the mark is taken back", |b| {
            let mark = b.committed_metadata(&stage.group, &stage.incoming, 0);
            mark.as_deref() == Some("")
        });
        crash(&broker, &stage, worker);
    }
    broker.clear_hooks();
    let _worker = worker(&stage);
    wait_for_all(&broker, &stage, &[3]);
    assert_eq!(letters(&broker, &stage), []);
    ledger(&broker, &stage).check(0..3, 0);
}

/// Nor those that wait for room on its disk.
#[test]
fn p05_p08_a_record_that_waits_for_our_host_is_not_blamed() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let document = "x".repeat(300_000);
    let tar = Tar::new()
        .file("config/id", CLUSTER)
        .file("config/version.json", document);
    stage.server.serve("/body", gzip(&tar.build()));
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/body")]);
    for _ in 1..=3 {
        // Blocks of 512 bytes.
        let worker = Program::behind("ulimit -S -f 100", ["run"])
            .config(&stage.config(""))
            .start();
        worker.line("host fault");
        broker.wait("the mark is taken back", |b| {
            let mark = b.committed_metadata(&stage.group, &stage.incoming, 0);
            mark.as_deref() == Some("")
        });
        crash(&broker, &stage, worker);
    }
    let _worker = worker(&stage);
    wait_for_all(&broker, &stage, &[1]);
    assert_eq!(letters(&broker, &stage), []);
    ledger(&broker, &stage).check(0..1, 0);
}

/// Once it goes on it is in work again.
#[test]
fn p05_p10_a_record_that_goes_on_after_a_host_fault_is_blamed() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let mark_is = |expected: &str| {
        broker.wait("the mark", |b| {
            let mark = b.committed_metadata(&stage.group, &stage.incoming, 0);
            mark.as_deref() == Some(expected)
        });
    };
    for crashes in 1..=3 {
        let worker = worker(&stage);
        if crashes == 1 {
            // Then it has the connections that it needs.
            broker.wait("it fetches and is a member", |b| {
                b.count(ApiKey::Fetch) > 0 && b.count(ApiKey::Heartbeat) > 0
            });
            let pid = Pid::from_raw(worker.pid() as i32);
            let usual = getrlimit(Resource::Nofile);
            let none = Rlimit {
                current: Some(3),
                ..usual
            };
            prlimit(pid, Resource::Nofile, none).unwrap();
            broker.append(&stage.incoming, 0, [stage.record("r-0", "/bomb")]);
            worker.line("host fault");
            mark_is("");
            prlimit(pid, Resource::Nofile, usual).unwrap();
        }
        mark_is(&format!("crashes={crashes};offset=0"));
        crash(&broker, &stage, worker);
    }
    let _worker = worker(&stage);
    wait_for_all(&broker, &stage, &[1]);
    let expected = ("r-0".to_owned(), "crash_loop".to_owned());
    assert_eq!(letters(&broker, &stage), [expected]);
}

/// As many crashes as are configured, of which the first ones lie back.
#[test]
fn p05_the_number_of_crashes_is_the_configured_one() {
    for (most, before) in [(2, ""), (5, "crashes=3;offset=0")] {
        let broker = Broker::start();
        let stage = stage(&broker, 1);
        broker.append(&stage.incoming, 0, [stage.record("r-0", "/bomb")]);
        broker.append(&stage.incoming, 0, stage.records(1..4));
        broker.set_committed_with(&stage.group, &stage.incoming, 0, 0, before);
        let worker = || worker_with(&stage, &format!("max_crashes = {most}"));
        for crashes in 1..=2 {
            let worker = worker();
            wait_for_requests(&broker, &stage, "/bomb", crashes);
            crash(&broker, &stage, worker);
        }
        let last = worker();
        last.line(&format!("{most} in a row"));
        wait_for_all(&broker, &stage, &[4]);
        assert_eq!(stage.server.requests("/bomb"), 2, "not opened any more");
        assert_eq!(letters(&broker, &stage), crash_loop("r-0"));
        let letter = &broker.all_records(&stage.dead_letters)[0];
        let message = letter.header("ccx-dlq-message").unwrap();
        let times = format!("in work at {most} crashes ");
        assert!(message.starts_with(&times), "{message}");
        assert_eq!(ledger(&broker, &stage).lost(0..4), Vec::<String>::new());
    }
}

/// Without a mark that stands, a crash would not be known as one more.
#[test]
fn p05_a_suspect_is_not_begun_before_its_mark_stands() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    stage.server.serve("/bomb", archive());
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/bomb")]);
    // As many as may have been in work at that crash, so that nothing is held against the rest.
    broker.append(&stage.incoming, 0, stage.records(1..IN_FLIGHT));
    broker.append(&stage.incoming, 1, stage.records(IN_FLIGHT..IN_FLIGHT + 5));
    let mark = "crashes=1;offset=0";
    broker.set_committed_with(&stage.group, &stage.incoming, 0, 0, mark);
    let refused = broker.on(ApiKey::OffsetCommit).always();
    let refused = refused.error(ResponseError::CoordinatorLoadInProgress.code());
    let _worker = worker(&stage);
    // Nobody else waits for it.
    broker.wait("the others", |b| b.all_records(&stage.outgoing).len() == 5);
    let tried = refused.used();
    broker.wait("tried again", |_| refused.used() >= tried + 3);
    assert_eq!(stage.server.requests("/bomb"), 0);
    refused.remove();
    wait_for_all(&broker, &stage, &[IN_FLIGHT as i64, 5]);
    assert_eq!(stage.server.requests("/bomb"), 1);
    assert_eq!(letters(&broker, &stage), []);
    assert_eq!(ledger(&broker, &stage).duplicates(), 0);
}

#[test]
fn p05_a_clean_end_in_the_middle_is_no_crash() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/bomb")]);
    broker.append(&stage.incoming, 0, stage.records(1..4));
    for run in 1..=4 {
        let worker = worker(&stage);
        wait_for_requests(&broker, &stage, "/bomb", run);
        if run == 2 {
            worker.signal(Signal::TERM);
            let finished = worker.finish();
            assert_eq!(finished.code(), 75, "{}", finished.stdout);
            let text = broker.committed_metadata(&stage.group, &stage.incoming, 0);
            assert_eq!(text.as_deref(), Some("crashes=1;offset=0"), "as before");
        } else {
            crash(&broker, &stage, worker);
        }
    }
    let _last = worker(&stage);
    wait_for_all(&broker, &stage, &[4]);
    assert_eq!(stage.server.requests("/bomb"), 4);
    assert_eq!(letters(&broker, &stage), crash_loop("r-0"));
    assert_eq!(ledger(&broker, &stage).lost(0..4), Vec::<String>::new());
}

#[test]
fn p05_records_beside_the_guilty_one_are_not_blamed() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    stall(&stage, "/slow");
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/bomb")]);
    broker.append(&stage.incoming, 0, stage.records(1..3));
    broker.append(&stage.incoming, 1, [stage.record("r-3", "/slow")]);
    broker.append(&stage.incoming, 1, stage.records(4..6));
    for crashes in 1..=2 {
        let worker = worker(&stage);
        wait_for_requests(&broker, &stage, "/bomb", crashes);
        wait_for_requests(&broker, &stage, "/slow", crashes);
        crash(&broker, &stage, worker);
    }
    for partition in 0..2 {
        let text = broker.committed_metadata(&stage.group, &stage.incoming, partition);
        assert_eq!(text.as_deref(), Some("crashes=2;offset=0"));
    }
    // Now each of them is tried alone, in whatever order.
    stage.server.serve("/slow", archive());
    let third = worker(&stage);
    wait_for_requests(&broker, &stage, "/bomb", 3);
    crash(&broker, &stage, third);
    let _last = worker(&stage);
    wait_for_all(&broker, &stage, &[3, 3]);
    assert_eq!(stage.server.requests("/bomb"), 3);
    assert_eq!(letters(&broker, &stage), crash_loop("r-0"));
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..6), Vec::<String>::new());
}

/// What was fetched behind it waits; others are fetched meanwhile, however long that takes.
#[test]
fn p05_k11_a_suspect_that_takes_long_holds_up_no_other_partition() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/bomb")]);
    broker.append(&stage.incoming, 0, stage.records(1..6));
    let mark = "crashes=1;offset=0";
    broker.set_committed_with(&stage.group, &stage.incoming, 0, 0, mark);
    let patient = "attempts = 2\nresponse_timeout = \"1h\"\ndeadline = \"1h\"";
    let config = stage.config("").replace("attempts = 2", patient);
    let _worker = Program::new(["run"]).config(&config).start();
    wait_for_requests(&broker, &stage, "/bomb", 1);
    for first in [6, 12] {
        broker.append(&stage.incoming, 1, stage.records(first..first + 6));
        broker.wait("the other partition", |b| {
            b.committed(&stage.group, &stage.incoming, 1) == Some(first as i64)
        });
    }
    assert_eq!(broker.committed(&stage.group, &stage.incoming, 0), Some(0));
    assert_eq!(stage.server.requests("/archive"), 12);
}

/// A dead letter that is not accepted waits, and is no work beside which nobody may be tried.
#[test]
fn k21_p05_a_dead_letter_that_waits_holds_up_no_suspect() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    let refusals = broker
        .on(ApiKey::Produce)
        .topic(&stage.dead_letters)
        .always()
        .error(ResponseError::TopicAuthorizationFailed.code());
    broker.append(
        &stage.incoming,
        0,
        [NewRecord::value("{\"request_id\":\"r-9\"}")],
    );
    let mark = "crashes=2;offset=0";
    broker.set_committed_with(&stage.group, &stage.incoming, 1, 0, mark);
    let worker = worker(&stage);
    let endpoint = endpoint(&worker);
    broker.wait("its partition pauses", |_| {
        metric(&endpoint, "ccx_consumer_paused_partitions") == Some(1.0)
    });
    broker.append(&stage.incoming, 1, stage.records(0..3));
    broker.wait("the suspect and what is behind it", |b| {
        b.committed(&stage.group, &stage.incoming, 1) == Some(3)
    });
    refusals.remove();
    wait_for_all(&broker, &stage, &[1, 3]);
    assert_eq!(ledger(&broker, &stage).lost(0..3), Vec::<String>::new());
}

#[test]
fn p05_a_lost_membership_is_no_crash() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/bomb")]);
    broker.append(&stage.incoming, 0, stage.records(1..4));
    let _worker = worker(&stage);
    for times in 1..=5 {
        wait_for_requests(&broker, &stage, "/bomb", times);
        let members = broker.group(&stage.group).members;
        broker.kick(&stage.group, &members[0].id);
    }
    wait_for_requests(&broker, &stage, "/bomb", 6);
    stage.server.serve("/bomb", archive());
    // Whoever is still waiting for the server is told anew only by another membership.
    let members = broker.group(&stage.group).members;
    broker.kick(&stage.group, &members[0].id);
    wait_for_all(&broker, &stage, &[4]);
    assert_eq!(letters(&broker, &stage), []);
    assert_eq!(ledger(&broker, &stage).lost(0..4), Vec::<String>::new());
}

/// The offset of a mark is that of another record once the log was cut off and begun anew.
#[test]
fn p05_k15_a_mark_of_a_log_that_is_gone_condemns_nobody() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, stage.records(0..5));
    let mark = "crashes=3;offset=8";
    broker.set_committed_with(&stage.group, &stage.incoming, 0, 8, mark);
    let _worker = worker(&stage);
    wait_for_all(&broker, &stage, &[5]);
    broker.append(&stage.incoming, 0, stage.records(5..10));
    wait_for_all(&broker, &stage, &[10]);
    assert_eq!(letters(&broker, &stage), []);
    assert_eq!(ledger(&broker, &stage).lost(0..10), Vec::<String>::new());
}

#[test]
fn p05_what_other_tools_write_with_offsets_is_ignored() {
    for (text, condemned) in [
        ("", false),
        ("set by kafka-consumer-groups", false),
        ("crashes=many;offset=0", false),
        ("crashes=99999999999;offset=0", false),
        ("crashes=9;offset=0", true),
        ("crashes=4294967295;offset=0", true),
    ] {
        let broker = Broker::start();
        let stage = stage(&broker, 1);
        broker.append(&stage.incoming, 0, stage.records(0..3));
        broker.set_committed_with(&stage.group, &stage.incoming, 0, 0, text);
        let _worker = worker(&stage);
        wait_for_all(&broker, &stage, &[3]);
        let expected = if condemned {
            crash_loop("r-0")
        } else {
            Vec::new()
        };
        assert_eq!(letters(&broker, &stage), expected, "{text}");
        let asked = stage.server.requests("/archive");
        assert_eq!(asked, if condemned { 2 } else { 3 }, "{text}");
        assert_eq!(ledger(&broker, &stage).duplicates(), 0);
    }
}

/// The records of its partition wait for a suspect, and those of the others do not.
#[test]
fn p05_a_suspect_holds_up_no_other_partition() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    let bomb = stage.record("bomb", "/bomb");
    let behind = stage.records(1000..1100);
    broker.append(&stage.incoming, 0, [bomb].into_iter().chain(behind));
    let metadata = "crashes=1;offset=0";
    broker.set_committed_with(&stage.group, &stage.incoming, 0, 0, metadata);
    let patience = [
        ("downloader.response_timeout", "1h"),
        ("downloader.deadline", "1h"),
    ];
    let _worker = stage.worker_with("[worker]\nshutdown_timeout = \"1s\"", &patience);
    wait_for_requests(&broker, &stage, "/bomb", 1);
    for round in 0..3 {
        let ids = round * 10..round * 10 + 10;
        broker.append(&stage.incoming, 1, stage.records(ids));
        broker.wait("the other partition", |b| {
            b.committed(&stage.group, &stage.incoming, 1) == Some(round as i64 * 10 + 10)
        });
    }
    let behind = |b: &Broker| b.committed(&stage.group, &stage.incoming, 0);
    assert_eq!(behind(&broker), Some(0));
    assert_eq!(broker.all_records(&stage.outgoing).len(), 30);
}
