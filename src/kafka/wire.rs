//! Bytes to answers. Trusts none of them.
//!
//! The codec crate reserves memory for as many array elements as the peer announces: a count of
//! 2^31-1 in a frame of ten bytes ends the process, and a frame limit does not help. So every
//! body is walked once along the shape of its version before it is decoded. After the walk each
//! announced element is known to be there, and an answer takes memory in proportion to its bytes.
//!
//! ApiVersions answers are read here by hand: they are the first bytes of an unknown peer.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::{Decodable, HeaderVersion};

use super::versions::Api;

/// What a body is made of, as far as lengths go.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// A number of bytes that is always there.
    Skip(usize),
    /// Text or null, with a length of 2 bytes.
    Str,
    /// Text or null, with its length plus one as a varint. This and the next two are of the
    /// flexible versions (KIP-482).
    CompactStr,
    /// Bytes or null, with a length of 4 bytes.
    Blob,
    /// Elements or null, with a count of 4 bytes.
    Array(&'static [Shape]),
    /// Elements or null, with their count plus one as a varint.
    CompactArray(&'static [Shape]),
    /// Tagged fields, which the crate keeps one by one.
    Tags,
}
use Shape::{Array, Blob, CompactArray, CompactStr, Skip, Str, Tags};

const INT: Shape = Skip(4);
const INTS: Shape = Array(&[INT]);
const COMPACT_INTS: Shape = CompactArray(&[INT]);

/// What four bytes are that should have been the length of a frame, and are out of bounds. Other
/// protocols show: their first letters are lengths of a gigabyte.
pub(super) fn no_frame(length: [u8; 4]) -> Fault {
    match length {
        [b'H', b'T', b'T', b'P'] => "it answers like an HTTP server".into(),
        // A record of TLS: alert or handshake, version 3.x.
        [21 | 22, 3, ..] => "its port wants TLS".into(),
        _ => format!("a frame of {} bytes", i32::from_be_bytes(length)),
    }
}

/// Why a body was refused.
pub(super) type Fault = String;

/// The shape of an answer; `None` for a pair that we never ask for.
fn shape(key: i16, version: i16) -> Option<&'static [Shape]> {
    const BROKER: Shape = Array(&[INT, Str, INT, Str]);
    const COMPACT_BROKER: Shape = CompactArray(&[INT, CompactStr, INT, CompactStr, Tags]);
    const PARTITION: Shape =
        CompactArray(&[Skip(14), COMPACT_INTS, COMPACT_INTS, COMPACT_INTS, Tags]);
    Some(match (key, version) {
        // Produce: partition, code, base offset, time, log start; bad records, message
        (0, 7) => &[Array(&[Str, Array(&[Skip(30)])]), INT],
        (0, 8) => &[
            Array(&[Str, Array(&[Skip(30), Array(&[INT, Str]), Str])]),
            INT,
        ],
        // Fetch: throttle, code, session; partition, code, three offsets, aborted; (replica); records
        (1, 10) => &[
            Skip(10),
            Array(&[Str, Array(&[Skip(30), Array(&[Skip(16)]), Blob])]),
        ],
        (1, 11) => &[
            Skip(10),
            Array(&[Str, Array(&[Skip(30), Array(&[Skip(16)]), INT, Blob])]),
        ],
        // ListOffsets: partition, code, time, offset, epoch
        (2, 4..=5) => &[INT, Array(&[Str, Array(&[Skip(26)])])],
        // Metadata: brokers, cluster, controller; topics of partitions of replica lists
        (3, 5..=6) => &[
            INT,
            BROKER,
            Str,
            INT,
            Array(&[Skip(2), Str, Skip(1), Array(&[Skip(10), INTS, INTS, INTS])]),
        ],
        (3, 7) => &[
            INT,
            BROKER,
            Str,
            INT,
            Array(&[Skip(2), Str, Skip(1), Array(&[Skip(14), INTS, INTS, INTS])]),
        ],
        (3, 8) => &[
            INT,
            BROKER,
            Str,
            INT,
            Array(&[
                Skip(2),
                Str,
                Skip(1),
                Array(&[Skip(14), INTS, INTS, INTS]),
                INT,
            ]),
            INT,
        ],
        (3, 9) => &[
            INT,
            COMPACT_BROKER,
            CompactStr,
            INT,
            CompactArray(&[Skip(2), CompactStr, Skip(1), PARTITION, INT, Tags]),
            INT,
            Tags,
        ],
        // And with the id of each topic.
        (3, 10) => &[
            INT,
            COMPACT_BROKER,
            CompactStr,
            INT,
            CompactArray(&[Skip(2), CompactStr, Skip(17), PARTITION, INT, Tags]),
            INT,
            Tags,
        ],
        // OffsetCommit: partition, code
        (8, 6..=7) => &[INT, Array(&[Str, Array(&[Skip(6)])])],
        // OffsetFetch: partition, offset, epoch, text, code; code of all
        (9, 5) => &[
            INT,
            Array(&[Str, Array(&[Skip(16), Str, Skip(2)])]),
            Skip(2),
        ],
        // FindCoordinator: throttle, code, message, node, host, port
        (10, 1..=2) => &[Skip(6), Str, INT, Str, INT],
        // JoinGroup: throttle, code, generation, protocol, leader, our id, members
        (11, 2..=4) => &[Skip(10), Str, Str, Str, Array(&[Str, Blob])],
        (11, 5) => &[Skip(10), Str, Str, Str, Array(&[Str, Str, Blob])],
        // Heartbeat, LeaveGroup: throttle, code
        (12, 2..=3) | (13, 1..=2) => &[Skip(6)],
        // SyncGroup: and our assignment
        (14, 2..=3) => &[Skip(6), Blob],
        // SaslHandshake: code, mechanisms
        (17, 1) => &[Skip(2), Array(&[Str])],
        // SaslAuthenticate: code, message, the mechanism's own; lifetime
        (36, 0) => &[Skip(2), Str, Blob],
        (36, 1) => &[Skip(2), Str, Blob, Skip(8)],
        // InitProducerId: throttle, code, id, epoch
        (22, 0..=1) => &[Skip(16)],
        (22, 2..=4) => &[Skip(16), Tags],
        _ => return None,
    })
}

/// Walks over a body and refuses any length or count that its bytes do not hold. Shows each text
/// on the way, with the number of bytes behind it.
fn walk<'a>(
    shapes: &[Shape],
    bytes: &mut &'a [u8],
    show: &mut dyn FnMut(&'a [u8], usize),
) -> Result<(), Fault> {
    fn skip(bytes: &mut &[u8], n: usize) -> Result<(), Fault> {
        match bytes.split_at_checked(n) {
            Some((_, rest)) => {
                *bytes = rest;
                Ok(())
            }
            None => Err(format!("{n} bytes announced, {} there", bytes.len())),
        }
    }
    for shape in shapes {
        match shape {
            Skip(n) => skip(bytes, *n)?,
            // Null (-1) has no bytes; other negative lengths are for the decoder to refuse.
            Str | CompactStr => {
                let n = match shape {
                    Str => {
                        let n = bytes.try_get_i16().map_err(|_| "cut off".to_string())?;
                        usize::try_from(n).unwrap_or(0)
                    }
                    _ => compact_length(bytes)?,
                };
                let text = *bytes;
                skip(bytes, n)?;
                show(&text[..n], bytes.len());
            }
            Blob => {
                let n = bytes.try_get_i32().map_err(|_| "cut off".to_string())?;
                skip(bytes, usize::try_from(n).unwrap_or(0))?;
            }
            Array(element) | CompactArray(element) => {
                let n = match shape {
                    Array(_) => {
                        let n = bytes.try_get_i32().map_err(|_| "cut off".to_string())?;
                        usize::try_from(n).unwrap_or(0)
                    }
                    _ => compact_length(bytes)?,
                };
                if n > bytes.len() {
                    return Err(format!("{n} elements announced in {} bytes", bytes.len()));
                }
                for _ in 0..n {
                    walk(element, bytes, show)?;
                }
            }
            Tags => skip_tags(bytes)?,
        }
    }
    Ok(())
}

/// A length or count as the flexible versions write it: plus one, with 0 for null.
fn compact_length(bytes: &mut &[u8]) -> Result<usize, Fault> {
    Ok((unsigned_varint(bytes)? as usize).saturating_sub(1))
}

/// Decodes a frame that must be the answer to the request of this correlation id.
///
/// # Errors
/// A text for [`super::Error::Malformed`].
pub(super) fn answer<A: Api>(
    version: i16,
    correlation: i32,
    mut frame: Bytes,
) -> Result<A::Response, Fault> {
    let header = ResponseHeader::decode(&mut frame, A::Response::header_version(version))
        .map_err(|error| format!("{error:#}"))?;
    if header.correlation_id != correlation {
        let other = header.correlation_id;
        return Err(format!(
            "it answers request {other} instead of {correlation}"
        ));
    }
    decode::<A>(version, frame)
}

/// Decodes the body of an answer.
///
/// A group answer that says no is accepted whatever stands behind its code: some brokers leave
/// out there what the protocol demands, and the code is what matters.
///
/// # Errors
/// A text for [`super::Error::Malformed`].
fn decode<A: Api>(version: i16, body: Bytes) -> Result<A::Response, Fault> {
    let code = body.get(4..6).map(|b| i16::from_be_bytes([b[0], b[1]]));
    match decode_whole::<A>(version, body) {
        Ok(response) => Ok(response),
        Err(fault) => match code {
            Some(code) if code != 0 => A::refused(code).ok_or(fault),
            _ => Err(fault),
        },
    }
}

fn decode_whole<A: Api>(version: i16, mut body: Bytes) -> Result<A::Response, Fault> {
    let shape =
        shape(A::KEY, version).ok_or_else(|| format!("version {version} is not spoken here"))?;
    let mut no_texts = Vec::new();
    walk(shape, &mut &body[..], &mut |text, behind| {
        if str::from_utf8(text).is_err() {
            let end = body.len() - behind;
            no_texts.push(end - text.len()..end);
        }
    })?;
    if !no_texts.is_empty() {
        // Anybody may have committed metadata that is no text, and it is not ours to refuse.
        let mut bytes = body.to_vec();
        for at in no_texts {
            let foreign = bytes[at].iter_mut().filter(|byte| !byte.is_ascii());
            foreign.for_each(|byte| *byte = b'?');
        }
        body = bytes.into();
    }
    A::Response::decode(&mut body, version).map_err(|error| format!("{error:#}"))
}

/// What an ApiVersions answer says: the code, and the ranges by request number.
pub(super) type Offer = (i16, Vec<(i16, (i16, i16))>);

/// Reads the body of an ApiVersions answer of version 0 or 3.
///
/// With code 35 nothing behind the code is read: brokers disagree on its encoding.
///
/// # Errors
/// A text for [`super::Error::NotKafka`].
pub(super) fn api_versions(version: i16, mut body: &[u8]) -> Result<Offer, Fault> {
    const UNSUPPORTED_VERSION: i16 = 35;
    let cut = |_| "cut off".to_string();
    let code = body.try_get_i16().map_err(cut)?;
    if code == UNSUPPORTED_VERSION {
        return Ok((code, Vec::new()));
    }
    let flexible = version >= 3;
    let count = if flexible {
        i64::from(unsigned_varint(&mut body)?) - 1
    } else {
        i64::from(body.try_get_i32().map_err(cut)?)
    };
    // Not reserved: the list grows as its elements are found.
    let mut offer = Vec::new();
    for _ in 0..count.max(0) {
        let key = body.try_get_i16().map_err(cut)?;
        let first = body.try_get_i16().map_err(cut)?;
        let last = body.try_get_i16().map_err(cut)?;
        if flexible {
            skip_tags(&mut body)?;
        }
        offer.push((key, (first, last)));
    }
    // Throttle time and features follow; nothing that we use.
    Ok((code, offer))
}

fn skip_tags(bytes: &mut &[u8]) -> Result<(), Fault> {
    for _ in 0..unsigned_varint(bytes)? {
        unsigned_varint(bytes)?;
        let size = unsigned_varint(bytes)? as usize;
        *bytes = bytes.get(size..).ok_or("cut off in a tagged field")?;
    }
    Ok(())
}

fn unsigned_varint(bytes: &mut &[u8]) -> Result<u32, Fault> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = bytes.try_get_u8().map_err(|_| "cut off".to_string())?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than five bytes".into())
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
    use kafka_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };
    use kafka_protocol::messages::produce_response::{
        BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
    };
    use kafka_protocol::messages::*;
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use proptest::prelude::*;

    use super::super::versions;
    use super::*;

    fn text(s: &'static str) -> StrBytes {
        StrBytes::from_static_str(s)
    }

    fn encoded(message: &impl Encodable, version: i16) -> Bytes {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes, version).unwrap();
        bytes.freeze()
    }

    /// An answer with something in every list, for each request and version.
    pub(in crate::kafka) fn samples() -> Vec<(i16, i16, Bytes)> {
        let topic = || TopicName(text("topic"));
        let mut samples = Vec::new();
        for &(key, _, (first, last)) in versions::ALL {
            for version in first..=last {
                let body = match key {
                    0 => {
                        let mut partition = PartitionProduceResponse::default();
                        if version >= 8 {
                            partition = partition
                                .with_record_errors(vec![
                                    BatchIndexAndErrorMessage::default()
                                        .with_batch_index(1)
                                        .with_batch_index_error_message(Some(text("bad"))),
                                ])
                                .with_error_message(Some(text("message")));
                        }
                        let topic = TopicProduceResponse::default()
                            .with_name(topic())
                            .with_partition_responses(vec![partition]);
                        encoded(
                            &ProduceResponse::default().with_responses(vec![topic]),
                            version,
                        )
                    }
                    1 => {
                        let partition = PartitionData::default()
                            .with_aborted_transactions(Some(vec![AbortedTransaction::default()]))
                            .with_records(Some(Bytes::from_static(b"records")));
                        let empty = PartitionData::default()
                            .with_aborted_transactions(None)
                            .with_records(None);
                        let topic = FetchableTopicResponse::default()
                            .with_topic(topic())
                            .with_partitions(vec![partition, empty]);
                        encoded(
                            &FetchResponse::default().with_responses(vec![topic]),
                            version,
                        )
                    }
                    2 => encoded(
                        &ListOffsetsResponse::default().with_topics(vec![
                            list_offsets_response::ListOffsetsTopicResponse::default()
                                .with_name(topic())
                                .with_partitions(vec![Default::default()]),
                        ]),
                        version,
                    ),
                    3 => {
                        let partition = MetadataResponsePartition::default()
                            .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
                            .with_isr_nodes(vec![BrokerId(1)])
                            .with_offline_replicas(vec![BrokerId(2)]);
                        let broker = MetadataResponseBroker::default()
                            .with_host(text("host"))
                            .with_rack(Some(text("rack")));
                        let topic = MetadataResponseTopic::default()
                            .with_name(Some(topic()))
                            .with_partitions(vec![partition]);
                        encoded(
                            &MetadataResponse::default()
                                .with_cluster_id(Some(text("cluster")))
                                .with_brokers(vec![broker])
                                .with_topics(vec![topic]),
                            version,
                        )
                    }
                    8 => encoded(
                        &OffsetCommitResponse::default().with_topics(vec![
                            offset_commit_response::OffsetCommitResponseTopic::default()
                                .with_name(topic())
                                .with_partitions(vec![Default::default()]),
                        ]),
                        version,
                    ),
                    9 => encoded(
                        &OffsetFetchResponse::default().with_topics(vec![
                            offset_fetch_response::OffsetFetchResponseTopic::default()
                                .with_name(topic())
                                .with_partitions(vec![Default::default()]),
                        ]),
                        version,
                    ),
                    10 => encoded(
                        &FindCoordinatorResponse::default().with_host(text("host")),
                        version,
                    ),
                    11 => encoded(
                        &JoinGroupResponse::default()
                            .with_member_id(text("me"))
                            .with_protocol_name(Some(text("range")))
                            .with_members(vec![
                                JoinGroupResponseMember::default()
                                    .with_member_id(text("me"))
                                    .with_metadata(Bytes::from_static(b"metadata")),
                            ]),
                        version,
                    ),
                    12 => encoded(&HeartbeatResponse::default(), version),
                    13 => encoded(&LeaveGroupResponse::default(), version),
                    14 => encoded(
                        &SyncGroupResponse::default()
                            .with_assignment(Bytes::from_static(b"assignment")),
                        version,
                    ),
                    17 => encoded(
                        &SaslHandshakeResponse::default()
                            .with_mechanisms(vec![text("PLAIN"), text("SCRAM-SHA-512")]),
                        version,
                    ),
                    36 => encoded(
                        &SaslAuthenticateResponse::default()
                            .with_error_message(Some(text("message")))
                            .with_auth_bytes(Bytes::from_static(b"r=nonce")),
                        version,
                    ),
                    22 => encoded(&InitProducerIdResponse::default(), version),
                    _ => panic!("a sample is missing for request {key}"),
                };
                samples.push((key, version, body));
            }
        }
        samples
    }

    /// Decodes as the request's own type; whether that went well.
    fn decodes(key: i16, version: i16, body: Bytes) -> Result<(), Fault> {
        match key {
            0 => decode::<ProduceRequest>(version, body).map(drop),
            1 => decode::<FetchRequest>(version, body).map(drop),
            2 => decode::<ListOffsetsRequest>(version, body).map(drop),
            3 => decode::<MetadataRequest>(version, body).map(drop),
            8 => decode::<OffsetCommitRequest>(version, body).map(drop),
            9 => decode::<OffsetFetchRequest>(version, body).map(drop),
            10 => decode::<FindCoordinatorRequest>(version, body).map(drop),
            11 => decode::<JoinGroupRequest>(version, body).map(drop),
            12 => decode::<HeartbeatRequest>(version, body).map(drop),
            13 => decode::<LeaveGroupRequest>(version, body).map(drop),
            14 => decode::<SyncGroupRequest>(version, body).map(drop),
            17 => decode::<SaslHandshakeRequest>(version, body).map(drop),
            22 => decode::<InitProducerIdRequest>(version, body).map(drop),
            36 => decode::<SaslAuthenticateRequest>(version, body).map(drop),
            _ => panic!("unknown request {key}"),
        }
    }

    /// The shape agrees with what the codec writes: the walk ends exactly at the end.
    #[test]
    fn every_shape_fits_its_answer() {
        for (key, version, body) in samples() {
            let mut left = &body[..];
            walk(shape(key, version).unwrap(), &mut left, &mut |_, _| {}).unwrap();
            assert!(
                left.is_empty(),
                "{} bytes left of {key} v{version}",
                left.len()
            );
            assert_eq!(decodes(key, version, body), Ok(()), "{key} v{version}");
        }
    }

    #[test]
    fn k19_what_is_no_text_costs_its_letters_and_not_the_answer() {
        let (_, _, body) = samples()
            .into_iter()
            .find(|(key, version, _)| (*key, *version) == (9, 5))
            .unwrap();
        let mut damaged = body.to_vec();
        // Throttle time, one topic, and its name.
        damaged[10] = 0xff;
        let answer = decode::<OffsetFetchRequest>(5, damaged.into()).unwrap();
        assert!(answer.topics[0].name.starts_with('?'), "{answer:?}");
    }

    #[test]
    fn k19_a_count_that_the_body_cannot_hold_is_refused_before_memory_is_reserved() {
        let mut body = BytesMut::new();
        body.put_i32(0);
        body.put_i32(i32::MAX);
        let fault = decodes(3, 8, body.freeze()).unwrap_err();
        assert_eq!(fault, "2147483647 elements announced in 0 bytes");
        // As many elements as bytes: each would need more than one.
        let mut body = BytesMut::new();
        body.put_i32(0);
        body.put_i32(1000);
        body.put_bytes(0, 1000);
        assert!(decodes(3, 8, body.freeze()).is_err());
        // 2^32-2 brokers, as the flexible versions write it.
        let mut body = BytesMut::new();
        body.put_i32(0);
        body.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        let fault = decodes(3, 10, body.freeze()).unwrap_err();
        assert_eq!(fault, "4294967294 elements announced in 0 bytes");
    }

    #[test]
    fn a_group_answer_that_says_no_needs_nothing_but_its_code() {
        let mut body = BytesMut::new();
        body.put_i32(0);
        body.put_i16(27);
        // A null assignment, which the codec does not take.
        body.put_i32(-1);
        let response = decode::<SyncGroupRequest>(3, body.freeze()).unwrap();
        assert_eq!(response.error_code, 27);
        // Without a code the same body is an error.
        let mut body = BytesMut::new();
        body.put_i32(0);
        body.put_i16(0);
        body.put_i32(-1);
        assert!(decode::<SyncGroupRequest>(3, body.freeze()).is_err());
        // MEMBER_ID_REQUIRED comes with the id.
        let body = encoded(
            &JoinGroupResponse::default()
                .with_error_code(79)
                .with_protocol_name(Some(text("")))
                .with_member_id(text("me-1")),
            5,
        );
        let response = decode::<JoinGroupRequest>(5, body).unwrap();
        assert_eq!(&response.member_id[..], "me-1");
    }

    #[test]
    fn reads_what_a_broker_offers() {
        let v0 = [0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 8, 0, 18, 0, 0, 0, 3];
        let offer = vec![(3, (0, 8)), (18, (0, 3))];
        assert_eq!(api_versions(0, &v0), Ok((0, offer)));
        let v3 = [0, 0, 2, 0, 3, 0, 0, 0, 8, 1, 7, 2, 9, 9, 0, 0, 0, 0, 0];
        assert_eq!(api_versions(3, &v3), Ok((0, vec![(3, (0, 8))])));
        // Code 35: whatever follows is not read.
        assert_eq!(api_versions(3, &[0, 35, 0xff]), Ok((35, Vec::new())));
        // 2^32-2 entries in no bytes.
        assert!(api_versions(3, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
        assert!(api_versions(3, &[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }

    proptest! {
        #[test]
        fn k19_no_bytes_make_it_panic(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0usize..versions::ALL.len(),
        ) {
            let (key, _, (first, last)) = versions::ALL[at];
            for version in first..=last {
                let _ = decodes(key, version, Bytes::from(body.clone()));
            }
            let _ = api_versions(0, &body);
            let _ = api_versions(3, &body);
        }

        #[test]
        fn k19_no_damage_makes_it_panic(
            at in any::<proptest::sample::Index>(),
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<proptest::sample::Index>(),
        ) {
            let samples = samples();
            let (key, version, body) = at.get(&samples);
            let mut body = body.to_vec();
            for (place, byte) in damage {
                let place = place.index(body.len());
                body[place] = byte;
            }
            let _ = decodes(*key, *version, Bytes::from(body.clone()));
            body.truncate(cut.index(body.len() + 1));
            let _ = decodes(*key, *version, Bytes::from(body));
        }
    }
}
