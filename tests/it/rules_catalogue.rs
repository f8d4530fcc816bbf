//! Rules and models against the machine-readable catalogue, where it lies beside the repository.

use std::collections::BTreeSet;
use std::path::Path;

use ccx_data_pipeline::archive::Model;
use ccx_data_pipeline::rules::{RULES, Rule, Skip};
use serde_json::{Value, json};

fn catalogue() -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/rules/catalog.json");
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(error) => {
            println!("no catalogue at {}: {error}", path.display());
            None
        }
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect()
}

/// The model of a catalogue name.
fn model(catalogue: &Value, name: &str) -> Model {
    let component = catalogue["models"][name]["component"].as_str().unwrap();
    let found = Model::ALL
        .iter()
        .find(|model| model.spec().component == component);
    *found.unwrap_or_else(|| panic!("no model {name}"))
}

#[test]
fn models_have_the_components_and_globs_of_the_catalogue() {
    let Some(catalogue) = catalogue() else { return };
    let models = catalogue["models"].as_object().unwrap();
    assert_eq!(models.len(), Model::ALL.len());
    for (name, entry) in models {
        let spec = model(&catalogue, name).spec();
        assert_eq!(texts(&entry["globs"]), spec.now, "{name}");
        let ours = spec.globs();
        for older in texts(&entry["older_globs"]) {
            // The one pattern that is not a glob.
            let older = older.replace("{kind}-{name}", "*-*");
            assert!(ours.contains(&older.as_str()), "{name}: {older}");
        }
    }
}

#[test]
fn rules_say_what_the_catalogue_says() {
    let Some(catalogue) = catalogue() else { return };
    for rule in RULES {
        let entries = catalogue["rules"].as_array().unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry["component"] == rule.component)
            .unwrap_or_else(|| panic!("{} is not in the catalogue", rule.component));
        compare(rule, entry, &catalogue);
    }
}

fn compare(rule: &Rule, entry: &Value, catalogue: &Value) {
    let name = rule.name();
    assert_eq!(entry["name"], name);
    assert_eq!(entry["detects"], rule.detects, "{name}");
    let keys: Vec<_> = rule
        .keys
        .iter()
        .map(|key| json!({"key": key.key, "kind": key.kind.as_str(), "id": rule.id(key.key), "when": key.when}))
        .collect();
    let expected: Vec<_> = entry["responses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| json!({"key": key["key"], "kind": key["kind"], "id": key["id"], "when": key["when"]}))
        .collect();
    assert_eq!(keys, expected, "{name}");
    let profile = entry["profile"]
        .as_str()
        .unwrap()
        .replace("dvo", "workloads");
    assert_eq!(profile, rule.profile.as_str(), "{name}");
    assert_eq!(
        entry["enabled_by_default"], rule.enabled_by_default,
        "{name}"
    );
    // Where the public content has no number it is ours.
    let total_risk = &entry["content"]["total_risk"];
    if !total_risk.is_null() {
        assert_eq!(*total_risk, json!(rule.total_risk), "{name}");
    }
    assert_eq!(entry["tags"], json!(rule.tags), "{name}");
    // As text: the order of the groups counts.
    let links: serde_json::Map<_, _> = rule
        .links
        .iter()
        .map(|(group, urls)| ((*group).to_owned(), json!(urls)))
        .collect();
    assert_eq!(
        entry["links"].to_string(),
        Value::Object(links).to_string(),
        "{name}"
    );

    let models = |names: &Value| -> Vec<Model> {
        texts(names)
            .into_iter()
            .map(|name| model(catalogue, name))
            .collect()
    };
    let any: Vec<Vec<Model>> = entry["requires"]["any"]
        .as_array()
        .unwrap()
        .iter()
        .map(models)
        .collect();
    assert_eq!(
        models(&entry["requires"]["all"]),
        rule.requires.all,
        "{name}"
    );
    assert_eq!(any, rule.requires.any, "{name}");
    let read: BTreeSet<Model> = entry["reads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|read| model(catalogue, read["model"].as_str().unwrap()))
        .chain(models(&entry["requires"]["optional"]))
        .chain(models(&entry["requires"]["all"]))
        .chain(any.into_iter().flatten())
        .collect();
    let mut ours: BTreeSet<Model> = rule.requires.models().collect();
    // What a condition asks for, and the list of models leaves out.
    match name {
        "identity_provider_missing" => ours.remove(&Model::ClusterVersion),
        "vsphere_upi_machine_is_in_phase" => ours.remove(&Model::Metrics),
        _ => false,
    };
    assert_eq!(read, ours, "{name}: models read");

    if let Some(skip) = entry["skip"]["details_when_all_missing"].as_str() {
        let components =
            |models: &[Model]| models.iter().map(|model| model.spec().component).collect();
        let all_missing = Skip {
            all: components(rule.requires.all),
            any: rule
                .requires
                .any
                .iter()
                .map(|group| components(group))
                .collect(),
        };
        assert_eq!(skip, all_missing.to_string(), "{name}");
    }
}
