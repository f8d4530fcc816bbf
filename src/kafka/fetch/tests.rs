use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ProducerId;
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse};
use proptest::prelude::{prop_assert_eq, proptest};

use super::*;
use crate::kafka::Record;
use crate::kafka::options::Compression;
use crate::kafka::records::{Draft, Origin, encode};

const TRANSACTIONAL: u8 = 0x10;
const CONTROL: u8 = 0x20;

/// A batch as it lies in a log.
fn batch(base: i64, values: &[&str], producer_id: i64, flags: u8) -> Bytes {
    let drafts: Vec<Draft<'_>> = values
        .iter()
        .map(|value| Draft {
            timestamp: 0,
            key: Some(&[0, 0, 0, 0]),
            value: Some(value.as_bytes()),
            headers: &[],
        })
        .collect();
    let origin = Origin {
        producer_id,
        epoch: 0,
        sequence: 0,
    };
    let mut bytes = encode(&drafts, Compression::None, origin).unwrap().to_vec();
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    bytes[22] |= flags;
    let checksum = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    bytes.into()
}

fn join(batches: &[Bytes]) -> Bytes {
    let mut all = BytesMut::new();
    batches.iter().for_each(|batch| all.put_slice(batch));
    all.freeze()
}

struct Test {
    fetcher: Fetcher,
    lease: Lease,
    now: Instant,
}

impl Test {
    /// Owns partition 0 of `t` and reads it from offset 10.
    fn new(options: &ConsumerOptions) -> Self {
        let mut fetcher = Fetcher::new(options, Arc::default());
        let lease = Lease::new();
        fetcher.assign(&[Assigned {
            partition: TopicPartition::new("t", 0),
            lease: lease.clone(),
            kept: false,
        }]);
        let now = Instant::now();
        let unplaced = fetcher.unplaced(now);
        fetcher.committed(&unplaced[0], Some(10), false, now);
        Self {
            fetcher,
            lease,
            now,
        }
    }

    fn place(&self) -> Place {
        self.fetcher.positions.values().next().unwrap().place
    }

    fn ask(&mut self) -> bool {
        self.now += Duration::from_secs(2);
        let mut questions = self.fetcher.questions(|_| Some(1), self.now);
        let asked = questions.remove(&1);
        let any = asked.is_some();
        if let Some(asked) = asked {
            self.fetcher.sent(1, asked, self.now);
        }
        any
    }

    fn answer(&mut self, data: PartitionData) -> Vec<Event> {
        let topic = FetchableTopicResponse::default()
            .with_topic(topic_name("t"))
            .with_partitions(vec![data]);
        let response = FetchResponse::default().with_responses(vec![topic]);
        let mut events = Vec::new();
        self.fetcher.answered(1, response, self.now, &mut events);
        events
    }

    fn fetch(&mut self, data: PartitionData) -> Vec<Event> {
        assert!(self.ask());
        self.answer(data)
    }
}

fn data(records: Bytes) -> PartitionData {
    PartitionData::default()
        .with_high_watermark(1000)
        .with_records(Some(records))
}

fn code(code: Code) -> PartitionData {
    PartitionData::default().with_error_code(code.code())
}

/// Where it went on and what it read.
fn fetched(events: &[Event]) -> (i64, Vec<String>) {
    match events {
        [Event::Fetched { next, records, .. }] => {
            let value = |record: &Record| record.value.clone().unwrap();
            let text = |record| String::from_utf8(value(record).to_vec()).unwrap();
            (*next, records.iter().map(text).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_lies_before_the_position_is_dropped() {
    let mut test = Test::new(&ConsumerOptions::default());
    let events = test.fetch(data(join(&[
        batch(5, &["5", "6"], -1, 0),
        batch(9, &["9", "10", "11"], -1, 0),
        batch(20, &["20"], -1, 0).slice(..40),
    ])));
    assert_eq!(
        fetched(&events),
        (12, vec!["10".to_string(), "11".to_string()])
    );
    assert_eq!(test.place(), Place::At(12));
    assert_eq!(test.fetcher.high_watermarks()[0].1, 1000);
}

#[test]
fn an_answer_for_a_former_position_or_lease_moves_nothing() {
    // Paused meanwhile.
    let mut test = Test::new(&ConsumerOptions::default());
    assert!(test.ask());
    let partition = TopicPartition::new("t", 0);
    test.fetcher
        .set_paused(std::slice::from_ref(&partition), true);
    assert!(test.answer(data(batch(10, &["a"], -1, 0))).is_empty());
    assert_eq!(test.place(), Place::At(10));
    assert!(!test.ask());
    // Given away and come back meanwhile.
    test.fetcher
        .set_paused(std::slice::from_ref(&partition), false);
    assert!(test.ask());
    test.fetcher.assign(&[]);
    let entry = Assigned {
        partition,
        lease: Lease::new(),
        kept: false,
    };
    test.fetcher.assign(std::slice::from_ref(&entry));
    assert!(test.answer(data(batch(10, &["a"], -1, 0))).is_empty());
    assert_eq!(test.place(), Place::Committed);
    // Kept: what was on its way counts.
    let unplaced = test.fetcher.unplaced(test.now);
    test.fetcher
        .committed(&unplaced[0], Some(10), false, test.now);
    assert!(test.ask());
    test.fetcher.assign(&[Assigned {
        kept: true,
        ..entry
    }]);
    let events = test.answer(data(batch(10, &["a"], -1, 0)));
    assert_eq!(fetched(&events), (11, vec!["a".to_string()]));
}

#[test]
fn answers_that_nobody_asked_for_are_none() {
    let mut test = Test::new(&ConsumerOptions::default());
    assert!(test.answer(data(batch(10, &["a"], -1, 0))).is_empty());
    let other = data(batch(10, &["a"], -1, 0)).with_partition_index(7);
    assert!(test.fetch(other).is_empty());
    assert_eq!(test.place(), Place::At(10));
    assert!(test.ask(), "and it is asked again");
}

#[test]
fn m21_records_before_a_broken_batch_are_handed_out() {
    let mut test = Test::new(&ConsumerOptions {
        on_corrupt_batch: OnCorruptBatch::Skip,
        ..ConsumerOptions::default()
    });
    let mut broken = batch(11, &["x", "y"], -1, 0).to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let good = batch(10, &["a"], -1, 0);
    let events = test.fetch(data(join(&[good, broken.clone().into()])));
    assert_eq!(fetched(&events), (11, vec!["a".to_string()]));
    let events = test.fetch(data(broken.into()));
    assert!(
        matches!(
            events[..],
            [Event::Skipped {
                from: 11,
                to: 13,
                ..
            }]
        ),
        "{events:?}"
    );
    assert_eq!(test.place(), Place::At(13));
}

#[test]
fn m21_a_broken_header_is_not_believed() {
    // The checksum is wrong, and so may be the offset that the header ends with.
    let mut broken = batch(10, &["x"], -1, 0).to_vec();
    broken[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
    let mut test = Test::new(&ConsumerOptions {
        on_corrupt_batch: OnCorruptBatch::Skip,
        ..ConsumerOptions::default()
    });
    assert!(test.fetch(data(broken.clone().into())).is_empty());
    let events = test.fetch(data(broken.into()));
    assert!(
        matches!(
            events[..],
            [Event::Skipped {
                from: 10,
                to: 11,
                ..
            }]
        ),
        "{events:?}"
    );
}

#[test]
fn m21_old_formats_and_stubs_halt_whatever_the_policy() {
    let mut old = batch(10, &["x"], -1, 0).to_vec();
    old[16] = 1;
    let stub = batch(10, &["x"], -1, 0).slice(..30);
    for bytes in [old.into(), stub] {
        let mut test = Test::new(&ConsumerOptions {
            on_corrupt_batch: OnCorruptBatch::Skip,
            ..ConsumerOptions::default()
        });
        assert!(test.fetch(data(bytes.clone())).is_empty(), "once more");
        let events = test.fetch(data(bytes));
        assert!(matches!(events[..], [Event::Halted { .. }]), "{events:?}");
        assert!(!test.ask());
    }
}

#[test]
fn an_unknown_codec_of_the_broker_halts() {
    let mut test = Test::new(&ConsumerOptions::default());
    let events = test.fetch(code(Code::UnsupportedCompressionType));
    assert!(matches!(events[..], [Event::Halted { .. }]));
}

#[test]
fn aborted_transactions_end_with_their_marker() {
    let log = join(&[
        batch(10, &["gone"], 7, TRANSACTIONAL),
        batch(11, &["stays"], 8, TRANSACTIONAL),
        batch(12, &["gone"], 7, TRANSACTIONAL),
        batch(13, &["marker"], 7, TRANSACTIONAL | CONTROL),
        batch(14, &["stays too"], 7, TRANSACTIONAL),
        batch(15, &["not yet"], 9, TRANSACTIONAL),
        batch(16, &["gone"], 9, TRANSACTIONAL),
    ]);
    let aborted = [(9, 16), (7, 2)].map(|(producer, first)| {
        AbortedTransaction::default()
            .with_producer_id(ProducerId(producer))
            .with_first_offset(first)
    });
    for (level, wanted) in [
        (IsolationLevel::ReadCommitted, 3),
        (IsolationLevel::ReadUncommitted, 6),
    ] {
        let mut test = Test::new(&ConsumerOptions {
            isolation_level: level,
            ..ConsumerOptions::default()
        });
        let answer = data(log.clone()).with_aborted_transactions(Some(aborted.to_vec()));
        let (next, values) = fetched(&test.fetch(answer));
        assert_eq!((next, values.len()), (17, wanted), "{values:?}");
    }
}

#[test]
fn m21_one_answer_is_bounded_when_inflated() {
    let mut test = Test::new(&ConsumerOptions::default());
    assert!(test.ask());
    test.fetcher.max_inflated = 1000;
    let large = "x".repeat(500);
    let batches = [10, 11, 12].map(|base| batch(base, &[&large], -1, 0));
    let events = test.answer(data(join(&batches)));
    assert_eq!(fetched(&events).0, 12, "the third is asked for again");
}

#[test]
fn each_partition_is_first_in_turn() {
    let mut fetcher = Fetcher::new(&ConsumerOptions::default(), Arc::default());
    let assigned: Vec<Assigned> = (0..3)
        .map(|number| Assigned {
            partition: TopicPartition::new("t", number),
            lease: Lease::new(),
            kept: false,
        })
        .collect();
    fetcher.assign(&assigned);
    let now = Instant::now();
    for asked in fetcher.unplaced(now) {
        fetcher.committed(&asked, Some(0), false, now);
    }
    let mut firsts = Vec::new();
    for _ in 0..3 {
        let asked = fetcher.questions(|_| Some(1), now).remove(&1).unwrap();
        let request = fetcher.request(&asked);
        assert_eq!(request.topics.len(), 1);
        assert_eq!(request.topics[0].partitions.len(), 3);
        firsts.push(request.topics[0].partitions[0].partition);
    }
    assert_eq!(firsts, [0, 1, 2]);
    // Only what has a leader that owes no answer is asked.
    let asked = fetcher.questions(|p| (p.partition > 0).then_some(p.partition), now);
    fetcher.sent(1, asked[&1].clone(), now);
    let asked = fetcher.questions(|p| Some(p.partition), now);
    assert_eq!(asked.keys().copied().collect::<Vec<_>>(), [0, 2]);
    fetcher.set_all_paused(true);
    assert!(fetcher.questions(|_| Some(5), now).is_empty());
}

#[test]
fn added_partitions_start_at_their_beginning() {
    for (added, reset) in [(true, OffsetReset::Earliest), (false, OffsetReset::Latest)] {
        let mut test = Test::new(&ConsumerOptions {
            auto_offset_reset: OffsetReset::Latest,
            ..ConsumerOptions::default()
        });
        test.fetcher.clear();
        test.fetcher.assign(&[Assigned {
            partition: TopicPartition::new("t", 0),
            lease: test.lease.clone(),
            kept: false,
        }]);
        let unplaced = test.fetcher.unplaced(test.now);
        test.fetcher.committed(&unplaced[0], None, added, test.now);
        assert_eq!(test.place(), Place::Reset(reset));
    }
}

#[test]
fn within_the_log_after_all() {
    let mut test = Test::new(&ConsumerOptions::default());
    assert!(test.fetch(code(Code::OffsetOutOfRange)).is_empty());
    assert_eq!(test.place(), Place::OutOfRange(10));
    let unlisted = test.fetcher.unlisted(test.now);
    let mut events = Vec::new();
    test.fetcher
        .listed(&unlisted[0], (3, 10), test.now, &mut events);
    assert!(events.is_empty());
    assert_eq!(test.place(), Place::At(10));
    // The broker may say so for ever.
    assert!(test.fetcher.questions(|_| Some(1), test.now).is_empty());
}

/// When the partition is asked for again after an answer that came after `waited`.
fn pause_after(test: &mut Test, waited: Duration, response: FetchResponse) -> Duration {
    assert!(test.ask());
    let came = test.now + waited;
    test.fetcher.answered(1, response, came, &mut Vec::new());
    let until = test.fetcher.positions.values().next().unwrap().not_before;
    until.map_or(Duration::ZERO, |until| until.duration_since(came))
}

fn response(name: &str, data: PartitionData) -> FetchResponse {
    let topic = FetchableTopicResponse::default()
        .with_topic(topic_name(name))
        .with_partitions(vec![data]);
    FetchResponse::default().with_responses(vec![topic])
}

#[test]
fn k19_a_broker_that_answers_nothing_at_once_is_asked_less_often() {
    let before = || data(batch(5, &["a"], -1, 0));
    for nothing in [
        response("t", data(Bytes::new())),
        response("t", PartitionData::default().with_high_watermark(99)),
        response("t", before()),
        response("t", data(Bytes::new()).with_partition_index(7)),
        response("other", data(Bytes::new())),
        FetchResponse::default(),
    ] {
        let mut test = Test::new(&ConsumerOptions::default());
        let mut pause = || pause_after(&mut test, Duration::ZERO, nothing.clone());
        let pauses: Vec<Duration> = (0..6).map(|_| pause()).collect();
        assert!(pauses[0] >= Duration::from_millis(80), "{pauses:?}");
        assert!(pauses[5] >= Duration::from_millis(800), "{pauses:?}");
    }
    // One that held the question for as long as it should is asked again at once.
    let mut test = Test::new(&ConsumerOptions::default());
    let empty = response("t", data(Bytes::new()));
    let waited = ConsumerOptions::default().fetch_max_wait;
    assert_eq!(pause_after(&mut test, waited, empty), Duration::ZERO);
    // And so is one that had something.
    let some = response("t", data(batch(10, &["a"], -1, 0)));
    assert_eq!(pause_after(&mut test, Duration::ZERO, some), Duration::ZERO);
}

proptest! {
    /// Every record comes once and in order, however the log is cut into answers.
    #[test]
    fn nothing_is_lost_or_doubled(sizes in proptest::collection::vec((0..4usize, 0..3i64), 1..12), cuts in proptest::collection::vec(1..400usize, 1..60)) {
        let mut log = Vec::new();
        let mut base = 10;
        let mut wanted = Vec::new();
        for (count, hole) in sizes {
            let values: Vec<String> = (0..count).map(|n| (base + i64::try_from(n).unwrap()).to_string()).collect();
            let texts: Vec<&str> = values.iter().map(String::as_str).collect();
            if !texts.is_empty() {
                log.push((base, batch(base, &texts, -1, 0)));
                base += i64::try_from(count).unwrap();
                wanted.extend(values);
            }
            base += hole;
        }
        let mut test = Test::new(&ConsumerOptions::default());
        let mut read = Vec::new();
        let ends: Vec<i64> = log.iter().skip(1).map(|(base, _)| *base).chain([base]).collect();
        for cut in cuts.into_iter().chain(std::iter::repeat_n(4096, 20)) {
            let Place::At(at) = test.place() else { panic!() };
            let rest: Vec<Bytes> = log.iter().zip(&ends).filter(|(_, end)| **end > at).map(|((_, bytes), _)| bytes.clone()).collect();
            // A broker sends at least one whole batch.
            let all = join(&rest);
            let length = cut.max(rest.first().map_or(0, Bytes::len)).min(all.len());
            for event in test.fetch(data(all.slice(..length))) {
                if let Event::Fetched { records, .. } = event {
                    read.extend(records.into_iter().map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()));
                }
            }
        }
        prop_assert_eq!(read, wanted);
    }
}
