//! All rules over the real sample archive, where it lies beside the repository.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use ccx_data_pipeline::archive::Archive;
use ccx_data_pipeline::archive::documents::timestamp;
use ccx_data_pipeline::archive::extract::{self, Limits};
use ccx_data_pipeline::engine::{RuleOutcome, RuleSet, evaluate};
use ccx_data_pipeline::report::render;
use ccx_data_pipeline::rules::Settings;
use serde_json::{Value, json};

/// The newest heartbeat of the sample's nodes.
const REFERENCE_TIME: &str = "2021-07-13T07:16:44Z";

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared")
        .join(path);
    if path.exists() {
        return Some(path);
    }
    println!("nothing at {}: not tested", path.display());
    None
}

/// Extracts the sample anew and reports on it.
fn report(sample: &Path) -> (Vec<(&'static str, RuleOutcome)>, String) {
    let rules = RuleSet::all(Settings::default());
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits::default();
    let mut body = File::open(sample).unwrap();
    let extracted =
        extract::extract(&mut body, &limits, rules.wanted(), dir.path(), &|| None).unwrap();
    let files = extracted.files.len() as u64;
    let archive = Archive::new(extracted, limits.document_size);
    let time = timestamp::parse(REFERENCE_TIME).unwrap();
    let evaluation = evaluate(&rules, &archive, time, &|| None).unwrap();
    assert_eq!(archive.damaged(), 0);
    assert!(
        archive.reads() <= files,
        "{} reads of {files} files",
        archive.reads()
    );
    let outcomes = evaluation
        .runs
        .iter()
        .map(|run| (run.name, run.outcome))
        .collect();
    let report = render(&evaluation, time, time);
    (outcomes, serde_json::to_string(&report).unwrap())
}

#[test]
fn the_sample_gives_the_expected_outcomes_and_the_same_bytes() {
    let Some(sample) = shared("data/insights-archive-sample.tar.gz") else {
        return;
    };
    let (outcomes, text) = report(&sample);
    assert_eq!(report(&sample).1, text);
    let report: Value = serde_json::from_str(&text).unwrap();
    let Some(catalogue) = shared("rules/catalog.json") else {
        return;
    };
    let catalogue: Value = serde_json::from_slice(&std::fs::read(catalogue).unwrap()).unwrap();

    let entries: BTreeMap<&str, &Value> = catalogue["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap(), entry))
        .collect();
    for (name, outcome) in outcomes {
        let expected = &entries[name]["expected_on_sample"];
        let word = match outcome {
            RuleOutcome::Hit | RuleOutcome::Recommendation => "hit",
            RuleOutcome::NoHit => "no hit",
            RuleOutcome::Pass => "pass (internal profile), no hit",
            RuleOutcome::Info => "info",
            RuleOutcome::Skip => "skip",
            RuleOutcome::Failed => "failed",
        };
        let expected_word = expected["outcome"].as_str().unwrap();
        assert!(
            expected_word.starts_with(word) || word.starts_with(expected_word),
            "{name}: {word}, not {expected_word}"
        );
        let list = match outcome {
            RuleOutcome::Hit => "reports",
            RuleOutcome::Info => "info",
            RuleOutcome::Recommendation => "workload_recommendations",
            _ => continue,
        };
        let element = report[list]
            .as_array()
            .unwrap()
            .iter()
            .find(|element| element["component"] == entries[name]["component"])
            .unwrap_or_else(|| panic!("{name} is not among {list}"));
        if outcome == RuleOutcome::Recommendation {
            let workloads = element["workloads"].as_array().unwrap().len();
            assert_eq!(expected["details"]["workloads"], workloads, "{name}");
            continue;
        }
        // The catalogue gives the fields that a reader would look at first.
        if let Some(fields) = expected["details"].as_object() {
            for (field, value) in fields {
                let told = &element["details"][field];
                // Of some lists of objects it gives the names.
                let names: Option<Value> = told
                    .as_array()
                    .map(|list| list.iter().map(|entry| entry["name"].clone()).collect());
                assert!(
                    told == value || names.as_ref() == Some(value),
                    "{name}: {field} is {told}, not {value}"
                );
            }
        }
    }
}

#[test]
fn the_report_is_in_order() {
    let Some(sample) = shared("data/insights-archive-sample.tar.gz") else {
        return;
    };
    let report: Value = serde_json::from_str(&report(&sample).1).unwrap();
    let keys: Vec<_> = report.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "system",
            "reports",
            "fingerprints",
            "skips",
            "info",
            "pass",
            "analysis_metadata",
            "workload_recommendations"
        ]
    );
    for list in ["reports", "info", "pass", "workload_recommendations"] {
        let order: Vec<_> = report[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|element| (element["component"].to_string(), element["key"].to_string()))
            .collect();
        assert!(order.is_sorted(), "{list}: {order:?}");
    }
    let skipped: Vec<_> = report["skips"]
        .as_array()
        .unwrap()
        .iter()
        .map(|skip| skip["rule_fqdn"].to_string())
        .collect();
    assert!(skipped.is_sorted());
    let values = |info: &Value| {
        info["details"]
            .as_object()
            .unwrap()
            .values()
            .all(Value::is_string)
    };
    // Entries of the internal profile never reach the aggregator, which wants only strings.
    let is_external = |info: &&Value| !info["component"].as_str().unwrap().contains(".internal.");
    let infos = report["info"].as_array().unwrap().iter();
    assert!(infos.filter(is_external).all(values));
    assert_eq!(report["system"], json!({"metadata": {}, "hostname": null}));
}
