//! The loop with tasks that misbehave, which no record can bring about by itself. No broker
//! answers; records are put where fetched ones would be.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;

use super::admission::{OPEN_LIMIT, WAITING_BYTES};
use super::*;
use crate::backoff::sleep_unless;
use crate::config::{Config, Env, File};
use crate::error::Reason;
use crate::watchers::stats::Stats as StatsWatcher;
use crate::watchers::{self, Subject, Watcher, Watchers};

/// A worker that has fetched these announcements, and what it tells.
struct Stage {
    worker: Worker,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    shutdown: Shutdown,
    /// Temporary files, while the worker lives.
    _dir: tempfile::TempDir,
}

const VALUE: &str = r#"{"url": "http://127.0.0.1:1/a", "timestamp": "2026-01-02T03:04:05Z",
    "b64_identity": "eyJpZGVudGl0eSI6eyJpbnRlcm5hbCI6eyJvcmdfaWQiOiI3In19fQ==",
    "request_id": "r"}"#;

fn stage(records: i64, change: impl Fn(&mut Config), also: Vec<Box<dyn Watcher>>) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let toml = "[consumer]\nbootstrap_servers = ['127.0.0.1:1']\n\
                [downloader]\nallow_unsafe_links = true\nallowed_networks = ['127.0.0.0/8']\n\
                attempts = 1\ndeadline = '200ms'\n\
                [worker]\nthreads = 2\nmax_in_flight = 4\n";
    std::fs::write(&file, toml).unwrap();
    let none: [(&str, &str); 0] = [];
    let mut config = Config::load(File::Named(&file), &Env::of(none), &|_| true).unwrap();
    change(&mut config);

    let metrics = Arc::new(Metrics::new("1", "c", "1", &[]).unwrap());
    let health = Arc::new(Health::new());
    let mut all: Vec<Box<dyn Watcher>> = vec![Box::new(StatsWatcher::new(Arc::clone(&metrics)))];
    all.extend(also);
    let pipeline = start::pipeline(&config, dir.path(), Watchers::new(all), &health).unwrap();
    let options = Options {
        max_in_flight: 4,
        commit_interval: Duration::from_secs(1),
        shutdown_timeout: Duration::from_secs(5),
        max_crashes: 3,
        stuck_after: Duration::ZERO,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let mut worker = Worker::new(
        options,
        Consumer::start(config.consumer.options.clone()),
        Arc::new(pipeline),
        pool.unwrap(),
        Arc::clone(&metrics),
        Arc::clone(&health),
    );
    let (partition, lease) = (TopicPartition::new("upload", 0), Lease::new());
    worker
        .offsets
        .fetched(&partition, &lease, 0, 0..records, records);
    worker.take_over(&partition, &lease, 0);
    worker.ready = (0..records)
        .map(|offset| {
            Arc::new(Record {
                partition: partition.clone(),
                offset,
                timestamp: None,
                key: None,
                value: Some(Bytes::from_static(VALUE.as_bytes())),
                headers: Vec::new(),
                lease: lease.clone(),
            })
        })
        .collect();
    Stage {
        worker,
        metrics,
        health,
        shutdown: Shutdown::new(),
        _dir: dir,
    }
}

fn outcomes(metrics: &Metrics, reason: &str) -> u64 {
    metrics
        .outcomes
        .with_label_values(&["skipped", reason])
        .get()
}

/// Blocks the first task that fails until the test is over.
struct Blocks {
    has: AtomicBool,
    end: Mutex<Receiver<()>>,
}

impl Watcher for Blocks {
    fn notify(&self, _: &Subject<'_>, event: &watchers::Event<'_>) {
        if matches!(event, watchers::Event::Failed { .. }) && !self.has.swap(true, Ordering::SeqCst)
        {
            // Ends when the sender is dropped.
            let _ = self.end.lock().unwrap().recv();
        }
    }
}

#[test]
fn p07_a_task_that_does_not_end_costs_its_record_and_the_process() {
    let (end, ended) = mpsc::channel();
    let blocks = Blocks {
        has: AtomicBool::new(false),
        end: Mutex::new(ended),
    };
    let stage = stage(3, |_| {}, vec![Box::new(blocks)]);
    let offsets = |worker: &Worker| worker.offsets.open(&TopicPartition::new("upload", 0));
    assert_eq!(offsets(&stage.worker), 3);
    let exit = stage.worker.run(&stage.shutdown);
    assert_eq!(exit, Exit::Internal);
    let cause = stage.health.live().unwrap_err();
    assert!(
        cause.contains("upload-0 offset") && cause.contains("stuck"),
        "{cause}"
    );
    assert_eq!(outcomes(&stage.metrics, "timeout"), 1, "by the loop");
    assert_eq!(outcomes(&stage.metrics, "download_failed"), 2, "the others");
    drop(end);
}

/// Whether a partition is still suspect when a record, the first of so many suspects, was outlived
/// twice, and when it has come to its end besides.
#[test]
fn p05_a_record_is_cleared_once_and_of_its_own_suspicion() {
    let (partition, lease) = (TopicPartition::new("upload", 0), Lease::new());
    let record = Record {
        partition: partition.clone(),
        offset: 7,
        timestamp: None,
        key: None,
        value: None,
        headers: Vec::new(),
        lease: lease.clone(),
    };
    for (condemned, outdated, suspects, expected) in [
        (false, false, 1, [false, false]),
        (false, false, 2, [true, true]),
        (true, false, 1, [true, false]),
        (false, true, 1, [true, true]),
    ] {
        let mut crashes = Crashes::new(3, suspects);
        crashes.begin(&partition, &lease, 7, Some("crashes=1;offset=7"));
        let mut in_flight = InFlight {
            record: Arc::new(record.clone()),
            task: Arc::new(Task::new(lease.clone())),
            since: Instant::now(),
            condemned,
            burial: None,
            outdated,
            outlived: false,
            rests: false,
        };
        in_flight.outlive(&mut crashes);
        in_flight.outlive(&mut crashes);
        let outlived = crashes.suspects(&partition);
        in_flight.end(&mut crashes, true);
        assert_eq!([outlived, crashes.suspects(&partition)], expected);
    }
}

#[test]
fn p07_a_process_that_was_stopped_has_no_stuck_tasks() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let after = Duration::from_secs(30);
    assert!(!is_overdue(at(40), at(10), None, after));
    assert!(is_overdue(at(41), at(10), None, after));
    let stopped = Some(at(300));
    assert!(!is_overdue(at(300), at(10), stopped, after));
    assert!(!is_overdue(at(330), at(10), stopped, after));
    assert!(is_overdue(at(331), at(10), stopped, after));
    assert!(!is_overdue(at(331), at(310), stopped, after));
}

#[test]
fn p06_a_panic_outside_of_a_rule_costs_its_record() {
    // The end of such a deadline cannot be said, and that it is asked for is a panic.
    let endless = |config: &mut Config| config.downloader.deadline = Duration::MAX;
    let Stage {
        worker,
        metrics,
        health,
        shutdown,
        _dir,
    } = stage(3, endless, Vec::new());
    let running = {
        let shutdown = shutdown.clone();
        thread::spawn(move || worker.run(&shutdown))
    };
    let done = || outcomes(&metrics, "internal") == 3;
    assert!(
        !sleep_unless(Duration::from_secs(60), done),
        "three records"
    );
    assert_eq!(health.live(), Ok(()));
    shutdown.request();
    assert_eq!(running.join().unwrap(), Exit::Done);
}

/// What is done behind a record that is not is remembered, so there is an end to it.
#[test]
fn k11_a_partition_with_too_many_open_records_pauses() {
    let most = i64::try_from(OPEN_LIMIT).unwrap();
    for (records, pauses) in [(most, false), (most + 1, true)] {
        let mut worker = stage(records, |_| (), Vec::new()).worker;
        let all: Vec<_> = worker.ready.drain(..).collect();
        // All but the first one are done.
        for record in &all[1..] {
            worker.settle(record);
        }
        worker.admit();
        assert_eq!(worker.paused.len(), usize::from(pauses), "{records}");
        worker.settle(&all[0]);
        worker.admit();
        assert!(worker.paused.is_empty());
    }
}

#[test]
fn p09_what_waits_with_its_partition_is_bounded() {
    let mut worker = stage(1, |_| (), Vec::new()).worker;
    let record = Arc::clone(&worker.ready[0]);
    let large = |_| {
        Arc::new(Record {
            value: Some(Bytes::from(vec![b' '; WAITING_BYTES / 16])),
            ..(*record).clone()
        })
    };
    worker.ready = (0..16).map(large).collect();
    assert!(worker.is_saturated(), "it waits for room");
    worker.behind.insert(record.partition.clone());
    assert!(!worker.is_saturated(), "others are fetched");
    assert!(worker.admit(), "what it waits for is looked for");
    assert!(worker.paused.contains(&record.partition));
    worker.ready.push_back(Arc::clone(&record));
    assert!(worker.is_saturated(), "nor are they");
}

/// Nothing would ever come of its records, however well all looks from outside.
#[test]
fn p06_a_worker_whose_producer_has_died_ends_to_be_started_anew() {
    let stage = stage(0, |_| {}, Vec::new());
    stage.worker.pipeline.output().results.producer.end();
    let ended = || stage.worker.pipeline.output().has_ended();
    assert!(!sleep_unless(Duration::from_secs(60), ended), "it ends");
    assert_eq!(stage.worker.run(&stage.shutdown), Exit::Internal);
}

/// What waits for the breaker, and what is tried, are records of the old log.
#[test]
fn k15_a_log_that_was_cut_off_leaves_nothing_behind() {
    let mut worker = stage(2, |_| (), Vec::new()).worker;
    let cut: Vec<_> = worker.ready.iter().cloned().collect();
    let now = Instant::now();
    for _ in 0..100 {
        worker
            .pipeline
            .breaker()
            .failed(Reason::DownloadFailed, now);
    }
    assert!(worker.pipeline.breaker().is_open());
    worker.held.push_back(Held {
        record: Arc::clone(&cut[0]),
        since: now,
    });
    worker.hand_out(Arc::clone(&cut[1]), false, true);
    worker.start_over(&cut[0].partition);
    assert!(worker.ready.is_empty() && worker.held.is_empty());
    assert_eq!(worker.in_flight.len(), 1, "it comes to its end");
    assert!(worker.probe.is_none());
    assert!(worker.pipeline.breaker().probe_is_due(Instant::now()));
    assert!(!worker.crashes.one_is_alone());
    // The records of the new log stand at the same offsets: what it comes to says nothing of them.
    let (partition, lease) = (&cut[0].partition, &cut[0].lease);
    worker.offsets.fetched(partition, lease, 0, 0..2, 2);
    let limit = Instant::now() + Duration::from_secs(60);
    while !worker.in_flight.is_empty() {
        assert!(Instant::now() < limit, "the task ends");
        worker.take_settled(SETTLE_TIMEOUT);
    }
    assert!(worker.held.is_empty());
    assert_eq!(worker.offsets.open(partition), 2);
}
