//! The documents that rules read, as types with only the fields that rules use.
//!
//! One file for each area below this one. A type is a struct made by `object!` (JSON; fields of
//! another type count as absent) or reads the text itself; [`Document`] says how. Nothing here
//! trusts a byte: sizes are bounded, depth is the parser's, a document that cannot be read is
//! damage and not an error.

pub mod field;
pub mod prometheus;
pub mod quantity;
pub mod timestamp;
pub mod version;
pub mod yaml;

mod access;
mod alerts;
mod api_requests;
mod certificates;
mod cluster;
mod configuration;
mod disruption;
mod events;
mod ingress;
mod insights;
mod install_plans;
mod leftovers;
mod logs;
mod machines;
mod namespaces;
mod network_checks;
mod nodes;
mod olm;
mod operators;
mod pods;
mod sdn;
mod storage;
mod tsdb;
mod webhooks;
mod workloads;

use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;

use serde_json::error::Category;
use thiserror::Error;

pub use self::access::*;
pub use self::alerts::*;
pub use self::api_requests::*;
pub use self::certificates::*;
pub use self::cluster::*;
pub use self::configuration::*;
pub use self::disruption::*;
pub use self::events::*;
pub use self::ingress::*;
pub use self::insights::*;
pub use self::install_plans::*;
pub use self::leftovers::*;
pub use self::logs::*;
pub use self::machines::*;
pub use self::namespaces::*;
pub use self::network_checks::*;
pub use self::nodes::*;
pub use self::olm::*;
pub use self::operators::*;
pub use self::pods::*;
pub use self::sdn::*;
pub use self::storage::*;
pub use self::tsdb::*;
pub use self::webhooks::*;
pub use self::workloads::*;

use self::field::{Field, from_json, from_json_reader, object};
use super::models::Model;

/// Longest part of a text line that is looked at, in bytes; the rest is passed over.
const LINE_LIMIT: usize = 64 * 1024;

/// Largest JSON document in bytes that is read whole before it is parsed, which is faster. Above
/// it memory counts for more: as many large buffers as there are threads would not be given back.
const WHOLE: u64 = 1024 * 1024;

/// A type that files of the archive are parsed into.
pub trait Document: Sized + Send + 'static {
    /// Parses one file.
    ///
    /// # Errors
    /// [`Damage`], by which the file counts as absent.
    fn read(source: Source<'_>) -> Result<Self, Damage>;

    /// Whether this document is one of the model's, where globs of several models meet.
    fn belongs(&self, _model: Model) -> bool {
        true
    }
}

/// Makes documents of types that `object!` defined.
macro_rules! json_documents {
    ($($kind:ty),* $(,)?) => {$(
        impl $crate::archive::documents::Document for $kind {
            fn read(
                source: $crate::archive::documents::Source<'_>,
            ) -> Result<Self, $crate::archive::documents::Damage> {
                source.json()
            }
        }
    )*};
}
pub(crate) use json_documents;

/// A file that is about to be parsed.
pub struct Source<'a> {
    path: &'a str,
    size: u64,
    limit: u64,
    content: Box<dyn Read + 'a>,
}

/// Why a file counts as absent.
#[derive(Debug, Error)]
pub enum Damage {
    /// Not JSON, cut, or nested too deep.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// The top level is `null`, a list or an object where the other is expected.
    #[error("another type at the top level")]
    Shape,
    /// It would take more memory than is left for the documents of its archive.
    #[error("takes more memory than documents may")]
    Memory,
    /// A text without content, or not the text expected.
    #[error("no usable text")]
    Text,
    /// Larger than a document may be.
    #[error("{size} bytes, over the limit of {limit}")]
    Size {
        /// Size of the file in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Our own file system failed: not the archive's fault.
    #[error("cannot be read back")]
    Host(#[source] std::io::Error),
}

impl Damage {
    /// Reading is tolerant of every type, so an error about data is the one about room.
    pub(super) fn of_json(error: serde_json::Error) -> Damage {
        match error.classify() {
            Category::Data => Damage::Memory,
            _ => Damage::Json(error),
        }
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a str, size: u64, limit: u64, content: Box<dyn Read + 'a>) -> Self {
        Source {
            path,
            size,
            limit,
            content,
        }
    }

    /// The file's name in the archive.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The whole file, if it is no larger than a document may be.
    ///
    /// # Errors
    /// Size and host.
    pub fn bytes(self) -> Result<Vec<u8>, Damage> {
        let size = usize::try_from(self.size).unwrap_or(0);
        let mut content = self.whole()?;
        let mut bytes = Vec::with_capacity(size);
        content.read_to_end(&mut bytes).map_err(Damage::Host)?;
        Ok(bytes)
    }

    /// The content of a file that is no larger than a document may be.
    fn whole(self) -> Result<impl Read + 'a, Damage> {
        let Source { size, limit, .. } = self;
        if size > limit {
            return Err(Damage::Size { size, limit });
        }
        Ok(self.content.take(limit))
    }

    /// A JSON document.
    ///
    /// # Errors
    /// Any damage.
    pub fn json<T: Field>(self) -> Result<T, Damage> {
        if self.size <= WHOLE {
            return from_json(&self.bytes()?)
                .map_err(Damage::of_json)?
                .ok_or(Damage::Shape);
        }
        from_json_reader(BufReader::new(self.whole()?))
            .map_err(|error| match error.is_io() {
                true => Damage::Host(error.into()),
                false => Damage::of_json(error),
            })?
            .ok_or(Damage::Shape)
    }

    /// A text; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// Size and host; an empty file.
    pub fn text(self) -> Result<String, Damage> {
        let bytes = self.bytes()?;
        if bytes.is_empty() {
            return Err(Damage::Text);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// At most the first `length` bytes, however large the file is.
    ///
    /// # Errors
    /// Host.
    pub fn head(self, length: u64) -> Result<Vec<u8>, Damage> {
        let mut bytes = Vec::new();
        self.content
            .take(length)
            .read_to_end(&mut bytes)
            .map_err(Damage::Host)?;
        Ok(bytes)
    }

    /// Hands out line by line, without the line end, whatever the size of the file. Lines are
    /// cut at 64 KiB, and what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// Host; an empty file; what `each` says.
    pub fn lines(self, mut each: impl FnMut(&str) -> Result<(), Damage>) -> Result<(), Damage> {
        let mut content = BufReader::with_capacity(LINE_LIMIT, self.content);
        let mut line = Vec::new();
        let mut empty = true;
        loop {
            let available = content.fill_buf().map_err(Damage::Host)?;
            let (part, ended) = match available.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&available[..end], true),
                None => (available, false),
            };
            if available.is_empty() {
                if !line.is_empty() {
                    each(&String::from_utf8_lossy(&line))?;
                }
                return if empty { Err(Damage::Text) } else { Ok(()) };
            }
            empty = false;
            line.extend_from_slice(&part[..part.len().min(LINE_LIMIT - line.len())]);
            let used = part.len() + usize::from(ended);
            content.consume(used);
            if ended {
                let text = String::from_utf8_lossy(&line);
                each(text.strip_suffix('\r').unwrap_or(&text))?;
                line.clear();
            }
        }
    }
}

/// A document and the name of its file.
#[derive(Debug)]
pub struct Found<'a, T> {
    path: &'a str,
    document: &'a T,
}

impl<'a, T> Found<'a, T> {
    pub(super) fn new(path: &'a str, document: &'a T) -> Found<'a, T> {
        Found { path, document }
    }

    /// The file's name in the archive, `/` between its parts.
    pub fn path(self) -> &'a str {
        self.path
    }

    /// The document, for as long as the archive lives.
    pub fn document(self) -> &'a T {
        self.document
    }

    /// The last part of the file's name, without `.json`.
    pub fn stem(self) -> &'a str {
        let last = self.path.rsplit('/').next().unwrap_or(self.path);
        last.strip_suffix(".json").unwrap_or(last)
    }

    /// The namespace by the file's folder.
    pub fn folder(self) -> &'a str {
        let mut parts = self.path.split('/');
        // Below `namespaces/` folders of kinds and owners follow; elsewhere it is the last one.
        match parts.by_ref().find(|part| *part == "namespaces") {
            Some(_) => parts.next().unwrap_or(""),
            None => self.path.rsplit('/').nth(1).unwrap_or(""),
        }
    }
}

impl<T> Clone for Found<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Found<'_, T> {}

impl<T> Deref for Found<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.document
    }
}

/// A document with Kubernetes' `metadata`.
pub trait Object {
    /// Its `metadata`.
    fn metadata(&self) -> &Metadata;
}

impl<'a, T: Object> Found<'a, T> {
    /// `metadata.name`, or the file's name where there is none.
    pub fn name(self) -> &'a str {
        match self.document.metadata().name.as_str() {
            "" => self.stem(),
            name => name,
        }
    }

    /// `metadata.namespace`, or the folder where there is none.
    pub fn namespace(self) -> &'a str {
        match self.document.metadata().namespace.as_str() {
            "" => self.folder(),
            namespace => namespace,
        }
    }
}

/// A document of a model whose fields no rule reads yet: all that is known is that it is there.
#[derive(Debug)]
pub struct Unread;

impl Document for Unread {
    fn read(_: Source<'_>) -> Result<Unread, Damage> {
        Ok(Unread)
    }
}

/// Any JSON object, for fields where only presence counts.
pub type AnyObject = std::collections::BTreeMap<String, serde_json::Value>;

/// Labels and annotations.
pub type Labels = std::collections::BTreeMap<String, String>;

object! {
    /// What of `metadata` is read.
    pub struct Metadata {
        /// Name, empty when absent.
        pub name: String = "name",
        /// Namespace, empty when absent.
        pub namespace: String = "namespace",
        /// What it belongs to.
        pub owner_references: Vec<OwnerReference> = "ownerReferences",
        /// Path of the object in the API; gone from newer archives.
        pub self_link: Option<String> = "selfLink",
        /// Labels.
        pub labels: Labels = "labels",
        /// Annotations.
        pub annotations: Labels = "annotations",
        /// RFC 3339.
        pub creation_timestamp: String = "creationTimestamp",
        /// RFC 3339; set while the object waits to be deleted.
        pub deletion_timestamp: String = "deletionTimestamp",
    }

    /// An object to which another belongs.
    pub struct OwnerReference {
        /// Such as `Job`.
        pub kind: String = "kind",
        /// Its name, in the same namespace.
        pub name: String = "name",
    }

    /// A condition in `status.conditions`. Texts are empty when absent.
    pub struct Condition {
        /// `Available`, `Degraded` and so on.
        pub kind: String = "type",
        /// `True`, `False` or `Unknown`.
        pub status: String = "status",
        /// One word.
        pub reason: String = "reason",
        /// A sentence.
        pub message: String = "message",
        /// RFC 3339.
        pub last_transition_time: Option<String> = "lastTransitionTime",
        /// RFC 3339; only some kinds of objects have it.
        pub last_heartbeat_time: Option<String> = "lastHeartbeatTime",
    }
}

impl Condition {
    /// `True` is true, `False` is false, anything else is not known.
    pub fn holds(&self) -> Option<bool> {
        match self.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }
}

/// Look-ups in a list of conditions.
pub trait Conditions {
    /// The condition of a type.
    fn of_type(&self, kind: &str) -> Option<&Condition>;

    /// The condition of a type when its status is `True`.
    fn when_true(&self, kind: &str) -> Option<&Condition> {
        self.of_type(kind)
            .filter(|condition| condition.holds() == Some(true))
    }

    /// The condition of a type when its status is `False`.
    fn when_false(&self, kind: &str) -> Option<&Condition> {
        self.of_type(kind)
            .filter(|condition| condition.holds() == Some(false))
    }
}

impl Conditions for Vec<Condition> {
    fn of_type(&self, kind: &str) -> Option<&Condition> {
        self.iter().find(|condition| condition.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A disk that gives so much of a file and then fails.
    struct Failing {
        text: &'static [u8],
        left: usize,
    }

    impl Read for Failing {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let length = into.len().min(self.text.len()).min(self.left);
            if length == 0 {
                return Err(io::Error::from_raw_os_error(5));
            }
            into[..length].copy_from_slice(&self.text[..length]);
            self.left -= length;
            Ok(length)
        }
    }

    /// Whatever has come of a document until then says nothing about its archive.
    #[test]
    fn p08_a_disk_that_fails_in_the_middle_of_a_document_is_at_fault_itself() {
        type Form = fn(Source<'_>) -> Result<(), Damage>;
        let json: Form = |source| source.json::<Metadata>().map(drop);
        let forms: [(Form, &'static [u8]); 5] = [
            (json, b"  "),
            (|source| source.bytes().map(drop), b"a"),
            (|source| source.text().map(drop), b"a"),
            (|source| source.lines(|_| Ok(())), b"a\n"),
            (|source| source.head(u64::MAX).map(drop), b"a"),
        ];
        for (read, text) in forms {
            for (size, left) in [
                (1000, 0),
                (1000, 500),
                (2 * WHOLE, 0),
                (2 * WHOLE, WHOLE + 1),
            ] {
                let left = usize::try_from(left).unwrap();
                let disk = Failing { text, left };
                let damage = read(Source::new("x", size, 4 * WHOLE, Box::new(disk))).unwrap_err();
                let Damage::Host(error) = damage else {
                    panic!("{size} {left}: {damage}");
                };
                assert_eq!(error.raw_os_error(), Some(5), "the cause is told");
            }
        }
    }
}
