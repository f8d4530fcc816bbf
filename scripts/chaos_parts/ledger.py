"""The ledger: every announced record against what the outgoing topics hold, and duplicates against their bound."""

import collections
import hashlib
import json
from dataclasses import dataclass, field

import archives

from . import cluster
from . import records as catalogue

# The guard against crash loops may blame an innocent record, but not before so many crashes.
CRASH_LOOP, CRASHES = "crash_loop", 3


@dataclass(frozen=True)
class Disturbance:
    """Something after which records may come again."""

    what: str
    begin: float  # wall clock
    end: float
    partitions: frozenset
    in_flight: int  # records that may have been in work


@dataclass
class Ledger:
    records: catalogue.Records
    places: dict  # number to (partition, offset)
    kills: int
    results: dict = field(default_factory=lambda: collections.defaultdict(list))  # number to times
    dead: dict = field(default_factory=lambda: collections.defaultdict(list))  # number to (time, reason)
    reports: dict = field(default_factory=dict)  # what was analysed to the report of it
    problems: list = field(default_factory=list)

    def read(self, outcomes):
        for found in outcomes:
            if found.topic == cluster.RESULTS:
                self.take_result(found)
            else:
                self.take_dead_letter(found)

    def problem(self, number, what):
        """Something that must not be, with all that is needed to look for it."""
        record = self.records.of(number)
        partition, offset = self.places.get(number, ("?", "?"))
        self.problems.append(
            f"record {number} ({record.kind.name}, request {record.request_id}) at {cluster.INCOMING}-{partition} offset "
            f"{offset}: {what}; expected: {record.outcome}"
        )

    def take_result(self, found):
        try:
            result = json.loads(found.value)
            request = result["RequestId"]
            number = int(request[:8])
            record = self.records.of(number)
            if number not in self.places or record.request_id != request:
                raise ValueError("no such record was announced")
        except (ValueError, KeyError, TypeError) as error:
            self.problems.append(f"a result that belongs to no record: {error}: {(found.value or b'')[:200]!r}")
            return
        self.results[number].append(found.when)
        wanted = {
            "OrgID": record.org_id,
            "AccountNumber": record.org_id,
            "ClusterName": record.cluster_id,
            "LastChecked": record.uploaded,
        }
        for name, value in wanted.items():
            if result.get(name) != value:
                self.problem(number, f"{name} of its result is {result.get(name)!r} instead of {value!r}")
        if found.key != record.cluster_id.encode():
            self.problem(number, f"its result has the key {found.key!r}")
        self.compare_report(record, result.get("Report", {}))

    def compare_report(self, record, report):
        """The hits that the cluster was made for, and the same report for the same archive whoever made it."""
        hits = {hit["key"] for hit in report.get("reports", [])}
        if missing := set(archives.EXPECTED[record.cluster]) - hits:
            self.problem(record.number, f"the report of {record.cluster} lacks {', '.join(sorted(missing))}")
        report = {name: value for name, value in report.items() if name != "analysis_metadata"}
        digest = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).digest()
        first, of_whom = self.reports.setdefault((record.kind.name == "large", record.cluster), (digest, record.number))
        if first != digest:
            self.problem(record.number, f"the report of {record.cluster} differs from that of record {of_whom}")

    def take_dead_letter(self, found):
        try:
            number = int(found.headers[catalogue.NUMBER_HEADER])
            reason = found.headers["ccx-dlq-reason"].decode()
            place = (int(found.headers["ccx-dlq-partition"]), int(found.headers["ccx-dlq-offset"]))
        except (ValueError, KeyError) as error:
            self.problems.append(f"a dead letter that names no record: {error!r}, headers {sorted(found.headers)}")
            return
        if number not in self.places:
            self.problems.append(f"a dead letter of record {number}, which was not announced")
            return
        self.dead[number].append((found.when, reason))
        record = self.records.of(number)
        if place != self.places[number]:
            self.problem(number, f"its dead letter names partition {place[0]} offset {place[1]}")
        if found.value != self.records.value(record) or found.key != record.request_id.encode():
            self.problem(number, "its dead letter has another key or value than the record")
        for name, value in self.records.headers(record):
            if found.headers.get(name) != value:
                self.problem(number, f"its dead letter has changed the header {name}")
        ours = b" ".join(value or b"" for name, value in found.headers.items() if name.startswith("ccx-dlq-"))
        for secret in catalogue.SECRETS:
            if secret.encode() in ours:
                self.problem(number, f"its dead letter's headers hold {secret}")

    def judge(self):
        """Holds every record against its expectation."""
        for number in range(len(self.places)):
            self.judge_record(number)
        if self.crash_loops and self.kills < CRASHES:
            self.problems.append(f"{self.crash_loops} dead letters {CRASH_LOOP} after {self.kills} kills only")

    def judge_record(self, number):
        outcome = self.records.of(number).outcome
        published = len(self.results[number])
        reasons = {reason for _, reason in self.dead[number]} - {CRASH_LOOP}
        given_up = any(reason == CRASH_LOOP for _, reason in self.dead[number])
        if outcome == catalogue.SKIPPED:
            if published or self.dead[number]:
                self.problem(number, f"{published} results, dead letters {sorted(reasons) or ''}")
            return
        if not published and not reasons and not given_up:
            self.problem(number, "LOST: neither a result nor a dead letter")
        expected = set() if outcome == catalogue.PUBLISHED else {outcome}
        if reasons - expected:
            self.problem(number, f"dead letter {', '.join(sorted(reasons - expected))}")
        if published and outcome != catalogue.PUBLISHED:
            self.problem(number, f"{published} results")

    def count(self, outcome):
        return sum(self.records.of(number).outcome == outcome for number in range(len(self.places)))

    @property
    def crash_loops(self):
        return sum(reason == CRASH_LOOP for letters in self.dead.values() for _, reason in letters)

    def reasons(self):
        return collections.Counter(reason for letters in self.dead.values() for _, reason in letters)

    def outcomes(self, number):
        """When a record was answered, the first time first."""
        return sorted(self.results[number] + [when for when, _ in self.dead[number]])

    @property
    def duplicates(self):
        return sum(max(len(self.outcomes(number)) - 1, 0) for number in range(len(self.places)))

    def bound(self, disturbances, progress):
        """How many duplicates there may be: for each disturbance what was in flight, and what was answered but not
        committed. Returns the sum by the kind of disturbance."""
        answered = collections.defaultdict(list)  # partition to (offset, time)
        for number, (partition, offset) in self.places.items():
            if times := self.outcomes(number):
                answered[partition].append((offset, times[0]))
        bound = collections.Counter()
        for disturbance in disturbances:
            committed = progress.at(disturbance.begin)
            open_records = sum(
                offset >= committed[partition] and when <= disturbance.end
                for partition in disturbance.partitions
                for offset, when in answered[partition]
            )
            bound[disturbance.what] += disturbance.in_flight + open_records
        return bound
