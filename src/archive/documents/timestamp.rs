//! Points in time as documents write them: RFC 3339, with `t`, `z` or a blank accepted.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Reads a time stamp; unreadable is `None`, and the test that needs it does not hold.
pub fn parse(text: &str) -> Option<OffsetDateTime> {
    const SEPARATOR: usize = "2021-07-13".len();
    let mut text = text.to_ascii_uppercase();
    if text.as_bytes().get(SEPARATOR) == Some(&b' ') {
        text.replace_range(SEPARATOR..=SEPARATOR, "T");
    }
    OffsetDateTime::parse(&text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_form_of_the_same_moment() {
        let moment = parse("2021-07-13T07:16:44Z").unwrap();
        for form in [
            "2021-07-13t07:16:44z",
            "2021-07-13 07:16:44Z",
            "2021-07-13T07:16:44.000000000Z",
            "2021-07-13T09:16:44+02:00",
            "2021-07-13T01:46:44.0-05:30",
        ] {
            assert_eq!(parse(form), Some(moment), "{form}");
        }
        assert!(parse("2021-07-13T07:16:44.5Z").unwrap() > moment);
    }

    #[test]
    fn without_zone_or_out_of_range_is_unreadable() {
        for text in [
            "",
            "2021-07-13",
            "2021-07-13T07:16:44",
            "2021-13-13T07:16:44Z",
            "now",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(seconds in 0_i64..4_102_444_800, nanos in 0_i64..1_000_000_000) {
            let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap()
                + time::Duration::nanoseconds(nanos);
            prop_assert_eq!(parse(&moment.format(&Rfc3339).unwrap()), Some(moment));
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
