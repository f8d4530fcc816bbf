//! From a checked configuration to a running worker, and from its end to an exit code.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::archive::work_dir::WorkDir;
use crate::backoff::{Backoff, sleep_unless};
use crate::config::Config;
use crate::download::{Budget, Downloader};
use crate::engine::{RuleOptions, RuleSet};
use crate::error::chain;
use crate::exit::Exit;
use crate::kafka::{self, Consumer, Producer, Stats};
use crate::output::{Output, Sink};
use crate::pipeline::{self, Pipeline};
use crate::rules::RULES;
use crate::shutdown::Shutdown;
use crate::telemetry::health::{Fault, Health};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::server::Server;
use crate::version::{COMMIT, RULES_VERSION, VERSION};
use crate::watchers::payload_tracker;
use crate::watchers::stats::Stats as StatsWatcher;
use crate::watchers::{Watcher, Watchers};
use crate::{logging, worker};

/// How long a topic that we write to may be missing, once its cluster answers.
const MISSING_TOPIC_LIMIT: Duration = Duration::from_secs(30);

/// How long the last statuses for the payload tracker may take at the end.
const LAST_STATUSES: Duration = Duration::from_secs(1);

/// How far past its own deadline a task may be before it is taken for stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Why the worker could not start; all of these are for a person to mend.
type Refused = String;

/// Runs the worker until a signal or a final error, and says how it ended.
pub fn run(config: &Config, shutdown: &Shutdown) -> Exit {
    log::info!(
        "started: version {VERSION}, reads {} as a member of {}",
        config.consumer.options.topic,
        config.consumer.options.group_id
    );
    prepare(config, shutdown).unwrap_or_else(|refused| {
        log::error!("{refused}");
        Exit::Configuration
    })
}

fn prepare(config: &Config, shutdown: &Shutdown) -> Result<Exit, Refused> {
    let health = Arc::new(Health::new());
    let metrics = metrics()?;
    // Keeps serving until this function ends.
    let _server = serve(config, &metrics, &health)?;
    let base = &config.engine.extract_tmp_dir;
    let Some(work_dir) = prepare_work_dir(base, &metrics, &health, shutdown)? else {
        return Ok(Exit::Done);
    };
    let parts = assemble(config, work_dir.path(), metrics, health)?;
    Ok(supervise(config, shutdown, parts))
}

fn metrics() -> Result<Arc<Metrics>, Refused> {
    let names: Vec<&str> = RULES.iter().map(|rule| rule.name()).collect();
    let metrics = Metrics::new(VERSION, COMMIT.unwrap_or("unknown"), RULES_VERSION, &names)
        .map_err(|error| format!("metrics: {error}"))?;
    Ok(Arc::new(metrics))
}

/// Makes the work directory, also when it has to wait for room on the disk. `None` when a signal
/// came first.
fn prepare_work_dir(
    base: &Path,
    metrics: &Metrics,
    health: &Arc<Health>,
    shutdown: &Shutdown,
) -> Result<Option<WorkDir>, Refused> {
    match WorkDir::sweep(base) {
        Ok(0) => {}
        Ok(swept) => log::info!("swept {swept} work directories of earlier runs"),
        Err(error) => log::warn!("cannot look for work directories of earlier runs: {error}"),
    }
    let mut pauses = Backoff::new(Duration::from_secs(1), Duration::from_secs(10), 20);
    let mut fault = None;
    let gauge = metrics.fault.with_label_values(&[Fault::Host.as_str()]);
    while !shutdown.is_requested() {
        health.tick();
        match WorkDir::create(base) {
            Ok(work_dir) => {
                gauge.set(0.0);
                return Ok(Some(work_dir));
            }
            Err(error) if error.may_pass() => {
                gauge.set(1.0);
                fault.get_or_insert_with(|| health.raise(Fault::Host, chain(&error)));
                sleep_unless(pauses.next_pause(), || shutdown.is_requested());
            }
            Err(error) => {
                return Err(format!(
                    "{}; engine.extract_tmp_dir names another place",
                    chain(&error)
                ));
            }
        }
    }
    let signal = shutdown.signal().unwrap_or("shutdown");
    log::info!("{signal}: ends, nothing to drain");
    Ok(None)
}

/// What the loop is made of.
struct Parts {
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    statuses: Option<payload_tracker::Sending>,
}

fn assemble(
    config: &Config,
    work_dir: &Path,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
) -> Result<Parts, Refused> {
    let (watchers, statuses) = watchers(config, &metrics);
    let pipeline = pipeline(config, work_dir, watchers, &health)?;
    Ok(Parts {
        pipeline: Arc::new(pipeline),
        metrics,
        health,
        statuses,
    })
}

/// The stages, with everything that they need.
pub(super) fn pipeline(
    config: &Config,
    work_dir: &Path,
    watchers: Watchers,
    health: &Arc<Health>,
) -> Result<Pipeline, Refused> {
    let output = output(config);
    let options = RuleOptions {
        workloads: output.workloads.is_some(),
        ..config.engine.rules.clone()
    };
    let rules = RuleSet::new(&options).map_err(|unknown| {
        let unknown: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        format!("engine.rules: {}", unknown.join("; "))
    })?;
    let budget = Arc::new(Budget::new(config.worker.max_in_flight_bytes));
    let downloader = Downloader::new(config.downloader.clone(), budget)
        .map_err(|error| format!("downloader: {}", chain(&error)))?;
    let options = pipeline::Options {
        group_id: config.consumer.options.group_id.clone(),
        platform_service: config.consumer.platform_service.clone(),
        max_record_age: config.consumer.max_record_age,
        download_deadline: config.downloader.deadline,
        archive_deadline: config.engine.archive_deadline,
        limits: config.engine.limits.clone(),
        work_dir: work_dir.to_owned(),
        breaker: config.dead_letter_queue.breaker,
    };
    Ok(Pipeline::new(
        options,
        downloader,
        rules,
        output,
        watchers,
        Arc::clone(health),
    ))
}

/// The list of watchers; a new one gets a line here.
fn watchers(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> (Watchers, Option<payload_tracker::Sending>) {
    let stats = Box::new(StatsWatcher::new(Arc::clone(metrics)));
    let mut list: Vec<Box<dyn Watcher>> = vec![stats];
    let mut statuses = None;
    if let Some(options) = &config.payload_tracker {
        let (tracker, sending) = payload_tracker::start(options.clone(), Arc::clone(metrics));
        list.push(Box::new(tracker));
        statuses = Some(sending);
    }
    (Watchers::new(list), statuses)
}

/// One producer for each cluster.
fn output(config: &Config) -> Output {
    let producer = Arc::new(Producer::start(config.publisher.options.clone()));
    let dead_letters = config.dead_letter_queue.topic.as_deref().map(|topic| Sink {
        topic: topic.into(),
        producer: if config.publisher.shares_cluster {
            Arc::clone(&producer)
        } else {
            Arc::new(Producer::start(config.dead_letter_queue.options.clone()))
        },
    });
    let results = Sink {
        topic: config.publisher.outgoing_topic.as_str().into(),
        producer,
    };
    let workloads = config
        .publisher
        .workloads_topic
        .as_deref()
        .map(|topic| Sink {
            topic: topic.into(),
            ..results.clone()
        });
    Output {
        results,
        workloads,
        dead_letters,
    }
}

fn serve(
    config: &Config,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
) -> Result<Option<Server>, Refused> {
    let Some(address) = config.stats else {
        return Ok(None);
    };
    let metrics = Arc::clone(metrics);
    let render = move || {
        let dropped = logging::dropped();
        metrics
            .log_lines_dropped
            .inc_by(dropped.saturating_sub(metrics.log_lines_dropped.get()));
        metrics.render()
    };
    let server = Server::start(address, render, Arc::clone(health)).map_err(|error| {
        format!(
            "{}; watchers.stats.port names another, watchers.stats.enabled = false does without",
            chain(&error)
        )
    })?;
    Ok(Some(server))
}

/// Runs the loop on a thread of its own and holds it to the shutdown time: whatever it waits for
/// then, the process ends.
fn supervise(config: &Config, shutdown: &Shutdown, parts: Parts) -> Exit {
    /// This thread does no I/O: a turn of so long means that it was not let run.
    const STANDSTILL: Duration = Duration::from_secs(5);
    let (report, ended) = mpsc::channel();
    let health = Arc::clone(&parts.health);
    let limit = config.worker.shutdown_timeout;
    let thread = std::thread::Builder::new().name("poll".into());
    let (own_config, own_shutdown) = (config.clone(), shutdown.clone());
    // The receiver outlives this thread, or the process is at its end.
    let spawned = thread.spawn(move || report.send(poll(&own_config, &own_shutdown, parts)));
    if let Err(error) = spawned {
        log::error!("cannot start the poll thread: {error}");
        return Exit::Internal;
    }
    let mut asked = None;
    let mut turn = Instant::now();
    loop {
        let stood_still = turn.elapsed();
        turn = Instant::now();
        if stood_still > STANDSTILL {
            health.resume();
            log::warn!("the process was stopped for {} s", stood_still.as_secs());
        }
        match ended.recv_timeout(Duration::from_millis(50)) {
            Ok(exit) => {
                if let (None, Some(signal)) = (asked, shutdown.signal()) {
                    log::info!("{signal}: ends, nothing to drain");
                }
                return exit;
            }
            Err(RecvTimeoutError::Disconnected) => {
                log::error!("the poll thread died; what was in flight is uncommitted");
                return Exit::Internal;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if asked.is_none() && shutdown.is_requested() {
            log::info!(
                "{}: drains for at most {limit:?}; a second signal ends at once",
                shutdown.signal().unwrap_or("shutdown")
            );
            asked = Some(Instant::now());
        }
        if asked.is_some_and(|at| at.elapsed() >= limit) {
            log::warn!("not drained within {limit:?}; what is unfinished is uncommitted");
            return Exit::DrainExceeded;
        }
    }
}

fn poll(config: &Config, shutdown: &Shutdown, parts: Parts) -> Exit {
    let output = parts.pipeline.output();
    for sink in output.of_archives().chain(&output.dead_letters) {
        if let Some(exit) = wait_for_topic(sink, &parts.health, shutdown) {
            return exit;
        }
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(config.worker.threads)
        .thread_name(|number| format!("task-{number}"))
        // A task catches its own panics; one that comes through must not abort the process.
        .panic_handler(|_| log::error!("a task panicked outside its record"))
        .build();
    let pool = match pool {
        Ok(pool) => pool,
        Err(error) => {
            log::error!("cannot start {} threads: {error}", config.worker.threads);
            return Exit::Internal;
        }
    };
    let options = worker::Options {
        max_in_flight: config.worker.max_in_flight,
        commit_interval: config.consumer.commit_interval,
        shutdown_timeout: config.worker.shutdown_timeout,
        max_crashes: config.worker.max_crashes,
        stuck_after: STUCK_AFTER,
    };
    let consumer = Consumer::start(config.consumer.options.clone());
    let exit = worker::Worker::new(
        options,
        consumer,
        parts.pipeline,
        pool,
        parts.metrics,
        parts.health,
    )
    .run(shutdown);
    if let Some(statuses) = parts.statuses {
        statuses.close(LAST_STATUSES);
    }
    exit
}

/// Waits until the topic is there. `Some` when the process must end: it stays missing although
/// its cluster answers, its cluster refuses us for good, or a signal came first.
fn wait_for_topic(sink: &Sink, health: &Health, shutdown: &Shutdown) -> Option<Exit> {
    let mut pauses = Backoff::new(Duration::from_millis(100), Duration::from_secs(2), 20);
    let mut missing_since = None;
    let mut told = None;
    loop {
        health.tick();
        if shutdown.is_requested() {
            return Some(Exit::Done);
        }
        if sink.producer.has_ended() {
            log::error!("nobody is there to ask for topic {}", sink.topic);
            return Some(Exit::Internal);
        }
        match sink
            .producer
            .partitions(&sink.topic, Duration::from_secs(1))
        {
            Ok(Some(_)) => return None,
            Ok(None) => {
                let since = *missing_since.get_or_insert_with(|| {
                    log::warn!(
                        "topic {} is missing; waits for it, never creates it",
                        sink.topic
                    );
                    Instant::now()
                });
                if since.elapsed() >= MISSING_TOPIC_LIMIT {
                    log::error!(
                        "topic {} is still missing; create it, then start again",
                        sink.topic
                    );
                    return Some(Exit::Configuration);
                }
                health.membership(Some(format!("topic {} is missing", sink.topic)));
            }
            // The client itself logs the state of its brokers.
            Err(error) if error.is_transient() => {
                let cause = chain(&error);
                if matches!(error, kafka::Error::Topic { .. }) && told.as_ref() != Some(&cause) {
                    log::warn!("{cause}; waits for it");
                    told = Some(cause.clone());
                }
                health.membership(Some(cause));
            }
            Err(error) => {
                log::error!("topic {}: {}", sink.topic, chain(&error));
                return Some(match error {
                    kafka::Error::Authentication { .. } => Exit::NotAuthorised,
                    _ if error.is_authorisation() => Exit::NotAuthorised,
                    _ => Exit::Configuration,
                });
            }
        }
        sleep_unless(pauses.next_pause(), || shutdown.is_requested());
    }
}

/// Carries the client's own counts over into the metrics.
pub(super) fn report_client_stats(metrics: &Metrics, consumer: &Stats, output: &Output) {
    let mut producers = vec![("publisher", output.results.producer.stats())];
    if let Some(sink) = &output.dead_letters
        && !Arc::ptr_eq(&sink.producer, &output.results.producer)
    {
        producers.push(("consumer", sink.producer.stats()));
    }
    let (mut reconnects, mut resets) = (
        [("consumer", consumer.reconnects.get()), ("publisher", 0)],
        [0, 0],
    );
    for (cluster, stats) in producers {
        let at = usize::from(cluster == "publisher");
        reconnects[at].1 += stats.reconnects.get();
        resets[at] += stats.producer_resets.get();
    }
    for ((cluster, reconnects), resets) in reconnects.into_iter().zip(resets) {
        let counter = metrics.reconnects.with_label_values(&[cluster]);
        counter.inc_by(reconnects.saturating_sub(counter.get()));
        let counter = metrics.producer_resets.with_label_values(&[cluster]);
        counter.inc_by(resets.saturating_sub(counter.get()));
    }
}
