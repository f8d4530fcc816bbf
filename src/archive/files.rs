//! The documents of an extracted archive, by canonical name.
//!
//! Their bytes lie one after another in one unnamed file in the work directory. So nothing in an
//! archive chooses a path, a document costs no system call of its own, and the space is free
//! again whatever way the process ends. The index holds a name and two numbers a document.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The documents that some rule may read, sorted by name.
#[derive(Debug)]
pub struct Files {
    content: Option<File>,
    names: Vec<u8>,
    /// Sorted by name, each name once.
    index: Vec<Slot>,
    /// Bytes at the start of every stored name that are not part of it.
    prefix: usize,
}

/// Where a name and its content lie.
#[derive(Debug, Clone, Copy)]
struct Slot {
    name: usize,
    name_length: usize,
    offset: u64,
    size: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Written,
    TooLarge,
    /// A directory took its place.
    Gone,
}

/// One document.
#[derive(Debug, Clone, Copy)]
pub struct FileRef<'a> {
    files: &'a Files,
    slot: &'a Slot,
}

impl Files {
    /// The document of this canonical name.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<FileRef<'_>> {
        let name = name.as_ref();
        let at = self
            .index
            .binary_search_by(|slot| self.name(slot).cmp(name))
            .ok()?;
        self.index.get(at).map(|slot| FileRef { files: self, slot })
    }

    /// All documents, sorted by the bytes of their names.
    pub fn iter_sorted(&self) -> impl Iterator<Item = FileRef<'_>> {
        self.index.iter().map(|slot| FileRef { files: self, slot })
    }

    /// The documents whose names begin with `prefix`, sorted by the bytes of their names.
    pub fn starting_with<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = FileRef<'a>> {
        let from = self.index.partition_point(|slot| self.name(slot) < prefix);
        let rest = self.index.get(from..).unwrap_or_default();
        rest.iter()
            .take_while(move |slot| self.name(slot).starts_with(prefix))
            .map(|slot| FileRef { files: self, slot })
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn name(&self, slot: &Slot) -> &[u8] {
        name(&self.names, slot)
            .get(self.prefix..)
            .unwrap_or_default()
    }
}

impl<'a> FileRef<'a> {
    /// Canonical name, the common top directory dropped. Not always UTF-8.
    pub fn name(&self) -> &'a [u8] {
        self.files.name(self.slot)
    }

    /// Bytes that it has in the archive.
    pub fn size(&self) -> u64 {
        self.slot.size
    }

    /// Whether it is over the limit for documents: then it was not kept and cannot be read.
    pub fn is_too_large(&self) -> bool {
        self.slot.state == State::TooLarge
    }

    /// The whole content.
    ///
    /// # Errors
    ///
    /// Of kind [`io::ErrorKind::FileTooLarge`] when [`is_too_large`](Self::is_too_large);
    /// anything else is a fault of the host.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut content = self.open()?;
        let mut bytes = vec![0; usize::try_from(self.slot.size).map_err(io::Error::other)?];
        content.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A reader of the content. It has no buffer: put one around it to read in small pieces.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn open(&self) -> io::Result<Content<'a>> {
        if self.is_too_large() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let Slot { offset, size, .. } = *self.slot;
        Ok(Content {
            file: self.files.content.as_ref(),
            offset,
            left: size,
        })
    }
}

/// Reads one document. Any number of them can be open, on any thread.
#[derive(Debug)]
pub struct Content<'a> {
    file: Option<&'a File>,
    offset: u64,
    left: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(into.len());
        // Without a file nothing was written, so there is nothing left.
        let (Some(file), Some(into)) = (self.file, into.get_mut(..length)) else {
            return Ok(0);
        };
        let got = file.read_at(into, self.offset)?;
        self.offset += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

fn name<'a>(names: &'a [u8], slot: &Slot) -> &'a [u8] {
    names
        .get(slot.name..slot.name + slot.name_length)
        .unwrap_or_default()
}

const BUFFER: usize = 64 << 10;

/// Takes documents while an archive is read.
pub(super) struct Writer {
    directory: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
    /// Bytes in the file and in the buffer.
    written: u64,
    names: Vec<u8>,
    index: Vec<Slot>,
}

impl Writer {
    /// A writer that makes its file in `directory` when the first bytes come.
    pub(super) fn new(directory: &Path) -> Writer {
        Writer {
            directory: directory.to_owned(),
            file: None,
            buffer: Vec::new(),
            written: 0,
            names: Vec::new(),
            index: Vec::new(),
        }
    }

    /// Begins a document; [`write`](Self::write) then takes its content.
    pub(super) fn begin(&mut self, name: &[u8], size: u64) {
        self.push(name, size, State::Written);
    }

    /// Notes a document that is not kept for its size.
    pub(super) fn too_large(&mut self, name: &[u8], size: u64) {
        self.push(name, size, State::TooLarge);
    }

    /// Notes that the name stands for no document any more.
    pub(super) fn gone(&mut self, name: &[u8]) {
        self.push(name, 0, State::Gone);
    }

    /// Bytes of all names noted so far.
    pub(super) fn names_length(&self) -> usize {
        self.names.len()
    }

    /// Appends to the document that was begun last.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            write_all(&mut self.file, &self.directory, bytes)?;
        } else {
            self.buffer.reserve_exact(BUFFER - self.buffer.len());
            self.buffer.extend_from_slice(bytes);
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Ends writing. Of equal names the last one stays; the first `prefix` bytes of every name
    /// are dropped; then only names that `keep` wants are left.
    pub(super) fn finish(
        mut self,
        prefix: usize,
        keep: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Files> {
        self.flush()?;
        let Writer {
            file,
            mut names,
            mut index,
            ..
        } = self;
        names.shrink_to_fit();
        // Stable, so the last of equal names is the last in the archive.
        index.sort_by(|a, b| name(&names, a).cmp(name(&names, b)));
        index.dedup_by(|later, earlier| {
            let equal = name(&names, later) == name(&names, earlier);
            if equal {
                *earlier = *later;
            }
            equal
        });
        index.retain(|slot| {
            slot.state != State::Gone && name(&names, slot).get(prefix..).is_some_and(&keep)
        });
        index.shrink_to_fit();
        Ok(Files {
            content: file,
            names,
            index,
            prefix,
        })
    }

    fn push(&mut self, name: &[u8], size: u64, state: State) {
        let slot = Slot {
            name: self.names.len(),
            name_length: name.len(),
            offset: self.written,
            size,
            state,
        };
        self.names.extend_from_slice(name);
        self.index.push(slot);
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            write_all(&mut self.file, &self.directory, &self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

fn write_all(file: &mut Option<File>, directory: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;

    let file = match file {
        Some(file) => file,
        None => {
            let new = tempfile::tempfile_in(directory)?;
            new.set_permissions(Permissions::from_mode(0o600))?;
            file.insert(new)
        }
    };
    file.write_all(bytes)
}
