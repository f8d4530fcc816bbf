//! What one archive costs, stage by stage: `cargo bench --bench archive -- ARCHIVE.tar.gz`.
//!
//! Prints the median of many rounds, in microseconds of wall time on one thread. The second
//! evaluation finds every document parsed, so it is the rules alone; the first less the second is
//! reading and parsing.

use std::time::{Duration, Instant};

use ccx_data_pipeline::archive::Archive;
use ccx_data_pipeline::archive::extract::{self, Limits};
use ccx_data_pipeline::engine::{RuleSet, evaluate};
use ccx_data_pipeline::report::render;
use ccx_data_pipeline::rules::Settings;
use time::OffsetDateTime;

const ROUNDS: usize = 200;

fn main() {
    // Cargo itself passes `--bench`.
    let Some(path) = std::env::args().skip(1).find(|a| !a.starts_with('-')) else {
        eprintln!("usage: cargo bench --bench archive -- ARCHIVE.tar.gz");
        return;
    };
    let body = match std::fs::read(&path) {
        Ok(body) => body,
        Err(error) => return eprintln!("{path}: {error}"),
    };
    let rules = RuleSet::all(Settings::default());
    let mut stages: [(&str, Vec<Duration>); 4] =
        ["extract", "parse and rules", "rules alone", "render"].map(|name| (name, Vec::new()));
    for _ in 0..ROUNDS {
        let times = match round(&body, &rules) {
            Ok(times) => times,
            Err(error) => return eprintln!("{path}: {error}"),
        };
        for ((_, all), time) in stages.iter_mut().zip(times) {
            all.push(time);
        }
    }
    for (name, mut times) in stages {
        times.sort();
        eprintln!("{name:<16}{:>8} us", times[ROUNDS / 2].as_micros());
    }
}

fn round(body: &[u8], rules: &RuleSet) -> Result<[Duration; 4], Box<dyn std::error::Error>> {
    let limits = Limits::default();
    let directory = tempfile::tempdir()?;
    let mut laps = [Instant::now(); 5];
    let mut reader = body;
    let extracted = extract::extract(
        &mut reader,
        &limits,
        rules.wanted(),
        directory.path(),
        &|| None,
    )?;
    laps[1] = Instant::now();
    let archive = Archive::new(extracted, limits.document_size);
    let now = OffsetDateTime::now_utc();
    evaluate(rules, &archive, now, &|| None)?;
    laps[2] = Instant::now();
    let evaluation = evaluate(rules, &archive, now, &|| None)?;
    laps[3] = Instant::now();
    serde_json::to_vec(&render(&evaluation, now, now))?;
    laps[4] = Instant::now();
    Ok(std::array::from_fn(|at| laps[at + 1] - laps[at]))
}
