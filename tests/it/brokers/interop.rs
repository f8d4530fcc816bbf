//! Records that librdkafka wrote, records that it reads, and groups that it shares.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use ccx_data_pipeline::kafka::options::{ClusterOptions, Compression, ProducerOptions};
use ccx_data_pipeline::kafka::{Header, OutgoingRecord, Producer, Record};

use crate::on_brokers;
use crate::support::broker::batch::{Codec, LogRecord, NewRecord};
use crate::support::broker::{ApiKey, Broker};
use crate::support::librdkafka::{CODECS, Fellow, FellowOptions, Librdkafka};
use crate::support::member::{self, OurMember};
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

/// What our producer writes in each codec, one record at a time and many at once, librdkafka reads.
fn from_us(broker: &RealBroker) {
    let codecs = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    let topic = broker.create_topic("from-us", codecs.len() as i32);
    let mut records = sample();
    records.push(NewRecord::value(
        "no less than half a mebibyte. ".repeat(20_000),
    ));
    let together: BTreeSet<String> = (0..200).map(|n| format!("together {n}")).collect();
    for (partition, codec) in (0..).zip(codecs) {
        let producer = Producer::start(ProducerOptions {
            cluster: ClusterOptions {
                name: "publisher",
                bootstrap_servers: vec![broker.address.clone()],
                ..ClusterOptions::default()
            },
            compression: codec,
        });
        let send = |record: &NewRecord| {
            let headers = record.headers.iter().cloned();
            let headers = headers.map(|(name, value)| Header { name, value });
            let record = OutgoingRecord {
                topic: topic.as_str().into(),
                partition: Some(partition),
                key: record.key.clone(),
                value: record.value.clone(),
                headers: headers.collect(),
            };
            producer.send(record, &|| false).unwrap().offset
        };
        let offsets: Vec<i64> = records.iter().map(send).collect();
        assert_eq!(offsets, (0..records.len() as i64).collect::<Vec<_>>());
        let values: Vec<_> = together.iter().collect();
        thread::scope(|scope| {
            for some in values.chunks(25) {
                let send = &send;
                scope.spawn(move || some.iter().for_each(|v| _ = send(&NewRecord::value(v))));
            }
        });
        producer.close(Duration::from_secs(5));
    }
    let each = records.len() + together.len();
    let mut librdkafka = Librdkafka::start(&broker.address);
    let all = librdkafka.consume(&topic, codecs.len() as i32, each * codecs.len());
    for (partition, codec) in (0..).zip(codecs) {
        let here = all.iter().filter(|c| c.partition == partition);
        let here: Vec<_> = here.map(|c| &c.record).collect();
        let (one_by_one, at_once) = here.split_at(records.len());
        for (written, read) in records.iter().zip(one_by_one) {
            assert_eq!(written.key, read.key, "{codec:?}");
            assert!(written.value == read.value, "{codec:?}, at {}", read.offset);
            assert_eq!(written.headers, read.headers, "{codec:?}");
        }
        let at_once: BTreeSet<String> = at_once.iter().map(|r| r.text()).collect();
        assert_eq!(at_once, together, "{codec:?}");
    }
}

/// What librdkafka writes in each codec our consumer reads; and header names that are not text.
fn to_us(broker: &RealBroker) {
    let partitions = CODECS.len() as i32;
    let topic = broker.create_topic("to-us", partitions);
    let mut librdkafka = Librdkafka::start(&broker.address);
    for (partition, codec) in (0..).zip(CODECS) {
        let records: Vec<_> = sample().into_iter().map(|r| (partition, r)).collect();
        librdkafka.produce(&topic, codec, &records);
    }
    let odd = NewRecord::value("odd")
        .at(1)
        .header(b"\xff\xfe", Some(b"x"));
    let at = broker.append(&topic, 0, Codec::None, [odd.clone()]);
    let count = sample().len() * CODECS.len() + 1;
    let group = fresh("to-us");
    let ours = OurMember::start(member::options(&broker.address, &group, &topic));
    ours.wait("all records", |seen| seen.records.len() >= count);
    let records = ours.look(|seen| seen.records.clone());
    assert_eq!(records.len(), count);
    for (partition, codec) in (0..).zip(CODECS) {
        let here = records
            .iter()
            .filter(|r| r.partition.partition == partition);
        let mut here: Vec<LogRecord> = here.map(as_read).collect();
        if partition == 0 {
            let last = here.pop().unwrap();
            assert_eq!((last.offset, last.headers), (at, odd.headers.clone()));
        }
        assert_same(&sample(), &here, codec);
    }
    broker.wait("all is committed", || broker.lag(&group, &topic) == 0);
}

fn as_read(record: &Record) -> LogRecord {
    let headers = record.headers.iter();
    LogRecord {
        offset: record.offset,
        timestamp: record.timestamp.unwrap_or(-1),
        key: record.key.clone(),
        value: record.value.clone(),
        headers: headers.map(|h| (h.name.clone(), h.value.clone())).collect(),
        control: false,
        codec: -1,
        producer_id: -1,
    }
}

/// Which records a group has read, and how often: every one at least once.
struct Ledger<'a> {
    broker: &'a RealBroker,
    topic: String,
    group: String,
    loaded: usize,
}

impl<'a> Ledger<'a> {
    fn new(broker: &'a RealBroker, name: &str) -> Self {
        Self {
            broker,
            topic: broker.create_topic(name, 4),
            group: fresh(name),
            loaded: 0,
        }
    }

    fn fellow(&self) -> Fellow {
        let options = FellowOptions::default();
        Fellow::join(&self.broker.address, &self.group, &[&self.topic], &options)
    }

    fn ours(&self) -> OurMember {
        let (address, group) = (&self.broker.address, &self.group);
        OurMember::start(member::options(address, group, &self.topic))
    }

    /// Adds records, the same number to each partition.
    fn load(&mut self, count: usize) {
        let numbers = self.loaded..self.loaded + count;
        let records = numbers.map(|n| NewRecord::value(format!("{n}")));
        self.broker.load(&self.topic, records);
        self.loaded += count;
    }

    /// Waits until both together have read all that there is.
    fn settle(&self, ours: &OurMember, fellow: &mut Fellow) {
        let missing = |fellow: &mut Fellow| {
            fellow.look();
            let mut times: BTreeMap<usize, usize> = (0..self.loaded).map(|n| (n, 0)).collect();
            let theirs = fellow.records().iter().map(|c| c.record.value.clone());
            let ours = ours.look(|seen| {
                let records = seen.records.iter().map(|r| r.value.clone());
                records.collect::<Vec<_>>()
            });
            for value in theirs.chain(ours) {
                let text = String::from_utf8(value.unwrap().to_vec()).unwrap();
                *times.entry(text.parse().unwrap()).or_default() += 1;
            }
            let missing = times.values().filter(|n| **n == 0).count();
            let twice = times.values().filter(|n| **n > 1).count();
            println!("{missing} of {} missing, {twice} read twice", self.loaded);
            missing
        };
        self.broker
            .wait("every record is read", || missing(fellow) == 0);
        let (broker, group, topic) = (self.broker, &self.group, &self.topic);
        broker.wait("all is committed", || broker.lag(group, topic) == 0);
    }
}

/// We lead, librdkafka follows and leaves in order.
fn we_lead(broker: &RealBroker) {
    let mut ledger = Ledger::new(broker, "we-lead");
    let ours = ledger.ours();
    ours.wait("we have all", |seen| seen.assigned.len() == 4);
    ledger.load(100);
    let mut fellow = ledger.fellow();
    fellow.wait("it has half", |f| f.assigned().len() == 2);
    ours.wait("we have half", |seen| seen.assigned.len() == 2);
    ledger.load(100);
    ledger.settle(&ours, &mut fellow);
    assert!(!fellow.records().is_empty(), "both have read");
    fellow.leave();
    ours.wait("we have all again", |seen| seen.assigned.len() == 4);
    ledger.load(100);
    ledger.settle(&ours, &mut fellow);
}

/// librdkafka leads, we follow and leave in order.
fn they_lead(broker: &RealBroker) {
    let mut ledger = Ledger::new(broker, "they-lead");
    let mut fellow = ledger.fellow();
    fellow.wait("it has all", |f| f.assigned().len() == 4);
    let mut ours = ledger.ours();
    ours.wait("we have half", |seen| seen.assigned.len() == 2);
    fellow.wait("it has half", |f| f.assigned().len() == 2);
    ledger.load(200);
    ledger.settle(&ours, &mut fellow);
    assert!(!fellow.records().is_empty(), "both have read");
    assert!(ours.look(|seen| !seen.records.is_empty()), "both have read");
    ours.leave();
    fellow.wait("it has all again", |f| f.assigned().len() == 4);
    ledger.load(100);
    ledger.settle(&ours, &mut fellow);
}

/// librdkafka is killed, and we take over what it held.
fn it_is_killed(broker: &RealBroker) {
    let mut ledger = Ledger::new(broker, "killed");
    let mut fellow = ledger.fellow();
    fellow.wait("it has all", |f| f.assigned().len() == 4);
    let ours = ledger.ours();
    ours.wait("we have half", |seen| seen.assigned.len() == 2);
    ledger.load(400);
    fellow.wait("it has read some", |f| !f.records().is_empty());
    fellow.kill();
    ours.wait("we have all", |seen| seen.assigned.len() == 4);
    ledger.load(100);
    ledger.settle(&ours, &mut fellow);
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
    [tansu, apache_3_9, apache_4] fn librdkafka_reads_what_we_write(broker) { from_us(broker); }
    [tansu, apache_3_9, apache_4] fn we_read_what_librdkafka_writes(broker) { to_us(broker); }
    [tansu, apache_3_9, apache_4] fn a_group_that_we_lead(broker) { we_lead(broker); }
    [tansu, apache_3_9, apache_4] fn a_group_that_librdkafka_leads(broker) { they_lead(broker); }
    /// Not on Tansu, where a killed leader can hold its group up for ever.
    [apache_3_9, apache_4] fn a_fellow_is_killed(broker) { it_is_killed(broker); }
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
