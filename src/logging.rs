//! Log lines: text or JSON, one event a line, without secrets.
//!
//! A line is formatted by whoever logs it and handed to a bounded queue; one thread writes. A
//! reader of the log that stands still or goes away costs lines, which are counted in
//! [`dropped`], never progress.
//!
//! Levels are decided here, by module. What `ureq` and `rustls` say below WARN is dropped whatever
//! is configured: it holds URLs, and ours are keys to archives.

mod filter;
mod format;
mod queue;

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};

pub use self::filter::Filter;
use self::format::{json, text};
use self::queue::{LineSink, Queue};

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Levels, by module.
    pub filter: Filter,
    /// Form of a line.
    pub format: Format,
}

/// Form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, module, message, then `key=value`.
    Text,
    /// One JSON object.
    Json,
}

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Of `run`, whose log is its output.
    Stdout,
    /// Of commands whose output is something else.
    Stderr,
}

/// Bytes of lines that may wait; as many again may be on their way out.
const QUEUE_BYTES: usize = 1 << 20;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

static DROPPED: AtomicU64 = AtomicU64::new(0);
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Lines that were not written, since the start.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Waits for the lines logged so far, but not long: also a blocked output lets the process end.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.wait_until_empty(LAST_LINES);
    }
}

/// Writes the last lines when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it waits for the lines logged so far"]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        flush();
    }
}

/// Starts logging, for the whole process.
///
/// # Errors
/// It was started before.
pub fn start(options: &Options, output: Output) -> Result<Guard, SetLoggerError> {
    let queue = Queue::new(QUEUE_BYTES, &DROPPED);
    let logger = Logger::new(options, Arc::clone(&queue));
    log::set_boxed_logger(Box::new(logger))?;
    log::set_max_level(options.filter.most());
    let _ = QUEUE.set(Arc::clone(&queue));
    match output {
        Output::Stdout => queue::write_in_background(queue, io::stdout()),
        Output::Stderr => queue::write_in_background(queue, io::stderr()),
    }
    Ok(Guard(()))
}

/// From now on a panic is one log line with its place. Its message stays unsaid: it may quote
/// what was being worked on.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(
            || "an unknown place".to_owned(),
            |place| format!("{}:{}:{}", place.file(), place.line(), place.column()),
        );
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("without a name");
        if log::max_level() == LevelFilter::Off {
            let _ = writeln!(io::stderr(), "panicked at {place} in thread {thread}");
        } else {
            log::error!(thread; "panicked at {place}");
        }
    }));
}

/// The one logger: decides, formats, hands over.
struct Logger {
    filter: Filter,
    writer: Writer,
}

enum Writer {
    Text(Box<simplelog::WriteLogger<LineSink>>),
    Json(Arc<Queue>),
}

impl Logger {
    fn new(options: &Options, queue: Arc<Queue>) -> Self {
        let writer = match options.format {
            // Level and module are decided above it; simplelog lays out the line.
            Format::Text => Writer::Text(simplelog::WriteLogger::new(
                LevelFilter::Trace,
                text::layout(),
                LineSink::new(queue),
            )),
            Format::Json => Writer::Json(queue),
        };
        Self {
            filter: options.filter.clone(),
            writer,
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.allows(metadata.target(), metadata.level())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match &self.writer {
            Writer::Text(simple) => {
                // Formatted here, so that a `Display` that panics does so outside simplelog's lock.
                let message = text::message(record);
                let target = format::short(record.target());
                simple.log(
                    &Record::builder()
                        .level(record.level())
                        .target(target)
                        .args(format_args!("{message}"))
                        .build(),
                );
            }
            Writer::Json(queue) => {
                queue.push(json::line(record, time::OffsetDateTime::now_utc()));
            }
        }
    }

    fn flush(&self) {
        flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str, log: impl Fn(&dyn Log)) -> String {
        static NONE_DROPPED: AtomicU64 = AtomicU64::new(0);
        let options = Options {
            filter: Filter::parse(filter).unwrap(),
            format,
        };
        let queue = Queue::new(QUEUE_BYTES, &NONE_DROPPED);
        let logger = Logger::new(&options, Arc::clone(&queue));
        log(&logger);
        let lines = Lines::default();
        queue::write_in_background(Arc::clone(&queue), lines.clone());
        queue.wait_until_empty(Duration::from_secs(10));
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn record(logger: &dyn Log, target: &str, level: log::Level, message: &str) {
        let pairs: &[(&str, log::kv::Value<'_>)] = &[
            ("extra", "a b".into()),
            ("offset", 7.into()),
            ("topic", "in".into()),
        ];
        logger.log(
            &Record::builder()
                .target(target)
                .level(level)
                .key_values(&pairs)
                .args(format_args!("{message}"))
                .build(),
        );
    }

    #[test]
    fn text_has_time_level_module_message_and_facts() {
        let lines = logged(Format::Text, "info", |logger| {
            record(
                logger,
                "ccx_data_pipeline::worker",
                log::Level::Info,
                "done\nhere",
            );
        });
        let (time, rest) = lines.split_once(' ').expect("a time");
        assert!(time.ends_with('Z') && time.len() == 24, "{time}");
        assert_eq!(
            rest,
            "[INFO] worker: done\\nhere topic=in offset=7 extra=\"a b\"\n"
        );
    }

    #[test]
    fn json_has_its_keys_in_their_order() {
        let lines = logged(Format::Json, "info", |logger| {
            record(
                logger,
                "ccx_data_pipeline::worker",
                log::Level::Warn,
                "done\nhere",
            );
        });
        let (_, rest) = lines.split_once("Z\",").expect("a time");
        assert_eq!(
            rest,
            "\"levelname\":\"WARNING\",\"name\":\"worker\",\"message\":\"done\\nhere\",\
             \"topic\":\"in\",\"offset\":7,\"extra\":\"a b\"}\n"
        );
    }

    #[test]
    fn chatter_of_the_http_client_is_dropped_whatever_is_configured() {
        let lines = logged(Format::Text, "trace,ureq=trace", |logger| {
            for target in ["ureq", "ureq::run", "ureq_proto::client", "rustls::conn"] {
                record(logger, target, log::Level::Info, "GET https://secret");
            }
            record(logger, "ureq", log::Level::Warn, "kept");
        });
        assert!(!lines.contains("secret"), "{lines}");
        assert_eq!(lines.lines().count(), 1, "{lines}");
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What is logged, for tests in other rooms.

    use std::cell::RefCell;

    use log::{Level, LevelFilter, Log, Metadata, Record};

    thread_local! {
        static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
    }

    /// The logger of the whole process, which keeps the lines of each thread apart.
    struct Kept;

    impl Log for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            let line = (record.level(), record.args().to_string());
            LINES.with_borrow_mut(|lines| lines.push(line));
        }

        fn flush(&self) {}
    }

    /// What this thread logs at INFO and above while it does `work`.
    pub(crate) fn lines_of(work: impl FnOnce()) -> Vec<(Level, String)> {
        // All tests but the first find it set.
        let _ = log::set_logger(&Kept);
        log::set_max_level(LevelFilter::Info);
        LINES.take();
        work();
        LINES.take()
    }
}
