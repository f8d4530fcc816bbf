//! The process and its host: signals, limits, disks, users, pipes, and brokers that are away.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use ccx_data_pipeline::backoff::sleep_unless;
use ccx_data_pipeline::telemetry::health::TICK_LIMIT;
use kafka_protocol::messages::ApiKey;
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;

use crate::support::archive_builder::{Tar, endless, gzip, gzip_stored};
use crate::support::archive_server::Reply;
use crate::support::broker::Broker;
use crate::support::broker::batch::NewRecord;
use crate::support::program::{Program, pipe};
use crate::support::stage::{CLUSTER, Ledger, Stage, endpoint, get, metric};
use crate::support::until::until;

fn stage(broker: &Broker, partitions: usize) -> Stage {
    Stage::new(&broker.bootstrap(), partitions, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

fn committed(broker: &Broker, stage: &Stage) -> i64 {
    let committed = broker.committed(&stage.group, &stage.incoming, 0);
    committed.unwrap_or(0)
}

/// Every one of the records is published, once, and committed.
#[track_caller]
fn all_published(broker: &Broker, stage: &Stage, records: usize) {
    until("all are committed", || {
        committed(broker, stage) == records as i64
    });
    let ledger = Ledger::new(
        broker.all_records(&stage.outgoing),
        broker.all_records(&stage.dead_letters),
    );
    assert_eq!(ledger.lost(0..records), Vec::<String>::new());
    assert!(ledger.buried.is_empty(), "{:?}", ledger.buried);
    assert_eq!(ledger.duplicates(), 0);
}

/// An archive of nearly `size` bytes, most of them in a member that no rule wants.
fn large_archive(tar: &Tar, size: usize) -> Vec<u8> {
    let mut small = gzip(&tar.unended());
    let filler = size - small.len() - 4096;
    // Without a pattern that could be taken for one: a generator of Knuth's.
    let noise = std::iter::successors(Some(1_u64), |n| {
        Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1))
    });
    let noise: Vec<u8> = noise.take(filler).map(|n| (n >> 56) as u8).collect();
    let filler = Tar::new().file("filler", noise).build();
    small.extend(gzip_stored(&filler));
    assert!(small.len() <= size, "{} > {size}", small.len());
    small
}

#[test]
fn p01_an_idle_worker_leaves_and_ends_at_once() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let worker = stage.worker("");
    let asked = Instant::now();
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    // A second on a machine that is not busy; a tenth of the shutdown time is far above it.
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert_eq!(broker.count(ApiKey::LeaveGroup), 1);
    assert!(broker.group(&stage.group).members.is_empty());
}

/// Every broker takes connections and answers nothing, and what was asked of them has limits of
/// many seconds.
#[test]
fn p01_p21_an_idle_worker_lives_and_ends_at_once_although_brokers_hang() {
    const NODES: i32 = 3;
    let broker = Broker::builder().nodes(NODES as usize).start();
    let stage = stage(&broker, 2);
    let worker = stage.worker_with("", &[("consumer.metadata_max_age", "1s")]);
    worker.line("assigned: ");
    let endpoint = endpoint(&worker);
    until("ready", || get(&endpoint, "/readyz").0 == 200);
    (1..=NODES).for_each(|node| broker.freeze(node));
    // Said by the loop, and after the session: it has had its turns, and brokers were asked.
    worker.line("membership lost; 0 records");
    until("not ready", || get(&endpoint, "/readyz").0 == 503);
    until("asked in vain", || {
        worker.has_said("did not answer Metadata within")
    });
    let asked = Instant::now();
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    // As without brokers that hang; their limits are twice that.
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
}

/// The poll thread waits for something with a limit of its own that is longer.
#[test]
fn p03_a_loop_that_hangs_does_not_outlast_the_limit() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let silent = broker.on(ApiKey::ListOffsets).always().silence();
    let worker = stage.starting_worker("[worker]\nshutdown_timeout = \"2s\"\n");
    silent.wait_used(1);
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 75, "{}", finished.stdout);
    let why = "not drained within 2s; what is unfinished is uncommitted";
    assert!(finished.stdout.contains(why), "{}", finished.stdout);
}

/// While it waits for its configuration, the program is as young as a test can catch it.
#[test]
fn p01_a_signal_at_the_very_start_ends_it_in_order() {
    for command in ["run", "redrive"] {
        let broker = Broker::start();
        let stage = stage(&broker, 1);
        let program = Program::new([command, "--config", "pipe"]);
        let pipe = program.dir().join("pipe");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let worker = program.start();
        until("it listens to SIGTERM", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid()));
            let caught = status.unwrap_or_default();
            let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
            caught & (1 << (Signal::TERM.as_raw() - 1)) != 0
        });
        worker.signal(Signal::TERM);
        std::fs::write(&pipe, stage.config("")).unwrap();
        let finished = worker.finish();
        assert_eq!(finished.code(), 0, "{}{}", finished.stdout, finished.stderr);
        assert_eq!(broker.count(ApiKey::JoinGroup), 0);
    }
}

#[test]
fn p04_a_second_signal_ends_a_drain_at_once() {
    for (first, second, code) in [
        (Signal::TERM, Signal::TERM, 143),
        (Signal::INT, Signal::TERM, 143),
        (Signal::TERM, Signal::INT, 130),
        (Signal::HUP, Signal::HUP, 129),
        (Signal::HUP, Signal::TERM, 143),
    ] {
        let broker = Broker::start();
        let stage = stage(&broker, 1);
        let slow = Reply::nothing().then_stall();
        stage.server.script("/slow", [slow]);
        broker.append(&stage.incoming, 0, [stage.record("r-0", "/slow")]);
        let patient = "attempts = 2\nresponse_timeout = \"1h\"\ndeadline = \"1h\"";
        let config = stage.config("").replace("attempts = 2", patient);
        let worker = Program::new(["run"]).config(&config).start();
        until("the request", || stage.server.requests("/slow") == 1);
        worker.signal(first);
        worker.line("a second signal ends at once");
        worker.signal(second);
        let finished = worker.finish();
        assert_eq!(finished.code(), code, "{}", finished.stdout);
        assert_eq!(committed(&broker, &stage), 0);
        assert!(broker.all_records(&stage.outgoing).is_empty());
    }
}

#[test]
fn p07_an_archive_past_its_deadline_is_a_dead_letter_and_the_others_go_on() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    stage.server.serve("/endless", endless());
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/endless")]);
    broker.append(&stage.incoming, 0, stage.records(1..20));
    let worker = stage.worker(
        "[engine]\nunpacked_archive_size_limit = \"1000000GiB\"\nmax_ratio = 100000\narchive_deadline = \"2s\"\n",
    );
    until("all are committed", || committed(&broker, &stage) == 20);
    let letters = broker.all_records(&stage.dead_letters);
    assert_eq!(letters.len(), 1);
    let reason = letters[0].header("ccx-dlq-reason");
    assert_eq!(reason.as_deref(), Some("timeout"));
    let ledger = Ledger::new(broker.all_records(&stage.outgoing), letters);
    assert_eq!(ledger.lost(0..20), Vec::<String>::new());
    let series = "ccx_engine_processed_timeout_total{archive=\"ocp\"}";
    assert_eq!(metric(&endpoint(&worker), series), Some(1.0));
}

/// The disk of the worker is a file system of 6 MiB, of which other things take 5.
#[test]
fn p08_a_full_disk_costs_time_and_no_record() {
    let script = "mount -t tmpfs -o size=6m tmpfs \"$TMPDIR\"\n\
                  head -c 5242880 /dev/zero > \"$TMPDIR/others\"";
    let Some(program) = Program::with_mounts(script, ["run"]) else {
        return;
    };
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let id = Tar::new().file("config/id", CLUSTER);
    // No room for its body; for its one large document, in the middle of a write.
    stage.server.serve("/body", large_archive(&id, 3 << 20));
    let document = format!("{{{}}}", "a line that compresses well\n  ".repeat(110_000));
    let unpacked = id.file("config/version.json", document).gzip();
    assert!(unpacked.len() < 1 << 20);
    stage.server.serve("/document", unpacked);
    broker.append(
        &stage.incoming,
        0,
        [
            stage.record("r-0", "/body"),
            stage.record("r-1", "/document"),
        ],
    );
    let worker = program.config(&stage.config("")).start();
    let endpoint = endpoint(&worker);
    worker.line("host fault");
    until("not ready", || {
        let (status, cause) = get(&endpoint, "/readyz");
        status == 503 && cause.contains("No space left on device")
    });
    assert_eq!(get(&endpoint, "/livez").0, 200, "no reason to restart");
    let fault = "ccx_fault{kind=\"host\"}";
    until("the gauge", || metric(&endpoint, fault) == Some(1.0));
    // Meanwhile nothing is taken on, and nothing is given up. By the next tries, a second apart
    // and more, the loop has noticed, and would have had the time.
    let tries = || stage.server.requests("/body");
    let tried_again = |tried| until("it is tried again", || tries() > tried);
    tried_again(tries());
    broker.append(&stage.incoming, 0, stage.records(2..10));
    tried_again(tries());
    tried_again(tries());
    assert_eq!(broker.all_records(&stage.outgoing).len(), 0);
    assert_eq!(broker.all_records(&stage.dead_letters).len(), 0);
    assert_eq!(committed(&broker, &stage), 0);

    let others = worker.tmp().join("others");
    let theirs = format!("/proc/{}/root{}", worker.pid(), others.display());
    std::fs::remove_file(theirs).unwrap();
    all_published(&broker, &stage, 10);
    until("ready again", || get(&endpoint, "/readyz").0 == 200);
    assert_eq!(metric(&endpoint, fault), Some(0.0));
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// Not even for a directory. It is not the configuration that is at fault, and whoever starts the
/// worker again only when it is not (`RestartPreventExitStatus`) would never do so.
#[test]
fn p08_a_disk_that_is_full_at_the_start_is_waited_for() {
    let script = "mount -t tmpfs -o size=6m,nr_inodes=10 tmpfs \"$TMPDIR\"\n\
                  n=0\n\
                  while touch \"$TMPDIR/others-$n\"; do n=$((n + 1)); done";
    let full = |command: &str| Program::with_mounts(script, [command]);
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, stage.records(0..3));
    let start = || Some(full("run")?.config(&stage.config("")).start());
    let Some(worker) = start() else {
        return;
    };
    worker.line("host fault");
    let endpoint = endpoint(&worker);
    let (status, cause) = get(&endpoint, "/readyz");
    assert_eq!(status, 503);
    assert!(cause.contains("No space left on device"), "{cause}");
    assert!(cause.contains("engine.extract_tmp_dir"), "{cause}");
    assert_eq!(get(&endpoint, "/livez").0, 200, "no reason to restart");
    let fault = "ccx_fault{kind=\"host\"}";
    assert_eq!(metric(&endpoint, fault), Some(1.0));
    let tmp = format!("/proc/{}/root{}", worker.pid(), worker.tmp().display());
    for others in std::fs::read_dir(tmp).unwrap() {
        std::fs::remove_file(others.unwrap().path()).unwrap();
    }
    all_published(&broker, &stage, 3);
    until("ready", || get(&endpoint, "/readyz").0 == 200);
    assert_eq!(metric(&endpoint, fault), Some(0.0));
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);

    let worker = start().unwrap();
    worker.line("host fault");
    let endpoint = self::endpoint(&worker);
    let began = Instant::now();
    until("it waits for longer than a loop may be silent", || {
        assert_eq!(get(&endpoint, "/livez").0, 200);
        began.elapsed() > TICK_LIMIT + Duration::from_secs(1)
    });
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    // And `check` says the same as `run`.
    let checked = full("check").unwrap().config(&stage.config("")).finish();
    assert_eq!(checked.code(), 0, "{}", checked.stderr);
}

#[test]
fn p08_a_limit_on_the_size_of_files_ends_no_process_and_no_record() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let id = Tar::new().file("config/id", CLUSTER);
    stage.server.serve("/body", large_archive(&id, 3 << 20));
    let record = stage.record("r-0", "/body");
    broker.append(&stage.incoming, 0, [record]);
    // Blocks of 512 bytes; the limit that can be lifted again.
    let worker = Program::behind("ulimit -S -f 100", ["run"])
        .config(&stage.config(""))
        .start();
    worker.line("host fault");
    assert_eq!(broker.all_records(&stage.dead_letters).len(), 0);
    let limits = Rlimit {
        current: None,
        maximum: None,
    };
    let pid = Pid::from_raw(worker.pid() as i32);
    prlimit(pid, Resource::Fsize, limits).unwrap();
    all_published(&broker, &stage, 1);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// Of commands too, whose output goes to a file most often.
#[test]
fn p08_a_limit_on_the_size_of_files_is_said_and_ends_no_command() {
    let limited = |arguments: &[&str]| Program::behind("ulimit -S -f 1", arguments);
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let program = limited(&["check"]).config(&stage.config(""));
    let output = File::create(program.dir().join("output")).unwrap();
    let finished = program.stdout(output).finish();
    assert_eq!(finished.code(), 1, "{}", finished.stderr);
    let why = "standard output: File too large";
    assert!(finished.stderr.contains(why), "{}", finished.stderr);

    let document = "x".repeat(100_000);
    let tar = Tar::new().file("config/version.json", document).build();
    let finished = limited(&["analyze", "-"]).input(&tar).finish();
    assert_eq!(finished.code(), 1, "{}", finished.stderr);
    let why = "-: the work directory cannot be written: File too large";
    assert!(finished.stderr.contains(why), "{}", finished.stderr);
}

#[test]
fn p08_a_work_directory_that_somebody_removes_is_made_again() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let worker = stage.worker("");
    let dirs = || std::fs::read_dir(worker.tmp()).unwrap();
    let dir = dirs().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(&dir).unwrap();
    broker.append(&stage.incoming, 0, stage.records(0..3));
    all_published(&broker, &stage, 3);
    assert!(dir.is_dir());
    let tmp = worker.tmp();
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0);
    let left = finished.dir.path().join(tmp.file_name().unwrap());
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0);
}

/// Eight slots, and all archives as large as they may be: in relation to the bytes in flight as by
/// default, the documents of the very size of the default. What is measured is the largest
/// resident set of the process, its unoptimised code included: what a container's limit counts
/// that cannot be given back.
#[test]
fn p09_eight_slots_of_the_largest_archives_stay_below_128_mib() {
    const SIZE: usize = 12 << 20;
    const DOCUMENT: usize = 16 << 20;
    const RECORDS: usize = 10;
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    // As real ones are, thousands of times.
    let image = "quay.io/openshift-release-dev/ocp-release@sha256:0123456789abcdef0123456789abcdef";
    let entry = json!({"acceptedRisks": "", "completionTime": "2023-01-01T00:00:00Z",
        "image": image, "startedTime": "2023-01-01T00:00:00Z", "state": "Completed",
        "verified": true, "version": "4.1.3"});
    let entry = format!("{entry},");
    let list = entry.repeat(DOCUMENT / entry.len() - 1);
    let list = list.trim_end_matches(',');
    let version = format!(r#"{{"status":{{"history":[{list}]}}}}"#);
    assert!(version.len() < DOCUMENT);
    let tar = Tar::new()
        .file("config/id", CLUSTER)
        .file("config/version.json", version);
    stage.server.serve("/large", large_archive(&tar, SIZE));
    let records = (0..RECORDS).map(|id| stage.record(&format!("r-{id}"), "/large"));
    broker.append(&stage.incoming, 0, records);
    let config = stage.config(&format!(
        "[worker]\nthreads = 8\nmax_in_flight_bytes = {}\n",
        SIZE * 256 / 100
    ));
    let limit = format!("attempts = 2\nmax_archive_size = {SIZE}");
    let config = config.replace("attempts = 2", &limit);
    let worker = Program::new(["run"]).config(&config).start();
    all_published(&broker, &stage, RECORDS);
    let peak = worker.status("VmHWM");
    println!("peak memory: {peak} KiB");
    assert!(peak < 128 << 10, "{peak} KiB");
}

#[test]
fn p10_forty_slots_and_64_descriptors_publish_everything() {
    const RECORDS: usize = 60;
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    // Each wants a connection and a file or two.
    let id = Tar::new().file("config/id", CLUSTER);
    let body = large_archive(&id, (1 << 20) + (1 << 19));
    let (half, rest) = body.split_at(body.len() / 2);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let slow = Reply::raw(head)
        .then_send(half)
        .then_trickle([rest[0]], Duration::from_millis(500))
        .then_send(&rest[1..]);
    stage.server.script("/large", [slow]);
    let records = (0..RECORDS).map(|id| stage.record(&format!("r-{id}"), "/large"));
    broker.append(&stage.incoming, 0, records);
    let worker = Program::behind("ulimit -n 64", ["run"])
        .config(&stage.config("[worker]\nthreads = 40\n"))
        .start();
    worker.line("host fault");
    assert!(worker.descriptors() <= 64);
    all_published(&broker, &stage, RECORDS);
    let said = worker.has_said("Too many open files") || worker.has_said("No file descriptors");
    assert!(said, "the cause is said");
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// As many threads as it has when nothing is to be done, and none more. A user of its own has
/// them to itself; who may not become one has no limit to test.
#[test]
fn p10_without_a_thread_to_spare_everything_is_published() {
    let broker = Broker::start();
    let few = "[worker]\nthreads = 2\n";
    let quiet = |stage: &Stage| {
        let config = stage.config(few);
        config.replace("[watchers.stats]\n", "[watchers.stats]\nenabled = false\n")
    };
    let first = stage(&broker, 1);
    broker.append(&first.incoming, 0, first.records(0..5));
    let worker = Program::new(["run"]).config(&quiet(&first)).start();
    all_published(&broker, &first, 5);
    let threads = worker.status("Threads");
    drop(worker);

    let second = stage(&broker, 1);
    broker.append(&second.incoming, 0, second.records(0..5));
    let script = format!(
        "if test \"$(id -u)\" -ne 0; then exec \"$0\" \"$@\"; fi\n\
         cp \"$0\" program\n\
         chown -R 65322:65322 .\n\
         prlimit --nproc={threads}:{threads} --pid $$\n\
         exec setpriv --reuid=65322 --regid=65322 --clear-groups ./program \"$@\""
    );
    let worker = Program::behind(&script, ["run"])
        .config(&quiet(&second))
        .start();
    all_published(&broker, &second, 5);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// A root file system that cannot be written: refused, unless there is one place that can.
#[test]
fn p11_a_read_only_root_needs_one_writable_place() {
    let read_only = "mkdir root\nmount --rbind / root\nmount -o remount,bind,ro root";
    let refused = format!("{read_only}\nexec chroot root \"$0\" \"$@\"");
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let config = |program: Program| {
        let program = program.config(&stage.config(""));
        let file = program.dir().join("config.toml");
        program.argument("--config").argument(file)
    };
    let Some(program) = Program::with_mounts(&refused, ["run"]) else {
        return;
    };
    let finished = config(program).finish();
    assert_eq!(
        finished.code(),
        78,
        "{}{}",
        finished.stdout,
        finished.stderr
    );
    let said = &finished.stderr;
    assert!(said.contains("engine.extract_tmp_dir"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");

    let allowed = format!(
        "{read_only}\nmount -t tmpfs -o size=16m tmpfs \"root$TMPDIR\"\n\
         exec chroot root \"$0\" \"$@\""
    );
    broker.append(&stage.incoming, 0, stage.records(0..5));
    let worker = config(Program::with_mounts(&allowed, ["run"]).unwrap()).start();
    all_published(&broker, &stage, 5);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// A user that nobody has ever heard of, without a home. Who may not become one is one already.
#[test]
fn p12_runs_as_any_user() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, stage.records(0..5));
    let script = "if test \"$(id -u)\" -ne 0; then exec \"$0\" \"$@\"; fi\n\
                  cp \"$0\" program\n\
                  chown -R 65321:65321 .\n\
                  exec setpriv --reuid=65321 --regid=65321 --clear-groups ./program \"$@\"";
    let worker = Program::behind(script, ["run"])
        .config(&stage.config(""))
        .start();
    all_published(&broker, &stage, 5);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// A process that gets a twentieth of a processor: stopped most of the time, for longer than two
/// session timeouts.
#[test]
fn p14_a_starved_worker_keeps_its_place_in_the_group() {
    const RECORDS: usize = 50;
    const TURNS: u32 = 15;
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let worker = stage.worker("");
    let generation = broker.group(&stage.group).generation;
    broker.append(&stage.incoming, 0, stage.records(0..RECORDS));
    for _ in 0..TURNS {
        worker.signal(Signal::STOP);
        sleep_unless(Duration::from_millis(950), || false);
        worker.signal(Signal::CONT);
        sleep_unless(Duration::from_millis(50), || false);
    }
    all_published(&broker, &stage, RECORDS);
    let group = broker.group(&stage.group);
    assert_eq!(group.generation, generation, "no rebalance");
    assert!(group.is_stable_with(1));
    assert_eq!(broker.count(ApiKey::JoinGroup), 2, "once to be given an id");
}

#[test]
fn p17_a_log_that_nobody_reads_holds_nothing_up() {
    // Lines of 1.5 KB: four times what pipe and queue hold.
    const RECORDS: usize = 3000;
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let (read, write) = pipe();
    let worker = Program::new(["run"])
        .config(&stage.config("[logging]\nformat = \"json\"\n"))
        .without_breaker()
        .stdout(write)
        .start();
    // Reads what it needs, and then stops.
    let mut log = BufReader::with_capacity(1, read);
    let mut line = String::new();
    while !line.contains("metrics and health on ") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
    }
    let (_, url) = line.split_once("http://").unwrap();
    let endpoint = url.split([' ', '"']).next().unwrap();
    let bad = |count: usize| {
        let bad = NewRecord::value("{").header("traceparent", Some(&[1; 256]));
        broker.append(&stage.incoming, 0, std::iter::repeat_n(bad, count));
    };
    bad(RECORDS);
    until("all are committed", || {
        committed(&broker, &stage) == RECORDS as i64
    });
    let dropped = || metric(endpoint, "ccx_log_lines_dropped_total").unwrap();
    let blocked = dropped();
    assert!(blocked > 0.0, "dropped and counted");

    // Nobody can read any more.
    drop(log);
    bad(10);
    until("all are committed", || {
        committed(&broker, &stage) == RECORDS as i64 + 10
    });
    until("more is dropped", || dropped() > blocked);
    assert_eq!(broker.all_records(&stage.dead_letters).len(), RECORDS + 10);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// The pipe is full and stays so: the last lines are waited for, but not for ever.
#[test]
fn p17_a_log_that_nobody_reads_does_not_hold_up_the_end() {
    const RECORDS: usize = 200;
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let (read, write) = pipe();
    let worker = Program::new(["run"])
        .config(&stage.config("[logging]\nformat = \"json\"\n"))
        .without_breaker()
        .stdout(write)
        .start();
    let bad = NewRecord::value("{").header("traceparent", Some(&[1; 256]));
    broker.append(&stage.incoming, 0, std::iter::repeat_n(bad, RECORDS));
    until("all are committed", || {
        committed(&broker, &stage) == RECORDS as i64
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
    drop(read);
}

#[test]
fn p20_without_a_store_the_compiled_in_roots_are_trusted_and_a_file_is_never_replaced() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let bare = || {
        let program = stage.program("");
        let program = program.env("SSL_CERT_FILE", "/nowhere/ca.pem");
        program.env("SSL_CERT_DIR", "/nowhere")
    };
    let worker = bare().start();
    let line = worker.line("certificate authorities from the compiled-in list");
    assert!(!line.contains("trust 0 "), "{line}");
    worker.line("assigned: ");
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);

    // What `run` would refuse, `check` finds.
    for text in [None, Some(""), Some("no certificate\n")] {
        for command in ["check", "run"] {
            let mut program = Program::new([command])
                .config(&stage.config(""))
                .env("CCX_DATA_PIPELINE__DOWNLOADER__CA_FILE", "ca.pem");
            if let Some(text) = text {
                program = program.file("ca.pem", text.as_bytes());
            }
            let finished = program.finish();
            assert_eq!(finished.code(), 78, "{command} {text:?}");
            let said = &finished.stderr;
            assert!(said.contains("downloader.ca_file: ca.pem "), "{said}");
        }
    }
}

#[test]
fn p21_a_broker_that_is_away_makes_the_worker_unready_and_not_dead() {
    let broker = Broker::start();
    let [stage, another] = [(); 2].map(|()| stage(&broker, 1));
    broker.append(&stage.incoming, 0, stage.records(0..5));
    let worker = stage.worker("");
    let first = endpoint(&worker);
    all_published(&broker, &stage, 5);
    until("ready", || get(&first, "/readyz").0 == 200);
    let pid = worker.pid();

    broker.stop(1);
    let gone = Instant::now();
    let newcomer = another.starting_worker("");
    let second = endpoint(&newcomer);
    until("not ready", || get(&first, "/readyz").0 == 503);
    // For longer than a session lasts: heartbeats fail, and the membership ends.
    until("the group is empty", || {
        assert_eq!(get(&first, "/livez").0, 200);
        broker.group(&stage.group).members.is_empty()
    });
    // The worker need not be told.
    worker.line("membership lost");
    // And for longer than a loop may be silent, also that of a worker which has found nobody yet.
    until("both live", || {
        assert_eq!(get(&first, "/livez").0, 200);
        assert_eq!(get(&second, "/livez").0, 200);
        gone.elapsed() > TICK_LIMIT + Duration::from_secs(1)
    });

    broker.restart(1);
    broker.append(&stage.incoming, 0, stage.records(5..10));
    until("all are committed", || committed(&broker, &stage) == 10);
    until("ready again", || get(&first, "/readyz").0 == 200);
    until("the newcomer, too", || get(&second, "/readyz").0 == 200);
    assert_eq!(worker.pid(), pid);
    Ledger::new(broker.all_records(&stage.outgoing), []).check(0..10, 0);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}
