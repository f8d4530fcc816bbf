//! An extracted archive: typed, lazy, cached access to its documents, for rules.
//!
//! `archive.nodes()`, `archive.cluster_version()` and the like come from the table in
//! [`models`]. A file is read and parsed when the first rule asks for it, at most once. A file
//! that cannot be parsed counts as absent, is counted and named in the log once. Nothing here
//! writes, and no name in the archive is used as a path.
//!
//! An archive belongs to one task and moves with it from thread to thread; it is not shared.

pub mod documents;
pub mod extract;
pub mod files;
pub mod limits;
mod members;
pub mod models;
mod names;
pub mod work_dir;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use time::OffsetDateTime;
use uuid::Uuid;

use self::documents::field::{from_json, hold, object, within};
use self::documents::{Damage, Document, Found, Source};
use self::extract::Extracted;
use self::files::Files;
pub use self::models::Model;

/// Whose presence tells the kind of a cluster.
const INFRASTRUCTURE: &str = "config/infrastructure.json";
/// The conditions by which the cluster gathered.
const REMOTE_CONFIGURATION: &str = "insights-operator/remote-configuration.json";
/// Files that are read for the archive's own facts, whatever rules are on.
pub const IDENTITY_FILES: &[&str] = &["config/id", INFRASTRUCTURE, REMOTE_CONFIGURATION];
/// Largest document of an archive that is made in memory.
const DOCUMENT_SIZE: u64 = 16 * 1024 * 1024;
/// Bytes of memory that all parsed documents of an archive may take together. What a large cluster
/// has takes some MiB, since few fields of it are kept.
const MEMORY: usize = 64 << 20;
/// Most damaged files of one archive that get a log line of their own.
const NAMED: u64 = 20;
/// 2018-01-01T00:00:00Z in seconds: no archive is older, so an earlier time is no time.
const FIRST_GATHERING: i64 = 1_514_764_800;

/// What kind of cluster an archive is of, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// Without `config/infrastructure.json`.
    Ocp,
    /// With it. That is nearly every archive today; the word is the original's.
    Hypershift,
}

impl ArchiveKind {
    /// Every kind.
    pub const ALL: [ArchiveKind; 2] = [ArchiveKind::Ocp, ArchiveKind::Hypershift];

    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            ArchiveKind::Ocp => "ocp",
            ArchiveKind::Hypershift => "hypershift",
        }
    }
}

/// The documents of one archive.
pub struct Archive {
    /// Those that some model reads, by name.
    files: Vec<File>,
    /// Positions in `files`, best first for models of one file, by name for the others.
    by_model: BTreeMap<Model, Vec<usize>>,
    kind: ArchiveKind,
    remote_configuration: Option<Content>,
    remote_configuration_version: OnceCell<Option<String>>,
    config_id_mtime: Option<u64>,
    document_size: u64,
    /// When reading documents ends.
    deadline: Option<Instant>,
    /// What is left of [`MEMORY`].
    room: Cell<usize>,
    reads: Cell<u64>,
    damaged: Cell<u64>,
    host_fault: RefCell<Option<io::Error>>,
    late: Cell<bool>,
}

struct File {
    path: String,
    content: Content,
    /// The parsed document, `None` when it is damaged.
    document: OnceCell<Option<Box<dyn Any + Send>>>,
}

/// Where the bytes of a file lie.
enum Content {
    Memory(Vec<u8>),
    /// Among those that extraction kept, under this name.
    Extracted(Arc<Files>, Vec<u8>),
}

impl Content {
    fn open<'a>(
        &'a self,
        path: &'a str,
        limit: u64,
        deadline: Option<Instant>,
    ) -> Result<Source<'a>, Damage> {
        match self {
            Content::Memory(bytes) => Ok(Source::new(
                path,
                bytes.len() as u64,
                limit,
                Box::new(Timely::new(bytes.as_slice(), deadline)),
            )),
            Content::Extracted(files, name) => {
                let gone = || Damage::Host(io::ErrorKind::NotFound.into());
                let file = files.get(name).ok_or_else(gone)?;
                let size = file.size();
                if file.is_too_large() {
                    return Err(Damage::Size { size, limit });
                }
                let content = file.open().map_err(Damage::Host)?;
                let content = Timely::new(content, deadline);
                Ok(Source::new(path, size, limit, Box::new(content)))
            }
        }
    }
}

/// Reads until a deadline.
struct Timely<R> {
    content: R,
    deadline: Option<Instant>,
}

/// The deadline for reading is over. Travels through parsers in an [`io::Error`].
#[derive(Debug, Error)]
#[error("no time is left to read it")]
struct Late;

fn is_late(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Late>())
}

impl<R> Timely<R> {
    fn new(content: R, deadline: Option<Instant>) -> Timely<R> {
        Timely { content, deadline }
    }
}

impl<R: Read> Read for Timely<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_some_and(|end| Instant::now() >= end) {
            return Err(io::Error::other(Late));
        }
        self.content.read(into)
    }
}

impl Archive {
    /// Opens what extraction kept. `document_size` is the limit for one document in bytes, the
    /// same that extraction had.
    pub fn new(extracted: Extracted, document_size: u64) -> Archive {
        let files = Arc::new(extracted.files);
        let contents = files
            .iter_sorted()
            .map(|file| {
                let path = String::from_utf8_lossy(file.name()).into_owned();
                (
                    path,
                    Content::Extracted(Arc::clone(&files), file.name().to_vec()),
                )
            })
            .collect();
        Archive::index(contents, document_size, extracted.config_id_mtime)
    }

    /// An archive made of names and texts, for tests of rules.
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Archive {
        let files = files
            .into_iter()
            .map(|(path, text)| (path.to_owned(), Content::Memory(text.into())))
            .collect();
        Archive::index(files, DOCUMENT_SIZE, None)
    }

    /// An archive with one document that cannot be read back, for tests of what that costs.
    #[cfg(test)]
    pub(crate) fn unreadable(path: &str) -> Archive {
        let writer = files::Writer::new(std::path::Path::new("/nowhere"));
        let nothing = Arc::new(writer.finish(0, |_| true).expect("nothing to write"));
        let content = Content::Extracted(nothing, path.into());
        Archive::index(vec![(path.to_owned(), content)], DOCUMENT_SIZE, None)
    }

    fn index(
        contents: Vec<(String, Content)>,
        document_size: u64,
        config_id_mtime: Option<u64>,
    ) -> Archive {
        let contents: BTreeMap<String, Content> = contents.into_iter().collect();
        let names: HashSet<String> = contents.keys().cloned().collect();
        let mut files = Vec::new();
        let mut by_model: BTreeMap<Model, Vec<(usize, usize)>> = BTreeMap::new();
        let mut remote_configuration = None;
        for (path, content) in contents {
            if path == REMOTE_CONFIGURATION {
                remote_configuration = Some(content);
                continue;
            }
            let places = models::classify(&path);
            // The name with the suffix is the newer form of the same document, where it is read.
            let newer = format!("{path}.json");
            if names.contains(&newer) && !models::classify(&newer).is_empty() {
                continue;
            }
            for place in &places {
                by_model
                    .entry(place.model)
                    .or_default()
                    .push((place.rank, files.len()));
            }
            if !places.is_empty() {
                files.push(File {
                    path,
                    content,
                    document: OnceCell::new(),
                });
            }
        }
        let by_model = by_model
            .into_iter()
            .map(|(model, mut places)| {
                if model.is_one() {
                    places.sort_unstable();
                }
                (
                    model,
                    places.into_iter().map(|(_, position)| position).collect(),
                )
            })
            .collect();

        Archive {
            files,
            by_model,
            kind: if names.contains(INFRASTRUCTURE) {
                ArchiveKind::Hypershift
            } else {
                ArchiveKind::Ocp
            },
            remote_configuration,
            remote_configuration_version: OnceCell::new(),
            config_id_mtime,
            document_size,
            deadline: None,
            room: Cell::new(MEMORY),
            reads: Cell::new(0),
            damaged: Cell::new(0),
            host_fault: RefCell::new(None),
            late: Cell::new(false),
        }
    }

    /// Ends reading at the deadline, also in the middle of a document: one of hundreds of MiB, or
    /// thousands that one rule asks for, would hold up the task for longer than it may take.
    pub fn until(self, deadline: Option<Instant>) -> Archive {
        Archive { deadline, ..self }
    }

    /// Whether the time for documents is over. A rule that holds those of one model against those
    /// of another asks between two of them: that takes longer than reading them, and nobody can
    /// interrupt it. What it says then counts for nothing, as when a document was not read.
    pub fn is_over(&self) -> bool {
        if self.deadline.is_some_and(|end| Instant::now() >= end) {
            self.late.set(true);
        }
        self.late.get()
    }

    /// Whether a document was not read for want of time. What rules said since then says nothing
    /// about the archive.
    pub fn is_late(&self) -> bool {
        self.late.get()
    }

    /// The kind of cluster, as metrics name it.
    pub fn kind(&self) -> ArchiveKind {
        self.kind
    }

    /// The UUID at the start of `config/id`.
    pub fn cluster_uuid(&self) -> Option<Uuid> {
        self.cluster_id().map(|id| id.0)
    }

    /// When the cluster gathered: the time of the `config/id` member, when it is believable.
    pub fn gathering_time(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let seconds = i64::try_from(self.config_id_mtime?).ok()?;
        let time = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
        (seconds > FIRST_GATHERING && time <= now).then_some(time)
    }

    /// The version of the remote configuration by which the cluster gathered.
    pub fn remote_configuration_version(&self) -> Option<&str> {
        object! {
            /// What of the remote configuration is read.
            struct RemoteConfiguration {
                /// Its version.
                version: Option<String> = "version",
            }
        }
        self.remote_configuration_version
            .get_or_init(|| {
                let content = self.remote_configuration.as_ref()?;
                let document = self.parse(REMOTE_CONFIGURATION, content, |source| {
                    from_json::<RemoteConfiguration>(&source.bytes()?)
                        .map_err(Damage::of_json)?
                        .ok_or(Damage::Shape)
                })?;
                document.version
            })
            .as_deref()
    }

    /// How many files could not be parsed so far.
    pub fn damaged(&self) -> u64 {
        self.damaged.get()
    }

    /// How many files were read and parsed so far.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// A fault of our own file system while a document was read. What rules said since then
    /// says nothing about the archive.
    pub fn take_host_fault(&self) -> Option<io::Error> {
        self.host_fault.borrow_mut().take()
    }

    /// The readable documents of a model.
    fn found<T: Document>(&self, model: Model) -> impl Iterator<Item = Found<'_, T>> {
        let positions = self.by_model.get(&model).map_or(&[][..], Vec::as_slice);
        positions.iter().filter_map(move |&position| {
            let file = &self.files[position];
            let document = file.document.get_or_init(|| {
                let document = self.parse(&file.path, &file.content, T::read)?;
                Some(Box::new(document) as Box<dyn Any + Send>)
            });
            // The table sees to it that all models of a file have one type.
            let document = document.as_ref()?.downcast_ref::<T>()?;
            document
                .belongs(model)
                .then(|| Found::new(&file.path, document))
        })
    }

    fn parse<T>(
        &self,
        path: &str,
        content: &Content,
        read: impl FnOnce(Source<'_>) -> Result<T, Damage>,
    ) -> Option<T> {
        self.reads.set(self.reads.get() + 1);
        let read = || {
            let source = content.open(path, self.document_size, self.deadline)?;
            let document = read(source)?;
            hold(size_of::<T>())?;
            Ok(document)
        };
        let (result, left) = within(self.room.get(), read);
        match result {
            Ok(document) => {
                self.room.set(left);
                Some(document)
            }
            Err(Damage::Host(error)) if is_late(&error) => {
                self.late.set(true);
                None
            }
            Err(Damage::Host(error)) => {
                *self.host_fault.borrow_mut() = Some(error);
                None
            }
            Err(damage) => {
                let damaged = self.damaged.get() + 1;
                self.damaged.set(damaged);
                if damaged <= NAMED {
                    // Debug form: names come from outside and may hold control characters.
                    log::warn!(
                        "document {path:?} is damaged and counts as absent: {}",
                        crate::error::chain(&damage)
                    );
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::documents::timestamp;
    use super::*;

    const VERSION: &str = r#"{"status": {"desired": {"version": "4.7.16"}}}"#;

    fn version(archive: &Archive) -> Option<&str> {
        archive.cluster_version().map(|version| version.current())
    }

    #[test]
    fn an_archive_moves_between_threads() {
        fn moves<T: Send>(_: &T) {}
        moves(&Archive::from_files([]));
    }

    #[test]
    fn a_file_is_read_once_however_many_ask() {
        let archive = Archive::from_files([
            (
                "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json",
                "{}",
            ),
            (
                "config/clusteroperator/image-registry.json",
                r#"{"kind": "ClusterOperator"}"#,
            ),
            (
                "config/clusteroperator/etcd-cluster.json",
                r#"{"kind": "Etcd"}"#,
            ),
            ("config/node/broken.json", "{"),
            ("config/unknown.json", "{}"),
        ]);
        assert_eq!(archive.reads(), 0);
        for _ in 0..3 {
            assert_eq!(archive.operators().len(), 1);
            assert_eq!(archive.operator_resources().len(), 2);
            assert!(archive.image_registry_config().is_some());
            assert!(archive.nodes().is_empty());
            assert!(!Model::Nodes.is_present(&archive) && Model::Operators.is_present(&archive));
        }
        assert_eq!(archive.reads(), 4);
        assert_eq!(archive.damaged(), 1);
    }

    /// A third of a MiB in the file, and in an archive a few hundred bytes of it.
    #[test]
    fn a28_documents_take_no_more_memory_than_they_may() {
        let size = size_of::<documents::Alert>();
        let alerts = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        // A list grows by doubling, so not every number is met exactly.
        let many = alerts(2 * MEMORY / size);
        let few = alerts(MEMORY / size / 4);
        for (text, fits) in [(&few, true), (&many, false)] {
            let archive = Archive::from_files([
                ("config/alerts.json", text.as_str()),
                ("config/version.json", VERSION),
            ]);
            assert_eq!(archive.alerts().is_some(), fits);
            assert_eq!(archive.damaged(), u64::from(!fits));
            // What was refused takes nothing.
            assert_eq!(version(&archive), Some("4.7.16"));
            assert_eq!(archive.damaged(), u64::from(!fits));
        }
        // All of them share it.
        let names: Vec<String> = (0..9).map(|n| format!("config/pod/x/{n}.json")).collect();
        let condition = r#"{"type":"Ready"}"#;
        let text = |count: usize| {
            let conditions = vec![condition; count].join(",");
            format!(r#"{{"status":{{"conditions":[{conditions}]}}}}"#)
        };
        let large = text(MEMORY / size_of::<documents::Condition>() / 5);
        let archive = Archive::from_files(names.iter().map(|name| (name.as_str(), &large[..])));
        let pods = archive.pods().len();
        assert!((1..9).contains(&pods), "{pods}");
        assert_eq!(archive.damaged(), 9 - pods as u64);
    }

    /// Lines are cut, and their number is bounded; a file of each kind below is within both.
    #[test]
    fn a28_texts_take_no_more_memory_than_they_may() {
        let long = "x".repeat(60_000);
        let log = format!("VSphereProblemDetectorController failed to sync {long}\n").repeat(400);
        let dvo = format!(
            "deployment_validation_operator_host_ipc{{kind=\"{long}\",namespace_uid=\"1\",uid=\"2\"}} 1\n"
        );
        let alert = "ALERTS{a=\"\"} 1\n";
        let of_one = |name: &str, text: &str| Archive::from_files([(name, text)]);

        let names: Vec<String> = (0..4)
            .map(|n| format!("config/pod/x/logs/p{n}/errors.log"))
            .collect();
        let archive = Archive::from_files(names.iter().map(|name| (name.as_str(), &log[..])));
        assert_eq!(archive.pod_logs().len(), 2);
        assert_eq!(archive.damaged(), 2);

        for (times, fits) in [(1000, true), (1200, false)] {
            let archive = of_one("config/dvo_metrics", &dvo.repeat(times));
            assert_eq!(archive.dvo_metrics().is_some(), fits, "{times}");
        }
        // What is over the share of alerts is left out, as always.
        let archive = of_one("config/metrics", &alert.repeat(100_000));
        let alerts = archive.alerts().map_or(0, |found| found.alerts.len());
        assert!((5_000..30_000).contains(&alerts), "{alerts}");
        assert!(MEMORY - archive.room.get() > alerts * 11 * size_of::<(String, String)>());

        // Small maps and small documents count with all that they take.
        let labels = vec![r#"{"labels":{"a":""}}"#; 150_000].join(",");
        let archive = of_one("config/alerts.json", &format!("[{labels}]"));
        assert!(archive.alerts().is_none());
        let archive = of_one("config/version.json", VERSION);
        assert!(version(&archive).is_some());
        let taken = MEMORY - archive.room.get();
        assert!(taken > size_of::<documents::ClusterVersion>(), "{taken}");
    }

    #[test]
    fn p07_reading_ends_at_the_deadline() {
        let log = "took too long\n".repeat(100_000);
        let files = [
            ("config/version.json", VERSION),
            ("config/pod/openshift-etcd/logs/p/errors.log", log.as_str()),
        ];
        let now = Instant::now();
        let archive = Archive::from_files(files).until(Some(now + Duration::from_secs(3600)));
        assert_eq!(archive.pod_logs().len(), 1);
        let archive = archive.until(Some(now));
        assert_eq!(version(&archive), None);
        assert!(archive.is_late());
        // Neither the archive nor our host is to blame.
        assert_eq!(archive.damaged(), 0);
        assert!(archive.take_host_fault().is_none());

        let large = format!("{VERSION}{}", " ".repeat(2 << 20));
        let archive = Archive::from_files([("config/version.json", large.as_str())]);
        let archive = archive.until(Some(now));
        assert_eq!(version(&archive), None);
        assert!(archive.is_late());
    }

    #[test]
    fn a28_a29_damage_counts_as_absence_and_never_ends_the_process() {
        let deep = "[".repeat(100_000);
        let hidden = format!("{{\"status\": {{\"x\": {deep}");
        let large = format!("{VERSION}{}", " ".repeat(16 * 1024 * 1024));
        for broken in [
            "",
            "null",
            "[]",
            "\"x\"",
            "{\"status\": {",
            "{}{}",
            &deep,
            &hidden,
            &large,
            "\u{feff}{}",
        ] {
            let archive = Archive::from_files([("config/version.json", broken)]);
            assert_eq!(version(&archive), None, "{:.20}", broken);
            assert_eq!(archive.damaged(), 1, "{:.20}", broken);
        }
        let archive = Archive::from_files([
            ("config/machineconfigpools/a.json", "{"),
            ("config/machineconfigpools/b.json", "{}"),
        ]);
        assert_eq!(archive.machine_pools().len(), 1);
    }

    /// Nobody reads `config/id.json`, so it is no newer form of `config/id`.
    #[test]
    fn a27_the_identity_file_counts_whatever_lies_beside_it() {
        const ID: &str = "11111111-2222-4333-8444-555555555555";
        let beside = "99999999-2222-4333-8444-555555555555";
        for other in ["config/id.json", "config/id.json.json", "config/id/x.json"] {
            let archive = Archive::from_files([("config/id", ID), (other, beside)]);
            let id = archive.cluster_uuid().map(|id| id.to_string());
            assert_eq!(id.as_deref(), Some(ID), "{other}");
        }
    }

    #[test]
    fn of_two_paths_of_one_document_the_newer_readable_one_counts() {
        let [new, old] = ["4.8.1", "4.5.1"].map(|version| VERSION.replace("4.7.16", version));
        let names = ["config/version.json", "config/version"];
        let both = Archive::from_files([(names[1], old.as_str()), (names[0], &new)]);
        assert_eq!(version(&both), Some("4.8.1"));
        assert_eq!(
            version(&Archive::from_files([(names[1], old.as_str())])),
            Some("4.5.1")
        );

        let registry =
            "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json";
        let state = |state| format!("{{\"spec\": {{\"managementState\": \"{state}\"}}}}");
        let (new, old) = (state("Managed"), state("Removed"));
        let managed = |archive: Archive| {
            archive
                .image_registry_config()
                .map(|config| config.spec.management_state.clone())
        };
        let old = ("config/imageregistry.json", old.as_str());
        assert_eq!(
            managed(Archive::from_files([old, (registry, &new)])).unwrap(),
            "Managed"
        );
        assert_eq!(
            managed(Archive::from_files([old, (registry, "{")])).unwrap(),
            "Removed"
        );

        let pools = [
            ("config/machineconfigpools/a", "{}"),
            ("config/machineconfigpools/a.json", "{}"),
        ];
        assert_eq!(Archive::from_files(pools).machine_pools().len(), 1);
    }

    #[test]
    fn names_and_namespaces_come_from_the_object_or_its_file() {
        let archive = Archive::from_files([
            ("conditional/namespaces/ns-c/pods/pod-c/pod-c.json", "{}"),
            ("config/pod/ns-a/pod-a.json", "{}"),
            (
                "config/pod/ns-b/pod-b",
                r#"{"metadata": {"name": "x", "namespace": "y"}}"#,
            ),
            ("config/pod/ns-b/logs/pod-b/errors.log", "text"),
        ]);
        let pods: Vec<_> = archive
            .pods()
            .into_iter()
            .map(|pod| (pod.namespace(), pod.name()))
            .collect();
        assert_eq!(pods, [("ns-c", "pod-c"), ("ns-a", "pod-a"), ("y", "x")]);
    }

    #[test]
    fn a_folder_does_not_belong_to_the_model_beside_it() {
        let archive = Archive::from_files([
            ("config/node/logs/a.log", "{}"),
            ("config/storage/storageclasses/standard.json", "{}"),
            ("config/storage/ns/old.json", "{}"),
        ]);
        assert!(archive.nodes().is_empty());
        assert_eq!(archive.storage_classes().len(), 1);
        assert_eq!(models::classify("config/node/logs/a.log"), []);
    }

    #[test]
    fn the_kind_is_told_by_one_file() {
        assert_eq!(Archive::from_files([]).kind(), ArchiveKind::Ocp);
        let archive = Archive::from_files([(INFRASTRUCTURE, "broken")]);
        assert_eq!(archive.kind().as_str(), "hypershift");
    }

    #[test]
    fn the_remote_configuration_tells_its_version() {
        let told = |text| {
            let archive = Archive::from_files([(REMOTE_CONFIGURATION, text)]);
            archive.remote_configuration_version().map(str::to_owned)
        };
        assert_eq!(told(r#"{"version": "1.1.0"}"#).as_deref(), Some("1.1.0"));
        for none in ["{}", r#"{"version": null}"#, "[]", "{"] {
            assert_eq!(told(none), None);
        }
        assert_eq!(Archive::from_files([]).remote_configuration_version(), None);
    }

    #[test]
    fn a_believable_time_is_that_of_gathering() {
        let now = timestamp::parse("2021-07-13T07:16:44Z").unwrap();
        let time = |mtime| {
            Archive::index(Vec::new(), DOCUMENT_SIZE, mtime)
                .gathering_time(now)
                .map(OffsetDateTime::unix_timestamp)
        };
        assert_eq!(time(Some(1_600_000_000)), Some(1_600_000_000));
        assert_eq!(
            time(Some(now.unix_timestamp().unsigned_abs())),
            Some(now.unix_timestamp())
        );
        for unbelievable in [
            None,
            Some(0),
            Some(1_514_764_800),
            Some(1_900_000_000),
            Some(u64::MAX),
        ] {
            assert_eq!(time(unbelievable), None, "{unbelievable:?}");
        }
    }
}
