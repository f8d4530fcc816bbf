//! An extracted archive: typed, lazy, cached access to its documents, for rules.
