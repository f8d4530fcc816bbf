//! Brokers of a test's own, started by `scripts/broker`, to be stopped and started again.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One broker, or the nodes of a cluster. They end with this value, and with the test's process
/// however that ends: the script ends when its standard input does.
pub struct OwnBroker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    bootstrap: String,
}

impl OwnBroker {
    /// Starts `nodes` nodes of this kind and waits until they answer.
    pub fn start(kind: &str, nodes: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/broker");
        let mut child = Command::new(script)
            .args([kind, "--nodes", &nodes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut bootstrap = String::new();
        answers.read_line(&mut bootstrap).unwrap();
        let bootstrap = bootstrap.trim().to_owned();
        assert!(!bootstrap.is_empty(), "scripts/broker ended");
        Self {
            child,
            orders,
            answers,
            bootstrap,
        }
    }

    /// `HOST:PORT` of every node, with commas.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Gives an order of the script (`stop`, `kill`, `start`; in a cluster with the number of the
    /// node) and waits until it is carried out.
    pub fn order(&mut self, words: &str) {
        writeln!(self.orders, "{words}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let known = ["killed", "stopped", "ready"].contains(&answer.trim());
        assert!(known, "scripts/broker, told {words:?}: {answer:?}");
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        // The script ends its brokers when it is ended itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
