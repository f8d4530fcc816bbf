//! What a line looks like.
//!
//! Control characters are escaped and values cut, so that no byte from outside makes a line of
//! its own or fills the log.

pub(super) mod json;
pub(super) mod text;

use std::fmt::Write as _;

use log::kv::{Error, Key, Value, VisitSource, VisitValue};
use simplelog::format_description;
use time::format_description::BorrowedFormatItem;

/// RFC 3339 to the millisecond; the time has to be UTC.
pub(super) const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Bytes of a value, the mark of the cut included.
pub(super) const MAX_VALUE: usize = 256;
/// Bytes of a message, which is our own words around such values.
pub(super) const MAX_MESSAGE: usize = 4096;

/// Names of facts, in the order in which they are logged; others follow.
const ORDER: [&str; 12] = [
    "topic",
    "partition",
    "offset",
    "request_id",
    "org_id",
    "cluster_id",
    "outcome",
    "reason",
    "attempts",
    "duration",
    "generation",
    "traceparent",
];

/// A module without the name of this program.
pub(super) fn short(target: &str) -> &str {
    let own = env!("CARGO_CRATE_NAME");
    match target.strip_prefix(own) {
        Some("") => "main",
        Some(rest) => rest.strip_prefix("::").unwrap_or(target),
        None => target,
    }
}

/// At most `max` bytes of `text`; what was cut shows as `…`.
pub(super) fn cut(text: &str, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(max.saturating_sub(MARK.len()));
    format!("{}{MARK}", &text[..end])
}

/// Whether a terminal or a viewer may take the character for more than a letter: control
/// characters, line separators, and marks that turn the direction of text.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// The facts of a record, in order; of two with one name the first.
pub(super) fn facts(record: &log::Record<'_>) -> Vec<(String, serde_json::Value)> {
    struct Facts(Vec<(String, serde_json::Value)>);
    impl<'kvs> VisitSource<'kvs> for Facts {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
            if is_unknown(&value) {
                return Ok(());
            }
            let key = cut(key.as_str(), MAX_VALUE);
            if !self.0.iter().any(|(known, _)| *known == key) {
                self.0.push((key, plain(&value)));
            }
            Ok(())
        }
    }
    let mut facts = Facts(Vec::new());
    // The visitor returns no error.
    let _ = record.key_values().visit(&mut facts);
    let place = |key: &str| ORDER.iter().position(|name| *name == key);
    facts
        .0
        .sort_by_key(|(key, _)| place(key).unwrap_or(ORDER.len()));
    facts.0
}

/// Whether the value is `None`: a fact that is not known is left out.
fn is_unknown(value: &Value<'_>) -> bool {
    struct Null(bool);
    impl<'v> VisitValue<'v> for &mut Null {
        fn visit_any(&mut self, _: Value<'_>) -> Result<(), Error> {
            Ok(())
        }

        fn visit_null(&mut self) -> Result<(), Error> {
            self.0 = true;
            Ok(())
        }
    }
    let mut null = Null(false);
    // The visitor returns no error.
    let _ = value.visit(&mut null);
    null.0
}

fn plain(value: &Value<'_>) -> serde_json::Value {
    if let Some(yes) = value.to_bool() {
        return yes.into();
    }
    if let Some(number) = value.to_i64() {
        return number.into();
    }
    if let Some(number) = value.to_u64() {
        return number.into();
    }
    if let Some(number) = value.to_f64()
        && let Some(number) = serde_json::Number::from_f64(number)
    {
        return number.into();
    }
    cut(&value.to_string(), MAX_VALUE).into()
}

/// Appends `text` with unsafe characters escaped, as Rust writes them.
pub(super) fn push_escaped(line: &mut String, text: &str) {
    for c in text.chars() {
        if is_unsafe(c) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use log::kv::ToValue;

    use super::*;

    #[test]
    fn a_fact_that_is_not_known_is_left_out() {
        let pairs = [
            ("known", Some(7).to_value()),
            ("unknown", None::<&str>.to_value()),
        ];
        let pairs: &[(&str, Value<'_>)] = &pairs;
        let record = log::Record::builder().key_values(&pairs).build();
        assert_eq!(facts(&record), [("known".to_owned(), 7.into())]);
    }

    #[test]
    fn modules_lose_the_name_of_the_program_only() {
        assert_eq!(short("ccx_data_pipeline::kafka::group"), "kafka::group");
        assert_eq!(short("ccx_data_pipeline"), "main");
        assert_eq!(short("ccx_data_pipelines::x"), "ccx_data_pipelines::x");
        assert_eq!(short("rustls::conn"), "rustls::conn");
    }

    proptest! {
        #[test]
        fn a_cut_text_fits_and_begins_like_the_whole(text: String, max in 3usize..40) {
            let short = cut(&text, max);
            prop_assert!(short.len() <= max.max(text.len().min(max)));
            let kept = short.strip_suffix('…').unwrap_or(&short);
            prop_assert!(text.starts_with(kept));
        }
    }
}
