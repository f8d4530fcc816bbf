"""The workers: the real program, its log followed, its use of the machine sampled, its end watched."""

import collections
import http.client
import os
import re
import signal
import subprocess
import time
from datetime import datetime

import tools

from . import cluster
from . import records as catalogue

THREADS = 4
MAX_IN_FLIGHT = 8
SESSION_SECONDS = 6  # the shortest that a broker permits by default
SHUTDOWN_SECONDS = 10
# What a busy machine may add to it.
SLACK_SECONDS = 10

CONFIG = """\
[consumer]
bootstrap_servers = ["{broker}"]
incoming_topic = "{incoming}"
group_id = "{group}"
client_id = "{name}"
platform_service = "{service}"
session_timeout = "{session}s"
heartbeat_interval = "500ms"
rebalance_timeout = "20s"
fetch_max_wait = "100ms"

[publisher]
outgoing_topic = "{results}"

[dead_letter_queue]
topic = "{dead_letters}"

[downloader]
allowed_urls = ['http://127\\.0\\.0\\.1:{archives}/{bucket}/.+']
allowed_networks = ["127.0.0.0/8"]
max_archive_size = "{max_archive}B"
# The pauses between so many attempts outlast every fault of the server.
attempts = 8

[engine]
extract_tmp_dir = "{temporary}"
max_entries = {max_entries}

[worker]
threads = {threads}
max_in_flight = {max_in_flight}
shutdown_timeout = "{shutdown}s"

[watchers.stats]
address = "127.0.0.1"
port = 0

[logging]
level = "{level}"
"""

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) \[?(\w+)\]? ")
ASSIGNED = re.compile(r" assigned: ?(.*?)(?: generation=\d+)?$")
PLACE = re.compile(rf"{re.escape(cluster.INCOMING)}-(\d+)")
ENDPOINT = re.compile(r" metrics and health on http://[\d.]+:(\d+)")
GIVEN_UP = re.compile(r"(\d+) records (?:in flight are given up|were not done)")
TICKS = os.sysconf("SC_CLK_TCK")


class Worker:
    """One worker through all its lives. Ended and started again it keeps its folder, its settings and its log."""

    def __init__(self, name, folder, program, broker, port, level):
        self.name = name
        self.home = folder / name
        self.temporary = self.home / "tmp"
        self.temporary.mkdir(parents=True)
        self.log = folder / f"{name}.log"
        self.log.touch()
        self.config = self.home / "config.toml"
        self.config.write_text(
            CONFIG.format(
                name=name,
                broker=broker,
                incoming=cluster.INCOMING,
                results=cluster.RESULTS,
                dead_letters=cluster.DEAD_LETTERS,
                group=cluster.GROUP,
                service=catalogue.SERVICE,
                archives=port,
                bucket=catalogue.BUCKET,
                temporary=self.temporary,
                session=SESSION_SECONDS,
                threads=THREADS,
                max_in_flight=MAX_IN_FLIGHT,
                shutdown=SHUTDOWN_SECONDS,
                max_archive=catalogue.MAX_ARCHIVE,
                max_entries=catalogue.MAX_ENTRIES,
                level=level,
            )
        )
        self.program = program
        self.process = None
        self.asked = None  # what we did that may end it: "term", "term twice"
        self.asked_at = 0.0
        self.asked_early = False  # before it said its first word: like every program it may then end of the signal
        self.greeted = False
        self.partitions = set()  # as the log last said
        self.frozen = False
        self.port = None  # of its endpoint
        self.lives = 0
        self.peak_bytes = 0
        self.cpu_seconds = 0.0  # of lives that are over
        self.cpu_now = 0.0
        self.levels = collections.Counter()  # lines of the log
        self.read_to = 0
        self.unfinished_line = b""

    def start(self):
        """Only from the main thread: see `tools.spawn`."""
        self.lives += 1
        self.greeted = False
        with open(self.log, "ab") as log:
            self.process = tools.spawn(
                [str(self.program), "run", "--config", str(self.config)],
                cwd=self.home,
                env={},  # nothing of the person's shell: no proxy, no CCX_DATA_PIPELINE__ variable
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def runs(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        self.sample()
        self.process.kill()
        self.process.wait()
        self.over()

    def ask_to_end(self, how):
        self.asked, self.asked_at, self.asked_early = how, time.monotonic(), not self.greeted
        self.process.terminate()

    def second_signal(self):
        if self.runs:
            self.process.terminate()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def over(self):
        """This life has ended."""
        self.process = None
        self.asked, self.asked_early = None, False
        self.frozen = False
        self.partitions = set()
        self.cpu_seconds += self.cpu_now
        self.cpu_now = 0.0

    def sample(self):
        """Peak memory and processor time, while there is something to read them from."""
        if not self.runs:
            return
        try:
            with open(f"/proc/{self.process.pid}/status") as file:
                for line in file:
                    if line.startswith("VmHWM:"):
                        self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)
            with open(f"/proc/{self.process.pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            self.cpu_now = (int(fields[11]) + int(fields[12])) / TICKS
        except (OSError, IndexError):
            pass

    def follow(self):
        """Reads what was logged since the last look. Yields (time, records) wherever work in flight was given up."""
        with open(self.log, "rb") as file:
            file.seek(self.read_to)
            read = file.read()
        self.read_to += len(read)
        *lines, self.unfinished_line = (self.unfinished_line + read).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if not (found := LINE.match(text)):
                continue
            self.levels[found[2]] += 1
            if found[2] == "DEBUG":
                continue
            self.greeted = True
            if assigned := ASSIGNED.search(text):
                self.partitions = {int(number) for number in PLACE.findall(assigned[1])}
            elif endpoint := ENDPOINT.search(text):
                self.port = int(endpoint[1])
            elif given_up := GIVEN_UP.search(text):
                when = datetime.fromisoformat(found[1]).timestamp()
                yield when, int(given_up[1]), set(self.partitions)

    def not_ready(self):
        """What its endpoint says against its readiness; empty: nothing."""
        try:
            connection = http.client.HTTPConnection(tools.HOST, self.port, timeout=5)
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace").strip()
            return "" if answer.status == 200 else f"{answer.status} {said}"
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {error}"

    def left_behind(self):
        """What is in its temporary directory: after a clean end, nothing."""
        return sorted(path.name for path in self.temporary.iterdir())
