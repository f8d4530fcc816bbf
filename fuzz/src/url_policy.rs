//! Texts of URLs through the policy, against a second, plain reading of what a URL is.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use ccx_data_pipeline::download::policy::{DEFAULT_ALLOWED_URLS, Policy};
use ureq::http::Uri;

/// The first byte chooses the policy; the rest is a URL. A form of an S3 host is put before the
/// rest for some values, so that the interesting place is reached at once.
pub fn run(data: &[u8]) {
    static POLICIES: LazyLock<[(Policy, bool); 3]> = LazyLock::new(|| {
        let standard = DEFAULT_ALLOWED_URLS.map(str::to_owned);
        let network = vec!["10.0.0.0/8".parse().expect("a network")];
        [
            (Policy::new(&standard, false, Vec::new()), true),
            (Policy::new(&[], true, Vec::new()), false),
            (Policy::new(&standard, false, network), true),
        ]
        .map(|(policy, listed)| (policy.expect("it compiles"), listed))
    });
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let begin = ["", "https://", "https://b.s3.amazonaws.com", "http://["];
    let text = format!("{}{text}", begin[usize::from(*choice / 3) % 4]);
    let (policy, listed) = &POLICIES[usize::from(*choice) % 3];
    check(policy, *listed, &text);
}

/// Checks a URL; panics where an accepted one could lead elsewhere than its text says.
pub fn check(policy: &Policy, listed: bool, text: &str) {
    let target = match policy.check(text) {
        Ok(target) => target,
        Err(refusal) => {
            let shown = format!("{refusal} {refusal:?}");
            assert!(shown.len() < 200);
            return;
        }
    };
    assert!(text.len() <= 16 << 10);
    // A request line and a header are made of what stands before the fragment.
    let sent = text.split('#').next().unwrap_or_default();
    assert!(
        sent.bytes().all(|byte| byte > b' ' && byte != 0x7f),
        "{text:?}"
    );

    // Read once more as RFC 3986 says, without a parser.
    let (scheme, rest) = text.split_once("://").expect("an absolute URL");
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    assert!(
        authority.bytes().all(|byte| byte.is_ascii_graphic()),
        "{text:?}"
    );
    assert!(!authority.contains(['@', '\\', '%']), "{text:?}");
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let default_port = if scheme.eq_ignore_ascii_case("https") {
        "443"
    } else {
        "80"
    };
    assert!(scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http"));

    // The site that was judged, that of the connection, and that of the text are one.
    let uri: Uri = text.parse().expect("the policy parsed it as well");
    assert_eq!(uri.host(), Some(host), "{text:?}");
    let site = target.site();
    let judged = site.split_once("://").expect("a site").1;
    let (judged_host, judged_port) = match judged.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (judged, None),
    };
    let number = |port: Option<&str>| port.unwrap_or(default_port).parse::<u16>().expect("a port");
    assert_eq!(number(judged_port), number(port), "{text:?}");
    assert_eq!(
        uri.port_u16().unwrap_or_else(|| number(None)),
        number(port),
        "{text:?}"
    );
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => {
            assert_eq!(
                judged_host.trim_matches(['[', ']']).parse(),
                Ok(address),
                "{text:?}"
            );
            assert!(policy.allows(address), "{text:?}");
            assert!(!listed && !is_internal(address), "{text:?}");
        }
        Err(_) => {
            let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            assert_eq!(judged_host, name, "{text:?}");
            // `getaddrinfo` reads all-numeric names as addresses.
            let last = name.rsplit('.').next().unwrap_or_default();
            assert!(last.bytes().any(|byte| !byte.is_ascii_digit()), "{text:?}");
            assert!(!last.starts_with("0x") || last.bytes().any(|b| b.is_ascii_alphabetic()));
            if listed {
                let amazon =
                    name.ends_with(".amazonaws.com") || name.ends_with(".amazonaws.com.cn");
                assert!(amazon && scheme.eq_ignore_ascii_case("https"), "{text:?}");
                assert_eq!(number(port), 443);
            }
        }
    }

    // What is sent is what stands in the text, without the fragment.
    let sent = uri.path_and_query().map_or("", |both| both.as_str());
    let written = behind.split('#').next().unwrap_or_default();
    assert!(
        sent == written || (written.is_empty() && sent == "/"),
        "{text:?}"
    );
    // Only the site is ever shown.
    assert_eq!(format!("{target:?}"), format!("Target({site:?})"));
}

/// Whether an address is one of those that everybody knows to be internal.
fn is_internal(address: IpAddr) -> bool {
    let v4 = |v4: Ipv4Addr| {
        v4.is_loopback()
            || v4.is_private()
            || v4.is_link_local()
            || v4.is_multicast()
            || v4.is_unspecified()
            || v4.is_broadcast()
            || v4.is_documentation()
    };
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address.to_ipv4_mapped().is_some_and(v4)
        }
    }
}
