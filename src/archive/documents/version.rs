//! Version numbers of clusters, operators, kubelets and container runtimes.
//!
//! Not the `semver` crate: what is read here has two numbers (`4.7`), a leading `v`, leading
//! zeros in a pre-release or more than three numbers, all of which SemVer refuses. The order is
//! SemVer's: numbers first, a pre-release before its release, build metadata left out.

use std::cmp::Ordering;
use std::fmt;

/// A version that can be compared.
#[derive(Debug, Clone)]
pub struct Version {
    numbers: Vec<u64>,
    pre_release: Option<String>,
}

impl Version {
    /// Reads `4.7.16`, `v1.20.0+2817867`, `4.6.0-0.nightly-2020-10-06`, `4.7`.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text
            .split_once('+')
            .map_or(text, |(version, _build)| version);
        let (numbers, pre_release) = match text.split_once('-') {
            Some((numbers, pre_release)) => (numbers, Some(pre_release.to_owned())),
            None => (text, None),
        };
        let numbers = numbers
            .split('.')
            .map(|number| {
                let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| number.parse().ok()).flatten()
            })
            .collect::<Option<Vec<u64>>>()?;
        Some(Version {
            numbers,
            pre_release,
        })
    }

    /// A release by its numbers, for bounds: `Version::release(&[4, 6])` is 4.6.0.
    pub fn release(numbers: &[u64]) -> Version {
        Version {
            numbers: numbers.to_vec(),
            pre_release: None,
        }
    }

    /// The first two numbers, as in the branch `4.7`.
    pub fn branch(&self) -> Branch {
        Branch {
            major: self.number(0),
            minor: self.number(1),
        }
    }

    /// Whether it comes before a release: nightly, release candidate and the like.
    pub fn is_pre_release(&self) -> bool {
        self.pre_release.is_some()
    }

    fn number(&self, position: usize) -> u64 {
        self.numbers.get(position).copied().unwrap_or(0)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        let longer = self.numbers.len().max(other.numbers.len());
        (0..longer)
            .map(|position| self.number(position).cmp(&other.number(position)))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| match (&self.pre_release, &other.pre_release) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(ours), Some(theirs)) => compare_pre_releases(ours, theirs),
            })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

/// Identifier by identifier: numbers by value and before words, words bytewise, fewer first.
fn compare_pre_releases(ours: &str, theirs: &str) -> Ordering {
    let (mut ours, mut theirs) = (ours.split('.'), theirs.split('.'));
    loop {
        let order = match (ours.next(), theirs.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// The first two numbers of a version; prints as `4.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Branch {
    /// `4` of `4.7`.
    pub major: u64,
    /// `7` of `4.7`.
    pub minor: u64,
}

impl fmt::Display for Branch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn orders_numbers_by_value_and_pre_releases_before_their_release() {
        let sorted = [
            "4.2",
            "4.9.12",
            "4.10.0-0.nightly-2021-10-06-123456",
            "4.10.0-rc.1",
            "4.10.0-rc.2",
            "4.10.0-rc.10",
            "4.10.0",
            "4.10.1",
            "4.17.0-rc.1",
            "4.17",
        ];
        for pair in sorted.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("4.17"), version("4.17.0"));
        assert_eq!(version("v1.20.0+2817867"), version("1.20.0+abc"));
        assert_eq!(version("4.10.3").branch().to_string(), "4.10");
        assert_eq!(
            version("1.20.3-02.rhaos4.7.el8").branch().to_string(),
            "1.20"
        );
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in [
            "",
            "v",
            "x",
            "4.x",
            "4..7",
            "-rc.1",
            "4.99999999999999999999",
            "+4",
            "4.-1",
        ] {
            assert!(Version::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn orders_like_tuples(a in any::<[u64; 3]>(), b in any::<[u64; 3]>()) {
            let text = |n: [u64; 3]| format!("{}.{}.{}", n[0], n[1], n[2]);
            prop_assert_eq!(version(&text(a)).cmp(&version(&text(b))), a.cmp(&b));
        }

        #[test]
        fn order_is_total(texts in proptest::array::uniform3("[0-2]\\.[0-2](-[a-c0-2](\\.[0-2])?)?")) {
            let [a, b, c] = texts.each_ref().map(|text| version(text));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = Version::parse(&text);
        }
    }
}
