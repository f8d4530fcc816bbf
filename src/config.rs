//! Configuration: every key, its default, its unit and its checks.
