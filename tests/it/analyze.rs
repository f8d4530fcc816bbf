//! `analyze` and `rules` of the built program.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::program::{Finished, Program};

const CLUSTER: &str = "b0c2d108-0603-41c3-9a8f-0a37eba5df49";
/// 2021-07-13T00:00:00Z, when the archives of these tests were gathered.
const GATHERED: u64 = 1_626_134_400;
const TIME: &str = "2021-07-13T07:16:44Z";

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(GATHERED);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let mut gzip = tar.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

/// A cluster with a paused pool.
fn paused() -> Vec<u8> {
    archive(&[
        ("config/id", CLUSTER),
        (
            "config/version.json",
            r#"{"status": {"desired": {"version": "4.7.16"}}}"#,
        ),
        (
            "config/machineconfigpools/worker.json",
            r#"{"metadata": {"name": "worker"}, "spec": {"paused": true}}"#,
        ),
    ])
}

fn lines(finished: &Finished) -> Vec<Value> {
    finished
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn left_behind(finished: &Finished) -> Vec<PathBuf> {
    let entries = finished.dir.path().join("tmp").read_dir().unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn keys(report: &Value, list: &str) -> Vec<String> {
    let list = report["Report"][list].as_array().unwrap();
    list.iter()
        .map(|element| element["key"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn each_archive_is_a_line_in_order_and_nothing_stays_behind() {
    let arguments = [
        "analyze",
        "--format",
        "json",
        "--reference-time",
        TIME,
        "b.tar.gz",
        "many",
        "-",
    ];
    let program = Program::new(arguments)
        .file("b.tar.gz", &paused())
        .input(&archive(&[("config/nothing", "")]));
    std::fs::create_dir(program.dir().join("many")).unwrap();
    let program = program
        .file("many/2.tar.gz", &paused())
        .file("many/1.tar", &paused())
        .file("many/10.tar.gz", &paused());
    let finished = program.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let lines = lines(&finished);
    let paths: Vec<_> = lines
        .iter()
        .map(|line| line["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "b.tar.gz",
            "many/1.tar",
            "many/10.tar.gz",
            "many/2.tar.gz",
            "-"
        ]
    );
    let clusters: Vec<_> = lines
        .iter()
        .map(|line| line["ClusterName"].as_str())
        .collect();
    assert_eq!(
        clusters,
        [
            Some(CLUSTER),
            Some(CLUSTER),
            Some(CLUSTER),
            Some(CLUSTER),
            None
        ]
    );
    assert_eq!(keys(&lines[0], "reports"), ["MCP_SET_TO_PAUSE"]);
    assert_eq!(
        keys(&lines[0], "info"),
        ["GRAFANA_LINK", "CLUSTER_VERSION_INFO"]
    );
    assert_eq!(lines[0]["Report"], lines[1]["Report"]);
    let metadata = &lines[0]["Report"]["analysis_metadata"];
    assert_eq!(metadata["start"], "2021-07-13T07:16:44.000000+00:00");
    assert_eq!(metadata["start"], metadata["finish"]);
    let keys: Vec<_> = lines[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["path", "ClusterName", "Report"]);
    assert_eq!(left_behind(&finished), [""; 0].map(PathBuf::from));
}

#[test]
fn a_refused_archive_is_one_line_with_its_reason_and_the_others_go_on() {
    let good = paused();
    let finished = Program::new(["analyze", "--format", "json", "html", "cut", "none", "good"])
        .file("html", b"<html>not found</html>")
        .file("cut", &good[..good.len() - 9])
        .file("good", &good)
        .finish();
    assert_eq!(finished.code(), 1);
    assert_eq!(lines(&finished).len(), 1);
    let told: Vec<_> = finished.stderr.lines().collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].contains("html: not_an_archive: "), "{}", told[0]);
    assert!(told[1].contains("cut: archive_corrupt: "), "{}", told[1]);
    assert!(told[2].contains("none: "), "{}", told[2]);
    assert!(left_behind(&finished).is_empty());
}

#[test]
fn all_rules_run_whatever_their_default() {
    let run = |arguments: &[&str]| {
        let arguments = [&["analyze", "--format", "json"], arguments, &["a"]].concat();
        lines(&Program::new(arguments).file("a", &paused()).finish()).remove(0)
    };
    assert!(!keys(&run(&[]), "reports").contains(&"TUTORIAL_ERROR".to_owned()));
    assert!(keys(&run(&["--all-rules"]), "reports").contains(&"TUTORIAL_ERROR".to_owned()));
}

#[test]
fn the_configuration_chooses_rules_and_limits() {
    let chosen = Program::new(["analyze", "--format", "json", "--config", "c.toml", "a"])
        .file(
            "c.toml",
            b"[engine.rules]\nenable = ['tutorial_rule']\ndisable = ['mcp_set_to_pause']\n",
        )
        .file("a", &paused())
        .finish();
    assert_eq!(keys(&lines(&chosen)[0], "reports"), ["TUTORIAL_ERROR"]);

    let limited = Program::new(["analyze", "--config", "c.toml", "a"])
        .file("c.toml", b"[engine]\nmax_entries = 2\n")
        .file("a", &paused())
        .finish();
    assert_eq!(limited.code(), 1);
    assert!(
        limited.stderr.contains("a: archive_entries: "),
        "{}",
        limited.stderr
    );

    let unknown = Program::new(["analyze", "--config", "c.toml", "a"])
        .file("c.toml", b"[engine.rules]\nenable = ['no_such_rule']\n")
        .file("a", &paused())
        .finish();
    assert_eq!(unknown.code(), 78);
    assert!(
        unknown.stderr.contains("no_such_rule"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn text_tells_hits_first_within_eighty_columns_and_without_colour() {
    let finished = Program::new(["analyze", "--all-rules", "a.tar.gz"])
        .file("a.tar.gz", &paused())
        .finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let text = &finished.stdout;
    assert!(
        text.starts_with(&format!("a.tar.gz\n  cluster {CLUSTER}, version 4.7.16\n")),
        "{text}"
    );
    let [hit, summary, skipped] = ["] mcp_set_to_pause\n", "hits by", "skipped: "].map(|part| {
        text.find(part)
            .unwrap_or_else(|| panic!("no {part:?} in {text}"))
    });
    assert!(hit < summary && summary < skipped, "{text}");
    assert!(
        text.contains("    https://access.redhat.com/solutions/5317441\n"),
        "{text}"
    );
    assert!(
        text.contains("    These machine config pools are paused: worker\n"),
        "{text}"
    );
    assert!(!text.contains('\x1b'));
    for line in text.lines() {
        assert!(
            line.len() <= 80 || line.split_whitespace().count() == 1,
            "{line}"
        );
    }
}

#[test]
fn a_damaged_document_costs_its_rules_and_one_log_line() {
    let finished = Program::new(["analyze", "--format", "json", "a"])
        .file(
            "a",
            &archive(&[("config/version.json", "{"), ("config/node/a\n.json", "[")]),
        )
        .finish();
    assert_eq!(finished.code(), 0);
    let skips = lines(&finished)[0]["Report"]["skips"].to_string();
    assert!(
        skips.contains("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: "),
        "{skips}"
    );
    let told: Vec<_> = finished.stderr.lines().collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter().any(|line| line.contains("config/version.json")),
        "{told:?}"
    );
}

#[test]
fn rules_are_listed_for_people_and_programs() {
    let text = Program::new(["rules"]).finish();
    assert_eq!(text.code(), 0);
    assert!(
        text.stdout
            .contains("\nmcp_set_to_pause\n  external, on, important\n"),
        "{}",
        text.stdout
    );
    assert!(
        text.stdout
            .contains("  fail: MCP_SET_TO_PAUSE\n  reads config/machineconfigpools/*.json\n")
    );

    let json = Program::new(["rules", "--format", "json"]).finish();
    let rules: Value = serde_json::from_str(&json.stdout).unwrap();
    let rules = rules.as_array().unwrap();
    assert!(rules.len() >= 22);
    let paused = rules
        .iter()
        .find(|rule| rule["name"] == "mcp_set_to_pause")
        .unwrap();
    assert_eq!(paused["keys"][0]["id"], "mcp_set_to_pause|MCP_SET_TO_PAUSE");
    assert_eq!(
        paused["requires"]["all"][0],
        "ccx_ocp_core.models.machine_pools.MachinePool"
    );
    let names: Vec<_> = rules
        .iter()
        .map(|rule| rule["name"].as_str().unwrap())
        .collect();
    assert!(names.is_sorted());
}

#[test]
fn the_sample_gives_the_same_bytes_on_every_run() {
    let sample =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/insights-archive-sample.tar.gz");
    if !sample.exists() {
        println!("nothing at {}: not tested", sample.display());
        return;
    }
    let run = || {
        let options = [
            "analyze",
            "--format",
            "json",
            "--all-rules",
            "--reference-time",
            TIME,
        ];
        let arguments = options.iter().map(Path::new).chain([sample.as_path()]);
        let finished = Program::new(arguments).finish();
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        assert_eq!(finished.stderr, "");
        finished.stdout
    };
    let first = run();
    assert_eq!(first, run());
    let line: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(line["ClusterName"], "d669cb71-8256-4e8b-a8df-333a5e2dd753");
}

#[test]
fn content_is_written_into_a_new_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("content");
    let write = || Program::new(["rules", "--content", content.to_str().unwrap()]).finish();
    let finished = write();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(finished.stdout, "");
    let rule = content.join("external/rules/mcp_set_to_pause");
    for file in ["plugin.yaml", "reason.md", "MCP_SET_TO_PAUSE/metadata.yaml"] {
        assert!(rule.join(file).is_file(), "{file}");
    }
    assert!(content.join("config.yaml").is_file());

    let again = write();
    assert_eq!(again.code(), 1);
    assert!(again.stderr.contains("is not empty"), "{}", again.stderr);
}
