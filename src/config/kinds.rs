//! The kinds of values that keys have: how each is read, checked and written.
//!
//! A kind says in its errors what it wants, with an example, and never what a secret is.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use regex::Regex;

use super::document::Raw;
use super::units;
use crate::logging::Filter;
use crate::secret::{HIDDEN, Secret};

/// How the values of a key are read and written.
pub(super) trait Kind {
    /// What the program works with.
    type Value;

    /// Reads and checks. The environment gives text only, so every kind reads its text form.
    fn parse(&self, raw: &Raw) -> Result<Self::Value, String>;

    /// Writes TOML that is read back as the same value.
    fn write(&self, value: &Self::Value) -> String;

    /// The least and the greatest value for people; nothing where they go without saying.
    fn bounds(&self) -> Option<String> {
        None
    }
}

/// Bounds in words. Zero goes without saying, and so does what nobody gets near.
fn within<T: PartialOrd + Default>(min: T, max: T, far: T, shown: impl Fn(T) -> String) -> String {
    if max >= far {
        format!("At least {}.", shown(min))
    } else if min == T::default() {
        format!("At most {}.", shown(max))
    } else {
        format!("{} to {}.", shown(min), shown(max))
    }
}

/// TOML's form of a text.
pub(super) fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

fn text_of<'a>(raw: &'a Raw, wanted: &str) -> Result<&'a str, String> {
    match raw {
        Raw::Text(text) => Ok(text),
        other => Err(format!("is {}, {wanted}", other.type_name())),
    }
}

/// Text that a function checks.
pub(super) struct Text(pub(super) fn(&str) -> Result<(), String>);

/// Any text.
pub(super) const ANY_TEXT: Text = Text(|_| Ok(()));
/// Text with something in it.
pub(super) const SOME_TEXT: Text = Text(not_empty);
/// A legal name of a topic.
pub(super) const TOPIC: Text = Text(topic_name);
/// A legal static id of a group member: Kafka holds them to the rule for topics.
pub(super) const INSTANCE_ID: Text = Text(instance_id);
/// `HOST:PORT`.
pub(super) const SERVER: Text = Text(host_and_port);
/// A regular expression.
pub(super) const PATTERN: Text = Text(pattern);

impl Kind for Text {
    type Value = String;

    fn parse(&self, raw: &Raw) -> Result<String, String> {
        let text = text_of(raw, "wants text in quotes")?;
        (self.0)(text)?;
        Ok(text.to_owned())
    }

    fn write(&self, value: &String) -> String {
        quoted(value)
    }
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("may not be empty".into());
    }
    Ok(())
}

/// Kafka's own rule for names of topics.
fn topic_name(text: &str) -> Result<(), String> {
    legal_name(text, "no name of a topic")
}

fn instance_id(text: &str) -> Result<(), String> {
    legal_name(text, "no static id")
}

fn legal_name(text: &str, otherwise: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.is_empty()
        || text.len() > 249
        || !text.bytes().all(legal)
        || [".", ".."].contains(&text)
    {
        return Err(format!(
            "{text:?} is {otherwise}: 1 to 249 letters, digits, `.`, `_` and `-`"
        ));
    }
    Ok(())
}

fn host_and_port(text: &str) -> Result<(), String> {
    let wanted =
        || format!("{text:?} is not HOST:PORT, like \"kafka.example.com:9092\" or \"[::1]:9092\"");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let host_is_good = match host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    };
    let port_is_good = port.bytes().all(|b| b.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|number| number > 0);
    if host_is_good && port_is_good {
        Ok(())
    } else {
        Err(wanted())
    }
}

fn pattern(text: &str) -> Result<(), String> {
    // Alone, and as it is used: matched in full. `(?x)` with a comment passes the first only.
    for whole in [text.to_owned(), format!(r"\A(?:{text})\z")] {
        if let Err(error) = Regex::new(&whole) {
            // The message draws the place below the text; its last line says what is wrong.
            let why = error.to_string();
            let why = why.lines().next_back().unwrap_or_default();
            return Err(format!(
                "{text:?} is no regular expression: {}",
                why.trim_start_matches("error: ")
            ));
        }
    }
    Ok(())
}

/// Text, or nothing when it is empty.
pub(super) struct Optional(pub(super) Text);

impl Kind for Optional {
    type Value = Option<String>;

    fn parse(&self, raw: &Raw) -> Result<Self::Value, String> {
        if matches!(raw, Raw::Text(text) if text.is_empty()) {
            return Ok(None);
        }
        self.0.parse(raw).map(Some)
    }

    fn write(&self, value: &Self::Value) -> String {
        quoted(value.as_deref().unwrap_or_default())
    }
}

/// Text that is never shown.
pub(super) struct Hidden;

impl Kind for Hidden {
    type Value = Secret;

    fn parse(&self, raw: &Raw) -> Result<Secret, String> {
        text_of(raw, "wants text in quotes").map(Secret::new)
    }

    fn write(&self, value: &Secret) -> String {
        quoted(if value.is_empty() { "" } else { HIDDEN })
    }
}

/// A path, or nothing when it is empty.
pub(super) struct Path;

impl Kind for Path {
    type Value = Option<PathBuf>;

    fn parse(&self, raw: &Raw) -> Result<Self::Value, String> {
        let text = text_of(raw, "wants a path in quotes")?;
        Ok(Some(PathBuf::from(text)).filter(|_| !text.is_empty()))
    }

    fn write(&self, value: &Self::Value) -> String {
        let path = value.as_deref().map(|path| path.to_string_lossy());
        quoted(path.as_deref().unwrap_or_default())
    }
}

/// `true` or `false`.
pub(super) struct Bool;

impl Kind for Bool {
    type Value = bool;

    fn parse(&self, raw: &Raw) -> Result<bool, String> {
        match raw {
            Raw::Bool(yes) => Ok(*yes),
            Raw::Text(text) if text == "true" => Ok(true),
            Raw::Text(text) if text == "false" => Ok(false),
            other => Err(format!("wants true or false, is {}", shown(other))),
        }
    }

    fn write(&self, value: &bool) -> String {
        value.to_string()
    }
}

fn shown(raw: &Raw) -> String {
    match raw {
        Raw::Text(text) => format!("{text:?}"),
        Raw::Integer(number) => number.to_string(),
        Raw::Fraction(number) => number.clone(),
        other => other.type_name().to_owned(),
    }
}

/// A whole number within bounds.
pub(super) struct Integer {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Kind for Integer {
    type Value = u64;

    fn parse(&self, raw: &Raw) -> Result<u64, String> {
        let number = match raw {
            Raw::Integer(number) => u64::try_from(*number).ok(),
            Raw::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (self.min..=self.max).contains(number))
            .ok_or_else(|| {
                format!(
                    "wants a whole number from {} to {}, is {}",
                    self.min,
                    self.max,
                    shown(raw)
                )
            })
    }

    fn write(&self, value: &u64) -> String {
        value.to_string()
    }

    fn bounds(&self) -> Option<String> {
        const FAR: u64 = 1 << 32;
        Some(within(self.min, self.max, FAR, |n| n.to_string()))
    }
}

/// Bytes, within bounds.
pub(super) struct Size {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Kind for Size {
    type Value = u64;

    fn parse(&self, raw: &Raw) -> Result<u64, String> {
        let bytes = match raw {
            Raw::Integer(number) => u64::try_from(*number)
                .map_err(|_| format!("wants a size, like \"100MiB\", is {number}"))?,
            Raw::Text(text) => units::parse_size(text)?,
            other => {
                return Err(format!(
                    "is {}, wants a size, like \"100MiB\"",
                    other.type_name()
                ));
            }
        };
        if !(self.min..=self.max).contains(&bytes) {
            return Err(format!(
                "wants a size from {} to {}, is {}",
                units::size_text(self.min),
                units::size_text(self.max),
                units::size_text(bytes)
            ));
        }
        Ok(bytes)
    }

    fn write(&self, value: &u64) -> String {
        quoted(&units::size_text(*value))
    }

    fn bounds(&self) -> Option<String> {
        const FAR: u64 = 1 << 50;
        // What every size is goes without saying.
        (self.min > 1 || self.max < FAR).then(|| within(self.min, self.max, FAR, units::size_text))
    }
}

/// A time within bounds.
pub(super) struct Time {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// Milliseconds that Kafka's 32-bit fields hold, rounded down to days.
pub(super) const KAFKA_MAX: Duration = Duration::from_hours(24 * 24);
/// Far enough for anything, near enough to be added to a clock.
pub(super) const YEAR: Duration = Duration::from_hours(24 * 365);

impl Kind for Time {
    type Value = Duration;

    fn parse(&self, raw: &Raw) -> Result<Duration, String> {
        let time = match raw {
            Raw::Text(text) => units::parse_time(text)?,
            Raw::Integer(number) => {
                return Err(format!(
                    "{number} has no unit: write \"{number}s\" if it means seconds"
                ));
            }
            other => {
                return Err(format!(
                    "is {}, wants a time, like \"30s\"",
                    other.type_name()
                ));
            }
        };
        if !(self.min..=self.max).contains(&time) {
            return Err(format!(
                "wants a time from {} to {}, is {}",
                units::time_text(self.min),
                units::time_text(self.max),
                units::time_text(time)
            ));
        }
        Ok(time)
    }

    fn write(&self, value: &Duration) -> String {
        quoted(&units::time_text(*value))
    }

    fn bounds(&self) -> Option<String> {
        // What every time is goes without saying.
        const SHORTEST: Duration = Duration::from_millis(1);
        (self.min > SHORTEST || self.max < KAFKA_MAX)
            .then(|| within(self.min, self.max, KAFKA_MAX, units::time_text))
    }
}

/// A value of another kind, or `off`.
pub(super) struct OrOff<K>(pub(super) K);

impl<K: Kind> Kind for OrOff<K> {
    type Value = Option<K::Value>;

    fn parse(&self, raw: &Raw) -> Result<Self::Value, String> {
        if matches!(raw, Raw::Text(text) if text == "off") {
            return Ok(None);
        }
        self.0
            .parse(raw)
            .map(Some)
            .map_err(|why| format!("{why}; \"off\" switches it off"))
    }

    fn write(&self, value: &Self::Value) -> String {
        match value {
            Some(value) => self.0.write(value),
            None => quoted("off"),
        }
    }

    fn bounds(&self) -> Option<String> {
        self.0.bounds()
    }
}

/// A share of a whole: above 0, up to 1.
pub(super) struct Ratio;

impl Kind for Ratio {
    type Value = f64;

    fn parse(&self, raw: &Raw) -> Result<f64, String> {
        let number = match raw {
            Raw::Fraction(text) | Raw::Text(text) => text.trim().parse().ok(),
            Raw::Integer(1) => Some(1.0),
            _ => None,
        };
        number
            .filter(|number| *number > 0.0 && *number <= 1.0)
            .ok_or_else(|| {
                format!(
                    "wants a number above 0 and up to 1, like 0.5, is {}",
                    shown(raw)
                )
            })
    }

    fn write(&self, value: &f64) -> String {
        // With a decimal point, also where there is nothing behind it: TOML tells 1 from 1.0.
        format!("{value:?}")
    }

    fn bounds(&self) -> Option<String> {
        Some("Above 0.0, up to 1.0.".into())
    }
}

/// One of a few words.
pub(super) struct Word<T: 'static> {
    pub(super) words: &'static [(&'static str, T)],
    /// Words that a later version knows.
    pub(super) later: &'static [&'static str],
}

impl<T: Copy + PartialEq> Kind for Word<T> {
    type Value = T;

    fn parse(&self, raw: &Raw) -> Result<T, String> {
        let all = self.words.iter().map(|(word, _)| *word);
        let all: Vec<_> = all.filter(|word| !word.is_empty()).collect();
        let all = all.join(", ");
        let text = text_of(raw, &format!("wants one of {all}, in quotes"))?;
        if self.later.contains(&text) {
            return Err(format!("{text:?} is not supported by this version"));
        }
        self.words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("{text:?} is none of {all}"))
    }

    fn write(&self, value: &T) -> String {
        let word = self.words.iter().find(|(_, one)| one == value);
        quoted(word.map_or("", |(word, _)| word))
    }
}

/// A list; as text, separated by commas.
pub(super) struct List<K>(pub(super) K);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<K::Value>;

    fn parse(&self, raw: &Raw) -> Result<Self::Value, String> {
        match raw {
            Raw::List(values) => values.iter().map(|value| self.0.parse(value)).collect(),
            Raw::Text(text) if text.trim().is_empty() => Ok(Vec::new()),
            Raw::Text(text) => text
                .split(',')
                .map(|part| self.0.parse(&Raw::Text(part.trim().to_owned())))
                .collect(),
            other => Err(format!(
                "is {}, wants a list, like [\"one\", \"two\"]",
                other.type_name()
            )),
        }
    }

    fn write(&self, value: &Self::Value) -> String {
        let parts: Vec<_> = value.iter().map(|value| self.0.write(value)).collect();
        let line = format!("[{}]", parts.join(", "));
        if parts.len() > 1 && line.len() > 100 {
            return format!("[\n  {},\n]", parts.join(",\n  "));
        }
        line
    }
}

/// An IP address.
pub(super) struct Address;

impl Kind for Address {
    type Value = IpAddr;

    fn parse(&self, raw: &Raw) -> Result<IpAddr, String> {
        let text = text_of(raw, "wants an IP address in quotes")?;
        text.parse()
            .map_err(|_| format!("{text:?} is no IP address, like \"0.0.0.0\" or \"::1\""))
    }

    fn write(&self, value: &IpAddr) -> String {
        quoted(&value.to_string())
    }
}

/// A network in CIDR form.
pub(super) struct Network;

impl Kind for Network {
    type Value = IpNet;

    fn parse(&self, raw: &Raw) -> Result<IpNet, String> {
        let text = text_of(raw, "wants a network in quotes")?;
        text.parse()
            .map_err(|_| format!("{text:?} is no network, like \"10.0.0.0/8\" or \"fd00::/8\""))
    }

    fn write(&self, value: &IpNet) -> String {
        quoted(&value.to_string())
    }
}

/// Log levels.
pub(super) struct Levels;

impl Kind for Levels {
    type Value = Filter;

    fn parse(&self, raw: &Raw) -> Result<Filter, String> {
        Filter::parse(text_of(
            raw,
            "wants text, like \"info\" or \"info,kafka=debug\"",
        )?)
    }

    fn write(&self, value: &Filter) -> String {
        quoted(&value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Raw {
        Raw::Text(text.into())
    }

    #[test]
    fn servers() {
        for good in [
            "localhost:9092",
            "10.0.0.1:1",
            "[::1]:9092",
            "a_b.c-d:65535",
        ] {
            assert_eq!(host_and_port(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":9092",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "::1:9092",
            "[::1",
            "http://host:9092",
            "ho st:1",
            "[x]:1",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn topics() {
        assert_eq!(topic_name("platform.upload.announce"), Ok(()));
        assert_eq!(topic_name(&"x".repeat(249)), Ok(()));
        for bad in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
            assert!(topic_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_say_what_is_wrong_in_one_line() {
        assert_eq!(pattern("https://[a-z]+/.+"), Ok(()));
        let why = pattern("https://[a-z+").expect_err("open class");
        assert!(why.contains("unclosed character class"), "{why}");
        assert!(!why.contains('\n'), "{why}");
        assert!(pattern("(?x) a # comment").is_err());
        assert!(pattern("a)(b").is_err());
    }

    #[test]
    fn numbers_come_as_numbers_or_text() {
        let kind = Integer { min: 1, max: 9 };
        assert_eq!(kind.parse(&Raw::Integer(9)), Ok(9));
        assert_eq!(kind.parse(&text("3")), Ok(3));
        for bad in [
            Raw::Integer(0),
            Raw::Integer(-1),
            Raw::Integer(10),
            text("x"),
            Raw::Bool(true),
        ] {
            assert!(kind.parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_come_as_lists_or_with_commas() {
        let kind = List(SERVER);
        assert_eq!(
            kind.parse(&text("a:1, b:2")),
            Ok(vec!["a:1".into(), "b:2".into()])
        );
        assert_eq!(kind.parse(&text("")), Ok(vec![]));
        assert_eq!(
            kind.parse(&Raw::List(vec![text("a:1")])),
            Ok(vec!["a:1".into()])
        );
        assert!(kind.parse(&text("a:1,,b:2")).is_err());
        assert!(kind.parse(&Raw::Integer(1)).is_err());
    }

    #[test]
    fn off_is_only_where_it_is_named() {
        let kind = OrOff(Time {
            min: Duration::from_secs(1),
            max: YEAR,
        });
        assert_eq!(kind.parse(&text("off")), Ok(None));
        assert_eq!(kind.parse(&text("2s")), Ok(Some(Duration::from_secs(2))));
        assert!(kind.parse(&text("1ms")).is_err());
        assert!(kind.0.parse(&text("off")).is_err());
    }

    #[test]
    fn ratios_are_above_0_and_up_to_1() {
        let fraction = |text: &str| Raw::Fraction(text.into());
        assert_eq!(Ratio.parse(&fraction("0.25")), Ok(0.25));
        assert_eq!(Ratio.parse(&text("0.5")), Ok(0.5));
        assert_eq!(Ratio.parse(&Raw::Integer(1)), Ok(1.0));
        for raw in [
            fraction("0"),
            fraction("1.01"),
            fraction("NaN"),
            fraction("-0.5"),
        ] {
            assert!(Ratio.parse(&raw).is_err(), "{raw:?}");
        }
        assert!(Ratio.parse(&Raw::Integer(0)).is_err());
        assert!(Ratio.parse(&Raw::Bool(true)).is_err());
        assert_eq!(Ratio.write(&1.0), "1.0");
    }

    #[test]
    fn a_word_of_a_later_version_is_refused_by_name() {
        let kind = Word {
            words: &[("one", 1), ("two", 2)],
            later: &["three"],
        };
        assert_eq!(kind.parse(&text("two")), Ok(2));
        assert!(
            kind.parse(&text("three"))
                .is_err_and(|why| why.contains("not supported by this version"))
        );
        assert!(
            kind.parse(&text("four"))
                .is_err_and(|why| why.contains("one, two"))
        );
        assert_eq!(kind.write(&1), "\"one\"");
    }
}
