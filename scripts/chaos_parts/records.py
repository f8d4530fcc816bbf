"""What is announced: one number, one record, and what has to become of it.

Everything about a record follows from the seed and its number: its bytes, how the server answers for it, and the
outcome. So the server, the producer and the ledger agree without telling each other anything, and a run with the same
seed announces the same records.
"""

import base64
import functools
import gzip
import io
import json
import random
import tarfile
import uuid
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import archives
import tools

PARTITIONS = 6
SERVICE = "openshift"
# Names the record in every copy of it, also when nobody can read its value.
NUMBER_HEADER = "chaos-number"
BUCKET = "insights-upload"

# None of these may turn up in a log or a header of a dead letter. The first is in the path of every link, the second in
# its query, the third in every identity, which travels as BASE64.
PATH_SECRET = "path-4b1d0ff5"
QUERY_SECRET = "5e3dc0de"
IDENTITY_SECRET = base64.b64encode(b'{"identity": {"internal"').decode()
SECRETS = (PATH_SECRET, QUERY_SECRET, IDENTITY_SECRET, "X-Amz-Signature", "X-Amz-Credential")

MAX_ARCHIVE = 2 << 20
MAX_ENTRIES = 1000

PUBLISHED, SKIPPED = "published", "skipped"

# How the server fails the first attempts for a record that is published in the end.
FAULTS = {
    "server-error": ["500", "502", "503", "503-later", "429-later"],
    "broken-off": ["reset-at-once", "reset-midway", "short"],
    "stalled": ["stall"],
    "not-yet": ["404"],
}


@dataclass(frozen=True)
class Kind:
    name: str
    share: int  # in thousandths of all records
    outcome: str  # PUBLISHED, SKIPPED, or the reason of a dead letter


KINDS = [
    Kind("good", 590, PUBLISHED),
    Kind("slow", 30, PUBLISHED),
    Kind("large", 10, PUBLISHED),
    Kind("plain-tar", 20, PUBLISHED),
    Kind("two-gzip-members", 10, PUBLISHED),
    Kind("server-error", 70, PUBLISHED),
    Kind("broken-off", 70, PUBLISHED),
    Kind("stalled", 4, PUBLISHED),
    Kind("not-yet", 20, PUBLISHED),
    Kind("other-service", 30, SKIPPED),
    Kind("too-old", 20, SKIPPED),
    Kind("null-value", 6, "message_empty"),
    Kind("half-a-message", 6, "message_json"),
    Kind("no-url", 6, "message_schema"),
    Kind("bad-identity", 6, "identity"),
    Kind("bad-org-id", 6, "org_id"),
    Kind("bad-timestamp", 6, "timestamp"),
    Kind("metadata-service", 6, "url_refused"),
    Kind("expired", 6, "url_expired"),
    Kind("missing", 6, "not_found"),
    Kind("redirected", 6, "http_redirect"),
    Kind("unauthorised", 6, "download_failed"),
    Kind("empty", 6, "archive_empty"),
    Kind("login-page", 6, "not_an_archive"),
    Kind("zip", 6, "unsupported_container"),
    Kind("cut-off", 6, "archive_corrupt"),
    Kind("bad-checksum", 6, "archive_corrupt"),
    Kind("bomb", 6, "archive_ratio"),
    Kind("too-large", 6, "archive_too_large"),
    Kind("too-many-members", 6, "archive_entries"),
    Kind("escape", 6, "archive_unsafe"),
    Kind("no-cluster", 6, "cluster_id"),
]
SHARES = [kind.share for kind in KINDS]
assert sum(SHARES) == 1000

# Kinds whose archive is one of the sample clusters, in this or that form.
OF_A_CLUSTER = {kind.name for kind in KINDS if kind.outcome == PUBLISHED}
CLUSTERS = {cluster.name: cluster for cluster in archives.clusters()}


@dataclass(frozen=True)
class Record:
    number: int
    kind: Kind
    partition: int
    cluster: str  # name of the sample cluster in the archive
    cluster_id: str  # what the result has to name
    named_by: str  # "message", "identity" or "archive": where the cluster's id is to be found
    org_id: int
    request_id: str
    uploaded: str
    signature: str
    faults: tuple  # how the first attempts fail

    @property
    def outcome(self):
        return self.kind.outcome


class Records:
    """The endless list of records of one run."""

    def __init__(self, seed, port):
        self.seed = seed
        self.port = port
        self.of = functools.lru_cache(maxsize=None)(self._of)

    def _of(self, number):
        dice = random.Random(f"{self.seed}/record/{number}")
        kind = dice.choices(KINDS, SHARES)[0]
        cluster = dice.choice(list(CLUSTERS))
        named_by = "archive" if kind.name == "no-cluster" else dice.choice(["message", "identity", "archive"])
        own_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        faults = FAULTS.get(kind.name, ())
        # One that stalls costs ten seconds, and of "not found" one is believed.
        times = dice.choice([1, 2]) if len(faults) > 1 else 1
        return Record(
            number=number,
            kind=kind,
            partition=dice.randrange(PARTITIONS),
            cluster=cluster,
            cluster_id=archives.cluster_id(cluster) if named_by == "archive" else own_id,
            named_by=named_by,
            org_id=1_000_000 + number,
            request_id=f"{number:08d}{dice.getrandbits(96):024x}",
            uploaded=(datetime(2025, 3, 3, tzinfo=UTC) + timedelta(milliseconds=number)).isoformat().replace("+00:00", "Z"),
            signature=f"{QUERY_SECRET}{dice.getrandbits(224):056x}",
            faults=tuple(dice.choice(faults) for _ in range(times)) if faults else (),
        )

    def url(self, record):
        if record.kind.name == "metadata-service":
            return f"http://169.254.169.254/{PATH_SECRET}/iam?X-Amz-Signature={record.signature}"
        credential = "AKIACHAOSCHAOSCHAOS0%2F20250303%2Feu-central-1%2Fs3%2Faws4_request"
        return (
            f"http://{tools.HOST}:{self.port}/{BUCKET}/{PATH_SECRET}/{record.number}"
            f"?X-Amz-Credential={credential}&X-Amz-Expires=86400&X-Amz-Signature={record.signature}"
        )

    def value(self, record):
        """The bytes of the announcement; None: a null value."""
        kind = record.kind.name
        if kind == "null-value":
            return None
        message = {
            "request_id": record.request_id,
            "account": f"0{record.org_id}",
            "category": "periodic",
            "metadata": {"reporter": "", "custom_metadata": {"gathering_time": archives.GATHERED}},
            "principal": str(record.org_id),
            "service": SERVICE,
            "url": self.url(record),
            "b64_identity": identity(record),
            "timestamp": "the day before yesterday" if kind == "bad-timestamp" else record.uploaded,
        }
        if record.named_by == "message":
            message["cluster_name"] = record.cluster_id
        if kind == "no-url":
            del message["url"]
        value = json.dumps(message).encode()
        return value[: len(value) // 2] if kind == "half-a-message" else value

    @staticmethod
    def headers(record):
        service = "advisor" if record.kind.name == "other-service" else SERVICE
        return [("service", service.encode()), (NUMBER_HEADER, str(record.number).encode())]


def identity(record):
    """BASE64 of who uploaded."""
    if record.kind.name == "bad-identity":
        return IDENTITY_SECRET + "="  # half of one
    org_id = "twelve" if record.kind.name == "bad-org-id" else str(record.org_id)
    facts = {"internal": {"org_id": org_id}, "account_number": f"0{record.org_id}", "type": "System"}
    if record.named_by == "identity":
        facts["system"] = {"cluster_id": record.cluster_id}
    return base64.b64encode(json.dumps({"identity": facts}).encode()).decode()


@functools.cache
def body(kind, cluster):
    """What the server sends with status 200, by the name of the record's kind and its sample cluster."""
    whole = CLUSTERS[cluster].archive()
    if kind == "large":
        # Over 1 MiB as it travels, so that the worker keeps it on disk.
        return packed([*members(cluster), ("config/noise", random.Random(cluster).randbytes(3 << 19))])
    if kind == "plain-tar":
        return CLUSTERS[cluster].tar()
    if kind == "two-gzip-members":
        plain = CLUSTERS[cluster].tar()
        return gzip.compress(plain[:10_000], mtime=0) + gzip.compress(plain[10_000:], mtime=0)
    if kind == "empty":
        return b""
    if kind == "login-page":
        return b"<!DOCTYPE html><title>Sign in</title><p>Your session has ended."
    if kind == "zip":
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as file:
            file.writestr("config/id", archives.cluster_id(cluster))
        return made.getvalue()
    if kind == "cut-off":
        return whole[: len(whole) * 2 // 3]
    if kind == "bad-checksum":
        return whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    if kind == "bomb":
        return archives.bomb()
    if kind == "too-many-members":
        return packed([*members(cluster), *((f"config/pod/{n}.json", b"") for n in range(MAX_ENTRIES))])
    if kind == "escape":
        return archives.escape()
    if kind == "no-cluster":
        return packed([member for member in members(cluster) if member[0] != "config/id"])
    return whole


def members(cluster):
    with tarfile.open(fileobj=io.BytesIO(CLUSTERS[cluster].tar())) as plain:
        return [(member.name, plain.extractfile(member).read()) for member in plain]


def packed(files):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in files:
            archives.add_file(archive, path, content)
    return gzip.compress(plain.getvalue(), compresslevel=1, mtime=0)
