//! Runs the registered rules over an archive.
