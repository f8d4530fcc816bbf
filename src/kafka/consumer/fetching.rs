//! Fetches on the wire: one under way at each leader.

use std::time::{Duration, Instant};

use kafka_protocol::messages::FetchRequest;

use super::{Consumer, is_pause};
use crate::error::chain;
use crate::kafka::{Event, Fatal};

/// A broker that holds a Fetch for so much longer than asked is gone.
const FETCH_GRACE: Duration = Duration::from_secs(30);

impl Consumer {
    /// Sends a Fetch to each leader that owes us no answer.
    pub(super) fn ask(&mut self) -> Result<(), Fatal> {
        let now = Instant::now();
        let cluster = &self.cluster;
        self.fetcher
            .note_leaders(|partition| cluster.leader(partition), now);
        let questions = self
            .fetcher
            .questions(|partition| cluster.leader(partition), now);
        for (node, asked) in questions {
            let request = self.fetcher.request(&asked);
            let sent = self
                .cluster
                .connection(node)
                .and_then(|connection| connection.send(&request));
            match sent {
                Ok(()) => self.fetcher.sent(node, asked, now),
                Err(error) => {
                    if let Some(fatal) = Fatal::of(&error) {
                        return Err(self.stop(fatal.kind, fatal.message));
                    }
                    log::debug!("Fetch to broker {node}: {}", chain(&error));
                    if !is_pause(&error) {
                        // The leader may be elsewhere.
                        self.cluster.expire();
                    }
                    self.fetcher.unsent(&asked, error.pause(), now);
                }
            }
        }
        Ok(())
    }

    /// Takes the answers that are there.
    pub(super) fn collect(&mut self, events: &mut Vec<Event>) -> Result<(), Fatal> {
        if self.fetcher.is_all_paused() {
            return Ok(());
        }
        for (node, since) in self.fetcher.outstanding() {
            let now = Instant::now();
            let patience = self.options.fetch_max_wait + FETCH_GRACE;
            let Some(connection) = self
                .cluster
                .existing(node)
                .filter(|connection| connection.in_flight() > 0)
            else {
                self.cluster.expire();
                self.fetcher.unanswered(node, now);
                continue;
            };
            // What has come is taken however late: records may have been held back by ourselves.
            let outcome = connection.answer::<FetchRequest>(Duration::ZERO, since, patience);
            let Some(outcome) = outcome else { continue };
            match outcome {
                Ok(answer) => {
                    let aftermath = self.fetcher.answered(node, answer, now, events);
                    if aftermath.refresh {
                        self.cluster.expire();
                    }
                    if let Some(fatal) = aftermath.fatal {
                        return Err(self.stop(fatal.kind, fatal.message));
                    }
                }
                Err(error) => {
                    log::debug!("Fetch from broker {node}: {}", chain(&error));
                    self.cluster.expire();
                    self.fetcher.unanswered(node, now);
                }
            }
        }
        Ok(())
    }
}
