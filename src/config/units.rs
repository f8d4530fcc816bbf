//! Sizes and times with their units, as people write them.
//!
//! What [`size_text`] and [`time_text`] write is read back as the same value.

use std::fmt::Write as _;
use std::time::Duration;

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Milliseconds of each unit, from the longest. The first name of a length is the one written.
const TIMES: [(&str, u64); 6] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("min", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads bytes: `100MiB`, `25 MB`, `1024`.
///
/// # Errors
/// A sentence that says how to write it.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (digits, unit) = text.split_at(digits_in(text));
    let unit = unit.trim_start();
    let factor = if unit.is_empty() {
        Some(1)
    } else {
        SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, bytes)| *bytes)
    };
    match (digits.is_empty(), factor) {
        (false, Some(factor)) => digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .ok_or_else(|| format!("{text:?} is larger than anything")),
        _ => Err(format!(
            "{text:?} is no size: write a whole number and one of B, KB, MB, GB (1000) or KiB, \
             MiB, GiB (1024), like \"100MiB\""
        )),
    }
}

/// Reads a time: `30s`, `500ms`, `1h30m`. Longer units first, each at most once.
///
/// # Errors
/// A sentence that says how to write it.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let no_time = || {
        format!(
            "{text:?} is no time: write whole numbers with one of ms, s, m, h, d, like \"30s\" or \
             \"1h30m\""
        )
    };
    if !text.is_empty() && digits_in(text) == text.len() {
        return Err(format!(
            "{text:?} has no unit: write \"{text}s\" if it means seconds"
        ));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut longest_allowed = u64::MAX;
    while !rest.is_empty() {
        let (digits, behind) = rest.split_at(digits_in(rest));
        let behind = behind.trim_start();
        let letters = behind
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(letters);
        let millis = TIMES
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, millis)| *millis)
            .filter(|millis| *millis < longest_allowed && !digits.is_empty())
            .ok_or_else(no_time)?;
        total = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(millis))
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("{text:?} is longer than anything"))?;
        longest_allowed = millis;
        rest = next.trim_start();
    }
    if text.is_empty() {
        return Err(no_time());
    }
    Ok(Duration::from_millis(total))
}

fn digits_in(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len())
}

/// Writes bytes with the largest unit of 1024 that divides them, else of 1000.
pub(super) fn size_text(bytes: u64) -> String {
    for unit in ["GiB", "MiB", "KiB", "GB", "MB", "KB"] {
        if let Some((_, factor)) = SIZES.iter().find(|(name, _)| *name == unit)
            && bytes > 0
            && bytes.is_multiple_of(*factor)
        {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// Writes a time, to the millisecond. Days and minutes lead only from two on: `24h` and `60s` are
/// what people say.
pub(super) fn time_text(time: Duration) -> String {
    let mut left = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, millis) in TIMES {
        let leads_alone = text.is_empty() && matches!(unit, "d" | "m") && left / millis == 1;
        if unit == "min" || leads_alone || left < millis {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{unit}", left / millis);
        left %= millis;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1KiB", 1024),
            ("25 MB", 25_000_000),
            (" 100MiB ", 100 << 20),
            ("3GB", 3_000_000_000),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "MiB",
            "1.5MiB",
            "-1",
            "1 mb",
            "1KiB/s",
            "99999999999GiB",
            "1 2",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert_eq!(size_text(100 << 20), "100MiB");
        assert_eq!(size_text(25_000_000), "25MB");
        assert_eq!(size_text(1025), "1025B");
    }

    #[test]
    fn times() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("30 s", 30_000),
            ("5min", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(
                parse_time(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "", "30", "s", "1.5s", "-1s", "30m1h", "1s1s", "1m1min", "1y", "off",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
        assert!(parse_time("30").is_err_and(|why| why.contains("\"30s\"")));
        assert_eq!(time_text(Duration::from_secs(86_400)), "24h");
        assert_eq!(time_text(Duration::from_secs(90_061)), "25h1m1s");
        assert_eq!(time_text(Duration::from_secs(172_800)), "2d");
        assert_eq!(time_text(Duration::from_secs(90)), "90s");
        assert_eq!(time_text(Duration::from_secs(3660)), "1h1m");
        assert_eq!(time_text(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number: u64) {
            prop_assert_eq!(parse_size(&size_text(number)), Ok(number));
            let time = Duration::from_millis(number);
            prop_assert_eq!(parse_time(&time_text(time)), Ok(time));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = parse_size(&text);
            let _ = parse_time(&text);
        }

        #[test]
        fn no_likely_text_panics(text in "[0-9]{0,22} ?[a-zA-Zé]{0,3}[0-9]{0,3}[a-z]{0,2}") {
            let _ = parse_size(&text);
            let _ = parse_time(&text);
        }
    }
}
