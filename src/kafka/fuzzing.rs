//! A door for fuzzing: bytes into everything that reads what a broker sends. Part of test and fuzz
//! builds only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;

use super::options::{ConsumerOptions, OnCorruptBatch};
use super::records::Batches;
use super::versions::{self, Api};
use super::{Assigned, Event, Lease, TopicPartition, assignor, fetch, wire};

/// Reads an input as an answer: the first byte chooses a request and a version of it, the rest is
/// the frame behind its length. Two values choose ApiVersions, which comes before there is
/// a version, and some more the records of a batch whose checksum is right.
pub fn run(data: &[u8]) {
    let Some((&choice, frame)) = data.split_first() else {
        return;
    };
    let mut answers = Vec::new();
    for &(key, _, (first, last)) in versions::ALL {
        answers.extend((first..=last).map(|version| (key, version)));
    }
    let choice = usize::from(choice);
    match answers.get(choice) {
        Some(&(key, version)) => answer(key, version, frame),
        None => match choice - answers.len() {
            0 => api_versions(0, frame),
            1 => api_versions(3, frame),
            kind => batch(kind, frame),
        },
    }
}

fn api_versions(version: i16, frame: &[u8]) {
    if let Ok((_, offer)) = wire::api_versions(version, frame) {
        assert!(offer.len() <= frame.len());
        let versions = versions::Versions::new(offer);
        let gaps = versions.gaps(&Arc::from("broker:9092"));
        assert!(gaps.len() <= versions::ALL.len());
    }
}

fn answer(key: i16, version: i16, frame: &[u8]) {
    let frame = Bytes::copy_from_slice(frame);
    match key {
        0 => drop(decode::<ProduceRequest>(version, frame)),
        1 => {
            if let Some(response) = decode::<FetchRequest>(version, frame) {
                fetched(response);
            }
        }
        2 => drop(decode::<ListOffsetsRequest>(version, frame)),
        3 => drop(decode::<MetadataRequest>(version, frame)),
        8 => drop(decode::<OffsetCommitRequest>(version, frame)),
        9 => drop(decode::<OffsetFetchRequest>(version, frame)),
        10 => drop(decode::<FindCoordinatorRequest>(version, frame)),
        11 => {
            if let Some(response) = decode::<JoinGroupRequest>(version, frame) {
                for member in response.members {
                    assignor::decode_subscription(&member.metadata);
                }
            }
        }
        12 => drop(decode::<HeartbeatRequest>(version, frame)),
        13 => drop(decode::<LeaveGroupRequest>(version, frame)),
        14 => {
            if let Some(response) = decode::<SyncGroupRequest>(version, frame) {
                assignor::decode_assignment(&response.assignment);
            }
        }
        17 => drop(decode::<SaslHandshakeRequest>(version, frame)),
        22 => drop(decode::<InitProducerIdRequest>(version, frame)),
        36 => drop(decode::<SaslAuthenticateRequest>(version, frame)),
        _ => {}
    }
}

/// As a connection does it, which knows the number that it waits for.
fn decode<A: Api>(version: i16, frame: Bytes) -> Option<A::Response> {
    let correlation = frame.get(..4).map(|mut bytes| bytes.get_i32())?;
    let response = wire::answer::<A>(version, correlation, frame.clone());
    let other = wire::answer::<A>(version, correlation.wrapping_add(1), frame);
    assert!(other.is_err(), "an answer to another request is taken");
    if let Err(found) = &response {
        assert!(found.len() < 1024, "a long message: {found}");
    }
    response.ok()
}

/// Hands an answer to the positions of a consumer that asked for every partition in it.
fn fetched(response: FetchResponse) {
    for skip in [OnCorruptBatch::Pause, OnCorruptBatch::Skip] {
        let options = ConsumerOptions {
            on_corrupt_batch: skip,
            ..ConsumerOptions::default()
        };
        let mut fetcher = fetch::Fetcher::new(&options, Arc::default());
        let partitions = response.responses.iter().flat_map(|topic| {
            let topic_name = topic.topic.0.to_string();
            let of_topic = topic.partitions.iter();
            of_topic.map(move |data| TopicPartition::new(topic_name.as_str(), data.partition_index))
        });
        let mut partitions: Vec<_> = partitions.take(20).collect();
        partitions.sort();
        partitions.dedup();
        let assigned: Vec<_> = partitions
            .into_iter()
            .map(|partition| Assigned {
                partition,
                lease: Lease::new(),
                kept: false,
            })
            .collect();
        fetcher.assign(&assigned);
        let mut now = Instant::now();
        for asked in fetcher.unplaced(now) {
            fetcher.committed(&asked, Some(10), false, now);
        }
        // Twice: what is broken is asked for again before it is given up.
        for _ in 0..2 {
            let Some(asked) = fetcher.questions(|_| Some(1), now).remove(&1) else {
                break;
            };
            fetcher.sent(1, asked, now);
            let mut events = Vec::new();
            fetcher.answered(1, response.clone(), now, &mut events);
            events.iter().for_each(check);
            now += Duration::from_secs(5);
        }
    }
}

fn check(event: &Event) {
    match event {
        Event::Fetched {
            from,
            records,
            next,
            ..
        } => {
            assert!(next > from, "a position that stands still");
            let mut last = *from - 1;
            for record in records {
                assert!(record.offset >= *from && record.offset < *next);
                last = last.max(record.offset);
            }
        }
        Event::Skipped { from, to, .. } => assert!(to > from),
        _ => {}
    }
}

/// A batch of any content whose checksum is right: the bytes are attributes, the number of
/// records, and the packed records.
fn batch(kind: usize, bytes: &[u8]) {
    let (head, packed) = bytes.split_at(bytes.len().min(3));
    let [attributes, count, base] = [0, 1, 2].map(|at| head.get(at).copied().unwrap_or(0));
    // Kinds beyond the codecs leave the attributes as they are.
    let attributes = match kind {
        2..=6 => i16::from(attributes & !7) | i16::try_from(kind - 2).unwrap_or(0),
        _ => i16::from(attributes),
    };
    let count = match count {
        255 => i32::MAX,
        254 => i32::try_from(packed.len()).unwrap_or(i32::MAX),
        count => i32::from(count),
    };
    let mut batch = BytesMut::new();
    batch.put_i64(i64::from(base));
    batch.put_i32(i32::try_from(49 + packed.len()).unwrap_or(i32::MAX));
    batch.put_i32(-1);
    batch.put_i8(2);
    batch.put_u32(0);
    batch.put_i16(attributes);
    batch.put_i32(count.max(1) - 1);
    batch.put_i64(1_600_000_000_000);
    batch.put_i64(1_600_000_000_000);
    batch.put_i64(7);
    batch.put_i16(0);
    batch.put_i32(0);
    batch.put_i32(count);
    batch.put_slice(packed);
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    let batch = batch.freeze();
    let mut total = 0;
    for found in Batches::new(batch) {
        let found = found.expect("the batch is whole");
        if found.is_control() {
            let _ = found.marker();
        }
        if let Ok(records) = found.records() {
            for record in records {
                assert!((found.base..found.next).contains(&record.offset));
                let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
                total += part(&record.key) + part(&record.value);
            }
        }
    }
    assert!(total <= super::records::MAX_UNPACKED);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::protocol::Encodable;

    use super::super::Header;
    use super::super::options::Compression;
    use super::super::records::{Draft, Origin, encode};
    use super::*;

    fn corpus() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "fuzz/corpus/kafka_responses"]
            .iter()
            .collect()
    }

    /// The byte that chooses a request and a version, or what comes behind them.
    fn choice(key: i16, version: i16) -> u8 {
        let mut answers = versions::ALL
            .iter()
            .flat_map(|&(key, _, (first, last))| (first..=last).map(move |v| (key, v)));
        let at = answers.position(|answer| answer == (key, version)).unwrap();
        u8::try_from(at).unwrap()
    }

    fn batch_of(compression: Compression, base: i64) -> Bytes {
        let headers = [
            Header {
                name: Bytes::from_static(b"service"),
                value: Some(Bytes::from_static(b"openshift")),
            },
            Header {
                name: Bytes::from_static(b"service"),
                value: None,
            },
        ];
        let draft = |value| Draft {
            timestamp: 1_600_000_000_000,
            key: Some(&[0, 0, 0, 0]),
            value,
            headers: &headers,
        };
        let drafts = [draft(Some(b"value value value value")), draft(None)];
        let origin = Origin {
            producer_id: 7,
            epoch: 0,
            sequence: 0,
        };
        let mut bytes = encode(&drafts, compression, origin).unwrap().to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes.into()
    }

    /// An answer of each kind and version with something in every list; batches of each codec,
    /// within a fetch answer and without one.
    fn seeds() -> Vec<(String, Vec<u8>)> {
        let mut seeds = Vec::new();
        let header = [0, 0, 0, 9];
        for (key, version, body) in wire::tests::samples() {
            // The answer to InitProducerId has tags in its header from version 2 on.
            let tags: &[u8] = if key == 22 && version >= 2 { &[0] } else { &[] };
            let seed = [&[choice(key, version)][..], &header, tags, &body].concat();
            seeds.push((format!("seed-{key:02}-{version}"), seed));
        }
        let behind = choice(22, 4) + 1;
        let plain = [&[behind, 0, 0][..], &[0, 0, 0, 1, 0, 1, 0, 10, 0, 11]].concat();
        seeds.push(("seed-18-0".to_owned(), plain));
        let flexible = [
            &[behind + 1, 0, 0][..],
            &[2, 0, 1, 0, 10, 0, 11, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        seeds.push(("seed-18-3".to_owned(), flexible));
        let codecs = [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ];
        let mut log = BytesMut::new();
        for (kind, (base, codec)) in (2..).zip((9_i64..).step_by(2).zip(codecs)) {
            let batch = batch_of(codec, base);
            log.put_slice(&batch);
            let seed = [&[behind + kind, 0, 2, 10][..], &batch[61..]].concat();
            seeds.push((format!("seed-batch-{}", kind - 2), seed));
        }
        for (number, cut) in [0, 20].into_iter().enumerate() {
            let records = log.clone().freeze().slice(..log.len() - cut);
            let data = PartitionData::default()
                .with_high_watermark(100)
                .with_aborted_transactions(Some(vec![AbortedTransaction::default()]))
                .with_records(Some(records));
            let topic = FetchableTopicResponse::default()
                .with_topic(fetch::topic_name("t"))
                .with_partitions(vec![data]);
            let mut body = BytesMut::new();
            let response = FetchResponse::default().with_responses(vec![topic]);
            response.encode(&mut body, 11).unwrap();
            let seed = [&[choice(1, 11)][..], &header, &body].concat();
            seeds.push((format!("seed-fetch-{number}"), seed));
        }
        seeds
    }

    /// Writes what is missing, as the other seeds have a script of their own.
    #[test]
    fn the_corpus_holds_an_answer_of_each_kind() {
        let mut missing = Vec::new();
        fs::create_dir_all(corpus()).unwrap();
        for (name, seed) in seeds() {
            let path = corpus().join(&name);
            if fs::read(&path).ok().as_ref() != Some(&seed) {
                fs::write(&path, &seed).unwrap();
                missing.push(name);
            }
        }
        assert!(missing.is_empty(), "were missing, now written: {missing:?}");
    }

    #[test]
    fn k19_the_corpus_of_answers() {
        for entry in fs::read_dir(corpus()).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            for length in 0..=input.len().min(400) {
                run(&input[..length]);
            }
            run(&input);
            for at in 0..input.len().min(400) {
                let mut turned = input.clone();
                turned[at] ^= 0x80;
                run(&turned);
            }
        }
    }

    /// The seeds are read to their end: a door that refuses everything finds nothing.
    #[test]
    fn the_seeds_are_accepted() {
        for (key, version, body) in wire::tests::samples() {
            let tags: &[u8] = if key == 22 && version >= 2 { &[0] } else { &[] };
            let frame = Bytes::from([&[0, 0, 0, 9][..], tags, &body].concat());
            if key == 1 {
                assert!(decode::<FetchRequest>(version, frame).is_some());
            } else if key == 22 {
                assert!(decode::<InitProducerIdRequest>(version, frame).is_some());
            }
        }
    }
}
