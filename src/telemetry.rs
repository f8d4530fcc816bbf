//! Metrics, health and the thread that serves them.
