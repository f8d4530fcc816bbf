//! Old revisions of config maps and secrets pile up.
//!
//! They make etcd and the API slow. Reads the counts of revisions by namespace. Reports
//! `REVISIONED_OBJECTS_BUILDUP`.

use std::cmp::Reverse;

use serde_json::json;

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Revisions that an object may have. The gatherer's documentation calls more excessive.
const REVISIONS: i64 = 50;
/// Most objects in details.
const OBJECTS: usize = 20;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.revisioned_objects_buildup.report",
    detects: "Old revisions of config maps and secrets pile up.",
    keys: &[Key::fail("REVISIONED_OBJECTS_BUILDUP")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::RevisionedObjects],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let namespaces = context.archive.revisioned_objects();
    let mut objects: Vec<_> = namespaces
        .into_iter()
        .flat_map(|namespaces| &namespaces.0)
        .flat_map(|(namespace, revisions)| {
            [
                ("configmap", &revisions.config_maps),
                ("secret", &revisions.secrets),
            ]
            .into_iter()
            .flat_map(move |(kind, objects)| {
                objects
                    .iter()
                    .map(move |(name, revisions)| (Reverse(*revisions), name, namespace, kind))
            })
        })
        .filter(|(Reverse(revisions), ..)| *revisions > REVISIONS)
        .collect();
    objects.sort_unstable();
    let Some((Reverse(most), ..)) = objects.first() else {
        return Ok(None);
    };
    let largest: Vec<_> = objects
        .iter()
        .take(OBJECTS)
        .map(|(Reverse(revisions), name, namespace, kind)| {
            json!({ "namespace": namespace, "kind": kind, "name": name, "revisions": revisions })
        })
        .collect();
    respond(
        "REVISIONED_OBJECTS_BUILDUP",
        details! { "objects": largest, "max_revisions": most },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const NEW: &str = "config/versioned_object_revision_counts.json";
    const OLD: &str = "config/revisioned_objects.json";

    fn object(namespace: &str, kind: &str, name: &str, revisions: i64) -> Value {
        json!({"namespace": namespace, "kind": kind, "name": name, "revisions": revisions})
    }

    #[test]
    fn the_largest_come_first_in_both_layouts() {
        let file = json!({
            "openshift-kube-apiserver": {
                "configmaps": {"kube-apiserver-pod": 610, "config": 50, "etcd-serving-ca": 609},
                "secrets": {"etcd-client": 609, "odd": "700"},
            },
            "a": {"configmaps": null, "secrets": {"etcd-client": 609}},
            "empty": null,
        })
        .to_string();
        let namespace = "openshift-kube-apiserver";
        let hit = found(
            "REVISIONED_OBJECTS_BUILDUP",
            json!({"objects": [
                object(namespace, "configmap", "kube-apiserver-pod", 610),
                object("a", "secret", "etcd-client", 609),
                object(namespace, "secret", "etcd-client", 609),
                object(namespace, "configmap", "etcd-serving-ca", 609),
            ], "max_revisions": 610}),
        );
        assert_eq!(run(&RULE, &[(NEW, &file)]), hit);
        assert_eq!(run(&RULE, &[(OLD, &file)]), hit);
    }

    #[test]
    fn more_than_fifty_hit() {
        for (revisions, hits) in [(50, false), (51, true), (-1, false), (i64::MAX, true)] {
            let file = json!({"n": {"secrets": {"s": revisions}}}).to_string();
            let answer = run(&RULE, &[(NEW, &file)]);
            assert_eq!(answer != Answer::Nothing, hits, "{revisions}");
        }
        assert_eq!(run(&RULE, &[(NEW, "{}")]), Answer::Nothing);
    }

    #[test]
    fn twenty_are_told() {
        let secrets: serde_json::Map<_, _> = (0..21_i64)
            .map(|number| (format!("s{number}"), json!(51 + number)))
            .collect();
        let file = json!({"n": {"secrets": secrets}}).to_string();
        let Answer::Found(_, details) = run(&RULE, &[(NEW, &file)]) else {
            panic!("21 objects do not hit");
        };
        let details: Value = serde_json::from_str(&details).unwrap();
        assert_eq!(details["objects"].as_array().unwrap().len(), OBJECTS);
        assert_eq!(details["objects"][0], object("n", "secret", "s20", 71));
    }

    #[test]
    fn without_counts_it_is_skipped() {
        let skipped =
            skip("All: ['ccx_ocp_core.models.revisioned_objects.RevisionedObjects'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(NEW, "null"), (OLD, "[]")]), skipped);
    }
}
