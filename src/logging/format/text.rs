//! Lines for people.

use log::{LevelFilter, Record};
use simplelog::{Config, ConfigBuilder};

use super::{MAX_MESSAGE, TIME, cut, facts, is_unsafe, push_escaped};

/// Time in UTC to the millisecond, level, module, message.
pub(in crate::logging) fn layout() -> Config {
    ConfigBuilder::new()
        .set_time_format_custom(TIME)
        // Each of these is the lowest level that shows the part; ERROR is all.
        .set_time_level(LevelFilter::Error)
        .set_target_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build()
}

/// The message and behind it the facts as `key=value`.
pub(in crate::logging) fn message(record: &Record<'_>) -> String {
    let mut line = String::new();
    push_escaped(&mut line, &cut(&record.args().to_string(), MAX_MESSAGE));
    for (key, value) in facts(record) {
        line.push(' ');
        push_escaped(&mut line, &key);
        line.push('=');
        match value {
            serde_json::Value::String(text) => push_value(&mut line, &text),
            other => line.push_str(&other.to_string()),
        }
    }
    line
}

/// A value as it is, or in quotes where it would not end at its end.
fn push_value(line: &mut String, text: &str) {
    let bare = |c: char| !c.is_whitespace() && !is_unsafe(c) && !matches!(c, '"' | '=' | '\\');
    if !text.is_empty() && text.chars().all(bare) {
        line.push_str(text);
        return;
    }
    line.push('"');
    let text = text.replace('\\', r"\\").replace('"', "\\\"");
    push_escaped(line, &text);
    line.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> String {
        let mut line = String::new();
        push_value(&mut line, text);
        line
    }

    #[test]
    fn values_end_where_they_end() {
        assert_eq!(value("plain-1.2"), "plain-1.2");
        assert_eq!(value(""), "\"\"");
        assert_eq!(value("a b"), "\"a b\"");
        assert_eq!(value("x offset=9"), "\"x offset=9\"");
        assert_eq!(value("a\"b\\c"), "\"a\\\"b\\\\c\"");
        assert_eq!(value("a\nb\u{1b}[0m"), "\"a\\nb\\u{1b}[0m\"");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_comes_out(text: String) {
            prop_assert!(!value(&text).chars().any(is_unsafe));
        }
    }
}
