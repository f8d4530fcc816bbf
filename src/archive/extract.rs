//! Reads an archive to its end, under limits, and keeps the documents that somebody wants.
//!
//! Takes gzip in any number of members, or plain tar. Nothing is handed out before the last
//! checksum was right. Only regular files are kept, and only those whose names are wanted; links,
//! devices and the like are counted and left. No byte of an archive chooses where something is
//! written, how much memory is taken, or how deep a call goes.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::archive::files::Writer;
use crate::archive::limits::{CappedReader, MAX_KEPT_NAMES};
use crate::archive::members::{Kind, Members};
use crate::archive::names::{self, Place, Role, Seen, Top};
use crate::error::Reason;

pub use crate::archive::files::Files;
pub use crate::archive::limits::{Interrupt, Limits};
pub use crate::archive::members::Fault;
pub use crate::archive::names::Danger;

/// The name of the member whose content is the cluster id and whose time is that of gathering.
const CONFIG_ID: &[u8] = b"config/id";

/// The names that somebody will ask for.
#[derive(Debug, Clone)]
pub struct Wanted {
    all: GlobSet,
    text: GlobSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    No,
    /// Bounded by [`Limits::document_size`].
    Document,
    /// Read line by line, so of any size.
    Text,
}

impl Wanted {
    /// Takes globs over canonical names, in which `*` does not cross a slash, and whether what
    /// they name is read line by line and so may be over [`Limits::document_size`]. A glob of a
    /// document stands for the name with and without `.json`. `config/id` is always wanted.
    ///
    /// # Errors
    ///
    /// A glob that is none.
    pub fn new(patterns: &[(&str, bool)]) -> Result<Wanted, globset::Error> {
        let mut all = GlobSetBuilder::new();
        let mut text = GlobSetBuilder::new();
        for (pattern, is_text) in patterns.iter().chain(&[("config/id", false)]) {
            let glob = |pattern: &str| GlobBuilder::new(pattern).literal_separator(true).build();
            all.add(glob(pattern)?);
            if *is_text {
                text.add(glob(pattern)?);
            } else {
                match pattern.strip_suffix(".json") {
                    Some(bare) => all.add(glob(bare)?),
                    None => all.add(glob(&format!("{pattern}.json"))?),
                };
            }
        }
        Ok(Wanted {
            all: all.build()?,
            text: text.build()?,
        })
    }

    /// Whether this canonical name is wanted.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.want(name) != Want::No
    }

    fn want(&self, name: &[u8]) -> Want {
        let candidate = Candidate::from_bytes(name);
        if !self.all.is_match_candidate(&candidate) {
            Want::No
        } else if self.text.is_match_candidate(&candidate) {
            Want::Text
        } else {
            Want::Document
        }
    }
}

/// Members that were counted and left, by kind; and names that were made relative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IgnoredMembers {
    /// Symbolic and hard links.
    pub links: u64,
    /// Character and block devices.
    pub devices: u64,
    /// FIFOs.
    pub fifos: u64,
    /// Sparse files in a PAX form.
    pub sparse: u64,
    /// Anything else that is neither file nor directory, and files without a name.
    pub other: u64,
    /// Not ignored: members of any kind whose leading slashes were dropped.
    pub absolute: u64,
}

impl IgnoredMembers {
    /// The words for kinds.
    pub const KINDS: [&'static str; 6] = ["link", "device", "fifo", "sparse", "other", "absolute"];

    /// The counts, each with its word.
    pub fn by_kind(&self) -> [(&'static str, u64); 6] {
        let counts = [
            self.links,
            self.devices,
            self.fifos,
            self.sparse,
            self.other,
            self.absolute,
        ];
        std::array::from_fn(|at| (Self::KINDS[at], counts[at]))
    }
}

/// An archive that was read to its end.
#[derive(Debug)]
pub struct Extracted {
    /// The wanted documents.
    pub files: Files,
    /// Members of every kind.
    pub entries: u64,
    /// Bytes of the inflated stream.
    pub bytes: u64,
    /// What was left out.
    pub ignored: IgnoredMembers,
    /// Modification time of `config/id`, in seconds since 1970.
    pub config_id_mtime: Option<u64>,
}

/// Why an archive was not extracted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No byte, or no member.
    #[error("the archive is empty")]
    Empty,
    /// The first bytes are neither those of gzip nor of tar.
    #[error("the body is not an archive")]
    NotAnArchive,
    /// A container of another kind.
    #[error("a container of kind {container} is not read")]
    Unsupported {
        /// Its usual name.
        container: &'static str,
    },
    /// The gzip stream is damaged.
    #[error("the gzip stream is damaged")]
    Gzip(#[source] flate2::DecompressError),
    /// The body ends before the gzip stream or the last member does.
    #[error("the archive is cut short")]
    Cut,
    /// Something other than padding follows the last gzip member.
    #[error("bytes that are not gzip follow the last gzip member")]
    TrailingBytes,
    /// A header of the tar stream is damaged or contradictory.
    #[error("member {member}: {fault}")]
    Corrupt {
        /// Which member, from 1.
        member: u64,
        /// What is wrong with it.
        fault: Fault,
    },
    /// More than [`Limits::unpacked_size`].
    #[error("inflates to more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// More than [`Limits::ratio`].
    #[error("inflates to more than {limit} times its size")]
    Ratio {
        /// The limit.
        limit: u64,
    },
    /// More than [`Limits::entries`].
    #[error("has more than {limit} members")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// The names of wanted documents fill more than the memory for them.
    #[error("the names of its documents fill more than {limit} bytes")]
    TooManyNames {
        /// The limit in bytes.
        limit: usize,
    },
    /// A name that is out of bounds or leads out of the archive.
    #[error("member {member}: its name {danger}: {name}")]
    Unsafe {
        /// Which member, from 1.
        member: u64,
        /// What is wrong with it.
        danger: Danger,
        /// The name, escaped and cut for people.
        name: ShownName,
    },
    /// Somebody asked to stop.
    #[error("extraction was interrupted")]
    Interrupted(Interrupt),
    /// The body itself could not be read.
    #[error("the downloaded archive cannot be read")]
    Read(#[source] io::Error),
    /// The work directory could not be written.
    #[error("the work directory cannot be written")]
    Host(#[source] io::Error),
}

impl Error {
    /// What this is called; `None` where it says nothing about the archive: a fault of our own
    /// host, or work that nobody waits for any more.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Error::Empty => Some(Reason::ArchiveEmpty),
            Error::NotAnArchive => Some(Reason::NotAnArchive),
            Error::Unsupported { .. } => Some(Reason::UnsupportedContainer),
            Error::Gzip(_) | Error::Cut | Error::TrailingBytes | Error::Corrupt { .. } => {
                Some(Reason::ArchiveCorrupt)
            }
            Error::TooLarge { .. } => Some(Reason::ArchiveTooLarge),
            Error::Ratio { .. } => Some(Reason::ArchiveRatio),
            Error::TooManyEntries { .. } | Error::TooManyNames { .. } => {
                Some(Reason::ArchiveEntries)
            }
            Error::Unsafe { .. } => Some(Reason::ArchiveUnsafe),
            Error::Interrupted(Interrupt::Deadline) => Some(Reason::Timeout),
            Error::Interrupted(Interrupt::Cancelled) => None,
            Error::Read(_) | Error::Host(_) => None,
        }
    }

    /// Whether our own host is at fault, so that the same archive may be extracted later.
    pub fn is_host_fault(&self) -> bool {
        // The body has arrived whole, so what it cannot be read from is a disk of ours.
        matches!(self, Error::Read(_) | Error::Host(_))
    }
}

/// A name of an archive in a form that is safe to print: escaped, and its end cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownName(String);

impl ShownName {
    /// Longest piece of a name that is shown, in bytes of the name.
    const BYTES: usize = 64;

    fn new(name: &[u8]) -> ShownName {
        let (start, more) = match name.get(..Self::BYTES) {
            Some(start) if name.len() > Self::BYTES => (start, "..."),
            _ => (name, ""),
        };
        ShownName(format!("{}{more}", start.escape_ascii()))
    }
}

impl fmt::Display for ShownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the archive in `body` to its end and keeps its `wanted` documents in an unnamed file
/// in `dir`. `interrupted` is asked at least once for every 128 KiB of work.
///
/// # Errors
///
/// See [`Error`]; nothing is left in `dir` then.
pub fn extract(
    body: &mut dyn Read,
    limits: &Limits,
    wanted: &Wanted,
    dir: &Path,
    interrupted: &dyn Fn() -> Option<Interrupt>,
) -> Result<Extracted, Error> {
    let stream = CappedReader::open(body, limits, interrupted)?;
    let mut members = Members::new(stream);
    let mut writer = Writer::new(dir);
    let mut ignored = IgnoredMembers::default();
    let mut seen = Seen::default();
    let mut top = Top::default();
    let mut name = Vec::new();
    // Of `config/id` as the archive spells it, and of the one below the common directory.
    let mut mtimes = [None, None];

    while let Some(member) = members.next()? {
        let number = members.count();
        if number > limits.entries {
            return Err(Error::TooManyEntries {
                limit: limits.entries,
            });
        }
        if member.kind == Kind::Label {
            // It names the archive: nothing lies there or below.
            ignored.other += 1;
            continue;
        }
        let refused = |danger, name: &[u8]| Error::Unsafe {
            member: number,
            danger,
            name: ShownName::new(name),
        };
        let raw = members.name();
        ignored.absolute += u64::from(raw.starts_with(b"/"));
        names::canonicalise(raw, &mut name).map_err(|danger| refused(danger, raw))?;
        match seen.place(&name) {
            Place::Free => {}
            Place::ThroughLink => return Err(refused(Danger::ThroughLink, raw)),
            Place::BelowFile => {
                return Err(Error::Corrupt {
                    member: number,
                    fault: Fault::BelowFile,
                });
            }
        }
        let (role, counter) = match member.kind {
            Kind::File if name.is_empty() => (Role::File, Some(&mut ignored.other)),
            Kind::File => (Role::File, None),
            Kind::Directory => (Role::Directory, None),
            Kind::Listing => (Role::Directory, Some(&mut ignored.other)),
            Kind::Link => (Role::Link, Some(&mut ignored.links)),
            Kind::Device => (Role::File, Some(&mut ignored.devices)),
            Kind::Fifo => (Role::File, Some(&mut ignored.fifos)),
            Kind::PaxSparse => (Role::File, Some(&mut ignored.sparse)),
            Kind::Other | Kind::Label => (Role::File, Some(&mut ignored.other)),
        };
        let is_ignored = counter.is_some();
        if let Some(counter) = counter {
            *counter += 1;
        }
        if name.is_empty() {
            continue;
        }
        seen.add(&name, role);
        // Whether the common directory will be dropped is known at the end only: until then a
        // member is kept when either form of its name is wanted.
        let below = top.add(&name, role);
        if is_ignored {
            continue;
        }
        let want = match (wanted.want(&name), below) {
            (Want::No, Some(below)) => wanted.want(below),
            (want, _) => want,
        };
        if want == Want::No {
            continue;
        }
        if writer.names_length() + name.len() > MAX_KEPT_NAMES {
            return Err(Error::TooManyNames {
                limit: MAX_KEPT_NAMES,
            });
        }
        if role == Role::Directory {
            writer.gone(&name);
            continue;
        }
        for (mtime, form) in mtimes.iter_mut().zip([Some(name.as_slice()), below]) {
            if form == Some(CONFIG_ID) {
                *mtime = member.mtime;
            }
        }
        if want == Want::Document && member.size > limits.document_size {
            writer.too_large(&name, member.size);
            continue;
        }
        writer.begin(&name, member.size);
        while let Some(chunk) = members.chunk()? {
            writer.write(chunk).map_err(Error::Host)?;
        }
    }
    let entries = members.count();
    let bytes = members.finish()?;
    if entries == 0 {
        return Err(Error::Empty);
    }
    let prefix = top.prefix();
    let files = writer
        .finish(prefix, |name| wanted.contains(name))
        .map_err(Error::Host)?;
    let [as_is, below] = mtimes;
    let mtime = if prefix == 0 { as_is } else { below };
    let config_id_mtime = mtime.filter(|_| files.get(CONFIG_ID).is_some());
    Ok(Extracted {
        files,
        entries,
        bytes,
        ignored,
        config_id_mtime,
    })
}
