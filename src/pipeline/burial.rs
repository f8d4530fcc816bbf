//! The way of a failed record to the dead-letter topic.
//!
//! A topic that takes letters takes them at once, and the task waits for that. While it does not,
//! a letter may wait for hours: that costs no thread and no slot, so that the records of a
//! partition that cannot get rid of its failures hold up no other partition. The task gives the
//! [`Burial`] to the loop, which looks after it between its other things.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::task::{Doing, Task};
use super::{Delivery, Fate, Known, Pipeline, refusal_pauses};
use crate::backoff::{Backoff, sleep_unless};
use crate::error::{Reason, chain};
use crate::kafka::{OutgoingRecord, Pending, Record};
use crate::output::dead_letters::{self, Failure};
use crate::watchers::{Event, Outcome, Stage};

/// How often a task that waits for an acknowledgement looks whether its topic takes anything.
const LOOK: Duration = Duration::from_millis(50);

/// A dead letter that is not acknowledged yet.
#[derive(Debug)]
pub struct Burial {
    known: Known,
    failure: Failure,
    letter: OutgoingRecord,
    /// What is sent instead once the letter has turned out too large.
    stub: OutgoingRecord,
    is_stub: bool,
    pauses: Backoff,
    state: State,
}

#[derive(Debug)]
enum State {
    Sent(Pending),
    /// To be sent, not before this time.
    Due(Instant),
}

impl Burial {
    /// Gives it up: the record belongs to somebody else, or comes again.
    pub fn cancel(&self) {
        if let State::Sent(pending) = &self.state {
            pending.cancel();
        }
    }

    fn record(&self) -> &OutgoingRecord {
        if self.is_stub {
            &self.stub
        } else {
            &self.letter
        }
    }

    /// Waits a moment for whatever comes next.
    fn wait(&self) {
        match &self.state {
            State::Sent(pending) => _ = pending.outcome(LOOK),
            State::Due(_) => _ = sleep_unless(LOOK, || false),
        }
    }
}

impl Pipeline {
    /// Ends a record whose task does not end: called from the loop, not from the pool.
    pub fn bury_stuck(&self, record: &Arc<Record>, task: &Task) -> Fate {
        let known = Known::new(record);
        let message = "the task did not end within its deadline".to_owned();
        let failure = known.failure(Reason::Timeout, message);
        match self.bury(known, task, Stage::Process, failure) {
            Fate::Burying(mut burial) => loop {
                if let Some(fate) = self.pursue(&mut burial, task) {
                    return fate;
                }
                burial.wait();
            },
            fate => fate,
        }
    }

    /// Sends the dead letter of a failed record, and waits for its acknowledgement while its topic
    /// takes any; without a dead-letter topic the record is skipped.
    pub(super) fn bury(&self, known: Known, task: &Task, stage: Stage, failure: Failure) -> Fate {
        let (reason, attempts) = (failure.reason, failure.attempts);
        self.notify(
            &known,
            &Event::Failed {
                stage,
                reason,
                attempts,
            },
        );
        let Some(sink) = &self.output.dead_letters else {
            return self.settle_failed(&known, Outcome::Skipped(reason), &failure);
        };
        task.enter(Doing::Burying);
        let (group, record) = (&self.options.group_id, &known.record);
        let mut burial = Burial {
            letter: dead_letters::render(&sink.topic, group, record, &failure),
            stub: dead_letters::render_stub(&sink.topic, group, record, &failure),
            known,
            failure,
            is_stub: false,
            pauses: refusal_pauses(),
            state: State::Due(Instant::now()),
        };
        loop {
            if let Some(fate) = self.pursue(&mut burial, task) {
                return fate;
            }
            if matches!(burial.state, State::Due(_)) || sink.stalled().is_some() {
                return Fate::Burying(Box::new(burial));
            }
            burial.wait();
        }
    }

    /// Does what can be done for a dead letter now, without waiting. `Some` when it has come to
    /// its end: acknowledged, or called off.
    pub fn pursue(&self, burial: &mut Burial, task: &Task) -> Option<Fate> {
        let sink = self.output.dead_letters.as_ref()?;
        loop {
            let pending = match &burial.state {
                _ if task.is_cancelled() => {
                    burial.cancel();
                    return Some(Fate::Abandoned);
                }
                State::Due(at) if Instant::now() < *at => return None,
                State::Due(_) => {
                    let letter = burial.record().clone();
                    burial.state = State::Sent(sink.producer.begin(letter));
                    continue;
                }
                State::Sent(pending) => pending,
            };
            let known = &burial.known;
            let refusal = match Delivery::of(pending.outcome(Duration::ZERO)?) {
                Delivery::Acknowledged => {
                    let (reason, stub) = (burial.failure.reason, burial.is_stub);
                    self.notify(known, &Event::DeadLettered { reason, stub });
                    let outcome = Outcome::DeadLetter(reason);
                    return Some(self.settle_failed(known, outcome, &burial.failure));
                }
                Delivery::Cancelled => return Some(Fate::Abandoned),
                Delivery::TooLarge(error) if !burial.is_stub => {
                    log::error!(
                        topic = known.record.partition.topic.as_ref(),
                        partition = known.record.partition.partition,
                        offset = known.record.offset;
                        "the dead letter is refused ({}): a stub without its value is sent",
                        chain(&error)
                    );
                    burial.is_stub = true;
                    burial.state = State::Due(Instant::now());
                    continue;
                }
                Delivery::TooLarge(error) | Delivery::Refused(error) => chain(&error),
                Delivery::NotAuthorised => format!("not authorised to write to {}", sink.topic),
            };
            // A right can be given and a limit raised while we wait. That holds up this partition
            // and no other.
            if burial.pauses.tries() == 0 {
                log::error!("dead letters are not accepted: {refusal}; the record waits");
            }
            self.notify(
                known,
                &Event::Retried {
                    stage: "dead_letter",
                },
            );
            burial.state = State::Due(Instant::now() + burial.pauses.next_pause());
            return None;
        }
    }
}
