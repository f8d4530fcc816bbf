//! Not exactly one default storage class.
//!
//! Without one, claims that name no class wait for ever; with several it is a matter of luck
//! which one they get. Reads storage classes. Reports `NO_DEFAULT_STORAGE_CLASS` or
//! `MULTIPLE_DEFAULT_STORAGE_CLASSES`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::StorageClass;

/// The annotations that make a class the default one, today's and that of old versions.
const DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.default_storage_class_problem.report",
    detects: "Not exactly one default storage class.",
    keys: &[
        Key::fail("NO_DEFAULT_STORAGE_CLASS").when("none is default"),
        Key::fail("MULTIPLE_DEFAULT_STORAGE_CLASSES").when("two or more are default"),
    ],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::StorageClasses],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut classes = context.archive.storage_classes();
    let key = match classes.iter().filter(|class| is_default(class)).count() {
        0 => "NO_DEFAULT_STORAGE_CLASS",
        1 => return Ok(None),
        _ => {
            classes.retain(|class| is_default(class));
            "MULTIPLE_DEFAULT_STORAGE_CLASSES"
        }
    };
    let mut names: Vec<_> = classes.into_iter().map(|class| class.name()).collect();
    names.sort_unstable();
    respond(key, details! { "storage_classes": list(names) })
}

fn is_default(class: &StorageClass) -> bool {
    let annotations = &class.metadata.annotations;
    DEFAULT
        .iter()
        .any(|name| annotations.get(*name).is_some_and(|value| value == "true"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(classes: &[(&str, &str)]) -> Answer {
        let files: Vec<_> = classes
            .iter()
            .map(|(name, annotations)| {
                let file = format!(
                    r#"{{"metadata": {{"name": "{name}", "annotations": {annotations}}}}}"#
                );
                (format!("config/storage/storageclasses/{name}.json"), file)
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(path, file)| (&**path, &**file))
            .collect();
        run(&RULE, &files)
    }

    const YES: &str = r#"{"storageclass.kubernetes.io/is-default-class": "true"}"#;
    const BETA: &str = r#"{"storageclass.beta.kubernetes.io/is-default-class": "true"}"#;
    const NO: &str = r#"{"storageclass.kubernetes.io/is-default-class": "false"}"#;
    const ODD: &str = r#"{"storageclass.kubernetes.io/is-default-class": true}"#;

    #[test]
    fn none_or_several_hit() {
        assert_eq!(
            answer(&[("gp3-csi", ODD), ("gp2-csi", NO), ("other", "null")]),
            found(
                "NO_DEFAULT_STORAGE_CLASS",
                json!({"storage_classes": ["gp2-csi", "gp3-csi", "other"]})
            )
        );
        assert_eq!(
            answer(&[("gp3-csi", YES), ("other", NO), ("gp2-csi", BETA)]),
            found(
                "MULTIPLE_DEFAULT_STORAGE_CLASSES",
                json!({"storage_classes": ["gp2-csi", "gp3-csi"]})
            )
        );
    }

    #[test]
    fn one_is_well() {
        assert_eq!(answer(&[("a", YES), ("b", NO)]), Answer::Nothing);
        assert_eq!(answer(&[("a", BETA)]), Answer::Nothing);
    }

    #[test]
    fn without_classes_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.storage.StorageClasses'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        let damaged = [("config/storage/storageclasses/a.json", "null")];
        assert_eq!(run(&RULE, &damaged), skipped);
    }
}
