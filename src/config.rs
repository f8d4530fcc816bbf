//! Configuration: every key, its default, its unit and its checks.
//!
//! [`Config::load`] reads the file and the environment once and gives a tree of plain, checked
//! values, or every problem there is. Nothing else of the program looks at the environment, and
//! nothing here looks at the network. Each key is declared once, in `config/keys.rs`.

mod check;
mod document;
mod env;
mod keys;
mod kinds;
mod problems;
mod reader;
mod security;
mod substitute;
mod units;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::Level;

pub use self::env::Env;
use self::keys::Settings;
use self::problems::Origin;
pub use self::problems::{Problem, Problems};
use self::reader::{Reader, Shown};
use crate::archive::limits::Limits;
use crate::archive::work_dir;
use crate::breaker;
use crate::download;
use crate::engine::RuleOptions;
use crate::kafka::options::{
    ClusterOptions, ConsumerOptions, Mechanism, ProducerOptions, Security,
};
use crate::logging;
use crate::rules::{self, life_cycle::LifeCycle};
use crate::watchers::payload_tracker;

/// Where the file is looked for when nobody names one.
const USUAL_FILE: &str = "config.toml";

/// Which file to read.
#[derive(Debug, Clone, Copy)]
pub enum File<'a> {
    /// This one; it has to be there.
    Named(&'a Path),
    /// `config.toml` in the working directory, if it is there.
    Usual,
    /// None: defaults and environment only.
    None,
}

/// All settings, checked. What is optional here really is.
#[derive(Debug, Clone)]
pub struct Config {
    /// The consumer group and its records.
    pub consumer: Consumer,
    /// Where results go.
    pub publisher: Publisher,
    /// What becomes of records that fail.
    pub dead_letter_queue: DeadLetterQueue,
    /// How archives are fetched.
    pub downloader: download::Options,
    /// How archives are extracted and examined.
    pub engine: Engine,
    /// How much work is done at a time.
    pub worker: Worker,
    /// Where metrics and health are served; `None`: nowhere. Port 0: the system chooses.
    pub stats: Option<SocketAddr>,
    /// What the payload tracker is told; `None`: nothing.
    pub payload_tracker: Option<payload_tracker::Options>,
    /// What is logged and how.
    pub logging: logging::Options,
    /// What a person should know at start, to be logged once.
    pub notes: Vec<Note>,
    file: String,
    shown: Vec<Shown>,
}

/// A remark on the configuration that is no problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How loudly to say it.
    pub level: Level,
    /// One sentence.
    pub text: String,
}

/// The consumer group and its records.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// Settings of the client.
    pub options: ConsumerOptions,
    /// Longest time between two commits, ≥ 1 s.
    pub commit_interval: Duration,
    /// Older records are skipped; `None`: none is too old.
    pub max_record_age: Option<Duration>,
    /// Only records whose `service` header has this value; `None`: all.
    pub platform_service: Option<String>,
}

/// Where results go.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// Settings of the producer of results.
    pub options: ProducerOptions,
    /// Topic of the results.
    pub outgoing_topic: String,
    /// Topic of recommendations for workloads; `None`: none are made.
    pub workloads_topic: Option<String>,
    /// Whether the results go to the brokers that the announcements come from, so that one
    /// producer serves results and dead letters.
    pub shares_cluster: bool,
}

/// What becomes of records that fail.
#[derive(Debug, Clone)]
pub struct DeadLetterQueue {
    /// Topic on the consumer's cluster; `None`: failed records are logged, counted and skipped.
    pub topic: Option<String>,
    /// How many failures stop the worker.
    pub breaker: breaker::Options,
    /// Settings of a producer to the consumer's cluster, where the publisher has another.
    pub options: ProducerOptions,
}

/// How archives are extracted and examined.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Where temporary files go: the configured directory, else `TMPDIR`, else `/tmp`.
    pub extract_tmp_dir: PathBuf,
    /// What an archive may hold.
    pub limits: Limits,
    /// Extraction, rules and rendering of one archive.
    pub archive_deadline: Duration,
    /// Which rules run.
    pub rules: RuleOptions,
}

/// How much work is done at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Threads that work on archives, ≥ 1.
    pub threads: usize,
    /// Records taken and not settled, ≥ `threads`.
    pub max_in_flight: usize,
    /// Bytes of archive bodies of all tasks.
    pub max_in_flight_bytes: u64,
    /// How long a drain may take.
    pub shutdown_timeout: Duration,
    /// Crashes in a row at which a record is given up, ≥ 2.
    pub max_crashes: u32,
}

impl Config {
    /// Reads the file and the environment. `knows_rule` says whether a text names a rule or
    /// begins the name of a component.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn load(
        file: File<'_>,
        env: &Env,
        knows_rule: &dyn Fn(&str) -> bool,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut notes = Vec::new();
        let text = read_file(file, &mut problems, &mut notes);
        let document = document::Document::parse(&text, env, &mut problems);
        let mut reader = Reader::new(document, env, problems);
        reader.refuse_unknown(keys::KEYS, keys::LATER);
        let settings = Settings::read(&mut reader);
        security::check(&settings, &mut reader);
        check::between(&settings, &mut reader, knows_rule);
        let files = Files {
            life_cycle: life_cycle(settings.rules.lifecycle_file.as_deref(), &mut reader),
            consumer: security::read(
                "consumer.security",
                &settings.consumer_security,
                &mut reader,
            ),
            publisher: security::read(
                "publisher.security",
                &settings.publisher_security,
                &mut reader,
            ),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let worker = worker(&settings.worker, cores);
        check::in_flight(&settings.worker, worker, &mut reader);

        let unset: Vec<String> = reader.unset().map(|(_, sentence)| sentence).collect();
        let Reader {
            mut problems,
            shown,
            ..
        } = reader;
        if !problems.is_empty() {
            problems.sort();
            return Err(problems);
        }
        let mut config = Self::build(settings, files, worker, env);
        notes.extend(config.remarks(env));
        notes.extend(unset.into_iter().map(|text| Note {
            level: Level::Warn,
            text,
        }));
        config.notes = notes;
        config.file = problems.file;
        config.shown = shown;
        Ok(config)
    }

    fn build(settings: Settings, files: Files, worker: Worker, env: &Env) -> Self {
        let shares_access = settings.publisher_security == settings.consumer_security;
        let Settings {
            consumer,
            consumer_security: _,
            publisher,
            publisher_security: _,
            dead_letter_queue,
            downloader,
            engine,
            rules,
            worker: _,
            stats,
            payload_tracker,
            logging,
        } = settings;
        // Another user on the same brokers wants connections of its own.
        let shares_cluster = publisher.bootstrap_servers.is_empty()
            || (publisher.shares_cluster_of(&consumer) && shares_access);
        let consumer_cluster = ClusterOptions {
            name: "consumer",
            bootstrap_servers: consumer.bootstrap_servers,
            client_id: consumer.client_id,
            metadata_max_age: consumer.metadata_max_age,
            security: files.consumer,
        };
        let publisher_cluster = ClusterOptions {
            name: "publisher",
            bootstrap_servers: if publisher.bootstrap_servers.is_empty() {
                consumer_cluster.bootstrap_servers.clone()
            } else {
                publisher.bootstrap_servers
            },
            security: if shares_cluster {
                consumer_cluster.security.clone()
            } else {
                files.publisher
            },
            ..consumer_cluster.clone()
        };
        Self {
            payload_tracker: payload_tracker.enabled.then(|| payload_tracker::Options {
                topic: payload_tracker.topic,
                service_name: payload_tracker.service_name,
                producer: ProducerOptions {
                    cluster: ClusterOptions {
                        name: "payload tracker",
                        ..consumer_cluster.clone()
                    },
                    compression: publisher.compression,
                },
            }),
            dead_letter_queue: DeadLetterQueue {
                topic: dead_letter_queue.topic,
                breaker: breaker::Options {
                    max_ratio: dead_letter_queue.max_ratio,
                    max_consecutive: dead_letter_queue.max_consecutive,
                },
                options: ProducerOptions {
                    cluster: consumer_cluster.clone(),
                    compression: publisher.compression,
                },
            },
            consumer: Consumer {
                options: ConsumerOptions {
                    cluster: consumer_cluster,
                    group_id: consumer.group_id,
                    group_instance_id: consumer.group_instance_id,
                    topic: consumer.incoming_topic,
                    session_timeout: consumer.session_timeout,
                    heartbeat_interval: consumer.heartbeat_interval,
                    rebalance_timeout: consumer.rebalance_timeout,
                    auto_offset_reset: consumer.auto_offset_reset,
                    isolation_level: consumer.isolation_level,
                    fetch_max_wait: consumer.fetch_max_wait,
                    fetch_max_bytes: saturated(consumer.fetch_max_bytes),
                    max_partition_fetch_bytes: saturated(consumer.max_partition_fetch_bytes),
                    on_corrupt_batch: consumer.on_corrupt_batch,
                },
                commit_interval: consumer.commit_interval,
                max_record_age: consumer.max_record_age,
                platform_service: consumer.platform_service,
            },
            publisher: Publisher {
                options: ProducerOptions {
                    cluster: publisher_cluster,
                    compression: publisher.compression,
                },
                outgoing_topic: publisher.outgoing_topic,
                workloads_topic: publisher.workloads_topic,
                shares_cluster,
            },
            downloader: download::Options {
                allowed_urls: downloader.allowed_urls,
                allow_unsafe_links: downloader.allow_unsafe_links,
                allowed_networks: downloader.allowed_networks,
                max_archive_size: downloader.max_archive_size,
                connect_timeout: downloader.connect_timeout,
                response_timeout: downloader.response_timeout,
                deadline: downloader.deadline,
                min_rate: downloader.min_rate,
                attempts: u32::try_from(downloader.attempts).unwrap_or(u32::MAX),
                ca_file: downloader.ca_file,
            },
            engine: Engine {
                extract_tmp_dir: engine.extract_tmp_dir.unwrap_or_else(|| env.tmp_dir()),
                limits: Limits {
                    unpacked_size: engine.unpacked_archive_size_limit,
                    document_size: engine.max_document_size,
                    entries: engine.max_entries,
                    ratio: engine.max_ratio,
                },
                archive_deadline: engine.archive_deadline,
                rules: RuleOptions {
                    profile: rules.profile,
                    enable: rules.enable,
                    disable: rules.disable,
                    // Decided by who runs them: only a worker has a topic for them.
                    workloads: false,
                    settings: rules::Settings {
                        grafana_url: rules.grafana_url,
                        life_cycle: files.life_cycle,
                    },
                },
            },
            worker,
            stats: stats.enabled.then(|| {
                let port = u16::try_from(stats.port).unwrap_or(0);
                SocketAddr::new(stats.address, port)
            }),
            logging: logging::Options {
                filter: logging.level,
                format: logging.format,
            },
            notes: Vec::new(),
            file: String::new(),
            shown: Vec::new(),
        }
    }

    /// What is worth a word although it is allowed.
    fn remarks(&self, env: &Env) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut warn = |text: String| {
            notes.push(Note {
                level: Level::Warn,
                text,
            });
        };
        if self.downloader.allow_unsafe_links {
            warn(
                "downloader.allow_unsafe_links is on: any link is followed to any allowed address"
                    .into(),
            );
        }
        if self.dead_letter_queue.topic.is_none() {
            warn(
                "dead_letter_queue.topic is empty: records that fail are logged, counted and skipped"
                    .into(),
            );
        }
        let clusters = [
            ("consumer", &self.consumer.options.cluster),
            ("publisher", &self.publisher.options.cluster),
        ];
        for (name, cluster) in
            clusters
                .into_iter()
                .take(if self.publisher.shares_cluster { 1 } else { 2 })
        {
            if let Security {
                tls: None,
                sasl: Some(sasl),
            } = &cluster.security
                && sasl.mechanism == Mechanism::Plain
            {
                warn(format!(
                    "{name}.security.protocol is SASL_PLAINTEXT: PLAIN sends the password in the open"
                ));
            }
        }
        let proxies = env.proxies();
        if !proxies.is_empty() {
            warn(format!(
                "{} set but not used: downloads go direct",
                proxies.join(", ")
            ));
        }
        notes
    }

    /// Makes sure that temporary files can be written, by writing one. Leaves nothing behind. A
    /// full disk is no problem of the configuration: it is waited for.
    ///
    /// # Errors
    /// They cannot; the problem names the key.
    pub fn check_tmp_dir(&self) -> Result<(), Problems> {
        let dir = &self.engine.extract_tmp_dir;
        let written = tempfile::tempfile_in(dir)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"writable"));
        let error = match written {
            Err(error) if !work_dir::may_pass(&error) => error,
            Ok(()) | Err(_) => return Ok(()),
        };
        let mut problems = Problems::of(&self.file);
        let path = "engine.extract_tmp_dir";
        let origin = self
            .shown
            .iter()
            .find(|shown| shown.path() == path)
            .map_or(Origin::Default, |shown| shown.origin.clone());
        let why = format!("{} is not writable: {error}", dir.display());
        problems.push(origin, Some(path), why);
        Err(problems)
    }

    /// The configuration in force, as TOML that can be read again: each key with its value,
    /// where it comes from unless it is the default, and what the program makes of it where that
    /// differs. Secrets are `***`.
    pub fn to_toml(&self) -> String {
        let remark = |shown: &Shown| {
            let origin = match &shown.origin {
                Origin::Line(line) => Some(format!("{}:{line}", self.file)),
                Origin::Variable(name) => Some(name.clone()),
                Origin::SecretFile(path) => Some(path.clone()),
                Origin::File | Origin::Default => None,
            };
            let effect = self.effect(&shown.path());
            let remark: Vec<_> = origin
                .into_iter()
                .chain(effect.map(|effect| format!("in force: {effect}")))
                .collect();
            remark.join("; ")
        };
        let mut toml = String::new();
        for (section, _) in keys::SECTIONS {
            if !toml.is_empty() {
                toml.push('\n');
            }
            toml.push_str(&format!("[{section}]\n"));
            for shown in self.shown.iter().filter(|shown| shown.section == *section) {
                toml.push_str(&format!("{} = {}", shown.name, shown.value));
                let remark = remark(shown);
                if !remark.is_empty() {
                    toml.push_str("  # ");
                    // A line break would end the comment.
                    toml.push_str(&remark.replace(|c: char| c.is_control(), " "));
                }
                toml.push('\n');
            }
        }
        toml
    }

    /// What the program makes of a value that leaves the choice to it.
    fn effect(&self, path: &str) -> Option<String> {
        let value = self
            .shown
            .iter()
            .find_map(|shown| (shown.path() == path).then_some(shown.value.as_str()))?;
        match (path, value) {
            ("worker.threads", "0") => Some(self.worker.threads.to_string()),
            ("worker.max_in_flight", "0") => Some(self.worker.max_in_flight.to_string()),
            ("engine.extract_tmp_dir", "\"\"") => {
                Some(self.engine.extract_tmp_dir.display().to_string())
            }
            ("publisher.bootstrap_servers", "[]") => {
                let servers = self.publisher.options.cluster.bootstrap_servers.join(", ");
                Some(crate::secret::without_userinfo(&servers))
            }
            _ => None,
        }
    }
}

/// The `config.toml` of the repository: every key with its default and its meaning.
pub fn default_file() -> String {
    let env = Env::default();
    let mut reader = Reader::new(document::Document::default(), &env, Problems::default());
    Settings::read(&mut reader);
    let mut toml = String::from(HEADER);
    for (section, about) in keys::SECTIONS {
        toml.push_str(&format!("\n#{about}\n[{section}]\n"));
        for shown in reader
            .shown
            .iter()
            .filter(|shown| shown.section == *section)
        {
            toml.push_str(&format!(
                "# {}\n{} = {}\n",
                shown.meaning, shown.name, shown.value
            ));
        }
    }
    toml
}

const HEADER: &str = "\
# Every key of ccx-data-pipeline with its default. A key that is left out has its default; a key
# that is not here is an error.
#
# What counts, the last first: the variable CCX_DATA_PIPELINE__SECTION__KEY (lists with commas),
# the variable that a *_env key names, this file, the default. In the texts of this file ${NAME}
# and ${NAME:default} stand for variables; $${ is a plain ${.
#
# Sizes: B, KB, MB, GB (1000), KiB, MiB, GiB (1024). Times: ms, s, m, h, d, like \"1h30m\".
";

/// Bytes of a file that is written by people.
const MAX_FILE: u64 = 4 << 20;

/// Reads a text that a person has written, which is short: a device may give bytes for ever.
fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let mut file = std::fs::File::open(path)?.take(MAX_FILE + 1);
    file.read_to_string(&mut text)?;
    if file.limit() == 0 {
        return Err(std::io::Error::other("it has more than 4 MiB"));
    }
    Ok(text)
}

fn read_file(file: File<'_>, problems: &mut Problems, notes: &mut Vec<Note>) -> String {
    let (path, may_be_missing) = match file {
        File::None => return String::new(),
        File::Usual => (Path::new(USUAL_FILE), true),
        File::Named(path) => (path, false),
    };
    problems.file = path.display().to_string();
    match read_text(path) {
        Ok(text) => text,
        Err(error) if may_be_missing && error.kind() == std::io::ErrorKind::NotFound => {
            notes.push(Note {
                level: Level::Info,
                text: format!("no {USUAL_FILE} here: built-in defaults and environment"),
            });
            String::new()
        }
        Err(error) => {
            problems.push(Origin::File, None, format!("cannot be read: {error}"));
            String::new()
        }
    }
}

/// What the files that keys name are read into.
struct Files {
    life_cycle: LifeCycle,
    consumer: Security,
    publisher: Security,
}

/// The configured life-cycle table, or the one that is compiled in.
fn life_cycle(path: Option<&Path>, reader: &mut Reader<'_>) -> LifeCycle {
    let Some(path) = path else {
        return LifeCycle::default();
    };
    let table = read_text(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))
        .and_then(|text| {
            LifeCycle::parse(&text)
                .map_err(|error| format!("{}:{}: {error}", path.display(), error.line))
        });
    table.unwrap_or_else(|why| {
        reader.require(false, &["engine.rules.lifecycle_file"], why);
        LifeCycle::default()
    })
}

impl keys::Publisher {
    fn shares_cluster_of(&self, consumer: &keys::Consumer) -> bool {
        let mut own = self.bootstrap_servers.clone();
        let mut theirs = consumer.bootstrap_servers.clone();
        own.sort();
        theirs.sort();
        own.is_empty() || own == theirs
    }
}

/// Fills in what 0 leaves to the program. A task waits on the network for much of its time, so
/// there are more threads than cores.
fn worker(keys: &keys::Worker, cores: usize) -> Worker {
    let or = |number: u64, chosen: usize| match usize::try_from(number).unwrap_or(usize::MAX) {
        0 => chosen,
        number => number,
    };
    let threads = or(keys.threads, cores.saturating_mul(4).clamp(4, 64));
    Worker {
        threads,
        max_in_flight: or(keys.max_in_flight, threads.saturating_mul(2)),
        max_in_flight_bytes: keys.max_in_flight_bytes,
        shutdown_timeout: keys.shutdown_timeout,
        max_crashes: u32::try_from(keys.max_crashes).unwrap_or(u32::MAX),
    }
}

fn saturated(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
