//! JSON of which only some fields are kept.
//!
//! A tree of the whole document takes many times its bytes: `1,` is two of them in a list and
//! more than seventy in memory, and a record of some KiB on the wire may inflate to tens of MiB.
//! So what nobody asks for is read, under the parser's depth limit and its rules, and dropped.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

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
    Text(String),
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

/// Reads one JSON document.
///
/// # Errors
/// The parser's: syntax, depth, anything behind the document.
pub(super) fn read(bytes: &[u8], wanted: &'static [Wanted]) -> Result<Kept, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let kept = Keep(wanted).deserialize(&mut parser)?;
    parser.end()?;
    Ok(kept)
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
        while items.next_element_seed(Discard)?.is_some() {}
        Ok(Kept::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kept, A::Error> {
        let mut fields: Vec<(&'static str, Kept)> = Vec::new();
        while let Some(field) = map.next_key_seed(Name(self.0))? {
            let Some(field) = field else {
                map.next_value_seed(Discard)?;
                continue;
            };
            let kept = map.next_value_seed(Keep(field.below))?;
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
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Wanted>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|wanted| wanted.name == name))
    }
}

/// Reads a value to its end and keeps nothing. Not [`serde::de::IgnoredAny`], for which the
/// parser counts no depth and accepts numbers and strings that it refuses elsewhere.
struct Discard;

impl<'de> DeserializeSeed<'de> for Discard {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Discard {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Discard)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Name(&[]))?.is_some() {
            map.next_value_seed(Discard)?;
        }
        Ok(())
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
    fn keep(value: &Value, wanted: &'static [Wanted]) -> Kept {
        match value {
            Value::Null => Kept::Null,
            Value::Bool(_) => Kept::Flag,
            Value::Number(number) => Kept::Number(number.clone()),
            Value::String(text) => Kept::Text(text.clone()),
            Value::Array(_) => Kept::List,
            Value::Object(fields) => {
                let kept = wanted.iter().filter_map(|wanted| {
                    let value = fields.get(wanted.name)?;
                    Some((wanted.name, keep(value, wanted.below)))
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
            (Ok(whole), Ok(kept)) if sorted(kept.clone()) == keep(whole, WANTED) => Ok(()),
            (Err(whole), Err(kept)) if whole.to_string() == kept.to_string() => Ok(()),
            (whole, kept) => Err(format!("{whole:?} and {kept:?}")),
        }
    }

    #[test]
    fn keeps_what_a_whole_tree_has() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let hidden = |depth| format!(r#"{{"x":{},"a":1}}"#, deep(depth));
        for text in [
            r#"{"a":1,"b":{"a":"x","b":{"a":[1],"c":2}},"c":[{}]}"#,
            r#"{"a":1,"a":"last","b":[],"b":{"a":null,"a":-1.5e3}}"#,
            r#"{"\u0061":"\ud83d\ude00","b":true}"#,
            r#"{"x":1e999}"#,
            r#"{"x":"\ud800"}"#,
            "{\"x\":\"\n\"}",
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

    proptest! {
        #[test]
        fn any_text_is_read_as_a_whole_tree_is(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "\"a\"", "\"b\"", "\"c\"", "1", "-0.5", "1e400", "null",
                "true", "\"\\u00e4\"", "\"", " ", "\"a\":", "\"b\":{",
            ]), 0..24),
        ) {
            agrees(pieces.concat().as_bytes()).map_err(TestCaseError::fail)?;
        }
    }
}
