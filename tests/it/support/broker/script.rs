//! Faults on order: hooks that catch requests and say what happens to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use super::Broker;

/// Changes the bytes of an answer, length prefix included.
type Patch = Arc<dyn Fn(&mut Vec<u8>) + Send + Sync>;

/// What happens to a request that a hook caught.
#[derive(Clone)]
pub(super) enum Effect {
    /// Nothing but the hook's delay.
    Pass,
    Error(i16),
    Drop,
    /// The first bytes of the answer, then the end of the connection.
    Cut(usize),
    /// These bytes in place of the answer.
    Raw(Vec<u8>),
    Patch(Patch),
    /// Says that the client is to wait, and reads nothing more from it for as long.
    Throttle(Duration),
    /// The connection stays open and nothing comes any more.
    Silence,
}

#[derive(Clone)]
pub(super) struct Hook {
    id: u64,
    api: ApiKey,
    node: Option<i32>,
    topic: Option<String>,
    partition: Option<i32>,
    group: Option<String>,
    client: Option<String>,
    skip: u64,
    left: Option<u64>,
    delay: Duration,
    handled: bool,
    effect: Effect,
    used: u64,
}

/// What hooks need to know of a request.
pub(super) struct Facts<'a> {
    pub(super) api: ApiKey,
    pub(super) node: i32,
    pub(super) client: Option<&'a str>,
    pub(super) group: Option<&'a str>,
    pub(super) partitions: &'a [(String, i32)],
}

/// A code to answer with, in place of the honest one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scripted {
    pub(super) code: i16,
    /// Carry the request out all the same.
    pub(super) handled: bool,
}

/// What the hooks have decided about one request.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) delay: Duration,
    pub(super) throttle: Option<Duration>,
    errors: Vec<(Option<String>, Option<i32>, Scripted)>,
    /// What happens to the connection or the answer; and whether the request is carried out.
    pub(super) fault: Option<(Effect, bool)>,
}

impl Plan {
    /// The code for the request as a whole.
    pub(super) fn error(&self) -> Option<Scripted> {
        self.errors.first().map(|(_, _, scripted)| *scripted)
    }

    /// The code for one partition of the request.
    pub(super) fn error_for(&self, topic: &str, partition: i32) -> Option<Scripted> {
        let fits = |(t, p, _): &&(Option<String>, Option<i32>, Scripted)| {
            t.as_deref().is_none_or(|t| t == topic) && p.is_none_or(|p| p == partition)
        };
        self.errors.iter().find(fits).map(|(_, _, s)| *s)
    }
}

impl Hook {
    fn catches(&self, facts: &Facts<'_>) -> bool {
        self.left != Some(0)
            && self.api == facts.api
            && self.node.is_none_or(|n| n == facts.node)
            && self
                .client
                .as_deref()
                .is_none_or(|c| Some(c) == facts.client)
            && self.group.as_deref().is_none_or(|g| Some(g) == facts.group)
            && self.topic.as_deref().is_none_or(|topic| {
                let same = |(t, p): &(String, i32)| {
                    t == topic && self.partition.is_none_or(|wanted| wanted == *p)
                };
                facts.partitions.iter().any(same)
            })
    }
}

/// Asks the hooks, in the order in which they were set. The first that catches the request counts;
/// if it is for one partition, hooks for other partitions of the same request count beside it.
pub(super) fn plan(hooks: &mut [Hook], facts: &Facts<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut scopes = Vec::new();
    for hook in hooks {
        let scope = (hook.topic.clone(), hook.partition);
        let taken = scopes.contains(&scope) || (!scopes.is_empty() && scope.0.is_none());
        if taken || !hook.catches(facts) {
            continue;
        }
        if hook.skip > 0 {
            hook.skip -= 1;
            continue;
        }
        let for_all = scope.0.is_none();
        scopes.push(scope);
        hook.used += 1;
        hook.left = hook.left.map(|n| n - 1);
        plan.delay = plan.delay.max(hook.delay);
        match &hook.effect {
            Effect::Pass => {}
            Effect::Throttle(time) => plan.throttle = Some(*time),
            Effect::Error(code) => {
                let scripted = Scripted {
                    code: *code,
                    handled: hook.handled,
                };
                let (topic, partition) = (hook.topic.clone(), hook.partition);
                plan.errors.push((topic, partition, scripted));
            }
            other => plan.fault = plan.fault.or(Some((other.clone(), hook.handled))),
        }
        if for_all {
            break;
        }
    }
    plan
}

/// A hook that is being described; the last call sets it. Without `times` it counts once.
pub struct HookBuilder<'a> {
    broker: &'a Broker,
    hook: Hook,
}

/// A hook that is set.
pub struct HookHandle<'a> {
    broker: &'a Broker,
    id: u64,
}

impl<'a> HookBuilder<'a> {
    pub(super) fn new(broker: &'a Broker, id: u64, api: ApiKey) -> Self {
        let hook = Hook {
            id,
            api,
            node: None,
            topic: None,
            partition: None,
            group: None,
            client: None,
            skip: 0,
            left: Some(1),
            delay: Duration::ZERO,
            handled: false,
            effect: Effect::Pass,
            used: 0,
        };
        Self { broker, hook }
    }

    /// Only requests to this node.
    #[must_use]
    pub fn node(mut self, id: i32) -> Self {
        self.hook.node = Some(id);
        self
    }

    /// Only requests that name this topic; an error is for its partitions alone.
    #[must_use]
    pub fn topic(mut self, topic: &str) -> Self {
        self.hook.topic = Some(topic.into());
        self
    }

    /// Only requests that name this partition; an error is for it alone.
    #[must_use]
    pub fn partition(mut self, topic: &str, partition: i32) -> Self {
        self.hook.partition = Some(partition);
        self.topic(topic)
    }

    /// Only requests of this group.
    #[must_use]
    pub fn group(mut self, group: &str) -> Self {
        self.hook.group = Some(group.into());
        self
    }

    /// Only requests of this client id.
    #[must_use]
    pub fn client(mut self, client: &str) -> Self {
        self.hook.client = Some(client.into());
        self
    }

    /// Lets the first `n` pass.
    #[must_use]
    pub fn after(mut self, n: u64) -> Self {
        self.hook.skip = n;
        self
    }

    /// Counts `n` times.
    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.hook.left = Some(n);
        self
    }

    /// Counts until it is removed.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.hook.left = None;
        self
    }

    /// Carries the request out before the fault: written, and not acknowledged.
    #[must_use]
    pub fn handled(mut self) -> Self {
        self.hook.handled = true;
        self
    }

    /// Waits before anything else happens to the request; goes together with any fault.
    #[must_use]
    pub fn delayed(mut self, time: Duration) -> Self {
        self.hook.delay = time;
        self
    }

    /// Waits, then serves the request honestly.
    pub fn delay(self, time: Duration) -> HookHandle<'a> {
        self.delayed(time).set(Effect::Pass)
    }

    /// Serves the request honestly; for its count alone.
    pub fn pass(self) -> HookHandle<'a> {
        self.set(Effect::Pass)
    }

    /// Answers with this code.
    pub fn error(self, code: i16) -> HookHandle<'a> {
        self.set(Effect::Error(code))
    }

    /// Closes the connection.
    pub fn drop_connection(self) -> HookHandle<'a> {
        self.set(Effect::Drop)
    }

    /// Carries the request out, sends the first `bytes` bytes of the answer and closes.
    pub fn cut_answer(self, bytes: usize) -> HookHandle<'a> {
        self.handled().set(Effect::Cut(bytes))
    }

    /// Sends these bytes in place of the answer.
    pub fn raw(self, bytes: impl Into<Vec<u8>>) -> HookHandle<'a> {
        self.set(Effect::Raw(bytes.into()))
    }

    /// Carries the request out and changes the bytes of its answer. They begin with the length
    /// (4 bytes) and the correlation id (4 bytes); the length is not set anew.
    pub fn patch(self, change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> HookHandle<'a> {
        self.handled().set(Effect::Patch(Arc::new(change)))
    }

    /// Answers under another correlation id.
    pub fn wrong_correlation_id(self) -> HookHandle<'a> {
        self.patch(|frame| frame[7] ^= 0x55)
    }

    /// Announces an answer of 2 GiB.
    pub fn huge_length(self) -> HookHandle<'a> {
        self.patch(|frame| frame[..4].copy_from_slice(&i32::MAX.to_be_bytes()))
    }

    /// Writes a 4-byte number over the answer's body, `at` bytes behind the correlation id: an
    /// array length, for the tests that lie about one.
    pub fn overwrite(self, at: usize, number: i32) -> HookHandle<'a> {
        self.patch(move |frame| frame[8 + at..][..4].copy_from_slice(&number.to_be_bytes()))
    }

    /// Answers at once with this throttle time, then reads nothing more from the connection for
    /// as long.
    pub fn throttle(self, time: Duration) -> HookHandle<'a> {
        self.set(Effect::Throttle(time))
    }

    /// Never answers, nor anything behind it on that connection, which stays open.
    pub fn silence(self) -> HookHandle<'a> {
        self.set(Effect::Silence)
    }

    fn set(mut self, effect: Effect) -> HookHandle<'a> {
        self.hook.effect = effect;
        let (broker, id) = (self.broker, self.hook.id);
        broker.shared.update(|state| state.hooks.push(self.hook));
        HookHandle { broker, id }
    }
}

impl HookHandle<'_> {
    /// How many requests it has caught.
    pub fn used(&self) -> u64 {
        let state = self.broker.shared.lock();
        let found = state.hooks.iter().find(|h| h.id == self.id);
        found.map_or(0, |h| h.used)
    }

    /// Waits until it has caught `n` requests.
    pub fn wait_used(&self, n: u64) {
        let what = format!("hook catches {n} requests");
        self.broker.wait(&what, |_| self.used() >= n);
    }

    /// Ends it. What it caught stays caught.
    pub fn remove(&self) {
        self.broker.shared.update(|state| {
            let found = state.hooks.iter_mut().find(|h| h.id == self.id);
            if let Some(hook) = found {
                hook.left = Some(0);
            }
        });
    }
}

impl fmt::Debug for HookHandle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hook {} ({} times)", self.id, self.used())
    }
}
