//! A question to any broker, on its way from one to the next. It goes on from call to call, so that
//! brokers that hang hold up nobody who has other things to do.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::reach::Reach;
use super::{Cluster, DIED, PATIENCE, REFRESH_PAUSE, Use, dial, unconnected};
use crate::error::chain;
use crate::kafka::connection::Connection;
use crate::kafka::error::Error;
use crate::kafka::versions::Api;

/// Time for an answer that the broker gives from memory.
const CONTROL: Duration = Duration::from_secs(10);
/// How far into a round over the brokers another one is still asked.
const ROUND: Duration = Duration::from_secs(5);
/// After which a connection that is being made is left alone. Its own limits end it before, but
/// for the name look-up, which has none.
const DIAL: Duration = Duration::from_secs(30);
/// A question that nobody has come back to for so long makes room for another one.
const LEFT: Duration = Duration::from_secs(1);

/// A question on its way from one broker to the next.
#[derive(Debug)]
pub(super) struct Round {
    /// Of the request.
    pub(super) key: i16,
    began: Instant,
    /// When somebody last wanted to know.
    touched: Instant,
    stage: Stage,
    /// Who is to be asked yet, once that is decided.
    left: Option<VecDeque<Arc<str>>>,
    last: Option<Error>,
    refused: Option<Error>,
    too_old_or_new: bool,
    /// When the first of those that were asked is worth another attempt.
    soonest: Option<Duration>,
}

#[derive(Debug)]
enum Stage {
    /// To be put to the broker that was asked last.
    Kept(Box<Connection>),
    /// The next broker has its turn.
    Next,
    Dialing {
        address: Arc<str>,
        since: Instant,
        /// Begun for a question that nobody came back to: it may be closed again.
        old: bool,
    },
    Sent {
        connection: Box<Connection>,
        since: Instant,
        /// The connection was there before.
        kept: bool,
    },
}

impl Round {
    /// Whom it is about just now.
    fn address(&self) -> Arc<str> {
        match &self.stage {
            Stage::Kept(connection) => connection.address().clone(),
            Stage::Sent { connection, .. } => connection.address().clone(),
            Stage::Dialing { address, .. } => address.clone(),
            Stage::Next => Arc::default(),
        }
    }

    /// One of the brokers does not answer.
    fn note(&mut self, error: Error) {
        self.too_old_or_new &= matches!(error, Error::Version { .. });
        self.soon(error.pause());
        if matches!(error, Error::Authentication { .. }) && !error.is_transient() {
            self.refused = Some(error.clone());
        }
        // A cause says more than "waiting" does.
        if self.last.is_none() || !matches!(error, Error::Waiting { .. }) {
            self.last = Some(error);
        }
    }

    fn soon(&mut self, left: Option<Duration>) {
        self.soonest = match (self.soonest, left) {
            (Some(known), Some(left)) => Some(known.min(left)),
            (known, left) => known.or(left),
        };
    }
}

/// How far a round has come.
enum Advance<R> {
    Answer(R),
    Failed(Error),
    /// It goes on at once.
    Onward,
    /// Nothing has come yet.
    Waiting,
}

impl Cluster {
    /// Puts a question to any broker: the one asked last, then each that is known, then the
    /// bootstrap list, until the time for a round is over. An answer that `check` does not like
    /// counts as none. One question is under way at a time.
    ///
    /// # Errors
    /// [`Error::NoBroker`], [`Error::Throttled`], [`Error::Connecting`], and non-transient ones.
    pub(in crate::kafka) fn ask<A: Api>(
        &mut self,
        request: &A,
        check: impl Fn(&A::Response) -> Result<(), String>,
    ) -> Result<A::Response, Error> {
        let mut round = match self.round.take() {
            Some(round) if round.key == A::KEY => round,
            Some(other) if other.touched.elapsed() < LEFT => {
                let address = other.address();
                self.round = Some(other);
                return Err(Error::Connecting { address });
            }
            _ => self.begin(A::KEY),
        };
        loop {
            let wait = self.patience.map_or(PATIENCE, |patience| {
                patience.saturating_sub(round.began.elapsed())
            });
            match self.advance(&mut round, request, &check, wait) {
                Advance::Answer(response) => {
                    self.answers();
                    return Ok(response);
                }
                Advance::Failed(error) => return Err(error),
                Advance::Waiting if wait.is_zero() => {
                    round.touched = Instant::now();
                    let address = round.address();
                    self.round = Some(round);
                    return Err(Error::Connecting { address });
                }
                Advance::Onward | Advance::Waiting => {}
            }
        }
    }

    fn begin(&mut self, key: i16) -> Round {
        let now = Instant::now();
        // One that was closed while idle is no loss: the same broker is asked with the others.
        let kept = self.control.take_if(|connection| !connection.is_stale());
        self.control = None;
        let stage = kept.map_or(Stage::Next, Stage::Kept);
        Round {
            key,
            began: now,
            touched: now,
            stage,
            left: None,
            last: None,
            refused: None,
            too_old_or_new: true,
            soonest: None,
        }
    }

    /// Takes a round one step further, which may take `wait`.
    fn advance<A: Api>(
        &mut self,
        round: &mut Round,
        request: &A,
        check: &impl Fn(&A::Response) -> Result<(), String>,
        wait: Duration,
    ) -> Advance<A::Response> {
        match std::mem::replace(&mut round.stage, Stage::Next) {
            Stage::Kept(connection) => self.put(round, connection, request),
            Stage::Sent {
                connection,
                since,
                kept,
            } => self.listen::<A>(round, (connection, since, kept), check, wait),
            Stage::Dialing {
                address,
                since,
                old,
            } => self.connect(round, (address, since, old), request, wait),
            Stage::Next => self.turn_to_next(round),
        }
    }

    /// Puts the question to the broker that was asked last.
    fn put<A: Api>(
        &mut self,
        round: &mut Round,
        mut connection: Box<Connection>,
        request: &A,
    ) -> Advance<A::Response> {
        match connection.send(request) {
            Ok(()) => {
                round.stage = Stage::Sent {
                    connection,
                    since: Instant::now(),
                    kept: true,
                };
            }
            // Nothing wrong with the broker, and another one would say the same.
            Err(
                error @ (Error::Throttled { .. } | Error::Encode { .. } | Error::Expired { .. }),
            ) => {
                self.control = Some(connection);
                return Advance::Failed(error);
            }
            Err(error) => {
                self.failed(connection.address().clone(), &error);
                round.last = Some(error);
            }
        }
        Advance::Onward
    }

    /// Looks for the answer.
    fn listen<A: Api>(
        &mut self,
        round: &mut Round,
        (mut connection, since, kept): (Box<Connection>, Instant, bool),
        check: &impl Fn(&A::Response) -> Result<(), String>,
        wait: Duration,
    ) -> Advance<A::Response> {
        let Some(outcome) = connection.answer::<A>(wait, since, CONTROL) else {
            round.stage = Stage::Sent {
                connection,
                since,
                kept,
            };
            return Advance::Waiting;
        };
        let checked = outcome.and_then(|response| match check(&response) {
            Ok(()) => Ok(response),
            Err(found) => Err(Error::Malformed {
                address: connection.address().clone(),
                api: A::NAME,
                found,
            }),
        });
        match checked {
            Ok(response) => {
                self.control = Some(connection);
                return Advance::Answer(response);
            }
            Err(error) => {
                self.failed(connection.address().clone(), &error);
                if kept {
                    round.last = Some(error);
                } else {
                    round.note(error);
                }
            }
        }
        Advance::Onward
    }

    /// Looks whether the connection is there, and puts the question.
    fn connect<A: Api>(
        &mut self,
        round: &mut Round,
        (address, since, old): (Arc<str>, Instant, bool),
        request: &A,
        wait: Duration,
    ) -> Advance<A::Response> {
        let key = (Use::Control, address.clone());
        // Gone when the broker has vanished meanwhile.
        let Some(dial) = self.dials.get(&key) else {
            return Advance::Onward;
        };
        let outcome = match dial.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) if since.elapsed() < DIAL => {
                round.stage = Stage::Dialing {
                    address,
                    since,
                    old,
                };
                return Advance::Waiting;
            }
            // Taken up again at its next turn.
            Err(RecvTimeoutError::Timeout) => Err(unconnected(&address, "no end of it")),
            outcome => {
                self.dials.remove(&key);
                outcome.unwrap_or_else(|_| Err(unconnected(&address, DIED)))
            }
        };
        let name = self.options.name;
        let reach = self.reach.entry(address.clone()).or_insert_with(Reach::new);
        let sent = match outcome {
            Ok(mut connection) => {
                if old && connection.is_stale() {
                    round.left.get_or_insert_default().push_front(address);
                    return Advance::Onward;
                }
                reach.opened(name, &address, &self.stats);
                connection
                    .send(request)
                    .map(|()| connection)
                    .inspect_err(|error| {
                        reach.failed(name, &address, &chain(error));
                    })
            }
            Err(error) => Err(reach.not_opened(name, &address, error)),
        };
        match sent {
            Ok(connection) => {
                round.stage = Stage::Sent {
                    connection: Box::new(connection),
                    since: Instant::now(),
                    kept: false,
                };
            }
            Err(error) => round.note(error),
        }
        Advance::Onward
    }

    /// Chooses the broker to ask next, or ends the round when there is none.
    fn turn_to_next<R>(&mut self, round: &mut Round) -> Advance<R> {
        let mut left = round.left.take().unwrap_or_else(|| self.candidates());
        let in_time = round.began.elapsed() < ROUND;
        let next = in_time.then(|| left.pop_front()).flatten();
        let Some(address) = next else {
            return Advance::Failed(self.end(round, left));
        };
        round.left = Some(left);
        let key = (Use::Control, address.clone());
        let reach = self.reach.entry(address.clone()).or_insert_with(Reach::new);
        let mut old = true;
        if let Entry::Vacant(place) = self.dials.entry(key) {
            old = false;
            if let Some(waiting) = reach.waiting(&address) {
                round.note(waiting);
                return Advance::Onward;
            }
            place.insert(dial(address.clone(), &self.options, self.timeouts));
        }
        round.stage = Stage::Dialing {
            address,
            since: Instant::now(),
            old,
        };
        Advance::Onward
    }

    /// Whom to ask, the most promising first.
    pub(super) fn candidates(&self) -> VecDeque<Arc<str>> {
        let mut candidates: Vec<Arc<str>> = self.brokers.values().cloned().collect();
        fastrand::shuffle(&mut candidates);
        for address in &self.bootstrap {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        // Each of those that did not answer lately may cost its whole time limit once more: they
        // come last, and last of all the one that was tried last. Before them comes whose answers
        // were of no help.
        candidates.sort_by_key(|address| {
            let reach = self.reach.get(address);
            let away = reach.filter(|reach| reach.is_away());
            let doubted = self.doubted.as_ref() == Some(address);
            (away.is_some(), doubted, reach.and_then(Reach::retry_at))
        });
        candidates.into()
    }

    /// Nobody has answered, and these were not asked.
    fn end(&mut self, round: &mut Round, left_out: VecDeque<Arc<str>>) -> Error {
        let mut untried = false;
        for address in &left_out {
            let reach = self.reach.get(address);
            untried |= reach.is_none_or(|reach| !reach.is_away());
            let at = reach.and_then(Reach::retry_at);
            round.soon(Some(at.map_or(Duration::ZERO, |at| {
                at.saturating_duration_since(Instant::now())
            })));
        }
        // Nobody answers, and one does not want us: that does not pass.
        if let Some(error) = round.refused.take()
            && !untried
        {
            self.problem = Some(chain(&error).into());
            return error;
        }
        let last: Arc<str> = match round.last.take() {
            // All of them answer, and none can be talked to: that does not pass.
            Some(error @ Error::Version { .. }) if round.too_old_or_new && left_out.is_empty() => {
                return error;
            }
            Some(Error::Waiting { last, .. }) => last,
            Some(error) => chain(&error).into(),
            None => Arc::from("no address is known"),
        };
        // Not said before each of them has had its turn.
        if !untried {
            if self.outage.goes_on(Instant::now()) {
                log::warn!(cluster = self.options.name; "no broker of the cluster answers: {last}");
            }
            self.problem = Some(last.clone());
        }
        Error::NoBroker {
            left: round.soonest.unwrap_or(REFRESH_PAUSE),
            last,
        }
    }
}
