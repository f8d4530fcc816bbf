//! P22: many records with faults of every kind among them, and what the process holds meanwhile.
//!
//! In short form some thousand records; `CCX_TEST_SOAK_RECORDS` makes it as long as you like. One
//! record in a hundred is bad in one of the ways of the tables, brokers and archive server fail
//! now and then, and what is measured is the slope: memory, threads and descriptors at the end
//! against a quarter of the way.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use rustix::process::Signal;
use serde_json::json;

use crate::support::archive_builder::Tar;
use crate::support::archive_server::Reply;
use crate::support::broker::Broker;
use crate::support::broker::batch::NewRecord;
use crate::support::program::Running;
use crate::support::stage::{CLUSTER, Ledger, Stage, archive, endpoint, get, metric};
use crate::support::until::until;

const PARTITIONS: usize = 3;
/// Records that are announced at once.
const LOAD: usize = 500;

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// KiB.
    memory: u64,
    threads: u64,
    descriptors: usize,
}

impl Held {
    fn by(worker: &Running) -> Self {
        Self {
            memory: worker.status("VmRSS"),
            threads: worker.status("Threads"),
            descriptors: worker.descriptors(),
        }
    }
}

/// The bad paths of the server, each with what becomes of its record.
fn bad_paths(stage: &Stage) -> Vec<(&'static str, &'static str)> {
    let server = &stage.server;
    let good = archive();
    let id = Tar::new().file("config/id", CLUSTER);
    server.serve("/cut", &good[..good.len() - 9]);
    server.serve("/page", "<html>log in</html>");
    server.serve("/evil", id.clone().file("../evil", "x").gzip());
    server.serve("/bomb", id.clone().file("zeros", vec![0; 8 << 20]).gzip());
    let deep = "[".repeat(100_000);
    server.serve("/deep", id.file("config/version.json", deep).gzip());
    server.script("/gone", [Reply::status(404, &[], "NoSuchKey")]);
    server.script("/expired", [Reply::status(403, &[], "Request has expired")]);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", good.len());
    let short = Reply::raw(head).then_send(&good[..100]).then_close();
    server.script("/short", [short]);
    server.script("/reset", [Reply::nothing().then_reset()]);
    server.script("/busy", [Reply::status(503, &[], "SlowDown")]);
    vec![
        ("/cut", "archive_corrupt"),
        ("/page", "not_an_archive"),
        ("/evil", "archive_unsafe"),
        ("/bomb", "archive_ratio"),
        ("/deep", "published"),
        ("/gone", "not_found"),
        ("/expired", "url_expired"),
        ("/short", "download_failed"),
        ("/reset", "download_failed"),
        ("/busy", "download_failed"),
    ]
}

#[test]
fn p22_a_long_run_with_faults_of_every_kind_holds_its_ground() {
    let records: usize = match std::env::var("CCX_TEST_SOAK_RECORDS") {
        Ok(number) => number.parse().unwrap(),
        Err(_) => 4 * LOAD,
    };
    let records = records.next_multiple_of(LOAD).max(4 * LOAD);
    let broker = Broker::start();
    let stage = Stage::new(&broker.bootstrap(), PARTITIONS, |name, partitions| {
        broker.create_topic(name, partitions);
    });
    let bad = bad_paths(&stage);
    let config = stage
        .config("[engine]\nmax_ratio = 100\n[logging]\nlevel = \"info\"\n")
        .replace("attempts = 2", "attempts = 2\nresponse_timeout = \"2s\"");
    let worker = crate::support::program::Program::new(["run"])
        .config(&config)
        .env(
            "CCX_DATA_PIPELINE__LOGGING__LEVEL",
            "warn,pipeline=info,telemetry=info",
        )
        .env("CCX_DATA_PIPELINE__WORKER__THREADS", "8")
        .start();
    let mut expected = BTreeMap::<&str, usize>::new();
    let mut at = BTreeMap::new();
    let mut early = None;
    for load in 0..records / LOAD {
        let mut batches = vec![Vec::new(); PARTITIONS];
        for id in load * LOAD..(load + 1) * LOAD {
            let name = format!("r-{id}");
            let turn = id / 100;
            let (record, outcome) = match id % 100 {
                37 => {
                    let (path, outcome) = bad[turn % bad.len()];
                    (stage.record(&name, path), outcome)
                }
                73 if turn % 2 == 0 => {
                    let broken = json!({"request_id": name, "url": 1});
                    (NewRecord::value(broken.to_string()), "message_schema")
                }
                _ => (stage.record(&name, "/archive"), "published"),
            };
            *expected.entry(outcome).or_default() += 1;
            batches[id % PARTITIONS].push(record);
        }
        for (partition, batch) in batches.into_iter().enumerate() {
            *at.entry(partition).or_insert(0) += batch.len() as i64;
            broker.append(&stage.incoming, partition as i32, batch);
        }
        // A fault of the brokers with every load.
        match load % 4 {
            0 => broker.drop_connections(1),
            1 => {
                let refused = broker.on(ApiKey::Produce).topic(&stage.outgoing).times(3);
                refused.error(ResponseError::NotEnoughReplicas.code());
            }
            2 => {
                let lost = broker.on(ApiKey::Produce).topic(&stage.outgoing);
                lost.handled().drop_connection();
            }
            _ => {
                let slow = broker.on(ApiKey::Fetch).times(2);
                slow.throttle(Duration::from_millis(300));
            }
        }
        until("a load is done", || {
            at.iter().all(|(partition, end)| {
                let partition = *partition as i32;
                broker.committed(&stage.group, &stage.incoming, partition) == Some(*end)
            })
        });
        if load + 1 == records / LOAD / 4 {
            early = Some(Held::by(&worker));
        }
    }
    let (early, late) = (early.unwrap(), Held::by(&worker));
    println!("{records} records; a quarter of the way: {early:?}; at the end: {late:?}");

    let letters = broker.all_records(&stage.dead_letters);
    let mut seen = BTreeMap::<String, usize>::new();
    for letter in &letters {
        let reason = letter.header("ccx-dlq-reason").unwrap();
        *seen.entry(reason).or_default() += 1;
    }
    let ledger = Ledger::new(broker.all_records(&stage.outgoing), letters);
    assert_eq!(ledger.lost(0..records), Vec::<String>::new());
    // No process died and no membership ended: idempotence leaves nothing twice.
    assert_eq!(ledger.duplicates(), 0);
    seen.insert("published".into(), ledger.published.len());
    let expected: BTreeMap<String, usize> = expected
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect();
    assert_eq!(seen, expected);

    assert_eq!(late.threads, early.threads);
    // Connections of brokers and archives come and go, a handful at most.
    assert!(
        late.descriptors <= early.descriptors + 8,
        "{early:?} {late:?}"
    );
    // Within what an allocator wavers by, whatever the number of records.
    assert!(
        late.memory < early.memory + (16 << 10),
        "{early:?} {late:?}"
    );
    let endpoint = endpoint(&worker);
    assert_eq!(get(&endpoint, "/readyz").0, 200);
    assert_eq!(metric(&endpoint, "ccx_in_flight_bytes"), Some(0.0));
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0);
    let left = std::fs::read_dir(finished.dir.path().join("tmp")).unwrap();
    assert_eq!(left.count(), 0);
}
