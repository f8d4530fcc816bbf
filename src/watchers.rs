//! Watchers are told what happens to records and cannot change it.
