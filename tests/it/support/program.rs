//! The built program, run the way a user runs it: in a directory of its own, with an environment
//! of its own, and never longer than the test.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::secrets;

/// Long enough for a busy machine; what hangs, hangs for ever.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAM: &str = env!("CARGO_BIN_EXE_ccx-data-pipeline");

/// What the program does in the whole suite beside its own output: it says what there is to say,
/// so that every output of every test is searched for secrets.
const LEVEL: (&str, &str) = ("CCX_DATA_PIPELINE__LOGGING__LEVEL", "debug");

/// A call of the program, not made yet.
pub struct Program {
    command: Command,
    dir: TempDir,
    input: Vec<u8>,
    stdout: Option<Stdio>,
}

/// A call of the program that goes on. It ends with this value at the latest.
pub struct Running {
    child: Child,
    dir: TempDir,
    stdout: Stream,
    stderr: Stream,
}

/// A call of the program that is over.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// Working directory, with `tmp` for temporary files in it.
    pub dir: TempDir,
}

impl Program {
    /// The program with these arguments, in an empty directory and with an environment of which
    /// only `TMPDIR` is set. The worker logs at level debug unless told otherwise.
    pub fn new<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::of(mortal(), arguments)
    }

    /// The same, in the place of a shell that has run `script` first: limits, mounts.
    pub fn behind<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        Self::of(shell(script), arguments)
    }

    /// The same in a mount namespace of its own, in which the script may mount. `None` where the
    /// kernel does not allow that.
    pub fn with_mounts<A: AsRef<OsStr>>(
        script: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Option<Self> {
        let unshared = |command: &mut Command| {
            let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        if !unshared(Command::new("unshare").args(["-rm", "true"])) {
            println!("no mount namespaces here: only the other half of this test is run");
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["-rm", "/bin/sh", "-c"]);
        command.arg(in_place_of_shell(script)).arg(PROGRAM);
        Some(Self::of(command, arguments))
    }

    fn of<A: AsRef<OsStr>>(mut command: Command, arguments: impl IntoIterator<Item = A>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let arguments: Vec<A> = arguments.into_iter().collect();
        let runs = arguments
            .first()
            .is_some_and(|first| first.as_ref() == "run");
        command
            .args(arguments)
            .current_dir(dir.path())
            .env_clear()
            .env("TMPDIR", dir.path().join("tmp"))
            .envs(runs.then_some(LEVEL))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped());
        Self {
            command,
            dir,
            input: Vec::new(),
            stdout: None,
        }
    }

    /// Its working directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Puts a `config.toml` in the working directory.
    pub fn config(self, toml: &str) -> Self {
        self.file("config.toml", toml.as_bytes())
    }

    /// Puts a file in the working directory.
    pub fn file(self, name: impl AsRef<Path>, bytes: &[u8]) -> Self {
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Bad records may come one after the other, without end.
    pub fn without_breaker(self) -> Self {
        let name = |key: &str| format!("CCX_DATA_PIPELINE__DEAD_LETTER_QUEUE__{key}");
        self.env(&name("MAX_RATIO"), "off")
            .env(&name("MAX_CONSECUTIVE"), "off")
    }

    /// Leaves the level of the log to the configuration.
    pub fn without_level(mut self) -> Self {
        self.command.env_remove(LEVEL.0);
        self
    }

    /// One more argument.
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// What it reads from standard input.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    /// Sends standard output elsewhere; [`Running::line`] then sees nothing of it.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        self.command
            .stdout(self.stdout.take().unwrap_or_else(Stdio::piped));
        let mut child = self.command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = self.input;
        // A child that does not read its input is no fault of the test.
        std::thread::spawn(move || stdin.write_all(&input));
        Running {
            stdout: Stream::new(child.stdout.take()),
            stderr: Stream::new(child.stderr.take()),
            child,
            dir: self.dir,
        }
    }

    /// Starts it and waits for its end.
    pub fn finish(self) -> Finished {
        self.start().finish()
    }
}

/// The program, which dies with the thread that starts it however that ends, where util-linux is
/// there to ask the kernel for it.
fn mortal() -> Command {
    static SETPRIV: LazyLock<bool> = LazyLock::new(|| {
        let mut probe = Command::new("setpriv");
        probe.args(["--pdeathsig", "KILL", "true"]);
        probe.stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    });
    if !*SETPRIV {
        return Command::new(PROGRAM);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", PROGRAM]);
    command
}

/// A shell that runs the script and then becomes the program of its first argument.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(in_place_of_shell(script)).arg(PROGRAM);
    shell
}

fn in_place_of_shell(script: &str) -> String {
    format!("set -e\n{script}\nexec \"$0\" \"$@\"")
}

impl Running {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A fact of `/proc/PID/status`, without its unit: `VmHWM` in KiB, `Threads`.
    pub fn status(&self, fact: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).unwrap();
        let value = status.lines().find_map(|line| {
            let value = line.strip_prefix(fact)?.strip_prefix(':')?;
            value.split_whitespace().next()?.parse().ok()
        });
        value.unwrap_or_else(|| panic!("no {fact} in\n{status}"))
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(path).unwrap().count()
    }

    /// Whether standard output has had a line with `words` in it so far.
    pub fn has_said(&self, words: &str) -> bool {
        self.stdout.text().contains(words)
    }

    /// Its directory for temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// Waits for a line of standard output that has `words` in it.
    ///
    /// # Panics
    /// The program ends, or much time passes, without one.
    #[track_caller]
    pub fn line(&self, words: &str) -> String {
        match self.stdout.find(words) {
            Some(line) => line,
            None => panic!(
                "no line with {words:?}\nstandard output:\n{}\nstandard error:\n{}",
                self.stdout.text(),
                self.stderr.text()
            ),
        }
    }

    /// The lines of standard output so far that have `words` in them.
    pub fn lines(&self, words: &str) -> Vec<String> {
        let text = self.stdout.text();
        let lines = text.lines().filter(|line| line.contains(words));
        lines.map(str::to_owned).collect()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let Some(status) = wait(&mut self.child) else {
            panic!(
                "still running\nstandard output:\n{}\nstandard error:\n{}",
                self.stdout.text(),
                self.stderr.text()
            );
        };
        self.close();
        Finished {
            status,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            // The value cannot be taken apart, it has a `Drop`; an empty directory takes the place.
            dir: std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()),
        }
    }
}

impl Running {
    /// Reads its last output, and looks for secrets in all of it.
    fn close(&mut self) {
        self.stdout.close();
        self.stderr.close();
        for stream in [&self.stdout, &self.stderr] {
            secrets::search("the output of the program", &stream.text());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail on a child that is gone already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.close();
    }
}

impl Finished {
    /// Its exit code.
    ///
    /// # Panics
    /// A signal ended it.
    #[track_caller]
    pub fn code(&self) -> i32 {
        match self.status.code() {
            Some(code) => code,
            None => panic!("ended by {}\n{}", self.status, self.stderr),
        }
    }
}

/// The end of a child. Polled: the standard library waits without a time limit only.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + PATIENCE;
    let pause = Mutex::new(());
    let never = Condvar::new();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        let waited = never.wait_timeout(pause.lock().unwrap(), Duration::from_millis(5));
        drop(waited.unwrap());
    }
}

/// Lines as they come.
struct Stream {
    lines: Arc<(Mutex<Lines>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Lines {
    list: Vec<String>,
    closed: bool,
}

impl Stream {
    fn new<R: Read + Send + 'static>(pipe: Option<R>) -> Self {
        let lines = Arc::new((Mutex::new(Lines::default()), Condvar::new()));
        let shared = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            if let Some(pipe) = pipe {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    shared.0.lock().unwrap().list.push(text);
                    shared.1.notify_all();
                    line.clear();
                }
            }
            shared.0.lock().unwrap().closed = true;
            shared.1.notify_all();
        });
        Self {
            lines,
            reader: Some(reader),
        }
    }

    fn find(&self, words: &str) -> Option<String> {
        let (lines, more) = &*self.lines;
        let found = |lines: &Lines| lines.list.iter().find(|line| line.contains(words)).cloned();
        let lines = lines.lock().unwrap();
        let (lines, _) = more
            .wait_timeout_while(lines, PATIENCE, |lines| {
                !lines.closed && found(lines).is_none()
            })
            .unwrap();
        found(&lines)
    }

    fn text(&self) -> String {
        self.lines.0.lock().unwrap().list.concat()
    }

    /// Reads what is left in the pipe of a child that is gone.
    fn close(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

/// Both ends of a pipe: to be read, and to be given to a child.
pub fn pipe() -> (File, File) {
    let (read, write) = std::io::pipe().unwrap();
    (
        std::os::fd::OwnedFd::from(read).into(),
        std::os::fd::OwnedFd::from(write).into(),
    )
}
