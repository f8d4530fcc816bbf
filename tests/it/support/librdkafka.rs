//! librdkafka in a Python child, as the other client that our records and groups have to get along
//! with. The child ends with this value, and also when the test's process is killed: it reads its
//! standard input, and that ends then.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::broker::batch::{LogRecord, NewRecord};

/// How long one order may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// librdkafka's names of the five codecs, in the order of their numbers.
pub const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// A child with librdkafka in it.
pub struct Librdkafka {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<Value>,
}

/// A record as librdkafka saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    pub topic: String,
    pub partition: i32,
    pub record: LogRecord,
}

impl Librdkafka {
    /// Starts a child that talks to the brokers at `bootstrap`.
    pub fn start(bootstrap: &str) -> Self {
        let python = python();
        let mut child = Command::new(&python)
            .args(["-u", "-c", include_str!("librdkafka.py"), bootstrap])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; scripts/test makes .venv", python.display()));
        let orders = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(json!({ "failed": line }));
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            orders,
            lines,
        }
    }

    /// Writes these records to a partition each, packed as one of [`CODECS`]; returns where they
    /// are.
    pub fn produce(
        &mut self,
        topic: &str,
        codec: &str,
        records: &[(i32, NewRecord)],
    ) -> Vec<(i32, i64)> {
        let records = records.iter().map(|(partition, new)| {
            let headers = new.headers.iter();
            let headers = headers.map(|(name, value)| {
                let name = std::str::from_utf8(name).expect("a name that librdkafka can write");
                json!([name, packed(value.as_ref())])
            });
            json!({
                "partition": partition,
                "key": packed(new.key.as_ref()),
                "value": packed(new.value.as_ref()),
                "timestamp": new.timestamp,
                "headers": headers.collect::<Vec<_>>(),
            })
        });
        let records: Vec<_> = records.collect();
        let order = json!({"do": "produce", "topic": topic, "codec": codec, "records": records});
        self.order(&order);
        let answer = self.next();
        serde_json::from_value(answer["produced"].clone()).unwrap()
    }

    /// Reads that many records of a topic from its beginning, checksums included.
    pub fn consume(&mut self, topic: &str, partitions: i32, count: usize) -> Vec<Consumed> {
        self.order(&json!({
            "do": "consume", "topic": topic, "partitions": partitions, "count": count,
            "isolation": "read_committed",
        }));
        let records = (0..count).map(|_| consumed(&self.next()["record"]));
        let records = records.collect();
        assert_eq!(self.next()["consumed"], count);
        records
    }

    fn order(&mut self, order: &Value) {
        writeln!(self.orders, "{order}").expect("the child has ended");
    }

    fn next(&mut self) -> Value {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .expect("librdkafka is silent");
        assert!(line.get("failed").is_none(), "librdkafka: {line}");
        line
    }
}

impl Drop for Librdkafka {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fellow member of a consumer group, which commits every record once it has seen it.
pub struct Fellow {
    child: Librdkafka,
    assigned: Vec<(String, i32)>,
    records: Vec<Consumed>,
    problems: Vec<String>,
    assignments: usize,
    left: bool,
}

/// How a fellow behaves.
#[derive(Debug, Clone)]
pub struct FellowOptions {
    pub session_timeout: Duration,
    /// librdkafka's `partition.assignment.strategy`.
    pub strategy: String,
    /// Any further settings of librdkafka.
    pub settings: Vec<(String, String)>,
}

impl Default for FellowOptions {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(6),
            strategy: "range,roundrobin".into(),
            settings: Vec::new(),
        }
    }
}

impl Fellow {
    /// Joins a group.
    pub fn join(bootstrap: &str, group: &str, topics: &[&str], options: &FellowOptions) -> Self {
        let mut child = Librdkafka::start(bootstrap);
        let settings = options.settings.iter().cloned();
        let settings: std::collections::BTreeMap<String, String> = settings.collect();
        child.order(&json!({
            "do": "join", "group": group, "topics": topics, "settings": settings,
            "session_ms": options.session_timeout.as_millis() as u64,
            "strategy": options.strategy,
        }));
        Self {
            child,
            assigned: Vec::new(),
            records: Vec::new(),
            problems: Vec::new(),
            assignments: 0,
            left: false,
        }
    }

    /// Waits until it is so, taking in what the fellow tells.
    ///
    /// # Panics
    ///
    /// When it is not so in a minute.
    pub fn wait(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !so(self) {
            let left = until.saturating_duration_since(Instant::now());
            match self.child.lines.recv_timeout(left) {
                Ok(line) => self.take_in(&line),
                Err(_) => panic!("in vain: {what}; fellow has {:?}", self.assigned),
            }
        }
    }

    /// Takes in what it has told so far, without waiting.
    pub fn look(&mut self) {
        while let Ok(line) = self.child.lines.recv_timeout(Duration::ZERO) {
            self.take_in(&line);
        }
    }

    /// The partitions that it holds, as it last told.
    pub fn assigned(&self) -> &[(String, i32)] {
        &self.assigned
    }

    /// How often it was given partitions, or none.
    pub fn assignments(&self) -> usize {
        self.assignments
    }

    /// The records that it has told of, in order, duplicates included.
    pub fn records(&self) -> &[Consumed] {
        &self.records
    }

    /// What went wrong on its side: refused commits, for example.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Leaves the group in order.
    pub fn leave(&mut self) {
        self.child.order(&json!({"do": "leave"}));
        self.wait("fellow leaves", |fellow| fellow.left);
    }

    /// SIGKILL: it says nothing to anybody. What it has told can still be asked for.
    pub fn kill(&mut self) {
        self.child.child.kill().unwrap();
        self.child.child.wait().unwrap();
        loop {
            match self.child.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.take_in(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("a killed child keeps its pipe"),
            }
        }
    }

    fn take_in(&mut self, line: &Value) {
        assert!(line.get("failed").is_none(), "librdkafka: {line}");
        let list = |name: &str| {
            let list = line.get(name)?.clone();
            Some(serde_json::from_value::<Vec<(String, i32)>>(list).unwrap())
        };
        if let Some(list) = list("assigned") {
            // Under a cooperative strategy these are only the new ones.
            self.assigned.extend(list);
            self.assignments += 1;
        }
        if let Some(gone) = list("revoked").or_else(|| list("lost")) {
            self.assigned.retain(|p| !gone.contains(p));
        }
        if let Some(record) = line.get("record") {
            self.records.push(consumed(record));
        }
        if let Some(problem) = line.get("problem").and_then(Value::as_str) {
            self.problems.push(problem.into());
        }
        self.left |= line.get("left").is_some();
    }
}

/// The interpreter that has confluent-kafka: `CCX_TEST_PYTHON`, or that of `.venv`.
fn python() -> PathBuf {
    match env::var_os("CCX_TEST_PYTHON") {
        Some(python) => python.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"),
    }
}

fn packed(bytes: Option<&Bytes>) -> Option<String> {
    bytes.map(|bytes| STANDARD.encode(bytes))
}

fn unpacked(value: &Value) -> Option<Bytes> {
    let text = value.as_str()?;
    Some(STANDARD.decode(text).unwrap().into())
}

fn consumed(value: &Value) -> Consumed {
    let headers = value["headers"].as_array().unwrap().iter();
    let headers = headers.map(|pair| {
        let name = pair[0].as_str().unwrap();
        (Bytes::copy_from_slice(name.as_bytes()), unpacked(&pair[1]))
    });
    Consumed {
        topic: value["topic"].as_str().unwrap().into(),
        partition: value["partition"].as_i64().unwrap() as i32,
        record: LogRecord {
            offset: value["offset"].as_i64().unwrap(),
            timestamp: value["timestamp"].as_i64().unwrap_or(-1),
            key: unpacked(&value["key"]),
            value: unpacked(&value["value"]),
            headers: headers.collect(),
            control: false,
            // What librdkafka does not tell.
            codec: -1,
            producer_id: -1,
        },
    }
}
