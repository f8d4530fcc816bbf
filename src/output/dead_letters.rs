//! Dead letters: the original bytes, with the reason in headers.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Reason;
use crate::kafka::{Header, OutgoingRecord, Record};

/// All headers of ours begin like this. A second failure replaces them, never appends.
pub const PREFIX: &str = "ccx-dlq-";

/// Bytes that the message of a dead letter may have.
const MESSAGE_LIMIT: usize = 1024;

/// Why a record is a dead letter.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The fixed word.
    pub reason: Reason,
    /// Our own words, without secrets.
    pub message: String,
    /// Downloads tried; 0: none.
    pub attempts: u32,
}

/// Makes the dead letter: key, value and headers unchanged, ours behind them.
pub fn render(topic: &Arc<str>, group: &str, record: &Record, failure: &Failure) -> OutgoingRecord {
    let mut headers: Vec<Header> = record
        .headers
        .iter()
        .filter(|header| !header.name.starts_with(PREFIX.as_bytes()))
        .cloned()
        .collect();
    headers.extend(facts(group, record, failure));
    OutgoingRecord {
        topic: Arc::clone(topic),
        partition: None,
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
    }
}

/// What is sent when the broker refuses the dead letter for its size: where the record lies, and
/// why it failed, but neither its value nor its headers.
pub fn render_stub(
    topic: &Arc<str>,
    group: &str,
    record: &Record,
    failure: &Failure,
) -> OutgoingRecord {
    let mut headers: Vec<Header> = facts(group, record, failure).collect();
    headers.push(header("stub", "true"));
    // The key may be what is too large; it is kept when it is not.
    let key = record.key.clone().filter(|key| key.len() <= MESSAGE_LIMIT);
    OutgoingRecord {
        topic: Arc::clone(topic),
        partition: None,
        key,
        value: None,
        headers,
    }
}

fn facts<'a>(
    group: &'a str,
    record: &'a Record,
    failure: &'a Failure,
) -> impl Iterator<Item = Header> + 'a {
    [
        header("topic", &record.partition.topic),
        header("partition", &record.partition.partition.to_string()),
        header("offset", &record.offset.to_string()),
        header("timestamp", &record.timestamp.unwrap_or(-1).to_string()),
        header("group", group),
        header("reason", failure.reason.as_str()),
        header("message", cut(&failure.message)),
        header("attempts", &failure.attempts.to_string()),
        header("version", env!("CARGO_PKG_VERSION")),
    ]
    .into_iter()
}

fn header(name: &str, value: &str) -> Header {
    Header {
        name: Bytes::from(format!("{PREFIX}{name}")),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

/// The longest part of a text that is within the limit and still UTF-8.
fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_LIMIT)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::{Lease, TopicPartition};

    fn record() -> Record {
        Record {
            partition: TopicPartition::new("upload", 3),
            offset: 42,
            timestamp: None,
            key: Some(Bytes::from_static(b"k")),
            value: None,
            headers: vec![
                Header {
                    name: Bytes::from_static(b"service"),
                    value: None,
                },
                Header {
                    name: Bytes::from_static(b"ccx-dlq-reason"),
                    value: None,
                },
                Header {
                    name: Bytes::from_static(b"service"),
                    value: Some(Bytes::new()),
                },
            ],
            lease: Lease::new(),
        }
    }

    fn failure(message: &str) -> Failure {
        Failure {
            reason: Reason::NotFound,
            message: message.into(),
            attempts: 2,
        }
    }

    fn texts(record: &OutgoingRecord) -> Vec<String> {
        let text = |b: &Bytes| String::from_utf8_lossy(b).into_owned();
        let show = |h: &Header| match &h.value {
            Some(value) => format!("{}={}", text(&h.name), text(value)),
            None => text(&h.name),
        };
        record.headers.iter().map(show).collect()
    }

    #[test]
    fn original_headers_stay_and_ours_are_replaced() {
        let letter = render(
            &"dlq".into(),
            "group",
            &record(),
            &failure("no such object"),
        );
        assert_eq!(letter.value, None, "a null value stays null");
        assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
        let version = concat!("ccx-dlq-version=", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            texts(&letter),
            [
                "service",
                "service=",
                "ccx-dlq-topic=upload",
                "ccx-dlq-partition=3",
                "ccx-dlq-offset=42",
                "ccx-dlq-timestamp=-1",
                "ccx-dlq-group=group",
                "ccx-dlq-reason=not_found",
                "ccx-dlq-message=no such object",
                "ccx-dlq-attempts=2",
                version,
            ]
        );
    }

    #[test]
    fn m20_the_message_is_cut_between_characters() {
        let letter = render(
            &"dlq".into(),
            "group",
            &record(),
            &failure(&"é".repeat(2000)),
        );
        let message = letter
            .headers
            .iter()
            .find(|h| h.name == "ccx-dlq-message")
            .unwrap();
        let value = message.value.as_ref().unwrap();
        assert!(value.len() <= 1024 && str::from_utf8(value).is_ok());
    }

    #[test]
    fn m20_a_stub_says_where_the_record_lies() {
        let mut record = record();
        record.value = Some(Bytes::from(vec![b'x'; 100]));
        record.key = Some(Bytes::from(vec![b'x'; 5000]));
        let stub = render_stub(&"dlq".into(), "group", &record, &failure("m"));
        assert_eq!((stub.key.as_ref(), stub.value.as_ref()), (None, None));
        let texts = texts(&stub);
        assert!(texts.contains(&"ccx-dlq-offset=42".to_owned()));
        assert_eq!(texts.last().unwrap(), "ccx-dlq-stub=true");
        assert!(!texts.iter().any(|t| t.starts_with("service")));
    }
}
