//! `analyze`: archives to reports, without Kafka.
//!
//! Reports go to standard output, refusals and everything else to standard error. Nothing stays
//! behind in the directory for temporary files.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use thiserror::Error;
use time::OffsetDateTime;

use super::text::{Style, wrap};
use super::{Analyze, OutputFormat, put, tell};
use crate::archive::Archive;
use crate::archive::extract::{self, Interrupt};
use crate::config::{self, Config};
use crate::content;
use crate::engine::{self, Evaluation, RuleOutcome, RuleSet};
use crate::error::{Reason, chain};
use crate::exit::Exit;
use crate::report::{Report, render};
use crate::rules::{KeyKind, Rule};

/// The path that stands for standard input.
const STANDARD_INPUT: &str = "-";
/// Most lines of 80 columns that explain a hit.
const EXPLANATION_LINES: usize = 4;

/// Analyzes the archives in their order.
pub(super) fn run(arguments: &Analyze, config: &Config, style: Style) -> Exit {
    let rules = if arguments.all_rules {
        RuleSet::all(config.engine.rules.settings.clone())
    } else {
        match RuleSet::new(&config.engine.rules) {
            Ok(rules) => rules,
            Err(unknown) => {
                unknown
                    .iter()
                    .for_each(|unknown| tell(&unknown.to_string()));
                return Exit::Configuration;
            }
        }
    };
    let analysis = Analysis {
        rules,
        engine: &config.engine,
        reference_time: arguments.reference_time,
    };

    let mut exit = Exit::Done;
    for path in &arguments.paths {
        let archives = match archives_of(path) {
            Ok(archives) => archives,
            Err(error) => {
                tell(&format!("{}: {error}", shown(path)));
                exit = Exit::Failure;
                continue;
            }
        };
        if archives.is_empty() {
            tell(&format!("{}: no file in this directory", shown(path)));
        }
        for archive in archives {
            match analysis.of_path(&archive) {
                Ok(result) => {
                    let output = match arguments.format {
                        OutputFormat::Json => result.json(&archive),
                        OutputFormat::Text => result.text(&archive, style),
                    };
                    if put(&output) != Exit::Done {
                        return Exit::Failure;
                    }
                }
                Err(refusal) => {
                    let reason = refusal
                        .reason()
                        .map_or(String::new(), |reason| format!("{}: ", reason.as_str()));
                    tell(&format!("{}: {reason}{}", shown(&archive), chain(&refusal)));
                    exit = Exit::Failure;
                }
            }
        }
    }
    exit
}

/// The archives that a path stands for: itself, or the files of a directory sorted by name.
fn archives_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.as_os_str() == STANDARD_INPUT || !path.metadata()?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir()? {
        let file = entry?.path();
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// A path for a line on the terminal, where a name must not move the cursor.
fn shown(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .flat_map(shown_character)
        .collect()
}

fn shown_character(character: char) -> Vec<char> {
    if character.is_control() {
        character.escape_default().collect()
    } else {
        vec![character]
    }
}

/// The link that helps most: how to solve it, else the first one.
fn best_link(rule: &Rule) -> Option<&'static str> {
    let solution = rule.links.iter().filter(|(group, _)| *group == "kcs");
    let urls = solution.chain(rule.links).flat_map(|(_, urls)| urls.iter());
    urls.copied().next()
}

/// Why there is no report.
#[derive(Debug, Error)]
enum Refusal {
    #[error("cannot be opened")]
    Open(#[source] io::Error),
    #[error(transparent)]
    Archive(#[from] extract::Error),
    #[error(transparent)]
    Rules(#[from] engine::Stopped),
}

impl Refusal {
    fn reason(&self) -> Option<Reason> {
        match self {
            Refusal::Open(_) => None,
            Refusal::Archive(error) => error.reason(),
            Refusal::Rules(stopped) => stopped.reason(),
        }
    }
}

/// How archives are analyzed.
struct Analysis<'a> {
    rules: RuleSet,
    engine: &'a config::Engine,
    reference_time: Option<OffsetDateTime>,
}

impl Analysis<'_> {
    fn of_path(&self, path: &Path) -> Result<Analyzed, Refusal> {
        if path.as_os_str() == STANDARD_INPUT {
            return self.of_body(&mut io::stdin().lock());
        }
        self.of_body(&mut File::open(path).map_err(Refusal::Open)?)
    }

    fn of_body(&self, body: &mut dyn Read) -> Result<Analyzed, Refusal> {
        let began = OffsetDateTime::now_utc();
        let deadline = Instant::now() + self.engine.archive_deadline;
        let interrupted = || (Instant::now() >= deadline).then_some(Interrupt::Deadline);
        let limits = &self.engine.limits;
        let dir = &self.engine.extract_tmp_dir;
        let extracted = extract::extract(body, limits, self.rules.wanted(), dir, &interrupted)?;
        let archive = Archive::new(extracted, limits.document_size).until(Some(deadline));
        let reference_time = self
            .reference_time
            .or_else(|| archive.gathering_time(began))
            .unwrap_or(began);
        let evaluation = engine::evaluate(&self.rules, &archive, reference_time, &interrupted)?;
        let cluster = archive.cluster_uuid().map(|uuid| uuid.to_string());
        let version = archive
            .cluster_version()
            .map(|version| version.current().to_owned());
        engine::check_reads(&archive)?;

        // A time that was asked for stands for the clock too, so that the bytes repeat.
        let start = self.reference_time.unwrap_or(began);
        let finish = self.reference_time.unwrap_or_else(OffsetDateTime::now_utc);
        Ok(Analyzed {
            cluster,
            version,
            damaged: archive.damaged(),
            report: render(&evaluation, start, finish),
            evaluation,
        })
    }
}

/// What is known of an archive afterwards.
struct Analyzed {
    cluster: Option<String>,
    version: Option<String>,
    damaged: u64,
    evaluation: Evaluation,
    report: Report,
}

impl Analyzed {
    /// One object on one line.
    fn json(&self, path: &Path) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            path: &'a str,
            #[serde(rename = "ClusterName")]
            cluster_name: Option<&'a str>,
            #[serde(rename = "Report")]
            report: &'a Report,
        }
        let line = Line {
            path: &path.to_string_lossy(),
            cluster_name: self.cluster.as_deref(),
            report: &self.report,
        };
        // A report is maps with text for keys, so it always serialises.
        serde_json::to_string(&line)
            .map(|line| line + "\n")
            .unwrap_or_default()
    }

    /// For a person: hits first, the gravest first.
    fn text(&self, path: &Path, style: Style) -> String {
        let mut text = format!("{}\n", style.strong(&shown(path)));
        let mut facts = vec![match &self.cluster {
            Some(cluster) => format!("cluster {cluster}"),
            None => "no cluster id".to_owned(),
        }];
        facts.extend(
            self.version
                .as_ref()
                .map(|version| format!("version {version}")),
        );
        text += &wrap(&facts.join(", "), 2);

        let mut hits: Vec<_> = self
            .evaluation
            .responses
            .iter()
            .filter(|(_, kind, _)| *kind == KeyKind::Fail)
            .collect();
        hits.sort_by_key(|(rule, ..)| std::cmp::Reverse(rule.total_risk));
        for (rule, _, response) in hits {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "\n  {} {}",
                style.severity(rule.total_risk),
                rule.name()
            );
            let explanation = content::explanation(rule, response.key, &response.details);
            let explanation: String = explanation
                .as_deref()
                .unwrap_or(rule.detects)
                .chars()
                .flat_map(shown_character)
                .collect();
            text += &cut(&wrap(&explanation, 4));
            if let Some(link) = best_link(rule) {
                let _ = writeln!(text, "    {link}");
            }
        }

        text += "\n";
        text += &wrap(&self.summary(), 2);
        for (what, outcome) in [
            ("recommendations", RuleOutcome::Recommendation),
            ("passed", RuleOutcome::Pass),
            ("skipped", RuleOutcome::Skip),
            ("failed", RuleOutcome::Failed),
        ] {
            let names = self.names(outcome);
            if !names.is_empty() {
                text += &wrap(&format!("{what}: {}", names.join(", ")), 2);
            }
        }
        text + "\n"
    }

    fn summary(&self) -> String {
        let hits = self.names(RuleOutcome::Hit).len();
        let rules = self.evaluation.runs.len();
        let mut summary = format!(
            "{hits} hit{} by {rules} rules",
            if hits == 1 { "" } else { "s" }
        );
        if self.damaged > 0 {
            let _ = write!(summary, "; damaged documents: {}", self.damaged);
        }
        summary
    }

    fn names(&self, outcome: RuleOutcome) -> Vec<&'static str> {
        let runs = self
            .evaluation
            .runs
            .iter()
            .filter(|run| run.outcome == outcome);
        let mut names: Vec<_> = runs.map(|run| run.name).collect();
        names.sort_unstable();
        names
    }
}

/// The first lines, and a sign where there are more: a list of a hundred pods is in the JSON.
fn cut(lines: &str) -> String {
    let mut shown: Vec<&str> = lines.lines().take(EXPLANATION_LINES).collect();
    if lines.lines().count() > EXPLANATION_LINES {
        shown.push("    ...");
    }
    shown.iter().flat_map(|line| [line, "\n"]).collect()
}
