//! What is wrong with a configuration: all of it, in one list.

use std::fmt;

use crate::secret::without_userinfo;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The configuration file, at this line.
    Line(usize),
    /// The configuration file as a whole.
    File,
    /// A variable of the environment.
    Variable(String),
    /// A file that a `_file` key names.
    SecretFile(String),
    /// Nobody said anything.
    Default,
}

/// One problem: where, which key, how the key can be set by a variable, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub(super) origin: Origin,
    pub(super) key: Option<String>,
    pub(super) message: String,
}

/// Every problem of a configuration, those of the file first, by line.
///
/// `Display` gives one line for each. No secret is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    /// How the file is called; empty when none was read.
    pub(super) file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// None yet, of a file of this name.
    pub(super) fn of(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            list: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, origin: Origin, key: Option<&str>, message: impl Into<String>) {
        self.list.push(Problem {
            origin,
            key: key.map(str::to_owned),
            message: message.into(),
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether the configuration is good.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn sort(&mut self) {
        // Stable: problems of one place stay in the order in which they were found.
        self.list.sort_by_key(|problem| match &problem.origin {
            Origin::File => (0, 0, String::new()),
            Origin::Line(line) => (1, *line, String::new()),
            Origin::Variable(name) => (2, 0, name.clone()),
            Origin::SecretFile(path) => (3, 0, path.clone()),
            Origin::Default => (4, 0, String::new()),
        });
    }

    /// The problems, one line each.
    pub fn lines(&self) -> Vec<String> {
        self.list.iter().map(|problem| self.line(problem)).collect()
    }

    fn line(&self, problem: &Problem) -> String {
        let place = match &problem.origin {
            Origin::File => format!("{}: ", self.file),
            Origin::Line(line) => format!("{}:{line}: ", self.file),
            Origin::Variable(name) => format!("variable {name}: "),
            Origin::SecretFile(path) => format!("file {path}: "),
            Origin::Default => String::new(),
        };
        let key = match &problem.key {
            None => String::new(),
            Some(key) => {
                let variable = super::keys::variable_of(key);
                // Said once: the place may be that very variable.
                if problem.origin == Origin::Variable(variable.clone()) {
                    format!("{key}: ")
                } else {
                    format!("{key} (or {variable}): ")
                }
            }
        };
        let line = format!("{place}{key}{}", problem.message);
        without_userinfo(&line).replace(|c: char| c.is_control(), " ")
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            f.write_str(line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
