//! Lines on their way out: a bounded queue and the thread that writes it.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Lines that wait, up to a number of bytes.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    more: Condvar,
    empty: Condvar,
    max_bytes: usize,
    dropped: &'static AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    lines: u64,
    writing: bool,
}

impl Queue {
    pub(super) fn new(max_bytes: usize, dropped: &'static AtomicU64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            more: Condvar::new(),
            empty: Condvar::new(),
            max_bytes,
            dropped,
        })
    }

    /// Takes a line with its newline, or drops and counts it. Never waits for the output.
    pub(super) fn push(&self, line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        let mut state = self.state();
        if state.bytes.len() + line.len() > self.max_bytes {
            drop(state);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes.extend_from_slice(line);
        state.lines += 1;
        drop(state);
        self.more.notify_one();
    }

    /// Waits until all is written, at most for `timeout`.
    pub(super) fn wait_until_empty(&self, timeout: Duration) {
        let state = self.state();
        let waited = self
            .empty
            .wait_timeout_while(state, timeout, |state| state.writing || state.lines > 0);
        drop(waited);
    }

    /// All lines that wait, as soon as there is one. `bytes` is the emptied room of the last ones.
    fn take(&self, mut bytes: Vec<u8>) -> (Vec<u8>, u64) {
        bytes.clear();
        let mut state = self.state();
        state.writing = false;
        if state.lines == 0 {
            self.empty.notify_all();
        }
        let mut state = self
            .more
            .wait_while(state, |state| state.lines == 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        std::mem::swap(&mut bytes, &mut state.bytes);
        (bytes, std::mem::take(&mut state.lines))
    }

    /// Nothing panics while it holds the lock, so a poisoned one is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what comes into `queue` to `output`, until the end of the process. A write that fails
/// costs the lines it was for.
pub(super) fn write_in_background(queue: Arc<Queue>, mut output: impl Write + Send + 'static) {
    let write = {
        let queue = Arc::clone(&queue);
        move || {
            let mut room = Vec::new();
            loop {
                let (bytes, lines) = queue.take(room);
                if write_all(&mut output, &bytes).is_err() {
                    queue.dropped.fetch_add(lines, Ordering::Relaxed);
                }
                room = bytes;
            }
        }
    };
    let started = std::thread::Builder::new().name("log".into()).spawn(write);
    if started.is_err() {
        // Without the thread every line counts as dropped as soon as the queue is full.
        let _ = writeln!(io::stderr(), "no thread for log lines");
    }
}

fn write_all(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(bytes)?;
    output.flush()
}

/// Collects the pieces that simplelog writes into lines.
#[derive(Debug)]
pub(super) struct LineSink {
    queue: Arc<Queue>,
    line: Vec<u8>,
}

impl LineSink {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            line: Vec::new(),
        }
    }
}

impl Write for LineSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        // Messages hold no newline (they are escaped), so one at the end ends the line.
        if self.line.last() == Some(&b'\n') {
            self.queue.push(&self.line);
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let queue = Queue::new(8, &DROPPED);
        for _ in 0..5 {
            queue.push("abc\n");
        }
        assert_eq!(DROPPED.load(Ordering::Relaxed), 3);
        let (bytes, lines) = queue.take(Vec::new());
        assert_eq!((bytes.as_slice(), lines), (&b"abc\nabc\n"[..], 2));
    }

    #[test]
    fn lines_to_a_closed_pipe_are_counted_and_harm_nobody() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::new(1 << 10, &DROPPED);
        queue.push("one\n");
        queue.push("two\n");
        write_in_background(Arc::clone(&queue), Closed);
        queue.wait_until_empty(Duration::from_secs(10));
        assert_eq!(DROPPED.load(Ordering::Relaxed), 2);
    }
}
