//! What operators rely on when things fail, on real brokers: dead letters that are sent again, and
//! the crash count that lives in the metadata of committed offsets.

use rustix::process::Signal;

use crate::on_brokers;
use crate::support::archive_server::Reply;
use crate::support::program::{Finished, Program};
use crate::support::real::RealBroker;
use crate::support::stage::{Ledger, Stage, archive};

fn stage(broker: &RealBroker, partitions: i32) -> Stage {
    let mut stage = Stage::new(&broker.address, 0, |_, _| {});
    stage.incoming = broker.create_topic("incoming", partitions);
    stage.outgoing = broker.create_topic("results", 2);
    stage.dead_letters = broker.create_topic("dlq", 2);
    stage
}

fn ledger(broker: &RealBroker, stage: &Stage) -> Ledger {
    let records = |topic: &str| broker.read_all(topic).into_iter().map(|(_, record)| record);
    Ledger::new(records(&stage.outgoing), records(&stage.dead_letters))
}

fn wait_for_no_lag(broker: &RealBroker, stage: &Stage) {
    broker.wait("everything is committed", || {
        broker.lag(&stage.group, &stage.incoming) == 0
    });
}

fn redrive(stage: &Stage, arguments: &[&str]) -> Finished {
    let arguments = ["redrive"].iter().chain(arguments);
    let finished = Program::new(arguments).config(&stage.config("")).finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    finished
}

on_brokers! {
    /// Dead letters of a worker are sent again and become results; a second run has nothing to do.
    [tansu, apache_3_9, apache_4]
    fn redriven_dead_letters_become_results(broker) {
        let stage = stage(broker, 3);
        stage.server.script("/later", [Reply::status(404, &[], "NoSuchKey")]);
        let records = (0..120).map(|id| {
            let path = if id % 10 == 0 { "/archive" } else { "/later" };
            stage.record(&format!("r-{id}"), path)
        });
        broker.load(&stage.incoming, records.collect::<Vec<_>>());
        // Most of them fail, which is no reason to wait here.
        let off = "[dead_letter_queue]\nmax_ratio = \"off\"\nmax_consecutive = \"off\"";
        let config = stage.config("").replace("[dead_letter_queue]", off);
        let _worker = Program::new(["run"]).config(&config).start();
        wait_for_no_lag(broker, &stage);
        stage.server.serve("/later", archive());

        let listed = redrive(&stage, &["--dry-run"]);
        assert!(listed.stdout.ends_with("would be sent again: 108\n  not_found: 108\n"));
        let some = redrive(&stage, &["--limit", "8"]);
        assert_eq!(some.stdout, "sent again: 8\n  not_found: 8\n");
        let rest = redrive(&stage, &[]);
        assert_eq!(rest.stdout, "sent again: 100\n  not_found: 100\n");
        assert_eq!(redrive(&stage, &[]).stdout, "sent again: 0\n");
        wait_for_no_lag(broker, &stage);
        let ledger = ledger(broker, &stage);
        assert_eq!(ledger.lost(0..120), Vec::<String>::new());
        assert_eq!(ledger.published.len(), 120);
        assert!(ledger.published.values().all(|times| *times == 1));
        assert_eq!(ledger.buried.len(), 108);
    }

    /// Three processes are killed while the same record is in work; the fourth gives it up.
    [apache_3_9, apache_4]
    fn p05_a_record_in_work_at_three_crashes_is_a_dead_letter(broker) {
        let stage = stage(broker, 1);
        stage.server.script("/bomb", [Reply::nothing().then_stall()]);
        let records = (0..12).map(|id| {
            let path = if id == 4 { "/bomb" } else { "/archive" };
            stage.record(&format!("r-{id}"), path)
        });
        broker.load(&stage.incoming, records.collect::<Vec<_>>());
        let keys = "[worker]\nthreads = 4\nmax_in_flight = 8";
        for crashes in 1..=3 {
            let worker = stage.worker(keys);
            broker.wait("the archive is asked for", || stage.server.requests("/bomb") >= crashes);
            worker.signal(Signal::KILL);
            drop(worker);
        }
        let _last = stage.worker(keys);
        wait_for_no_lag(broker, &stage);
        assert_eq!(stage.server.requests("/bomb"), 3, "not opened any more");
        let ledger = ledger(broker, &stage);
        assert_eq!(ledger.lost(0..12), Vec::<String>::new());
        assert_eq!(ledger.buried.keys().collect::<Vec<_>>(), ["r-4"]);
        assert_eq!(ledger.published.len(), 11);
    }
}
