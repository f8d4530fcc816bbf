//! Nodes whose CPU count or memory is below the documented minimum for their role.
//!
//! Such nodes run out of what the platform itself needs, and control planes become unstable.
//! Reads nodes. Reports `NODES_MINIMUM_REQUIREMENTS_NOT_MET`.

use serde_json::Value;

use super::details::{details, list};
use super::{Context, Details, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Found, Node};

const DOCUMENTATION: &str = "https://docs.openshift.com/container-platform/4.1/installing/installing_bare_metal/installing-bare-metal.html#minimum-resource-requirements_installing-bare-metal";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.nodes_requirements_check.report",
    detects: "Nodes whose CPU count or memory is below the documented minimum for their role.",
    keys: &[Key::fail("NODES_MINIMUM_REQUIREMENTS_NOT_MET")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[("docs", &[DOCUMENTATION])],
    requires: Requires {
        all: &[Model::Nodes],
        ..Requires::NOTHING
    },
    check,
};

/// Least memory and CPUs of a role, from the installation documentation.
struct Minimum {
    /// In the unit of the report: KiB / 10⁶, by which a "16 GiB" machine shows about 16.4.
    memory: u32,
    cpus: u32,
}

const CONTROL_PLANE: Minimum = Minimum {
    memory: 16,
    cpus: 4,
};
const COMPUTE: Minimum = Minimum { memory: 8, cpus: 2 };

/// Bytes in a hundredth of the unit of memory.
const HUNDREDTH: i128 = 1024 * 1_000_000 / 100;

fn check(context: &Context<'_>) -> RuleResult {
    let mut nodes = context.archive.nodes();
    nodes.sort_by_key(|node| node.name());
    let small = list(nodes.into_iter().filter_map(too_small));
    if small.is_empty() {
        return Ok(None);
    }
    respond(
        "NODES_MINIMUM_REQUIREMENTS_NOT_MET",
        details! { "nodes": small, "link": DOCUMENTATION },
    )
}

/// A node that is too small, with the resources of which it has too little.
fn too_small(node: Found<'_, Node>) -> Option<Details> {
    let minimum = if node.is_control_plane() {
        CONTROL_PLANE
    } else {
        COMPUTE
    };
    let capacity = &node.status.capacity;
    let mut details = details! { "name": node.name(), "role": node.role() };
    let without_resources = details.len();

    let hundredths = capacity.memory.map(|memory| memory.round_to(HUNDREDTH));
    if let Some(hundredths) = hundredths.filter(|have| *have < i128::from(minimum.memory) * 100) {
        // Below 16 × 100, or negative and then as absurd as the document.
        let hundredths = i32::try_from(hundredths).unwrap_or(0);
        details.insert(
            "memory".to_owned(),
            Value::from(f64::from(hundredths) / 100.0),
        );
        details.insert("memory_req".to_owned(), minimum.memory.into());
    }
    let cpus = capacity.cpu.map(|cpu| cpu.whole());
    if let Some(cpus) = cpus.filter(|have| *have < i128::from(minimum.cpus)) {
        details.insert("cpu".to_owned(), i64::try_from(cpus).unwrap_or(0).into());
        details.insert("cpu_req".to_owned(), minimum.cpus.into());
    }
    (details.len() > without_resources).then_some(details)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn node(name: &str, role: &str, cpu: &str, memory: &str) -> String {
        json!({
            "metadata": {"name": name, "labels": {format!("node-role.kubernetes.io/{role}"): ""}},
            "status": {"capacity": {"cpu": cpu, "memory": memory}},
        })
        .to_string()
    }

    #[test]
    fn names_what_is_too_small() {
        let foo2 = node("foo2", "worker", "1500m", "4Gi");
        let foo1 = node("foo1", "master", "4", "8160000Ki");
        let files = [
            ("config/node/a.json", foo2.as_str()),
            ("config/node/b", foo1.as_str()),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "NODES_MINIMUM_REQUIREMENTS_NOT_MET",
                json!({
                    "nodes": [
                        {"name": "foo1", "role": "master", "memory": 8.16, "memory_req": 16},
                        {"name": "foo2", "role": "worker", "memory": 4.19, "memory_req": 8, "cpu": 1, "cpu_req": 2},
                    ],
                    "link": DOCUMENTATION,
                })
            )
        );
    }

    #[test]
    fn the_minimum_itself_is_enough() {
        // 15.995 rounds up to 16.00; a control plane by its newer label.
        for file in [
            node("a", "control-plane", "4", "15995000Ki"),
            node("a", "infra", "2000m", "8000000Ki"),
            r#"{"metadata": {"name": "a"}, "status": {"capacity": {"cpu": 2, "memory": 8589934592}}}"#.into(),
            r#"{"metadata": {"name": "a"}, "status": {"capacity": {"cpu": "?"}}}"#.into(),
        ] {
            assert_eq!(run(&RULE, &[("config/node/a.json", &file)]), Answer::Nothing, "{file}");
        }
        let below = node("a", "master", "4", "15994999Ki");
        assert!(matches!(
            run(&RULE, &[("config/node/a.json", &below)]),
            Answer::Found(..)
        ));
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(
            run(&RULE, &[("config/node/a.json", "{\"metadata\":")]),
            skipped
        );
    }
}
