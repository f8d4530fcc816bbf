//! What people read of a hit: what it means, why this cluster has it and what to do.
//!
//! A hit without content is never shown to a user, so the texts come with the rules: `content/`
//! is compiled in, one folder for each rule with its texts, and below it one for each key with
//! what differs and `metadata.yaml`. Texts are Markdown with the placeholders of doT, which the
//! web page fills from the details of the hit (`pydata`). Nothing here touches a file; the
//! command `rules` writes what [`directory`] says.

mod template;

use serde_json::{Map, Value, json};

use crate::rules::{Key, KeyKind, RULES, Rule};

// Defines `FILES: &[(&str, &str)]`, names below `content/` and texts, sorted by name.
include!(concat!(env!("OUT_DIR"), "/content.rs"));

/// The texts that a key may have of its own; else those of its rule count.
const TEXTS: [&str; 4] = ["summary.md", "generic.md", "reason.md", "resolution.md"];
/// The facts of a rule.
const PLUGIN: &str = "plugin.yaml";
/// The facts of a key.
const METADATA: &str = "metadata.yaml";
/// How grave the kinds of impact are, for all rules.
const CONFIG: &str = "config.yaml";

/// Whether readers show answers with this key, so that it needs content.
pub fn is_shown(key: &Key) -> bool {
    match key.kind {
        KeyKind::Fail | KeyKind::Recommendation => true,
        KeyKind::Pass | KeyKind::Info => false,
    }
}

fn file(name: &str) -> Option<&'static str> {
    let position = FILES.binary_search_by_key(&name, |(name, _)| name).ok()?;
    Some(FILES[position].1)
}

/// A text of a rule.
fn of_rule(rule: &Rule, text: &str) -> Option<&'static str> {
    file(&format!("{}/{text}", rule.name()))
}

/// A text of a key: its own, else the rule's.
fn of_key(rule: &Rule, key: &Key, text: &str) -> Option<&'static str> {
    file(&format!("{}/{}/{text}", rule.name(), key.key)).or_else(|| of_rule(rule, text))
}

/// The content of a rule for listings, texts as they are; `None` for rules without.
pub fn object(rule: &Rule) -> Option<Value> {
    let plugin = facts(of_rule(rule, PLUGIN)?);
    let keys: Map<String, Value> = rule
        .keys
        .iter()
        .filter(|key| is_shown(key))
        .map(|key| {
            let mut object = facts(of_key(rule, key, METADATA).unwrap_or_default());
            for text in TEXTS {
                object.insert(stem(text), json!(of_key(rule, key, text)));
            }
            (key.key.to_owned(), Value::Object(object))
        })
        .collect();
    Some(json!({ "title": plugin.get("name"), "keys": keys }))
}

/// Why this cluster has it, for a terminal: the key's reason with the details filled in, as one
/// paragraph without Markdown. `None` where the key has no content.
pub fn explanation(rule: &Rule, key: &str, details: &Map<String, Value>) -> Option<String> {
    let key = rule.keys.iter().find(|k| k.key == key)?;
    let reason = template::parse(of_key(rule, key, "reason.md")?).ok()?;
    let mut paragraph = String::new();
    for line in template::render(&reason, details).lines() {
        let line = line.trim();
        let (item, text) = match line.strip_prefix("- ") {
            Some(text) => (true, text),
            None => (false, line),
        };
        match paragraph.chars().last() {
            _ if text.is_empty() => continue,
            // A reason that is a list only: what the rule detects introduces it.
            None if item => {
                paragraph = format!("{}: ", rule.detects.trim_end_matches('.'));
            }
            None => {}
            Some('.' | ':') => paragraph.push(' '),
            Some(_) => paragraph.push_str(if item { "; " } else { " " }),
        }
        paragraph.push_str(text);
    }
    Some(paragraph.replace('`', ""))
}

fn stem(file: &str) -> String {
    file.split('.').next().unwrap_or(file).to_owned()
}

/// The files of a content directory as the content service reads it, by their path: the folder of
/// a rule lies where its component says, and each key has all of its texts.
pub fn directory() -> Vec<(String, &'static str)> {
    let mut files: Vec<_> = file(CONFIG)
        .map(|text| (CONFIG.to_owned(), text))
        .into_iter()
        .collect();
    for rule in RULES.iter().filter(|rule| rule.keys.iter().any(is_shown)) {
        let folder = folder(rule);
        for name in [PLUGIN].iter().chain(&TEXTS) {
            files.extend(of_rule(rule, name).map(|text| (format!("{folder}/{name}"), text)));
        }
        for key in rule.keys.iter().filter(|key| is_shown(key)) {
            for name in [METADATA].iter().chain(&TEXTS) {
                let path = format!("{folder}/{}/{name}", key.key);
                files.extend(of_key(rule, key, name).map(|text| (path, text)));
            }
        }
    }
    files
}

/// `ccx_rules_ocp.external.rules.mcp_set_to_pause.report` → `external/rules/mcp_set_to_pause`.
fn folder(rule: &Rule) -> String {
    let parts: Vec<&str> = rule.component.split('.').collect();
    match parts.as_slice() {
        [_package, folders @ .., _function] => folders.join("/"),
        _ => rule.name().to_owned(),
    }
}

/// The YAML of our own files, which is no more than `name: value`, with one list of words.
fn facts(text: &str) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut list = String::new();
    for line in text.lines() {
        if let Some(item) = line.strip_prefix("- ") {
            if let Some(Value::Array(items)) = facts.get_mut(&list) {
                items.push(item.into());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let value = value.trim();
            let value = match value.parse::<u64>() {
                _ if value.is_empty() => json!([]),
                Ok(number) => json!(number),
                Err(_) => json!(value.trim_matches('\'')),
            };
            name.clone_into(&mut list);
            facts.insert(name.to_owned(), value);
        }
    }
    facts
}

#[cfg(test)]
mod tests;
