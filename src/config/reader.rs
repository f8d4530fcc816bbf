//! Finds the value of each key among its sources: default < file < `_env` < own variable.

use std::fmt::Write as _;

use super::document::{Document, Raw};
use super::env::Env;
use super::keys::{self, Key};
use super::kinds::{self, Kind};
use super::problems::{Origin, Problems};
use crate::secret::without_userinfo;

/// A key as it is in force, for `check`.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) section: &'static str,
    pub(super) name: String,
    /// What the key means; for a twin, what it does.
    pub(super) meaning: String,
    /// TOML, without secrets.
    pub(super) value: String,
    pub(super) origin: Origin,
}

impl Shown {
    /// The dotted name.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// Hands out one key after another, and remembers what was wrong and what is in force.
pub(super) struct Reader<'a> {
    document: Document,
    env: &'a Env,
    pub(super) problems: Problems,
    /// Keys whose `_env` twin was set and names a variable without a value, and that twin.
    unset: Vec<(String, String)>,
    /// Dotted names of keys that were wrong: checks across keys leave them out.
    wrong: Vec<String>,
    pub(super) shown: Vec<Shown>,
}

impl<'a> Reader<'a> {
    /// Reads from a document and variables; `problems` are those found so far.
    pub(super) fn new(document: Document, env: &'a Env, problems: Problems) -> Self {
        Self {
            document,
            env,
            problems,
            unset: Vec::new(),
            wrong: Vec::new(),
            shown: Vec::new(),
        }
    }

    /// The value of a key. What is wrong is kept as a problem and gives the default.
    pub(super) fn read<K: Kind>(&mut self, key: &Key, kind: &K, default: K::Value) -> K::Value {
        let path = key.path();
        let twins = [self.env_twin(key), self.file_twin(key)];
        let found = self.find(key, &path, &twins);
        let (value, origin) = match found {
            Ok(None) => (default, Origin::Default),
            Ok(Some((raw, origin))) => match kind.parse(&raw) {
                Ok(value) => (value, origin),
                Err(why) => {
                    self.wrong(&path, origin, why);
                    (default, Origin::Default)
                }
            },
            Err(()) => (default, Origin::Default),
        };
        self.shown.push(Shown {
            section: key.section,
            name: key.name.to_owned(),
            meaning: match kind.bounds() {
                Some(bounds) => format!("{} {bounds}", key.meaning.trim()),
                None => key.meaning.trim().to_owned(),
            },
            value: without_userinfo(&kind.write(&value)),
            origin,
        });
        for twin in twins.into_iter().flatten() {
            self.shown.push(twin.shown);
        }
        value
    }

    fn wrong(&mut self, path: &str, origin: Origin, why: impl Into<String>) {
        self.problems.push(origin, Some(path), why);
        self.wrong.push(path.to_owned());
    }

    /// The variable that the `_env` twin names.
    fn env_twin(&mut self, key: &Key) -> Option<Twin> {
        let (name, default) = key.env?;
        let meaning = format!(
            "Name of a variable that goes before {} when it has a value.",
            key.name
        );
        Some(self.twin(key.section, name.to_owned(), default, meaning))
    }

    /// The file that the `_file` twin names.
    fn file_twin(&mut self, key: &Key) -> Option<Twin> {
        key.file.then(|| {
            let meaning = format!("Path of a file that holds {}.", key.name);
            self.twin(key.section, format!("{}_file", key.name), "", meaning)
        })
    }

    fn twin(
        &mut self,
        section: &'static str,
        name: String,
        default: &str,
        meaning: String,
    ) -> Twin {
        let path = format!("{section}.{name}");
        let (target, origin) = match self.inline(&path) {
            Ok(Some((raw, origin))) => match kinds::ANY_TEXT.parse(&raw) {
                Ok(target) => (target, origin),
                Err(why) => {
                    self.wrong(&path, origin, why);
                    (default.to_owned(), Origin::Default)
                }
            },
            Ok(None) | Err(()) => (default.to_owned(), Origin::Default),
        };
        Twin {
            shown: Shown {
                section,
                name,
                meaning,
                value: kinds::quoted(&target),
                origin: origin.clone(),
            },
            target,
            origin,
        }
    }

    /// What the sources say of a key; `Err` when that was wrong and is told already.
    fn find(
        &mut self,
        key: &Key,
        path: &str,
        twins: &[Option<Twin>; 2],
    ) -> Result<Option<(Raw, Origin)>, ()> {
        let [env_twin, file_twin] = twins;
        let inline = self.inline(path)?;
        if let Some((_, Origin::Variable(_))) = inline {
            return Ok(inline);
        }
        if let Some(name) = env_twin.as_ref().map(|twin| twin.target.as_str())
            && !name.is_empty()
        {
            let origin = || Origin::Variable(name.to_owned());
            match self.env.text(name) {
                Ok(Some(text)) if !text.is_empty() => {
                    return Ok(Some((Raw::Text(text.to_owned()), origin())));
                }
                // The names that we give ourselves are there to be used or not.
                Ok(_) if key.env.is_some_and(|(_, usual)| usual == name) => {}
                Ok(_) => self
                    .unset
                    .extend(key.env_path().map(|twin| (path.to_owned(), twin))),
                Err(why) => {
                    self.wrong(path, origin(), why);
                    return Err(());
                }
            }
        }
        let Some(file) = file_twin.as_ref().filter(|twin| !twin.target.is_empty()) else {
            return Ok(inline);
        };
        if let Some((raw, origin)) = inline
            && raw != Raw::Text(String::new())
        {
            let why = format!("set here and by {}_file; one of them has to go", key.name);
            self.wrong(path, origin, why);
            return Err(());
        }
        match super::read_text(file.target.as_ref()) {
            Ok(text) => {
                // Editors and `echo` end a file with a newline that is no part of a password.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                let origin = Origin::SecretFile(file.target.clone());
                Ok(Some((Raw::Text(text.to_owned()), origin)))
            }
            Err(error) => {
                let path = key.file_path().unwrap_or_default();
                let why = format!("cannot read {:?}: {error}", file.target);
                self.wrong(&path, file.origin.clone(), why);
                self.wrong.push(key.path());
                Err(())
            }
        }
    }

    /// The value of the key's own variable, else of the file.
    fn inline(&mut self, path: &str) -> Result<Option<(Raw, Origin)>, ()> {
        let variable = keys::variable_of(path);
        match self.env.text(&variable) {
            Ok(Some(text)) => {
                return Ok(Some((
                    Raw::Text(text.to_owned()),
                    Origin::Variable(variable),
                )));
            }
            Ok(None) => {}
            Err(why) => {
                self.wrong(path, Origin::Variable(variable), why);
                return Err(());
            }
        }
        match self.document.entries.get(path) {
            None => Ok(None),
            Some(entry) => match &entry.value {
                Some(raw) => Ok(Some((raw.clone(), Origin::Line(entry.line)))),
                // Its problem was told when the file was taken apart.
                None => {
                    self.wrong.push(path.to_owned());
                    Err(())
                }
            },
        }
    }

    /// A check across keys: when it does not hold, `message` is a problem of the first of `paths`.
    /// Left out when one of them is wrong by itself, since its value is not what was meant.
    pub(super) fn require(&mut self, holds: bool, paths: &[&str], message: impl Into<String>) {
        if holds
            || paths
                .iter()
                .any(|path| self.wrong.iter().any(|wrong| wrong == path))
        {
            return;
        }
        // Said where somebody said something, of a default nobody can know.
        let said: Vec<_> = paths
            .iter()
            .filter_map(|path| Some((*path, self.origin_of(path)?)))
            .collect();
        let (path, origin) = said
            .iter()
            .find(|(_, origin)| *origin != Origin::Default)
            .or(said.first())
            .cloned()
            .unwrap_or(("", Origin::Default));
        let mut message = message.into();
        let others: Vec<_> = paths.iter().filter(|other| **other != path).collect();
        if !others.is_empty() {
            message.push_str(" (see also");
            for (index, other) in others.iter().enumerate() {
                // Writing to a String cannot fail.
                let _ = write!(message, "{} {other}", if index > 0 { "," } else { "" });
            }
            message.push(')');
        }
        self.problems.push(origin, Some(path), message);
    }

    /// One sentence for each key whose value was to come from a variable that has none, behind
    /// the name of the key. The variable's own name is not told: somebody may have written the
    /// password there.
    pub(super) fn unset(&self) -> impl Iterator<Item = (&str, String)> {
        self.unset.iter().map(|(key, twin)| {
            let sentence = format!("the variable that {twin} names has no value");
            (key.as_str(), sentence)
        })
    }

    fn origin_of(&self, path: &str) -> Option<Origin> {
        self.shown
            .iter()
            .find(|shown| shown.path() == path)
            .map(|shown| shown.origin.clone())
    }

    /// Refuses every name of file and environment that is not in the table.
    pub(super) fn refuse_unknown(&mut self, table: &[Key], later: &[&str]) {
        let known: Vec<String> = table.iter().flat_map(Key::paths).collect();
        let belongs = |path: &str, section: &str| {
            path.strip_prefix(section)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        let is_section = |section: &str| {
            known
                .iter()
                .map(String::as_str)
                .chain(later.iter().copied())
                .any(|path| belongs(path, section))
        };
        // An unknown section is one problem, not one for each of its keys.
        let mut unknown_sections: Vec<&str> = Vec::new();
        for (section, line) in &self.document.sections {
            if is_section(section) || unknown_sections.iter().any(|outer| belongs(section, outer)) {
                continue;
            }
            if known.contains(section) {
                let why = "is a section here, wants a value";
                self.problems.push(Origin::Line(*line), Some(section), why);
            } else {
                let sections = known
                    .iter()
                    .filter_map(|path| Some(path.rsplit_once('.')?.0));
                let why = format!("unknown section{}", did_you_mean(section, sections));
                self.problems
                    .push(Origin::Line(*line), None, format!("{section}: {why}"));
            }
            unknown_sections.push(section);
        }
        for (path, entry) in &self.document.entries {
            if known.contains(path) || unknown_sections.iter().any(|outer| belongs(path, outer)) {
                continue;
            }
            let why = if is_section(path) {
                "is a section".to_owned()
            } else if later.contains(&path.as_str()) {
                "not supported by this version".to_owned()
            } else {
                format!(
                    "unknown key{}",
                    did_you_mean(path, known.iter().map(String::as_str))
                )
            };
            self.problems
                .push(Origin::Line(entry.line), None, format!("{path}: {why}"));
        }
        for name in self.env.names_from(keys::PREFIX) {
            if known.iter().any(|path| keys::variable_of(path) == name) {
                continue;
            }
            let origin = Origin::Variable(name.to_owned());
            let why = if later.iter().any(|path| keys::variable_of(path) == name) {
                "not supported by this version".to_owned()
            } else {
                let variables: Vec<_> = known.iter().map(|path| keys::variable_of(path)).collect();
                format!(
                    "stands for no key{}",
                    did_you_mean(name, variables.iter().map(String::as_str))
                )
            };
            self.problems.push(origin, None, why);
        }
    }
}

/// A `_env` or `_file` key.
struct Twin {
    shown: Shown,
    /// The variable or file that it names; empty: none.
    target: String,
    origin: Origin,
}

/// `; did you mean X?` for the nearest name, if one is near: a slip of the keyboard, or the right
/// name in the wrong section.
fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    known
        .map(|path| {
            let far = distance(name, path);
            let elsewhere = last(path) == last(name);
            (if elsewhere { far.min(1) } else { far }, path)
        })
        .min()
        .filter(|(far, _)| *far <= 1 + last(name).len() / 5)
        .map(|(_, path)| format!("; did you mean {path}?"))
        .unwrap_or_default()
}

/// Number of letters to put in, take out or exchange to turn one into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in to.iter().enumerate() {
            let exchanged = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = exchanged.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (from, to, far) in [
            ("", "", 0),
            ("abc", "abd", 1),
            ("abc", "", 3),
            ("sesion", "session", 1),
        ] {
            assert_eq!(distance(from, to), far, "{from} {to}");
            assert_eq!(distance(to, from), far, "{to} {from}");
        }
    }

    #[test]
    fn near_names_are_offered_and_far_ones_not() {
        let known = ["consumer.group_id", "publisher.outgoing_topic"];
        let offer = |name| did_you_mean(name, known.into_iter());
        assert!(offer("consumer.groupid").contains("consumer.group_id"));
        assert!(offer("consumer.outgoing_topic").contains("publisher.outgoing_topic"));
        assert_eq!(offer("consumer.wholly_else"), "");
    }
}
