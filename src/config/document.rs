//! The configuration file, taken apart: every key with its value and its line.
//!
//! The walk knows no key. It finds all that is wrong with the form of values in one go, where
//! `serde` would stop at the first.

use std::collections::BTreeMap;

use toml_edit::{Document as Toml, Item, TableLike, Value};

use super::env::Env;
use super::problems::{Origin, Problems};
use super::substitute::substitute;

/// A value before it has a type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Integer(i64),
    /// As it is written, so that values can be compared.
    Fraction(String),
    Bool(bool),
    List(Vec<Raw>),
    /// Of a type that no key has; the type's name.
    Other(&'static str),
}

impl Raw {
    /// What a person calls the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Raw::Text(_) => "text",
            Raw::Integer(_) => "a number",
            Raw::Fraction(_) => "a fraction",
            Raw::Bool(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Other(name) => name,
        }
    }
}

/// A key of the file: `None` when its value was already found to be wrong.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) value: Option<Raw>,
    pub(super) line: usize,
}

/// What a file says, by dotted key, and the sections it opens.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) sections: BTreeMap<String, usize>,
}

impl Document {
    /// Takes `text` apart. Problems of the form go to `problems`.
    pub(super) fn parse(text: &str, env: &Env, problems: &mut Problems) -> Self {
        let mut document = Self::default();
        match Toml::parse(text) {
            Ok(toml) => {
                let mut walk = Walk {
                    text,
                    env,
                    problems,
                    document: &mut document,
                };
                walk.table(toml.as_table(), "");
            }
            // Its `Display` shows the line itself, which may hold a password.
            Err(error) => {
                let origin = error
                    .span()
                    .map_or(Origin::File, |span| Origin::Line(line_at(text, span.start)));
                problems.push(origin, None, format!("not TOML: {}", error.message()));
            }
        }
        document
    }
}

fn line_at(text: &str, position: usize) -> usize {
    let before = text.as_bytes().get(..position).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

struct Walk<'a> {
    text: &'a str,
    env: &'a Env,
    problems: &'a mut Problems,
    document: &'a mut Document,
}

impl Walk<'_> {
    fn table(&mut self, table: &dyn TableLike, path: &str) {
        for (name, item) in table.iter() {
            // A name in quotes may hold dots, and is none of ours either way.
            let name_shown = if name.contains('.') {
                format!("{name:?}")
            } else {
                name.to_owned()
            };
            let key = if path.is_empty() {
                name_shown
            } else {
                format!("{path}.{name_shown}")
            };
            let line = table
                .get_key_value(name)
                .and_then(|(key, _)| key.span())
                .map_or(1, |span| line_at(self.text, span.start));
            if let Some(inner) = item.as_table_like() {
                self.document.sections.insert(key.clone(), line);
                self.table(inner, &key);
                continue;
            }
            let value = match item {
                Item::Value(value) => self.value(value, &key, line),
                _ => Some(Raw::Other("a list of tables")),
            };
            self.document.entries.insert(key, Entry { value, line });
        }
    }

    fn value(&mut self, value: &Value, key: &str, line: usize) -> Option<Raw> {
        Some(match value {
            Value::String(text) => match substitute(text.value(), self.env) {
                Ok(text) => Raw::Text(text),
                Err(why) => {
                    self.problems.push(Origin::Line(line), Some(key), why);
                    return None;
                }
            },
            Value::Integer(number) => Raw::Integer(*number.value()),
            Value::Boolean(yes) => Raw::Bool(*yes.value()),
            Value::Float(number) => Raw::Fraction(number.value().to_string()),
            Value::Datetime(_) => Raw::Other("a date"),
            Value::InlineTable(_) => Raw::Other("a table"),
            Value::Array(array) => {
                // Not `collect::<Option<_>>`, which would stop at the first bad one.
                let values: Vec<_> = array
                    .iter()
                    .map(|value| {
                        let line = value
                            .span()
                            .map_or(line, |span| line_at(self.text, span.start));
                        self.value(value, key, line)
                    })
                    .collect();
                Raw::List(values.into_iter().collect::<Option<_>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Document, Problems) {
        let mut problems = Problems::of("config.toml");
        let document = Document::parse(text, &Env::default(), &mut problems);
        (document, problems)
    }

    #[test]
    fn every_key_has_its_line() {
        let (document, problems) = parse("a = 1\n\n[b]\nc = [\n 'x',\n 'y']\nd.e = true\n[b.f]\n");
        assert!(problems.is_empty(), "{problems}");
        let lines: Vec<_> = document
            .entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry.line))
            .collect();
        assert_eq!(lines, [("a", 1), ("b.c", 4), ("b.d.e", 7)]);
        assert_eq!(document.sections["b.f"], 8);
    }

    #[test]
    fn a_dot_in_quotes_makes_no_section() {
        let (document, _) = parse("'a.b' = 1\n['c.d']\ne = 1\n");
        let keys: Vec<_> = document.entries.keys().collect();
        assert_eq!(keys, ["\"a.b\"", "\"c.d\".e"]);
    }

    #[test]
    fn a_syntax_error_shows_its_line_and_not_what_stands_there() {
        let (_, problems) = parse("a = 1\npassword = \"hunter2\n");
        let text = problems.to_string();
        assert!(text.starts_with("config.toml:2: not TOML: "), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn bad_substitutions_are_all_found() {
        let (document, problems) = parse("a = '${X}'\nb = ['${Y}',\n'${Z}']\n");
        let lines = problems.lines();
        assert_eq!(lines.len(), 3, "{problems}");
        assert!(lines[2].starts_with("config.toml:3: b "), "{}", lines[2]);
        assert!(document.entries["b"].value.is_none());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            parse(&text);
        }

        #[test]
        fn no_likely_text_panics(text in "([a-c.]{1,4} ?= ?[0-9'\"$\\[{},}]{0,6}\n|\\[[a-c.]{0,3}\\]{1,2}\n){0,6}") {
            parse(&text);
        }
    }
}
