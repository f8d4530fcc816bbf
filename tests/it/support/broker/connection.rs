//! Listeners and connections: frames in, one answer after the other, in order, as a broker does.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, FetchRequest, FindCoordinatorRequest,
    HeartbeatRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest,
    ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
    RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{
    Encodable, HeaderVersion, Request, decode_request_header_from_buffer,
};

use super::sasl::Session;
use super::script::{self, Effect, Facts, Plan, Scripted};
use super::state::{Node, Shared, State};
use super::wire::Wire;
use super::{Seen, api_versions};

/// The largest request that is read.
const MAX_FRAME: usize = 100 << 20;

/// An API that the broker serves. One file each.
pub(super) trait Api: Request {
    /// The partitions that the request names.
    fn partitions(&self, _state: &State) -> Vec<(String, i32)> {
        Vec::new()
    }

    /// The group that the request is about.
    fn group(&self) -> Option<&str> {
        None
    }

    /// The answer; `None`: there is none, or nobody is left to get it.
    fn handle(self, call: &Call<'_>) -> Option<Self::Response>;

    /// Where the answer says how long the client is to wait.
    fn set_throttle(response: &mut Self::Response, ms: i32);
}

/// One request that is being served.
pub(super) struct Call<'a> {
    pub(super) shared: &'a Shared,
    pub(super) node: i32,
    pub(super) version: i16,
    pub(super) client: Option<String>,
    pub(super) session: &'a RefCell<Session>,
    connection: u64,
    plan: Plan,
}

impl<'a> Call<'a> {
    /// The scripted code for the request as a whole.
    pub(super) fn error(&self) -> Option<Scripted> {
        self.plan.error()
    }

    /// The scripted code for one of its partitions.
    pub(super) fn error_for(&self, topic: &str, partition: i32) -> Option<Scripted> {
        self.plan.error_for(topic, partition)
    }

    /// Whether the connection has ended (its node stopped, or the test did).
    pub(super) fn is_gone(&self, state: &State) -> bool {
        let node = state.nodes.get(&self.node);
        state.closed || node.is_none_or(|n| !n.connections.contains_key(&self.connection))
    }

    /// Waits for a change, or until then. `None`: the connection has ended.
    pub(super) fn wait(
        &self,
        state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> Option<MutexGuard<'a, State>> {
        if self.is_gone(&state) {
            return None;
        }
        let state = self.shared.wait(state, until);
        (!self.is_gone(&state)).then_some(state)
    }

    fn pause(&self, time: Duration) -> Option<()> {
        let until = Instant::now() + time;
        let mut state = self.shared.lock();
        while Instant::now() < until {
            state = self.wait(state, Some(until))?;
        }
        Some(())
    }
}

/// Accepts connections until the node stops.
pub(super) fn listen(shared: Arc<Shared>, node: i32, listener: TcpListener) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                if shared.lock().nodes[&node].running {
                    continue;
                }
                break;
            };
            let registered = shared.update(|state| register(state, node, &stream));
            let Some(id) = registered else {
                break;
            };
            let shared = Arc::clone(&shared);
            threads.retain(|t| !t.is_finished());
            threads.push(thread::spawn(move || serve(&shared, node, id, stream)));
        }
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    })
}

fn register(state: &mut State, node: i32, stream: &TcpStream) -> Option<u64> {
    let id = state.fresh();
    let node = state.nodes.get_mut(&node)?;
    if !node.running {
        return None;
    }
    // A peer that is gone already is one that the first read will notice.
    let _ = stream.set_nodelay(true);
    node.connections.insert(id, stream.try_clone().ok()?);
    Some(id)
}

/// Ends all connections of a node; their threads notice by themselves.
pub(super) fn hang_up(state: &mut State, node: i32) {
    let Some(node) = state.nodes.get_mut(&node) else {
        return;
    };
    for stream in std::mem::take(&mut node.connections).into_values() {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// What becomes of the connection behind a request.
enum Next {
    Go,
    Close,
    /// Nothing more is answered, but the connection stays open.
    Mute,
}

fn serve(shared: &Shared, node: i32, id: u64, stream: TcpStream) {
    let tls = shared.lock().settings.tls.clone();
    let mut stream = Wire::new(stream, tls);
    let session = RefCell::default();
    let mut muted = false;
    while let Ok(Some(frame)) = read_frame(&mut stream) {
        if muted {
            continue;
        }
        set_busy(shared, node, id, true);
        let next = answer(shared, node, id, &session, frame, &mut stream);
        set_busy(shared, node, id, false);
        match next {
            Some(Next::Go) => {}
            Some(Next::Mute) => muted = true,
            Some(Next::Close) | None => break,
        }
    }
    stream.close();
    shared.update(|state| {
        if let Some(node) = state.nodes.get_mut(&node) {
            node.connections.remove(&id);
        }
    });
}

fn set_busy(shared: &Shared, node: i32, id: u64, busy: bool) {
    shared.update(|state| {
        let Some(node) = state.nodes.get_mut(&node) else {
            return;
        };
        if busy {
            node.quiet.remove(&id);
        } else {
            node.quiet.insert(id, Instant::now());
        }
    });
}

/// Connections of a node that have waited for no answer for a while. One that has just been made
/// or answered is about to be used.
pub(super) fn idle(node: &Node) -> Vec<u64> {
    const WHILE: Duration = Duration::from_millis(300);
    let quiet = node
        .quiet
        .iter()
        .filter(|(_, since)| since.elapsed() > WHILE);
    let open = quiet.filter(|(id, _)| node.connections.contains_key(id));
    open.map(|(id, _)| *id).collect()
}

/// Ends the idle connections of a node. Returns how many.
pub(super) fn hang_up_idle(state: &mut State, node: i32) -> usize {
    let Some(node) = state.nodes.get_mut(&node) else {
        return 0;
    };
    let idle = idle(node);
    for id in &idle {
        if let Some(stream) = node.connections.remove(id) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    idle.len()
}

fn read_frame(stream: &mut Wire) -> std::io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let Ok(length) = usize::try_from(i32::from_be_bytes(length)) else {
        return Ok(None);
    };
    if length > MAX_FRAME {
        return Ok(None);
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(Some(frame.into()))
}

fn answer(
    shared: &Shared,
    node: i32,
    connection: u64,
    session: &RefCell<Session>,
    mut frame: Bytes,
    stream: &mut Wire,
) -> Option<Next> {
    let (key, version) = (frame.get(..2)?.get_i16(), frame.get(2..4)?.get_i16());
    let api = ApiKey::try_from(key).ok()?;
    if api == ApiKey::ApiVersions && !(0..=4).contains(&version) {
        // The header of a version that nobody knows yet is read as the newest one.
        let mut known = BytesMut::from(&frame[..]);
        known[2..4].copy_from_slice(&4_i16.to_be_bytes());
        frame = known.freeze();
    }
    let header = decode_request_header_from_buffer(&mut frame).ok()?;
    let client = header.client_id.as_ref().map(ToString::to_string);
    let mut state = shared.lock();
    state.seen.push(Seen {
        node,
        connection,
        api,
        version,
        client: client.clone(),
        correlation_id: header.correlation_id,
        body: frame.clone(),
        at: Instant::now(),
    });
    shared.notify(&mut state);
    let call = Call {
        shared,
        node,
        version,
        client,
        session,
        connection,
        plan: Plan::default(),
    };
    while state.nodes[&node].frozen {
        state = call.wait(state, None)?;
    }
    let served = state.versions(node).has(api, version);
    let welcome = state.settings.sasl.is_none() || session.borrow().may_ask(api);
    drop(state);
    if !welcome {
        shared.update(|state| state.unwelcome += 1);
        return None;
    }
    if api == ApiKey::ApiVersions && !served {
        let answer = api_versions::refusal(&call);
        return respond(&header, &call, 0, &answer, None, stream);
    }
    if !served {
        return None;
    }
    match api {
        ApiKey::ApiVersions => run::<ApiVersionsRequest>(call, &header, frame, stream),
        ApiKey::Metadata => run::<MetadataRequest>(call, &header, frame, stream),
        ApiKey::Produce => run::<ProduceRequest>(call, &header, frame, stream),
        ApiKey::Fetch => run::<FetchRequest>(call, &header, frame, stream),
        ApiKey::ListOffsets => run::<ListOffsetsRequest>(call, &header, frame, stream),
        ApiKey::InitProducerId => run::<InitProducerIdRequest>(call, &header, frame, stream),
        ApiKey::CreateTopics => run::<CreateTopicsRequest>(call, &header, frame, stream),
        ApiKey::FindCoordinator => run::<FindCoordinatorRequest>(call, &header, frame, stream),
        ApiKey::JoinGroup => run::<JoinGroupRequest>(call, &header, frame, stream),
        ApiKey::SyncGroup => run::<SyncGroupRequest>(call, &header, frame, stream),
        ApiKey::Heartbeat => run::<HeartbeatRequest>(call, &header, frame, stream),
        ApiKey::LeaveGroup => run::<LeaveGroupRequest>(call, &header, frame, stream),
        ApiKey::OffsetCommit => run::<OffsetCommitRequest>(call, &header, frame, stream),
        ApiKey::OffsetFetch => run::<OffsetFetchRequest>(call, &header, frame, stream),
        ApiKey::SaslHandshake => run::<SaslHandshakeRequest>(call, &header, frame, stream),
        ApiKey::SaslAuthenticate => run::<SaslAuthenticateRequest>(call, &header, frame, stream),
        _ => None,
    }
}

fn run<Q: Api>(
    mut call: Call<'_>,
    header: &RequestHeader,
    mut body: Bytes,
    stream: &mut Wire,
) -> Option<Next> {
    let request = Q::decode(&mut body, call.version).ok()?;
    call.plan = call.shared.update(|state| {
        let partitions = request.partitions(state);
        let facts = Facts {
            api: ApiKey::try_from(Q::KEY).unwrap(),
            node: call.node,
            client: call.client.as_deref(),
            group: request.group(),
            partitions: &partitions,
        };
        script::plan(&mut state.hooks, &facts)
    });
    call.pause(call.plan.delay)?;
    if let Some((fault, false)) = &call.plan.fault {
        return unhandled(fault, stream);
    }
    let version = call.version;
    let Some(mut response) = request.handle(&call) else {
        // No answer is due, unless the connection has ended meanwhile.
        let gone = call.is_gone(&call.shared.lock());
        return (!gone).then_some(Next::Go);
    };
    if let Some(time) = call.plan.throttle {
        Q::set_throttle(&mut response, time.as_millis() as i32);
    }
    let fault = call.plan.fault.as_ref().map(|(fault, _)| fault);
    // The client's pause begins when it has read the answer, so it ends after ours.
    let answered = Instant::now();
    let next = respond(header, &call, version, &response, fault, stream)?;
    if let Some(time) = call.plan.throttle {
        keep_quiet(
            &call,
            ApiKey::try_from(Q::KEY).unwrap(),
            stream,
            answered,
            time,
        )?;
    }
    Some(next)
}

/// Reads nothing until a throttle is over, and notes whether the client has sent something all
/// the same.
fn keep_quiet(
    call: &Call<'_>,
    api: ApiKey,
    stream: &Wire,
    since: Instant,
    time: Duration,
) -> Option<()> {
    // Some time before the end: who does not wait has long sent something by then.
    call.pause((time / 2).saturating_sub(since.elapsed()))?;
    if stream.has_input() && since.elapsed() < time {
        call.shared.update(|state| state.hasty.push(api));
    }
    call.pause(time.saturating_sub(since.elapsed()))
}

fn unhandled(fault: &Effect, stream: &mut Wire) -> Option<Next> {
    match fault {
        Effect::Silence => Some(Next::Mute),
        Effect::Raw(bytes) => {
            stream.write_all(bytes).ok()?;
            Some(Next::Go)
        }
        _ => Some(Next::Close),
    }
}

fn respond<R: Encodable + HeaderVersion>(
    header: &RequestHeader,
    call: &Call<'_>,
    version: i16,
    response: &R,
    fault: Option<&Effect>,
    stream: &mut Wire,
) -> Option<Next> {
    let mut frame = BytesMut::from(&[0; 4][..]);
    let mut head = ResponseHeader::default();
    head.correlation_id = header.correlation_id;
    head.encode(&mut frame, R::header_version(version)).unwrap();
    let encoded = response.encode(&mut frame, version);
    encoded.unwrap_or_else(|e| panic!("answer of {}: {e:#}", std::any::type_name::<R>()));
    let length = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    let mut frame = frame.to_vec();
    let mut next = Next::Go;
    match fault {
        None => {}
        Some(Effect::Patch(change)) => change(&mut frame),
        Some(Effect::Cut(bytes)) => {
            frame.truncate(*bytes);
            next = Next::Close;
        }
        Some(other) => return unhandled(other, stream),
    }
    {
        let mut state = call.shared.lock();
        while state.nodes[&call.node].frozen {
            state = call.wait(state, None)?;
        }
    }
    stream.write_all(&frame).ok()?;
    stream.flush().ok()?;
    Some(next)
}
