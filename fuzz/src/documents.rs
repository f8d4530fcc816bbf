//! Documents of any content under the names that rules read, through extraction, every rule and
//! the report.

use std::sync::LazyLock;

use ccx_data_pipeline::archive::extract::extract;
use ccx_data_pipeline::archive::{Archive, Model};
use ccx_data_pipeline::engine::{Evaluation, RuleOutcome, RuleSet, evaluate};
use ccx_data_pipeline::report;
use ccx_data_pipeline::rules::Settings;
use time::OffsetDateTime;

use super::Input;
use super::archive::LIMITS;
use super::builder::Tar;

/// Documents that most rules look at, in the state of a healthy cluster.
const BASE: &[(&str, &str)] = &[
    ("config/id", "11111111-2222-3333-4444-555555555555"),
    (
        "config/version.json",
        r#"{"spec":{"channel":"stable-4.7","clusterID":"x"},"status":{"desired":{"version":"4.7.16"},
        "conditions":[{"type":"Available","status":"True"}],
        "history":[{"state":"Completed","version":"4.7.16","completionTime":"2021-07-12T21:20:38Z"}]}}"#,
    ),
    (
        "config/infrastructure.json",
        r#"{"status":{"platform":"AWS","platformStatus":{"type":"AWS"}}}"#,
    ),
    (
        "config/node/a.json",
        r#"{"metadata":{"name":"a","labels":{"node-role.kubernetes.io/master":""}},
        "status":{"capacity":{"cpu":"4","memory":"16Gi"},"conditions":[{"type":"Ready","status":"True"}],
        "nodeInfo":{"kubeletVersion":"v1.20.0+87cc9a4"}}}"#,
    ),
];

/// An input is a row of documents: which name, how long, the bytes. The last one may take what
/// is left.
pub fn run(data: &[u8]) {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(names);
    let mut input = Input(data);
    let mut tar = Tar::new();
    let flags = input.byte();
    if flags & 1 != 0 {
        for (name, text) in BASE {
            tar = tar.file(name, text);
        }
    }
    for _ in 0..6 {
        if input.is_empty() {
            break;
        }
        let name = &NAMES[input.short() % NAMES.len()];
        let length = match input.short() {
            0 => usize::MAX,
            length => length,
        };
        tar = tar.file(name, input.bytes(length));
    }
    let tar = tar.build();
    let (report, again) = (report(&tar), report(&tar));
    assert_eq!(report, again, "the same archive has two reports");
}

/// Every name that some model reads, one for each form.
pub fn names() -> Vec<String> {
    let globs = Model::ALL.iter().flat_map(|model| model.spec().globs());
    let mut names: Vec<String> = globs
        .map(|glob| {
            glob.replace("**", "x/y")
                .replace('*', "x")
                .replace(['{', '}'], "")
        })
        .collect();
    names.push("config/id".to_owned());
    names.push("insights-operator/remote-configuration.json".to_owned());
    names.sort();
    names.dedup();
    names
}

fn report(tar: &[u8]) -> Option<String> {
    static RULES: LazyLock<RuleSet> = LazyLock::new(|| RuleSet::all(Settings::default()));
    static DIR: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("a directory for temporary files"));
    let extracted = extract(&mut &tar[..], &LIMITS, RULES.wanted(), DIR.path(), &|| None).ok()?;
    let archive = Archive::new(extracted, LIMITS.document_size);
    let time = OffsetDateTime::from_unix_timestamp(1_626_160_604).expect("a time");
    let evaluation = evaluate(&RULES, &archive, time, &|| None).expect("nothing stops it");
    let failed = failed(&evaluation);
    assert!(failed.is_empty(), "rules that failed: {failed:?}");
    archive.cluster_uuid();
    archive.remote_configuration_version();
    archive.gathering_time(time);
    let report = report::render(&evaluation, time, time);
    Some(serde_json::to_string(&report).expect("a report is JSON"))
}

fn failed(evaluation: &Evaluation) -> Vec<&'static str> {
    let failed = evaluation
        .runs
        .iter()
        .filter(|run| run.outcome == RuleOutcome::Failed);
    failed.map(|run| run.name).collect()
}
