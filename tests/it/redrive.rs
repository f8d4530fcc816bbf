//! `redrive` against the scripted broker: dead letters that a worker made, and what becomes of
//! them.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, JoinGroupRequest};
use rustix::process::Signal;

use crate::support::archive_server::Reply;
use crate::support::broker::Broker;
use crate::support::broker::batch::NewRecord;
use crate::support::program::{Finished, Program};
use crate::support::stage::{Ledger, Stage, archive, value};

fn stage(broker: &Broker, partitions: usize) -> Stage {
    Stage::new(&broker.bootstrap(), partitions, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

fn redrive(stage: &Stage, arguments: &[&str]) -> Program {
    let arguments = ["redrive"].iter().chain(arguments);
    Program::new(arguments).config(&stage.config(""))
}

fn finish(stage: &Stage, arguments: &[&str]) -> Finished {
    redrive(stage, arguments).finish()
}

fn count(broker: &Broker, topic: &str) -> usize {
    broker.all_records(topic).len()
}

/// A dead letter as the worker writes it.
fn letter(stage: &Stage, id: &str, reason: &str) -> NewRecord {
    stage
        .record(id, "/archive")
        .header("ccx-dlq-topic", Some(stage.incoming.as_bytes()))
        .header("ccx-dlq-offset", Some(b"0"))
        .header("ccx-dlq-reason", Some(reason.as_bytes()))
}

/// Request ids that were sent to the incoming topic.
fn redriven(broker: &Broker, stage: &Stage) -> Vec<String> {
    let records = broker.all_records(&stage.incoming);
    let ids = records
        .iter()
        .map(|record| value(record)["request_id"].clone());
    let mut ids: Vec<String> = ids.map(|id| id.as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[test]
fn dead_letters_of_a_worker_are_sent_again_and_become_results() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    stage
        .server
        .script("/later", [Reply::status(404, &[], "NoSuchKey")]);
    let record = |id: usize| {
        stage
            .record(&format!("r-{id}"), "/later")
            .header("service", Some(b"openshift"))
            .header("none", None)
    };
    for partition in 0..2 {
        let first = partition as usize * 6;
        broker.append(&stage.incoming, partition, (first..first + 6).map(record));
    }
    broker.append(&stage.incoming, 0, [stage.record("r-12", "/archive")]);
    let originals = broker.all_records(&stage.incoming);
    let worker = stage.worker("");
    broker.wait("dead letters", |b| count(b, &stage.dead_letters) == 12);
    stage.server.serve("/later", archive());

    let finished = finish(&stage, &[]);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(finished.stdout, "sent again: 12\n  not_found: 12\n");
    broker.wait("results", |b| count(b, &stage.outgoing) == 13);
    let ledger = Ledger::new(
        broker.all_records(&stage.outgoing),
        broker.all_records(&stage.dead_letters),
    );
    assert_eq!(ledger.lost(0..13), Vec::<String>::new());
    assert!(ledger.published.values().all(|times| *times == 1));
    assert_eq!(ledger.buried.len(), 12);

    let all = broker.all_records(&stage.incoming);
    assert_eq!(all.len(), originals.len() + 12);
    for original in &originals[..6] {
        let twins = all
            .iter()
            .filter(|r| r.value == original.value && r.key == original.key)
            .filter(|r| r.headers == original.headers);
        assert_eq!(twins.count(), 2, "as it was");
    }
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

#[test]
fn what_is_done_is_not_done_again() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let letters = (0..50).map(|id| letter(&stage, &format!("r-{id}"), "tls"));
    broker.append(&stage.dead_letters, 0, letters);
    for (expected, all) in [(50, 50), (0, 50)] {
        let finished = finish(&stage, &[]);
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        let first = finished.stdout.lines().next().unwrap();
        assert_eq!(first, format!("sent again: {expected}"));
        assert_eq!(count(&broker, &stage.incoming), all);
    }
    broker.append(&stage.dead_letters, 0, [letter(&stage, "r-50", "tls")]);
    let finished = finish(&stage, &[]);
    assert!(
        finished.stdout.contains("sent again: 1"),
        "{}",
        finished.stdout
    );
    let group = format!("{}-redrive", stage.group);
    assert_eq!(broker.committed(&group, &stage.dead_letters, 0), Some(51));
    assert_eq!(redriven(&broker, &stage).len(), 51);
}

/// Two fetches, since both do not fit into one. What arrives between them comes with the second.
#[test]
fn what_arrives_meanwhile_is_left_for_the_next_run() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let large = |id: &str| {
        let mut value = stage.announcement(id, "/archive");
        value["filler"] = "x".repeat(700_000).into();
        let large = NewRecord::keyed(id, value.to_string());
        large.header("ccx-dlq-reason", Some(b"tls"))
    };
    for id in ["r-0", "r-1"] {
        broker.append(&stage.dead_letters, 0, [large(id)]);
    }
    let produce = || broker.on(ApiKey::Produce).topic(&stage.incoming);
    let held = produce().delay(std::time::Duration::from_secs(1));
    let run = redrive(&stage, &[]).start();
    held.wait_used(1);
    broker.append(&stage.dead_letters, 0, [letter(&stage, "r-2", "tls")]);
    let finished = run.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(finished.stdout, "sent again: 2\n  tls: 2\n");
    assert_eq!(redriven(&broker, &stage), ["r-0", "r-1"]);
    assert_eq!(finish(&stage, &[]).code(), 0);
    assert_eq!(redriven(&broker, &stage), ["r-0", "r-1", "r-2"]);
}

#[test]
fn nothing_is_committed_before_it_is_acknowledged() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.dead_letters, 0, [letter(&stage, "r-0", "tls")]);
    let produce = || broker.on(ApiKey::Produce).topic(&stage.incoming).always();
    let refused = produce().error(ResponseError::NotEnoughReplicas.code());
    let run = redrive(&stage, &[]).start();
    refused.wait_used(5);
    let group = format!("{}-redrive", stage.group);
    assert_eq!(broker.committed(&group, &stage.dead_letters, 0), None);
    refused.remove();
    let finished = run.finish();
    assert_eq!(finished.stdout, "sent again: 1\n  tls: 1\n");
    assert_eq!(redriven(&broker, &stage), ["r-0"]);
    assert_eq!(broker.committed(&group, &stage.dead_letters, 0), Some(1));
}

#[test]
fn a_dry_run_lists_and_commits_nothing() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let letters = [
        letter(&stage, "r-0", "tls"),
        letter(&stage, "r-1", "not_found"),
    ];
    broker.append(&stage.dead_letters, 0, letters);
    for _ in 0..2 {
        let finished = finish(&stage, &["--dry-run"]);
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        let topic = &stage.dead_letters;
        let expected = format!(
            "{topic}\t0\t0\ttls\n{topic}\t0\t1\tnot_found\n\
             would be sent again: 2\n  not_found: 1\n  tls: 1\n"
        );
        assert_eq!(finished.stdout, expected);
    }
    assert_eq!(count(&broker, &stage.incoming), 0);
    let group = format!("{}-redrive", stage.group);
    assert_eq!(broker.committed(&group, &stage.dead_letters, 0), None);
}

#[test]
fn a_reason_has_a_group_of_its_own_and_a_limit_is_kept() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let letters = (0..10).map(|id| {
        let reason = if id % 2 == 0 { "tls" } else { "not_found" };
        letter(&stage, &format!("r-{id}"), reason)
    });
    broker.append(&stage.dead_letters, 0, letters);
    let only = ["--reason", "tls"];
    let finished = finish(&stage, &[only[0], only[1], "--limit", "2"]);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(redriven(&broker, &stage), ["r-0", "r-2"]);
    let group = format!("{}-redrive-tls", stage.group);
    let came_to = broker.committed(&group, &stage.dead_letters, 0);
    assert!((Some(3)..=Some(4)).contains(&came_to), "{came_to:?}");
    let all = format!("{}-redrive", stage.group);
    assert_eq!(broker.committed(&all, &stage.dead_letters, 0), None);

    let finished = finish(&stage, &only);
    let expected = "sent again: 3\n  tls: 3\nleft, for other reasons: 4\n";
    assert!(finished.stdout.starts_with("sent again: 3\n  tls: 3\n"));
    assert!(
        finished.stdout == expected || finished.stdout == expected.replace('4', "3"),
        "{}",
        finished.stdout
    );
    let even = ["r-0", "r-2", "r-4", "r-6", "r-8"];
    assert_eq!(redriven(&broker, &stage), even);
    let finished = finish(&stage, &only);
    assert!(finished.stdout.contains("sent again: 0"));

    let finished = finish(&stage, &["--limit", "0"]);
    assert!(finished.stdout.contains("sent again: 0"));
    assert_eq!(redriven(&broker, &stage), even);
}

#[test]
fn records_that_fail_again_do_not_go_round_in_a_circle() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let gone = Reply::status(404, &[], "NoSuchKey");
    stage.server.script("/gone", [gone]);
    let keys = "[dead_letter_queue]\nmax_ratio = \"off\"\nmax_consecutive = \"off\"";
    let config = stage.config("").replace("[dead_letter_queue]", keys);
    let _worker = Program::new(["run"]).config(&config).start();
    let records = (0..100).map(|id| stage.record(&format!("r-{id}"), "/gone"));
    broker.append(&stage.incoming, 0, records);
    for rounds in 1..=2 {
        let letters = |b: &Broker| count(b, &stage.dead_letters);
        broker.wait("dead letters", |b| letters(b) == 100 * rounds);
        let finished = finish(&stage, &[]);
        assert_eq!(finished.code(), 0, "{}", finished.stderr);
        assert_eq!(finished.stdout, "sent again: 100\n  not_found: 100\n");
    }
}

#[test]
fn stubs_and_records_of_others_are_counted_and_left() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let stub = NewRecord {
        key: Some("k".into()),
        ..NewRecord::default()
    };
    let stub = stub
        .header("ccx-dlq-reason", Some(b"message_json"))
        .header("ccx-dlq-stub", Some(b"true"));
    let letters = [
        stub,
        stage.record("foreign", "/archive"),
        letter(&stage, "r-0", "tls"),
    ];
    broker.append(&stage.dead_letters, 0, letters);
    let finished = finish(&stage, &[]);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let expected = "sent again: 1\n  tls: 1\nleft, stubs without a value: 1\n\
                    left, no dead letters of this program: 1\n";
    assert_eq!(finished.stdout, expected);
    assert_eq!(redriven(&broker, &stage), ["r-0"]);
}

#[test]
fn it_ends_before_one_that_cannot_be_sent() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.set_max_message_bytes(&stage.incoming, 2000);
    broker.append(&stage.dead_letters, 0, [letter(&stage, "r-0", "tls")]);
    let large = NewRecord::keyed("k", "x".repeat(5000)).header("ccx-dlq-reason", Some(b"tls"));
    broker.append(&stage.dead_letters, 0, [large]);
    broker.append(&stage.dead_letters, 0, [letter(&stage, "r-2", "tls")]);
    let finished = finish(&stage, &[]);
    assert_eq!(finished.code(), 1, "{}", finished.stderr);
    let place = format!("{}-0 offset 1 cannot be sent", stage.dead_letters);
    assert!(finished.stderr.contains(&place), "{}", finished.stderr);
    let group = format!("{}-redrive", stage.group);
    assert_eq!(broker.committed(&group, &stage.dead_letters, 0), Some(1));

    broker.set_max_message_bytes(&stage.incoming, 1 << 20);
    assert_eq!(finish(&stage, &[]).code(), 0);
    assert_eq!(broker.committed(&group, &stage.dead_letters, 0), Some(3));
}

#[test]
fn what_cannot_be_reached_is_told_by_the_exit_code() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let with = |old: &str, new: &str| {
        Program::new(["redrive"])
            .config(&stage.config("").replace(old, new))
            .finish()
    };
    assert_eq!(with(&stage.bootstrap, "127.0.0.1:1").code(), 69);
    let missing = with(&stage.dead_letters, "not-there");
    assert_eq!(missing.code(), 78, "{}", missing.stderr);
    let none = with(&stage.dead_letters, "");
    assert_eq!(none.code(), 78);
    assert!(none.stderr.contains("dead_letter_queue.topic is empty"));
    broker.append(&stage.dead_letters, 0, [letter(&stage, "r-0", "tls")]);
    broker
        .on(ApiKey::Produce)
        .topic(&stage.incoming)
        .always()
        .error(ResponseError::TopicAuthorizationFailed.code());
    let refused = finish(&stage, &[]);
    assert_eq!(refused.code(), 77, "{}", refused.stderr);
}

#[test]
fn killed_in_the_middle_it_repeats_some_and_loses_none() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let letters = (0..200).map(|id| letter(&stage, &format!("r-{id}"), "tls"));
    broker.append(&stage.dead_letters, 0, letters);
    // Sent, and the commit does not come back.
    let held = broker.on(ApiKey::OffsetCommit).after(2).always().silence();
    let first = redrive(&stage, &[]).start();
    held.wait_used(1);
    first.signal(Signal::KILL);
    drop(first);
    held.remove();
    let group = format!("{}-redrive", stage.group);
    let committed = broker.committed(&group, &stage.dead_letters, 0).unwrap();
    assert_eq!(committed, 64, "two chunks");
    let sent = count(&broker, &stage.incoming);
    assert!((96..200).contains(&sent), "{sent}");

    let finished = finish(&stage, &[]);
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    let mut ids = redriven(&broker, &stage);
    assert_eq!(ids.len(), 200 + sent - 64);
    ids.dedup();
    assert_eq!(ids.len(), 200, "none is lost");
}

/// Its partitions may be another run's by then.
#[test]
fn a_lost_membership_ends_what_was_fetched_under_it() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let letters = (0..100).map(|id| letter(&stage, &format!("r-{id}"), "tls"));
    broker.append(&stage.dead_letters, 0, letters);
    let produce = || broker.on(ApiKey::Produce).topic(&stage.incoming).always();
    let refused = produce().error(ResponseError::NotEnoughReplicas.code());
    let run = redrive(&stage, &[]).start();
    refused.wait_used(1);
    let group = format!("{}-redrive", stage.group);
    let members = broker.group(&group).members;
    broker.kick(&group, &members[0].id);
    refused.remove();
    let finished = run.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(broker.committed(&group, &stage.dead_letters, 0), Some(100));
    // What was on its way, and then all of it, since nothing was committed.
    let mut ids = redriven(&broker, &stage);
    assert_eq!(ids.len(), 32 + 100);
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

#[test]
fn a_signal_ends_it_in_order() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let letters = (0..200).map(|id| letter(&stage, &format!("r-{id}"), "tls"));
    broker.append(&stage.dead_letters, 0, letters);
    let delayed = broker
        .on(ApiKey::Produce)
        .topic(&stage.incoming)
        .always()
        .delay(std::time::Duration::from_millis(300));
    let run = redrive(&stage, &[]).start();
    delayed.wait_used(1);
    run.signal(Signal::TERM);
    let finished = run.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    delayed.remove();
    let sent = count(&broker, &stage.incoming);
    assert!(sent < 200, "{sent}");
    let group = format!("{}-redrive", stage.group);
    let committed = broker
        .committed(&group, &stage.dead_letters, 0)
        .unwrap_or(0);
    assert_eq!(committed as usize, sent, "what is sent is committed");
    assert!(broker.group(&group).members.is_empty(), "it has left");
    assert_eq!(finish(&stage, &[]).code(), 0);
    assert_eq!(count(&broker, &stage.incoming), 200);
}

#[test]
fn k05_a_partition_without_a_leader_ends_it_in_time() {
    let broker = Broker::builder().nodes(2).start();
    let stage = stage(&broker, 1);
    broker.move_leader(&stage.incoming, 0, 1);
    broker.move_coordinator(&format!("{}-redrive", stage.group), 1);
    broker.add_partitions(&stage.dead_letters, 2);
    for partition in 0..2 {
        broker.move_leader(&stage.dead_letters, partition, partition + 1);
        let letter = letter(&stage, &format!("r-{partition}"), "tls");
        broker.append(&stage.dead_letters, partition, [letter]);
    }
    broker.stop(2);
    let finished = finish(&stage, &[]);
    assert_eq!(finished.code(), 69, "{}", finished.stderr);
    let which = format!("nothing is to be read of {}-1 ", stage.dead_letters);
    assert!(finished.stderr.contains(&which), "{}", finished.stderr);
    assert_eq!(redriven(&broker, &stage), ["r-0"]);
    broker.restart(2);
    assert_eq!(finish(&stage, &[]).code(), 0);
    assert_eq!(redriven(&broker, &stage), ["r-0", "r-1"]);
}

/// The worker's static id is not that of a run, which could not be at once with another one then.
#[test]
fn k09_a_run_is_no_static_member() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.dead_letters, 0, [letter(&stage, "r-0", "tls")]);
    let finished = redrive(&stage, &[])
        .env("CCX_DATA_PIPELINE__CONSUMER__GROUP_INSTANCE_ID", "worker-0")
        .finish();
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(redriven(&broker, &stage), ["r-0"]);
    for join in broker.requests_of(ApiKey::JoinGroup) {
        let join: JoinGroupRequest = join.decode();
        assert_eq!(join.group_instance_id, None);
    }
    let group = broker.group(&format!("{}-redrive", stage.group));
    assert!(group.members.is_empty(), "it has left");
}
