//! Records that librdkafka wrote, records that it reads, and groups that it shares.

use crate::on_brokers;
use crate::support::broker::batch::{Codec, LogRecord, NewRecord};
use crate::support::broker::{ApiKey, Broker};
use crate::support::librdkafka::{CODECS, Fellow, FellowOptions, Librdkafka};
use crate::support::real::{RealBroker, fresh};

/// Records with all that a record can have: no key, an empty one, none of a value, headers in
/// order, twice the same, null and empty ones; and enough of them to be worth packing.
fn sample() -> Vec<NewRecord> {
    let mut records = vec![
        NewRecord::value("first").at(1_700_000_000_123),
        NewRecord::keyed("", "").at(1_700_000_000_124),
        NewRecord {
            key: Some("only a key".into()),
            timestamp: Some(1_700_000_000_125),
            ..NewRecord::default()
        },
        NewRecord::keyed("k", "with headers")
            .at(1_700_000_000_126)
            .header("twice", Some(b"one"))
            .header("null", None)
            .header("twice", Some(b"two"))
            .header("empty", Some(b""))
            .header("bytes", Some(b"\x00\xff\xfe")),
    ];
    records.extend((0..200).map(|n| {
        NewRecord::value(format!("{n:04} {}", "half of it repeats ".repeat(20)))
            .at(1_700_000_001_000 + n)
    }));
    records
}

fn assert_same(written: &[NewRecord], read: &[LogRecord], what: &str) {
    assert_eq!(written.len(), read.len(), "{what}");
    for (n, (written, read)) in written.iter().zip(read).enumerate() {
        assert_eq!(read.offset, n as i64, "{what}");
        assert_eq!(written.key, read.key, "{what}, key of {n}");
        assert_eq!(written.value, read.value, "{what}, value of {n}");
        assert_eq!(written.headers, read.headers, "{what}, headers of {n}");
        assert_eq!(
            written.timestamp,
            Some(read.timestamp),
            "{what}, time of {n}"
        );
    }
}

/// What librdkafka writes arrives whole, in each codec.
fn from_librdkafka(broker: &RealBroker) {
    let mut librdkafka = Librdkafka::start(&broker.address);
    let topic = broker.create_topic("from-librdkafka", CODECS.len() as i32);
    for (partition, codec) in (0..).zip(CODECS) {
        let records: Vec<_> = sample().into_iter().map(|r| (partition, r)).collect();
        let places = librdkafka.produce(&topic, codec, &records);
        let wanted: Vec<_> = (0..records.len()).map(|n| (partition, n as i64)).collect();
        assert_eq!(places, wanted, "{codec}");
    }
    let all = broker.read_all(&topic);
    for (partition, codec) in (0..).zip(CODECS) {
        let here = all.iter().filter(|(p, _)| *p == partition);
        let here: Vec<_> = here.map(|(_, r)| r.clone()).collect();
        assert_same(&sample(), &here, codec);
        assert!(
            here.iter().any(|r| i32::from(r.codec) == partition),
            "{codec} is used"
        );
    }
}

/// What is written in each codec, librdkafka can read.
fn to_librdkafka(broker: &RealBroker) {
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::SnappyRaw,
        Codec::Lz4,
        Codec::Zstd,
    ];
    let mut librdkafka = Librdkafka::start(&broker.address);
    let topic = broker.create_topic("to-librdkafka", codecs.len() as i32);
    for (partition, codec) in (0..).zip(codecs) {
        broker.append(&topic, partition, codec, sample());
    }
    let count = codecs.len() * sample().len();
    let all = librdkafka.consume(&topic, codecs.len() as i32, count);
    for (partition, codec) in (0..).zip(codecs) {
        let here = all.iter().filter(|c| c.partition == partition);
        let here: Vec<_> = here.map(|c| c.record.clone()).collect();
        assert_same(&sample(), &here, &format!("{codec:?}"));
    }
}

/// Two of librdkafka share a group, and one of them leaves: the test bench itself is sound.
fn fellows_share(broker: &RealBroker) {
    let topic = broker.create_topic("fellows", 4);
    let group = fresh("fellows");
    let options = FellowOptions::default();
    let mut first = Fellow::join(&broker.address, &group, &[&topic], &options);
    first.wait("it has all", |f| f.assigned().len() == 4);
    let mut second = Fellow::join(&broker.address, &group, &[&topic], &options);
    second.wait("it has half", |f| f.assigned().len() == 2);
    first.wait("the other half", |f| f.assigned().len() == 2);
    broker.load(&topic, (0..40).map(|n| NewRecord::value(format!("{n}"))));
    first.wait("its records", |f| f.records().len() == 20);
    second.wait("its records", |f| f.records().len() == 20);
    second.leave();
    first.wait("it has all again", |f| f.assigned().len() == 4);
    assert_eq!(broker.lag(&group, &topic), 0);
}

on_brokers! {
    [tansu, apache_3_9, apache_4] fn librdkafka_is_read(broker) { from_librdkafka(broker); }
    [tansu, apache_3_9, apache_4] fn librdkafka_reads(broker) { to_librdkafka(broker); }
    [tansu, apache_3_9, apache_4] fn librdkafka_shares_a_group(broker) { fellows_share(broker); }
}

/// librdkafka takes the scripted broker for Kafka: what the tests of the target `it` lean on.
#[test]
fn librdkafka_believes_in_the_scripted_broker() {
    let scripted = Broker::start();
    let broker = RealBroker::at("scripted", &scripted.address(1));
    from_librdkafka(&broker);
    to_librdkafka(&broker);
    fellows_share(&broker);
    scripted.wait("both have left", |b| b.count(ApiKey::LeaveGroup) >= 1);
}
