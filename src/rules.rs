//! The registered rules.
