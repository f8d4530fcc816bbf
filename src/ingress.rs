//! The announcement of an upload: JSON with a presigned URL and a BASE64 identity.
//!
//! Turns the value of a record into an [`Ingress`], or says in one of the fixed words what is
//! wrong with it. No value of a field reaches an error: they are other people's identities.

mod fields;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{Date, OffsetDateTime, PrimitiveDateTime, UtcOffset};
use uuid::Uuid;

use self::fields::{Kept, Wanted};
use crate::error::Reason;
use crate::signed_url::SignedUrl;

/// What is read of an announcement.
const ANNOUNCEMENT: &[Wanted] = &[
    Wanted::leaf("url"),
    Wanted::leaf("b64_identity"),
    Wanted::leaf("timestamp"),
    Wanted::leaf("cluster_name"),
    Wanted::object(
        "metadata",
        &[Wanted::object(
            "custom_metadata",
            &[Wanted::leaf("gathering_time")],
        )],
    ),
    Wanted::leaf("request_id"),
    Wanted::leaf("size"),
];
/// What is read of an identity.
const IDENTITY: &[Wanted] = &[Wanted::object(
    "identity",
    &[
        Wanted::object("internal", &[Wanted::leaf("org_id")]),
        Wanted::leaf("account_number"),
        Wanted::object("system", &[Wanted::leaf("cluster_id")]),
    ],
)];

/// What an announcement says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// Where the archive lies.
    pub url: SignedUrl,
    /// Organisation, from `identity.internal.org_id`.
    pub org_id: u32,
    /// Account, from `identity.account_number`, when it is a number of 32 bits.
    pub account_number: Option<u32>,
    /// Whether there is an account that is no such number.
    pub odd_account: bool,
    /// Cluster: `cluster_name`, else `identity.system.cluster_id`, whichever is a UUID first.
    pub cluster_name: Option<Uuid>,
    /// Time of the upload, RFC 3339, as received.
    pub timestamp: String,
    /// The same time, parsed.
    pub uploaded_at: OffsetDateTime,
    /// `metadata.custom_metadata.gathering_time` in UTC.
    pub gathering_time: Option<OffsetDateTime>,
    /// Request id.
    pub request_id: Option<String>,
    /// Announced size of the archive in bytes. A hint that only refuses early.
    pub size: Option<u64>,
}

/// Why a value is no announcement.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Null or zero bytes.
    #[error("the value is {}", if *.null { "null" } else { "empty" })]
    Empty {
        /// Whether the value is null rather than empty.
        null: bool,
    },
    /// Not one JSON document.
    #[error("the value is not one JSON document (line {line}, column {column})")]
    Json {
        /// Where the parser stopped, from 1.
        line: usize,
        /// Where the parser stopped, from 1.
        column: usize,
    },
    /// JSON of another type.
    #[error("the value is JSON but not an object")]
    NotAnObject,
    /// A needed field is missing or of another type.
    #[error("field `{field}` is {found}, expected a string")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What stands there instead.
        found: &'static str,
    },
    /// `b64_identity` cannot be read.
    #[error("field `b64_identity` {0}")]
    Identity(&'static str),
    /// The organisation is no number of 32 bits.
    #[error("`identity.internal.org_id` is not a decimal number of 32 bits")]
    OrgId,
    /// `timestamp` is not RFC 3339.
    #[error("field `timestamp` is not an RFC 3339 time with a zone")]
    Timestamp,
}

impl Error {
    /// The fixed word of this error.
    pub fn reason(&self) -> Reason {
        match self {
            Error::Empty { .. } => Reason::MessageEmpty,
            Error::Json { .. } => Reason::MessageJson,
            Error::NotAnObject | Error::Field { .. } => Reason::MessageSchema,
            Error::Identity(_) => Reason::Identity,
            Error::OrgId => Reason::OrgId,
            Error::Timestamp => Reason::Timestamp,
        }
    }
}

/// The value of a record: a JSON object, of which nothing more is known yet.
#[derive(Debug)]
pub struct Announcement(Kept);

impl Announcement {
    /// Reads the value of a record.
    ///
    /// # Errors
    /// Nothing there, not JSON, or not an object.
    pub fn read(value: Option<&[u8]>) -> Result<Announcement, Error> {
        let bytes = value.ok_or(Error::Empty { null: true })?;
        if bytes.is_empty() {
            return Err(Error::Empty { null: false });
        }
        let message = fields::read(bytes, ANNOUNCEMENT).map_err(|place| Error::Json {
            line: place.line,
            column: place.column,
        })?;
        match message {
            Kept::Object(_) => Ok(Announcement(message)),
            _ => Err(Error::NotAnObject),
        }
    }

    /// By which others know the upload, whatever else is wrong with it.
    pub fn request_id(&self) -> Option<&str> {
        self.0.get("request_id").and_then(Kept::as_str)
    }

    /// What it says.
    ///
    /// # Errors
    /// The first thing that is wrong with it; see [`Error`].
    pub fn check(&self) -> Result<Ingress, Error> {
        let message = &self.0;
        let url = text(message, "url")?;
        let identity = text(message, "b64_identity")?;
        let timestamp = text(message, "timestamp")?;
        let identity = identity_of(identity)?;
        let uploaded_at = parse_timestamp(timestamp).ok_or(Error::Timestamp)?;

        let at = |path: &[&str]| identity.at(path);
        let account = at(&["account_number"]).filter(|account| !is_nothing(account));
        let account_number = account.and_then(number);
        let cluster_name = message
            .get("cluster_name")
            .and_then(uuid_of)
            .or_else(|| at(&["system", "cluster_id"]).and_then(uuid_of));
        Ok(Ingress {
            url: SignedUrl::new(url),
            org_id: org_id(at(&["internal", "org_id"]))?,
            account_number,
            odd_account: account.is_some() && account_number.is_none(),
            cluster_name,
            timestamp: timestamp.to_owned(),
            uploaded_at,
            gathering_time: message
                .at(&["metadata", "custom_metadata", "gathering_time"])
                .and_then(Kept::as_str)
                .and_then(parse_gathering_time),
            request_id: self.request_id().map(str::to_owned),
            size: message.get("size").and_then(Kept::as_u64),
        })
    }
}

/// Reads and checks the value of a record.
///
/// # Errors
/// The first thing that is wrong with it; see [`Error`].
pub fn parse(value: Option<&[u8]>) -> Result<Ingress, Error> {
    Announcement::read(value)?.check()
}

fn text<'a>(message: &'a Kept, field: &'static str) -> Result<&'a str, Error> {
    let found = match message.get(field) {
        Some(Kept::Text(text)) => return Ok(text),
        None => "missing",
        Some(Kept::Null) => "null",
        Some(Kept::Flag) => "a boolean",
        Some(Kept::Number(_) | Kept::HugeNumber) => "a number",
        Some(Kept::BrokenText) => "a string with half of a surrogate pair",
        Some(Kept::List) => "a list",
        Some(Kept::Object(_)) => "an object",
    };
    Err(Error::Field { field, found })
}

/// The object `identity` inside the BASE64 of `b64_identity`.
fn identity_of(encoded: &str) -> Result<Kept, Error> {
    let bytes = decode_base64(encoded).ok_or(Error::Identity("is not BASE64"))?;
    let document =
        fields::read(&bytes, IDENTITY).map_err(|_| Error::Identity("is not BASE64 of JSON"))?;
    match document.get("identity") {
        Some(identity @ Kept::Object(_)) => Ok(identity.clone()),
        _ => Err(Error::Identity("holds no object `identity`")),
    }
}

/// Decodes as Python's `b64decode` does, which the service that we replace uses: characters
/// outside the standard alphabet are dropped (so is everything behind the padding), but the
/// padding itself must be there.
fn decode_base64(encoded: &str) -> Option<Vec<u8>> {
    const UNPADDED: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::RequireNone)
            .with_decode_allow_trailing_bits(true),
    );
    let mut digits = Vec::with_capacity(encoded.len());
    let mut padding = 0;
    for byte in encoded.bytes() {
        match byte {
            b'=' => {
                padding += 1;
                let in_quad = digits.len() % 4;
                if in_quad >= 2 && in_quad + padding >= 4 {
                    return UNPADDED.decode(&digits).ok();
                }
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {
                padding = 0;
                digits.push(byte);
            }
            _ => {}
        }
    }
    if digits.len() % 4 == 0 {
        UNPADDED.decode(&digits).ok()
    } else {
        None
    }
}

fn org_id(value: Option<&Kept>) -> Result<u32, Error> {
    /// 2^63: no float above it has a fraction.
    const MOST: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Some(Kept::Text(text)) => digits(text).ok_or(Error::OrgId),
        // A float is no integer, and so no organisation at all.
        Some(Kept::Number(n)) if n.is_i64() || n.is_u64() => n
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or(Error::OrgId),
        Some(Kept::HugeNumber | Kept::BrokenText) => Err(Error::OrgId),
        // An integer beyond 64 bits comes as a float.
        Some(Kept::Number(n)) if n.as_f64().is_some_and(|n| n.abs() > MOST) => Err(Error::OrgId),
        Some(_) => Err(Error::Identity(
            "holds an `identity.internal.org_id` of another type",
        )),
        None => Err(Error::Identity("holds no `identity.internal.org_id`")),
    }
}

/// How an identity says that there is no account.
fn is_nothing(account: &Kept) -> bool {
    *account == Kept::Null || account.as_str() == Some("")
}

fn number(value: &Kept) -> Option<u32> {
    match value {
        Kept::Text(text) => digits(text),
        Kept::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
        _ => None,
    }
}

/// Plain decimal digits, leading zeros allowed. `str::parse` alone would also take a sign.
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn uuid_of(value: &Kept) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?).ok()
}

/// RFC 3339 as the aggregator reads it: capital `T` and `Z`, no leap second. The value is passed
/// on unchanged, so what the aggregator would refuse must not pass here.
fn parse_timestamp(text: &str) -> Option<OffsetDateTime> {
    let strict = text.as_bytes().get(10) == Some(&b'T')
        && !text.ends_with('z')
        && text.as_bytes().get(17..19) != Some(b"60");
    if strict {
        OffsetDateTime::parse(text, &Rfc3339).ok()
    } else {
        None
    }
}

/// Any ISO 8601 form, converted to UTC; without a zone it is taken as UTC. What no year of four
/// digits can say, there or here, is no time.
fn parse_gathering_time(text: &str) -> Option<OffsetDateTime> {
    // The parser wants a `T`; a blank is what `str()` of a Python time writes. RFC 3339 allows
    // small letters.
    let text = &text.replacen(' ', "T", 1).to_ascii_uppercase();
    OffsetDateTime::parse(text, &Iso8601::DEFAULT)
        .or_else(|_| PrimitiveDateTime::parse(text, &Iso8601::DEFAULT).map(|t| t.assume_utc()))
        .or_else(|_| Date::parse(text, &Iso8601::DEFAULT).map(|d| d.midnight().assume_utc()))
        .ok()
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .filter(|time| time.year() >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::BASE64_STANDARD;
    use serde_json::{Value, json};

    fn announcement() -> Value {
        let identity = json!({"identity": {
            "internal": {"org_id": "123456"},
            "account_number": "789000",
            "system": {"cluster_id": "12345678-aaaa-eeee-ffff-000000000000"},
        }});
        json!({
            "url": "https://bucket.s3.amazonaws.com/key?X-Amz-Signature=abc",
            "b64_identity": BASE64_STANDARD.encode(identity.to_string()),
            "timestamp": "2020-12-09T16:17:42.822020204Z",
            "request_id": "r1",
            "size": 12,
            "metadata": {"custom_metadata": {"gathering_time": "2020-12-09T18:00:00+02:00"}},
        })
    }

    fn parse_json(value: &Value) -> Result<Ingress, Error> {
        parse(Some(value.to_string().as_bytes()))
    }

    fn with(field: &str, value: Value) -> Value {
        let mut message = announcement();
        message[field] = value;
        message
    }

    fn with_identity(identity: Value) -> Value {
        with(
            "b64_identity",
            json!(BASE64_STANDARD.encode(identity.to_string())),
        )
    }

    fn org(org_id: Value) -> Result<u32, Reason> {
        parse_json(&with_identity(
            json!({"identity": {"internal": {"org_id": org_id}}}),
        ))
        .map(|i| i.org_id)
        .map_err(|e| e.reason())
    }

    #[test]
    fn reads_every_field() {
        let ingress = parse_json(&announcement()).unwrap();
        assert_eq!(ingress.org_id, 123_456);
        assert_eq!(ingress.account_number, Some(789_000));
        assert_eq!(
            ingress.cluster_name.unwrap().to_string(),
            "12345678-aaaa-eeee-ffff-000000000000"
        );
        assert_eq!(ingress.timestamp, "2020-12-09T16:17:42.822020204Z");
        assert_eq!(ingress.request_id.as_deref(), Some("r1"));
        assert_eq!(ingress.size, Some(12));
        assert_eq!(
            ingress.gathering_time.unwrap().format(&Rfc3339).unwrap(),
            "2020-12-09T16:00:00Z"
        );
    }

    #[test]
    fn m01_null_and_empty_values() {
        assert_eq!(parse(None).unwrap_err().reason(), Reason::MessageEmpty);
        assert_eq!(parse(Some(b"")).unwrap_err().reason(), Reason::MessageEmpty);
    }

    #[test]
    fn m02_not_one_json_document() {
        for bytes in [
            &b"\xff\x00"[..],
            b"{\"url\":",
            b"{} {}",
            b"{\"a\":1,}",
            b" ",
        ] {
            assert_eq!(
                parse(Some(bytes)).unwrap_err().reason(),
                Reason::MessageJson,
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn m03_json_but_not_an_object() {
        for text in [
            "[]",
            "\"x\"",
            "1",
            "null",
            "true",
            "[1e999]",
            r#"["\ud800"]"#,
        ] {
            assert_eq!(
                parse(Some(text.as_bytes())).unwrap_err(),
                Error::NotAnObject,
                "{text}"
            );
        }
    }

    #[test]
    fn m04_needed_fields_are_named_but_not_shown() {
        for field in ["url", "b64_identity", "timestamp"] {
            for value in [
                json!(null),
                json!(7_654_321),
                json!({"secret": 1}),
                json!([]),
                json!(true),
            ] {
                let error = parse_json(&with(field, value)).unwrap_err();
                assert_eq!(error.reason(), Reason::MessageSchema);
                assert!(error.to_string().contains(field), "{error}");
                assert!(!error.to_string().contains("7654321"), "{error}");
            }
            let mut message = announcement();
            message.as_object_mut().unwrap().remove(field);
            assert_eq!(
                parse_json(&message).unwrap_err(),
                Error::Field {
                    field,
                    found: "missing"
                }
            );
        }
    }

    #[test]
    fn m05_identity_as_the_replaced_service_decodes_it() {
        let good = announcement()["b64_identity"].as_str().unwrap().to_owned();
        let broken_up = good
            .as_bytes()
            .chunks(20)
            .map(|c| str::from_utf8(c).unwrap());
        let broken_up = broken_up.collect::<Vec<_>>().join("\n-_ ");
        assert!(parse_json(&with("b64_identity", json!(broken_up))).is_ok());

        let unpadded = BASE64_STANDARD.encode(r#"{"identity":{"internal":{"org_id":"1"}}}"#);
        let unpadded = unpadded.trim_end_matches('=').to_owned();
        assert_ne!(unpadded.len() % 4, 0, "the case needs padding");
        for bad in [unpadded.as_str(), "!!!!", "a", "", "bm90IGpzb24="] {
            let error = parse_json(&with("b64_identity", json!(bad))).unwrap_err();
            assert_eq!(error.reason(), Reason::Identity, "{bad}");
        }
        for identity in [
            json!({}),
            json!([]),
            json!({"identity": []}),
            json!({"identity": {}}),
            json!({"identity": {"internal": {}}}),
            json!({"identity": {"internal": {"org_id": null}}}),
            json!({"identity": {"internal": {"org_id": 1.5}}}),
            json!({"identity": {"internal": {"org_id": {}}}}),
        ] {
            let error = parse_json(&with_identity(identity.clone())).unwrap_err();
            assert_eq!(error.reason(), Reason::Identity, "{identity}");
        }
    }

    #[test]
    fn m06_organisation_is_plain_digits_of_32_bits() {
        assert_eq!(org(json!("0012")), Ok(12));
        assert_eq!(org(json!(12)), Ok(12));
        assert_eq!(org(json!("4294967295")), Ok(u32::MAX));
        for bad in [
            json!("abc"),
            json!(""),
            json!("-1"),
            json!("1.0"),
            json!("9".repeat(40)),
            json!(" 12 "),
            json!("+5"),
            json!("1_0"),
            json!("4294967296"),
            json!(4_294_967_296_u64),
            json!(-1),
            json!(1e40),
        ] {
            assert_eq!(org(bad.clone()), Err(Reason::OrgId), "{bad}");
        }
        assert_eq!(org(json!(1.5)), Err(Reason::Identity));
    }

    #[test]
    fn m07_account_is_left_out_when_it_is_no_number() {
        for (account, odd) in [
            (json!(null), false),
            (json!(""), false),
            (json!("x"), true),
            (json!(-1), true),
            (json!({}), true),
            (json!("4294967296"), true),
        ] {
            let identity =
                json!({"identity": {"internal": {"org_id": "1"}, "account_number": account}});
            let ingress = parse_json(&with_identity(identity)).unwrap();
            assert_eq!((ingress.account_number, ingress.odd_account), (None, odd));
        }
        let without = json!({"identity": {"internal": {"org_id": "1"}}});
        assert!(!parse_json(&with_identity(without)).unwrap().odd_account);
    }

    #[test]
    fn m04_whatever_is_wrong_the_request_id_is_known() {
        let id = |message: Value| {
            let bytes = message.to_string();
            let announcement = Announcement::read(Some(bytes.as_bytes())).unwrap();
            assert!(announcement.check().is_err(), "{message}");
            announcement.request_id().map(str::to_owned)
        };
        for (field, value) in [
            ("url", json!(null)),
            ("b64_identity", json!("!")),
            ("timestamp", json!("soon")),
        ] {
            assert_eq!(id(with(field, value)).as_deref(), Some("r1"), "{field}");
        }
        assert_eq!(id(json!({"request_id": 7})), None);
    }

    #[test]
    fn m08_request_id_may_be_missing() {
        for value in [json!(null), json!(3), json!({})] {
            assert_eq!(
                parse_json(&with("request_id", value)).unwrap().request_id,
                None
            );
        }
    }

    #[test]
    fn m09_timestamps_that_the_aggregator_reads() {
        for good in [
            "2020-12-09T16:17:42Z",
            "2020-12-09T16:17:42.1Z",
            "2020-12-09T16:17:42.822020204Z",
            "2020-12-09T16:17:42.822020204123Z",
            "2020-12-09T16:17:42+05:30",
        ] {
            let ingress = parse_json(&with("timestamp", json!(good))).unwrap();
            assert_eq!(ingress.timestamp, good);
        }
        for bad in [
            "2020-12-09T16:17:42",
            "2020-12-09",
            "2020-12-09 16:17:42Z",
            "2020-12-09t16:17:42z",
            "2020-12-09T16:17:60Z",
            "2020-13-09T16:17:42Z",
            "yesterday",
            "",
        ] {
            let error = parse_json(&with("timestamp", json!(bad))).unwrap_err();
            assert_eq!(error.reason(), Reason::Timestamp, "{bad}");
        }
    }

    #[test]
    fn m13_depth_is_limited_and_size_is_not() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(
            parse(Some(deep.as_bytes())).unwrap_err().reason(),
            Reason::MessageJson
        );
        assert!(parse_json(&with("metadata", json!({"x": "y".repeat(1 << 20)}))).is_ok());
    }

    /// JSON can write texts and numbers that we cannot hold. They are of another type, no more.
    #[test]
    fn m04_m06_m07_m08_what_cannot_be_held_is_of_another_type() {
        const HERE: &str = "\"here\"";
        for (odd, found) in [
            (r#""\ud83d""#, "a string with half of a surrogate pair"),
            ("1e999", "a number"),
        ] {
            let read = |field| {
                let message = with(field, json!("here")).to_string();
                parse(Some(message.replace(HERE, odd).as_bytes()))
            };
            for field in ["url", "b64_identity", "timestamp"] {
                assert_eq!(read(field).unwrap_err(), Error::Field { field, found });
            }
            assert_eq!(read("request_id").unwrap().request_id, None);
            assert_eq!(read("size").unwrap().size, None);
            assert_eq!(read("metadata").unwrap().gathering_time, None);
            assert!(read("cluster_name").unwrap().cluster_name.is_some());

            let read = |identity: Value| {
                let identity = identity.to_string().replace(HERE, odd);
                let identity = json!(BASE64_STANDARD.encode(identity));
                parse_json(&with("b64_identity", identity))
            };
            let org = json!({"identity": {"internal": {"org_id": "here"}}});
            assert_eq!(read(org).unwrap_err(), Error::OrgId);
            let account =
                json!({"identity": {"internal": {"org_id": "1"}, "account_number": "here"}});
            let ingress = read(account).unwrap();
            assert_eq!((ingress.account_number, ingress.odd_account), (None, true));
        }
        assert_eq!(parse(Some(b"1e999")).unwrap_err(), Error::NotAnObject);
    }

    #[test]
    fn m14_unknown_fields_are_ignored() {
        assert!(parse_json(&with("new", json!({"a": [1, 2]}))).is_ok());
    }

    #[test]
    fn cluster_name_of_the_message_comes_first_and_no_uuid_is_passed_over() {
        let name = "AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee";
        let ingress = parse_json(&with("cluster_name", json!(name))).unwrap();
        assert_eq!(
            ingress.cluster_name.unwrap().to_string(),
            name.to_lowercase()
        );
        let ingress = parse_json(&with("cluster_name", json!("my cluster"))).unwrap();
        assert_eq!(
            ingress.cluster_name.unwrap().to_string(),
            "12345678-aaaa-eeee-ffff-000000000000"
        );
    }

    #[test]
    fn gathering_time_in_other_iso_forms() {
        for (text, expected) in [
            ("2020-12-09T10:00:00Z", Some("2020-12-09T10:00:00Z")),
            (
                "2020-12-09T10:00:00.75+02:00",
                Some("2020-12-09T08:00:00.75Z"),
            ),
            ("2020-12-09 10:00:00", Some("2020-12-09T10:00:00Z")),
            ("2020-12-09t10:00:00.5z", Some("2020-12-09T10:00:00.5Z")),
            ("2020-12-09T10:00:00", Some("2020-12-09T10:00:00Z")),
            ("2020-12-09", Some("2020-12-09T00:00:00Z")),
            ("soon", None),
            // In UTC these lie beyond the years of four digits.
            ("9999-12-31T23:59:59-00:01", None),
            ("0000-01-01T00:00:00+00:01", None),
            ("-000001-01-01T00:00:00Z", None),
            ("-009999-01-01T00:00:00+23:00", None),
            ("0000-01-01T00:00:00Z", Some("0000-01-01T00:00:00Z")),
            ("9999-12-31T23:59:59Z", Some("9999-12-31T23:59:59Z")),
        ] {
            let message = with(
                "metadata",
                json!({"custom_metadata": {"gathering_time": text}}),
            );
            let time = parse_json(&message).unwrap().gathering_time;
            assert_eq!(
                time.map(|t| t.format(&Rfc3339).unwrap()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn debug_shows_no_url() {
        let shown = format!("{:?}", parse_json(&announcement()).unwrap());
        assert!(
            !shown.contains("X-Amz-Signature") && !shown.contains("bucket"),
            "{shown}"
        );
    }
}
