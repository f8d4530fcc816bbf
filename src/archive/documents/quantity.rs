//! Kubernetes quantities: `16409932Ki`, `3500m`, `0.5Gi`, `1e3`, also as JSON numbers.
//!
//! Exact: a value is a whole number of billionths, so that a threshold test at the limit does
//! not depend on how a fraction rounds. No crate: the ones that read quantities bring a whole
//! Kubernetes client with them.

use serde_json::Number;

use super::field::Field;

/// Billionths in one unit.
const NANO: i128 = 1_000_000_000;

/// An amount of memory (bytes) or CPU (cores).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

impl Quantity {
    /// Reads a quantity; what Kubernetes would refuse, or what exceeds 128 bits, is `None`.
    pub fn parse(text: &str) -> Option<Quantity> {
        let text = text.trim();
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }

        let (factor, exponent) = scale(suffix)?;
        // value = digits × factor × 10^(exponent − fraction digits), in billionths
        let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
        let exponent = exponent
            .checked_sub(i32::try_from(fraction.len()).ok()?)?
            .checked_add(9)?;
        let scaled = mantissa.checked_mul(factor)?;
        let power = 10_i128.checked_pow(exponent.unsigned_abs());
        let nano = match (exponent >= 0, power) {
            _ if scaled == 0 => 0,
            (true, power) => scaled.checked_mul(power?)?,
            // Kubernetes rounds what is below a billionth up.
            (false, Some(power)) => (scaled - 1) / power + 1,
            (false, None) => 1,
        };
        Some(Quantity(if negative { -nano } else { nano }))
    }

    /// Whole units, rounded down: CPUs of `3500m` are 3.
    pub fn whole(self) -> i128 {
        self.0.div_euclid(NANO)
    }

    /// The number of `unit`s (a positive number of bytes or cores), rounded half up.
    pub fn round_to(self, unit: i128) -> i128 {
        let unit = unit.saturating_mul(NANO).max(1);
        self.0.saturating_add(unit / 2).div_euclid(unit)
    }
}

/// Factor and power of ten of a suffix or exponent.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let kibi = |power: u32| Some((1024_i128.checked_pow(power)?, 0));
    match suffix {
        "" => Some((1, 0)),
        "Ki" => kibi(1),
        "Mi" => kibi(2),
        "Gi" => kibi(3),
        "Ti" => kibi(4),
        "Pi" => kibi(5),
        "Ei" => kibi(6),
        "n" => Some((1, -9)),
        "u" => Some((1, -6)),
        "m" => Some((1, -3)),
        "k" => Some((1, 3)),
        "M" => Some((1, 6)),
        "G" => Some((1, 9)),
        "T" => Some((1, 12)),
        "P" => Some((1, 15)),
        "E" => Some((1, 18)),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain
                .then(|| exponent.parse().ok())
                .flatten()
                .map(|exponent| (1, exponent))
        }
    }
}

impl Field for Quantity {
    fn text(value: &str) -> Option<Quantity> {
        Quantity::parse(value)
    }

    fn number(value: Number) -> Option<Quantity> {
        Quantity::parse(&value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nano(text: &str) -> i128 {
        Quantity::parse(text).unwrap().0
    }

    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, expected) in [
            ("4", 4 * NANO),
            ("3500m", 3_500_000_000),
            ("16409932Ki", 16_409_932 * 1024 * NANO),
            ("0.5Gi", 512 * 1024 * 1024 * NANO),
            (".5", 500_000_000),
            ("5.", 5 * NANO),
            ("1e3", 1000 * NANO),
            ("1E3", 1000 * NANO),
            ("1E", 10_i128.pow(18) * NANO),
            ("12e-3", 12_000_000),
            ("2Ti", 2 * 1024_i128.pow(4) * NANO),
            ("1Ei", 1024_i128.pow(6) * NANO),
            ("1n", 1),
            ("0.1n", 1),
            ("1e-99", 1),
            ("0e-99", 0),
            ("-2k", -2000 * NANO),
        ] {
            assert_eq!(nano(text), expected, "{text}");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_none() {
        for text in [
            "", ".", "Ki", "1K", "1KiB", "1.2.3", "1e", "1e+", "1e1.5", "x", "1 Ki", "1e99",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rounds_down_and_half_up() {
        assert_eq!(Quantity::parse("3999m").unwrap().whole(), 3);
        assert_eq!(Quantity::parse("-1m").unwrap().whole(), -1);
        assert_eq!(Quantity::parse("2.5").unwrap().round_to(1), 3);
        assert_eq!(Quantity::parse("2.499999999").unwrap().round_to(1), 2);
    }

    #[test]
    fn json_numbers_count_as_their_text() {
        assert_eq!(Quantity::number(8.into()), Quantity::parse("8"));
        assert_eq!(
            Quantity::number(Number::from_f64(1.5).unwrap()),
            Quantity::parse("1.5")
        );
    }

    proptest! {
        #[test]
        fn suffixes_are_factors(value in 0_i64..1_000_000_000) {
            prop_assert_eq!(nano(&format!("{value}Mi")), nano(&format!("{}Ki", value * 1024)));
            prop_assert_eq!(nano(&format!("{value}k")), nano(&format!("{value}e3")));
            prop_assert_eq!(nano(&format!("{value}")), nano(&format!("{}m", value * 1000)));
        }

        #[test]
        fn never_panics(text in "[-+]?[0-9.]{0,45}[a-zA-Z0-9+-]{0,4}") {
            if let Some(quantity) = Quantity::parse(&text) {
                let _ = (quantity.whole(), quantity.round_to(10_240_000));
            }
        }
    }
}
