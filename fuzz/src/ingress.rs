//! Values of records through the parser of announcements.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ccx_data_pipeline::error::chain;
use ccx_data_pipeline::ingress::{Error, parse};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::Input;

/// The first byte tells what the rest of an input is: the value itself, the JSON of an identity,
/// or the texts of fields.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.byte();
    let value = match mode % 4 {
        0 => input.0.to_vec(),
        1 => announcement(input.0, &[]),
        2 => {
            let fields = [
                "url",
                "timestamp",
                "gathering_time",
                "cluster_name",
                "request_id",
            ];
            let mut texts = Vec::new();
            for field in fields {
                texts.push((field, String::from_utf8_lossy(input.counted()).into_owned()));
            }
            announcement(input.0, &texts)
        }
        // An identity of any text, BASE64 or not.
        _ => {
            let mut message: Value =
                serde_json::from_slice(&announcement(b"", &[])).expect("made as JSON");
            message["b64_identity"] = json!(String::from_utf8_lossy(input.0));
            message.to_string().into_bytes()
        }
    };
    check(&value);
}

/// A whole announcement around the JSON of an identity.
fn announcement(identity: &[u8], texts: &[(&str, String)]) -> Vec<u8> {
    let identity = if identity.is_empty() {
        br#"{"identity":{"internal":{"org_id":"1"}}}"#
    } else {
        identity
    };
    let mut message = json!({
        "url": "https://bucket.s3.amazonaws.com/key?X-Amz-Signature=abc",
        "b64_identity": BASE64_STANDARD.encode(identity),
        "timestamp": "2021-07-13T07:16:44Z",
        "metadata": {"custom_metadata": {}},
    });
    for (field, text) in texts {
        if text.is_empty() {
            continue;
        }
        match *field {
            "gathering_time" => message["metadata"]["custom_metadata"][field] = json!(text),
            field => message[field] = json!(text),
        }
    }
    message.to_string().into_bytes()
}

fn check(value: &[u8]) {
    let parsed = parse(Some(value));
    assert_eq!(parsed, parse(Some(value)));
    // A tree has no place for half of a surrogate pair, nor for a number beyond those of a double,
    // both of which are JSON, and knows no mark of the byte order.
    let text = value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value);
    let tree = serde_json::from_slice::<Value>(text);
    let is_json =
        str::from_utf8(text).is_ok() && serde_json::from_slice::<IgnoredAny>(text).is_ok();
    let is_object = is_json && text.trim_ascii_start().starts_with(b"{");
    match parsed {
        Ok(ingress) => {
            let shown = format!("{:?} {}", ingress.url, ingress.url);
            assert_eq!(shown, "SignedUrl(***) ***");
            assert!(ingress.timestamp.len() >= 20 && ingress.timestamp.contains('T'));
            // What is accepted is an object, and the needed fields are those that JSON has.
            assert!(is_object, "accepted");
            let Ok(value) = tree else { return };
            assert_eq!(value["url"].as_str(), Some(ingress.url.reveal()));
            assert_eq!(
                value["timestamp"].as_str(),
                Some(ingress.timestamp.as_str())
            );
            assert!(value["b64_identity"].is_string());
            assert_eq!(value["request_id"].as_str(), ingress.request_id.as_deref());
        }
        Err(error) => {
            let text = chain(&error);
            assert!(text.len() < 200 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            match error {
                Error::Empty { null } => assert!(value.is_empty() && !null),
                Error::Json { .. } => assert!(tree.is_err()),
                Error::NotAnObject => assert!(is_json && !is_object),
                _ => assert!(is_object),
            }
        }
    }
}
