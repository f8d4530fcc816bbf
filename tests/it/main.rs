//! The integration tests that need nothing but this machine: every peer is in process or a child.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::duplicate_mod,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests: nothing here is a library, and a failed unwrap is a failed test"
)]

#[allow(dead_code, reason = "shared with the target `brokers`")]
mod support;

mod analyze;
mod archive_properties;
mod breaker;
mod broker_selftest;
mod broker_versions;
mod cases;
mod cli;
mod config;
mod consumer;
mod corpora;
mod crash;
mod crash_loop;
mod download;
mod endpoint;
mod extraction;
mod faults_cluster;
mod faults_frames;
mod faults_group;
mod faults_records;
mod house;
mod input_properties;
mod inside;
mod kafka_security;
mod odd_answers;
mod pipeline;
mod process;
mod producer;
mod record_faults;
mod redrive;
mod rules_catalogue;
mod rules_mutated;
mod rules_sample;
mod secrets;
mod soak;
mod stalls;
mod static_members;
mod tracker;
