//! The worker on its stage: a broker, an archive server, announcements, and the ledger that says
//! what became of each of them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::archive_builder::Tar;
use super::archive_server::ArchiveServer;
use super::broker::Broker;
use super::broker::batch::{LogRecord, NewRecord};
use super::program::{Program, Running};
use super::real::fresh;
use super::secrets;

/// The cluster of the usual archive.
pub const CLUSTER: &str = "11111111-2222-4333-8444-555555555555";

/// Makes the topics of a stage on a scripted broker.
pub fn scripted(broker: &Broker, partitions: usize) -> Stage {
    Stage::new(&broker.bootstrap(), partitions, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

/// Names of topics and group of one test, and the server of its archives.
pub struct Stage {
    pub incoming: String,
    pub outgoing: String,
    pub dead_letters: String,
    pub group: String,
    pub bootstrap: String,
    pub server: ArchiveServer,
}

/// A small archive of a healthy cluster.
pub fn archive() -> Vec<u8> {
    let version = json!({"status": {"desired": {"version": "4.14.3"},
        "history": [{"state": "Completed", "version": "4.14.3"}]}});
    Tar::new()
        .file("config/id", CLUSTER)
        .file("config/version.json", version.to_string())
        .gzip()
}

/// BASE64 of an identity with this organisation.
pub fn identity(org_id: &str) -> String {
    let identity = json!({"identity": {"internal": {"org_id": org_id}, "account_number": "42"}});
    let identity = BASE64_STANDARD.encode(identity.to_string());
    secrets::register(&identity);
    identity
}

/// Milliseconds since 1970, now: records without a believable time may be removed by retention.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

impl Stage {
    /// A stage around a broker on which `create` makes topics: name and partitions.
    pub fn new(bootstrap: &str, partitions: usize, mut create: impl FnMut(&str, usize)) -> Self {
        let server = ArchiveServer::start();
        server.serve("/archive", archive());
        let stage = Self {
            incoming: fresh("incoming"),
            outgoing: fresh("outgoing"),
            dead_letters: fresh("dead-letters"),
            group: fresh("group"),
            bootstrap: bootstrap.into(),
            server,
        };
        create(&stage.incoming, partitions);
        create(&stage.outgoing, 2);
        create(&stage.dead_letters, 1);
        stage
    }

    /// Appends records with these request ids to the partitions of a scripted broker in turn, one
    /// batch each.
    pub fn spread(&self, broker: &Broker, path: &str, ids: std::ops::Range<usize>) {
        let partitions = broker.partitions(&self.incoming);
        for partition in 0..partitions {
            let here = ids.clone().filter(|id| id % partitions == partition);
            let records: Vec<_> = here
                .map(|id| self.record(&format!("r-{id}"), path))
                .collect();
            if !records.is_empty() {
                broker.append(&self.incoming, partition as i32, records);
            }
        }
    }

    /// How many records of the incoming topic a scripted broker has as committed.
    pub fn committed(&self, broker: &Broker) -> usize {
        let partitions = 0..broker.partitions(&self.incoming) as i32;
        let of = |p| {
            broker
                .committed(&self.group, &self.incoming, p)
                .unwrap_or(0)
        };
        partitions.map(of).sum::<i64>() as usize
    }

    /// What became of the records so far, on a scripted broker.
    pub fn ledger(&self, broker: &Broker) -> Ledger {
        Ledger::new(
            broker.all_records(&self.outgoing),
            broker.all_records(&self.dead_letters),
        )
    }

    /// The value of an announcement of the archive at `path`.
    pub fn announcement(&self, request_id: &str, path: &str) -> Value {
        // With the port it is the path of this object and no other word.
        secrets::register(&format!(":{}{path}", self.server.port()));
        json!({
            "url": self.server.url(&format!("{path}?X-Amz-Signature=secret-of-{request_id}")),
            "b64_identity": identity("7"),
            "timestamp": "2026-01-02T03:04:05.678Z",
            "request_id": request_id,
            "metadata": {"custom_metadata": {"gathering_time": "2026-01-02T03:00:00Z"}},
        })
    }

    /// A record that announces the archive at `path`.
    pub fn record(&self, request_id: &str, path: &str) -> NewRecord {
        let value = self.announcement(request_id, path).to_string();
        NewRecord::keyed(request_id, value).at(now_ms())
    }

    /// Records that announce the usual archive, with request ids from the range.
    pub fn records(&self, ids: std::ops::Range<usize>) -> Vec<NewRecord> {
        ids.map(|id| self.record(&format!("r-{id}"), "/archive"))
            .collect()
    }

    /// A worker's configuration; `more` are further lines, whole sections.
    pub fn config(&self, more: &str) -> String {
        format!(
            r#"
[consumer]
bootstrap_servers = ["{bootstrap}"]
incoming_topic = "{incoming}"
group_id = "{group}"
session_timeout = "6s"
heartbeat_interval = "500ms"
rebalance_timeout = "20s"
fetch_max_wait = "100ms"
[publisher]
outgoing_topic = "{outgoing}"
[dead_letter_queue]
topic = "{dead_letters}"
[downloader]
allowed_urls = ["http://127\\.0\\.0\\.1:{port}/.*"]
allowed_networks = ["127.0.0.0/8"]
attempts = 2
[watchers.stats]
address = "127.0.0.1"
port = 0
{more}
"#,
            // One string of the list for each broker.
            bootstrap = self.bootstrap.replace(',', "\", \""),
            incoming = self.incoming,
            group = self.group,
            outgoing = self.outgoing,
            dead_letters = self.dead_letters,
            port = self.server.port(),
        )
    }

    /// A worker that has an assignment.
    pub fn worker(&self, more: &str) -> Running {
        let worker = self.starting_worker(more);
        worker.line("assigned: ");
        worker
    }

    /// A worker on its way into the group.
    pub fn starting_worker(&self, more: &str) -> Running {
        self.worker_with(more, &[])
    }

    /// A worker on its way into the group, some of whose keys are changed: `section.key`, value.
    pub fn worker_with(&self, more: &str, keys: &[(&str, &str)]) -> Running {
        let mut program = self.program(more);
        for (key, value) in keys {
            let name = key.replace('.', "__").to_uppercase();
            program = program.env(&format!("CCX_DATA_PIPELINE__{name}"), value);
        }
        program.start()
    }

    /// A worker that is not started yet.
    pub fn program(&self, more: &str) -> Program {
        Program::new(["run"]).config(&self.config(more))
    }
}

/// The address of a worker's metrics endpoint, from its log.
pub fn endpoint(worker: &Running) -> String {
    let line = worker.line("metrics and health on ");
    let url = line.trim().rsplit_once("http://").unwrap().1;
    url.split_whitespace().next().unwrap().to_owned()
}

/// What a path of the endpoint answers: status and body.
pub fn get(endpoint: &str, path: &str) -> (u16, String) {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .build();
    let mut answer = ureq::Agent::new_with_config(config)
        .get(format!("http://{endpoint}{path}"))
        .call()
        .unwrap();
    let body = answer.body_mut().read_to_string().unwrap();
    secrets::search(path, &body);
    (answer.status().as_u16(), body)
}

/// The value of one series of `/metrics`.
pub fn metric(endpoint: &str, series: &str) -> Option<f64> {
    let (_, text) = get(endpoint, "/metrics");
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|r| r.starts_with(' '))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

/// How often each record was published or buried, by request id.
#[derive(Debug, Default)]
pub struct Ledger {
    pub published: BTreeMap<String, usize>,
    pub buried: BTreeMap<String, usize>,
}

impl Ledger {
    /// Reads both topics' records.
    pub fn new(
        published: impl IntoIterator<Item = LogRecord>,
        buried: impl IntoIterator<Item = LogRecord>,
    ) -> Self {
        let mut ledger = Self::default();
        for record in published {
            let id = value(&record)["RequestId"].as_str().unwrap().to_owned();
            *ledger.published.entry(id).or_default() += 1;
        }
        for record in buried {
            secrets::search_headers(&record);
            let id = value(&record)["request_id"].as_str().unwrap().to_owned();
            *ledger.buried.entry(id).or_default() += 1;
        }
        ledger
    }

    /// Request ids of `expected` with no outcome at all.
    pub fn lost(&self, expected: std::ops::Range<usize>) -> Vec<String> {
        expected
            .map(|id| format!("r-{id}"))
            .filter(|id| !self.published.contains_key(id) && !self.buried.contains_key(id))
            .collect()
    }

    /// Fails unless every record of `expected` has an outcome, and at most `duplicates` were
    /// done more than once.
    #[track_caller]
    pub fn check(&self, expected: std::ops::Range<usize>, duplicates: usize) {
        let lost = self.lost(expected);
        assert!(lost.is_empty(), "lost: {lost:?}");
        let found = self.duplicates();
        assert!(
            found <= duplicates,
            "{found} duplicates, {duplicates} allowed"
        );
    }

    /// Outcomes beyond the first of each record.
    pub fn duplicates(&self) -> usize {
        let all = self.published.values().chain(self.buried.values());
        let total: usize = all.sum();
        let mut ids: Vec<_> = self.published.keys().chain(self.buried.keys()).collect();
        ids.sort();
        ids.dedup();
        total - ids.len()
    }
}

/// The JSON value of a record.
pub fn value(record: &LogRecord) -> Value {
    serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap()
}
