//! Runs the registered rules over an archive.
//!
//! A rule that panics costs that rule: it is left out of the report, counted and named in the
//! log, and the others run. The deadline is asked for between rules, which are short but for the
//! documents that they read: those know the deadline themselves. A rule that takes longer than
//! reading them, by comparing them with each other, asks the archive for it. What all rules say
//! together has a bound, since the texts of one document may stand in the answers of many.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use thiserror::Error;
use time::OffsetDateTime;

use crate::archive::extract::Wanted;
use crate::archive::limits::Interrupt;
use crate::archive::{Archive, IDENTITY_FILES};
use crate::error::Reason;
use crate::rules::{
    Context, KeyKind, Profile, RULES, Response, Rule, RuleProfile, RuleResult, Settings,
};

/// Most bytes of all answers together, about as the report says them: many times what any broker
/// takes for a message.
const MAX_ANSWERS: usize = 32 << 20;

/// Which rules run, as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleOptions {
    /// For whom the reports are. Rules of the other profile do not run, also when enabled.
    pub profile: Profile,
    /// Names or component prefixes of rules that run besides those that do by default.
    pub enable: Vec<String>,
    /// Names or component prefixes of rules that do not run, whatever else is said.
    pub disable: Vec<String>,
    /// Whether rules for workloads run too, in either profile.
    pub workloads: bool,
    /// What rules are told beside the archive.
    pub settings: Settings,
}

/// A configured name that is no rule's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no rule is called {0:?}, and no component begins so")]
pub struct UnknownRule(pub String);

/// The rules that run, and what they need.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<&'static Rule>,
    profile: Profile,
    passes: bool,
    settings: Settings,
    wanted: Wanted,
}

impl RuleSet {
    /// Chooses rules.
    ///
    /// # Errors
    /// Every name that is no rule's.
    pub fn new(options: &RuleOptions) -> Result<RuleSet, Vec<UnknownRule>> {
        let unknown: Vec<_> = options
            .enable
            .iter()
            .chain(&options.disable)
            .filter(|name| !is_known(name))
            .map(|name| UnknownRule(name.clone()))
            .collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }

        let named = |names: &[String], rule: &Rule| names.iter().any(|name| is_called(rule, name));
        let rules = RULES
            .iter()
            .filter(|rule| match rule.is_for_workloads() {
                true => options.workloads,
                false => rule.is_of(options.profile),
            })
            .filter(|rule| rule.enabled_by_default || named(&options.enable, rule))
            .filter(|rule| !named(&options.disable, rule))
            .collect();
        Ok(RuleSet::of(
            rules,
            options.profile,
            options.profile == Profile::Internal,
            options.settings.clone(),
        ))
    }

    /// Every rule of both profiles and those for workloads, with the details of the external
    /// profile; what passes is told.
    pub fn all(settings: Settings) -> RuleSet {
        RuleSet::of(RULES.iter().collect(), Profile::External, true, settings)
    }

    fn of(
        rules: Vec<&'static Rule>,
        profile: Profile,
        passes: bool,
        settings: Settings,
    ) -> RuleSet {
        let mut globs: Vec<&str> = rules
            .iter()
            .flat_map(|rule| rule.requires.models())
            .flat_map(|model| model.spec().globs())
            .chain(IDENTITY_FILES.iter().copied())
            .collect();
        globs.sort_unstable();
        globs.dedup();
        // Logs and metrics are read line by line, so they may be larger than a document.
        let is_text = |glob: &str| glob.ends_with(".log") || glob.ends_with("metrics");
        let globs: Vec<_> = globs
            .into_iter()
            .map(|glob| (glob, is_text(glob)))
            .collect();
        let wanted = Wanted::new(&globs).expect("the table of models holds valid globs");
        RuleSet {
            rules,
            profile,
            passes,
            settings,
            wanted,
        }
    }

    /// The rules that run.
    pub fn rules(&self) -> &[&'static Rule] {
        &self.rules
    }

    /// The files that they read, and those by which an archive is identified.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }
}

/// Whether a name, or the beginning of a component, is that of some rule.
pub fn is_known(name: &str) -> bool {
    RULES.iter().any(|rule| is_called(rule, name))
}

/// By its name, or by its component or whole leading parts of that.
fn is_called(rule: &Rule, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    rule.name() == name
        || rule
            .component
            .strip_prefix(name)
            .is_some_and(|rest| !name.is_empty() && (rest.is_empty() || rest.starts_with('.')))
}

/// What came of the rules, sorted by component.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// What rules answered: the rule, which list it goes to, and the answer.
    pub responses: Vec<(&'static Rule, KeyKind, Response)>,
    /// Rules that did not apply, and what was missing in the report's words.
    pub skips: Vec<(&'static Rule, String)>,
    /// Whether rules for workloads had what they need.
    pub workloads_evaluated: bool,
    /// Every rule that ran, for watchers.
    pub runs: Vec<RuleRun>,
}

/// One run of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRun {
    /// The rule's short name.
    pub name: &'static str,
    /// Time that it took, reading its documents included where it was the first to ask.
    pub duration: Duration,
    /// What came of it.
    pub outcome: RuleOutcome,
}

/// What came of one run of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleOutcome {
    /// It found a fault.
    Hit,
    /// It had nothing to say.
    NoHit,
    /// It says that all is well.
    Pass,
    /// It informs.
    Info,
    /// It recommends something for workloads.
    Recommendation,
    /// Something that it needs is missing.
    Skip,
    /// It panicked or broke its own contract.
    Failed,
}

/// Why an evaluation has no result.
#[derive(Debug, Error)]
pub enum Stopped {
    /// The deadline is spent, or nobody waits any more.
    #[error("the rules were interrupted")]
    Interrupted(Interrupt),
    /// What rules found is more than a message can hold.
    #[error("the report is over {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Our own file system failed while a document was read.
    #[error("a document cannot be read back")]
    Host(#[source] io::Error),
}

impl Stopped {
    /// What this is called; `None` where it says nothing about the archive.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Stopped::Interrupted(Interrupt::Deadline) => Some(Reason::Timeout),
            Stopped::TooLarge { .. } => Some(Reason::ReportTooLarge),
            Stopped::Interrupted(Interrupt::Cancelled) | Stopped::Host(_) => None,
        }
    }

    /// Whether our own host is at fault, so that the archive may be evaluated later.
    pub fn is_host_fault(&self) -> bool {
        matches!(self, Stopped::Host(_))
    }
}

/// Runs rules over an archive. `interrupted` is asked before each of them.
///
/// # Errors
/// See [`Stopped`]; what rules find is never an error.
pub fn evaluate(
    rules: &RuleSet,
    archive: &Archive,
    reference_time: OffsetDateTime,
    interrupted: &dyn Fn() -> Option<Interrupt>,
) -> Result<Evaluation, Stopped> {
    let context = Context {
        archive,
        reference_time,
        profile: rules.profile,
        settings: &rules.settings,
    };
    let mut evaluation = Evaluation::default();
    let mut answers = 0_usize;
    for &rule in &rules.rules {
        if let Some(interrupt) = interrupted() {
            return Err(Stopped::Interrupted(interrupt));
        }
        let start = Instant::now();
        // A rule leaves nothing half done behind: what it changes is caches that are set whole.
        let answer = catch_unwind(AssertUnwindSafe(|| run(rule, &context)));
        check_reads(archive)?;
        if let Ok(Ok(Some(response))) = &answer {
            answers = answers.saturating_add(response.size());
            if answers > MAX_ANSWERS {
                return Err(Stopped::TooLarge { limit: MAX_ANSWERS });
            }
        }
        let outcome = evaluation.take(rule, answer.ok(), rules.passes);
        if outcome == RuleOutcome::Failed {
            log::warn!("rule {} failed and is left out of the report", rule.name());
        }
        let skipped = outcome == RuleOutcome::Skip;
        evaluation.workloads_evaluated |= rule.profile == RuleProfile::Workloads && !skipped;
        evaluation.runs.push(RuleRun {
            name: rule.name(),
            duration: start.elapsed(),
            outcome,
        });
    }

    evaluation
        .responses
        .sort_by_key(|(rule, _, response)| (rule.component, response.key));
    evaluation.skips.sort_by_key(|(rule, _)| rule.component);
    Ok(evaluation)
}

/// Whether everything that was asked of an archive so far could be read. If not, what it answered
/// says nothing about it.
///
/// # Errors
/// A fault of our own file system, and the end of the time for reading.
pub fn check_reads(archive: &Archive) -> Result<(), Stopped> {
    if let Some(error) = archive.take_host_fault() {
        return Err(Stopped::Host(error));
    }
    if archive.is_late() {
        return Err(Stopped::Interrupted(Interrupt::Deadline));
    }
    Ok(())
}

fn run(rule: &'static Rule, context: &Context<'_>) -> RuleResult {
    if rule.profile == RuleProfile::Reserved {
        // Not even a skip: nobody knows what it would need.
        return Ok(None);
    }
    match rule.missing(context.archive) {
        Some(skip) => Err(skip),
        None => (rule.check)(context),
    }
}

impl Evaluation {
    /// Keeps an answer; `None` is a panic. Whether passes are told is the rule set's choice.
    fn take(
        &mut self,
        rule: &'static Rule,
        answer: Option<RuleResult>,
        passes: bool,
    ) -> RuleOutcome {
        match answer {
            None => RuleOutcome::Failed,
            Some(Ok(None)) => RuleOutcome::NoHit,
            Some(Err(skip)) => {
                self.skips.push((rule, skip.to_string()));
                RuleOutcome::Skip
            }
            Some(Ok(Some(response))) => {
                // A key that the rule does not declare would reach downstream in no known list.
                let Some(kind) = rule.kind_of(response.key) else {
                    return RuleOutcome::Failed;
                };
                if kind != KeyKind::Pass || passes {
                    self.responses.push((rule, kind, response));
                }
                match kind {
                    KeyKind::Fail => RuleOutcome::Hit,
                    KeyKind::Pass => RuleOutcome::Pass,
                    KeyKind::Info => RuleOutcome::Info,
                    KeyKind::Recommendation => RuleOutcome::Recommendation,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    use crate::archive::Model;
    use crate::logging::testing::lines_of;
    use crate::rules::{Details, Key, Requires, respond};

    const QUIET: Rule = Rule {
        component: "a.rules.quiet.report",
        detects: "Nothing.",
        keys: &[Key::fail("A_KEY")],
        profile: RuleProfile::External,
        enabled_by_default: true,
        total_risk: None,
        tags: &[],
        links: &[],
        requires: Requires::NOTHING,
        check: |_| Ok(None),
    };
    static LOUD: Rule = Rule {
        component: "a.rules.loud.report",
        check: |_| respond("A_KEY", Details::new()),
        ..QUIET
    };
    static WRONG: Rule = Rule {
        component: "a.rules.wrong.report",
        check: |_| respond("ANOTHER_KEY", Details::new()),
        ..QUIET
    };
    static PANICS: Rule = Rule {
        component: "a.rules.panics.report",
        check: |_| panic!("on purpose"),
        ..QUIET
    };
    static PASSES: Rule = Rule {
        component: "a.rules.passes.report",
        keys: &[Key::pass("ALL_WELL")],
        check: |_| respond("ALL_WELL", Details::new()),
        ..QUIET
    };
    static NEEDS: Rule = Rule {
        component: "a.rules.needs.report",
        requires: Requires {
            all: &[Model::Nodes, Model::ClusterVersion, Model::Proxy],
            any: &[
                &[Model::Pods, Model::InstallConfig],
                &[Model::Operators, Model::Pods],
            ],
            optional: &[],
        },
        ..QUIET
    };
    static READS: Rule = Rule {
        component: "a.rules.reads.report",
        requires: Requires {
            all: &[Model::ClusterVersion],
            any: &[],
            optional: &[],
        },
        ..QUIET
    };
    static STATIC_QUIET: Rule = QUIET;
    static LONG: Rule = Rule {
        component: "a.rules.long.report",
        check: |_| {
            let text = Value::from("x".repeat(MAX_ANSWERS / 3));
            respond("A_KEY", Details::from_iter([("a".to_owned(), text)]))
        },
        ..QUIET
    };
    static LOOKS: Rule = Rule {
        component: "a.rules.looks.report",
        check: |context| {
            context.archive.cluster_version();
            Ok(None)
        },
        ..QUIET
    };

    fn evaluate_all(rules: Vec<&'static Rule>, passes: bool, archive: &Archive) -> Evaluation {
        let rules = RuleSet::of(rules, Profile::External, passes, Settings::default());
        evaluate(&rules, archive, OffsetDateTime::UNIX_EPOCH, &|| None).unwrap()
    }

    #[test]
    fn p06_a_rule_that_panics_or_fails_costs_only_itself() {
        let rules = vec![&PANICS, &WRONG, &STATIC_QUIET, &LOUD, &PASSES];
        let mut evaluation = Evaluation::default();
        let lines = lines_of(|| {
            evaluation = evaluate_all(rules, false, &Archive::from_files([]));
        });
        let said = |name| {
            let line = format!("rule {name} failed and is left out of the report");
            (log::Level::Warn, line)
        };
        assert_eq!(lines, [said("panics"), said("wrong")]);
        let outcomes: Vec<_> = evaluation
            .runs
            .iter()
            .map(|run| (run.name, run.outcome))
            .collect();
        assert_eq!(
            outcomes,
            [
                ("panics", RuleOutcome::Failed),
                ("wrong", RuleOutcome::Failed),
                ("quiet", RuleOutcome::NoHit),
                ("loud", RuleOutcome::Hit),
                ("passes", RuleOutcome::Pass),
            ]
        );
        assert_eq!(evaluation.responses.len(), 1);
        assert!(evaluation.skips.is_empty());
    }

    #[test]
    fn m19_answers_that_no_message_can_hold_have_no_report() {
        let answered = |rules: Vec<&'static Rule>| {
            let rules = RuleSet::of(rules, Profile::External, false, Settings::default());
            let archive = Archive::from_files([]);
            evaluate(&rules, &archive, OffsetDateTime::UNIX_EPOCH, &|| None)
        };
        assert!(answered(vec![&LONG, &LONG]).is_ok());
        let stopped = answered(vec![&LONG, &LONG, &LONG]).unwrap_err();
        assert_eq!(stopped.reason(), Some(Reason::ReportTooLarge));
    }

    #[test]
    fn p07_a_document_that_is_not_read_in_time_ends_the_evaluation() {
        let answered = |archive: &Archive| {
            let rules = vec![&LOOKS, &PANICS, &LOUD];
            let rules = RuleSet::of(rules, Profile::External, false, Settings::default());
            evaluate(&rules, archive, OffsetDateTime::UNIX_EPOCH, &|| None)
        };
        let archive = Archive::from_files([("config/version.json", "{}")]);
        let late = archive.until(Some(Instant::now()));
        let stopped = answered(&late).unwrap_err();
        assert_eq!(stopped.reason(), Some(Reason::Timeout));
        // Where nothing is read no time is asked for.
        let empty = Archive::from_files([]).until(Some(Instant::now()));
        assert!(answered(&empty).is_ok());
    }

    #[test]
    fn passes_are_told_where_they_are_wanted_and_answers_are_sorted() {
        let evaluation = evaluate_all(vec![&PASSES, &LOUD], true, &Archive::from_files([]));
        let names: Vec<_> = evaluation
            .responses
            .iter()
            .map(|(rule, ..)| rule.name())
            .collect();
        assert_eq!(names, ["loud", "passes"]);
    }

    #[test]
    fn missing_models_are_named_in_the_order_of_the_declaration() {
        let archive = Archive::from_files([
            ("config/version.json", "{}"),
            ("config/node/a.json", "{ broken"),
            ("config/clusteroperator/dns.json", "{}"),
        ]);
        let evaluation = evaluate_all(vec![&NEEDS], false, &archive);
        assert_eq!(
            evaluation.skips[0].1,
            "All: ['ccx_ocp_core.models.nodes.Nodes', 'ccx_ocp_core.models.proxy.Proxy'] Any: \
             ['ccx_ocp_core.models.pods.Pods', 'ccx_ocp_core.models.install_config.InstallConfig']"
        );
    }

    #[test]
    fn p07_the_interrupt_is_asked_for_before_each_rule() {
        let asked = std::cell::Cell::new(0);
        let rules = RuleSet::of(
            vec![&STATIC_QUIET, &LOUD, &PASSES],
            Profile::External,
            true,
            Settings::default(),
        );
        let interrupted = || {
            asked.set(asked.get() + 1);
            (asked.get() == 3).then_some(Interrupt::Deadline)
        };
        let archive = Archive::from_files([]);
        let stopped =
            evaluate(&rules, &archive, OffsetDateTime::UNIX_EPOCH, &interrupted).unwrap_err();
        assert_eq!(stopped.reason(), Some(Reason::Timeout));
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn p08_a_document_that_cannot_be_read_back_is_no_damage() {
        let rules = vec![&STATIC_QUIET, &READS];
        let rules = RuleSet::of(rules, Profile::External, true, Settings::default());
        let archive = Archive::unreadable("config/version.json");
        let time = OffsetDateTime::UNIX_EPOCH;
        let stopped = evaluate(&rules, &archive, time, &|| None).unwrap_err();
        assert!(stopped.is_host_fault(), "{stopped:?}");
        assert_eq!(stopped.reason(), None, "it says nothing of the archive");
        assert_eq!(archive.damaged(), 0);
    }

    fn names(options: &RuleOptions) -> Vec<&'static str> {
        RuleSet::new(options)
            .unwrap()
            .rules()
            .iter()
            .map(|rule| rule.name())
            .collect()
    }

    #[test]
    fn enabling_adds_and_disabling_wins() {
        let text = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let default = names(&RuleOptions::default());
        assert!(default.contains(&"bug_1766907") && !default.contains(&"tutorial_rule"));
        let more = names(&RuleOptions {
            enable: text(&["tutorial_rule"]),
            ..Default::default()
        });
        assert!(more.contains(&"tutorial_rule") && more.len() == default.len() + 1);
        let less = names(&RuleOptions {
            enable: text(&["bug_1766907"]),
            disable: text(&["ccx_rules_ocp.external.bug_rules"]),
            ..Default::default()
        });
        assert!(!less.contains(&"bug_1766907") && !less.contains(&"bug_1821905"));
        assert_eq!(less.len(), default.len() - 2);
        assert_eq!(
            names(&RuleOptions {
                disable: text(&["ccx_rules_ocp.", "ccx_rules_processing"]),
                ..Default::default()
            }),
            [""; 0]
        );
    }

    #[test]
    fn rules_for_workloads_run_only_where_they_are_wanted() {
        let of_workloads = |options: &RuleOptions| -> Vec<&'static str> {
            let rules = RuleSet::new(options).unwrap();
            let listed = rules.rules().iter().filter(|rule| rule.is_for_workloads());
            listed.map(|rule| rule.name()).collect()
        };
        let off = RuleOptions {
            enable: vec!["host_ipc".into()],
            profile: Profile::Internal,
            ..Default::default()
        };
        assert_eq!(of_workloads(&off), [""; 0]);
        let on = RuleOptions {
            enable: vec!["no_node_affinity".into()],
            disable: vec!["host_ipc".into()],
            workloads: true,
            ..Default::default()
        };
        let on = of_workloads(&on);
        assert!(on.contains(&"host_pid") && on.contains(&"no_node_affinity"));
        assert!(!on.contains(&"host_ipc") && !on.contains(&"dnsconfig_options"));
        assert!(!on.contains(&"excluded_pod"));
    }

    #[test]
    fn reserved_names_say_nothing_whatever_is_missing() {
        let archive = Archive::from_files([]);
        let time = OffsetDateTime::UNIX_EPOCH;
        let evaluation =
            evaluate(&RuleSet::all(Settings::default()), &archive, time, &|| None).unwrap();
        assert!(!evaluation.workloads_evaluated);
        let skipped = |name| evaluation.skips.iter().any(|(rule, _)| rule.name() == name);
        assert!(skipped("host_ipc"));
        for name in ["an_issue_pod", "bad_requirements", "excluded_pod"] {
            assert!(!skipped(name), "{name}");
        }
    }

    #[test]
    fn unknown_names_are_all_told() {
        let options = RuleOptions {
            enable: vec!["tutorial_rule".into(), "no_such_rule".into()],
            disable: vec!["ccx_rules_ocp.ext".into(), String::new()],
            ..Default::default()
        };
        let unknown = RuleSet::new(&options).unwrap_err();
        assert_eq!(
            unknown
                .iter()
                .map(|unknown| unknown.0.as_str())
                .collect::<Vec<_>>(),
            ["no_such_rule", "ccx_rules_ocp.ext", ""]
        );
    }

    #[test]
    fn files_of_rules_and_of_identity_are_wanted() {
        let wanted = RuleSet::new(&RuleOptions::default())
            .unwrap()
            .wanted()
            .clone();
        for name in [
            "config/id",
            "config/node/a.json",
            "config/node/a",
            "config/infrastructure.json",
        ] {
            assert!(wanted.contains(name.as_bytes()), "{name}");
        }
        for name in ["config/node/logs/a.log", "config/workload_info.json"] {
            assert!(!wanted.contains(name.as_bytes()), "{name}");
        }
    }
}
