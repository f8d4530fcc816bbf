//! The scripted broker tested by hand: other tests lean on what it says.

use std::time::{Duration, Instant};

use kafka_protocol::messages::*;

use crate::support::broker::batch::{self, Batch, Codec, NewRecord};
use crate::support::broker::versions::Versions;
use crate::support::broker::{ApiKey, Broker};
use crate::support::raw_client::*;

const SESSION: Duration = Duration::from_secs(30);

fn client(broker: &Broker, node: i32) -> RawClient {
    RawClient::connect(&broker.address(node))
}

#[test]
fn batches_survive_every_codec() {
    let records = [
        NewRecord::keyed("k", "v".repeat(5000)).at(1_700_000_000_123),
        NewRecord::default().at(1_700_000_000_001),
        NewRecord::value("")
            .header("twice", Some(b"1"))
            .header("twice", None)
            .header(b"\xff", Some(b"")),
    ];
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::SnappyRaw,
        Codec::Lz4,
        Codec::Zstd,
    ];
    for codec in codecs {
        let bytes = Batch::of(records.clone()).codec(codec).encode();
        let read = batch::decode(&bytes).unwrap();
        assert_eq!(read.len(), 3, "{codec:?}");
        for (wanted, found) in records.iter().zip(&read) {
            assert_eq!((&wanted.key, &wanted.value), (&found.key, &found.value));
            assert_eq!(wanted.headers, found.headers);
            assert!(wanted.timestamp.is_none_or(|t| t == found.timestamp));
        }
        let mut corrupt = bytes.clone();
        *corrupt.last_mut().unwrap() ^= 1;
        assert!(batch::decode(&corrupt).is_err());
    }
}

#[test]
fn what_is_produced_can_be_fetched() {
    let broker = Broker::start();
    broker.create_topic("t", 2);
    let mut raw = client(&broker, 1);
    for version in [3, 7, 8, 9, 12] {
        let sent = Batch::of([NewRecord::value("a"), NewRecord::value("b")]).encode();
        let done = produced(raw.call(&produce("t", 1, sent), version));
        assert_eq!(done.error_code, 0);
    }
    assert_eq!(broker.ends("t", 1), (0, 10));
    for version in [4, 10, 11, 12] {
        let answer = raw.call(&fetch("t", 1, 3, 1 << 20), version);
        let data = fetched(answer);
        assert_eq!((data.error_code, data.high_watermark), (0, 10));
        let records = batch::decode_all(&data.records.unwrap()).unwrap();
        let offsets: Vec<i64> = records.iter().map(|r| r.offset).collect();
        assert_eq!(offsets, (2..10).collect::<Vec<_>>(), "whole batches");
    }
    let cut = fetched(raw.call(&fetch("t", 1, 0, 200), 11))
        .records
        .unwrap();
    assert_eq!(cut.len(), 200, "the last batch is cut");
    assert_eq!(batch::decode_all(&cut).unwrap().len(), 4);
    let code = |raw: &mut RawClient, offset| fetched(raw.call(&fetch("t", 1, offset, 99), 11));
    assert_eq!(code(&mut raw, 11).error_code, 1);
    broker.delete_before("t", 1, 4);
    assert_eq!(code(&mut raw, 3).error_code, 1);
    let end = |raw: &mut RawClient, time| {
        raw.call(&list_offsets("t", 1, time), 5).topics[0].partitions[0].offset
    };
    assert_eq!((end(&mut raw, -2), end(&mut raw, -1)), (4, 10));
    broker.truncate("t", 1, 6);
    assert_eq!(end(&mut raw, -1), 6);
}

#[test]
fn a_fetch_waits_for_data() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let mut raw = client(&broker, 1);
    let mut request = fetch("t", 0, 0, 1 << 20);
    request.max_wait_ms = 20_000;
    raw.send(&request, 11).unwrap();
    broker.wait("fetch", |b| b.count(ApiKey::Fetch) == 1);
    let began = Instant::now();
    broker.append("t", 0, [NewRecord::value("late")]);
    let data = fetched(raw.receive::<FetchRequest>(11).unwrap());
    assert!(!data.records.unwrap().is_empty());
    assert!(began.elapsed() < Duration::from_secs(20), "not the limit");
}

#[test]
fn sequences_are_checked() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let mut raw = client(&broker, 1);
    let given = raw.call(&InitProducerIdRequest::default(), 4);
    let batch = |epoch, sequence| {
        let records = [NewRecord::value("a"), NewRecord::value("b")];
        let batch = Batch::of(records).producer(given.producer_id.0, epoch, sequence);
        produce("t", 0, batch.encode())
    };
    let mut send = |epoch, sequence| {
        let done = produced(raw.call(&batch(epoch, sequence), 8));
        (done.error_code, done.base_offset)
    };
    assert_eq!(send(0, 0), (0, 0));
    assert_eq!(send(0, 2), (0, 2));
    assert_eq!(
        send(0, 0),
        (0, 0),
        "a duplicate is answered with its offset"
    );
    assert_eq!(send(0, 6), (45, -1));
    assert_eq!(send(1, 2), (45, -1), "a new epoch begins at 0");
    assert_eq!(send(1, 0), (0, 4));
    assert_eq!(send(0, 4), (47, -1));
    assert_eq!(broker.records("t", 0).len(), 6);
}

#[test]
fn versions_are_negotiated() {
    let broker = Broker::builder().versions(Versions::kafka_2_1()).start();
    let mut raw = client(&broker, 1);
    raw.send(&ApiVersionsRequest::default(), 3).unwrap();
    let refused = raw.receive_frame().unwrap();
    assert_eq!(refused[4..6], [0, 35]);
    let answer = raw.call(&ApiVersionsRequest::default(), 0);
    let fetch = answer.api_keys.iter().find(|k| k.api_key == 1).unwrap();
    assert_eq!((fetch.min_version, fetch.max_version), (0, 10));
    assert!(raw.try_call(&metadata(&[]), 8).is_err(), "too new: closed");

    broker.set_versions(1, Versions::kafka_4());
    let mut raw = client(&broker, 1);
    for version in [3, 4] {
        let answer = raw.call(&ApiVersionsRequest::default(), version);
        assert!(answer.api_keys.iter().any(|k| k.api_key == 999));
    }
}

#[test]
fn hooks_do_what_they_say() {
    let broker = Broker::start();
    broker.create_topic("t", 2);
    let batch = || Batch::of([NewRecord::value("a")]).encode();
    let mut raw = client(&broker, 1);

    broker
        .on(ApiKey::Produce)
        .partition("t", 1)
        .times(2)
        .error(6);
    broker.on(ApiKey::Produce).handled().error(20);
    let mut codes = |partition| {
        let done = raw.call(&produce("t", partition, batch()), 8);
        produced(done).error_code
    };
    assert_eq!([codes(1), codes(1), codes(0), codes(1)], [6, 6, 20, 0]);
    assert_eq!((broker.ends("t", 0).1, broker.ends("t", 1).1), (1, 1));

    let lost = broker.on(ApiKey::Produce).handled().drop_connection();
    assert!(raw.try_call(&produce("t", 0, batch()), 8).is_err());
    assert_eq!(
        (lost.used(), broker.ends("t", 0).1),
        (1, 2),
        "written, not acknowledged"
    );

    let mut raw = client(&broker, 1);
    broker.on(ApiKey::Metadata).cut_answer(9);
    assert!(raw.try_call(&metadata(&["t"]), 8).is_err());

    let mut raw = client(&broker, 1);
    broker.on(ApiKey::Metadata).overwrite(4, -7);
    raw.send(&metadata(&["t"]), 8).unwrap();
    assert_eq!(raw.receive_frame().unwrap()[8..12], (-7_i32).to_be_bytes());

    broker
        .on(ApiKey::Metadata)
        .throttle(Duration::from_millis(20));
    assert_eq!(raw.call(&metadata(&["t"]), 8).throttle_time_ms, 20);

    broker.on(ApiKey::Metadata).topic("none").error(29);
    assert_eq!(raw.call(&metadata(&["t"]), 8).topics[0].error_code, 0);
    assert_eq!(raw.call(&metadata(&["none"]), 8).topics[0].error_code, 29);
    assert_eq!(raw.call(&metadata(&["none"]), 8).topics[0].error_code, 3);

    let silent = broker.on(ApiKey::Metadata).silence();
    raw.set_timeout(Duration::from_millis(50));
    assert!(raw.try_call(&metadata(&["t"]), 8).is_err());
    assert_eq!((silent.used(), broker.connections(1)), (1, 1), "half open");
}

#[test]
fn nodes_stop_and_come_back() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic("t", 3);
    let led = |broker: &Broker, node| {
        let answer = client(broker, node).call(&metadata(&["t"]), 8);
        let partitions = answer.topics[0].partitions.iter();
        let leaders: Vec<i32> = partitions.map(|p| p.leader_id.0).collect();
        (answer.brokers.len(), leaders)
    };
    assert_eq!(led(&broker, 1), (3, vec![1, 2, 3]));
    let mut second = client(&broker, 2);
    broker.stop(2);
    assert!(second.try_call(&metadata(&[]), 8).is_err());
    assert!(std::net::TcpStream::connect(broker.address(2)).is_err());
    assert_eq!(led(&broker, 1), (2, vec![1, -1, 3]));
    broker.restart(2);
    assert_eq!(led(&broker, 2), (3, vec![1, 2, 3]));
    broker.fail_over(3);
    assert_eq!(led(&broker, 1), (2, vec![1, 2, 1]));
    let mut first = client(&broker, 1);
    let batch = Batch::of([NewRecord::value("a")]).encode();
    let done = produced(first.call(&produce("t", 1, batch), 8));
    assert_eq!(done.error_code, 6, "only the leader serves");
    broker.move_leader("t", 1, 1);
    let data = fetched(first.call(&fetch("t", 1, 0, 99), 11));
    assert_eq!(data.error_code, 0);
    broker.freeze(1);
    first.set_timeout(Duration::from_millis(50));
    assert!(first.try_call(&metadata(&[]), 8).is_err());
    broker.thaw(1);
    assert_eq!(led(&broker, 1).0, 2);
}

/// Joins as a newcomer does since JoinGroup v4, and returns its id.
fn newcomer(raw: &mut RawClient) -> String {
    let refused = raw.call(&join_group("g", "", SESSION), 5);
    assert_eq!(refused.error_code, 79);
    refused.member_id.to_string()
}

#[test]
fn a_group_goes_through_its_rounds() {
    let broker = Broker::start();
    broker.create_topic("t", 1);
    let mut a = client(&broker, 1);
    assert_eq!(a.call(&find_coordinator("g"), 2).node_id.0, 1);
    let first = newcomer(&mut a);
    let joined = a.call(&join_group("g", &first, SESSION), 5);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(joined.leader.as_str(), first);
    let early = a.call(&commit("g", &first, 1, "t", 0, 5), 7);
    assert_eq!(
        early.topics[0].partitions[0].error_code, 27,
        "waits for SyncGroup"
    );
    let synced = a.call(&sync_group("g", &first, 1, &[(&first, b"all")]), 3);
    assert_eq!(&synced.assignment[..], b"all");
    assert_eq!(a.call(&heartbeat("g", &first, 1), 3).error_code, 0);

    let mut b = client(&broker, 1);
    let second = newcomer(&mut b);
    b.send(&join_group("g", &second, SESSION), 5).unwrap();
    broker.wait("second joins", |b| b.group("g").members.len() == 2);
    assert_eq!(a.call(&heartbeat("g", &first, 1), 3).error_code, 27);
    let kept = a.call(&commit("g", &first, 1, "t", 0, 7), 7);
    assert_eq!(
        kept.topics[0].partitions[0].error_code, 0,
        "still the old generation"
    );
    let joined = a.call(&join_group("g", &first, SESSION), 5);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 2));
    let follower = b.receive::<JoinGroupRequest>(5).unwrap();
    assert_eq!((follower.generation_id, follower.members.len()), (2, 0));
    b.send(&sync_group("g", &second, 2, &[]), 3).unwrap();
    let given: [(&str, &[u8]); 2] = [(&first, b"x"), (&second, b"y")];
    a.call(&sync_group("g", &first, 2, &given), 3);
    let synced = b.receive::<SyncGroupRequest>(3).unwrap();
    assert_eq!(&synced.assignment[..], b"y");
    assert!(broker.group("g").is_stable_with(2));

    let stale = a.call(&commit("g", &first, 1, "t", 0, 9), 7);
    assert_eq!(stale.topics[0].partitions[0].error_code, 22);
    let stranger = a.call(&commit("g", "who", 2, "t", 0, 9), 7);
    assert_eq!(stranger.topics[0].partitions[0].error_code, 25);
    assert_eq!(broker.committed("g", "t", 0), Some(7));
    assert_eq!(broker.commits("g").len(), 4);

    assert_eq!(b.call(&leave_group("g", &second), 1).error_code, 0);
    assert_eq!(a.call(&heartbeat("g", &first, 2), 3).error_code, 27);
    broker.kick("g", &first);
    assert_eq!(a.call(&heartbeat("g", &first, 2), 3).error_code, 25);
    assert_eq!(broker.group("g").state, "Empty");
}

#[test]
fn silent_members_are_removed() {
    let broker = Broker::builder().nodes(2).start();
    let coordinator = broker.coordinator("g");
    let mut a = client(&broker, coordinator);
    let short = Duration::from_millis(200);
    let joined = a.call(&join_group("g", "", short), 2);
    assert_eq!(joined.error_code, 0, "version 2 knows no 79");
    let member = joined.member_id.to_string();
    a.call(&sync_group("g", &member, 1, &[(&member, b"")]), 2);
    broker.wait("it is missed", |b| b.group("g").members.is_empty());
    assert_eq!(a.call(&heartbeat("g", &member, 1), 2).error_code, 25);
    broker.move_coordinator("g", 3 - coordinator);
    assert_eq!(a.call(&heartbeat("g", &member, 1), 2).error_code, 16);
}
