//! What the fuzz targets do with their input: one module and one function, `run`, for each.
//!
//! The same files are part of the integration tests, which run them over the committed corpora
//! (`tests/it/corpora.rs`). A target panics where something is found; nothing else is a verdict.

pub mod archive;
#[path = "../../tests/it/support/archive_builder.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod builder;
pub mod documents;
pub mod ingress;
#[cfg(fuzzing)]
pub mod kafka_responses;
pub mod tar_blocks;
pub mod url_policy;

/// Takes an input apart, byte by byte. What is missing at its end is zero or empty.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// One of the values below `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// Two bytes, low one first.
    pub(crate) fn short(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    /// Up to `length` bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes behind a length of one byte.
    pub(crate) fn counted(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.bytes(length)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
