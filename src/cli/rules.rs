//! `rules`: what the rules are called, what they look for and what they read.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use serde_json::{Value, json};

use super::text::{severity, wrap};
use super::{OutputFormat, Rules, put, tell};
use crate::archive::Model;
use crate::content;
use crate::exit::Exit;
use crate::rules::{RULES, Rule};

/// Lists the rules by name.
pub(super) fn run(arguments: &Rules) -> Exit {
    if let Some(dir) = &arguments.content {
        return match write_content(dir) {
            Ok(()) => Exit::Done,
            Err(error) => {
                tell(&format!("{}: {error}", dir.display()));
                Exit::Failure
            }
        };
    }
    let mut rules: Vec<&Rule> = RULES.iter().collect();
    rules.sort_by_key(|rule| rule.name());
    put(&match arguments.format {
        OutputFormat::Text => rules.into_iter().map(text).collect(),
        OutputFormat::Json => {
            let rules: Value = rules.into_iter().map(object).collect();
            format!("{rules}\n")
        }
    })
}

/// Writes the content directory. Only into a new or empty one: what an earlier version left there
/// would be read as content too.
fn write_content(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(
            io::ErrorKind::DirectoryNotEmpty,
            "is not empty",
        ));
    }
    for (path, text) in content::directory() {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}

fn text(rule: &Rule) -> String {
    let mut text = format!("{}\n", rule.name());
    let by_default = if rule.enabled_by_default { "on" } else { "off" };
    let facts = [rule.profile.as_str(), by_default, severity(rule.total_risk)];
    text += &wrap(&facts.join(", "), 2);
    text += &wrap(rule.detects, 2);
    for key in rule.keys {
        // Writing to a String cannot fail.
        let _ = write!(text, "  {}: {}", key.kind.as_str(), key.key);
        text += &if key.when.is_empty() {
            "\n".to_owned()
        } else {
            format!(" ({})\n", key.when)
        };
    }
    for file in files(rule) {
        let _ = writeln!(text, "  reads {file}");
    }
    text + "\n"
}

fn object(rule: &Rule) -> Value {
    let keys: Vec<_> = rule
        .keys
        .iter()
        .map(|key| {
            json!({
                "id": rule.id(key.key),
                "key": key.key,
                "kind": key.kind.as_str(),
                "when": key.when,
            })
        })
        .collect();
    let components = |models: &[Model]| -> Vec<&str> {
        models.iter().map(|model| model.spec().component).collect()
    };
    let any: Vec<_> = rule
        .requires
        .any
        .iter()
        .map(|group| components(group))
        .collect();
    let links: serde_json::Map<_, _> = rule
        .links
        .iter()
        .map(|(group, urls)| ((*group).to_owned(), json!(urls)))
        .collect();
    json!({
        "name": rule.name(),
        "component": rule.component,
        "keys": keys,
        "detects": rule.detects,
        "profile": rule.profile.as_str(),
        "enabled_by_default": rule.enabled_by_default,
        "total_risk": rule.total_risk,
        "tags": rule.tags,
        "links": links,
        "requires": {
            "all": components(rule.requires.all),
            "any": any,
            "optional": components(rule.requires.optional),
        },
        "files": files(rule),
        "content": content::object(rule),
    })
}

/// Globs of what it reads, those of today's archives first.
fn files(rule: &Rule) -> Vec<&'static str> {
    let mut files = Vec::new();
    for model in rule.requires.models() {
        let spec = model.spec();
        for glob in spec.now.iter().chain(spec.before) {
            if !files.contains(glob) {
                files.push(glob);
            }
        }
    }
    files
}
