use proptest::prelude::*;

use super::compression::MAX_FRAMES;
use super::*;

const CODECS: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

fn draft(record: &RawRecord) -> Draft<'_> {
    Draft {
        timestamp: record.timestamp.unwrap_or(-1),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &record.headers,
    }
}

fn record(offset: i64, value: Option<&[u8]>) -> RawRecord {
    RawRecord {
        offset,
        timestamp: Some(1_600_000_000_000 + offset),
        key: None,
        value: value.map(Bytes::copy_from_slice),
        headers: Vec::new(),
    }
}

fn batch(records: &[RawRecord], codec: Compression) -> Bytes {
    let drafts: Vec<_> = records.iter().map(draft).collect();
    encode(&drafts, codec, Origin::NOBODY).unwrap()
}

/// Changes bytes of a batch and makes its checksum right again.
fn altered(bytes: &Bytes, change: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::from(&bytes[..]);
    change(&mut bytes);
    let checksum = crc32c::crc32c(&bytes[CHECKED..]);
    bytes[17..CHECKED].copy_from_slice(&checksum.to_be_bytes());
    bytes.freeze()
}

fn only(bytes: Bytes) -> Result<Batch, Corrupt> {
    let mut batches = Batches::new(bytes);
    let batch = batches.next().unwrap();
    assert!(batches.next().is_none());
    batch
}

/// Replaces the records of a batch by another stream of a codec.
fn packed(codec: i16, stream: &[u8]) -> Batch {
    let bytes = batch(&[record(0, None)], Compression::None);
    let bytes = altered(&bytes, |bytes| {
        bytes.truncate(HEAD);
        bytes.extend_from_slice(stream);
        let length = i32::try_from(bytes.len() - PREFIX).unwrap();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[21..23].copy_from_slice(&codec.to_be_bytes());
    });
    only(bytes).unwrap()
}

/// Written out by hand from the format's description, not by our encoder.
#[test]
fn reads_a_batch_written_by_hand() {
    let records = [
        // length 17, attributes, time +0, offset +0, key "k", value "v", one header n: null
        26u8, 0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'n', 1, 0, 0,
    ];
    let mut body = vec![0, 0]; // attributes
    body.extend(3i32.to_be_bytes()); // last offset delta: records 1 to 3 are gone
    body.extend(1000i64.to_be_bytes());
    body.extend(2000i64.to_be_bytes());
    body.extend((-1i64).to_be_bytes());
    body.extend((-1i16).to_be_bytes());
    body.extend((-1i32).to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(records);
    let mut bytes = Vec::new();
    bytes.extend(40i64.to_be_bytes());
    bytes.extend(i32::try_from(body.len() + 9).unwrap().to_be_bytes());
    bytes.extend(7i32.to_be_bytes());
    bytes.push(2);
    bytes.extend(crc32c::crc32c(&body).to_be_bytes());
    bytes.extend(&body);
    let batch = only(bytes.into()).unwrap();
    assert_eq!((batch.base, batch.next), (40, 44));
    assert!(!batch.is_control() && !batch.is_transactional());
    let records = batch.records().unwrap();
    assert_eq!(
        records,
        [RawRecord {
            offset: 40,
            timestamp: Some(1000),
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(b"v")),
            headers: vec![Header {
                name: Bytes::from_static(b"n"),
                value: None,
            }],
        }]
    );
}

#[test]
fn a_cut_last_batch_is_the_end() {
    let whole = batch(&[record(0, Some(b"one"))], Compression::None);
    for cut in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes.extend_from_slice(&whole[..cut]);
        let mut batches = Batches::new(bytes.into());
        assert!(batches.next().unwrap().is_ok());
        assert!(batches.next().is_none());
        assert_eq!(batches.rest(), cut);
    }
}

#[test]
fn m21_a_flipped_bit_is_found_and_the_next_batch_still_read() {
    let whole = batch(&[record(0, Some(b"one"))], Compression::None);
    for place in 17..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[place] ^= 1;
        bytes.extend_from_slice(&whole);
        let mut batches = Batches::new(bytes.into());
        let corrupt = batches.next().unwrap().unwrap_err();
        assert_eq!(corrupt.fault, Fault::Checksum);
        assert!(batches.next().unwrap().is_ok());
    }
}

#[test]
fn old_formats_are_refused_by_name() {
    let mut bytes = batch(&[record(0, None)], Compression::None).to_vec();
    bytes[16] = 1;
    let corrupt = only(bytes.into()).unwrap_err();
    assert_eq!(corrupt.fault, Fault::OldFormat { magic: 1 });
    assert!(corrupt.fault.to_string().contains("message format 2"));
}

#[test]
fn an_empty_batch_still_moves_on() {
    let bytes = batch(&[record(0, Some(b"x"))], Compression::Gzip);
    let bytes = altered(&bytes, |bytes| {
        bytes.truncate(HEAD);
        let length = i32::try_from(HEAD - PREFIX).unwrap();
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[23..27].copy_from_slice(&9i32.to_be_bytes());
        bytes[57..61].copy_from_slice(&0i32.to_be_bytes());
    });
    let batch = only(bytes).unwrap();
    assert_eq!(batch.next, 10);
    assert_eq!(batch.records(), Ok(Vec::new()));
}

#[test]
fn log_append_time_is_the_batchs_own() {
    let records = [record(0, None), record(1, None)];
    let bytes = altered(&batch(&records, Compression::None), |bytes| {
        bytes[22] |= 0x08;
        bytes[35..43].copy_from_slice(&77i64.to_be_bytes());
    });
    let records = only(bytes).unwrap().records().unwrap();
    assert!(records.iter().all(|record| record.timestamp == Some(77)));
}

#[test]
fn control_batches_tell_how_a_transaction_ended() {
    for (kind, marker) in [(0, Marker::Abort), (1, Marker::Commit), (2, Marker::Other)] {
        let mut mark = record(0, Some(&[0, 0, 0, 0, 0, 0]));
        mark.key = Some(Bytes::copy_from_slice(&[0, 0, 0, kind]));
        let bytes = altered(&batch(&[mark], Compression::None), |bytes| {
            bytes[22] |= 0x30;
            bytes[43..51].copy_from_slice(&5i64.to_be_bytes());
        });
        let batch = only(bytes).unwrap();
        assert!(batch.is_control() && batch.is_transactional());
        assert_eq!(batch.producer_id, 5);
        assert_eq!(batch.marker(), Ok(marker));
    }
}

#[test]
fn m21_counts_are_not_believed() {
    let whole = batch(&[record(0, Some(b"x"))], Compression::None);
    let many = altered(&whole, |bytes| {
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    });
    assert!(only(many).unwrap().records().is_err());
    let negative = altered(&whole, |bytes| bytes[57] = 0xff);
    assert!(only(negative).is_err());
    // One record that announces 2^62 headers.
    let mut stream = BytesMut::new();
    let mut one = BytesMut::from(&[0, 0, 0, 1, 1][..]);
    put_varint(&mut one, 1 << 62);
    put_length(&mut stream, one.len());
    stream.extend_from_slice(&one);
    assert_eq!(
        packed(0, &stream).records(),
        Err(Fault::Malformed("more headers than bytes"))
    );
}

#[test]
fn m21_bombs_end_at_the_limit() {
    const LIMIT: usize = 100_000;
    for codec in CODECS {
        for size in [LIMIT - 1, LIMIT, LIMIT + 1, 50 * LIMIT] {
            let (number, stream) = deflate(codec, BytesMut::zeroed(size)).unwrap();
            if number == 0 {
                continue;
            }
            match inflate(number, &stream, LIMIT) {
                Ok(out) => assert_eq!(out.len(), size),
                Err(fault) => {
                    assert_eq!(fault, Fault::TooLarge, "{codec:?}");
                    assert!(size > LIMIT);
                }
            }
        }
    }
    // Bare snappy that announces 2^32-1 bytes, and one that lies within the limit.
    let stream = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
    assert_eq!(packed(2, &stream).records(), Err(Fault::TooLarge));
    let stream = [0x80, 0x80, 0x80, 0x10, 0];
    assert!(packed(2, &stream).records().is_err());
}

#[test]
fn reads_bare_snappy_and_streams_of_several_parts() {
    let record = record(0, Some(&[7; 1000]));
    let drafts = [draft(&record)];
    let plain = encode(&drafts, Compression::None, Origin::NOBODY).unwrap();
    let plain = &plain[HEAD..];
    let bare = snap::raw::Encoder::new().compress_vec(plain).unwrap();
    assert_eq!(packed(2, &bare).records().unwrap()[0].value, record.value);
    for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
        let (front, back) = plain.split_at(500);
        let (number, front) = deflate(codec, front.into()).unwrap();
        let (_, back) = deflate(codec, back.into()).unwrap();
        let stream = [&front[..], &back[..]].concat();
        let read = packed(number, &stream).records();
        assert_eq!(read.unwrap()[0].value, record.value, "{codec:?}");
    }
}

/// A few KiB on the wire inflate to records whose bytes are within the limit; what they take
/// in memory beside their bytes is many times that.
#[test]
fn m21_empty_headers_and_records_are_bounded_too() {
    const COUNT: usize = MAX_OVERHEAD / size_of::<Header>();
    for (headers, fits) in [(COUNT / 2, true), (COUNT + 1, false)] {
        let mut one = BytesMut::from(&[0, 0, 0, 1, 1][..]);
        put_length(&mut one, headers);
        one.resize(one.len() + 2 * headers, 0);
        let mut stream = BytesMut::new();
        put_length(&mut stream, one.len());
        stream.extend_from_slice(&one);
        let (codec, stream) = deflate(Compression::Gzip, stream).unwrap();
        assert!(stream.len() < 10_000);
        match packed(codec, &stream).records() {
            Ok(records) => assert!(fits && records[0].headers.len() == headers),
            Err(fault) => assert!(!fits && fault == Fault::TooLarge, "{fault}"),
        }
    }

    let most = MAX_OVERHEAD / RECORD_OVERHEAD;
    for (count, fits) in [(most, true), (most + 1, false)] {
        // length 6, attributes, time, offset, null key, null value, no headers
        let stream = BytesMut::from(&[12, 0, 0, 0, 1, 1, 0].repeat(count)[..]);
        let (codec, stream) = deflate(Compression::Gzip, stream).unwrap();
        let bytes = altered(&batch(&[record(0, None)], Compression::None), |bytes| {
            bytes.truncate(HEAD);
            bytes.extend_from_slice(&stream);
            let length = i32::try_from(bytes.len() - PREFIX).unwrap();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[21..23].copy_from_slice(&codec.to_be_bytes());
            bytes[57..61].copy_from_slice(&i32::try_from(count).unwrap().to_be_bytes());
        });
        match only(bytes).unwrap().records() {
            Ok(records) => assert!(fits && records.len() == count),
            Err(fault) => assert!(!fits && fault == Fault::TooLarge, "{fault}"),
        }
    }
}

#[test]
fn m21_frames_of_a_codec_are_counted() {
    for codec in [Compression::Lz4, Compression::Zstd] {
        let (number, frame) = deflate(codec, BytesMut::from(&[7; 3][..])).unwrap();
        let most = frame.repeat(MAX_FRAMES);
        assert_eq!(
            inflate(number, &most, MAX_UNPACKED).unwrap(),
            [7; 3].repeat(MAX_FRAMES)
        );
        let over = frame.repeat(MAX_FRAMES + 1);
        let fault = inflate(number, &over, MAX_UNPACKED).unwrap_err();
        assert_eq!(fault, Fault::Malformed("too many compressed frames"));
    }
}

fn bytes() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

prop_compose! {
    fn any_record()(
        timestamp in 0i64..2_000_000_000_000,
        key in bytes(),
        value in bytes(),
        headers in proptest::collection::vec((bytes(), bytes()), 0..4),
    ) -> RawRecord {
        RawRecord {
            offset: 0,
            timestamp: Some(timestamp),
            key,
            value,
            headers: headers
                .into_iter()
                .map(|(name, value)| Header { name: name.unwrap_or_default(), value })
                .collect(),
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        mut records in proptest::collection::vec(any_record(), 1..20),
        base in 0i64..1_000_000,
    ) {
        for (offset, record) in (base..).zip(&mut records) {
            record.offset = offset;
        }
        for codec in CODECS {
            let mut bytes = batch(&records, codec).to_vec();
            bytes[..8].copy_from_slice(&base.to_be_bytes());
            let batch = only(bytes.into()).unwrap();
            prop_assert_eq!(batch.next, base + i64::try_from(records.len()).unwrap());
            prop_assert_eq!(batch.records().unwrap(), records.clone());
        }
    }

    #[test]
    fn no_damage_makes_it_panic(
        records in proptest::collection::vec(any_record(), 1..5),
        codec in 0usize..5,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let bytes = altered(&batch(&records, CODECS[codec]), |bytes| {
            for (place, byte) in damage {
                // Behind the length, the format and the checksum.
                let place = CHECKED + place.index(bytes.len() - CHECKED);
                bytes[place] = byte;
            }
        });
        for batch in Batches::new(bytes).flatten() {
            let _ = batch.records();
            let _ = batch.marker();
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), codec in 0i16..8) {
        for batch in Batches::new(bytes.clone().into()).flatten() {
            let _ = batch.records();
        }
        let _ = packed(codec, &bytes).records();
    }

    #[test]
    fn numbers_survive(value in any::<i64>()) {
        let mut bytes = BytesMut::new();
        put_varint(&mut bytes, value);
        prop_assert_eq!(varint(&mut &bytes[..]), Ok(value));
    }
}
