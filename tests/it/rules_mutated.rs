//! Every rule over archives whose documents are not what the Insights Operator writes: fields
//! gone, of another type, null, huge, empty. No rule may fail on them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use ccx_data_pipeline::archive::Archive;
use ccx_data_pipeline::archive::documents::timestamp;
use ccx_data_pipeline::archive::extract::{self, Limits};
use ccx_data_pipeline::engine::{RuleOutcome, RuleSet, evaluate};
use ccx_data_pipeline::rules::Settings;
use proptest::prelude::*;
use serde_json::{Value, json};

static DOCUMENTS: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(documents);

/// Documents to start from: one that many rules read, and the sample's where it is there.
fn documents() -> BTreeMap<String, Vec<u8>> {
    let mut documents = BTreeMap::new();
    let mut put = |name: &str, text: String| documents.insert(name.to_owned(), text.into_bytes());
    let conditions = json!([{"type": "Degraded", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2021-07-12T21:20:38Z"}]);
    put(
        "config/version.json",
        json!({"spec": {"channel": "eus-4.6"}, "status": {"desired": {"version": "4.6.1"},
            "conditions": conditions, "history": [{"state": "Completed", "version": "4.6.1"}]}})
        .to_string(),
    );
    put(
        "config/clusteroperator/image-registry.json",
        json!({"kind": "ClusterOperator", "metadata": {"name": "image-registry"},
            "status": {"conditions": conditions, "versions": [{"name": "operator", "version": "1"}]}})
        .to_string(),
    );
    put(
        "config/node/a.json",
        json!({"metadata": {"name": "a", "labels": {"node-role.kubernetes.io/master": ""}},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {"capacity": {"cpu": "1", "memory": "1Ki"}, "conditions": conditions}})
        .to_string(),
    );
    put("config/metrics", "up{a=\"b\"} 1 1600000000000\n".to_owned());
    let sample =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/insights-archive-sample.tar.gz");
    if let Ok(mut body) = std::fs::File::open(sample) {
        let dir = tempfile::tempdir().unwrap();
        let rules = RuleSet::all(Settings::default());
        let wanted = rules.wanted();
        let extracted =
            extract::extract(&mut body, &Limits::default(), wanted, dir.path(), &|| None).unwrap();
        for file in extracted.files.iter_sorted() {
            let name = String::from_utf8_lossy(file.name()).into_owned();
            documents.insert(name, file.read().unwrap());
        }
    }
    documents
}

/// What takes the place of a value.
fn odd(random: &mut fastrand::Rng) -> Value {
    match random.u8(0..12) {
        0 => Value::Null,
        1 => json!([]),
        2 => json!({}),
        3 => json!(""),
        4 => json!(-1),
        5 => json!(u64::MAX),
        6 => json!(1e308),
        7 => json!(true),
        8 => json!("True"),
        9 => json!([null, [], {}, "x", 7]),
        10 => json!("9".repeat(400)),
        _ => json!("2021-13-99T99:99:99+99:99"),
    }
}

/// Changes one place below `value`: replaces it, removes it, or goes deeper.
fn mutate(value: &mut Value, random: &mut fastrand::Rng) {
    let deeper = random.u8(0..8) > 0;
    match value {
        Value::Object(fields) if deeper && !fields.is_empty() => {
            let key = fields.keys().nth(random.usize(0..fields.len())).cloned();
            let key = key.unwrap_or_default();
            if random.u8(0..6) == 0 {
                fields.remove(&key);
            } else if let Some(field) = fields.get_mut(&key) {
                mutate(field, random);
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = random.usize(0..items.len());
            mutate(&mut items[at], random);
        }
        value => *value = odd(random),
    }
}

fn mutated(bytes: &[u8], random: &mut fastrand::Rng) -> String {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(mut document) => {
            for _ in 0..random.u8(0..4) {
                mutate(&mut document, random);
            }
            document.to_string()
        }
        Err(_) => {
            // A text: a piece of it is turned into something else.
            let mut bytes = bytes.to_vec();
            for _ in 0..random.u8(0..4) {
                if !bytes.is_empty() {
                    let at = random.usize(0..bytes.len());
                    bytes[at] = random.u8(0..128);
                }
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_rule_fails_on_any_document(seed: u64) {
        let random = &mut fastrand::Rng::with_seed(seed);
        let mut files = Vec::new();
        for (name, bytes) in DOCUMENTS.iter() {
            if random.u8(0..20) > 0 {
                files.push((name.clone(), mutated(bytes, random)));
            }
        }
        let archive = Archive::from_files(files.iter().map(|(n, t)| (n.as_str(), t.as_str())));
        let rules = RuleSet::all(Settings::default());
        let time = timestamp::parse("2021-07-13T07:16:44Z").unwrap();
        let evaluation = evaluate(&rules, &archive, time, &|| None).unwrap();
        let failed: Vec<_> = evaluation
            .runs
            .iter()
            .filter(|run| run.outcome == RuleOutcome::Failed)
            .map(|run| run.name)
            .collect();
        prop_assert!(failed.is_empty(), "{:?}", failed);
    }
}
