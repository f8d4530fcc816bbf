use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

use kafka_protocol::messages::{
    FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// Takes one connection, reads a request for each script entry and answers with its bytes,
/// in which the first four stand for the correlation id. Then it keeps the stream open until
/// the client closes it, so that silence is silence.
fn peer(script: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut requests = Vec::new();
        for mut answer in script {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).unwrap();
            if answer.len() >= 8 && answer[4..8] == [0; 4] {
                answer[4..8].copy_from_slice(&request[4..8]);
            }
            requests.push(request);
            stream.write_all(&answer).unwrap();
        }
        let _ = io::copy(&mut stream, &mut io::sink());
        requests
    });
    (address, thread)
}

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &[0; 4], body].concat()
}

/// Heartbeat 0-4 and FindCoordinator 0-2, in the encoding of version 3.
fn offer() -> Vec<u8> {
    frame(&[
        0, 0, 3, 0, 12, 0, 0, 0, 4, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0,
    ])
}

fn body(response: &impl Encodable, version: i16) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    response.encode(&mut bytes, version).unwrap();
    frame(&bytes)
}

fn open(address: &str) -> Result<Connection, Error> {
    let timeouts = Timeouts {
        connect: SOON,
        setup: SOON,
    };
    let options = ClusterOptions {
        client_id: "us".into(),
        ..ClusterOptions::default()
    };
    Connection::open(address, &options, &timeouts)
}

#[test]
fn negotiates_and_pipelines() {
    let (address, thread) = peer(vec![
        offer(),
        body(&HeartbeatResponse::default().with_error_code(27), 3),
        body(
            &FindCoordinatorResponse::default().with_host(StrBytes::from_static_str("elsewhere")),
            2,
        ),
    ]);
    let mut connection = open(&address).unwrap();
    assert!(!connection.ready(Duration::ZERO));
    connection.send(&HeartbeatRequest::default()).unwrap();
    connection.send(&FindCoordinatorRequest::default()).unwrap();
    assert_eq!(connection.in_flight(), 2);
    assert!(connection.ready(SOON));
    let heartbeat = connection.receive::<HeartbeatRequest>(SOON).unwrap();
    assert_eq!(heartbeat.error_code, 27);
    let found = connection.receive::<FindCoordinatorRequest>(SOON).unwrap();
    assert_eq!(&found.host[..], "elsewhere");
    assert!(!connection.is_dead());
    drop(connection);
    let requests = thread.join().unwrap();
    // Key, version and name of the second request.
    assert_eq!(requests[1][..4], [0, 12, 0, 3]);
    assert_eq!(requests[1][8..12], [0, 2, b'u', b's']);
}

#[test]
fn asks_an_old_broker_again_in_its_own_version() {
    let (address, thread) = peer(vec![
        frame(&[0, 35, 0, 0, 0, 0]),
        frame(&[0, 0, 0, 0, 0, 1, 0, 12, 0, 0, 0, 2]),
    ]);
    let connection = open(&address).unwrap();
    assert_eq!(connection.version::<HeartbeatRequest>().unwrap(), 2);
    let error = connection
        .version::<FindCoordinatorRequest>()
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("FindCoordinator: ours 1-2, it does not know this request"));
    drop(connection);
    assert_eq!(thread.join().unwrap()[1][..4], [0, 18, 0, 0]);
}

#[test]
fn names_what_is_no_kafka_broker() {
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        // A TLS alert; a frame of no length; of a negative one; another's answer; no answer.
        vec![0x15, 3, 3, 0, 2, 2, 70],
        vec![0, 0, 0, 0],
        vec![0xff; 4],
        vec![0, 0, 0, 6, 9, 9, 9, 9, 0, 0],
        frame(&[0, 0, 9]),
    ] {
        let (address, thread) = peer(vec![answer]);
        let error = open(&address).unwrap_err();
        assert!(matches!(error, Error::NotKafka { .. }), "{error}");
        assert!(error.to_string().contains(&address));
        thread.join().unwrap();
    }
}

#[test]
fn k14_silence_ends_in_time_and_kills_the_connection() {
    let (address, thread) = peer(vec![offer()]);
    let mut connection = open(&address).unwrap();
    let short = Duration::from_millis(30);
    let error = connection
        .request(&HeartbeatRequest::default(), short)
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(connection.is_dead());
    let error = connection.send(&HeartbeatRequest::default()).unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    drop(connection);
    thread.join().unwrap();
}

/// The first answer comes in two parts, the second of which is sent for the second request.
#[test]
fn k14_an_answer_has_its_time_while_somebody_looks() {
    let gone = 2 * REST;
    for looked in [true, false] {
        let answer = body(&HeartbeatResponse::default(), 3);
        let (first, second) = answer.split_at(9);
        let (address, thread) = peer(vec![offer(), first.to_vec(), second.to_vec()]);
        let mut connection = open(&address).unwrap();
        connection.send(&HeartbeatRequest::default()).unwrap();
        let late = Instant::now() + SOON;
        while connection.incoming.bytes.len() < first.len() {
            assert!(!connection.ready(Duration::from_millis(10)));
            assert!(Instant::now() < late);
        }
        let incoming = &mut connection.incoming;
        incoming.began = incoming.began.map(|at| at - gone);
        if !looked {
            incoming.looked = incoming.looked.map(|at| at - gone);
        }
        assert_eq!(connection.ready(Duration::ZERO), looked);
        if !looked {
            // Only one that has not begun may be late.
            let none = Duration::ZERO;
            let outcome = connection.answer::<HeartbeatRequest>(none, Instant::now() - gone, none);
            assert!(outcome.is_none(), "{outcome:?}");
        }
        connection.send(&HeartbeatRequest::default()).unwrap();
        if looked {
            let error = connection.receive::<HeartbeatRequest>(SOON).unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        } else {
            assert!(connection.ready(SOON));
            connection.receive::<HeartbeatRequest>(SOON).unwrap();
        }
        drop(connection);
        thread.join().unwrap();
    }
}

#[test]
fn k14_an_answer_that_breaks_off_is_not_waited_for() {
    let answer = body(&HeartbeatResponse::default(), 3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        for mut bytes in [offer(), answer[..9].to_vec()] {
            stream.read_exact(&mut length).unwrap();
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).unwrap();
            bytes[4..8].copy_from_slice(&request[4..8]);
            stream.write_all(&bytes).unwrap();
        }
    });
    let mut connection = open(&address).unwrap();
    connection.send(&HeartbeatRequest::default()).unwrap();
    assert!(connection.ready(SOON));
    let error = connection.receive::<HeartbeatRequest>(SOON).unwrap_err();
    assert!(!matches!(error, Error::Timeout { .. }), "{error}");
    assert!(connection.is_dead());
    thread.join().unwrap();
}

#[test]
fn k19_damaged_answers_kill_the_connection() {
    let cases = [
        // Another correlation id, a cut body, a giant frame.
        vec![0, 0, 0, 10, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0],
        frame(&[0, 0]),
        vec![0x7f, 0xff, 0xff, 0xff],
    ];
    for answer in cases {
        let (address, thread) = peer(vec![offer(), answer]);
        let mut connection = open(&address).unwrap();
        let error = connection
            .request(&HeartbeatRequest::default(), SOON)
            .unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(connection.is_dead());
        drop(connection);
        thread.join().unwrap();
    }
}

#[test]
fn k23_keeps_quiet_while_throttled() {
    let answer = HeartbeatResponse::default().with_throttle_time_ms(i32::MAX);
    let (address, thread) = peer(vec![offer(), body(&answer, 3)]);
    let mut connection = open(&address).unwrap();
    connection
        .request(&HeartbeatRequest::default(), SOON)
        .unwrap();
    let error = connection.send(&HeartbeatRequest::default()).unwrap_err();
    assert!(matches!(error, Error::Throttled { .. }), "{error}");
    assert!(error.pause().unwrap() <= MAX_THROTTLE);
    assert!(!connection.is_dead());
    drop(connection);
    thread.join().unwrap();
}

#[test]
fn a_port_without_listener_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = open(&address).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {address}"));
    assert!(matches!(
        open("no port").unwrap_err(),
        Error::Resolve { .. }
    ));
}
