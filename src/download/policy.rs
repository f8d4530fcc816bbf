//! Which URLs are fetched.
//!
//! A URL is parsed once, by the parser that also makes the connection, and judged by its parts;
//! the parsed value is the one that is sent. A host is a plain DNS name or an address in its one
//! canonical notation. Everything that a resolver might still take for an address (`127.1`,
//! `0x7f000001`, `2130706433`, `0177.0.0.1`) is refused here, before any lookup.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use regex::{Regex, RegexSet};
use thiserror::Error;
use ureq::http::Uri;

use super::address;
use super::error::SetupError;

/// The S3 forms that are accepted unless the configuration says otherwise: virtual-host and path
/// style, with or without region, dualstack, also in the China partition.
pub const DEFAULT_ALLOWED_URLS: [&str; 2] = [
    r"https://[a-z0-9][a-z0-9.-]*\.s3(?:[.-](?:dualstack\.)?[a-z]{2}(?:-[a-z]+)+-[0-9])?\.amazonaws\.com(?:\.cn)?/.+",
    r"https://s3(?:[.-](?:dualstack\.)?[a-z]{2}(?:-[a-z]+)+-[0-9])?\.amazonaws\.com(?:\.cn)?/[a-z0-9][a-z0-9.-]*/.+",
];

/// Longest URL in bytes. Presigned ones with a session token have about 2 KiB; S3 itself takes
/// 8 KiB of request head.
pub(crate) const MAX_URL: usize = 16 * 1024;

/// Why a URL is refused. Shows no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No absolute `scheme://host/path`, or characters that no URL has.
    #[error("it cannot be parsed")]
    Syntax,
    /// Longer than any presigned link.
    #[error("it is longer than {MAX_URL} bytes")]
    TooLong,
    /// Neither https nor http.
    #[error("its scheme is neither https nor http")]
    Scheme,
    /// Name or password before the host.
    #[error("it has user information before the host")]
    UserInfo,
    /// Not a plain name and not an address in canonical notation.
    #[error("its host is neither a plain name nor a canonical address")]
    HostForm,
    /// The port is empty, 0 or above 65535.
    #[error("its port is not valid")]
    Port,
    /// A `.` or `..` component could lead a server out of the path that the list allows.
    #[error("its path has a dot component")]
    DotSegment,
    /// No pattern of the list matches.
    #[error("it matches no pattern of downloader.allowed_urls")]
    NotListed,
    /// An address that is neither globally routable nor configured.
    #[error("its host is an address that is not allowed")]
    Address,
}

/// The rules for URLs and for the addresses behind them.
#[derive(Debug, Clone)]
pub struct Policy {
    /// `None`: every http and https URL.
    list: Option<RegexSet>,
    networks: Vec<IpNet>,
}

impl Policy {
    /// A policy from the patterns, each matched in full. `unsafe_links` lifts the list and
    /// nothing else.
    ///
    /// # Errors
    /// A pattern that does not compile, or an empty list without `unsafe_links`.
    pub fn new(
        patterns: &[String],
        unsafe_links: bool,
        networks: Vec<IpNet>,
    ) -> Result<Self, SetupError> {
        let pattern_error = |pattern: &str, source| SetupError::Pattern {
            pattern: pattern.to_owned(),
            source: Box::new(source),
        };
        for pattern in patterns {
            // Alone first: `a)|(b` would compile inside the anchors and match half a URL.
            Regex::new(pattern).map_err(|error| pattern_error(pattern, error))?;
        }
        let list = if unsafe_links {
            None
        } else if patterns.is_empty() {
            return Err(SetupError::EmptyList);
        } else {
            let anchored = patterns.iter().map(|pattern| format!(r"\A(?:{pattern})\z"));
            Some(
                RegexSet::new(anchored)
                    .map_err(|error| pattern_error(&patterns.join(" "), error))?,
            )
        };
        Ok(Self { list, networks })
    }

    /// Judges a URL by its text alone; the addresses behind a name are judged after the lookup.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, url: &str) -> Result<Target, Refusal> {
        if url.len() > MAX_URL {
            return Err(Refusal::TooLong);
        }
        let uri: Uri = url.parse().map_err(|_| Refusal::Syntax)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(Refusal::Syntax);
        };
        let default_port = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return Err(Refusal::Scheme),
        };
        if authority.as_str().contains('@') {
            return Err(Refusal::UserInfo);
        }
        let host = Host::parse(authority.host()).ok_or(Refusal::HostForm)?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default_port,
            Some(text) => port(text).ok_or(Refusal::Port)?,
            None => return Err(Refusal::Syntax),
        };
        // Such a URL (`https://host?query`) would make a request line without a path.
        let path_and_query = uri.path_and_query().map_or("/", |both| both.as_str());
        if !path_and_query.starts_with('/') {
            return Err(Refusal::Syntax);
        }
        let site = if port == default_port {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{port}")
        };
        if let Some(list) = &self.list {
            if uri.path().split('/').any(is_dot_segment) {
                return Err(Refusal::DotSegment);
            }
            if !list.is_match(&format!("{site}{}", uri.path())) {
                return Err(Refusal::NotListed);
            }
        }
        if let Host::Address(address) = host
            && !self.allows(address)
        {
            return Err(Refusal::Address);
        }
        Ok(Target {
            uri,
            host,
            port,
            site,
        })
    }

    /// Whether a connection to this address is allowed.
    pub fn allows(&self, address: IpAddr) -> bool {
        address::is_allowed(address, &self.networks)
    }
}

/// A URL that has passed the policy. Prints scheme, host and port only.
#[derive(Clone)]
pub struct Target {
    pub(super) uri: Uri,
    pub(super) host: Host,
    pub(super) port: u16,
    site: String,
}

impl Target {
    /// `scheme://host[:port]`: the part that may be logged.
    pub fn site(&self) -> &str {
        &self.site
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.site).finish()
    }
}

/// Where a URL points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// Lower case, without the trailing dot.
    Name(String),
    Address(IpAddr),
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(inside) = text.strip_prefix('[') {
            // No zone: `std` knows none, and a link-local address is never wanted.
            let address: Ipv6Addr = inside.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let last = name.rsplit('.').next()?;
        if looks_numeric(last) {
            // `std` takes four decimal parts without leading zeros and nothing else. With a
            // trailing dot it is no address for `std`, though one for some resolvers.
            let address: Ipv4Addr = text.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        let plain = name.len() <= 253 && name.split('.').all(is_label);
        plain.then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Whether a resolver could read a name that ends in this label as a number: no top-level domain
/// is numeric.
fn looks_numeric(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || label.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    // The underscore is no host name character, but names inside clusters have it.
    let characters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(characters)
}

fn port(text: &str) -> Option<u16> {
    let digits = text.strip_prefix(':')?;
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|port| *port != 0)
}

fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    plain == "." || plain == ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard() -> Policy {
        let patterns = DEFAULT_ALLOWED_URLS.map(str::to_owned);
        Policy::new(&patterns, false, Vec::new()).unwrap()
    }

    fn lifted(networks: &[&str]) -> Policy {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        Policy::new(&[], true, networks).unwrap()
    }

    fn listed(pattern: &str) -> Policy {
        Policy::new(
            &[pattern.to_owned()],
            false,
            vec!["0.0.0.0/0".parse().unwrap()],
        )
        .unwrap()
    }

    const QUERY: &str =
        "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=abc&X-Amz-Date=20210713T071644Z";

    #[test]
    fn u08_real_s3_forms_are_accepted() {
        let policy = standard();
        for url in [
            "https://bucket.s3.amazonaws.com/key",
            "https://insights-upload-perma.s3.us-east-1.amazonaws.com/nvCNwIKIB8/8VVvg4KLMCY-000001",
            "https://bucket.s3-eu-west-1.amazonaws.com/key",
            "https://bucket.s3.dualstack.us-east-1.amazonaws.com/key",
            "https://bucket.s3-dualstack.us-east-1.amazonaws.com/key",
            "https://my.dotted.bucket.s3.ap-southeast-2.amazonaws.com/a.b_c/d%20e/f~g-h",
            "https://bucket.s3.us-gov-west-1.amazonaws.com/key",
            "https://bucket.s3.cn-north-1.amazonaws.com.cn/key",
            "https://s3.amazonaws.com/bucket/key",
            "https://s3.us-east-2.amazonaws.com/bucket/a/b/c.tar.gz",
            "https://s3-us-west-2.amazonaws.com/bucket/key",
            "https://s3.dualstack.eu-central-1.amazonaws.com/bucket/key",
            "https://s3.cn-northwest-1.amazonaws.com.cn/bucket/key",
            "HTTPS://Bucket.S3.AmazonAWS.com/Key",
            "https://bucket.s3.amazonaws.com:443/key",
            "https://bucket.s3.amazonaws.com./key",
            "https://bucket.s3.amazonaws.com/key#fragment",
            "https://bucket.s3.amazonaws.com/..key/.hidden/a..b/...",
        ] {
            let accepted = policy.check(&format!(
                "{url}{}",
                if url.contains('#') { "" } else { QUERY }
            ));
            assert!(accepted.is_ok(), "{url}: {accepted:?}");
        }
    }

    #[test]
    fn u03_allowed_text_in_the_wrong_place() {
        let policy = standard();
        for url in [
            "https://169.254.169.254?x.s3.amazonaws.com/a?X-Amz-Date=1",
            "https://169.254.169.254/?x.s3.amazonaws.com/a",
            "https://evil.example/x.s3.amazonaws.com/a",
            "https://evil.example#x.s3.amazonaws.com/a",
            "https://evil.example/#https://x.s3.amazonaws.com/a",
            "https://x.s3.amazonaws.com.evil.example/a",
            "https://xs3.amazonaws.com/a",
            "https://s3.evil.example.amazonaws.com/bucket/key",
            "https://x.s3.amazonaws.com:8443/a",
            "https://x.s3.amazonaws.com/",
            "https://x.s3.amazonaws.com",
            "https://s3.amazonaws.com/bucket",
            "https://s3.amazonaws.com/bucket/../other/key",
            "https://s3.amazonaws.com/bucket/%2E%2e/other/key",
            "https://s3.amazonaws.com/bucket/./key",
            "http://x.s3.amazonaws.com/a",
            "https://x.s3.amazonaws.com\\@evil.example/a",
            "https://x.s3.amazonaws.com%2f@evil.example/a",
            "https://evil.example\\.s3.amazonaws.com/a",
            "https://evil.example%00.s3.amazonaws.com/a",
            "https://x.s3.amazonaws.com\n/a",
            " https://x.s3.amazonaws.com/a",
        ] {
            assert!(policy.check(url).is_err(), "{url}");
        }
    }

    #[test]
    fn u01_only_https_and_http_where_it_is_configured() {
        for url in [
            "file:///etc/passwd",
            "file://host/etc/passwd",
            "ftp://host/a",
            "gopher://host/a",
            "data:text/plain,a",
            "unix:/run/a.sock",
            "://host/a",
            "//host/a",
            "/a",
            "host/a",
            "host",
            "",
            "*",
            "https:/host/a",
            "https:///a",
            "https://",
            "javascript:alert(1)",
        ] {
            let refused = lifted(&["0.0.0.0/0"]).check(url).unwrap_err();
            assert!(
                matches!(refused, Refusal::Syntax | Refusal::Scheme),
                "{url}: {refused}"
            );
        }
        assert!(lifted(&[]).check("HTTPS://host.example/a").is_ok());
        assert!(lifted(&[]).check("hTTp://host.example/a").is_ok());
        let only_http = listed("http://host\\.example/.*");
        assert!(only_http.check("http://host.example/a").is_ok());
        assert_eq!(
            only_http.check("https://host.example/a").unwrap_err(),
            Refusal::NotListed
        );
    }

    #[test]
    fn u02_user_information_is_refused_in_every_mode() {
        for url in [
            "https://bucket.s3.amazonaws.com@host.example/a",
            "https://user:pass@bucket.s3.amazonaws.com/a",
            "https://user@bucket.s3.amazonaws.com/a",
            "https://:@bucket.s3.amazonaws.com/a",
            "https://@bucket.s3.amazonaws.com/a",
            "https://a@b@bucket.s3.amazonaws.com/a",
        ] {
            for policy in [standard(), lifted(&[]), listed(".*")] {
                let refused = policy.check(url).unwrap_err();
                assert!(
                    matches!(refused, Refusal::UserInfo | Refusal::Syntax),
                    "{url}: {refused}"
                );
            }
        }
    }

    #[test]
    fn u04_address_literals() {
        for host in [
            "127.0.0.1",
            "169.254.169.254",
            "10.0.0.1",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "[fd00::1]",
        ] {
            let url = format!("http://{host}/a");
            assert_eq!(
                lifted(&[]).check(&url).unwrap_err(),
                Refusal::Address,
                "{url}"
            );
            assert!(lifted(&["0.0.0.0/0", "::/0"]).check(&url).is_ok(), "{url}");
        }
        // Notations that are not canonical are refused whatever is allowed.
        for host in [
            "2130706433",
            "0177.0.0.1",
            "0x7f000001",
            "0X7F000001",
            "0x7f.1",
            "127.1",
            "127.0.1",
            "127.0.0.01",
            "127.0.0.0x1",
            "127.0.0.1.",
            "2130706433.",
            "0",
            "0x",
            "1.2.3.4.5",
            "256.1.1.1",
            "host.256",
            "[127.0.0.1]",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[::1",
            "::1",
            "[v1.a]",
            "①②⑦.⓪.⓪.①",
            "127。0。0。1",
        ] {
            let url = format!("http://{host}/a");
            let refused = lifted(&["0.0.0.0/0", "::/0"]).check(&url).unwrap_err();
            let expected = matches!(refused, Refusal::HostForm | Refusal::Syntax | Refusal::Port);
            assert!(expected, "{url}: {refused}");
        }
    }

    #[test]
    fn u04_host_and_port_forms() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for host in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a%41",
            "ä.example",
            "a!b",
            "a,b",
            "a'b",
            "host.example:",
            "host.example:0",
            "host.example:65536",
            "host.example:123456",
            "host.example:+80",
            "host.example:8 0",
            "host.example:80:80",
            "host.example:http",
            long_label.as_str(),
            long_name.as_str(),
        ] {
            let url = format!("https://{host}/a");
            assert!(lifted(&[]).check(&url).is_err(), "{url}");
        }
        for (host, site) in [
            ("Host.EXAMPLE", "https://host.example"),
            ("host.example.", "https://host.example"),
            ("host.example:443", "https://host.example"),
            ("host.example:0443", "https://host.example"),
            ("host.example.:8443", "https://host.example:8443"),
            ("xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("under_score", "https://under_score"),
            ("[2600::1]:8443", "https://[2600::1]:8443"),
        ] {
            let target = lifted(&[]).check(&format!("https://{host}/a")).unwrap();
            assert_eq!(target.site(), site);
        }
    }

    #[test]
    fn u09_path_and_query_stay_as_received() {
        for rest in [
            "/a%2Fb%2fc+d%7Ee~f?x=%2F%2f+%7e&y==&&z",
            "//double//slashes/?",
            "/a;b=c,d:e@f!$'()*",
            "/%zz%",
            "/ünï?ö",
            "/a\\b|c\"{}",
        ] {
            let target = lifted(&[])
                .check(&format!("https://host.example{rest}"))
                .unwrap();
            assert_eq!(target.uri.path_and_query().unwrap().as_str(), rest);
        }
        assert!(lifted(&[]).check("https://host.example?x=y").is_err());
        assert!(lifted(&[]).check("https://host.example/a b").is_err());
        assert!(lifted(&[]).check("https://host.example/a\r\nX: y").is_err());
        let long = format!("https://host.example/{}", "a".repeat(MAX_URL));
        assert_eq!(lifted(&[]).check(&long).unwrap_err(), Refusal::TooLong);
    }

    #[test]
    fn patterns_are_matched_in_full() {
        let policy = listed("https://host\\.example/a|https://host\\.example/b");
        assert!(policy.check("https://host.example/a").is_ok());
        assert!(policy.check("https://host.example/b?q").is_ok());
        assert!(policy.check("https://host.example/ab").is_err());
        assert!(policy.check("https://host.example/a/b").is_err());
        let ports = listed("http://host\\.example:8080/.*");
        assert!(ports.check("http://host.example:8080/a").is_ok());
        assert!(ports.check("http://host.example/a").is_err());
    }

    #[test]
    fn patterns_that_do_not_stand_alone_are_refused() {
        for pattern in ["(", "a)|(b", "[", "(?x"] {
            let error = Policy::new(&[pattern.to_owned()], true, Vec::new()).unwrap_err();
            assert!(error.to_string().contains(pattern), "{error}");
        }
        let error = Policy::new(&[], false, Vec::new()).unwrap_err();
        assert!(matches!(error, SetupError::EmptyList));
        assert!(Policy::new(&[], true, Vec::new()).is_ok());
    }

    #[test]
    fn u10_nothing_but_the_site_is_printed() {
        let target = lifted(&[])
            .check("https://host.example/secret-path?secret-query")
            .unwrap();
        assert_eq!(format!("{target:?}"), r#"Target("https://host.example")"#);
    }
}
