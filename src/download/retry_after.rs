//! The `Retry-After` header: seconds, or a date.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Longer waits are cut: the record's own deadline is near, and the server may be wrong.
const MAX: Duration = Duration::from_secs(30);

/// The pause that the header asks for. `None` when it cannot be read.
pub(super) fn parse(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a long time.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(MAX));
    }
    // The one form of HTTP dates that is not obsolete is also one of mail.
    let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    let wait = Duration::try_from(date - now).unwrap_or(Duration::ZERO);
    Some(wait.min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u20_seconds_and_dates() {
        let now = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        for (value, seconds) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("30", Some(30)),
            ("31", Some(30)),
            ("99999999999999999999999", Some(30)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:49 GMT", Some(12)),
            ("Sun, 06 Nov 1994 09:49:37 GMT", Some(30)),
            ("Sun, 06 Nov 1994 07:49:37 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(
                parse(value, now),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
