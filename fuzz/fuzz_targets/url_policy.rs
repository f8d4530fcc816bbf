#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ccx_data_pipeline_fuzz::url_policy::run(data));
