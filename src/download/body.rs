//! Where the bytes of an archive go while they arrive: into memory while they are few, else into
//! a file without a name, which nobody can open and no crash leaves behind.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// Largest body in bytes that is kept in memory.
pub const MEMORY_LIMIT: usize = 1024 * 1024;

/// The bytes of an archive.
#[derive(Debug)]
pub enum Body {
    /// Up to [`MEMORY_LIMIT`].
    Memory(Vec<u8>),
    /// Larger: an unnamed file in the work directory.
    File(File),
}

impl Body {
    /// An empty body for about `expected` bytes.
    pub(super) fn new(expected: u64) -> Self {
        let capacity = usize::try_from(expected)
            .map_or(0, |bytes| if bytes > MEMORY_LIMIT { 0 } else { bytes });
        Self::Memory(Vec::with_capacity(capacity))
    }

    /// Appends; moves into a file in `dir` on the way past the limit. Every error is one of this
    /// host's disk.
    pub(super) fn write(&mut self, bytes: &[u8], dir: &Path) -> io::Result<()> {
        match self {
            Self::Memory(held) if held.len() + bytes.len() <= MEMORY_LIMIT => {
                held.extend_from_slice(bytes);
                Ok(())
            }
            Self::Memory(held) => {
                let mut file = tempfile::tempfile_in(dir)?;
                file.write_all(held)?;
                file.write_all(bytes)?;
                *self = Self::File(file);
                Ok(())
            }
            Self::File(file) => file.write_all(bytes),
        }
    }

    /// Reads from the start, as often as it is called.
    pub(super) fn reader(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::Memory(bytes) => Ok(Box::new(bytes.as_slice())),
            Self::File(file) => {
                file.seek(SeekFrom::Start(0))?;
                Ok(Box::new(file))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(chunks: &[usize]) -> (Body, usize) {
        let dir = tempfile::tempdir().unwrap();
        let mut body = Body::new(0);
        let mut total = 0;
        for chunk in chunks {
            body.write(&vec![7; *chunk], dir.path()).unwrap();
            total += chunk;
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the file has no name"
        );
        (body, total)
    }

    #[test]
    fn small_in_memory_large_in_a_file() {
        for (chunks, in_memory) in [
            (vec![], true),
            (vec![MEMORY_LIMIT - 1], true),
            (vec![MEMORY_LIMIT], true),
            (vec![MEMORY_LIMIT + 1], false),
            (vec![MEMORY_LIMIT, 1, 1], false),
        ] {
            let (mut body, total) = filled(&chunks);
            assert_eq!(matches!(body, Body::Memory(_)), in_memory, "{total}");
            for _ in 0..2 {
                let mut read = Vec::new();
                body.reader().unwrap().read_to_end(&mut read).unwrap();
                assert_eq!(read.len(), total);
            }
        }
    }

    #[test]
    fn p08_a_directory_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert!(
            Body::new(0)
                .write(&vec![0; MEMORY_LIMIT + 1], &gone)
                .is_err()
        );
    }
}
