//! JSON of which only some fields are kept.
//!
//! A tree of the whole document takes many times its bytes: `1,` is two of them in a list and
//! more than seventy in memory, and a record of some KiB on the wire may inflate to tens of MiB.
//! So what nobody asks for is read by the rules of JSON, down to the same depth, and dropped.
//!
//! JSON may hold what no text or number of ours can: half of a surrogate pair, which programs write
//! that cut texts, or `1e999`. A message with it is one all the same, and a field that holds it is
//! like one of another type.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

/// Levels that the parser goes down.
const MAX_DEPTH: usize = 127;

/// A field that is kept, and those that are kept below it.
#[derive(Debug)]
pub(super) struct Wanted {
    name: &'static str,
    below: &'static [Wanted],
}

impl Wanted {
    /// A field of which nothing below is wanted.
    pub(super) const fn leaf(name: &'static str) -> Wanted {
        Wanted { name, below: &[] }
    }

    /// A field of whose fields some are wanted.
    pub(super) const fn object(name: &'static str, below: &'static [Wanted]) -> Wanted {
        Wanted { name, below }
    }
}

/// What is kept of a JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kept {
    Null,
    Flag,
    Number(Number),
    /// A number beyond those that a float can be.
    HugeNumber,
    Text(String),
    /// A text with half of a surrogate pair, which is no text in UTF-8.
    BrokenText,
    /// Of a list nothing is kept.
    List,
    /// Of an object the wanted fields; of two with one name the last, as everywhere.
    Object(Vec<(&'static str, Kept)>),
}

impl Kept {
    /// The field of this name, if this is an object that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Kept> {
        let Kept::Object(fields) = self else {
            return None;
        };
        let field = fields.iter().find(|(field, _)| *field == name);
        field.map(|(_, kept)| kept)
    }

    /// The value at the end of a path of fields.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Kept> {
        path.iter().try_fold(self, |kept, name| kept.get(name))
    }

    /// The text, if this is one.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Kept::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is one that is whole and not negative.
    pub(super) fn as_u64(&self) -> Option<u64> {
        match self {
            Kept::Number(number) => number.as_u64(),
            _ => None,
        }
    }
}

/// Where a text stops being one JSON document, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    /// The place behind these bytes.
    fn behind(bytes: &[u8]) -> Place {
        let last = bytes.rsplit(|byte| *byte == b'\n').next();
        Place {
            line: 1 + bytes.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + last.map_or(0, <[u8]>::len),
        }
    }
}

impl From<serde_json::Error> for Place {
    fn from(error: serde_json::Error) -> Place {
        Place {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// Reads one JSON document in UTF-8. A mark of the byte order may stand before it: Windows
/// programs write one, and the service that we replace reads it.
///
/// # Errors
/// Where it breaks: syntax, encoding, depth, anything behind the document.
pub(super) fn read(bytes: &[u8], wanted: &'static [Wanted]) -> Result<Kept, Place> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = str::from_utf8(bytes)
        .map_err(|error| Place::behind(bytes.get(..error.valid_up_to()).unwrap_or_default()))?;
    check_passed_over(text)?;
    let value = serde_json::from_str::<&RawValue>(text)?;
    Ok(keep(value, wanted))
}

/// What is kept of a value that is known to be JSON. So it is only for itself, and not for what
/// lies below, that it cannot be read.
fn keep(value: &RawValue, wanted: &'static [Wanted]) -> Kept {
    let value = value.get();
    let kept = Keep(wanted).deserialize(&mut serde_json::Deserializer::from_str(value));
    kept.unwrap_or(match value.starts_with('"') {
        true => Kept::BrokenText,
        false => Kept::HugeNumber,
    })
}

/// Refuses what the parser does not look for in what it passes over: too many levels, and control
/// characters in names.
fn check_passed_over(text: &str) -> Result<(), Place> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        let here = || Place::behind(text.as_bytes().get(..at).unwrap_or_default());
        match byte {
            ..b' ' if in_text => return Err(here()),
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' if depth == MAX_DEPTH => {
                return Err(here());
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a value and keeps it, of an object these fields.
struct Keep(&'static [Wanted]);

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Kept;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Kept, D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep {
    type Value = Kept;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Kept, E> {
        Ok(Kept::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Kept, E> {
        Ok(Kept::Flag)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Kept, E> {
        Ok(Kept::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Kept, E> {
        Ok(Kept::Number(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Kept, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("not a number"))?;
        Ok(Kept::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Kept, E> {
        Ok(Kept::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kept, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Kept::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kept, A::Error> {
        let mut fields: Vec<(&'static str, Kept)> = Vec::new();
        while let Some(field) = map.next_key_seed(Name(self.0))? {
            let Some(field) = field else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let kept = keep(map.next_value()?, field.below);
            fields.retain(|(name, _)| *name != field.name);
            fields.push((field.name, kept));
        }
        Ok(Kept::Object(fields))
    }
}

/// Reads the name of a field and tells which of the wanted ones it is.
struct Name(&'static [Wanted]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Wanted>;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Self::Value, D::Error> {
        // As bytes, since a name that nobody wants may be no text either.
        name.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Wanted>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
        let mut wanted = self.0.iter();
        Ok(wanted.find(|wanted| wanted.name.as_bytes() == name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const WANTED: &[Wanted] = &[
        Wanted::leaf("a"),
        Wanted::object(
            "b",
            &[Wanted::leaf("a"), Wanted::object("b", &[Wanted::leaf("a")])],
        ),
    ];

    /// What is to be kept of a whole tree.
    fn kept_of(value: &Value, wanted: &'static [Wanted]) -> Kept {
        match value {
            Value::Null => Kept::Null,
            Value::Bool(_) => Kept::Flag,
            Value::Number(number) => Kept::Number(number.clone()),
            Value::String(text) => Kept::Text(text.clone()),
            Value::Array(_) => Kept::List,
            Value::Object(fields) => {
                let kept = wanted.iter().filter_map(|wanted| {
                    let value = fields.get(wanted.name)?;
                    Some((wanted.name, kept_of(value, wanted.below)))
                });
                Kept::Object(kept.collect())
            }
        }
    }

    /// Fields in the order of the table.
    fn sorted(kept: Kept) -> Kept {
        match kept {
            Kept::Object(mut fields) => {
                fields.sort_by_key(|(name, _)| *name);
                let fields = fields.into_iter().map(|(name, kept)| (name, sorted(kept)));
                Kept::Object(fields.collect())
            }
            other => other,
        }
    }

    fn agrees(bytes: &[u8]) -> Result<(), String> {
        let whole = serde_json::from_slice::<Value>(bytes);
        let kept = read(bytes, WANTED);
        match (&whole, kept) {
            (Ok(whole), Ok(kept)) if sorted(kept.clone()) == kept_of(whole, WANTED) => Ok(()),
            (Err(_), Err(_)) => Ok(()),
            (Err(whole), Ok(_)) if is_unsayable(whole) => Ok(()),
            (whole, kept) => Err(format!("{whole:?} and {kept:?}")),
        }
    }

    /// Whether it is JSON, and only no value of ours.
    fn is_unsayable(error: &serde_json::Error) -> bool {
        let text = error.to_string();
        [
            "number out of range",
            "surrogate",
            "unexpected end of hex escape",
        ]
        .iter()
        .any(|what| text.contains(what))
    }

    #[test]
    fn keeps_what_a_whole_tree_has() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let hidden = |depth| format!(r#"{{"x":{},"a":1}}"#, deep(depth));
        for text in [
            r#"{"a":1,"b":{"a":"x","b":{"a":[1],"c":2}},"c":[{}]}"#,
            r#"{"a":1,"a":"last","b":[],"b":{"a":null,"a":-1.5e3}}"#,
            r#"{"\u0061":"\ud83d\ude00","b":true}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"x":"\ud80"}"#,
            r#"{"x":01}"#,
            r#"{"x":"[[[\"[[[\\"}"#,
            "{\"x\":\"\n\"}",
            "{\"x\n\":1}",
            "{\"x\":\"\u{fffd}\"}",
            r#"{"x":-0,"a":-0}"#,
            "[]",
            " 1 ",
            "{} {}",
            "{\"a\":1,}",
            "",
            &deep(127),
            &deep(128),
            &hidden(126),
            &hidden(127),
            &hidden(100_000),
        ] {
            agrees(text.as_bytes()).unwrap();
        }
        agrees(b"{\"x\":\"\xff\"}").unwrap();
        agrees(b"{\"\xff\":1}").unwrap();
    }

    #[test]
    fn m14_what_nobody_asks_for_need_be_no_value_of_ours() {
        for unknown in [
            r#""x":1e999"#,
            r#""x":-1e999,"y":123456789012345678901234567890"#,
            r#""x":"cut \ud83d""#,
            r#""x":"\udc00\ud800x""#,
            r#""\ud800":1"#,
            r#""x":[{"\ud800":["\ud800",1e999]}]"#,
        ] {
            let text = format!(r#"{{"a":1,{unknown}}}"#);
            let kept = read(text.as_bytes(), WANTED).unwrap();
            assert_eq!(kept.get("a").and_then(Kept::as_u64), Some(1), "{text}");
        }
    }

    #[test]
    fn m04_what_somebody_asks_for_may_be_no_value_of_ours_either() {
        for (text, kept) in [
            ("1e999", Kept::HugeNumber),
            ("-1e999", Kept::HugeNumber),
            (&"9".repeat(400), Kept::HugeNumber),
            (r#""cut \ud83d""#, Kept::BrokenText),
            (r#""\udc00\ud800""#, Kept::BrokenText),
        ] {
            assert_eq!(read(text.as_bytes(), WANTED).as_ref(), Ok(&kept));
            let message = format!(r#"{{"b":{{"b":{{"a":{text}}},"a":{text}}},"a":1}}"#);
            let message = read(message.as_bytes(), WANTED).unwrap();
            assert_eq!(message.at(&["b", "b", "a"]), Some(&kept), "{text}");
            assert_eq!(message.at(&["b", "a"]), Some(&kept), "{text}");
            assert_eq!(message.get("a").and_then(Kept::as_u64), Some(1), "{text}");
        }
        for broken in [r#"{"a":"\ud80"}"#, r#"{"a":1e}"#, r#"{"a":"\ud800}"#] {
            assert!(read(broken.as_bytes(), WANTED).is_err(), "{broken}");
        }
    }

    #[test]
    fn m02_a_mark_of_the_byte_order_may_stand_before_it() {
        assert!(read("\u{feff}{}".as_bytes(), WANTED).is_ok());
        for other in ["\u{feff}", "\u{feff}\u{feff}{}", "{\u{feff}}", "{}\u{feff}"] {
            assert!(read(other.as_bytes(), WANTED).is_err(), "{other:?}");
        }
        assert!(read(b"\xff\xfe{\0}\0", WANTED).is_err());
    }

    #[test]
    fn m02_the_place_is_where_it_breaks() {
        let place = |line, column| Err(Place { line, column });
        assert_eq!(read(b"{\n \"x\":\"\xff\"}", WANTED), place(2, 7));
        let deep = format!("{{\n\"x\":{}", "[".repeat(200));
        assert_eq!(read(deep.as_bytes(), WANTED), place(2, 5 + 126));
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_a_whole_tree_is(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "\"a\"", "\"b\"", "\"c\"", "1", "-0.5", "1e400", "null",
                "true", "\"\\u00e4\"", "\"", " ", "\"a\":", "\"b\":{", "\"\\ud800\"",
            ]), 0..24),
        ) {
            agrees(pieces.concat().as_bytes()).map_err(TestCaseError::fail)?;
        }
    }
}
