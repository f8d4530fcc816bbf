//! The status message, as the platform's payload tracker reads it.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::kafka::OutgoingRecord;

/// RFC 3339 in UTC with microseconds, as the services around us write it.
const DATE: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// How far the platform may think that an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The announcement is here.
    Received,
    /// The archive is here.
    Processing,
    /// The result is acknowledged.
    Success,
    /// There will be no result.
    Error,
}

/// What is known of the upload.
#[derive(Debug, Clone, Copy)]
pub struct Upload<'a> {
    /// Name of this service.
    pub service: &'a str,
    /// The upload's own id.
    pub request_id: &'a str,
    /// Organisation.
    pub org_id: Option<u32>,
    /// Account.
    pub account_number: Option<u32>,
}

/// Key order is that of the tracker's own description.
#[derive(Serialize)]
struct Message<'a> {
    service: &'a str,
    request_id: &'a str,
    status: Status,
    date: String,
    // Numbers are text here: identities have them so, and so has the tracker.
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_msg: Option<&'a str>,
}

/// Makes the record. Its key is the request id, so that what is said of one upload stays in order.
///
/// # Errors
/// When a value is one that JSON cannot say; none is.
pub fn render(
    topic: &Arc<str>,
    upload: Upload<'_>,
    status: Status,
    status_msg: Option<&str>,
    date: OffsetDateTime,
) -> serde_json::Result<OutgoingRecord> {
    let message = Message {
        service: upload.service,
        request_id: upload.request_id,
        status,
        // The format has no part that can fail for a time in UTC.
        date: date
            .to_offset(time::UtcOffset::UTC)
            .format(DATE)
            .unwrap_or_default(),
        org_id: upload.org_id.map(|id| id.to_string()),
        account: upload.account_number.map(|number| number.to_string()),
        status_msg,
    };
    Ok(OutgoingRecord {
        topic: Arc::clone(topic),
        partition: None,
        key: Some(Bytes::copy_from_slice(upload.request_id.as_bytes())),
        value: Some(Bytes::from(serde_json::to_vec(&message)?)),
        headers: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_is_known_is_said_in_the_order_of_the_tracker() {
        let mut upload = Upload {
            service: "us",
            request_id: "r",
            org_id: Some(7),
            account_number: Some(42),
        };
        let text = |upload, status, status_msg| {
            let date = datetime!(2026-01-02 05:04:05.678 +02:00);
            let record = render(&"t".into(), upload, status, status_msg, date).unwrap();
            assert_eq!(record.key.as_deref(), Some(&b"r"[..]));
            String::from_utf8(record.value.unwrap().to_vec()).unwrap()
        };
        assert_eq!(
            text(upload, Status::Error, Some("not_found")),
            r#"{"service":"us","request_id":"r","status":"error","date":"2026-01-02T03:04:05.678000Z","org_id":"7","account":"42","status_msg":"not_found"}"#
        );
        upload.org_id = None;
        upload.account_number = None;
        assert_eq!(
            text(upload, Status::Received, None),
            r#"{"service":"us","request_id":"r","status":"received","date":"2026-01-02T03:04:05.678000Z"}"#
        );
    }
}
