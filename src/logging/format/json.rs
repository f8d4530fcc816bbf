//! Lines for programs.

use std::fmt::Write as _;

use log::{Level, Record};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{MAX_MESSAGE, TIME, cut, facts, is_unsafe, short};

/// One JSON object and a newline. `now` is UTC.
pub(in crate::logging) fn line(record: &Record<'_>, now: OffsetDateTime) -> String {
    let mut object = Map::new();
    object.insert(
        "@timestamp".into(),
        now.format(TIME).unwrap_or_default().into(),
    );
    object.insert("levelname".into(), level_name(record.level()).into());
    object.insert("name".into(), short(record.target()).into());
    let message = cut(&record.args().to_string(), MAX_MESSAGE);
    object.insert("message".into(), message.into());
    for (key, value) in facts(record) {
        // A fact may not pass itself off as the time or the message.
        object.entry(key).or_insert(value);
    }
    let mut line = String::new();
    // JSON lets characters through that a terminal obeys. They stand in texts only.
    for c in Value::Object(object).to_string().chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// The words of Python's logging, which the dashboards of the replaced service know.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line_of(message: &str, value: &str) -> String {
        let pairs: &[(&str, log::kv::Value<'_>)] = &[
            ("message", "forged".into()),
            ("reason", value.into()),
            ("ok", true.into()),
            ("duration", 0.25.into()),
        ];
        line(
            &Record::builder()
                .level(Level::Info)
                .target("ccx_data_pipeline::pipeline")
                .key_values(&pairs)
                .args(format_args!("{message}"))
                .build(),
            OffsetDateTime::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_line_in_full() {
        assert_eq!(
            line_of("done", "a\u{9b}b\u{202e}"),
            "{\"@timestamp\":\"1970-01-01T00:00:00.000Z\",\"levelname\":\"INFO\",\
             \"name\":\"pipeline\",\"message\":\"done\",\"reason\":\"a\\u009bb\\u202e\",\
             \"duration\":0.25,\"ok\":true}\n"
        );
    }

    #[test]
    fn long_values_are_cut() {
        let line = line_of("done", &"x".repeat(1000));
        let value: Value = serde_json::from_str(&line).expect("JSON");
        let reason = value["reason"].as_str().expect("text");
        assert_eq!(reason.len(), super::super::MAX_VALUE);
        assert!(reason.ends_with('…'));
    }

    proptest! {
        #[test]
        fn every_line_is_one_object(message: String, value in ".{0,60}") {
            let line = line_of(&message, &value);
            prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            let object: Value = serde_json::from_str(&line).expect("JSON");
            prop_assert_eq!(object["message"].as_str(), Some(message.as_str()));
            prop_assert_eq!(object["reason"].as_str(), Some(value.as_str()));
        }
    }
}
