//! The part of doT that our reasons use, filled in for a terminal.
//!
//! `{{=path}}` stands for a value, `{{? path }} … {{?}}` is shown where the value is there, not
//! empty, zero or false, `{{~ path :name }} … {{~}}` repeats for each item of a list. A path starts
//! at `pydata`, the details, or at the name of a loop: `name.field`, `name["a field"]`.

use serde_json::{Map, Value};
use thiserror::Error;

/// Why a text is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Error {
    #[error("a tag or block is not closed")]
    Open,
    #[error("a block is closed that is not open")]
    Close,
    #[error("a tag that is neither value, condition nor loop")]
    Tag,
}

/// A text with its blocks nested.
#[derive(Debug, PartialEq)]
pub(super) enum Node<'t> {
    Text(&'t str),
    Value(&'t str),
    If(&'t str, Vec<Node<'t>>),
    Each(&'t str, &'t str, Vec<Node<'t>>),
}

/// Reads a text, once; our own are at most a few blocks deep.
pub(super) fn parse(text: &str) -> Result<Vec<Node<'_>>, Error> {
    let mut open: Vec<(&str, Vec<Node>)> = Vec::new();
    let mut nodes = Vec::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once("{{") {
        let (tag, after) = tag.split_once("}}").ok_or(Error::Open)?;
        nodes.push(Node::Text(before));
        rest = after;
        match tag.trim() {
            "?" | "~" => {
                let (opening, outer) = open.pop().ok_or(Error::Close)?;
                let inner = std::mem::replace(&mut nodes, outer);
                nodes.push(match (opening.split_at(1), tag.trim()) {
                    (("?", condition), "?") => Node::If(condition.trim(), inner),
                    (("~", list), "~") => {
                        let (list, name) = list.split_once(':').ok_or(Error::Tag)?;
                        Node::Each(list.trim(), name.trim(), inner)
                    }
                    _ => return Err(Error::Close),
                });
            }
            tag if tag.starts_with(['?', '~']) && !tag.starts_with("??") => {
                open.push((tag, std::mem::take(&mut nodes)));
            }
            tag => nodes.push(Node::Value(tag.strip_prefix('=').ok_or(Error::Tag)?.trim())),
        }
    }
    nodes.push(Node::Text(rest));
    open.is_empty().then_some(nodes).ok_or(Error::Open)
}

/// Fills in the details.
pub(super) fn render(nodes: &[Node<'_>], details: &Map<String, Value>) -> String {
    let mut text = String::new();
    fill(nodes, details, &mut Vec::new(), &mut text);
    text
}

fn fill<'a>(
    nodes: &'a [Node<'_>],
    details: &'a Map<String, Value>,
    scope: &mut Vec<(&'a str, &'a Value)>,
    text: &mut String,
) {
    for node in nodes {
        match node {
            Node::Text(plain) => text.push_str(plain),
            Node::Value(path) => match find(path, details, scope) {
                None | Some(Value::Null) => {}
                Some(Value::String(value)) => text.push_str(value),
                Some(value) => text.push_str(&value.to_string()),
            },
            Node::If(path, inner) => {
                if find(path, details, scope).is_some_and(is_shown) {
                    fill(inner, details, scope, text);
                }
            }
            Node::Each(path, name, inner) => {
                let list = find(path, details, scope).and_then(Value::as_array);
                for item in list.into_iter().flatten() {
                    scope.push((name, item));
                    fill(inner, details, scope, text);
                    scope.pop();
                }
            }
        }
    }
}

/// What counts as true in the language of the web page.
fn is_shown(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

fn find<'a>(
    path: &str,
    details: &'a Map<String, Value>,
    scope: &[(&str, &'a Value)],
) -> Option<&'a Value> {
    let mut parts = path.split(['.', '[', ']']).filter(|part| !part.is_empty());
    let root = parts.next()?;
    let mut value = match scope.iter().rfind(|(name, _)| *name == root) {
        Some((_, value)) => value,
        None if root == "pydata" => details.get(parts.next()?)?,
        None => return None,
    };
    for part in parts {
        value = value.get(part.trim_matches('"'))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_conditions_and_loops_are_filled_in() {
        let details = json!({
            "n": 2, "off": false, "zero": 0, "none": null, "empty": "",
            "nodes": [{"name": "a", "A B": "x", "roles": ["r", "s"]}, {"name": "b", "roles": []}],
        });
        for (template, expected) in [
            ("{{=pydata.n}} of it", "2 of it"),
            ("{{=pydata.none}}{{=pydata.gone}}{{=gone.n}}.", "."),
            ("{{? pydata.n }}yes{{?}}", "yes"),
            ("{{? pydata.off }}1{{?}}{{? pydata.zero }}2{{?}}", ""),
            ("{{? pydata.empty }}3{{?}}{{? pydata.gone }}4{{?}}", ""),
            (
                "{{~ pydata.nodes :node }}{{=node.name}}{{~ node.roles :r }}+{{=r}}{{~}};{{~}}",
                "a+r+s;b;",
            ),
            (
                "{{~ pydata.nodes :n }}{{? n[\"A B\"] }}{{=n[\"A B\"]}}{{?}}{{~}}",
                "x",
            ),
            ("{{~ pydata.n :x }}never{{~}}", ""),
        ] {
            let nodes = parse(template).unwrap();
            let text = render(&nodes, details.as_object().unwrap());
            assert_eq!(text, expected, "{template}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (text, error) in [
            ("{{=pydata.a", Error::Open),
            ("{{? pydata.a }}", Error::Open),
            ("{{?}}", Error::Close),
            ("{{? pydata.a }}{{~}}", Error::Close),
            ("{{~ pydata.a }}{{~}}", Error::Tag),
            ("{{? pydata.a }}{{??}}{{?}}", Error::Tag),
            ("{{pydata.a}}", Error::Tag),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
