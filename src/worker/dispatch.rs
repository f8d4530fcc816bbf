//! What is handed out, and when: while there is room, the breaker is closed and nobody suspects
//! a record of ending the process.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::{InFlight, Rebalance, Settled, Worker};
use crate::crashes::Admission;
use crate::kafka::Record;
use crate::pipeline::Fate;
use crate::pipeline::task::{Doing, Task};

/// A record that is to be handed out.
struct Chosen {
    record: Arc<Record>,
    /// Not opened any more: it was in work at so many crashes.
    condemned: bool,
}

impl Worker {
    /// Hands out what is fetched, while there is room. Nothing between a revocation and the next
    /// assignment: it might not be finished in time. While the breaker is open, one record at its
    /// time.
    pub(super) fn dispatch(&mut self) {
        if self.rebalance != Rebalance::None {
            return;
        }
        let now = Instant::now();
        let (open, due) = {
            let breaker = self.pipeline.breaker();
            (breaker.is_open(), breaker.probe_is_due(now))
        };
        let room = if !open {
            while let Some(held) = self.held.pop_back() {
                self.ready.push_front(held.record);
            }
            self.options.max_in_flight.saturating_sub(self.working())
        } else if due {
            if let Some(held) = self.held.pop_front() {
                self.ready.push_front(held.record);
            }
            1
        } else {
            0
        };
        // Until it turns out that they wait, those that are ready are a reason to fetch no more.
        self.behind.clear();
        if room == 0 || self.ready.is_empty() {
            return;
        }
        let chosen = self.choose(room);
        self.hand_out_marked(chosen, open);
    }

    /// Takes at most `room` records that may be begun now out of those that are ready, and
    /// settles on the way what is not for us.
    fn choose(&mut self, room: usize) -> Vec<Chosen> {
        // What is on its way to the dead letters cannot end the process.
        let in_work = |f: &&InFlight| f.task.doing() != Doing::Burying;
        let mut running = self.in_flight.values().filter(in_work).count();
        if self.crashes.one_is_alone() {
            return Vec::new();
        }
        let mut seen = HashSet::new();
        // Thousands may be ready, and this is asked for each few that are handed out.
        let alone = self.crashes.suspects_any()
            && self.ready.iter().any(|record| {
                seen.insert(&record.partition)
                    && !self.blocked.contains(&record.partition)
                    && self
                        .crashes
                        .wants_to_be_alone(&record.partition, record.offset)
            });
        if alone && running > 0 {
            return Vec::new();
        }
        let mut chosen: Vec<Chosen> = Vec::new();
        let mut waiting = VecDeque::new();
        let mut blocked = self.blocked.clone();
        let buried = self.in_flight.values().filter(|f| f.burial.is_some());
        blocked.extend(buried.map(|f| f.record.partition.clone()));
        while chosen.len() < room
            && let Some(record) = self.ready.pop_front()
        {
            let (partition, offset) = (&record.partition, record.offset);
            if blocked.contains(partition)
                || (alone && !self.crashes.wants_to_be_alone(partition, offset))
            {
                blocked.insert(partition.clone());
                waiting.push_back(record);
                continue;
            }
            if self.pipeline.filter(&record).is_some() {
                self.settle(&record);
                continue;
            }
            match self.crashes.admit(partition, offset, running == 0) {
                Admission::Wait => {
                    blocked.insert(partition.clone());
                    waiting.push_back(record);
                }
                admission => {
                    self.crashes.began(partition, offset);
                    running += 1;
                    chosen.push(Chosen {
                        condemned: admission == Admission::Condemned,
                        record,
                    });
                    if alone {
                        break;
                    }
                }
            }
        }
        if !alone {
            let partitions = waiting.iter().map(|record| record.partition.clone());
            self.behind = partitions.collect();
        }
        // In front of what came later: the order within a partition stays.
        while let Some(record) = waiting.pop_back() {
            self.ready.push_front(record);
        }
        chosen
    }

    /// Hands records out once the marks of their partitions stand. One that is suspected waits
    /// for as long as that takes; the others do not, when no commit gets through.
    fn hand_out_marked(&mut self, chosen: Vec<Chosen>, probe: bool) {
        let unmarked = |worker: &Self, record: &Record| {
            let watermark = worker
                .offsets
                .watermark(&record.partition)
                .unwrap_or(record.offset);
            !worker
                .crashes
                .is_marked(&record.partition, &record.lease, watermark)
        };
        let now = Instant::now();
        if self.unmarked_until.is_none_or(|until| now >= until)
            && chosen.iter().any(|chosen| unmarked(self, &chosen.record))
        {
            self.commit_once(self.commit_patience());
            let failed = chosen.iter().any(|chosen| unmarked(self, &chosen.record));
            let pause = self.options.commit_interval.max(self.last_commit_took);
            self.unmarked_until = failed.then(|| Instant::now() + pause);
        }
        let mut waiting = Vec::new();
        for Chosen { record, condemned } in chosen {
            if self.crashes.suspects(&record.partition) && unmarked(self, &record) {
                self.crashes
                    .ended(&record.partition, &record.lease, record.offset, false);
                self.behind.insert(record.partition.clone());
                waiting.push(record);
            } else {
                self.hand_out(record, condemned, probe);
            }
        }
        for record in waiting.into_iter().rev() {
            self.ready.push_front(record);
        }
    }

    pub(super) fn hand_out(&mut self, record: Arc<Record>, condemned: bool, probe: bool) {
        let number = self.next_number;
        self.next_number += 1;
        let task = Arc::new(if probe {
            self.pipeline.breaker().probe_began();
            self.probe = Some(number);
            Task::probe(record.lease.clone())
        } else {
            Task::new(record.lease.clone())
        });
        let in_flight = InFlight {
            record: Arc::clone(&record),
            task: Arc::clone(&task),
            since: Instant::now(),
            condemned,
            burial: None,
            outdated: false,
            outlived: false,
            rests: false,
        };
        self.in_flight.insert(number, in_flight);
        let (pipeline, settled) = (Arc::clone(&self.pipeline), self.settled.0.clone());
        let crashes = self.options.max_crashes;
        self.pool.spawn(move || {
            let fate = if task.is_cancelled() {
                Fate::Abandoned
            } else if condemned {
                pipeline.bury_crash_loop(&record, &task, crashes)
            } else {
                pipeline.handle(&record, &task)
            };
            // The loop may be gone; then nobody commits either.
            let _ = settled.send(Settled { number, fate });
        });
    }
}
