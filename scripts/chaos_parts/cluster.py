"""The Kafka side: a broker that can be stopped, the producer of announcements, and what the topics hold in the end."""

import collections
import queue
import threading
import time
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import tools

from . import records as catalogue

KIND = "apache-4"
INCOMING, RESULTS, DEAD_LETTERS = "platform.upload.announce", "ccx.ocp.results", "ccx.ocp.dead-letters"
TOPICS = {INCOMING: catalogue.PARTITIONS, RESULTS: 3, DEAD_LETTERS: 1}
GROUP = "ccx_data_pipeline_chaos"
# A record of this age is older than the workers take.
OLD_MS = 25 * 3600 * 1000
# How long the producer keeps a record that the broker does not take: longer than the broker is ever away.
PRODUCE_SECONDS = 300
# Between two looks at the committed offsets.
LOOK_SECONDS = 0.5


def settings(address, **more):
    """Settings that every librdkafka client here shares. Its own log lines would spoil the picture."""
    return {"bootstrap.servers": address, "log_level": 0, "socket.timeout.ms": 10000, **more}


class Broker(tools.Broker):
    """Takes orders without making us wait: `order` says a word, `busy` tells whether it is still being done."""

    def __init__(self, log):
        super().__init__(KIND, log)
        self.answers = queue.SimpleQueue()
        self.waiting = collections.deque()
        self.up = False

    def wait(self):
        super().wait()
        self.up = True

        def listen():
            for line in self.process.stdout:
                self.answers.put(line.strip())
            self.answers.put(None)

        threading.Thread(target=listen, daemon=True).start()

    def order(self, word):
        self.up = False
        self.waiting.append(word)
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def look(self):
        """Takes answers. Returns the words that were carried out."""
        done = []
        while not self.answers.empty():
            answer = self.answers.get()
            if answer is None:
                raise tools.Problem(f"the broker ended by itself; its log is {self.log}")
            done.append(self.waiting.popleft())
            self.up = answer == "ready" and not self.waiting
        return done

    @property
    def busy(self):
        return bool(self.waiting)

    def make_topics(self):
        admin = AdminClient(settings(self.address))
        made = admin.create_topics([NewTopic(name, count, 1) for name, count in TOPICS.items()])
        for done in made.values():
            done.result(60)


class Announcer:
    """Produces the records in order and notes where each came to lie. Idempotent: the broker has each of them once."""

    def __init__(self, address, records):
        self.records = records
        self.places = {}  # number to (partition, offset)
        self.sent = 0
        self.error = None
        self.producer = Producer(
            settings(
                address,
                **{
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "message.timeout.ms": PRODUCE_SECONDS * 1000,
                    "reconnect.backoff.max.ms": 1000,
                },
            )
        )

    def announce(self):
        record = self.records.of(self.sent)
        now = int(time.time() * 1000)

        def delivered(error, message, number=record.number):
            if error:
                self.error = self.error or f"the broker has not taken record {number}: {error}"
            else:
                self.places[number] = (message.partition(), message.offset())

        self.producer.produce(
            INCOMING,
            self.records.value(record),
            key=record.request_id,
            partition=record.partition,
            headers=self.records.headers(record),
            timestamp=now - OLD_MS if record.kind.name == "too-old" else now,
            on_delivery=delivered,
        )
        self.sent += 1

    def poll(self):
        self.producer.poll(0)
        if self.error:
            raise tools.Problem(self.error)

    def waiting(self):
        """Announced, but not yet acknowledged."""
        return self.sent - len(self.places)

    def ends(self):
        """The offset behind the last record of each partition."""
        ends = [0] * catalogue.PARTITIONS
        for partition, offset in self.places.values():
            ends[partition] = max(ends[partition], offset + 1)
        return ends


class Progress(threading.Thread):
    """Follows the group's committed offsets. While the broker is away the last ones count."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address = address
        self.committed = [0] * catalogue.PARTITIONS
        self.history = [(0.0, tuple(self.committed))]  # wall clock, offsets
        self.ending = threading.Event()

    def run(self):
        consumer = Consumer(settings(self.address, **{"group.id": GROUP, "enable.auto.commit": False}))
        partitions = [TopicPartition(INCOMING, number) for number in range(catalogue.PARTITIONS)]
        while not self.ending.wait(LOOK_SECONDS):
            # As of before the question: what is committed meanwhile must not count as committed already.
            now = time.time()
            try:
                found = consumer.committed(partitions, timeout=5)
            except KafkaException:
                continue
            if any(partition.error for partition in found):
                continue
            self.committed = [max(partition.offset, 0) for partition in found]
            self.history.append((now, tuple(self.committed)))
        consumer.close()

    def at(self, moment):
        """What was certainly committed at that moment of the wall clock, or a little less."""
        return next(offsets for when, offsets in reversed(self.history) if when <= moment)

    def end(self):
        self.ending.set()
        self.join(20)


@dataclass(frozen=True)
class Found:
    """A record of an outgoing topic."""

    topic: str
    when: float  # wall clock of the worker that sent it
    key: bytes | None
    value: bytes | None
    headers: dict


def read_outcomes(address):
    """Every record of results and dead letters, from the start to the end of now."""
    consumer = Consumer(settings(address, **{"group.id": "chaos-reader", "enable.auto.commit": False}))
    try:
        ends = {}
        for topic, count in ((RESULTS, TOPICS[RESULTS]), (DEAD_LETTERS, TOPICS[DEAD_LETTERS])):
            for number in range(count):
                start, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)
                if start != 0:
                    raise tools.Problem(f"{topic}-{number} begins at {start}: outcomes are gone, the ledger would be wrong")
                if end > 0:
                    ends[topic, number] = end
        assigned = [TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in ends]
        consumer.assign(assigned)
        deadline = time.monotonic() + 60
        while ends:
            for message in consumer.consume(500, timeout=1.0):
                if message.error():
                    continue
                deadline = time.monotonic() + 60
                place = (message.topic(), message.partition())
                if message.offset() + 1 >= ends.get(place, 0):
                    ends.pop(place, None)
                yield Found(
                    message.topic(),
                    message.timestamp()[1] / 1000,
                    message.key(),
                    message.value(),
                    dict(message.headers() or []),
                )
            if time.monotonic() > deadline:
                raise tools.Problem(f"the outcomes cannot be read: {len(ends)} partitions are silent")
    finally:
        consumer.close()
