//! Properties of what comes from outside before an archive does: URLs and announcements.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ccx_data_pipeline::download::policy::{DEFAULT_ALLOWED_URLS, Policy};
use ccx_data_pipeline::download::{Budget, Downloader, Error, Options};
use ccx_data_pipeline::ingress;
use ccx_data_pipeline::signed_url::SignedUrl;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::corpora::targets;
use crate::support::child::{is_child, limit_memory};

/// Hosts that the list allows, hosts that it must not, and addresses in all notations.
fn host() -> impl Strategy<Value = String> {
    let fixed = select(vec![
        "b.s3.amazonaws.com",
        "s3.us-east-1.amazonaws.com",
        "B.S3.AmazonAWS.com.",
        "evil.example",
        "127.0.0.1",
        "[::1]",
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
        "127.1",
        "10.0.0.1",
        "1.1.1.1",
        "[2606:4700::1111]",
        "localhost",
        "[fe80::1%25eth0]",
        "127.0.0.1.",
        "0x7f.1",
        "1.1.1.1.evil.example",
        "",
        ".",
        "b..c",
        "xs3.amazonaws.com",
        "b.s3.amazonaws.com.evil.example",
        "b.s3.amazonaws.com%2eevil.example",
    ]);
    let any_address = any::<IpAddr>().prop_map(|address| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    });
    prop_oneof![
        4 => fixed.prop_map(str::to_owned),
        1 => any_address,
        1 => "[a-z0-9.:%@\\\\_-]{1,20}",
    ]
}

/// A URL whose parts may each be what they should be, or text that belongs into another part.
fn url() -> impl Strategy<Value = String> {
    let scheme = select(vec![
        "https://", "http://", "HTTPS://", "file://", "https:", "//", "",
    ]);
    let user = prop_oneof![
        6 => Just(String::new()),
        1 => host().prop_map(|host| host + "@"),
        1 => "[a-z]{1,3}:[a-z]{1,3}@",
    ];
    let port = prop_oneof![
        5 => Just(String::new()),
        2 => select(vec![":443", ":80", ":8080", ":0", ":", ":65536", ":00443", ":+80"]).prop_map(str::to_owned),
    ];
    let end = || {
        prop_oneof![
            2 => Just(String::new()),
            4 => "/[a-z0-9./%_~-]{0,12}",
            1 => host().prop_map(|host| format!("/{host}/")),
            1 => host().prop_map(|host| format!("?{host}/a")),
            1 => host().prop_map(|host| format!("#{host}/a")),
            1 => host().prop_map(|host| format!("/?x=a+b%2F&y={host}")),
            1 => host().prop_map(|host| format!("\\@{host}/")),
            1 => "[ -~]{0,6}",
        ]
    };
    (scheme, user, host(), port, end(), end()).prop_map(|(scheme, user, host, port, end, more)| {
        format!("{scheme}{user}{host}{port}{end}{more}")
    })
}

fn policies() -> [(Options, bool); 2] {
    let listed = Options {
        deadline: Duration::from_secs(20),
        attempts: 1,
        ..Options::default()
    };
    let lifted = Options {
        allow_unsafe_links: true,
        ..listed.clone()
    };
    [(listed, true), (lifted, false)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever passes leads to the host that its text names, by a second reading of the text.
    #[test]
    fn u02_u03_u04_what_passes_leads_where_it_says(url in url()) {
        for (options, listed) in policies() {
            let patterns = DEFAULT_ALLOWED_URLS.map(str::to_owned);
            let policy = Policy::new(&patterns, options.allow_unsafe_links, Vec::new()).unwrap();
            targets::url_policy::check(&policy, listed, &url);
            if url.split(['/', '?', '#']).nth(2).is_some_and(|authority| authority.contains('@')) {
                prop_assert!(policy.check(&url).is_err(), "user information");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The client looks up the host that was judged and no other, at most once; a URL that is
    /// refused is not looked up at all.
    #[test]
    fn u03_the_host_that_was_judged_is_the_one_that_is_looked_up(url in url()) {
        for (options, _) in policies() {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&asked);
            let lookup = move |name: &str, port: u16| {
                seen.lock().unwrap().push((name.to_owned(), port));
                // Never allowed, so that no connection is tried.
                Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
            };
            let patterns = options.allowed_urls.clone();
            let judged = Policy::new(&patterns, options.allow_unsafe_links, Vec::new())
                .unwrap()
                .check(&url);
            // An address needs no lookup, and a connection to a public one is none of a test's.
            let is_address = judged.as_ref().is_ok_and(|target| {
                target.site().ends_with(']') || target.site().contains("]:") || {
                    let host = target.site().split("://").nth(1).unwrap();
                    host.split(':').next().unwrap().parse::<IpAddr>().is_ok()
                }
            });
            if is_address {
                continue;
            }
            let downloader = Downloader::with_lookup(
                options,
                Arc::new(Budget::new(1 << 20)),
                Arc::new(lookup),
            )
            .unwrap();
            let dir = std::env::temp_dir();
            let failure = downloader
                .fetch(&SignedUrl::new(url.clone()), None, &dir, &|| false, &mut |_| {})
                .unwrap_err();
            let asked = asked.lock().unwrap().clone();
            match judged {
                Ok(target) => {
                    prop_assert!(matches!(failure.error, Error::AddressRefused { .. }), "{:?}", failure);
                    prop_assert_eq!(asked.len(), 1);
                    let (name, port) = &asked[0];
                    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                    let scheme = target.site().split("://").next().unwrap();
                    let default = if scheme == "https" { 443 } else { 80 };
                    let site = if *port == default {
                        format!("{scheme}://{name}")
                    } else {
                        format!("{scheme}://{name}:{port}")
                    };
                    prop_assert_eq!(target.site(), site);
                }
                Err(refusal) => {
                    prop_assert!(asked.is_empty());
                    let same = matches!(failure.error, Error::Refused(found) if found == refusal);
                    prop_assert!(same, "{:?}", failure);
                }
            }
        }
    }
}

/// A record of some KiB may inflate to one of tens of MiB; reading it may not take many times
/// that. The message and an identity of the same kind.
#[test]
fn m13_a_huge_value_takes_little_more_memory_than_its_bytes() {
    if !is_child("input_properties::m13_a_huge_value_takes_little_more_memory_than_its_bytes") {
        return;
    }
    limit_memory(512 << 20);
    let list = |item: &str| format!("[{}0]", item.repeat((16 << 20) / item.len()));
    for (field, item) in [("metadata", "1,"), ("url", "[],"), ("zz_unknown", "{},")] {
        let mut message = announcement(&json!({"identity": {"internal": {"org_id": 1}}}));
        message[field] = json!("HERE");
        let message = message.to_string().replace("\"HERE\"", &list(item));
        let parsed = ingress::parse(Some(message.as_bytes()));
        assert_eq!(parsed.is_ok(), field != "url");
    }
    let identity = format!(
        r#"{{"identity":{{"more":{},"internal":{{"org_id":"1"}}}}}}"#,
        list("1,")
    );
    let mut message = announcement(&json!({}));
    message["b64_identity"] = json!(BASE64_STANDARD.encode(identity));
    ingress::parse(Some(message.to_string().as_bytes())).unwrap();
}

/// JSON of any shape and a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[0-9]{1,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,8}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn announcement(identity: &Value) -> Value {
    json!({
        "url": "https://b.s3.amazonaws.com/k?X-Amz-Signature=s3cret",
        "b64_identity": BASE64_STANDARD.encode(identity.to_string()),
        "timestamp": "2021-07-13T07:16:44Z",
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any value in any needed place is read or refused with a word, and never shown.
    #[test]
    fn m04_m05_any_value_in_any_field(
        place in 0_usize..9,
        value in any_json(),
        unknown in any_json(),
    ) {
        let mut identity = json!({"identity": {
            "internal": {"org_id": "1"}, "account_number": "2", "system": {"cluster_id": "x"},
        }});
        match place {
            0 => identity = value.clone(),
            1 => identity["identity"] = value.clone(),
            2 => identity["identity"]["internal"] = value.clone(),
            3 => identity["identity"]["internal"]["org_id"] = value.clone(),
            4 => identity["identity"]["account_number"] = value.clone(),
            _ => {}
        }
        let mut message = announcement(&identity);
        match place {
            5 => message["url"] = value.clone(),
            6 => message["b64_identity"] = value.clone(),
            7 => message["timestamp"] = value.clone(),
            8 => message["metadata"] = value.clone(),
            _ => {}
        }
        // M14: nothing that we do not know changes anything.
        let bytes = message.to_string().into_bytes();
        let plain = ingress::parse(Some(&bytes));
        message["zz_unknown"] = unknown.clone();
        if let Some(metadata) = message.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.entry("zz_unknown").or_insert(unknown);
        }
        let more = message.to_string().into_bytes();
        prop_assert_eq!(&plain, &ingress::parse(Some(&more)));
        targets::ingress::run(&[&[0], bytes.as_slice()].concat());
        match plain {
            Ok(ingress) => {
                // Where the account is odd the report goes without it (M07).
                if place == 4 {
                    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok());
                    let number = match &value {
                        Value::String(text) => digits(text).flatten(),
                        value => value.as_u64().and_then(|number| u32::try_from(number).ok()),
                    };
                    prop_assert_eq!(ingress.account_number, number);
                }
                let shown = format!("{ingress:?}");
                prop_assert!(!shown.contains("s3cret"));
            }
            Err(error) => {
                let text = format!("{error} {error:?}");
                prop_assert!(!text.contains("s3cret"));
                if let Some(secret) = value.as_str().filter(|text| text.len() > 8) {
                    prop_assert!(!text.contains(secret));
                }
            }
        }
    }

    /// M06: plain digits of 32 bits and nothing else, as text or as a number.
    #[test]
    fn m06_organisations_are_plain_digits(
        text in prop_oneof!["[0-9]{1,12}", "[ +_-]?[0-9]{1,4}[ .eE_]?[0-9]{0,2}", ".{0,6}"],
        number in any::<i64>(),
    ) {
        let parse = |org: Value| {
            let identity = json!({"identity": {"internal": {"org_id": org}}});
            let message = announcement(&identity).to_string();
            ingress::parse(Some(message.as_bytes())).map(|ingress| ingress.org_id)
        };
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let expected = text.parse::<u32>().ok().filter(|_| plain);
        prop_assert_eq!(parse(json!(text)).ok(), expected);
        prop_assert_eq!(parse(json!(number)).ok(), u32::try_from(number).ok());
    }
}
