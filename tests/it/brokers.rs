//! The integration tests that need real brokers. `scripts/test` starts them and says where they
//! are.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests: nothing here is a library, and a failed unwrap is a failed test"
)]

#[allow(dead_code, reason = "shared with the target `it`")]
mod support;

mod brokers {
    mod cluster;
    mod delivery;
    mod fellows;
    mod flow;
    mod interop;
    mod security;
}
