//! The report, byte for byte as downstream reads it.
