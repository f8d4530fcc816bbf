//! Metrics, health and the thread that serves them.

pub mod health;
pub mod metrics;
pub mod server;
