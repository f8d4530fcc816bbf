//! The records of a batch that readers get.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use kafka_protocol::messages::fetch_response::AbortedTransaction;

use super::Asked;
use crate::kafka::records::{Batch, Fault, Marker, RawRecord};
use crate::kafka::{Header, Lease, Record};

/// Which batches belong to aborted transactions, while an answer is read in order.
///
/// A broker filters nothing: it lists the transactions that were aborted, each with its first
/// offset, and the end of one is its marker in the log.
pub(super) struct Aborted {
    upcoming: VecDeque<AbortedTransaction>,
    open: HashSet<i64>,
}

impl Aborted {
    pub(super) fn new(mut transactions: Vec<AbortedTransaction>) -> Self {
        transactions.sort_by_key(|transaction| transaction.first_offset);
        Self {
            upcoming: transactions.into(),
            open: HashSet::new(),
        }
    }

    /// Whether readers get the records of the next batch.
    fn wants(&mut self, batch: &Batch) -> bool {
        while let Some(begun) = self
            .upcoming
            .pop_front_if(|begun| begun.first_offset < batch.next)
        {
            self.open.insert(begun.producer_id.0);
        }
        if batch.is_control() {
            // An unreadable marker ends it, too: what comes behind must not be lost.
            if !matches!(batch.marker(), Ok(Marker::Other)) {
                self.open.remove(&batch.producer_id);
            }
            return false;
        }
        !(batch.is_transactional() && self.open.contains(&batch.producer_id))
    }
}

/// The records of a batch that readers get, counted against the budget.
pub(super) fn unpack(
    batch: &Batch,
    aborted: &mut Aborted,
    budget: &mut usize,
) -> Result<Vec<RawRecord>, Fault> {
    if !aborted.wants(batch) {
        return Ok(Vec::new());
    }
    let records = batch.records()?;
    let size: usize = records
        .iter()
        .map(|raw| {
            let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
            let headers = raw
                .headers
                .iter()
                .map(|header| size_of::<Header>() + header.name.len() + part(&header.value));
            size_of::<Record>() + part(&raw.key) + part(&raw.value) + headers.sum::<usize>()
        })
        .sum();
    *budget = budget.saturating_sub(size);
    Ok(records)
}

/// What its owner gets.
pub(super) fn record(asked: &Asked, lease: &Lease, raw: RawRecord) -> Record {
    Record {
        partition: asked.partition.clone(),
        offset: raw.offset,
        timestamp: raw.timestamp,
        key: raw.key,
        value: raw.value,
        headers: raw.headers,
        lease: lease.clone(),
    }
}
