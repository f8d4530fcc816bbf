//! The life-cycle table: when minor versions become available, and when they are left.
//!
//! Data, not code, since a minor version comes every few months: `data/lifecycle.toml` is
//! compiled in, and a configured file takes its place. Nothing here opens files; the text comes
//! from the configuration.

use std::collections::BTreeMap;

use thiserror::Error;
use time::Date;
use toml_edit::{Document, Item, TableLike, Value};

use crate::archive::documents::version::Branch;

/// The table as it was when the program was built.
const EMBEDDED: &str = include_str!("../../data/lifecycle.toml");

/// Minor versions and their dates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifeCycle {
    minors: BTreeMap<Branch, Dates>,
}

/// The dates of a minor version, each the first moment of a day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dates {
    /// General availability.
    pub available: Date,
    /// End of maintenance.
    pub end: Date,
    /// End of extended update support, where there is some.
    pub extended_end: Option<Date>,
}

/// What is wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Malformed {
    /// Where, from 1.
    pub line: usize,
    message: String,
}

impl LifeCycle {
    /// Reads a table: TOML, a line `"4.18" = { available = 2025-02-25, end = 2026-08-25 }` for
    /// each minor version, perhaps with `extended_end`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<LifeCycle, Malformed> {
        let document = Document::parse(text).map_err(|error| Malformed {
            line: error.span().map_or(1, |span| line_at(text, span.start)),
            message: format!("not TOML: {}", error.message()),
        })?;
        let table = document.as_table();
        let mut minors = BTreeMap::new();
        for (name, item) in table.iter() {
            let malformed = |message| Malformed {
                line: table
                    .key(name)
                    .and_then(|key| key.span())
                    .map_or(1, |span| line_at(text, span.start)),
                message: format!("{name}: {message}"),
            };
            let branch = branch(name)
                .ok_or_else(|| malformed("is no minor version, like \"4.18\"".to_owned()))?;
            let entry = item
                .as_table_like()
                .ok_or_else(|| malformed("wants { available = DATE, end = DATE }".to_owned()))?;
            minors.insert(branch, dates(entry).map_err(malformed)?);
        }
        if minors.is_empty() {
            return Err(Malformed {
                line: 1,
                message: "holds no version".to_owned(),
            });
        }
        Ok(LifeCycle { minors })
    }

    /// A minor version and those after it, the oldest first; empty when it is not known.
    pub fn from(&self, branch: Branch) -> impl Iterator<Item = (Branch, Dates)> {
        self.minors
            .range(branch..)
            .take(if self.minors.contains_key(&branch) {
                usize::MAX
            } else {
                0
            })
            .map(|(branch, dates)| (*branch, *dates))
    }
}

impl Default for LifeCycle {
    fn default() -> LifeCycle {
        LifeCycle::parse(EMBEDDED).expect("the embedded table is tested")
    }
}

fn line_at(text: &str, position: usize) -> usize {
    let before = text.as_bytes().get(..position).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn branch(name: &str) -> Option<Branch> {
    let (major, minor) = name.split_once('.')?;
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    Some(Branch {
        major: number(major)?,
        minor: number(minor)?,
    })
}

fn dates(entry: &dyn TableLike) -> Result<Dates, String> {
    for (field, _) in entry.iter() {
        if !["available", "end", "extended_end"].contains(&field) {
            return Err(format!(
                "{field} is no field; there are available, end and extended_end"
            ));
        }
    }
    let dates = Dates {
        available: date(entry, "available")?.ok_or("available is missing")?,
        end: date(entry, "end")?.ok_or("end is missing")?,
        extended_end: date(entry, "extended_end")?,
    };
    let last = dates.extended_end.unwrap_or(dates.end);
    if dates.available > dates.end || dates.end > last {
        return Err("its dates are out of order".to_owned());
    }
    Ok(dates)
}

fn date(entry: &dyn TableLike, field: &str) -> Result<Option<Date>, String> {
    let Some(item) = entry.get(field) else {
        return Ok(None);
    };
    let wanted = || format!("{field} wants a day, like 2025-02-25 without quotes");
    let Item::Value(Value::Datetime(value)) = item else {
        return Err(wanted());
    };
    let value = value.value();
    let day = value
        .date
        .filter(|_| value.time.is_none())
        .ok_or_else(wanted)?;
    let month = time::Month::try_from(day.month).map_err(|_| wanted())?;
    Date::from_calendar_date(day.year.into(), month, day.day)
        .map(Some)
        .map_err(|_| wanted())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::date;

    fn error(text: &str) -> (usize, String) {
        let malformed = LifeCycle::parse(text).unwrap_err();
        (malformed.line, malformed.to_string())
    }

    #[test]
    fn the_embedded_table_has_no_gap() {
        let table = LifeCycle::default();
        let minors: Vec<u64> = table.minors.keys().map(|branch| branch.minor).collect();
        assert_eq!(minors, (1..=20).collect::<Vec<_>>());
        let availables: Vec<_> = table.minors.values().map(|dates| dates.available).collect();
        assert!(availables.is_sorted());
    }

    #[test]
    fn versions_are_in_the_order_of_numbers() {
        let text = "\"4.10\" = { available = 2022-03-10, end = 2023-09-10 }\n\
                    [\"4.9\"]\navailable = 2021-10-18\nend = 2023-04-18\nextended_end = 2023-04-18\n";
        let table = LifeCycle::parse(text).unwrap();
        let from = |minor| {
            let branch = Branch { major: 4, minor };
            table
                .from(branch)
                .map(|(branch, _)| branch.minor)
                .collect::<Vec<_>>()
        };
        assert_eq!(from(9), [9, 10]);
        assert_eq!(from(10), [10]);
        assert_eq!(from(8), [0; 0]);
        let (_, dates) = table.from(Branch { major: 4, minor: 9 }).next().unwrap();
        assert_eq!(dates.extended_end, Some(date!(2023 - 04 - 18)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let good = "\"4.1\" = { available = 2019-06-04, end = 2020-05-05 }\n";
        for (bad, says) in [
            ("\"4.2\" = { available = 2019-06-04 ", "not TOML"),
            (
                "\"four\" = { available = 2019-06-04, end = 2020-05-05 }",
                "no minor version",
            ),
            (
                "\"4.2.1\" = { available = 2019-06-04, end = 2020-05-05 }",
                "no minor version",
            ),
            ("\"4.2\" = 2019-06-04", "wants {"),
            ("\"4.2\" = { end = 2020-05-05 }", "available is missing"),
            ("\"4.2\" = { available = 2019-06-04 }", "end is missing"),
            (
                "\"4.2\" = { available = \"2019-06-04\", end = 2020-05-05 }",
                "without quotes",
            ),
            (
                "\"4.2\" = { available = 2019-06-04T00:00:00Z, end = 2020-05-05 }",
                "available wants",
            ),
            (
                "\"4.2\" = { available = 2020-06-04, end = 2020-05-05 }",
                "out of order",
            ),
            (
                "\"4.2\" = { available = 2019-06-04, end = 2020-05-05, extended_end = 2020-05-04 }",
                "out of order",
            ),
            (
                "\"4.2\" = { available = 2019-06-04, end = 2020-05-05, eus = 1 }",
                "eus is no field",
            ),
            (
                "\"4.1\" = { available = 2019-06-04, end = 2020-05-05 }",
                "not TOML",
            ),
        ] {
            let (line, message) = error(&format!("{good}{bad}\n"));
            assert_eq!(line, 2, "{bad}: {message}");
            assert!(message.contains(says), "{bad}: {message}");
        }
        assert_eq!(error("# nothing\n"), (1, "holds no version".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(\"[0-9.]{0,4}\" ?= ?[{}a-z=0-9, -]{0,20}\n){0,4}|\\PC*") {
            let _ = LifeCycle::parse(&text);
        }
    }
}
