"""The server of archives: an object store that answers for each record as its kind says, and can be taken away."""

import collections
import contextlib
import http.server
import os
import socket
import struct
import threading
import time

import tools

from . import records as catalogue

EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
MISSING = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

# How long a body takes that comes slowly but arrives, and how many pieces it has.
SLOW_SECONDS, SLOW_PIECES = 3.0, 12
# Longer than the worker's patience with a body that has stopped.
STALL_SECONDS = 30


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A client that goes away in the middle is one that was killed, which is what this is about."""


class Store:
    """Serves on one port; `take_away` and `bring_back` are the faults of the whole of it."""

    def __init__(self, seed):
        self.port = tools.free_port()
        self.records = catalogue.Records(seed, self.port)
        self.asked = collections.Counter()  # attempts by the record's number
        self.fault = None
        self.server = None
        self.open = set()  # connections
        self.lock = threading.Lock()
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                with store.lock:
                    store.open.add(self.connection)

            def finish(self):
                with store.lock:
                    store.open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()

            def do_GET(self):
                Answer(store, self).give()

            def log_message(self, *_):
                pass

        self.handler = Handler
        self.listen()

    def listen(self):
        self.server = Server((tools.HOST, self.port), self.handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def take_away(self, fault):
        """`refuses`: nobody listens; `silent`: requests are taken and not answered; `busy`: 503 to all."""
        self.fault = fault
        if fault == "refuses":
            self.server.shutdown()
            self.server.server_close()
            self.cut_connections()

    def bring_back(self):
        if self.fault == "refuses":
            self.listen()
        if self.fault:
            self.fault = None
            self.cut_connections()

    def cut_connections(self):
        with self.lock:
            for connection in self.open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def end(self):
        if self.fault != "refuses":
            self.server.shutdown()
            self.server.server_close()
        self.cut_connections()


class Answer:
    """One request and what is answered to it."""

    def __init__(self, store, request):
        self.store = store
        self.request = request

    def give(self):
        if self.store.fault == "silent":
            # Until it is brought back, which cuts the connection.
            while self.store.fault == "silent":
                time.sleep(0.05)
            return self.hang_up()
        if self.store.fault == "busy":
            return self.send(503, BUSY)
        path, _, query = self.request.path.partition("?")
        record = self.store.records.of(int(path.rpartition("/")[2]))
        if not query.endswith(f"X-Amz-Signature={record.signature}"):
            # The record's own link was not sent as it is: nothing that is expected has this status.
            return self.send(418, b"SignatureDoesNotMatch")
        with self.store.lock:
            attempt = self.store.asked[record.number]
            self.store.asked[record.number] += 1
        body = catalogue.body(record.kind.name, record.cluster)
        if attempt < len(record.faults):
            return self.fail(record.faults[attempt], body)
        match record.kind.name:
            case "expired":
                self.send(403, EXPIRED)
            case "missing":
                self.send(404, MISSING)
            case "redirected":
                self.send(302, b"", Location=f"http://{tools.HOST}:{self.store.port}/elsewhere")
            case "unauthorised":
                self.send(401, b"")
            case "too-large":
                self.head(200, catalogue.MAX_ARCHIVE + 1)
                self.hang_up()
            case "slow":
                self.head(200, len(body))
                self.trickle(body)
            case _:
                self.send(200, body)

    def fail(self, fault, body):
        match fault:
            case "500" | "502" | "503":
                self.send(int(fault), b"")
            case "503-later" | "429-later":
                self.send(int(fault[:3]), BUSY, **{"Retry-After": "1"})
            case "404":
                self.send(404, MISSING)
            case "reset-at-once":
                self.reset()
            case "reset-midway":
                self.head(200, len(body))
                self.write(body[: len(body) // 2])
                self.reset()
            case "short":
                self.head(200, len(body) + 1000)
                self.write(body)
                self.hang_up()
            case "stall":
                self.head(200, len(body))
                self.write(body[: len(body) // 2])
                until = time.monotonic() + STALL_SECONDS
                while time.monotonic() < until and not self.is_closed():
                    time.sleep(0.2)
                self.hang_up()

    def send(self, status, body, **headers):
        self.head(status, len(body), **headers)
        self.write(body)

    def head(self, status, length, **headers):
        self.request.send_response_only(status)
        self.request.send_header("Content-Type", "application/octet-stream")
        self.request.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.request.send_header(name, value)
        self.request.end_headers()

    def write(self, content):
        self.request.wfile.write(content)

    def trickle(self, body):
        size = len(body) // SLOW_PIECES + 1
        for start in range(0, len(body), size):
            self.write(body[start : start + size])
            time.sleep(SLOW_SECONDS / SLOW_PIECES)

    def is_closed(self):
        """Whether the other side has gone: a worker that gave up or was killed."""
        try:
            return self.request.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def hang_up(self):
        self.request.close_connection = True

    def reset(self):
        """Ends the connection with RST instead of FIN."""
        self.hang_up()
        self.request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Behind the back of the socket object, whose orderly end would send FIN first.
        os.close(self.request.connection.detach())
