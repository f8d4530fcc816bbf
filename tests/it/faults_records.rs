//! Records that brokers refuse, lose, break or hold back: every one has its outcome in the end.

use std::time::Duration;

use kafka_protocol::messages::ProduceRequest;
use rustix::process::Signal;

use crate::support::archive_server::{Gate, Reply};
use crate::support::broker::batch::{Batch, Codec, NewRecord, seal};
use crate::support::broker::{ApiKey, Broker};
use crate::support::stage::{Stage, archive, endpoint, get, metric, scripted};

const CODECS: [Codec; 6] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::SnappyRaw,
    Codec::Lz4,
    Codec::Zstd,
];

fn published(broker: &Broker, stage: &Stage) -> usize {
    broker.all_records(&stage.outgoing).len()
}

#[test]
fn k12_a_result_that_is_written_and_not_acknowledged_stands_there_once() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let _worker = stage.worker("");
    // Written; the leader then dies, or says that its replicas have not followed.
    let dies = || broker.on(ApiKey::Produce).topic(&stage.outgoing).handled();
    dies().times(2).drop_connection();
    dies().times(2).cut_answer(6);
    let unacknowledged = dies().always().error(7);
    stage.spread(&broker, "/archive", 0..3);
    // Those that are not in the first batch wait behind it.
    broker.wait("written", |b| published(b, &stage) >= 1);
    unacknowledged.wait_used(3);
    assert_eq!(
        stage.committed(&broker),
        0,
        "not before the acknowledgement"
    );
    unacknowledged.remove();
    broker.wait("all is done", |b| stage.committed(b) == 3);
    assert_eq!(published(&broker, &stage), 3);
    stage.ledger(&broker).check(0..3, 0);
}

#[test]
fn k13_replicas_that_are_missing_hold_the_flow_and_lose_nothing() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    stage.server.serve("/bad", "not an archive");
    // There is room for more: it is the refusals that hold the flow.
    let worker = stage.worker("[worker]\nthreads = 8\nmax_in_flight = 100");
    let endpoint = endpoint(&worker);
    let refused = |code| broker.on(ApiKey::Produce).always().error(code);
    for (round, code) in [19, 20].into_iter().enumerate() {
        let first = round * 40;
        let refusing = refused(code);
        stage.spread(&broker, "/archive", first..first + 30);
        stage.spread(&broker, "/bad", first + 30..first + 40);
        refusing.wait_used(4);
        broker.wait("it is said", |_| get(&endpoint, "/readyz").0 == 503);
        // Back-pressure: nothing more is fetched until results flow again.
        let fetched = broker.count(ApiKey::Fetch);
        let refusals = refusing.used();
        refusing.wait_used(refusals + 4);
        assert!(broker.count(ApiKey::Fetch) <= fetched + 1);
        assert!(stage.server.requests("/archive") <= first + 40);
        refusing.remove();
        broker.wait("all is done", |b| stage.committed(b) == first + 40);
    }
    stage.ledger(&broker).check(0..80, 0);
    assert_eq!(get(&endpoint, "/livez").0, 200);
    // Results and dead letters alike: only then are missing replicas an error at all.
    for seen in broker.requests_of(ApiKey::Produce) {
        assert_eq!(seen.decode::<ProduceRequest>().acks, -1);
    }
}

/// Retention has removed what was committed: on at the start, said and counted once.
#[test]
fn k15_offsets_below_the_log_are_counted_and_passed() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    stage.spread(&broker, "/archive", 0..20);
    for partition in 0..2 {
        broker.set_committed(&stage.group, &stage.incoming, partition, 2);
    }
    broker.delete_before(&stage.incoming, 0, 7);
    // Nothing at all is left here.
    broker.delete_before(&stage.incoming, 1, 10);
    let worker = stage.worker("");
    let endpoint = endpoint(&worker);
    broker.wait("both are at their end", |b| stage.committed(b) == 20);
    let skipped = "ccx_consumer_skipped_offsets_total{cause=\"out_of_range\"}";
    assert_eq!(metric(&endpoint, skipped), Some(13.0));
    let line = worker.line("5 records were removed before they were read");
    assert!(
        line.contains("ERROR") && line.contains(&stage.incoming),
        "{line}"
    );
    worker.line("8 records were removed before they were read");
    // Whoever comes next has nothing to pass over.
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
    let next = stage.worker("");
    stage.spread(&broker, "/archive", 20..24);
    broker.wait("all is done", |b| stage.committed(b) == 24);
    assert!(next.lines("records were removed").is_empty());
    let ledger = stage.ledger(&broker);
    // Partition 0 had the even ones; those from offset 7 on were left.
    let expected = (14..20).step_by(2).chain(20..24);
    for id in expected {
        assert_eq!(ledger.published.get(&format!("r-{id}")), Some(&1), "r-{id}");
    }
    assert_eq!(ledger.published.len(), 3 + 4);
}

/// The log is cut off below what is in work (an unclean election), and others stand at the same
/// offsets afterwards: those in work settle nothing of the new ones.
#[test]
fn k15_a_log_that_was_cut_off_is_read_anew() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let gate = Gate::default();
    let held = (0..8).map(|_| Reply::ok(archive()).behind(&gate));
    stage.server.script("/held", held);
    broker.append(&stage.incoming, 0, stage.records(0..2));
    let worker = stage.worker_with(
        "[worker]\nthreads = 16\nmax_in_flight = 16",
        &[("downloader.response_timeout", "100s")],
    );
    broker.wait("the first two", |b| stage.committed(b) == 2);
    let old = (100..106).map(|id| stage.record(&format!("r-{id}"), "/held"));
    broker.append(&stage.incoming, 0, old);
    broker.wait("in work", |_| stage.server.requests("/held") == 6);
    broker.truncate(&stage.incoming, 0, 2);
    worker.line("the log was cut off or made anew; continuing at 0");
    // The policy is `earliest`: the first two come again, then the new ones.
    let slow = (2..4).map(|id| stage.record(&format!("r-{id}"), "/held"));
    broker.append(&stage.incoming, 0, slow);
    broker.append(&stage.incoming, 0, stage.records(4..10));
    broker.wait("all but the held", |b| {
        stage.ledger(b).lost(4..10).is_empty() && stage.server.requests("/held") == 8
    });
    broker.wait("a commit", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(2)
    });
    gate.open();
    broker.wait("all is done", |b| stage.committed(b) == 10);
    stage.ledger(&broker).check(0..10, 2);
    let lines = worker.lines("the log was cut off or made anew");
    assert_eq!(lines.len(), 1, "{lines:?}");
}

/// Deleted and made again under its name, with more records than there were. The scripted broker
/// keeps committed offsets: they are of the former topic, too.
#[test]
fn k15_a_topic_that_was_made_anew_is_read_from_its_beginning() {
    // Too quick for a Fetch to see that it was away: its id tells, at the next look at metadata.
    // What was read of it until then comes again.
    for (policy, is_seen_missing, duplicates) in [("latest", true, 0), ("earliest", false, 12)] {
        let broker = Broker::start();
        let stage = scripted(&broker, 2);
        let gate = Gate::default();
        let held = (0..4).map(|_| Reply::ok(archive()).behind(&gate));
        stage.server.script("/held", held);
        let worker = stage.worker_with(
            "[worker]\nthreads = 16\nmax_in_flight = 16",
            &[
                ("downloader.response_timeout", "100s"),
                ("consumer.auto_offset_reset", policy),
                ("consumer.metadata_max_age", "1s"),
            ],
        );
        // With `latest` it has to be there first.
        broker.wait("both partitions have a position", |_| {
            worker.lines("begins at its").len() == 2
        });
        stage.spread(&broker, "/archive", 0..4);
        broker.wait("the first", |b| stage.committed(b) == 4);
        stage.spread(&broker, "/held", 100..104);
        broker.wait("in work", |_| stage.server.requests("/held") == 4);
        broker.delete_topic(&stage.incoming);
        if is_seen_missing {
            worker.line("does not exist, waiting for it");
        }
        broker.create_topic(&stage.incoming, 2);
        stage.spread(&broker, "/archive", 4..24);
        worker.line("was deleted and made again, it is read from its beginning");
        broker.wait("all of the new ones", |b| {
            stage.ledger(b).lost(4..24).is_empty() && stage.committed(b) == 20
        });
        gate.open();
        // What was in work settles nothing of the new log, and is not lost either.
        broker.wait("the old ones", |b| {
            stage.ledger(b).lost(100..104).is_empty()
        });
        worker.signal(Signal::TERM);
        assert_eq!(worker.finish().code(), 0);
        stage.ledger(&broker).check(0..24, duplicates);
        assert_eq!(stage.committed(&broker), 20);
    }
}

/// Nobody has written to it yet, and what is committed is of the former topic: whoever comes next
/// must not go on there once there are more records.
#[test]
fn k15_the_start_of_a_topic_that_was_made_anew_is_committed_before_its_records() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let worker = stage.worker_with("", &[("consumer.metadata_max_age", "1s")]);
    stage.spread(&broker, "/archive", 0..4);
    broker.wait("the first", |b| stage.committed(b) == 4);
    broker.delete_topic(&stage.incoming);
    broker.create_topic(&stage.incoming, 1);
    broker.wait("its start", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(0)
    });
    worker.signal(Signal::KILL);
    worker.finish();
    stage.spread(&broker, "/archive", 4..24);
    let _next = stage.worker("");
    broker.wait("all of it", |b| stage.committed(b) == 20);
    stage.ledger(&broker).check(0..24, 0);
}

/// What was in work when its topic was made anew comes to its end, a dead letter that waits
/// included.
#[test]
fn k15_k21_a_dead_letter_that_waits_outlasts_its_topic() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let worker = stage.worker_with("", &[("consumer.metadata_max_age", "1s")]);
    let endpoint = endpoint(&worker);
    let produce = broker.on(ApiKey::Produce).topic(&stage.dead_letters);
    let refusals = produce.always().error(29);
    let bad = NewRecord::value("{\"request_id\":\"b-0\"}");
    broker.append(&stage.incoming, 0, [bad]);
    broker.wait("its partition pauses", |_| {
        metric(&endpoint, "ccx_consumer_paused_partitions") == Some(1.0)
    });
    broker.delete_topic(&stage.incoming);
    broker.create_topic(&stage.incoming, 1);
    broker.wait("its start", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(0)
    });
    stage.spread(&broker, "/archive", 0..10);
    refusals.remove();
    broker.wait("all of it", |b| stage.committed(b) == 10);
    broker.wait("the dead letter", |b| {
        stage.ledger(b).buried.get("b-0") == Some(&1)
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
    stage.ledger(&broker).check(0..10, 0);
    assert_eq!(
        stage.committed(&broker),
        10,
        "it settles nothing of the new log"
    );
}

/// They are more than is kept in memory for later, and read again when it is their turn.
#[test]
fn k21_p09_large_records_behind_a_waiting_dead_letter_hold_up_no_other_partition() {
    const LARGE: usize = 30;
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    let refusals = broker
        .on(ApiKey::Produce)
        .topic(&stage.dead_letters)
        .always()
        .error(29);
    let gate = Gate::default();
    let held = Reply::ok(archive()).behind(&gate);
    stage.server.script("/held", [held]);
    stage.server.serve("/behind", archive());
    let large = |id: usize| {
        let mut announcement = stage.announcement(&format!("r-{id}"), "/behind");
        announcement["more"] = " ".repeat(1 << 20).into();
        NewRecord::value(announcement.to_string())
    };
    let first = [
        NewRecord::value("{\"request_id\":\"b-0\"}"),
        stage.record("r-0", "/held"),
    ];
    // One batch, which is fetched as a whole however much it inflates to.
    let batch = Batch::of(first.into_iter().chain((1..=LARGE).map(large)));
    broker.append_batch(&stage.incoming, 0, &batch.codec(Codec::Gzip));
    let worker = stage.worker("[worker]\nthreads = 2\nmax_in_flight = 2\n");
    let endpoint = endpoint(&worker);
    broker.wait("its partition pauses", |_| {
        stage.server.requests("/held") == 1
            && metric(&endpoint, "ccx_consumer_paused_partitions") == Some(1.0)
    });
    gate.open();
    broker.append(&stage.incoming, 1, stage.records(100..120));
    broker.wait("the other partition", |b| {
        b.committed(&stage.group, &stage.incoming, 1) == Some(20)
    });
    assert_eq!(stage.server.requests("/behind"), 0);
    refusals.remove();
    broker.wait("all of it", |b| stage.committed(b) == LARGE + 2 + 20);
    let ledger = stage.ledger(&broker);
    assert_eq!(ledger.buried.get("b-0"), Some(&1));
    assert_eq!(ledger.published.len(), LARGE + 1 + 20);
    assert_eq!(ledger.duplicates(), 0);
}

#[test]
fn k21_dead_letters_wait_for_a_topic_that_is_missing_forbidden_or_without_leader() {
    for trouble in ["missing", "forbidden", "no leader"] {
        let broker = Broker::builder().nodes(2).start();
        let stage = scripted(&broker, 2);
        // Node 2 has the dead letters and nothing else.
        for partition in 0..2 {
            broker.move_leader(&stage.incoming, partition, 1);
            broker.move_leader(&stage.outgoing, partition, 1);
        }
        broker.move_leader(&stage.dead_letters, 0, 2);
        broker.move_coordinator(&stage.group, 1);
        let worker = stage.worker("");
        let endpoint = endpoint(&worker);
        let produce = || broker.on(ApiKey::Produce).topic(&stage.dead_letters);
        let hook = match trouble {
            "missing" => {
                broker.delete_topic(&stage.dead_letters);
                None
            }
            "forbidden" => Some(produce().always().error(29)),
            _ => {
                broker.stop(2);
                None
            }
        };
        let bad = NewRecord::value("{\"request_id\":\"r-0\"}");
        broker.append(&stage.incoming, 0, [bad]);
        broker.append(&stage.incoming, 1, stage.records(1..30));
        broker.wait("the other partition", |b| {
            b.committed(&stage.group, &stage.incoming, 1) == Some(29)
        });
        broker.wait("its partition pauses", |_| {
            trouble == "forbidden"
                || metric(&endpoint, "ccx_consumer_paused_partitions") == Some(1.0)
        });
        assert_eq!(stage.committed(&broker), 29, "{trouble}");
        let retries = "ccx_retries_total{stage=\"dead_letter\"}";
        match trouble {
            "missing" => broker.create_topic(&stage.dead_letters, 1),
            "forbidden" => {
                broker.wait("tried again", |_| metric(&endpoint, retries) >= Some(1.0));
                worker.line("dead letters are not accepted");
                hook.unwrap().remove();
            }
            _ => broker.restart(2),
        }
        broker.wait("the dead letter", |b| stage.committed(b) == 30);
        let ledger = stage.ledger(&broker);
        ledger.check(0..30, 0);
        assert_eq!(ledger.buried.len(), 1, "{trouble}");
    }
}

/// More bad records than there are slots in one partition, and records behind a bad one in
/// another: a third one goes on at its own pace.
#[test]
fn k21_dead_letters_that_wait_take_no_slot_from_other_partitions() {
    const BAD: usize = 200;
    const BEHIND: usize = 300;
    let broker = Broker::start();
    let stage = scripted(&broker, 3);
    let off = [
        ("dead_letter_queue.max_ratio", "off"),
        ("dead_letter_queue.max_consecutive", "off"),
    ];
    let worker = stage.worker_with("", &off);
    worker.line("assigned: ");
    let endpoint = endpoint(&worker);
    broker.wait("ready", |_| get(&endpoint, "/readyz").0 == 200);
    broker.delete_topic(&stage.dead_letters);
    let bad = |id: usize| NewRecord::value(format!("{{\"request_id\":\"b-{id}\"}}"));
    broker.append(&stage.incoming, 0, (0..BAD).map(bad));
    let behind = stage.records(1000..1000 + BEHIND);
    broker.append(&stage.incoming, 1, [bad(BAD)].into_iter().chain(behind));
    broker.wait("both partitions pause", |_| {
        metric(&endpoint, "ccx_consumer_paused_partitions") == Some(2.0)
    });
    for round in 0..5 {
        broker.append(
            &stage.incoming,
            2,
            stage.records(round * 10..round * 10 + 10),
        );
        broker.wait("the third partition", |b| {
            b.committed(&stage.group, &stage.incoming, 2) == Some(round as i64 * 10 + 10)
        });
    }
    let (status, cause) = get(&endpoint, "/readyz");
    let why = format!(
        "dead_letters: partitions wait for topic {}: ",
        stage.dead_letters
    );
    assert!(status == 503 && cause.starts_with(&why), "{status} {cause}");
    let published = stage.ledger(&broker).published;
    assert!(published.len() < 50 + BEHIND, "those behind it wait");
    broker.create_topic(&stage.dead_letters, 1);
    let all = BAD + 1 + BEHIND + 50;
    broker.wait("everything", |b| stage.committed(b) == all);
    let ledger = stage.ledger(&broker);
    assert_eq!(ledger.buried.len(), BAD + 1);
    assert_eq!(ledger.published.len(), BEHIND + 50);
    assert_eq!(ledger.duplicates(), 0);
    broker.wait("ready again", |_| get(&endpoint, "/readyz").0 == 200);
}

/// It could go on for as long as the topic is away, and nobody reads meanwhile.
#[test]
fn k21_k07_a_rebalance_does_not_wait_for_the_topic_of_dead_letters() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    let patient = [("consumer.rebalance_timeout", "1h")];
    let first = stage.worker_with("", &patient);
    first.line("assigned: ");
    let endpoint = endpoint(&first);
    let produce = broker.on(ApiKey::Produce).topic(&stage.dead_letters);
    let refusals = produce.always().error(19);
    let bad = NewRecord::value("{\"request_id\":\"b-0\"}");
    broker.append(&stage.incoming, 0, [bad]);
    broker.wait("its partition pauses", |_| {
        metric(&endpoint, "ccx_consumer_paused_partitions") == Some(1.0)
    });
    let second = stage.worker_with("", &patient);
    second.line("assigned: ");
    stage.spread(&broker, "/archive", 0..20);
    broker.wait("the other partition", |b| {
        b.committed(&stage.group, &stage.incoming, 1) == Some(10)
    });
    refusals.remove();
    broker.wait("everything", |b| stage.committed(b) == 21);
    let ledger = stage.ledger(&broker);
    // What the first one had sent before is not taken back.
    ledger.check(0..20, 1);
    assert_eq!(ledger.buried.len(), 1);
}

/// Both quotas, for longer than the session: what is asked for is waited for, beside a membership
/// that lives.
#[test]
fn k23_throttled_fetches_and_results_cost_no_membership() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    let brief = [
        ("consumer.session_timeout", "3s"),
        ("consumer.heartbeat_interval", "300ms"),
    ];
    let worker = stage.worker_with("", &brief);
    worker.line("assigned: ");
    let generation = broker.group(&stage.group).generation;
    let pause = Duration::from_millis(4500);
    let fetches = broker.on(ApiKey::Fetch).times(2).throttle(pause);
    let produces = broker.on(ApiKey::Produce).times(2).throttle(pause);
    stage.spread(&broker, "/archive", 0..30);
    broker.wait("throttled", |_| fetches.used() == 2);
    stage.spread(&broker, "/archive", 30..60);
    broker.wait("all is done", |b| stage.committed(b) == 60);
    assert!(produces.used() >= 1);
    stage.ledger(&broker).check(0..60, 0);
    assert_eq!(broker.group(&stage.group).generation, generation);
    // The pause is kept: on no connection is anything sent within it.
    let seen = broker.requests();
    for api in [ApiKey::Fetch, ApiKey::Produce] {
        let sent: Vec<_> = seen.iter().filter(|seen| seen.api == api).collect();
        let gaps = sent.windows(2).map(|pair| pair[1].at - pair[0].at);
        assert!(gaps.max().unwrap() >= pause, "{api:?}");
    }
    assert_eq!(broker.hasty(), []);
}

/// Compaction has left holes, transactions markers and what they aborted: no lag stays.
#[test]
fn k25_holes_and_markers_leave_no_lag() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let topic = &stage.incoming;
    let one = |id: usize| stage.record(&format!("r-{id}"), "/archive");
    broker.append_batch(topic, 0, &Batch::hole(5));
    broker.append_batch(
        topic,
        0,
        &Batch::of([one(0).delta(2), one(1).delta(6)]).span(9),
    );
    let aborted = Batch::of([one(500)]).producer(7, 0, 0).transactional();
    let first = broker.append_batch(topic, 0, &aborted);
    broker.append_batch(topic, 0, &Batch::marker(7, 0, false));
    broker.set_aborted(topic, 0, &[(7, first)]);
    let kept = Batch::of([one(2)]).producer(8, 0, 0).transactional();
    broker.append_batch(topic, 0, &kept);
    broker.append_batch(topic, 0, &Batch::marker(8, 0, true));
    broker.append_batch(topic, 0, &Batch::hole(3));
    let (_, end) = broker.ends(topic, 0);
    let worker = stage.worker("");
    broker.wait("committed to the end", |b| {
        b.committed(&stage.group, topic, 0) == Some(end)
    });
    let endpoint = endpoint(&worker);
    let lag = format!("kafka_consumer_lag{{partition=\"0\",topic=\"{topic}\"}}");
    broker.wait("no lag", |_| metric(&endpoint, &lag) == Some(0.0));
    // Also what comes alone, without a record in the same answer.
    for hole in [Batch::hole(3), Batch::marker(8, 0, true)] {
        broker.append_batch(topic, 0, &hole);
        let (_, end) = broker.ends(topic, 0);
        broker.wait("committed to the new end", |b| {
            b.committed(&stage.group, topic, 0) == Some(end)
        });
    }
    let ledger = stage.ledger(&broker);
    ledger.check(0..3, 0);
    assert!(!ledger.published.contains_key("r-500"));
}

#[test]
fn m21_every_codec_in_one_topic_is_done() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    for (index, codec) in CODECS.into_iter().cycle().take(24).enumerate() {
        let records = stage.records(index * 5..index * 5 + 5);
        let batch = Batch::of(records).codec(codec);
        broker.append_batch(&stage.incoming, (index % 2) as i32, &batch);
    }
    let _worker = stage.worker("");
    broker.wait("all is done", |b| stage.committed(b) == 120);
    stage.ledger(&broker).check(0..120, 0);
}

/// A batch whose checksum is right and whose compressed data is not, or the reverse.
fn broken(stage: &Stage, codec: Codec) -> Vec<u8> {
    let records = (900..904).map(|id| stage.record(&format!("r-{id}"), "/archive"));
    let mut bytes = Batch::of(records).codec(codec).encode();
    // Where the compressed data begins: in the middle some codecs would take it for other text.
    bytes[61..81].fill(0xff);
    if !matches!(codec, Codec::None) {
        seal(&mut bytes);
    }
    bytes
}

#[test]
fn m21_a_broken_batch_pauses_its_partition_and_says_where() {
    let broker = Broker::start();
    let stage = scripted(&broker, 6);
    for (partition, codec) in (0..).zip(CODECS) {
        let first = partition as usize * 10;
        broker.append(&stage.incoming, partition, stage.records(first..first + 10));
        // One partition stays whole.
        if partition < 5 {
            broker.append_raw(&stage.incoming, partition, &broken(&stage, codec), 4);
            broker.append(&stage.incoming, partition, stage.records(1000..1001));
        }
    }
    let worker = stage.worker("");
    let endpoint = endpoint(&worker);
    for partition in 0..5 {
        let line = worker.line(&format!("{}-{partition}", stage.incoming));
        assert!(!line.is_empty());
        worker.line(&format!("{}-{partition}: broken batch", stage.incoming));
    }
    broker.wait("all before it", |b| stage.committed(b) == 60);
    broker.wait("it is said", |_| get(&endpoint, "/readyz").0 == 503);
    let (_, cause) = get(&endpoint, "/readyz");
    assert!(cause.contains("stands still"), "{cause}");
    assert_eq!(
        metric(&endpoint, "ccx_fault{kind=\"input_topic\"}"),
        Some(1.0)
    );
    // The others go on.
    broker.append(&stage.incoming, 5, stage.records(60..80));
    broker.wait("the whole partition", |b| stage.committed(b) == 80);
    // Nothing has changed after a rebalance that leaves all as it was.
    let rebalances = metric(&endpoint, "ccx_consumer_rebalances_total");
    broker.rebalance(&stage.group);
    broker.wait("another assignment", |_| {
        metric(&endpoint, "ccx_consumer_rebalances_total") > rebalances
    });
    broker.append(&stage.incoming, 5, stage.records(80..90));
    broker.wait("it goes on", |b| stage.committed(b) == 90);
    broker.wait("it is still said", |_| {
        get(&endpoint, "/readyz").1.contains("stands still")
    });
    let ledger = stage.ledger(&broker);
    ledger.check(0..90, 0);
    assert_eq!(ledger.published.len(), 90, "nothing behind a broken batch");
}

#[test]
fn m21_a_broken_batch_is_passed_over_and_counted_where_wished() {
    let broker = Broker::start();
    let stage = scripted(&broker, 6);
    for (partition, codec) in (0..).zip(CODECS) {
        let first = partition as usize * 10;
        broker.append(&stage.incoming, partition, stage.records(first..first + 5));
        broker.append_raw(&stage.incoming, partition, &broken(&stage, codec), 4);
        broker.append(
            &stage.incoming,
            partition,
            stage.records(first + 5..first + 10),
        );
    }
    let worker = stage.worker_with("", &[("consumer.on_corrupt_batch", "skip")]);
    let endpoint = endpoint(&worker);
    // Six times five, four passed over, five.
    broker.wait("to the end", |b| stage.committed(b) == 6 * 14);
    stage.ledger(&broker).check(0..60, 0);
    let skipped = "ccx_consumer_skipped_offsets_total{cause=\"corrupt_batch\"}";
    assert_eq!(metric(&endpoint, skipped), Some(24.0));
    for partition in 0..6 {
        let words = format!(
            "{}-{partition}: broken batch, offsets 5 to 8",
            stage.incoming
        );
        worker.line(&words);
    }
}
