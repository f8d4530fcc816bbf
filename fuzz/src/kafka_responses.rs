//! Answers of brokers, through the door that the client has for this.

/// See `ccx_data_pipeline::kafka::fuzzing`.
pub fn run(data: &[u8]) {
    ccx_data_pipeline::kafka::fuzzing::run(data);
}
