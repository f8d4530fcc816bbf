//! The dead-letter breaker: when everything fails, records wait instead of being buried.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::archive_server::Reply;
use crate::support::broker::Broker;
use crate::support::broker::batch::NewRecord;
use crate::support::program::{Program, Running};
use crate::support::stage::{Ledger, Stage, archive, endpoint, get, metric};

fn stage(broker: &Broker, partitions: usize) -> Stage {
    Stage::new(&broker.bootstrap(), partitions, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

/// A worker whose breaker has these keys, and that tries each download once.
fn worker(stage: &Stage, keys: &str) -> Running {
    let config = stage
        .config("[worker]\nthreads = 4\nmax_in_flight = 40\n")
        .replace("attempts = 2", "attempts = 1")
        .replace(
            "[dead_letter_queue]",
            &format!("[dead_letter_queue]\n{keys}"),
        );
    let worker = Program::new(["run"]).config(&config).start();
    worker.line("assigned: ");
    worker
}

fn down(stage: &Stage) {
    let busy = Reply::status(503, &[], "SlowDown");
    stage.server.script("/archive", [busy]);
}

fn up(stage: &Stage) {
    stage.server.serve("/archive", archive());
}

fn committed(broker: &Broker, stage: &Stage, partition: i32) -> i64 {
    let offset = broker.committed(&stage.group, &stage.incoming, partition);
    offset.unwrap_or(0)
}

fn ledger(broker: &Broker, stage: &Stage) -> Ledger {
    Ledger::new(
        broker.all_records(&stage.outgoing),
        broker.all_records(&stage.dead_letters),
    )
}

#[test]
fn m17_a_run_of_failures_opens_it_and_a_result_closes_it() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    down(&stage);
    broker.append(&stage.incoming, 0, stage.records(0..30));
    let worker = worker(&stage, "max_consecutive = 5");
    let opened = worker.line("the next ones wait");
    assert!(opened.contains("ERROR"), "{opened}");
    let why = "5 records in a row failed: 5 download_failed";
    assert!(opened.contains(why), "{opened}");
    let endpoint = endpoint(&worker);
    broker.wait("the gauge", |_| {
        metric(&endpoint, "ccx_breaker_open") == Some(1.0)
    });
    let (status, cause) = get(&endpoint, "/readyz");
    assert_eq!(status, 503);
    assert!(cause.contains(why), "{cause}");
    assert_eq!(get(&endpoint, "/livez").0, 200);

    up(&stage);
    worker.line("the breaker closes");
    broker.wait("everything", |b| committed(b, &stage, 0) == 30);
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..30), Vec::<String>::new());
    assert_eq!(ledger.duplicates(), 0);
    // The one that opened it is held already, and so is all that failed behind it.
    assert_eq!(ledger.buried.len(), 4);
    broker.wait("the gauge", |_| {
        metric(&endpoint, "ccx_breaker_open") == Some(0.0)
    });
    assert_eq!(get(&endpoint, "/readyz").0, 200);
}

/// Every second one fails, so never two in a row.
#[test]
fn m17_a_share_of_failures_opens_it() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let record = |id: usize| match id % 2 {
        0 => stage.record(&format!("r-{id}"), "/archive"),
        _ => NewRecord::value(format!("{{\"request_id\":\"r-{id}\"}}")),
    };
    broker.append(&stage.incoming, 0, (0..49).map(record));
    let config = stage.config("").replace(
        "[dead_letter_queue]",
        "[dead_letter_queue]\nmax_ratio = 0.4\nmax_consecutive = \"off\"",
    );
    let worker = Program::new(["run"]).config(&config).start();
    broker.wait("fewer than count", |b| committed(b, &stage, 0) == 49);
    let endpoint = endpoint(&worker);
    assert_eq!(get(&endpoint, "/readyz").0, 200);
    broker.append(&stage.incoming, 0, [record(49)]);
    let opened = worker.line("the next ones wait");
    let why = "25 of the last 50 records failed: 25 message_schema";
    assert!(opened.contains(why), "{opened}");
    let (status, cause) = get(&endpoint, "/readyz");
    assert!(status == 503 && cause.contains(why), "{status} {cause}");
}

#[test]
fn m17_held_records_end_with_the_worker_and_come_again() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    down(&stage);
    broker.append(&stage.incoming, 0, stage.records(0..20));
    let first = worker(&stage, "max_consecutive = 3");
    first.line("the next ones wait");
    first.signal(Signal::TERM);
    let finished = first.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert!(
        finished.stdout.contains("wait for the breaker"),
        "{}",
        finished.stdout
    );
    assert!(committed(&broker, &stage, 0) <= 2);
    up(&stage);
    let _second = worker(&stage, "max_consecutive = 3");
    broker.wait("everything", |b| committed(b, &stage, 0) == 20);
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..20), Vec::<String>::new());
    // Buried by the first worker, though one before them was not done: they come again.
    assert!(ledger.duplicates() <= 2, "{}", ledger.duplicates());
    assert!(ledger.buried.len() <= 2);
}

#[test]
fn m17_held_records_do_not_hold_up_a_rebalance() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    down(&stage);
    broker.append(&stage.incoming, 0, stage.records(0..15));
    broker.append(&stage.incoming, 1, stage.records(15..30));
    let first = worker(&stage, "max_consecutive = 3");
    first.line("the next ones wait");
    // Has an assignment while nothing can be done about what the first one holds.
    let second = worker(&stage, "max_consecutive = 3");
    up(&stage);
    // The second probe of the first worker comes after half a minute.
    broker.wait_for(Duration::from_secs(60), "everything", |b| {
        committed(b, &stage, 0) == 15 && committed(b, &stage, 1) == 15
    });
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..30), Vec::<String>::new());
    // Buried by the first worker, though one before them was not done: they come again.
    assert!(ledger.duplicates() <= 2, "{}", ledger.duplicates());
    for worker in [first, second] {
        worker.signal(Signal::TERM);
        assert_eq!(worker.finish().code(), 0);
    }
}

#[test]
fn m17_what_is_the_records_own_fault_is_buried_one_at_a_time() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let bad = |id: usize| NewRecord::value(format!("{{\"request_id\":\"r-{id}\"}}"));
    broker.append(&stage.incoming, 0, (0..40).map(bad));
    let worker = worker(&stage, "max_consecutive = 4");
    worker.line("4 records in a row failed: 4 message_schema");
    let letters = |b: &Broker| b.all_records(&stage.dead_letters).len();
    broker.wait("what was in work", |b| letters(b) >= 4);
    let endpoint = endpoint(&worker);
    broker.wait("the gauge", |_| {
        metric(&endpoint, "ccx_breaker_open") == Some(1.0)
    });
    // Those that the threads had begun when it opened, though all 40 were handed out.
    let begun = letters(&broker);
    assert!(begun < 4 + 4, "{begun}");
    // Then one after ten seconds.
    broker.wait("a probe", |b| letters(b) > begun);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
    assert!(letters(&broker) <= begun + 2, "{}", letters(&broker));
    assert!(committed(&broker, &stage, 0) <= letters(&broker) as i64);
}

#[test]
fn m17_switched_off_it_never_opens() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    down(&stage);
    broker.append(&stage.incoming, 0, stage.records(0..80));
    let worker = worker(&stage, "max_consecutive = \"off\"\nmax_ratio = \"off\"");
    broker.wait("everything", |b| committed(b, &stage, 0) == 80);
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.buried.len(), 80);
    assert_eq!(ledger.duplicates(), 0);
    let endpoint = endpoint(&worker);
    assert_eq!(metric(&endpoint, "ccx_breaker_open"), Some(0.0));
    assert_eq!(get(&endpoint, "/readyz").0, 200);
}
