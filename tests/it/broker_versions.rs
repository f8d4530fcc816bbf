//! Brokers older and newer than the client, and those that have nothing in common with it.

use crate::support::broker::batch::NewRecord;
use crate::support::broker::versions::Versions;
use crate::support::broker::{ApiKey, Broker};
use crate::support::program::Program;
use crate::support::stage::{Ledger, Stage, endpoint, get};

const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;

fn stage(broker: &Broker) -> Stage {
    Stage::new(&broker.bootstrap(), 1, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

#[test]
fn k20_old_and_new_brokers_are_spoken_to() {
    for versions in [
        Versions::kafka_2_1(),
        Versions::kafka_3_9(),
        Versions::kafka_4(),
    ] {
        let broker = Broker::builder().versions(versions).start();
        let stage = stage(&broker);
        broker.append(&stage.incoming, 0, stage.records(0..5));
        let worker = stage.worker("");
        broker.wait("all are committed", |b| {
            b.committed(&stage.group, &stage.incoming, 0) == Some(5)
        });
        worker.signal(rustix::process::Signal::TERM);
        assert_eq!(worker.finish().code(), 0);
        let published = broker.all_records(&stage.outgoing);
        let ledger = Ledger::new(published, broker.all_records(&stage.dead_letters));
        assert_eq!(ledger.lost(0..5), [""; 0]);
        assert_eq!(ledger.duplicates(), 0);
    }
}

#[test]
fn k20_nothing_in_common_ends_with_78_and_names_the_request() {
    for (api, name, (first, last)) in [
        (ApiKey::Metadata, "Metadata", (11, 13)),
        (ApiKey::Produce, "Produce", (9, 13)),
        (ApiKey::FindCoordinator, "FindCoordinator", (4, 6)),
        (ApiKey::JoinGroup, "JoinGroup", (6, 9)),
        (ApiKey::SyncGroup, "SyncGroup", (4, 5)),
        (ApiKey::Heartbeat, "Heartbeat", (4, 4)),
        (ApiKey::OffsetCommit, "OffsetCommit", (8, 9)),
        (ApiKey::OffsetFetch, "OffsetFetch", (6, 9)),
        (ApiKey::ListOffsets, "ListOffsets", (6, 10)),
        (ApiKey::Fetch, "Fetch", (4, 9)),
    ] {
        let versions = Versions::kafka_4().with(api, first, last);
        let broker = Broker::builder().versions(versions).start();
        let stage = stage(&broker);
        broker.append(&stage.incoming, 0, [NewRecord::value("x")]);
        let finished = Program::new(["run"]).config(&stage.config("")).finish();
        assert_eq!(finished.code(), 78, "{name}: {}", finished.stdout);
        let error = finished.stdout.lines().find(|line| line.contains("ERROR"));
        let error = error.unwrap_or_default();
        let words = format!("share no version of {name}: ours ");
        assert!(error.contains(&words), "no {words:?} in {error}");
        assert!(error.contains(&format!("its {first}-{last}")), "{error}");
    }
}

#[test]
fn k20_a_broker_without_static_members_is_named() {
    let broker = Broker::builder().versions(Versions::kafka_2_1()).start();
    let stage = stage(&broker);
    let config = stage.config("").replace(
        "[consumer]\n",
        "[consumer]\ngroup_instance_id = \"worker-0\"\n",
    );
    let finished = Program::new(["run"]).config(&config).finish();
    assert_eq!(finished.code(), 78, "{}", finished.stdout);
    assert!(
        finished.stdout.contains(
            "has no static members (a group instance id): that takes version 5 of JoinGroup"
        ),
        "{}",
        finished.stdout
    );
}

#[test]
fn k20_a_codec_that_the_broker_does_not_give_out_is_named() {
    let broker = Broker::start();
    let stage = stage(&broker);
    broker.append(&stage.incoming, 0, stage.records(0..1));
    broker
        .on(ApiKey::Fetch)
        .partition(&stage.incoming, 0)
        .always()
        .error(UNSUPPORTED_COMPRESSION_TYPE);
    let worker = stage.worker("");
    worker.line("stands still");
    let endpoint = endpoint(&worker);
    broker.wait("it is said", |_| {
        get(&endpoint, "/readyz").1.contains("input_topic")
    });
    let (status, body) = get(&endpoint, "/readyz");
    assert_eq!(status, 503);
    for words in [&stage.incoming, "zstd", "2.1"] {
        assert!(body.contains(words), "no {words:?} in {body}");
    }
    assert_eq!(broker.ends(&stage.outgoing, 0).1, 0, "nothing is made up");
}
