//! One record's way, from its bytes to a published result or a dead letter.
//!
//! [`Pipeline::handle`] is the whole of it, top to bottom. Stages return facts; this room reports
//! them to the watchers, decides what an error costs, and writes the one log line of a record.

mod burial;
mod clock;
mod known;
pub mod task;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::archive::Archive;
use crate::archive::extract::{self, Interrupt, extract};
use crate::archive::limits::Limits;
use crate::archive::work_dir;
use crate::backoff::{Backoff, sleep_unless};
use crate::breaker::{self, Breaker, Verdict};
use crate::download::{self, Download, Downloader};
use crate::engine::{self, RuleSet};
use crate::error::{Reason, chain};
use crate::ingress::{self, Announcement, Ingress};
use crate::kafka::{Acknowledged, OutgoingRecord, Record, SendError};
use crate::output::dead_letters::Failure;
use crate::output::{Output, Sink, results, workloads};
use crate::report;
use crate::telemetry::health::{Fault, Health};
use crate::watchers::{Event, Outcome, Stage, Watchers};

pub use burial::Burial;
use clock::Clock;
use known::Known;
use task::{Doing, Task};

/// What the pipeline needs to know beside its parts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Consumer group, named in dead letters.
    pub group_id: String,
    /// Records whose `service` header has another value are passed over.
    pub platform_service: Option<String>,
    /// Records older than this are passed over.
    pub max_record_age: Option<Duration>,
    /// Time for all attempts of a download together.
    pub download_deadline: Duration,
    /// Time for extraction, rules and rendering together.
    pub archive_deadline: Duration,
    /// Limits of archives.
    pub limits: Limits,
    /// Private directory of this process.
    pub work_dir: PathBuf,
    /// How many failures make records wait.
    pub breaker: breaker::Options,
}

/// The stages and what they share. One for the process, used by every task.
pub struct Pipeline {
    options: Options,
    downloader: Downloader,
    rules: RuleSet,
    output: Output,
    watchers: Watchers,
    health: Arc<Health>,
    breaker: Mutex<Breaker>,
    clock: Clock,
}

/// How far a task came.
#[derive(Debug)]
pub enum Fate {
    /// The record's outcome is acknowledged: its offset may move on.
    Settled(Outcome),
    /// Failed; its dead letter waits for its topic, which needs no thread.
    Burying(Box<Burial>),
    /// Called off; somebody else, or a later run, gets the record.
    Abandoned,
    /// To be tried again: the breaker is open, and the failure may not be the record's.
    Held,
    /// The process has no right to write to a topic that it needs.
    NotAuthorised {
        /// The topic.
        topic: Arc<str>,
    },
}

/// Why a record's way ended early.
enum Stop {
    Failed(Stage, Failure),
    Abandoned,
    NotAuthorised { topic: Arc<str> },
}

/// What became of a record that was sent.
enum Delivery {
    Acknowledged,
    /// The broker refuses this record and would refuse it again.
    TooLarge(SendError),
    /// What only a person can mend; it says nothing about the record.
    Refused(SendError),
    NotAuthorised,
    Cancelled,
}

/// What an archive gives, ready to be sent.
struct Messages {
    cluster: Uuid,
    result: Vec<u8>,
    workloads: Option<Vec<u8>>,
}

/// Why an archive has no report.
#[derive(Debug, thiserror::Error)]
enum Unprocessed {
    #[error(transparent)]
    Extract(#[from] extract::Error),
    #[error(transparent)]
    Rules(#[from] engine::Stopped),
}

impl Unprocessed {
    fn reason(&self) -> Option<Reason> {
        match self {
            Unprocessed::Extract(error) => error.reason(),
            Unprocessed::Rules(stopped) => stopped.reason(),
        }
    }

    fn is_host_fault(&self) -> bool {
        match self {
            Unprocessed::Extract(error) => error.is_host_fault(),
            Unprocessed::Rules(stopped) => stopped.is_host_fault(),
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Unprocessed::Extract(_) => Stage::Extract,
            Unprocessed::Rules(_) => Stage::Process,
        }
    }
}

impl Pipeline {
    /// Puts the parts together.
    pub fn new(
        options: Options,
        downloader: Downloader,
        rules: RuleSet,
        output: Output,
        watchers: Watchers,
        health: Arc<Health>,
    ) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(options.breaker)),
            options,
            downloader,
            rules,
            output,
            watchers,
            health,
            clock: Clock::start(),
        }
    }

    /// Where results and dead letters go.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Bytes that tasks have reserved for archive bodies.
    pub fn reserved_bytes(&self) -> u64 {
        self.downloader.reserved_bytes()
    }

    /// What decides whether records wait. Not to be held over I/O.
    pub fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Its methods do not panic half-way.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a record is passed over unread, and why. Told to the watchers; the caller settles.
    pub fn filter(&self, record: &Arc<Record>) -> Option<Reason> {
        let reason = self.filter_reason(record)?;
        let known = Known::new(record);
        self.watchers
            .notify(&known.subject(), &Event::Filtered { reason });
        self.complete(&known, Outcome::Skipped(reason));
        Some(reason)
    }

    fn filter_reason(&self, record: &Record) -> Option<Reason> {
        if let Some(service) = &self.options.platform_service {
            // The last header counts, as in a map that later entries overwrite.
            let header = record.headers.iter().rfind(|h| h.name == "service");
            let value = header.and_then(|h| h.value.as_deref());
            if value != Some(service.as_bytes()) {
                return Some(Reason::OtherService);
            }
        }
        let (max_age, timestamp) = (self.options.max_record_age?, record.timestamp?);
        let age = self.clock.now_ms().saturating_sub(i128::from(timestamp));
        let too_old = age > i128::try_from(max_age.as_millis()).unwrap_or(i128::MAX);
        too_old.then_some(Reason::TooOld)
    }

    /// Takes one record from its bytes to an acknowledged outcome. Never panics; blocks until the
    /// outcome is acknowledged or the task is called off, or the record has to wait.
    pub fn handle(&self, record: &Arc<Record>, task: &Task) -> Fate {
        if !task.is_probe() && self.breaker().is_open() {
            return Fate::Held;
        }
        let mut known = Known::new(record);
        let way = catch_unwind(AssertUnwindSafe(|| self.publish(&mut known, task)));
        let stop = match way {
            Ok(Ok(())) => {
                self.count_published();
                return self.settle(&known, Outcome::Published);
            }
            Ok(Err(stop)) => stop,
            Err(_) => {
                // The panic hook has logged where; the payload may hold anything.
                let message = "the worker panicked while it handled this record".to_owned();
                Stop::Failed(Stage::Process, known.failure(Reason::Internal, message))
            }
        };
        match stop {
            Stop::Failed(stage, failure) => match self.count_failed(&failure) {
                Verdict::Bury => self.bury(known, task, stage, failure),
                Verdict::Hold => {
                    let (record, why) = (&known.record, &failure.message);
                    log::debug!(
                        "{} offset {} is held: {why}",
                        record.partition,
                        record.offset
                    );
                    Fate::Held
                }
            },
            Stop::Abandoned => Fate::Abandoned,
            Stop::NotAuthorised { topic } => Fate::NotAuthorised { topic },
        }
    }

    fn count_published(&self) {
        // Its lock orders what others are told of it, too.
        let mut breaker = self.breaker();
        if breaker.published() {
            log::info!("a record was published again: the breaker closes");
            self.health.breaker(None);
        }
    }

    fn count_failed(&self, failure: &Failure) -> Verdict {
        let mut breaker = self.breaker();
        let (verdict, opened) = breaker.failed(failure.reason, Instant::now());
        if let Some(why) = opened {
            log::error!(
                "too many records fail, the next ones wait: {why}; \
                 one at a time is tried until one succeeds"
            );
            self.health.breaker(Some(why));
        }
        verdict
    }

    /// The stages, one after the other.
    fn publish(&self, known: &mut Known, task: &Task) -> Result<(), Stop> {
        let ingress = self.parse(known)?;
        let download = self.download(known, task, &ingress)?;
        let messages = self.process(known, task, &ingress, download)?;
        self.send(known, task, messages)
    }

    fn parse(&self, known: &mut Known) -> Result<Ingress, Stop> {
        let refused = |known: &Known, error: ingress::Error| {
            let failure = known.failure(error.reason(), error.to_string());
            Stop::Failed(Stage::Ingress, failure)
        };
        let announcement = Announcement::read(known.record.value.as_deref());
        let announcement = announcement.map_err(|error| refused(known, error))?;
        // Before anything else can be wrong, so that whoever sent it finds what became of it.
        known.request_id = announcement.request_id().map(str::to_owned);
        let ingress = announcement
            .check()
            .map_err(|error| refused(known, error))?;
        known.org_id = Some(ingress.org_id);
        known.account_number = ingress.account_number;
        known.cluster = ingress.cluster_name;
        self.notify(
            known,
            &Event::Received {
                record_time: known.record.timestamp,
            },
        );
        let lacks = [
            (
                ingress.request_id.is_none(),
                "the record has no request id; its result says null",
            ),
            (
                ingress.odd_account,
                "the account is no number of 32 bits; the result goes without it",
            ),
        ];
        for (_, what) in lacks.iter().filter(|(lacks, _)| *lacks) {
            log::warn!(
                topic = known.record.partition.topic.as_ref(),
                partition = known.record.partition.partition,
                offset = known.record.offset,
                request_id = known.request_id;
                "{what}"
            );
        }
        Ok(ingress)
    }

    fn download(
        &self,
        known: &mut Known,
        task: &Task,
        ingress: &Ingress,
    ) -> Result<Download, Stop> {
        let attempt = || {
            task.work_for(self.options.download_deadline);
            let mut on_retry = |_: &download::Error| {
                self.notify(known, &Event::Retried { stage: "download" });
            };
            self.downloader.fetch(
                &ingress.url,
                ingress.size,
                &self.options.work_dir,
                &|| task.is_cancelled(),
                &mut on_retry,
            )
        };
        let download = self
            .outlast_host_faults(task, "download", attempt, |failure| {
                failure.error.is_host_fault()
            })
            .ok_or(Stop::Abandoned)?;
        let download = download.map_err(|failure| {
            known.attempts = failure.attempts;
            if failure.error.is_cancelled() {
                return Stop::Abandoned;
            }
            let failure = known.failure(failure.error.reason(), chain(&failure.error));
            Stop::Failed(Stage::Download, failure)
        })?;
        known.attempts = download.attempts;
        self.notify(
            known,
            &Event::Downloaded {
                bytes: download.bytes,
                duration: download.duration,
                attempts: download.attempts,
            },
        );
        Ok(download)
    }

    /// Extraction, rules and report, up to the messages that they give. Everything of the archive
    /// is gone from the disk when it returns.
    fn process(
        &self,
        known: &mut Known,
        task: &Task,
        ingress: &Ingress,
        mut download: Download,
    ) -> Result<Messages, Stop> {
        let began = Instant::now();
        let start = OffsetDateTime::now_utc();
        let reference_time = ingress.gathering_time.unwrap_or(ingress.uploaded_at);
        // What the server called the body, in case it is none: a login page, say.
        let served = format!(
            "the server answered {} with content type {}",
            download.status,
            download.content_type.as_deref().unwrap_or("none")
        );
        let attempt = || {
            let until = task.work_for(self.options.archive_deadline);
            let interrupted = || {
                if task.is_cancelled() {
                    Some(Interrupt::Cancelled)
                } else {
                    (Instant::now() >= until).then_some(Interrupt::Deadline)
                }
            };
            let archive = self.extract(known, &mut download, &interrupted)?;
            let archive = archive.until(Some(until));
            let evaluation = engine::evaluate(&self.rules, &archive, reference_time, &interrupted)?;
            let cluster = cluster_of(ingress, &archive)?;
            Ok((archive, evaluation, cluster))
        };
        let (archive, evaluation, cluster) = self
            .outlast_host_faults(task, "process", attempt, Unprocessed::is_host_fault)
            .ok_or(Stop::Abandoned)?
            .map_err(|error| {
                let Some(reason) = error.reason() else {
                    return Stop::Abandoned;
                };
                let message = match reason {
                    Reason::NotAnArchive => format!("{}; {served}", chain(&error)),
                    _ => chain(&error),
                };
                Stop::Failed(error.stage(), known.failure(reason, message))
            })?;

        let Some(cluster) = cluster else {
            let message = "no UUID of a cluster in the message, the identity or config/id".into();
            let failure = known.failure(Reason::ClusterId, message);
            return Err(Stop::Failed(Stage::Process, failure));
        };
        known.cluster = Some(cluster);
        let mut report = report::render(&evaluation, start, OffsetDateTime::now_utc());
        let recommendations = report.workload_recommendations.take();
        let gathering_time = ingress
            .gathering_time
            .or_else(|| archive.gathering_time(start))
            .unwrap_or(start);
        let unsayable = |error: serde_json::Error| {
            let failure = known.failure(Reason::Internal, error.to_string());
            Stop::Failed(Stage::Process, failure)
        };
        let messages = Messages {
            cluster,
            result: results::render(ingress, cluster, &report, gathering_time)
                .map_err(unsayable)?,
            workloads: recommendations
                .map(|list| workloads::render(ingress, cluster, &report, &list))
                .transpose()
                .map_err(unsayable)?,
        };
        self.notify(
            known,
            &Event::Processed {
                rules: &evaluation.runs,
                damaged_documents: archive.damaged(),
                duration: began.elapsed(),
            },
        );
        Ok(messages)
    }

    fn extract(
        &self,
        known: &mut Known,
        download: &mut Download,
        interrupted: &dyn Fn() -> Option<Interrupt>,
    ) -> Result<Archive, extract::Error> {
        let Options {
            limits, work_dir, ..
        } = &self.options;
        let mut body = download.reader().map_err(extract::Error::Host)?;
        let extracted = extract(
            &mut body,
            limits,
            self.rules.wanted(),
            work_dir,
            interrupted,
        )?;
        let (entries, bytes) = (extracted.entries, extracted.bytes);
        let ignored = extracted.ignored.by_kind();
        let archive = Archive::new(extracted, limits.document_size);
        known.archive = Some(archive.kind());
        self.notify(
            known,
            &Event::Extracted {
                entries,
                bytes,
                ignored: &ignored,
                remote_configuration_version: archive.remote_configuration_version(),
            },
        );
        Ok(archive)
    }

    /// Sends the result, then the recommendations where there are some. The record is done when
    /// both are acknowledged; one that is not is taken again later and sends both again.
    fn send(&self, known: &Known, task: &Task, messages: Messages) -> Result<(), Stop> {
        let began = Instant::now();
        let of_workloads = self.output.workloads.as_ref().zip(messages.workloads);
        let mut bytes = 0;
        for (sink, value) in
            std::iter::once((&self.output.results, messages.result)).chain(of_workloads)
        {
            bytes += value.len() as u64;
            self.send_to(sink, known, task, messages.cluster, value)?;
        }
        let duration = began.elapsed();
        self.notify(known, &Event::Published { bytes, duration });
        Ok(())
    }

    fn send_to(
        &self,
        sink: &Sink,
        known: &Known,
        task: &Task,
        cluster: Uuid,
        value: Vec<u8>,
    ) -> Result<(), Stop> {
        let traceparent = known
            .record
            .headers
            .iter()
            .rfind(|h| h.name == "traceparent");
        let result = OutgoingRecord {
            topic: Arc::clone(&sink.topic),
            partition: None,
            key: Some(Bytes::from(cluster.to_string())),
            value: Some(Bytes::from(value)),
            headers: traceparent.into_iter().cloned().collect(),
        };
        task.enter(Doing::Publishing);
        let mut pauses = refusal_pauses();
        let mut fault = None;
        loop {
            match deliver(task, sink, &result) {
                Delivery::Acknowledged => return Ok(()),
                Delivery::TooLarge(error) => {
                    let failure = known.failure(Reason::ReportTooLarge, chain(&error));
                    return Err(Stop::Failed(Stage::Publish, failure));
                }
                Delivery::NotAuthorised => {
                    let topic = Arc::clone(&sink.topic);
                    return Err(Stop::NotAuthorised { topic });
                }
                Delivery::Cancelled => return Err(Stop::Abandoned),
                Delivery::Refused(error) => {
                    // Held until the record is written: the flow stands still meanwhile.
                    fault.get_or_insert_with(|| self.health.raise(Fault::Sink, chain(&error)));
                    self.notify(known, &Event::Retried { stage: "publish" });
                    if !sleep_unless(pauses.next_pause(), || task.is_cancelled()) {
                        return Err(Stop::Abandoned);
                    }
                }
            }
        }
    }

    /// Ends a record that was in work whenever the process crashed. It is not looked into.
    pub fn bury_crash_loop(&self, record: &Arc<Record>, task: &Task, crashes: u32) -> Fate {
        let known = Known::new(record);
        let message = format!("in work at {crashes} crashes of the worker in a row");
        let failure = known.failure(Reason::CrashLoop, message);
        self.bury(known, task, Stage::Process, failure)
    }

    /// Repeats a stage while our own host is at fault. `None` when called off meanwhile.
    fn outlast_host_faults<T, E: std::error::Error + 'static>(
        &self,
        task: &Task,
        stage: &'static str,
        mut attempt: impl FnMut() -> Result<T, E>,
        is_host_fault: impl Fn(&E) -> bool,
    ) -> Option<Result<T, E>> {
        let mut pauses = Backoff::new(Duration::from_secs(1), Duration::from_secs(30), 20);
        let mut fault = None;
        loop {
            if task.is_cancelled() {
                return None;
            }
            match attempt() {
                Err(error) if is_host_fault(&error) => {
                    // Held until the stage gets through: the flow stands still meanwhile.
                    fault = Some(
                        self.health
                            .raise(Fault::Host, format!("{stage}: {}", chain(&error))),
                    );
                    task.enter(Doing::Waiting);
                    if !sleep_unless(pauses.next_pause(), || task.is_cancelled()) {
                        return None;
                    }
                    // Those who tidy up a directory for temporary files may have taken ours.
                    if let Err(error) = work_dir::restore(&self.options.work_dir) {
                        log::debug!("the work directory cannot be made again: {error}");
                    }
                }
                result => {
                    drop(fault);
                    return Some(result);
                }
            }
        }
    }

    fn notify(&self, known: &Known, event: &Event<'_>) {
        self.watchers.notify(&known.subject(), event);
    }

    fn complete(&self, known: &Known, outcome: Outcome) {
        let duration = known.started.elapsed();
        self.notify(known, &Event::Completed { outcome, duration });
    }

    fn settle(&self, known: &Known, outcome: Outcome) -> Fate {
        self.complete(known, outcome);
        known.log(log::Level::Info, outcome, "published");
        Fate::Settled(outcome)
    }

    fn settle_failed(&self, known: &Known, outcome: Outcome, failure: &Failure) -> Fate {
        self.complete(known, outcome);
        known.log(log::Level::Warn, outcome, &failure.message);
        Fate::Settled(outcome)
    }
}

/// The cluster that the message names, or else the archive. No rule need have asked for it before.
fn cluster_of(ingress: &Ingress, archive: &Archive) -> Result<Option<Uuid>, engine::Stopped> {
    let cluster = ingress.cluster_name.or_else(|| archive.cluster_uuid());
    engine::check_reads(archive)?;
    Ok(cluster)
}

/// Sends until the cluster says something about the record, or nobody waits for it any more.
fn deliver(task: &Task, sink: &Sink, record: &OutgoingRecord) -> Delivery {
    let sent = sink.producer.send(record.clone(), &|| task.is_cancelled());
    Delivery::of(sent)
}

impl Delivery {
    fn of(sent: Result<Acknowledged, SendError>) -> Self {
        match sent {
            Ok(_) => Delivery::Acknowledged,
            Err(SendError::Cancelled | SendError::Closed) => Delivery::Cancelled,
            Err(SendError::NotAuthorised { .. }) => Delivery::NotAuthorised,
            Err(error @ (SendError::RecordTooLarge { .. } | SendError::InvalidRecord { .. })) => {
                Delivery::TooLarge(error)
            }
            Err(error @ SendError::Refused { .. }) => Delivery::Refused(error),
        }
    }
}

/// Between two tries of what only a person can mend.
fn refusal_pauses() -> Backoff {
    Backoff::new(Duration::from_secs(1), Duration::from_secs(30), 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Stopped;

    /// With the rule that tells the cluster switched off, nobody has read the file before.
    #[test]
    fn p08_a_cluster_id_that_cannot_be_read_back_is_no_missing_one() {
        let announced = |more: &str| {
            let value = format!(
                r#"{{"url": "https://bucket.s3.amazonaws.com/a", "timestamp": "2026-01-02T03:04:05Z",
                "b64_identity": "eyJpZGVudGl0eSI6eyJpbnRlcm5hbCI6eyJvcmdfaWQiOiI3In19fQ=="{more}}}"#
            );
            ingress::parse(Some(value.as_bytes())).unwrap()
        };
        let nameless = announced("");
        let archive = Archive::unreadable("config/id");
        let stopped = cluster_of(&nameless, &archive).unwrap_err();
        assert!(stopped.is_host_fault(), "{stopped:?}");
        assert_eq!(stopped.reason(), None);
        let late = Archive::from_files([("config/id", "x")]).until(Some(Instant::now()));
        let stopped = cluster_of(&nameless, &late).unwrap_err();
        assert!(matches!(stopped, Stopped::Interrupted(Interrupt::Deadline)));
        let without = Archive::from_files([]);
        assert_eq!(cluster_of(&nameless, &without).unwrap(), None);

        let id = "11111111-2222-4333-8444-555555555555";
        let named = announced(&format!(r#", "cluster_name": "{id}""#));
        let cluster = cluster_of(&named, &Archive::unreadable("config/id")).unwrap();
        assert_eq!(cluster.unwrap().to_string(), id);
    }
}
