//! Answers that are well-formed and help nobody: a worker that gets them for ever asks in measure,
//! says so, and goes on once they end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{FetchResponse, JoinGroupResponse, OffsetFetchResponse};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use rustix::process::Signal;

use crate::support::broker::{ApiKey, Broker};
use crate::support::program::Running;
use crate::support::stage::{Stage, endpoint, get, metric, scripted};
use crate::support::until::until;

/// A hook's change of a whole answer.
fn changed<R: Decodable + Encodable>(
    version: i16,
    change: impl Fn(&mut R) + Send + Sync + 'static,
) -> impl Fn(&mut Vec<u8>) + Send + Sync + 'static {
    move |frame| {
        let mut answer = R::decode(&mut Bytes::copy_from_slice(&frame[8..]), version).unwrap();
        change(&mut answer);
        let mut bytes = BytesMut::from(&frame[..8]);
        answer.encode(&mut bytes, version).unwrap();
        let length = bytes.len() as i32 - 4;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        *frame = bytes.to_vec();
    }
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// A stage with six records, and a worker that logs as it does in production.
fn begin(script: impl Fn(&Broker, &Stage)) -> (Broker, Stage, Running) {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    stage.spread(&broker, "/archive", 0..6);
    script(&broker, &stage);
    let worker = stage.program("").without_level().start();
    (broker, stage, worker)
}

/// The fault ends: everything is done, once, and the worker ends in order.
fn ends_well(broker: &Broker, stage: &Stage, worker: Running) {
    broker.clear_hooks();
    broker.wait_for(Duration::from_secs(40), "all is done", |b| {
        stage.committed(b) == 6
    });
    stage.ledger(broker).check(0..6, 0);
    assert!(stage.ledger(broker).buried.is_empty());
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

/// Lets the worker be for as long as `api` is asked `count` times, which is not fast. Returns how
/// often `other` is asked meanwhile.
fn meanwhile(broker: &Broker, (api, count): (ApiKey, usize), other: ApiKey) -> usize {
    let (before, others) = (broker.count(api), broker.count(other));
    broker.wait("time passes", |b| b.count(api) >= before + count);
    broker.count(other) - others
}

#[test]
fn k19_fetches_that_bring_nothing_are_not_repeated_at_full_speed() {
    type Change = fn(&mut FetchResponse);
    let nothing: [Change; 3] = [
        |answer| answer.responses.clear(),
        |answer| {
            let partitions = answer.responses.iter_mut().flat_map(|t| &mut t.partitions);
            partitions.for_each(|p| p.records = Some(Bytes::new()));
        },
        |answer| {
            let partitions = answer.responses.iter_mut().flat_map(|t| &mut t.partitions);
            partitions.for_each(|p| p.partition_index += 7);
        },
    ];
    for change in nothing {
        let (broker, stage, worker) = begin(|broker, _| {
            broker.on(ApiKey::Fetch).always().patch(changed(11, change));
        });
        worker.line("assigned: ");
        // Eight heartbeats are four seconds.
        let fetches = meanwhile(&broker, (ApiKey::Heartbeat, 8), ApiKey::Fetch);
        assert!(fetches < 40, "{fetches}");
        ends_well(&broker, &stage, worker);
    }
}

#[test]
fn k15_an_offset_that_is_there_and_out_of_range_is_not_asked_for_at_full_speed() {
    let (broker, stage, worker) = begin(|broker, _| {
        broker.on(ApiKey::Fetch).always().error(1);
    });
    worker.line("OffsetOutOfRange (1) of an offset that is there, trying again");
    let lists = meanwhile(&broker, (ApiKey::Heartbeat, 8), ApiKey::ListOffsets);
    assert!(lists < 60, "{lists}");
    assert!(
        worker.lines("OffsetOutOfRange").len() <= 2,
        "one a partition"
    );
    ends_well(&broker, &stage, worker);
}

#[test]
fn k19_a_group_that_never_lets_us_in_is_asked_in_measure_and_said_once() {
    let another_id = |answer: &mut JoinGroupResponse| {
        (answer.error_code, answer.member_id) = (79, text("another"));
    };
    let (broker, stage, worker) = begin(|broker, _| {
        broker
            .on(ApiKey::JoinGroup)
            .always()
            .patch(changed(5, another_id));
    });
    worker.line("JoinGroup is refused: MemberIdRequired (79)");
    broker.wait("some joins", |b| b.count(ApiKey::JoinGroup) >= 8);
    let joins = broker.requests_of(ApiKey::JoinGroup);
    let took = joins[7].at.duration_since(joins[0].at);
    assert!(took > Duration::from_secs(2), "{took:?} for eight");
    assert_eq!(worker.lines("JoinGroup is refused").len(), 1);
    ends_well(&broker, &stage, worker);
}

#[test]
fn k06_a_sync_that_is_refused_for_ever_is_said_once() {
    let (broker, stage, worker) = begin(|broker, _| {
        broker.on(ApiKey::SyncGroup).always().error(16);
    });
    broker.wait("some joins", |b| b.count(ApiKey::JoinGroup) >= 8);
    let joins = broker.requests_of(ApiKey::JoinGroup);
    let took = joins[7].at.duration_since(joins[0].at);
    assert!(took > Duration::from_secs(2), "{took:?} for eight");
    assert_eq!(worker.lines("joined generation").len(), 1);
    assert_eq!(worker.lines("[WARN]").len(), 1);
    ends_well(&broker, &stage, worker);
}

#[test]
fn k23_a_join_that_is_throttled_is_followed_by_its_sync() {
    let (broker, stage, worker) = begin(|broker, _| {
        let slow = Duration::from_millis(700);
        broker.on(ApiKey::JoinGroup).always().throttle(slow);
    });
    worker.line("assigned: ");
    broker.wait("all is done", |b| stage.committed(b) == 6);
    ends_well(&broker, &stage, worker);
}

#[test]
fn k19_a_broker_that_answers_nonsense_has_two_lines_in_the_log_and_not_two_a_second() {
    let (broker, stage, worker) = begin(|broker, _| {
        broker.on(ApiKey::Fetch).always().wrong_correlation_id();
    });
    worker.line("lost broker");
    broker.wait("attempts", |b| b.count(ApiKey::Fetch) >= 8);
    let said = worker.lines("lost broker").len() + worker.lines("is back").len();
    assert!(said <= 4, "{said}");
    ends_well(&broker, &stage, worker);
}

#[test]
fn k19_metadata_of_a_commit_that_is_no_text_is_no_reason_to_stop() {
    let foreign = |frame: &mut Vec<u8>| {
        let metadata = |answer: &mut OffsetFetchResponse| {
            let partitions = answer.topics.iter_mut().flat_map(|t| &mut t.partitions);
            partitions.for_each(|p| (p.committed_offset, p.metadata) = (0, Some(text("QQ"))));
        };
        changed(5, metadata)(frame);
        for at in 0..frame.len() - 1 {
            if frame[at..].starts_with(b"QQ") {
                frame[at..at + 2].copy_from_slice(b"\xff\xfe");
            }
        }
    };
    let (broker, stage, worker) = begin(|broker, _| {
        broker.on(ApiKey::OffsetFetch).always().patch(foreign);
    });
    broker.wait("all is done", |b| stage.committed(b) == 6);
    ends_well(&broker, &stage, worker);
}

#[test]
fn k16_offsets_are_committed_without_marks_where_metadata_is_refused() {
    let (broker, stage, worker) = begin(|broker, _| {
        broker.on(ApiKey::OffsetCommit).times(1).error(12);
    });
    worker.line("crash loops are not recognised");
    broker.wait("all is done", |b| stage.committed(b) == 6);
    let commits = broker.commits(&stage.group);
    let refused = commits.iter().position(|c| c.code == 12).unwrap();
    let later = commits[refused..].iter().filter(|c| c.code == 0);
    assert!(later.clone().count() > 0);
    for partition in 0..2 {
        let mark = broker.committed_metadata(&stage.group, &stage.incoming, partition);
        assert_eq!(mark.unwrap_or_default(), "");
    }
    ends_well(&broker, &stage, worker);
}

#[test]
fn k16_commits_that_are_refused_for_ever_are_said_once() {
    let (broker, stage, worker) = begin(|broker, _| {
        broker.on(ApiKey::OffsetCommit).always().error(9999);
    });
    worker.line("offsets are not committed, which is tried again");
    let tries = |b: &Broker| b.count(ApiKey::OffsetCommit) >= 5;
    broker.wait("some commits", tries);
    assert_eq!(worker.lines("offsets are not committed").len(), 1);
    ends_well(&broker, &stage, worker);
}

#[test]
fn k13_results_that_are_refused_for_an_unknown_reason_make_the_worker_unready() {
    let (broker, stage, worker) = begin(|broker, _| {
        broker.on(ApiKey::Produce).always().error(9999);
    });
    let endpoint = endpoint(&worker);
    until("not ready", || {
        let (status, cause) = get(&endpoint, "/readyz");
        status == 503 && cause.contains("(9999)")
    });
    let fault = "ccx_fault{kind=\"sink\"}";
    until("the gauge", || metric(&endpoint, fault) == Some(1.0));
    // Nothing more is taken on meanwhile.
    let fetches = meanwhile(&broker, (ApiKey::Heartbeat, 4), ApiKey::Fetch);
    assert!(fetches <= 1, "{fetches}");
    // Six records, tried again after a second and more: four heartbeats are two.
    let tries = meanwhile(&broker, (ApiKey::Heartbeat, 4), ApiKey::Produce);
    assert!(tries <= 30, "{tries}");
    assert_eq!(worker.lines("[ERROR]").len(), 1);
    broker.clear_hooks();
    until("ready again", || get(&endpoint, "/readyz").0 == 200);
    ends_well(&broker, &stage, worker);
}

#[test]
fn k03_a_topic_of_which_brokers_say_something_else_is_waited_for() {
    for code in [-1, 5, 9999] {
        let (broker, stage, worker) = begin(|broker, stage| {
            broker
                .on(ApiKey::Metadata)
                .topic(&stage.outgoing)
                .always()
                .error(code);
        });
        worker.line(&format!("topic {} is not available: ", stage.outgoing));
        ends_well(&broker, &stage, worker);
    }
}

#[test]
fn k05_a_partition_without_a_leader_is_told() {
    let (broker, stage, worker) = begin(|broker, stage| {
        broker
            .on(ApiKey::Metadata)
            .partition(&stage.incoming, 1)
            .always()
            .error(5);
    });
    worker.line(&format!("{}-1 has no leader", stage.incoming));
    ends_well(&broker, &stage, worker);
}
