//! Checks across keys: what no key can tell alone.

use std::time::Duration;

use super::keys::{self, Settings};
use super::reader::Reader;
use super::{Worker, units};
use crate::error::chain;
use crate::tls;

/// Checks that no key can make alone.
pub(super) fn between(
    settings: &Settings,
    reader: &mut Reader<'_>,
    knows_rule: &dyn Fn(&str) -> bool,
) {
    let Settings {
        consumer,
        downloader,
        engine,
        rules,
        worker,
        ..
    } = settings;
    reader.require(
        !consumer.bootstrap_servers.is_empty(),
        &["consumer.bootstrap_servers"],
        "wants at least one HOST:PORT",
    );
    reader.require(
        consumer.heartbeat_interval.saturating_mul(3) <= consumer.session_timeout,
        &["consumer.heartbeat_interval", "consumer.session_timeout"],
        "heartbeat_interval may be at most a third of session_timeout",
    );
    let least = consumer.heartbeat_interval.saturating_mul(2) + Duration::from_secs(15);
    reader.require(
        consumer.rebalance_timeout >= least,
        &["consumer.rebalance_timeout", "consumer.heartbeat_interval"],
        format!(
            "rebalance_timeout has to be at least 15s and two heartbeats, {}",
            units::time_text(least)
        ),
    );
    topics(settings, reader);
    reader.require(
        !downloader.allowed_urls.is_empty() || downloader.allow_unsafe_links,
        &["downloader.allowed_urls"],
        "an empty list refuses every archive; downloader.allow_unsafe_links lifts the list",
    );
    reader.require(
        downloader.max_archive_size <= worker.max_in_flight_bytes,
        &["downloader.max_archive_size", "worker.max_in_flight_bytes"],
        "max_archive_size may be at most max_in_flight_bytes, or a large archive would wait for ever",
    );
    if let Some(path) = &downloader.ca_file
        && let Err(error) = tls::client(Some(path), None)
    {
        reader.require(false, &["downloader.ca_file"], chain(&error));
    }
    reader.require(
        engine.max_document_size <= engine.unpacked_archive_size_limit,
        &[
            "engine.unpacked_archive_size_limit",
            "engine.max_document_size",
        ],
        "unpacked_archive_size_limit has to be at least max_document_size",
    );
    for (path, names) in [
        ("engine.rules.enable", &rules.enable),
        ("engine.rules.disable", &rules.disable),
    ] {
        for name in names {
            reader.require(
                knows_rule(name),
                &[path],
                format!("{name:?} is no rule and begins no component; `rules` lists them"),
            );
        }
    }
}

/// Nothing that we write may come back to us or be taken for something else.
fn topics(settings: &Settings, reader: &mut Reader<'_>) {
    let Settings {
        consumer,
        publisher,
        dead_letter_queue,
        payload_tracker,
        ..
    } = settings;
    let same_cluster = publisher.shares_cluster_of(consumer);
    reader.require(
        !same_cluster || publisher.outgoing_topic != consumer.incoming_topic,
        &["publisher.outgoing_topic", "consumer.incoming_topic"],
        "results would come back as announcements: the topics have to differ on one cluster",
    );
    let workloads = publisher.workloads_topic.as_deref();
    reader.require(
        !same_cluster || workloads != Some(consumer.incoming_topic.as_str()),
        &["publisher.workloads_topic", "consumer.incoming_topic"],
        "recommendations would come back as announcements: the topics have to differ on one cluster",
    );
    reader.require(
        workloads != Some(publisher.outgoing_topic.as_str()),
        &["publisher.workloads_topic", "publisher.outgoing_topic"],
        "recommendations are no results: the topics have to differ",
    );
    let dead_letters = dead_letter_queue.topic.as_deref();
    reader.require(
        !same_cluster || workloads.is_none() || dead_letters != workloads,
        &["dead_letter_queue.topic", "publisher.workloads_topic"],
        "dead letters would be taken for recommendations: the topics have to differ on one cluster",
    );
    reader.require(
        dead_letters != Some(consumer.incoming_topic.as_str()),
        &["dead_letter_queue.topic", "consumer.incoming_topic"],
        "dead letters would come back as announcements: the topics have to differ",
    );
    reader.require(
        !same_cluster || dead_letters != Some(publisher.outgoing_topic.as_str()),
        &["dead_letter_queue.topic", "publisher.outgoing_topic"],
        "dead letters would be taken for results: the topics have to differ on one cluster",
    );
    let statuses = payload_tracker
        .enabled
        .then_some(payload_tracker.topic.as_str());
    let on_their_cluster = [
        (
            "consumer.incoming_topic",
            Some(consumer.incoming_topic.as_str()),
        ),
        ("dead_letter_queue.topic", dead_letters),
    ];
    let on_ours = [
        (
            "publisher.outgoing_topic",
            Some(publisher.outgoing_topic.as_str()),
        ),
        ("publisher.workloads_topic", workloads),
    ];
    let others = on_ours.into_iter().filter(|_| same_cluster);
    for (path, topic) in others.chain(on_their_cluster) {
        reader.require(
            statuses.is_none() || topic != statuses,
            &["watchers.payload_tracker.topic", path],
            "statuses are something else: the topics have to differ on one cluster",
        );
    }
}

/// What the numbers of the worker ask of each other, once those left to the program are filled in.
pub(super) fn in_flight(keys: &keys::Worker, worker: Worker, reader: &mut Reader<'_>) {
    let chosen = if keys.threads == 0 { ", chosen" } else { "" };
    reader.require(
        worker.max_in_flight >= worker.threads,
        &["worker.max_in_flight", "worker.threads"],
        format!(
            "max_in_flight has to be at least the number of threads ({}{chosen})",
            worker.threads
        ),
    );
}
