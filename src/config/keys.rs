//! Every key: its name, type, default, bounds and meaning. The one place where a key is declared.
//!
//! Parsing, defaults, `_env` and `_file` twins, names of variables, the output of `check` and the
//! `config.toml` of the repository all come from this table. The comment above a key is its
//! comment in `config.toml`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::kinds::{
    ANY_TEXT, Address, Bool, Hidden, INSTANCE_ID, Integer, KAFKA_MAX, Levels, List, Network,
    Optional, OrOff, PATTERN, Path, Ratio, SERVER, SOME_TEXT, Size, TOPIC, Time, Word, YEAR,
};
use super::reader::Reader;
use crate::kafka::options::{Compression, IsolationLevel, Mechanism, OffsetReset, OnCorruptBatch};
use crate::logging::{Filter, Format};
use crate::rules::Profile;
use crate::secret::Secret;

/// What is said of a key beside its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// Section, dotted.
    pub(super) section: &'static str,
    /// Name within the section.
    pub(super) name: &'static str,
    /// One line for people.
    pub(super) meaning: &'static str,
    /// Name of the `_env` twin within the section, and the variable that it names by default.
    pub(super) env: Option<(&'static str, &'static str)>,
    /// Whether `<name>_file` names a file with the value.
    pub(super) file: bool,
}

impl Key {
    /// The dotted name.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The dotted name of the `_env` twin.
    pub(super) fn env_path(&self) -> Option<String> {
        self.env.map(|(name, _)| format!("{}.{name}", self.section))
    }

    /// The dotted name of the `_file` twin.
    pub(super) fn file_path(&self) -> Option<String> {
        self.file.then(|| format!("{}_file", self.path()))
    }

    /// Every dotted name that belongs to the key.
    pub(super) fn paths(&self) -> impl Iterator<Item = String> {
        [Some(self.path()), self.env_path(), self.file_path()]
            .into_iter()
            .flatten()
    }
}

/// What the names of all our variables begin with.
pub(super) const PREFIX: &str = "CCX_DATA_PIPELINE__";

/// The variable that overrides a key: `consumer.group_id` → `CCX_DATA_PIPELINE__CONSUMER__GROUP_ID`.
pub(super) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// Declares sections and their keys: comment, `name: type = default, kind`, then perhaps
/// `env(twin = variable)` and `[file]`.
macro_rules! settings {
    ($(
        #[doc = $about:literal]
        $section:ident $path:literal {
            $(
                #[doc = $meaning:literal]
                $key:ident: $value:ty = $default:expr, $kind:expr
                    $(, env($twin:ident = $variable:literal))? $(, [$file:ident])?;
            )*
        }
    )*) => {
        $(
            #[doc = $about]
            #[derive(Debug, Clone)]
            pub(super) struct $section { $(#[doc = $meaning] pub(super) $key: $value,)* }
        )*

        /// Every key, in the order of `config.toml`.
        pub(super) static KEYS: &[Key] = &[$($(
            Key {
                section: $path,
                name: stringify!($key),
                meaning: $meaning,
                env: $crate::config::keys::settings!(@env $($twin = $variable)?),
                file: $crate::config::keys::settings!(@file $($file)?),
            },
        )*)*];

        /// Every section with what it is about.
        pub(super) static SECTIONS: &[(&str, &str)] = &[$(($path, $about),)*];

        $(
            impl $section {
                /// Reads the section, each key in its place; what is wrong goes to the reader's
                /// problems and counts as the default.
                pub(super) fn read(reader: &mut Reader<'_>) -> Self {
                    Self { $(
                        $key: reader.read(
                            &Key {
                                section: $path,
                                name: stringify!($key),
                                meaning: $meaning,
                                env: $crate::config::keys::settings!(@env $($twin = $variable)?),
                                file: $crate::config::keys::settings!(@file $($file)?),
                            },
                            &$kind,
                            $default,
                        ),
                    )* }
                }
            }
        )*
    };
    (@env) => { None };
    (@env $twin:ident = $variable:literal) => { Some((stringify!($twin), $variable)) };
    (@file) => { false };
    (@file file) => { true };
}
pub(super) use settings;

settings! {
    /// Where announcements of uploads come from.
    Consumer "consumer" {
        /// Brokers to ask first, HOST:PORT.
        bootstrap_servers: Vec<String> = texts(&["localhost:9092"]), List(SERVER),
            env(bootstrap_server_env = "CDP_BOOTSTRAP_SERVER");
        /// Topic to read.
        incoming_topic: String = "platform.upload.announce".into(), TOPIC,
            env(incoming_topic_env = "CDP_INCOMING_TOPIC");
        /// Consumer group.
        group_id: String = "ccx_data_pipeline_app".into(), SOME_TEXT,
            env(group_id_env = "CDP_GROUP_ID");
        /// Makes this a static member of the group, whose restarts move no partition; no two members may have the same. Empty: dynamic.
        group_instance_id: Option<String> = None, Optional(INSTANCE_ID);
        /// Name that brokers log for this program, also for its publisher.
        client_id: String = "ccx-data-pipeline".into(), ANY_TEXT;
        /// A member that is silent for longer is removed from the group; brokers allow 6s to 30m unless told otherwise.
        session_timeout: Duration = secs(45), time(secs(1), KAFKA_MAX);
        /// Time between two heartbeats, at most a third of session_timeout.
        heartbeat_interval: Duration = secs(3), time(Duration::from_millis(10), KAFKA_MAX);
        /// How long a rebalance waits for each member; at least 15s and two heartbeats.
        rebalance_timeout: Duration = secs(60), time(Duration::from_millis(1), KAFKA_MAX);
        /// Where to start without a usable committed offset: earliest or latest.
        auto_offset_reset: OffsetReset = OffsetReset::Earliest, Word {
            words: &[("earliest", OffsetReset::Earliest), ("latest", OffsetReset::Latest)],
            later: &[],
        };
        /// Records of transactions: read_committed leaves out aborted ones, read_uncommitted takes all.
        isolation_level: IsolationLevel = IsolationLevel::ReadCommitted, Word {
            words: &[
                ("read_committed", IsolationLevel::ReadCommitted),
                ("read_uncommitted", IsolationLevel::ReadUncommitted),
            ],
            later: &[],
        };
        /// How long a broker may hold a fetch that finds nothing.
        fetch_max_wait: Duration = Duration::from_millis(500), time(Duration::ZERO, secs(60));
        /// What one fetch may bring; a single larger batch is still read.
        fetch_max_bytes: u64 = MIB * 8, size(1, FETCH_LIMIT);
        /// What one fetch may bring of one partition.
        max_partition_fetch_bytes: u64 = MIB, size(1, FETCH_LIMIT);
        /// Longest time between two looks at brokers and partitions.
        metadata_max_age: Duration = secs(300), time(secs(1), KAFKA_MAX);
        /// Time between two commits; also after every 500 settled records.
        commit_interval: Duration = secs(1), time(secs(1), YEAR);
        /// Older records are skipped and counted: a presigned link lives 24 hours. Or "off".
        max_record_age: Option<Duration> = Some(secs(24 * 3600)), OrOff(time(secs(1), YEAR));
        /// Only records whose `service` header has this value; empty: all.
        platform_service: Option<String> = None, Optional(ANY_TEXT);
        /// A batch that stays broken when fetched again: pause (its partition stands still) or skip (counted).
        on_corrupt_batch: OnCorruptBatch = OnCorruptBatch::Pause, Word {
            words: &[("pause", OnCorruptBatch::Pause), ("skip", OnCorruptBatch::Skip)],
            later: &[],
        };
    }
    /// How the brokers of announcements are spoken to.
    ConsumerSecurity "consumer.security" {
        /// PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        protocol: Protocol = Protocol::Plaintext, PROTOCOL;
        /// PEM file of certificate authorities for SSL; empty: those of the host, else the built-in ones.
        ca_file: Option<PathBuf> = None, Path;
        /// PEM file with our certificate and its chain for mutual SSL, together with key_file; empty: none.
        certificate_file: Option<PathBuf> = None, Path;
        /// PEM file with the key of certificate_file, not encrypted.
        key_file: Option<PathBuf> = None, Path;
        /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; needed with SASL.
        sasl_mechanism: Option<Mechanism> = None, MECHANISM;
        /// User name for SASL.
        username: String = String::new(), ANY_TEXT, env(username_env = "");
        /// Password for SASL; better kept in a variable or file.
        password: Secret = Secret::default(), Hidden, env(password_env = ""), [file];
    }
    /// Where results go.
    Publisher "publisher" {
        /// Brokers to ask first, HOST:PORT; empty: those of the consumer.
        bootstrap_servers: Vec<String> = Vec::new(), List(SERVER),
            env(bootstrap_server_env = "CDP_PUBLISHER_BOOTSTRAP_SERVER");
        /// Topic of the results.
        outgoing_topic: String = "ccx.ocp.results".into(), TOPIC,
            env(outgoing_topic_env = "CDP_OUTGOING_TOPIC");
        /// Topic of recommendations for workloads; empty: none are made.
        workloads_topic: Option<String> = None, Optional(TOPIC),
            env(workloads_topic_env = "CDP_WORKLOADS_TOPIC");
        /// Compression of what is sent: none, gzip, snappy, lz4 or zstd.
        compression: Compression = Compression::None, Word {
            words: &[
                ("none", Compression::None),
                ("gzip", Compression::Gzip),
                ("snappy", Compression::Snappy),
                ("lz4", Compression::Lz4),
                ("zstd", Compression::Zstd),
            ],
            later: &[],
        };
    }
    /// How the brokers of results are spoken to, where publisher.bootstrap_servers names them.
    PublisherSecurity "publisher.security" {
        /// PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        protocol: Protocol = Protocol::Plaintext, PROTOCOL;
        /// PEM file of certificate authorities for SSL; empty: those of the host, else the built-in ones.
        ca_file: Option<PathBuf> = None, Path;
        /// PEM file with our certificate and its chain for mutual SSL, together with key_file; empty: none.
        certificate_file: Option<PathBuf> = None, Path;
        /// PEM file with the key of certificate_file, not encrypted.
        key_file: Option<PathBuf> = None, Path;
        /// PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; needed with SASL.
        sasl_mechanism: Option<Mechanism> = None, MECHANISM;
        /// User name for SASL.
        username: String = String::new(), ANY_TEXT, env(username_env = "");
        /// Password for SASL; better kept in a variable or file.
        password: Secret = Secret::default(), Hidden, env(password_env = ""), [file];
    }
    /// What becomes of records that fail.
    DeadLetterQueue "dead_letter_queue" {
        /// Topic, on the consumer's brokers, for records that fail; empty: they are logged, counted and skipped.
        topic: Option<String> = None, Optional(TOPIC),
            env(topic_env = "CDP_DEAD_LETTER_QUEUE_TOPIC");
        /// Share of failures among the last 200 records, once there are 50, at which the worker stops taking records until one succeeds; or "off".
        max_ratio: Option<f64> = Some(0.5), OrOff(Ratio);
        /// Failures in a row at which it does so; or "off".
        max_consecutive: Option<u64> = Some(20), OrOff(integer(1, u64::MAX >> 1));
    }
    /// How archives are fetched.
    Downloader "downloader" {
        /// Regular expressions, one of which the URL without its query must match in full; the default is S3.
        allowed_urls: Vec<String> = texts(S3_URLS), List(PATTERN);
        /// Lifts that list, and allows http: for tests only. Networks are checked all the same.
        allow_unsafe_links: bool = false, Bool;
        /// Networks, like "10.0.0.0/8", that may be asked beside globally routable addresses.
        allowed_networks: Vec<IpNet> = Vec::new(), List(Network);
        /// Largest archive, up to and including; at most worker.max_in_flight_bytes.
        max_archive_size: u64 = MIB * 100, size(1, MAX_SIZE);
        /// Longest time until a connection stands, TLS included.
        connect_timeout: Duration = secs(5), time(Duration::from_millis(1), YEAR);
        /// Longest time until the first byte of an answer.
        response_timeout: Duration = secs(10), time(Duration::from_millis(1), YEAR);
        /// Longest time for one archive, all attempts together.
        deadline: Duration = secs(120), time(Duration::from_millis(1), YEAR);
        /// Slowest transfer, per second over 10 s; 0: no limit.
        min_rate: u64 = KIB, size(0, MAX_SIZE);
        /// How often a download is tried.
        attempts: u64 = 4, integer(1, 1000);
        /// PEM file of certificate authorities; empty: those of the host, else the built-in ones.
        ca_file: Option<PathBuf> = None, Path;
    }
    /// How archives are extracted and examined.
    Engine "engine" {
        /// Directory for temporary files; empty: TMPDIR, else /tmp.
        extract_tmp_dir: Option<PathBuf> = None, Path;
        /// Largest archive when unpacked.
        unpacked_archive_size_limit: u64 = MIB * 512, size(1, MAX_SIZE);
        /// Larger documents count as damaged; logs and metrics may be larger.
        max_document_size: u64 = MIB * 16, size(1, MAX_SIZE);
        /// Most members of an archive, of every kind.
        max_entries: u64 = 100_000, integer(1, u64::MAX >> 1);
        /// Highest ratio of unpacked to packed bytes, from 1 MiB of output on.
        max_ratio: u64 = 500, integer(1, u64::MAX >> 1);
        /// Longest time for one archive, from its first byte unpacked to its report.
        archive_deadline: Duration = secs(60), time(Duration::from_millis(1), YEAR);
    }
    /// Which rules run.
    EngineRules "engine.rules" {
        /// external: what users may see; internal: every rule, and rules that pass.
        profile: Profile = Profile::External, Word {
            words: &[("external", Profile::External), ("internal", Profile::Internal)],
            later: &[],
        };
        /// Rules (names or beginnings of components) that run beside the default ones.
        enable: Vec<String> = Vec::new(), List(SOME_TEXT);
        /// Rules that do not run, even when enabled.
        disable: Vec<String> = Vec::new(), List(SOME_TEXT);
        /// What a cluster's grafana_link begins with, its id follows; empty: N/A.
        grafana_url: Option<String> = None, Optional(SOME_TEXT);
        /// TOML file of minor versions and their dates, like data/lifecycle.toml; empty: the built-in one.
        lifecycle_file: Option<PathBuf> = None, Path;
    }
    /// How much work is done at a time.
    Worker "worker" {
        /// Threads that work on archives; 0: four for each core, 4 to 64.
        threads: u64 = 0, integer(0, 1024);
        /// Most records taken and not settled, at least one for each thread; 0: two for each thread.
        max_in_flight: u64 = 0, integer(0, 65_536);
        /// Most bytes of archives being fetched and extracted, of all threads together.
        max_in_flight_bytes: u64 = MIB * 256, size(1, MAX_SIZE);
        /// How long the work in flight may take after the first SIGTERM; Kubernetes grants 30 s.
        shutdown_timeout: Duration = secs(25), time(Duration::ZERO, YEAR);
        /// Crashes in a row at which the record that was in work at each of them becomes a dead letter.
        max_crashes: u64 = 3, integer(2, 1000);
    }
    /// Metrics and health over HTTP.
    Stats "watchers.stats" {
        /// Whether /metrics, /livez and /readyz are served.
        enabled: bool = true, Bool;
        /// Address to listen on.
        address: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED), Address;
        /// Port to listen on; 0: the system chooses, and the log tells.
        port: u64 = 8000, integer(0, 65_535);
    }
    /// How far each upload is, for the platform's payload tracker.
    PayloadTracker "watchers.payload_tracker" {
        /// Whether it is told; what cannot be sent is dropped and counted.
        enabled: bool = false, Bool;
        /// Topic, on the consumer's brokers, of the statuses.
        topic: String = "platform.payload-status".into(), TOPIC,
            env(topic_env = "CDP_PAYLOAD_TRACKER_TOPIC");
        /// Name of this service in the statuses.
        service_name: String = "ccx-data-pipeline".into(), SOME_TEXT;
    }
    /// What is logged.
    Logging "logging" {
        /// off, error, warn, info, debug or trace; then modules of their own: "info,kafka=debug".
        level: Filter = Filter::default(), Levels;
        /// text or json.
        format: Format = Format::Text, Word {
            words: &[("text", Format::Text), ("json", Format::Json)],
            later: &[],
        };
    }
}

/// Everything that can be set.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) consumer: Consumer,
    pub(super) consumer_security: Security,
    pub(super) publisher: Publisher,
    pub(super) publisher_security: Security,
    pub(super) dead_letter_queue: DeadLetterQueue,
    pub(super) downloader: Downloader,
    pub(super) engine: Engine,
    pub(super) rules: EngineRules,
    pub(super) worker: Worker,
    pub(super) stats: Stats,
    pub(super) payload_tracker: PayloadTracker,
    pub(super) logging: Logging,
}

impl Settings {
    /// Reads all sections, in the order of `config.toml`.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let consumer = Consumer::read(reader);
        let consumer_security = ConsumerSecurity::read(reader).into();
        let publisher = Publisher::read(reader);
        let publisher_security = PublisherSecurity::read(reader).into();
        Self {
            consumer,
            consumer_security,
            publisher,
            publisher_security,
            dead_letter_queue: DeadLetterQueue::read(reader),
            downloader: Downloader::read(reader),
            engine: Engine::read(reader),
            rules: EngineRules::read(reader),
            worker: Worker::read(reader),
            stats: Stats::read(reader),
            payload_tracker: PayloadTracker::read(reader),
            logging: Logging::read(reader),
        }
    }
}

/// Names that a later version knows. A name with a dot behind it is a whole section.
pub(super) static LATER: &[&str] = &[
    "consumer.client",
    "consumer.group_protocol",
    "consumer.partitions",
];

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Not at all.
    Plaintext,
    /// By TLS.
    Ssl,
    /// By name and password alone, in the open.
    SaslPlaintext,
    /// By name and password under TLS.
    SaslSsl,
}

const PROTOCOL: Word<Protocol> = Word {
    words: &[
        ("PLAINTEXT", Protocol::Plaintext),
        ("SSL", Protocol::Ssl),
        ("SASL_PLAINTEXT", Protocol::SaslPlaintext),
        ("SASL_SSL", Protocol::SaslSsl),
    ],
    later: &[],
};

const MECHANISM: Word<Option<Mechanism>> = Word {
    words: &[
        ("", None),
        ("PLAIN", Some(Mechanism::Plain)),
        ("SCRAM-SHA-256", Some(Mechanism::ScramSha256)),
        ("SCRAM-SHA-512", Some(Mechanism::ScramSha512)),
    ],
    later: &[],
};

/// The keys of either security section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Security {
    pub(super) protocol: Protocol,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) sasl_mechanism: Option<Mechanism>,
    pub(super) username: String,
    pub(super) password: Secret,
}

macro_rules! security {
    ($($section:ident)*) => {$(
        impl From<$section> for Security {
            fn from(keys: $section) -> Self {
                let $section {
                    protocol,
                    ca_file,
                    certificate_file,
                    key_file,
                    sasl_mechanism,
                    username,
                    password,
                } = keys;
                Self {
                    protocol,
                    ca_file,
                    certificate_file,
                    key_file,
                    sasl_mechanism,
                    username,
                    password,
                }
            }
        }
    )*};
}
security! { ConsumerSecurity PublisherSecurity }

/// The forms of S3's own host names: virtual-hosted and path style, all partitions and regions,
/// dual-stack included. What a bucket is called must not look like another host.
const S3_URLS: &[&str] = &[
    r"https://[a-z0-9][a-z0-9.-]*\.s3(?:[.-](?:dualstack\.)?[a-z]{2}(?:-[a-z]+)+-[0-9])?\.amazonaws\.com(?:\.cn)?/.+",
    r"https://s3(?:[.-](?:dualstack\.)?[a-z]{2}(?:-[a-z]+)+-[0-9])?\.amazonaws\.com(?:\.cn)?/[a-z0-9][a-z0-9.-]*/.+",
];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Far beyond any disk, and sums of a few still fit in 64 bits.
const MAX_SIZE: u64 = 1 << 60;
/// An answer of this size, headers included, fits in the longest frame that the client takes.
const FETCH_LIMIT: u64 = 60 * MIB;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn time(min: Duration, max: Duration) -> Time {
    Time { min, max }
}

const fn size(min: u64, max: u64) -> Size {
    Size { min, max }
}

const fn integer(min: u64, max: u64) -> Integer {
    Integer { min, max }
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}
