//! Text that never prints itself.
