"""librdkafka behind a pipe: one JSON object a line in, one or more out.

Ends when standard input does, so it never outlives the test that started it.
"""

import base64
import json
import os
import sys
import threading

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

BOOTSTRAP = sys.argv[1]
OUT = threading.Lock()


def say(message):
    with OUT:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def packed(value):
    return None if value is None else base64.b64encode(value).decode()


def unpacked(value):
    return None if value is None else base64.b64decode(value)


def record(message):
    # A header name that is not UTF-8 comes as it can be shown; tests of such names do not use librdkafka.
    headers = [[name, packed(value)] for name, value in message.headers() or []]
    kind, time = message.timestamp()
    return {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": time if kind else None,
        "key": packed(message.key()),
        "value": packed(message.value()),
        "headers": headers,
    }


def produce(order):
    settings = {
        "bootstrap.servers": BOOTSTRAP,
        "compression.type": order["codec"],
        "enable.idempotence": True,
        # Long enough that all records of one order share a batch: only then there is something to compress.
        "linger.ms": 50,
        "message.timeout.ms": 30000,
    }
    producer = Producer(settings)
    offsets = [None] * len(order["records"])
    problems = []

    def delivered(place):
        def callback(error, message):
            if error is None:
                offsets[place] = [message.partition(), message.offset()]
            else:
                problems.append(str(error))

        return callback

    for place, new in enumerate(order["records"]):
        producer.produce(
            order["topic"],
            key=unpacked(new["key"]),
            value=unpacked(new["value"]),
            partition=new["partition"],
            headers=[(name, unpacked(value)) for name, value in new["headers"]],
            on_delivery=delivered(place),
            **({"timestamp": new["timestamp"]} if new["timestamp"] else {}),
        )
    if producer.flush(40):
        problems.append("not all records were delivered in time")
    if problems:
        raise RuntimeError("; ".join(problems))
    say({"produced": offsets})


def consume(order):
    """Reads partitions from their beginning until `count` records have come."""
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": "unused",
            "enable.auto.commit": False,
            "check.crcs": True,
            "isolation.level": order["isolation"],
        }
    )
    partitions = [TopicPartition(order["topic"], p, OFFSET_BEGINNING) for p in range(order["partitions"])]
    consumer.assign(partitions)
    for _ in range(order["count"]):
        message = consumer.poll(30)
        if message is None:
            raise RuntimeError("fewer records than expected")
        if message.error():
            raise KafkaException(message.error())
        say({"record": record(message)})
    consumer.close()
    say({"consumed": order["count"]})


class Member(threading.Thread):
    """A member of a group that commits each record once it has told of it."""

    def __init__(self, order):
        super().__init__(daemon=True)
        self.leaving = threading.Event()
        self.order = order

    def run(self):
        consumer = Consumer(
            {
                "bootstrap.servers": BOOTSTRAP,
                "group.id": self.order["group"],
                "client.id": "librdkafka",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": self.order["session_ms"],
                "heartbeat.interval.ms": self.order["session_ms"] // 10,
                "partition.assignment.strategy": self.order["strategy"],
                **self.order["settings"],
            }
        )
        tell = lambda event: lambda _, partitions: say({event: [[p.topic, p.partition] for p in partitions]})
        consumer.subscribe(
            self.order["topics"], on_assign=tell("assigned"), on_revoke=tell("revoked"), on_lost=tell("lost")
        )
        while not self.leaving.is_set():
            message = consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                say({"problem": str(message.error())})
                continue
            say({"record": record(message)})
            try:
                consumer.commit(message, asynchronous=False)
            except KafkaException as refused:
                say({"problem": str(refused)})
        consumer.close()
        say({"left": True})


def main():
    member = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "produce":
                produce(order)
            elif order["do"] == "consume":
                consume(order)
            elif order["do"] == "join":
                member = Member(order)
                member.start()
            elif order["do"] == "leave":
                member.leaving.set()
                member.join()
        except Exception as problem:
            say({"failed": f"{type(problem).__name__}: {problem}"})
    # No farewell to anybody: the test has ended, or was killed.
    os._exit(0)


main()
