//! The result message, as the Insights Results Aggregator reads it.

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use super::VERSION;
use crate::ingress::Ingress;
use crate::report::Report;

/// Key order is part of the format.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Message<'a> {
    #[serde(rename = "OrgID")]
    org_id: u32,
    cluster_name: Uuid,
    report: &'a Report,
    last_checked: &'a str,
    version: u8,
    request_id: Option<&'a str>,
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_number: Option<u32>,
}

#[derive(Serialize)]
struct Metadata {
    gathering_time: String,
}

/// Renders the value of the result: compact JSON and one newline.
///
/// # Errors
/// When the report holds what JSON cannot say; that is an error of ours.
pub fn render(
    ingress: &Ingress,
    cluster: Uuid,
    report: &Report,
    gathering_time: OffsetDateTime,
) -> serde_json::Result<Vec<u8>> {
    let message = Message {
        org_id: ingress.org_id,
        cluster_name: cluster,
        report,
        last_checked: &ingress.timestamp,
        version: VERSION,
        request_id: ingress.request_id.as_deref(),
        metadata: Metadata {
            gathering_time: seconds_utc(gathering_time),
        },
        account_number: ingress.account_number,
    };
    let mut bytes = serde_json::to_vec(&message)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// `YYYY-MM-DDTHH:MM:SSZ`: fractions are cut, the offset is converted.
fn seconds_utc(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    // The format has no part that can fail for a time in UTC.
    time.to_offset(time::UtcOffset::UTC)
        .format(format)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn gathering_time_is_utc_in_whole_seconds() {
        assert_eq!(
            seconds_utc(datetime!(2021-07-13 01:16:44.999 +02:00)),
            "2021-07-12T23:16:44Z"
        );
    }
}
