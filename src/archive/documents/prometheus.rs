//! Prometheus' text format, one line at a time.
//!
//! `config/metrics` and `config/dvo_metrics` hold it, a sample for each object of the cluster,
//! of which rules read a few series. The crates that read this format take a whole text and make
//! owned labels of all of it, so a line is read here by itself, borrowing what it can. What is no
//! sample (comments, types, damage) is `None` and costs only its line, and the name can be asked
//! for before the rest is looked at.

use std::borrow::Cow;

/// Most labels of a sample; Prometheus' own series have some twenty.
const LABELS: usize = 128;

/// Name and value of a label.
pub type Label<'a> = (&'a str, Cow<'a, str>);

/// One sample of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// In the order of the line.
    pub labels: Vec<Label<'a>>,
    /// The value; may be infinite or no number.
    pub value: f64,
    /// Milliseconds since 1970, where the line has it.
    pub timestamp: Option<i64>,
}

impl<'a> Sample<'a> {
    /// Reads a line, without its end.
    pub fn parse(line: &'a str) -> Option<Sample<'a>> {
        let name = name(line)?;
        let rest = trim(&trim(line)[name.len()..]);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (Vec::new(), rest),
        };
        let mut numbers = rest.split(is_blank).filter(|number| !number.is_empty());
        let value = numbers.next()?.parse().ok()?;
        let timestamp = numbers.next().map(str::parse).transpose().ok()?;
        numbers.next().is_none().then_some(Sample {
            name,
            labels,
            value,
            timestamp,
        })
    }

    /// The value of a label. To Prometheus an empty label and an absent one are the same, so it
    /// is empty for both.
    pub fn label(&self, name: &str) -> &str {
        self.labels
            .iter()
            .find(|(known, _)| *known == name)
            .map_or("", |(_, value)| value)
    }
}

/// The name with which a line begins, whatever follows; none for comments and blank lines.
pub fn name(line: &str) -> Option<&str> {
    let line = trim(line);
    let end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(line.len());
    let name = &line[..end];
    let first = name.chars().next()?;
    (!first.is_ascii_digit()).then_some(name)
}

/// Names and values of labels, in their order.
type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// What is between the braces, and what follows them.
fn parse_labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = trim(rest);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        if labels.len() == LABELS {
            return None;
        }
        let label = name(rest).filter(|label| !label.contains(':'))?;
        let quoted = trim(&rest[label.len()..]).strip_prefix('=')?;
        let (value, after) = parse_value(trim(quoted).strip_prefix('"')?)?;
        labels.push((label, value));
        rest = trim(after);
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
}

/// A label's value up to its closing quote, and what follows that.
fn parse_value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let special = text.find(['"', '\\'])?;
    if text[special..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..special]), &text[special + 1..]));
    }
    let mut value = text[..special].to_owned();
    let mut characters = text[special..].char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => {
                return Some((Cow::Owned(value), &text[special + position + 1..]));
            }
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                // As Prometheus' own reader has it: no escape, so both characters stand.
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
    None
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn trim(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Sample<'_> {
        Sample::parse(line).unwrap_or_else(|| panic!("{line}"))
    }

    #[test]
    fn reads_name_labels_value_and_time() {
        let line = r#"etcd_slow_total{pod="etcd-a",le="+Inf",} 8 1706601229875"#;
        let sample = parse(line);
        assert_eq!(sample.name, "etcd_slow_total");
        assert_eq!(sample.label("pod"), "etcd-a");
        assert_eq!(sample.label("none"), "");
        assert_eq!(sample.labels.len(), 2);
        assert_eq!(
            (sample.value, sample.timestamp),
            (8.0, Some(1_706_601_229_875))
        );
        assert_eq!(parse("a:b_c 1.5e3"), parse("\ta:b_c {} 1.5e3 "));
        assert!(parse("a NaN -1").value.is_nan());
        assert_eq!(parse("a -Inf").value, f64::NEG_INFINITY);
    }

    #[test]
    fn escapes_and_signs_stand_inside_values() {
        let sample = parse(r#"a { x = "1\"2\\3\n4\d}, y=\"" , y="ä#{" } 1"#);
        assert_eq!(sample.label("x"), "1\"2\\3\n4\\d}, y=\"");
        assert_eq!(sample.label("y"), "ä#{");
    }

    #[test]
    fn what_is_no_sample_is_none() {
        for line in [
            "",
            "  ",
            "# TYPE a counter",
            "# http://dvo.svc:8383",
            "a",
            "a{",
            "a{} ",
            "a x",
            "a 1 x",
            "a 1 1.5",
            "a 1 1 1",
            "1a 1",
            r#"a{b="c" 1"#,
            r#"a{b="c} 1"#,
            r#"a{b="c\"#,
            r#"a{b="c"d="e"} 1"#,
            r#"a{,} 1"#,
            r#"a{b:c="d"} 1"#,
            r#"a{b=c} 1"#,
            r#"{"a", b="c"} 1"#,
        ] {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
        assert_eq!(name("# TYPE a counter"), None);
        assert_eq!(name("ALERTS{damaged"), Some("ALERTS"));
    }

    #[test]
    fn labels_without_end_are_not_collected() {
        let line = |count| format!("a{{{}}} 1", "b=\"c\",".repeat(count));
        assert_eq!(parse(&line(LABELS)).labels.len(), LABELS);
        assert_eq!(Sample::parse(&line(LABELS + 1)), None);
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,8}",
            labels in proptest::collection::vec(("[a-z_][a-z0-9_]{0,5}", "\\PC{0,6}|[\\\\\"\n{},=a]{0,6}"), 0..5),
            value in any::<f64>().prop_filter("compared below", |value| !value.is_nan()),
            timestamp in any::<Option<i64>>(),
        ) {
            let escape = |value: &str| {
                value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
            };
            let written: Vec<_> = labels
                .iter()
                .map(|(label, value)| format!("{label}=\"{}\"", escape(value)))
                .collect();
            let mut line = format!("{name}{{{}}} {value:?}", written.join(","));
            if let Some(timestamp) = timestamp {
                line += &format!(" {timestamp}");
            }
            let sample = Sample::parse(&line);
            let sample = sample.as_ref().expect("a sample");
            prop_assert_eq!(sample.name, &name);
            let read: Vec<_> = sample
                .labels
                .iter()
                .map(|(label, value)| ((*label).to_owned(), value.clone().into_owned()))
                .collect();
            prop_assert_eq!(read, labels);
            prop_assert_eq!(sample.value, value);
            prop_assert_eq!(sample.timestamp, timestamp);
        }

        #[test]
        fn never_panics(line in "\\PC*|[a-b{}=\", \\\\0-9.]{0,40}") {
            let _ = name(&line);
            let _ = Sample::parse(&line);
        }
    }
}
