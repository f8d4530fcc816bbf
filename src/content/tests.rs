use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::*;

/// Rules that users see, each with the keys that they see.
fn shown() -> impl Iterator<Item = (&'static Rule, &'static Key)> {
    RULES.iter().flat_map(|rule| {
        let keys = rule.keys.iter().filter(|key| is_shown(key));
        keys.map(move |key| (rule, key))
    })
}

#[test]
fn every_key_that_is_shown_has_all_of_its_texts() {
    for (rule, key) in shown() {
        let name = format!("{}/{}", rule.name(), key.key);
        for text in TEXTS {
            let text = of_key(rule, key, text).unwrap_or_else(|| panic!("{name}: no {text}"));
            assert!(!text.trim().is_empty() && text.ends_with('\n'), "{name}");
        }
        // The service wants these of the rule itself.
        for text in [PLUGIN, "summary.md", "reason.md", "resolution.md"] {
            assert!(of_rule(rule, text).is_some(), "{name}: no {text}");
        }
        assert!(
            file(&format!("{name}/{METADATA}")).is_some(),
            "{name}: no {METADATA}"
        );
    }
}

#[test]
fn every_file_is_of_a_rule() {
    let known: BTreeSet<String> = shown()
        .flat_map(|(rule, key)| {
            let of_rule = [PLUGIN].iter().chain(&TEXTS);
            let of_key = [METADATA].iter().chain(&TEXTS);
            let of_rule = of_rule.map(|text| format!("{}/{text}", rule.name()));
            of_rule
                .chain(of_key.map(|text| format!("{}/{}/{text}", rule.name(), key.key)))
                .collect::<Vec<_>>()
        })
        .chain([CONFIG.to_owned()])
        .collect();
    for (name, _) in FILES {
        assert!(known.contains(*name), "{name} is of no key");
    }
    assert!(FILES.is_sorted());
}

#[test]
fn facts_are_complete_and_risks_agree() {
    let impacts = facts(file(CONFIG).unwrap());
    for (rule, key) in shown() {
        let name = format!("{}/{}", rule.name(), key.key);
        let plugin = facts(of_rule(rule, PLUGIN).unwrap());
        assert_eq!(
            plugin.keys().collect::<Vec<_>>(),
            ["name", "node_id", "product_code", "python_module"],
            "{name}"
        );
        let (module, _function) = rule.component.rsplit_once('.').unwrap();
        assert_eq!(plugin["python_module"], module, "{name}");
        assert_eq!(plugin["product_code"], "OCP4", "{name}");

        let metadata = facts(of_key(rule, key, METADATA).unwrap());
        assert_eq!(
            metadata.keys().collect::<Vec<_>>(),
            [
                "description",
                "impact",
                "likelihood",
                "publish_date",
                "status",
                "tags",
                "total_risk"
            ],
            "{name}"
        );
        assert!(!metadata["tags"].as_array().unwrap().is_empty(), "{name}");
        assert_eq!(metadata["status"], "active", "{name}");
        let impact = metadata["impact"].as_str().unwrap();
        let impact = impacts.get(&format!("  {impact}")).and_then(Value::as_u64);
        let impact = impact.unwrap_or_else(|| panic!("{name}: impact is not in {CONFIG}"));
        let likelihood = metadata["likelihood"].as_u64().unwrap();
        assert!((1..=4).contains(&impact) && (1..=4).contains(&likelihood));
        // Rounding is left to readers, so either way is right.
        let total_risk = metadata["total_risk"].as_u64().unwrap();
        let sum = impact + likelihood;
        assert!(
            [sum / 2, sum.div_ceil(2)].contains(&total_risk),
            "{name}: {total_risk} of {impact} and {likelihood}"
        );
        assert_eq!(Some(total_risk), rule.total_risk.map(u64::from), "{name}");
    }
}

#[test]
fn texts_are_plain() {
    for (name, text) in FILES {
        assert!(text.is_ascii(), "{name}");
        for line in text.lines() {
            assert_eq!(line, line.trim_end(), "{name}");
        }
    }
}

/// The fields that the placeholders of a text refer to, as paths from the details: `nodes[].name`.
fn placeholders(text: &str) -> Result<BTreeSet<String>, String> {
    // Compiled once: there are some six hundred texts.
    static EXPRESSIONS: LazyLock<[Regex; 3]> = LazyLock::new(|| {
        [
            r"(?s)\{\{(.*?)\}\}",
            r#"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\["[^"]*"\])*"#,
            r#"(^|[^\[])(?:"[^"]*"|'[^']*')"#,
        ]
        .map(|expression| Regex::new(expression).unwrap())
    });
    let [tag, path, literal] = &*EXPRESSIONS;
    let mut found = BTreeSet::new();
    // Loop variables in scope; a condition has none.
    let mut open: Vec<Option<(String, String)>> = Vec::new();
    for body in tag.captures_iter(text) {
        let (kind, expression) = match body[1].trim() {
            "?" => {
                let closed = open.pop().ok_or("{{?}} closes nothing")?;
                if closed.is_some() {
                    return Err("{{?}} closes a loop".into());
                }
                continue;
            }
            "~" => {
                let closed = open.pop().ok_or("{{~}} closes nothing")?;
                closed.ok_or("{{~}} closes a condition")?;
                continue;
            }
            body if body.starts_with("??") => ("??", body[2..].to_owned()),
            body if body.starts_with(['=', '?', '~']) => (&body[..1], body[1..].to_owned()),
            body => return Err(format!("{{{{{body}}}}} is no placeholder")),
        };
        let (expression, variable) = match expression.split_once(':').filter(|_| kind == "~") {
            // Behind the variable there may be one for the position.
            Some((list, variables)) => {
                let variable = variables.split(':').next().unwrap_or_default();
                (list.to_owned(), variable.trim().to_owned())
            }
            None if kind == "~" => return Err(format!("loop without variable: {expression}")),
            None => (expression, String::new()),
        };
        let expression = literal.replace_all(&expression, "$1");
        let mut last = String::new();
        for used in path.find_iter(&expression) {
            let used = used.as_str().replace("[\"", ".").replace("\"]", "");
            let used = used.strip_suffix(".length").unwrap_or(&used);
            let (root, rest) = used.split_once('.').unwrap_or((used, ""));
            let scope = open.iter().flatten().rev();
            let field = match scope.clone().find(|(name, _)| name == root) {
                Some((_, list)) if rest.is_empty() => format!("{list}[]"),
                Some((_, list)) => format!("{list}[].{rest}"),
                None if root == "pydata" && !rest.is_empty() => rest.to_owned(),
                None => return Err(format!("{used} is neither of pydata nor of a loop")),
            };
            found.insert(field.clone());
            last = field;
        }
        match kind {
            "~" => open.push(Some((variable, last))),
            "?" => open.push(None),
            "??" if !matches!(open.last(), Some(None)) => {
                return Err("{{??}} outside of a condition".into());
            }
            _ => {}
        }
    }
    let left = text.matches("{{").count() != tag.find_iter(text).count();
    if left || !open.is_empty() {
        return Err("something is not closed".into());
    }
    Ok(found)
}

#[test]
fn placeholders_are_found_with_their_place() {
    let text = "{{~ pydata.a :x }}{{=x.b[\"c d\"]}}{{~ x.e :y:i }}{{=y}}{{~}}{{? x.f === \"g\" }}1\
                {{?? pydata.h.length }}2{{?}}{{~}}";
    let found: Vec<String> = placeholders(text).unwrap().into_iter().collect();
    assert_eq!(found, ["a", "a[].b.c d", "a[].e", "a[].e[]", "a[].f", "h"]);
    for bad in [
        "{{=x.a}}",
        "{{=pydata}}",
        "{{? pydata.a }}",
        "{{~ pydata.a :x }}{{?}}",
        "{{? pydata.a }}{{~}}",
        "{{~}}",
        "{{?}}",
        "{{~ pydata.a }}{{~}}",
        "{{pydata.a}}",
        "{{=pydata.a",
        "{{??}}",
    ] {
        assert!(placeholders(bad).is_err(), "{bad}");
    }
}

/// Each text of a key with the fields that it wants.
fn wanted() -> Vec<(&'static Rule, String, BTreeSet<String>)> {
    let mut wanted = Vec::new();
    for (rule, key) in shown() {
        for text in TEXTS {
            let name = format!("{}/{}/{text}", rule.name(), key.key);
            let fields = placeholders(of_key(rule, key, text).unwrap_or_default())
                .unwrap_or_else(|why| panic!("{name}: {why}"));
            // The list of recommendations shows these without details.
            let constant = ["summary.md", "generic.md"].contains(&text);
            assert!(!constant || fields.is_empty(), "{name}");
            wanted.push((rule, name, fields));
        }
    }
    wanted
}

#[test]
fn placeholders_name_fields_that_the_rule_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules");
    let mut sources: HashMap<&str, String> = HashMap::new();
    for (rule, name, fields) in wanted() {
        let source = sources.entry(rule.name()).or_insert_with(|| {
            let file = if rule.is_for_workloads() {
                "workloads".to_owned()
            } else {
                rule.name().to_lowercase()
            };
            std::fs::read_to_string(folder.join(format!("{file}.rs"))).unwrap()
        });
        for field in fields {
            let first = field.split(['.', '[']).next().unwrap();
            assert!(
                source.contains(&format!("\"{first}\"")),
                "{name}: {first} is no field of the details"
            );
        }
    }
}

#[test]
fn placeholders_are_fields_of_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/rules/catalog.json");
    let Ok(bytes) = std::fs::read(&path) else {
        println!("no catalogue at {}", path.display());
        return;
    };
    let catalogue: Value = serde_json::from_slice(&bytes).unwrap();
    let rules = catalogue["rules"].as_array().unwrap();
    for (rule, name, fields) in wanted() {
        let entry = rules.iter().find(|entry| entry["name"] == rule.name());
        let entry = entry.unwrap();
        let mut known = BTreeSet::new();
        collect(&entry["example_details"], "", &mut known);
        for field in entry["details"].as_array().unwrap() {
            let text = field["field"].as_str().unwrap().replace(['"', ' '], "");
            known.extend(text.split(['/', ',']).map(str::to_owned));
            // Some lists of objects have their fields in words.
            let words = field["unit"].as_str().unwrap_or_default();
            let words = words.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            known.extend(words.map(|word| format!("{text}[].{word}")));
        }
        for field in fields {
            let plain = field.replace(' ', "");
            let is_known = known.iter().any(|known| {
                let rest = known.replace(' ', "");
                rest.strip_prefix(&plain)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            });
            assert!(is_known, "{name}: {field} is none of {known:?}");
        }
    }
}

/// Every path in a value.
fn collect(value: &Value, path: &str, paths: &mut BTreeSet<String>) {
    paths.insert(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                collect(value, &format!("{path}{dot}{name}"), paths);
            }
        }
        Value::Array(items) => {
            for item in items {
                collect(item, &format!("{path}[]"), paths);
            }
        }
        _ => {}
    }
}

#[test]
fn every_reason_can_be_filled_in() {
    for (rule, key) in shown() {
        let reason = of_key(rule, key, "reason.md").unwrap();
        let parsed = template::parse(reason);
        assert!(parsed.is_ok(), "{}/{}: {parsed:?}", rule.name(), key.key);
    }
}

#[test]
fn an_explanation_is_one_paragraph_with_the_details() {
    let rule = |name| RULES.iter().find(|rule| rule.name() == name).unwrap();
    for (name, details, expected) in [
        (
            "control_plane_replicas",
            json!({"version": "4.7", "replica_count": 1}),
            "The cluster (version 4.7) has 1 control plane nodes.",
        ),
        // A list introduced by what the rule detects, its wrapped items in one line.
        (
            "haproxy_exporter_server_threshold_exceeded",
            json!({"routers": [
                {"pod": "a", "namespace": "n", "current": 600, "limit": 500},
                {"pod": "b", "namespace": "n", "current": 501, "limit": 500},
            ]}),
            ": Router a in n: 600 servers, the limit is 500; Router b in n: 501 servers, \
             the limit is 500",
        ),
    ] {
        let rule = rule(name);
        let key = rule.keys.iter().find(|key| is_shown(key)).unwrap();
        let explanation = explanation(rule, key.key, details.as_object().unwrap()).unwrap();
        assert!(explanation.ends_with(expected), "{explanation}");
        assert!(!explanation.starts_with(':'), "{explanation}");
    }
}

#[test]
fn the_directory_has_a_folder_for_each_rule_and_key() {
    let directory = directory();
    let paths: BTreeSet<&str> = directory.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths.len(), directory.len());
    assert!(paths.contains(CONFIG));
    for path in [
        "external/rules/mcp_set_to_pause/plugin.yaml",
        "external/rules/mcp_set_to_pause/MCP_SET_TO_PAUSE/metadata.yaml",
        "external/rules/mcp_set_to_pause/MCP_SET_TO_PAUSE/generic.md",
        "external/bug_rules/bug_1766907/reason.md",
        "external/dvo/host_ipc/DVO_HOST_IPC/resolution.md",
    ] {
        assert!(paths.contains(path), "{path}");
    }
    // The service looks nowhere else.
    let places = ["external/", "internal/"];
    assert!(
        paths
            .iter()
            .all(|path| *path == CONFIG || places.iter().any(|place| path.starts_with(place)))
    );
}

#[test]
fn a_listing_has_texts_and_facts_of_each_key() {
    let rule = |name| RULES.iter().find(|rule| rule.name() == name).unwrap();
    let object = object(rule("ocp_version_end_of_life")).unwrap();
    let key = &object["keys"]["OCP4X_BEYOND_EOL"];
    assert_eq!(key["total_risk"], 2);
    assert_eq!(key["publish_date"], "2026-11-21 00:00:00");
    assert!(
        key["tags"]
            .as_array()
            .unwrap()
            .contains(&json!("openshift"))
    );
    assert!(key["reason"].as_str().unwrap().contains("has ended"));
    assert!(super::object(rule("cluster_id")).is_none());
}
