//! Which records are suspected of ending the process, known from what earlier owners of their
//! partition left in the metadata of its committed offset. A state machine without I/O.
//!
//! While records of a partition are in work, its commits say `crashes=N;offset=O`: should the
//! process end now, that will have been N crashes in a row with the record at O in work. A clean
//! end takes that back; a crash leaves it for the next owner.
//!
//! The first crash says only where the records that were in work begin: from there on, as many of
//! them as can have been in work are handled one at a time, each one marked before it is begun.
//! From the second crash on the mark names the record itself. Before the count that condemns it,
//! it is handled with nothing else in work in the whole process, so that a record beside it is
//! not condemned in its place.
//!
//! It guarantees: no record is condemned that was not marked alone; nothing is committed for it
//! that is not settled, since a mark changes the metadata and never the offset. A member that
//! loses its partition without an end of its own leaves its mark too; the same process knows it
//! again and does not count it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::kafka::{Lease, TopicPartition};

/// What the metadata of a committed offset says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Crashes in a row, at least 1.
    pub crashes: u32,
    /// The record that was in work, or where those begin that were.
    pub offset: i64,
}

impl Mark {
    /// Reads metadata. `None` for whatever other tools write there.
    pub fn parse(text: &str) -> Option<Self> {
        let (crashes, offset) = text.strip_prefix("crashes=")?.split_once(";offset=")?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(crashes) || !digits(offset) {
            return None;
        }
        let (crashes, offset) = (crashes.parse().ok()?, offset.parse().ok()?);
        (crashes > 0).then_some(Self { crashes, offset })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crashes={};offset={}", self.crashes, self.offset)
    }
}

/// What may be done with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may be begun, once the mark of its partition stands.
    Work,
    /// Not while others are in work. Those behind it in its partition wait, too.
    Wait,
    /// It was in work at too many crashes: a dead letter, unopened.
    Condemned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Suspicion {
    crashes: u32,
    from: i64,
    /// Records from there on that may be the one; 1 when it is known.
    left: usize,
}

impl Suspicion {
    fn of(mark: Mark, range: usize) -> Self {
        Self {
            crashes: mark.crashes,
            from: mark.offset,
            left: if mark.crashes == 1 { range.max(1) } else { 1 },
        }
    }

    /// Whether it is about one record, which the mark names.
    fn is_exact(&self) -> bool {
        self.crashes > 1
    }

    fn is_about(&self, offset: i64) -> bool {
        offset == self.from || (offset > self.from && !self.is_exact())
    }
}

#[derive(Debug)]
struct Partition {
    lease: Lease,
    suspicion: Option<Suspicion>,
    /// In work now.
    open: BTreeSet<i64>,
    /// Those of them whose work rests.
    resting: BTreeSet<i64>,
    /// What the broker has, as far as we know.
    acknowledged: Option<Mark>,
    /// What was last sent to it, acknowledged or not.
    sent: Option<Mark>,
}

/// What is known of all partitions that were ours in this run.
#[derive(Debug)]
pub struct Crashes {
    max: u32,
    range: usize,
    /// Brokers may not take metadata: then there are no marks, and offsets go without.
    marks: bool,
    partitions: BTreeMap<TopicPartition, Partition>,
}

impl Crashes {
    /// Condemns at `max` crashes, at least 2. `range` records can be in work at once.
    pub fn new(max: u32, range: usize) -> Self {
        Self {
            max: max.max(2),
            range,
            marks: true,
            partitions: BTreeMap::new(),
        }
    }

    /// Takes over a partition that is read from its committed offset on, whose metadata is given.
    /// Returns what is held against its records. Nothing happens under a lease that is known.
    pub fn begin(
        &mut self,
        partition: &TopicPartition,
        lease: &Lease,
        from: i64,
        metadata: Option<&str>,
    ) -> Option<Mark> {
        let former = self.partitions.get(partition);
        if former.is_some_and(|former| former.lease == *lease) {
            return None;
        }
        let mark = metadata.and_then(Mark::parse);
        let suspicion = match (mark, former) {
            // Our own, from before we lost the partition: nobody has worked on it since.
            (Some(mark), Some(former))
                if [former.acknowledged, former.sent].contains(&Some(mark)) =>
            {
                former.suspicion
            }
            (Some(mark), _) => Some(Suspicion::of(mark, self.range)),
            (None, _) => None,
        };
        let suspicion = suspicion.filter(|suspicion| suspicion.from >= from);
        self.partitions.insert(
            partition.clone(),
            Partition {
                lease: lease.clone(),
                suspicion,
                open: BTreeSet::new(),
                resting: BTreeSet::new(),
                acknowledged: mark,
                sent: mark,
            },
        );
        suspicion.map(|suspicion| Mark {
            crashes: suspicion.crashes,
            offset: suspicion.from,
        })
    }

    /// Other records stand at the offsets of a partition: nothing is held against them.
    pub fn forget(&mut self, partition: &TopicPartition) {
        self.partitions.remove(partition);
    }

    /// What may be done with a record, `alone` when nothing else is in work. Records of a
    /// partition are asked for in their order, none while one before it waits.
    pub fn admit(&mut self, partition: &TopicPartition, offset: i64, alone: bool) -> Admission {
        let max = self.max;
        let Some(entry) = self.partitions.get_mut(partition) else {
            return Admission::Work;
        };
        let Some(suspicion) = entry.suspicion else {
            return Admission::Work;
        };
        if offset < suspicion.from {
            return Admission::Work;
        }
        if !suspicion.is_about(offset) {
            if entry.open.contains(&suspicion.from) {
                return Admission::Wait;
            }
            // It is not there any more, or came to its end.
            entry.suspicion = None;
            return Admission::Work;
        }
        if suspicion.crashes >= max {
            return Admission::Condemned;
        }
        let one_of_them_is_open = entry.open.range(suspicion.from..).next().is_some();
        if one_of_them_is_open || (suspicion.crashes + 1 >= max && !alone) {
            return Admission::Wait;
        }
        Admission::Work
    }

    /// Whether nothing else may be in work beside this record.
    pub fn wants_to_be_alone(&self, partition: &TopicPartition, offset: i64) -> bool {
        self.partitions
            .get(partition)
            .and_then(|entry| entry.suspicion)
            .is_some_and(|s| {
                s.is_about(offset) && s.crashes < self.max && s.crashes + 1 >= self.max
            })
    }

    /// Whether a record is in work beside which there may be no other.
    pub fn one_is_alone(&self) -> bool {
        self.partitions.iter().any(|(partition, entry)| {
            entry.lease.is_live()
                && entry
                    .open
                    .iter()
                    .any(|offset| self.wants_to_be_alone(partition, *offset))
        })
    }

    /// A record is about to be begun.
    pub fn began(&mut self, partition: &TopicPartition, offset: i64) {
        if let Some(entry) = self.partitions.get_mut(partition) {
            entry.open.insert(offset);
        }
    }

    /// A record is not in work any more: `cleared` when it came to an end of its own, and not
    /// when it was called off.
    pub fn ended(&mut self, partition: &TopicPartition, lease: &Lease, offset: i64, cleared: bool) {
        let Some(entry) = self
            .partitions
            .get_mut(partition)
            .filter(|entry| entry.lease == *lease)
        else {
            return;
        };
        entry.open.remove(&offset);
        entry.resting.remove(&offset);
        if let Some(suspicion) = &mut entry.suspicion
            && cleared
            && suspicion.is_about(offset)
        {
            suspicion.left -= 1;
            if suspicion.left == 0 {
                entry.suspicion = None;
            }
        }
    }

    /// The work on a record that is begun rests, or goes on. A crash while it rests counts for
    /// nothing; what was held against it before still does.
    pub fn rest(&mut self, partition: &TopicPartition, lease: &Lease, offset: i64, rests: bool) {
        let entry = self.partitions.get_mut(partition);
        let Some(entry) = entry.filter(|entry| entry.lease == *lease) else {
            return;
        };
        if !rests {
            entry.resting.remove(&offset);
        } else if entry.open.contains(&offset) {
            entry.resting.insert(offset);
        }
    }

    /// Nothing is in work any more, by our own decision.
    pub fn end_all(&mut self) {
        for entry in self.partitions.values_mut() {
            entry.open.clear();
            entry.resting.clear();
        }
    }

    /// What a commit of this watermark has to say, and whether the broker has something else.
    pub fn mark(
        &self,
        partition: &TopicPartition,
        lease: &Lease,
        watermark: i64,
    ) -> (Option<Mark>, bool) {
        let entry = self
            .partitions
            .get(partition)
            .filter(|entry| entry.lease == *lease);
        let Some(entry) = entry else {
            return (None, false);
        };
        if !self.marks {
            return (None, entry.acknowledged.is_some());
        }
        let from = entry.suspicion.map_or(i64::MIN, |suspicion| suspicion.from);
        let open = entry.open.range(from..);
        let working = open.copied().find(|offset| !entry.resting.contains(offset));
        let wanted = match entry.suspicion {
            None => working.map(|_| Mark {
                crashes: 1,
                offset: watermark,
            }),
            Some(suspicion) => {
                Some(match working.filter(|offset| suspicion.is_about(*offset)) {
                    Some(offset) => Mark {
                        // Whoever may commit for the group chooses the number that was there.
                        crashes: suspicion.crashes.saturating_add(1).min(self.max),
                        offset,
                    },
                    None => Mark {
                        crashes: suspicion.crashes,
                        offset: if suspicion.is_exact() {
                            suspicion.from
                        } else {
                            suspicion.from.max(watermark)
                        },
                    },
                })
            }
        };
        (wanted, wanted != entry.acknowledged)
    }

    /// Leaves no marks from now on, because they would keep offsets from being committed. Whether
    /// it did before.
    pub fn unmark(&mut self) -> bool {
        std::mem::take(&mut self.marks)
    }

    /// Whether a crash now would leave the mark that it has to. When nobody is suspected, any
    /// mark will do.
    pub fn is_marked(&self, partition: &TopicPartition, lease: &Lease, watermark: i64) -> bool {
        if !self.marks {
            return true;
        }
        let (wanted, differs) = self.mark(partition, lease, watermark);
        let Some(entry) = self.partitions.get(partition) else {
            return true;
        };
        !differs || (entry.suspicion.is_none() && entry.acknowledged.is_some() && wanted.is_some())
    }

    /// Whether one of the records of a partition is suspected.
    pub fn suspects(&self, partition: &TopicPartition) -> bool {
        self.partitions
            .get(partition)
            .is_some_and(|entry| entry.suspicion.is_some())
    }

    /// Whether anything is suspected at all.
    pub fn suspects_any(&self) -> bool {
        self.partitions
            .values()
            .any(|entry| entry.suspicion.is_some())
    }

    /// A commit goes out with this mark; `acknowledged` once the broker has it.
    pub fn committed(
        &mut self,
        partition: &TopicPartition,
        lease: &Lease,
        mark: Option<Mark>,
        acknowledged: bool,
    ) {
        if let Some(entry) = self
            .partitions
            .get_mut(partition)
            .filter(|entry| entry.lease == *lease)
        {
            entry.sent = mark;
            if acknowledged {
                entry.acknowledged = mark;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition::new("upload", number)
    }

    /// What stands at the broker for one partition, across crashes.
    struct Log {
        partition: TopicPartition,
        committed: i64,
        metadata: Option<String>,
    }

    /// A process that works on some partitions and dies whenever it works on a certain record.
    struct Process<'a> {
        crashes: Crashes,
        logs: &'a mut [Log],
        leases: Vec<Lease>,
    }

    impl<'a> Process<'a> {
        fn start(logs: &'a mut [Log], max: u32, range: usize) -> Self {
            let mut crashes = Crashes::new(max, range);
            let leases: Vec<Lease> = logs.iter().map(|_| Lease::new()).collect();
            for (log, lease) in logs.iter().zip(&leases) {
                let metadata = log.metadata.as_deref();
                crashes.begin(&log.partition, lease, log.committed, metadata);
            }
            Self {
                crashes,
                logs,
                leases,
            }
        }

        fn commit(&mut self, at: usize, watermark: i64) {
            let (log, lease) = (&mut self.logs[at], &self.leases[at]);
            let (mark, _) = self.crashes.mark(&log.partition, lease, watermark);
            log.committed = watermark;
            log.metadata = mark.map(|mark| mark.to_string());
            self.crashes.committed(&log.partition, lease, mark, true);
        }
    }

    #[test]
    fn work_that_rests_is_not_blamed_and_keeps_its_suspicion() {
        let (partition, lease) = (partition(0), Lease::new());
        let mark = |crashes, offset| Some(Mark { crashes, offset });
        for held in [None, mark(2, 7)] {
            let mut crashes = Crashes::new(4, 8);
            let metadata = held.map(|mark| mark.to_string());
            crashes.begin(&partition, &lease, 7, metadata.as_deref());
            crashes.began(&partition, 7);
            let in_work = mark(held.map_or(1, |held| held.crashes + 1), 7);
            let marked = |crashes: &Crashes| crashes.mark(&partition, &lease, 7).0;
            assert_eq!(marked(&crashes), in_work);
            crashes.rest(&partition, &lease, 7, true);
            assert_eq!(marked(&crashes), held);
            if held.is_some() {
                assert_eq!(crashes.admit(&partition, 8, false), Admission::Wait);
            }
            crashes.rest(&partition, &lease, 7, false);
            assert_eq!(marked(&crashes), in_work);
            crashes.rest(&partition, &lease, 7, true);
            crashes.ended(&partition, &lease, 7, true);
            crashes.began(&partition, 7);
            assert_eq!(marked(&crashes), mark(1, 7), "in work anew");
        }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark {
            crashes: 3,
            offset: 42,
        };
        assert_eq!(mark.to_string(), "crashes=3;offset=42");
        assert_eq!(Mark::parse("crashes=3;offset=42"), Some(mark));
        for foreign in [
            "",
            "checkpoint",
            "crashes=",
            "crashes=0;offset=1",
            "crashes=-1;offset=1",
            "crashes=+1;offset=1",
            "crashes=1;offset=-1",
            "crashes=1;offset=",
            "crashes=1;offset=1;x=2",
            "crashes=4294967296;offset=1",
            "crashes=1;offset=9223372036854775808",
            " crashes=1;offset=1",
            "{\"crashes\":1}",
        ] {
            assert_eq!(Mark::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn without_marks_offsets_are_committed_bare() {
        let (mut crashes, lease, p) = (Crashes::new(3, 4), Lease::new(), partition(0));
        crashes.begin(&p, &lease, 5, Some("crashes=2;offset=5"));
        crashes.began(&p, 5);
        assert!(crashes.unmark());
        assert!(!crashes.unmark(), "once");
        assert_eq!(
            crashes.mark(&p, &lease, 5),
            (None, true),
            "what is there goes"
        );
        crashes.committed(&p, &lease, None, true);
        assert_eq!(crashes.mark(&p, &lease, 5), (None, false));
        assert!(crashes.is_marked(&p, &lease, 5), "nobody waits for a mark");
        assert_eq!(
            crashes.admit(&p, 6, true),
            Admission::Wait,
            "what is known counts"
        );
    }

    #[test]
    fn a_clean_end_leaves_nothing_and_a_later_one_keeps_the_count() {
        let (mut crashes, lease, p) = (Crashes::new(3, 4), Lease::new(), partition(0));
        assert_eq!(crashes.begin(&p, &lease, 5, None), None);
        assert_eq!(crashes.mark(&p, &lease, 5), (None, false));
        crashes.began(&p, 5);
        let mark = Some(Mark {
            crashes: 1,
            offset: 5,
        });
        assert_eq!(crashes.mark(&p, &lease, 5), (mark, true));
        assert!(!crashes.is_marked(&p, &lease, 5));
        crashes.committed(&p, &lease, mark, true);
        crashes.began(&p, 6);
        crashes.ended(&p, &lease, 5, true);
        assert!(crashes.is_marked(&p, &lease, 6), "an older mark will do");
        crashes.end_all();
        assert_eq!(crashes.mark(&p, &lease, 6), (None, true));

        let again = Lease::new();
        let held = crashes.begin(&p, &again, 6, Some("crashes=2;offset=6"));
        assert_eq!(
            held,
            Some(Mark {
                crashes: 2,
                offset: 6
            })
        );
        assert_eq!(crashes.admit(&p, 6, true), Admission::Work);
        crashes.began(&p, 6);
        let worse = Mark {
            crashes: 3,
            offset: 6,
        };
        assert_eq!(crashes.mark(&p, &again, 6), (Some(worse), true));
        crashes.end_all();
        assert_eq!(crashes.mark(&p, &again, 6), (held, false));
    }

    #[test]
    fn a_lost_partition_that_comes_back_is_no_crash() {
        let (mut crashes, lease, p) = (Crashes::new(3, 4), Lease::new(), partition(0));
        crashes.begin(&p, &lease, 5, None);
        crashes.began(&p, 5);
        let (mark, _) = crashes.mark(&p, &lease, 5);
        // Not even the acknowledgement came through.
        crashes.committed(&p, &lease, mark, false);
        lease.revoke();
        let again = Lease::new();
        let metadata = mark.map(|mark| mark.to_string());
        assert_eq!(crashes.begin(&p, &again, 5, metadata.as_deref()), None);
        assert_eq!(crashes.admit(&p, 5, false), Admission::Work);
    }

    #[test]
    fn the_last_trial_is_alone_and_the_condemned_is_not_begun() {
        let (mut crashes, lease, p) = (Crashes::new(3, 4), Lease::new(), partition(0));
        crashes.begin(&p, &lease, 5, Some("crashes=2;offset=7"));
        assert_eq!(crashes.admit(&p, 5, false), Admission::Work);
        assert_eq!(crashes.admit(&p, 7, false), Admission::Wait);
        assert!(crashes.wants_to_be_alone(&p, 7));
        assert_eq!(crashes.admit(&p, 7, true), Admission::Work);
        crashes.began(&p, 7);
        assert!(crashes.one_is_alone());
        assert_eq!(crashes.admit(&p, 8, false), Admission::Wait);
        crashes.ended(&p, &lease, 7, true);
        assert!(!crashes.one_is_alone());
        assert_eq!(crashes.admit(&p, 8, false), Admission::Work);

        let again = Lease::new();
        crashes.begin(&p, &again, 7, Some("crashes=3;offset=7"));
        assert_eq!(crashes.admit(&p, 7, false), Admission::Condemned);
    }

    #[test]
    fn a_suspect_that_is_gone_is_forgotten() {
        let (mut crashes, lease, p) = (Crashes::new(3, 4), Lease::new(), partition(0));
        crashes.begin(&p, &lease, 5, Some("crashes=3;offset=5"));
        assert_eq!(crashes.admit(&p, 9, false), Admission::Work);
        assert!(!crashes.suspects(&p));
        assert_eq!(crashes.mark(&p, &lease, 9), (None, true));

        // Or was gone before: the offset was set behind it.
        for metadata in ["crashes=1;offset=5", "crashes=3;offset=5"] {
            let again = Lease::new();
            assert_eq!(crashes.begin(&p, &again, 9, Some(metadata)), None);
            assert!(!crashes.suspects(&p), "{metadata}");
        }
    }

    proptest! {
        #[test]
        fn metadata_of_others_is_never_misread(text in ".{0,60}") {
            if let Some(mark) = Mark::parse(&text) {
                prop_assert!(mark.crashes > 0 && mark.offset >= 0);
            }
        }

        #[test]
        fn every_mark_comes_back(crashes in 1u32.., offset in 0i64..) {
            let mark = Mark { crashes, offset };
            prop_assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }

        /// Processes die at one record, whatever else is in work in any order; each next one goes
        /// on. The guilty one is condemned after `max` crashes at most, some more when the first
        /// one found it far behind the watermark, and nobody else ever is.
        #[test]
        fn only_the_guilty_one_is_condemned(
            guilty in (0usize..3, 0i64..30),
            max in 2u32..6,
            range in 1usize..10,
            order in prop::collection::vec(0usize..1000, 1..40),
        ) {
            const END: i64 = 30;
            let mut logs: Vec<Log> = (0..3)
                .map(|n| Log { partition: partition(n), committed: 0, metadata: None })
                .collect();
            let mut turn = order.iter().cycle();
            let mut condemned = None;
            let mut deaths = 0;
            'processes: while logs.iter().any(|log| log.committed < END) {
                let mut process = Process::start(&mut logs, max, range);
                let mut next: Vec<i64> = process.logs.iter().map(|log| log.committed).collect();
                let mut open: Vec<(usize, i64)> = Vec::new();
                let mut settled: Vec<BTreeSet<i64>> = vec![BTreeSet::new(); 3];
                loop {
                    let mut moved = false;
                    for at in 0..3 {
                        while next[at] < END && open.len() < range {
                            let p = process.logs[at].partition.clone();
                            let offset = next[at];
                            if process.crashes.one_is_alone() {
                                break;
                            }
                            match process.crashes.admit(&p, offset, open.is_empty()) {
                                Admission::Wait => break,
                                Admission::Condemned => {
                                    prop_assert_eq!((at, offset), guilty);
                                    prop_assert_eq!(condemned.replace((at, offset)), None);
                                    settled[at].insert(offset);
                                    process.crashes.began(&p, offset);
                                    process.crashes.ended(&p, &process.leases[at].clone(), offset, true);
                                }
                                Admission::Work => {
                                    process.crashes.began(&p, offset);
                                    open.push((at, offset));
                                    let watermark = (process.logs[at].committed..).find(|o| !settled[at].contains(o)).unwrap();
                                    process.commit(at, watermark);
                                    if (at, offset) == guilty {
                                        // It dies with all that is in work beside it.
                                        deaths += 1;
                                        prop_assert!(deaths < 400, "no end");
                                        continue 'processes;
                                    }
                                }
                            }
                            next[at] += 1;
                            moved = true;
                        }
                    }
                    if open.is_empty() {
                        prop_assert!(moved || next.iter().all(|n| *n == END), "stands still");
                        if !moved {
                            break;
                        }
                        continue;
                    }
                    let which = turn.next().unwrap() % open.len();
                    let (at, offset) = open.swap_remove(which);
                    let lease = process.leases[at].clone();
                    let p = process.logs[at].partition.clone();
                    process.crashes.ended(&p, &lease, offset, true);
                    settled[at].insert(offset);
                    let watermark = (process.logs[at].committed..).find(|o| !settled[at].contains(o)).unwrap();
                    process.commit(at, watermark);
                }
                for at in 0..3 {
                    process.commit(at, END);
                }
            }
            prop_assert_eq!(condemned, Some(guilty));
        }
    }
}
