//! Tolerant reading of JSON: a field of another type than documented counts as absent.
//!
//! Operators and API servers of many years write these files; one odd field must not cost the
//! document. Only syntax, depth (the parser's 128 levels) and the type of the top level make a
//! document unreadable. Go writes `null` for empty lists and objects, so `null` is absent too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Damage;

/// Bytes that an allocation takes at the least.
const BLOCK: usize = 32;
/// Places of a map's node, and how many of them are filled at the least where keys come in order.
const NODE: usize = 11;
const NODE_FILLED: usize = 6;

thread_local! {
    /// Bytes that what is being read may still take. On the side, since it would have to pass
    /// through every method of every [`Field`] otherwise.
    static ROOM: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Does `work`, in which what is read as fields may take `room` bytes of memory; gives what is
/// left of them, too. A list of empty objects takes three bytes each in a file and hundreds in
/// memory, so no limit on files is one on this.
pub(crate) fn within<T>(room: usize, work: impl FnOnce() -> T) -> (T, usize) {
    let outer = ROOM.replace(room);
    let done = work();
    (done, ROOM.replace(outer))
}

/// Takes bytes out of the room.
///
/// # Errors
/// An error of the kind `Data` when there are not so many; the parser makes no others of it.
fn spend<E: serde::de::Error>(bytes: usize) -> Result<(), E> {
    let left = ROOM.get().checked_sub(bytes);
    ROOM.set(left.ok_or_else(|| E::custom("no room for what it holds"))?);
    Ok(())
}

/// Takes out of the room what a list has grown by.
fn spend_growth<T, E: serde::de::Error>(list: &Vec<T>, before: usize) -> Result<(), E> {
    spend((list.capacity() - before).saturating_mul(size_of::<T>()))
}

/// Of a text: what comes next finds less room. It takes no more than it took in the file, but for
/// the block on the heap, which is not smaller for a letter.
fn note(text: &str) {
    ROOM.set(ROOM.get().saturating_sub(text.len().max(BLOCK)));
}

/// Takes out of the room what a document keeps that was not read as fields.
///
/// # Errors
/// [`Damage::Memory`] when there is not so much.
pub(crate) fn hold(bytes: usize) -> Result<(), Damage> {
    let left = ROOM.get().checked_sub(bytes).ok_or(Damage::Memory)?;
    ROOM.set(left);
    Ok(())
}

/// Gives back what was held and is not kept any more.
pub(super) fn release(bytes: usize) {
    ROOM.set(ROOM.get().saturating_add(bytes));
}

/// Bytes that texts take in memory, their handles not counted.
pub(super) fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> usize {
    texts.into_iter().map(|text| text.len().max(BLOCK)).sum()
}

/// Bytes that a map of so many entries takes in memory, its texts not counted.
pub(super) fn of_map<K, V>(entries: usize) -> usize {
    entries.div_ceil(NODE_FILLED) * NODE * size_of::<(K, V)>()
}

/// A type that a JSON field can be read as. `None` says: another type, so absent.
///
/// Each method answers for one JSON type; what a type does not override it does not accept.
pub trait Field: Default {
    /// From a string.
    fn text(_: &str) -> Option<Self> {
        None
    }

    /// From `true` or `false`.
    fn flag(_: bool) -> Option<Self> {
        None
    }

    /// From a number.
    fn number(_: Number) -> Option<Self> {
        None
    }

    /// From a list, which is read to its end in any case.
    ///
    /// # Errors
    /// Only what the parser reports: syntax or depth.
    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Option<Self>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// From an object, which is read to its end in any case.
    ///
    /// # Errors
    /// Only what the parser reports: syntax or depth.
    fn object<'de, A: MapAccess<'de>>(mut fields: A) -> Result<Option<Self>, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Reads one JSON document.
///
/// # Errors
/// The parser's error for syntax and depth; `None` when the top level has another type.
pub fn from_json<T: Field>(bytes: &[u8]) -> Result<Option<T>, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let document = Tolerant::new().deserialize(&mut parser)?;
    parser.end()?;
    Ok(document)
}

/// As [`from_json`], piece by piece; an error can also be one of reading.
///
/// # Errors
/// As [`from_json`], and those of the reader.
pub fn from_json_reader<T: Field>(reader: impl Read) -> Result<Option<T>, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_reader(reader);
    let document = Tolerant::new().deserialize(&mut parser)?;
    parser.end()?;
    Ok(document)
}

/// Drives the parser for one [`Field`].
pub struct Tolerant<T>(PhantomData<fn() -> T>);

impl<T> Tolerant<T> {
    /// A seed for one value.
    pub fn new() -> Tolerant<T> {
        Tolerant(PhantomData)
    }
}

impl<T> Default for Tolerant<T> {
    fn default() -> Self {
        Tolerant::new()
    }
}

impl<'de, T: Field> DeserializeSeed<'de> for Tolerant<T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Option<T>, D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de, T: Field> Visitor<'de> for Tolerant<T> {
    type Value = Option<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_str<E>(self, value: &str) -> Result<Option<T>, E> {
        Ok(T::text(value))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<T>, E> {
        Ok(T::flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<T>, E> {
        Ok(T::number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<T>, E> {
        Ok(T::number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<T>, E> {
        Ok(Number::from_f64(value).and_then(T::number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Option<T>, A::Error> {
        T::list(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Option<T>, A::Error> {
        T::object(fields)
    }
}

impl Field for String {
    fn text(value: &str) -> Option<String> {
        note(value);
        Some(value.to_owned())
    }
}

impl Field for bool {
    fn flag(value: bool) -> Option<bool> {
        Some(value)
    }
}

impl Field for i64 {
    fn number(value: Number) -> Option<i64> {
        value.as_i64()
    }
}

impl Field for f64 {
    fn number(value: Number) -> Option<f64> {
        value.as_f64()
    }
}

impl<T: Field> Field for Option<T> {
    fn text(value: &str) -> Option<Option<T>> {
        T::text(value).map(Some)
    }

    fn flag(value: bool) -> Option<Option<T>> {
        T::flag(value).map(Some)
    }

    fn number(value: Number) -> Option<Option<T>> {
        T::number(value).map(Some)
    }

    fn list<'de, A: SeqAccess<'de>>(items: A) -> Result<Option<Option<T>>, A::Error> {
        Ok(T::list(items)?.map(Some))
    }

    fn object<'de, A: MapAccess<'de>>(fields: A) -> Result<Option<Option<T>>, A::Error> {
        Ok(T::object(fields)?.map(Some))
    }
}

impl<T: Field> Field for Vec<T> {
    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Option<Vec<T>>, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(Tolerant::<T>::new())? {
            let before = read.capacity();
            read.extend(item);
            spend_growth(&read, before)?;
        }
        Ok(Some(read))
    }
}

impl<T: Field> Field for BTreeMap<String, T> {
    fn object<'de, A: MapAccess<'de>>(
        mut fields: A,
    ) -> Result<Option<BTreeMap<String, T>>, A::Error> {
        let mut read = BTreeMap::new();
        while let Some(name) = fields.next_key::<String>()? {
            match fields.next_value_seed(Tolerant::<T>::new())? {
                Some(value) => {
                    if read.len().is_multiple_of(NODE_FILLED) {
                        spend(NODE * size_of::<(String, T)>())?;
                    }
                    note(&name);
                    read.insert(name, value)
                }
                None => read.remove(&name),
            };
        }
        Ok(Some(read))
    }
}

/// For parts of a document that are passed on or looked at as they are.
impl Field for Value {
    fn text(value: &str) -> Option<Value> {
        note(value);
        Some(Value::from(value))
    }

    fn flag(value: bool) -> Option<Value> {
        Some(Value::from(value))
    }

    fn number(value: Number) -> Option<Value> {
        Some(Value::Number(value))
    }

    fn list<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Option<Value>, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(Tolerant::new())? {
            let before = read.capacity();
            read.push(item.unwrap_or(Value::Null));
            spend_growth(&read, before)?;
        }
        Ok(Some(Value::Array(read)))
    }

    fn object<'de, A: MapAccess<'de>>(mut fields: A) -> Result<Option<Value>, A::Error> {
        let mut read = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value: Option<Value> = fields.next_value_seed(Tolerant::new())?;
            // The map's own table has a share of each entry.
            spend(size_of::<(String, Value)>() + 32 + name.len())?;
            read.insert(name, value.unwrap_or(Value::Null));
        }
        Ok(Some(Value::Object(read)))
    }
}

/// Finds a key among the names that an object knows, without allocating for the others.
pub struct Known(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Known {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Known {
    type Value = Option<&'static str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|known| *known == name))
    }
}

/// Defines a struct that is read from a JSON object, naming only the fields that rules use:
/// `pub field: Type = "jsonName"`. Everything else in the object is skipped.
macro_rules! object {
    ($(
        $(#[$meta:meta])*
        $seen:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_seen:vis $field:ident : $kind:ty = $json:literal ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default)]
        $seen struct $name {
            $( $(#[$field_meta])* $field_seen $field: $kind, )*
        }

        impl $crate::archive::documents::field::Field for $name {
            fn object<'de, A: serde::de::MapAccess<'de>>(
                mut fields: A,
            ) -> Result<Option<Self>, A::Error> {
                use $crate::archive::documents::field::{Known, Tolerant};
                let mut read = Self::default();
                while let Some(name) = fields.next_key_seed(Known(&[$($json),*]))? {
                    match name {
                        $( Some($json) => {
                            read.$field = fields
                                .next_value_seed(Tolerant::<$kind>::new())?
                                .unwrap_or_default();
                        } )*
                        _ => {
                            fields.next_value::<serde::de::IgnoredAny>()?;
                        }
                    }
                }
                Ok(Some(read))
            }
        }
    )*};
}
pub(crate) use object;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    object! {
        /// A thing with a field of each kind.
        struct Thing {
            /// Text.
            name: String = "name",
            /// Number.
            count: Option<i64> = "count",
            /// Flag.
            on: Option<bool> = "on",
            /// List.
            items: Vec<String> = "items",
            /// Object.
            inner: Option<Inner> = "inner",
            /// Anything.
            raw: Option<Value> = "raw",
        }

        /// A thing in a thing.
        struct Inner {
            /// Labels.
            labels: BTreeMap<String, String> = "labels",
        }
    }

    fn read(json: &str) -> Thing {
        from_json(json.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn reads_documented_types_and_skips_the_rest() {
        let thing = read(
            r#"{"unknown": [{}], "name": "a", "count": 3, "on": true, "items": ["x", "y"],
                "inner": {"labels": {"k": "v"}, "more": 1}, "raw": {"b": 1, "a": [null]}}"#,
        );
        assert_eq!(thing.name, "a");
        assert_eq!(thing.count, Some(3));
        assert_eq!(thing.on, Some(true));
        assert_eq!(thing.items, ["x", "y"]);
        assert_eq!(thing.inner.unwrap().labels["k"], "v");
        assert_eq!(thing.raw.unwrap().to_string(), r#"{"b":1,"a":[null]}"#);
    }

    #[test]
    fn a_field_of_another_type_is_absent_and_null_is_empty() {
        for other in ["null", "{}", "[]", "1.5", "[[1]]", r#"{"a": {"b": 1}}"#] {
            let json = format!(
                r#"{{"name": {other}, "count": {other}, "on": {other}, "inner": null, "items": null}}"#
            );
            let thing = read(&json);
            assert_eq!(thing.name, "", "{other}");
            assert_eq!(thing.count, None, "{other}");
            assert_eq!(thing.on, None, "{other}");
            assert!(thing.inner.is_none() && thing.items.is_empty());
        }
        assert_eq!(read(r#"{"items": [1, "x", null, {}]}"#).items, ["x"]);
        assert_eq!(read(r#"{"count": 18446744073709551615}"#).count, None);
        let inner = read(r#"{"inner": {"labels": {"a": 1, "b": "x"}}}"#)
            .inner
            .unwrap();
        assert_eq!(
            inner.labels.into_iter().collect::<Vec<_>>(),
            [("b".into(), "x".into())]
        );
    }

    #[test]
    fn piece_by_piece_is_the_same() {
        let json = r#"{"name": "a\u00e9\n", "count": -1, "unknown": [{"x": "y"}], "items": ["z"]}"#;
        let whole = from_json::<Thing>(json.as_bytes()).unwrap();
        let pieces = from_json_reader::<Thing>(json.as_bytes()).unwrap();
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
    }

    #[test]
    fn the_last_of_two_equal_keys_wins() {
        assert_eq!(read(r#"{"name": "a", "name": "b"}"#).name, "b");
        assert_eq!(read(r#"{"name": "a", "name": 1}"#).name, "");
    }

    #[test]
    fn the_top_level_has_its_type_or_the_document_is_unreadable() {
        for other in ["null", "[]", "1", "\"x\"", "true"] {
            assert!(
                from_json::<Thing>(other.as_bytes()).unwrap().is_none(),
                "{other}"
            );
        }
        assert!(from_json::<Vec<Thing>>(b"{}").unwrap().is_none());
        assert_eq!(
            from_json::<Vec<Thing>>(b"[{}, 1, {}]")
                .unwrap()
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn syntax_depth_and_a_second_document_are_errors() {
        let deep = "[".repeat(100_000);
        for bad in ["", "{", "{\"name\": }", "{} {}", "{}x", deep.as_str()] {
            assert!(from_json::<Thing>(bad.as_bytes()).is_err());
            assert!(from_json_reader::<Thing>(bad.as_bytes()).is_err());
        }
        let hidden = format!("{{\"unknown\": {deep}");
        assert!(from_json::<Thing>(hidden.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_json::<Thing>(&bytes);
        }
    }

    #[test]
    fn room_is_for_everything_that_is_kept() {
        let left = |room: usize, json: &str| {
            let (read, left) = within(room, || from_json::<Thing>(json.as_bytes()));
            read.map(|thing| (thing.is_some(), room - left))
        };
        assert_eq!(
            left(0, r#"{"count": 1, "x": [[], {}, "y"]}"#).unwrap(),
            (true, 0)
        );
        for json in [
            r#"{"items": ["x"]}"#,
            r#"{"inner": {"labels": {"k": "v"}}}"#,
            r#"{"raw": [1]}"#,
            r#"{"raw": [null]}"#,
            r#"{"raw": {"k": {}}}"#,
        ] {
            let (_, needed) = left(1 << 20, json).unwrap();
            assert!((16..1000).contains(&needed), "{json} takes {needed}");
            assert_eq!(left(needed, json).unwrap(), (true, needed));
            let error = left(needed / 2, json).unwrap_err();
            assert_eq!(error.classify(), serde_json::error::Category::Data);
        }
        // A letter takes a whole block of the heap, and a name what any text takes.
        let letters = vec![r#""x""#; 100].join(",");
        let long = "x".repeat(5000);
        for (json, least) in [
            (
                format!(r#"{{"items": [{letters}]}}"#),
                100 * (size_of::<String>() + BLOCK),
            ),
            (format!(r#"{{"name": "{long}"}}"#), 5000),
            (format!(r#"{{"raw": "{long}"}}"#), 5000),
            (format!(r#"{{"raw": {{"{long}": 1}}}}"#), 5000),
            (
                format!(r#"{{"inner": {{"labels": {{"{long}": "v"}}}}}}"#),
                5000,
            ),
        ] {
            let (_, needed) = left(1 << 20, &json).unwrap();
            assert!((least..2 * least).contains(&needed), "{needed} for {least}");
        }
        // What is a syntax error stays one.
        let error = left(0, "{").unwrap_err();
        assert_ne!(error.classify(), serde_json::error::Category::Data);
        // Nested, and none outside.
        let ((_, inner), outer) = within(10, || within(5, || ()));
        assert_eq!((inner, outer), (5, 10));
        assert_eq!(ROOM.get(), usize::MAX);
    }
}
