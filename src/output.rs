//! What leaves: results and dead letters, each acknowledged by its broker.
