//! What the tests stand on: servers that they script, and clients that are not ours.

pub mod archive_builder;
pub mod archive_server;
pub mod authority;
pub mod broker;
pub mod child;
pub mod librdkafka;
pub mod member;
pub mod own_broker;
pub mod peers;
pub mod program;
pub mod raw_client;
pub mod real;
pub mod real_cluster;
pub mod secrets;
pub mod stage;
pub mod until;
