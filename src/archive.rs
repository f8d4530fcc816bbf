//! An extracted archive: typed, lazy, cached access to its documents, for rules.

pub mod extract;
pub mod files;
pub mod limits;
mod members;
mod names;
pub mod work_dir;
