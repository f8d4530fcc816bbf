//! Which offsets of each partition are settled, and how far they may be committed.
//!
//! Records are settled in any order; only the contiguous watermark is committed. A window belongs
//! to one lease: what arrives for another is ignored, since the partition may have been somewhere
//! else in between.

use std::collections::{BTreeMap, VecDeque};

use crate::kafka::{Lease, TopicPartition};

/// The records of one partition that were handed out under one lease.
#[derive(Debug)]
struct Window {
    lease: Lease,
    /// Where fetching goes on, behind the last batch, holes and control batches included.
    next: i64,
    /// Handed out and not yet below the watermark: offset, and whether it is settled.
    open: VecDeque<(i64, bool)>,
    /// What the broker last acknowledged, or where the window began; `None` when it has the offset
    /// of another log.
    committed: Option<i64>,
}

impl Window {
    /// The next offset to read after a restart: the first unsettled one, or where fetching goes
    /// on when none is open, so that holes at the end of a partition leave no lag.
    fn watermark(&self) -> i64 {
        self.open.front().map_or(self.next, |&(offset, _)| offset)
    }
}

/// The windows of all partitions that are assigned to us.
#[derive(Debug, Default)]
pub struct Offsets {
    windows: BTreeMap<TopicPartition, Window>,
}

/// A watermark that the broker has not acknowledged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// The partition.
    pub partition: TopicPartition,
    /// The lease under which it was reached.
    pub lease: Lease,
    /// Next offset to read.
    pub offset: i64,
}

impl Offsets {
    /// Forgets every window whose lease has ended.
    pub fn retain_live(&mut self) {
        self.windows.retain(|_, window| window.lease.is_live());
    }

    /// Forgets one window: its offsets mean other records now.
    pub fn forget(&mut self, partition: &TopicPartition) {
        self.windows.remove(partition);
    }

    /// Begins anew at `at`, in another log of the same name: whatever the broker has is committed
    /// over, before any record is.
    pub fn start_over(&mut self, partition: &TopicPartition, lease: &Lease, at: i64) {
        let window = Window {
            lease: lease.clone(),
            next: at,
            open: VecDeque::new(),
            committed: None,
        };
        self.windows.insert(partition.clone(), window);
    }

    /// Takes note of a fetch that began at `from` and goes on at `next` and brought `offsets`.
    pub fn fetched(
        &mut self,
        partition: &TopicPartition,
        lease: &Lease,
        from: i64,
        offsets: impl IntoIterator<Item = i64>,
        next: i64,
    ) {
        let fresh = || Window {
            lease: lease.clone(),
            next: from,
            open: VecDeque::new(),
            committed: Some(from),
        };
        let window = self.windows.entry(partition.clone()).or_insert_with(fresh);
        if window.lease != *lease {
            *window = fresh();
        }
        window
            .open
            .extend(offsets.into_iter().map(|offset| (offset, false)));
        window.next = next;
    }

    /// Gives back the last records of a fetch that were not handed out: `waits` says which were
    /// not. Returns the first of them, which is where fetching has to go on.
    pub fn give_back(
        &mut self,
        partition: &TopicPartition,
        waits: impl Fn(i64) -> bool,
    ) -> Option<i64> {
        let window = self.windows.get_mut(partition)?;
        let mut first = None;
        while let Some((offset, _)) = window
            .open
            .pop_back_if(|(offset, settled)| !*settled && waits(*offset))
        {
            window.next = offset;
            first = Some(offset);
        }
        first
    }

    /// Settles one record. Ignored when the lease is not the current one.
    pub fn settle(&mut self, partition: &TopicPartition, lease: &Lease, offset: i64) {
        let Some(window) = self
            .windows
            .get_mut(partition)
            .filter(|w| w.lease == *lease)
        else {
            return;
        };
        if let Ok(at) = window
            .open
            .binary_search_by_key(&offset, |&(offset, _)| offset)
        {
            window.open[at].1 = true;
        }
        while window.open.front().is_some_and(|&(_, settled)| settled) {
            window.open.pop_front();
        }
    }

    /// All watermarks, and whether the broker has another offset.
    pub fn watermarks(&self) -> impl Iterator<Item = (Watermark, bool)> {
        self.windows.iter().map(|(partition, window)| {
            let watermark = Watermark {
                partition: partition.clone(),
                lease: window.lease.clone(),
                offset: window.watermark(),
            };
            let moved = Some(watermark.offset) != window.committed;
            (watermark, moved)
        })
    }

    /// The watermark of one partition.
    pub fn watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.windows.get(partition).map(Window::watermark)
    }

    /// Takes note of what the broker acknowledged.
    pub fn committed(&mut self, watermark: &Watermark) {
        if let Some(window) = self.windows.get_mut(&watermark.partition)
            && window.lease == watermark.lease
        {
            window.committed = Some(watermark.offset);
        }
    }

    /// What the broker knows of each partition.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.windows
            .iter()
            .filter_map(|(partition, window)| Some((partition, window.committed?)))
    }

    /// Records of a partition between the watermark and the last one handed out, settled or not.
    pub fn open(&self, partition: &TopicPartition) -> usize {
        self.windows
            .get(partition)
            .map_or(0, |window| window.open.len())
    }

    /// Partitions with a record that is not settled.
    pub fn unfinished(&self) -> Vec<TopicPartition> {
        let open = self
            .windows
            .iter()
            .filter(|(_, window)| !window.open.is_empty());
        open.map(|(partition, _)| partition.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the next commit has to say.
    fn uncommitted(offsets: &Offsets) -> Vec<Watermark> {
        let moved = offsets.watermarks().filter(|(_, moved)| *moved);
        moved.map(|(watermark, _)| watermark).collect()
    }

    fn partition() -> TopicPartition {
        TopicPartition::new("upload", 3)
    }

    fn offset_of(offsets: &Offsets) -> Option<i64> {
        uncommitted(offsets).first().map(|w| w.offset)
    }

    #[test]
    fn k11_the_watermark_waits_for_the_slowest_record() {
        let (mut offsets, lease, p) = (Offsets::default(), Lease::new(), partition());
        offsets.fetched(&p, &lease, 10, 10..=500, 501);
        for offset in 11..=500 {
            offsets.settle(&p, &lease, offset);
        }
        assert_eq!(offset_of(&offsets), None);
        assert_eq!(offsets.open(&p), 491);
        offsets.settle(&p, &lease, 10);
        assert_eq!(offset_of(&offsets), Some(501));
        assert_eq!(offsets.open(&p), 0);
    }

    #[test]
    fn k25_holes_and_control_batches_leave_no_lag() {
        let (mut offsets, lease, p) = (Offsets::default(), Lease::new(), partition());
        offsets.fetched(&p, &lease, 0, [2, 7], 9);
        offsets.settle(&p, &lease, 2);
        assert_eq!(offset_of(&offsets), Some(7));
        offsets.settle(&p, &lease, 7);
        assert_eq!(offset_of(&offsets), Some(9));
        offsets.fetched(&p, &lease, 9, [], 12);
        assert_eq!(offset_of(&offsets), Some(12));
    }

    #[test]
    fn another_lease_is_ignored_and_starts_afresh() {
        let (mut offsets, old, new, p) =
            (Offsets::default(), Lease::new(), Lease::new(), partition());
        offsets.fetched(&p, &old, 0, 0..5, 5);
        offsets.settle(&p, &old, 0);
        let late = uncommitted(&offsets).remove(0);
        offsets.fetched(&p, &new, 0, 0..5, 5);
        offsets.settle(&p, &old, 1);
        assert_eq!(offset_of(&offsets), None);
        offsets.committed(&late);
        offsets.settle(&p, &new, 0);
        assert_eq!(offset_of(&offsets), Some(1));
    }

    #[test]
    fn a_commit_is_due_until_it_is_acknowledged() {
        let (mut offsets, lease, p) = (Offsets::default(), Lease::new(), partition());
        offsets.fetched(&p, &lease, 0, 0..2, 2);
        offsets.settle(&p, &lease, 0);
        let first = uncommitted(&offsets).remove(0);
        offsets.settle(&p, &lease, 1);
        offsets.committed(&first);
        assert_eq!(offset_of(&offsets), Some(2));
        let second = uncommitted(&offsets).remove(0);
        offsets.committed(&second);
        assert_eq!(offset_of(&offsets), None);
        assert_eq!(offsets.acknowledged().collect::<Vec<_>>(), [(&p, 2)]);
    }

    proptest! {
        /// Against a model that looks at every offset anew.
        #[test]
        fn k11_the_watermark_is_the_first_unsettled_record(
            gaps in prop::collection::vec(1i64..4, 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..120),
        ) {
            let mut at = 5;
            let records: Vec<i64> = gaps.iter().map(|gap| { at += gap; at }).collect();
            let next = at + 1;
            let (mut offsets, lease, p) = (Offsets::default(), Lease::new(), partition());
            offsets.fetched(&p, &lease, 5, records.iter().copied(), next);
            let mut settled = std::collections::BTreeSet::new();
            for index in order {
                let offset = *index.get(&records);
                offsets.settle(&p, &lease, offset);
                settled.insert(offset);
                let model = records.iter().copied().find(|o| !settled.contains(o)).unwrap_or(next);
                prop_assert_eq!(offset_of(&offsets).unwrap_or(5), model);
            }
        }
    }
}
