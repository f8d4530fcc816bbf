//! P05: the program killed at every step of a record, and started again.
//!
//! The program has no points for tests in it: the broker and the archive server hold it where it
//! is to be killed. Behind each kill: no record is lost, only those whose commit was lost come
//! twice, nothing of the dead process stays on the disk, and the new one stays small.

use std::path::{Path, PathBuf};

use kafka_protocol::messages::ApiKey;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::archive_builder::endless;
use crate::support::archive_server::Reply;
use crate::support::broker::Broker;
use crate::support::program::Running;
use crate::support::stage::{Ledger, Stage, archive, endpoint, metric};
use crate::support::until::until;

/// Records whose outcome is committed before anything happens.
const SETTLED: usize = 10;
/// All records; the one with the number [`SETTLED`] is the one that the kill is about.
const RECORDS: usize = 30;
/// Most memory of the new process, in KiB. Without a fault it is 28 MiB.
const MEMORY_LIMIT: u64 = 96 << 10;

/// A worker with its first records done and the others not announced yet.
struct Scene {
    broker: Broker,
    stage: Stage,
    tmp: TempDir,
    worker: Running,
}

/// What stood in the topics when the worker was dead.
struct Dead {
    broker: Broker,
    stage: Stage,
    tmp: TempDir,
    committed: i64,
    published: Ledger,
}

impl Scene {
    fn new(more: &str) -> Self {
        let broker = Broker::start();
        let stage = Stage::new(&broker.bootstrap(), 1, |name, partitions| {
            broker.create_topic(name, partitions);
        });
        let tmp = tempfile::tempdir().unwrap();
        broker.append(&stage.incoming, 0, stage.records(0..SETTLED));
        let worker = start(&stage, more, tmp.path());
        broker.wait("the first are committed", |b| {
            committed(b, &stage) == SETTLED as i64
        });
        Self {
            broker,
            stage,
            tmp,
            worker,
        }
    }

    /// Announces the record that the kill is about, at `path`, and then the others.
    fn announce(&self, path: &str) {
        let special = self.stage.record(&format!("r-{SETTLED}"), path);
        let others = self.stage.records(SETTLED + 1..RECORDS);
        let all = std::iter::once(special).chain(others);
        self.broker.append(&self.stage.incoming, 0, all);
    }

    /// Waits until a series of the metrics has at least this value.
    fn wait_metric(&self, series: &str, least: f64) {
        let endpoint = endpoint(&self.worker);
        until(series, || metric(&endpoint, series) >= Some(least));
    }

    /// How many files without a name the worker has in its directory, empty ones left out.
    fn unnamed_files(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.worker.pid())).unwrap();
        let ours = fds.flatten().filter(|fd| {
            let target = std::fs::read_link(fd.path()).unwrap_or_default();
            let size = std::fs::metadata(fd.path()).map_or(0, |facts| facts.len());
            let unnamed = target.to_string_lossy().ends_with(" (deleted)");
            target.starts_with(self.tmp.path()) && unnamed && size > 0
        });
        ours.count()
    }

    /// Waits for two of the intervals after which a worker commits, by its heartbeats: what could
    /// be committed by now is.
    fn let_commits_come(&self) {
        let beats = self.broker.count(ApiKey::Heartbeat);
        self.broker
            .wait("heartbeats", |b| b.count(ApiKey::Heartbeat) >= beats + 5);
    }

    /// Kills the worker, and the broker takes note.
    fn kill(self) -> Dead {
        let Self {
            broker,
            stage,
            tmp,
            worker,
        } = self;
        worker.signal(Signal::KILL);
        assert_eq!(worker.finish().status.code(), None, "killed");
        assert_eq!(work_dirs(tmp.path()).len(), 1, "what a kill leaves behind");
        // Its session runs out.
        for member in broker.group(&stage.group).members {
            broker.kick(&stage.group, &member.id);
        }
        Dead {
            committed: committed(&broker, &stage),
            published: Ledger::new(broker.all_records(&stage.outgoing), []),
            broker,
            stage,
            tmp,
        }
    }
}

impl Dead {
    /// Starts a worker again and holds what it does against what the dead one has left. Gives the
    /// ids of the records that came twice.
    fn rises(self) -> Vec<String> {
        let Self {
            broker,
            stage,
            tmp,
            committed: left_at,
            published,
        } = self;
        let left = work_dirs(tmp.path());
        let worker = start(&stage, "", tmp.path());
        worker.line("swept 1 work directories");
        broker.wait("all are committed", |b| {
            committed(b, &stage) == RECORDS as i64
        });

        let ledger = Ledger::new(
            broker.all_records(&stage.outgoing),
            broker.all_records(&stage.dead_letters),
        );
        assert_eq!(ledger.lost(0..RECORDS), Vec::<String>::new());
        assert!(ledger.buried.is_empty(), "{:?}", ledger.buried);
        let mut repeated = Vec::new();
        for (id, times) in &ledger.published {
            let offset: i64 = id.strip_prefix("r-").unwrap().parse().unwrap();
            let was_lost = published.published.contains_key(id) && offset >= left_at;
            assert_eq!(*times, 1 + usize::from(was_lost), "{id}");
            repeated.extend(was_lost.then(|| id.clone()));
        }

        let now = work_dirs(tmp.path());
        assert!(now.len() == 1 && now != left, "{left:?}, then {now:?}");
        let peak = worker.status("VmHWM");
        println!("peak memory of the new process: {peak} KiB");
        assert!(peak < MEMORY_LIMIT, "{peak} KiB");
        worker.signal(Signal::TERM);
        assert_eq!(worker.finish().code(), 0);
        assert_eq!(work_dirs(tmp.path()), Vec::<PathBuf>::new());
        repeated
    }
}

fn start(stage: &Stage, more: &str, tmp: &Path) -> Running {
    // Enough threads for one record that is held and others behind it, on any machine.
    let more = format!("[worker]\nthreads = 4\n{more}");
    let worker = stage.program(&more).env("TMPDIR", tmp).start();
    worker.line("assigned: ");
    worker
}

fn committed(broker: &Broker, stage: &Stage) -> i64 {
    broker
        .committed(&stage.group, &stage.incoming, 0)
        .unwrap_or(0)
}

fn work_dirs(tmp: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(tmp).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Limits that an endless archive does not reach.
const NO_LIMITS: &str = "[engine]\nunpacked_archive_size_limit = \"1000000GiB\"\nmax_ratio = 100000\narchive_deadline = \"1h\"\n";

/// The first request for `path` gets this, all later ones the usual archive.
fn first(scene: &Scene, path: &str, reply: Reply) {
    let server = &scene.stage.server;
    server.script(path, [reply, Reply::ok(archive())]);
}

#[test]
fn p05_killed_after_fetch_before_the_download() {
    let scene = Scene::new("");
    first(&scene, "/held", Reply::nothing().then_stall());
    scene.announce("/held");
    until("the request", || scene.stage.server.requests("/held") == 1);
    scene.let_commits_come();
    let dead = scene.kill();
    assert_eq!(dead.committed, SETTLED as i64);
    dead.rises();
}

#[test]
fn p05_killed_in_the_middle_of_a_download() {
    let scene = Scene::new("");
    // More than is kept in memory, so that there is a file; and not all of it.
    let body = vec![0; 4 << 20];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 8 << 20);
    let half = Reply::raw(head).then_send(body).then_stall();
    first(&scene, "/half", half);
    scene.announce("/half");
    until("half a body on the disk", || scene.unnamed_files() == 1);
    scene.let_commits_come();
    let dead = scene.kill();
    assert_eq!(dead.committed, SETTLED as i64);
    dead.rises();
}

#[test]
fn p05_killed_after_the_download() {
    let scene = Scene::new(NO_LIMITS);
    first(&scene, "/endless", Reply::ok(endless()));
    scene.announce("/endless");
    // All of them, the endless one too.
    scene.wait_metric("ccx_downloaded_total_count", RECORDS as f64);
    scene.let_commits_come();
    let dead = scene.kill();
    assert_eq!(dead.committed, SETTLED as i64);
    dead.rises();
}

#[test]
fn p05_killed_in_extraction() {
    let scene = Scene::new(NO_LIMITS);
    first(&scene, "/endless", Reply::ok(endless()));
    scene.announce("/endless");
    let others = "ccx_published_total{archive=\"ocp\"}";
    scene.wait_metric(others, (RECORDS - 1) as f64);
    // Its body, and the documents that are extracted of it.
    until("documents on the disk", || scene.unnamed_files() == 2);
    scene.let_commits_come();
    let dead = scene.kill();
    assert_eq!(dead.committed, SETTLED as i64);
    assert_eq!(dead.published.published.len(), RECORDS - 1);
    // The others were published and could not be committed before the one that was held.
    assert_eq!(dead.rises().len(), RECORDS - SETTLED - 1);
}

#[test]
fn p05_killed_after_the_rules_before_the_result_is_written() {
    let scene = Scene::new("");
    let broker = &scene.broker;
    let held = broker.on(ApiKey::Produce).topic(&scene.stage.outgoing);
    let held = held.always().silence();
    scene.announce("/archive");
    held.wait_used(1);
    scene.let_commits_come();
    held.remove();
    let dead = scene.kill();
    assert_eq!(dead.committed, SETTLED as i64);
    assert_eq!(dead.published.published.len(), SETTLED);
    assert_eq!(dead.rises(), Vec::<String>::new(), "nothing was written");
}

#[test]
fn p05_killed_after_the_result_is_written_before_its_acknowledgement() {
    let scene = Scene::new("");
    let broker = &scene.broker;
    let held = broker.on(ApiKey::Produce).topic(&scene.stage.outgoing);
    let held = held.handled().always().silence();
    scene.announce("/archive");
    held.wait_used(1);
    broker.wait("a result", |b| {
        b.all_records(&scene.stage.outgoing).len() > SETTLED
    });
    scene.let_commits_come();
    held.remove();
    let dead = scene.kill();
    assert_eq!(dead.committed, SETTLED as i64, "nothing is acknowledged");
    assert!(!dead.rises().is_empty());
}

#[test]
fn p05_killed_after_the_acknowledgement_before_the_commit() {
    let scene = Scene::new("");
    let broker = &scene.broker;
    let held = broker.on(ApiKey::OffsetCommit).always().silence();
    scene.announce("/archive");
    broker.wait("all results", |b| {
        b.all_records(&scene.stage.outgoing).len() == RECORDS
    });
    held.wait_used(1);
    held.remove();
    let dead = scene.kill();
    assert_eq!(dead.committed, SETTLED as i64);
    assert_eq!(dead.rises().len(), RECORDS - SETTLED);
}

#[test]
fn p05_killed_during_the_commit() {
    let scene = Scene::new("");
    let broker = &scene.broker;
    let held = broker.on(ApiKey::OffsetCommit).handled().always().silence();
    scene.announce("/archive");
    broker.wait("the commit is written", |b| {
        committed(b, &scene.stage) > SETTLED as i64
    });
    held.remove();
    let dead = scene.kill();
    assert!(dead.committed > SETTLED as i64);
    // What was written counts, although nobody was told.
    let repeated = dead.rises();
    assert!(repeated.len() < RECORDS - SETTLED, "{repeated:?}");
}
