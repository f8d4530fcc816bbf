#!/usr/bin/env python3
"""Writes the seeds of the corpora that can be made by hand: fuzz/corpus/TARGET/seed-NAME.

    fuzz/seeds.py

The bytes are the same on every run. What a fuzzer found beside them (names of forty hexadecimal
digits) stays as it is. Answers of brokers are made by the codec, in a test of src/kafka/fuzzing.rs.
"""

import base64
import gzip
import io
import json
import pathlib
import struct
import tarfile

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def put(target, name, data):
    path = CORPUS / target / f"seed-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar(members, format=tarfile.GNU_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, body, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = len(body)
            info.mtime = 1_700_000_000
            info.linkname = "a" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(info, io.BytesIO(body))
    # Without the padding to a record of ten KiB.
    return out.getvalue().rstrip(b"\0").ljust(512, b"\0")


def pad(data):
    return data.ljust(-(-len(data) // 512) * 512, b"\0") + bytes(1024)


def zipped(data):
    return gzip.compress(data, 9, mtime=0)


def archives():
    reg, link, hard = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    small = pad(tar([("config/id", b"11111111-2222-3333-4444-555555555555", reg)]))
    kinds = pad(tar([
        ("d", b"", tarfile.DIRTYPE), ("d/a", b"x", reg), ("l", b"", link), ("h", b"", hard),
        ("f", b"", tarfile.FIFOTYPE), ("c", b"", tarfile.CHRTYPE), ("d/a", b"yy", reg),
    ]))
    long = [("config/" + "n" * 120, b"long", reg), ("config/node/\u00e4.json", b"{}", reg)]
    put("archive", "plain", small)
    put("archive", "gzip", zipped(small))
    put("archive", "kinds", zipped(kinds))
    put("archive", "gnu-long", zipped(pad(tar(long))))
    put("archive", "pax-long", zipped(pad(tar(long, tarfile.PAX_FORMAT))))
    put("archive", "members", zipped(small[:700]) + zipped(b"") + zipped(small[700:]) + bytes(20))
    put("archive", "cut", zipped(small)[:-4])
    put("archive", "trailing", zipped(small) + b"x")
    put("archive", "empty", b"")
    put("archive", "zip", b"PK\x03\x04" + bytes(30))
    put("archive", "html", b"<html><body>Not here</body></html>")
    put("archive", "ratio", zipped(small[:-1024] + bytes(1 << 20)))
    # A header of gzip with extra field, name, comment and its own checksum flag.
    put("archive", "fields", b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x04\x00extr" + b"name\0comment\0\0\0")


def blocks():
    cuts = struct.pack("<HH", 513, 1100)

    def file(name, body):
        return bytes([0, 255, len(name)]) + name + bytes([len(body)]) + body

    known = bytes([0, 0, 4]) + b"1111"
    put("tar_blocks", "files", cuts + known + file(b"x/y", b"z" * 100) + file(b"x/y", b""))
    put("tar_blocks", "kinds", cuts + b"".join(
        bytes([2, kind, 2, 3]) + b"abc" + bytes([0]) for kind in range(20)))
    put("tar_blocks", "pax", cuts + bytes([5, 3, 0, 1, 1, 1, 0, 1, 9, 2, 0, 1, 1, 0, 0]) + known)
    put("tar_blocks", "long", cuts + bytes([6, 2, 150]) + b"n" * 150 + known)
    put("tar_blocks", "sparse", cuts + bytes([7, 3, 4, 0, 64, 1, 200, 2, 3, 2, 1, 100, 3, 4, 1, 100]) + bytes([200]) + b"s" * 200)
    put("tar_blocks", "link", cuts + bytes([8, 1]) + bytes([0, 6, 1]) + b"x" + known)
    put("tar_blocks", "sizes", cuts + bytes([4, 2, 1, 7, 3]) + b"abc" + bytes([4, 2, 6, 0, 1]) + b"a")


def messages():
    identity = {"identity": {
        "internal": {"org_id": "123456"}, "account_number": "789",
        "system": {"cluster_id": "12345678-aaaa-eeee-ffff-000000000000"}}}
    encoded = base64.b64encode(json.dumps(identity).encode()).decode()
    message = {
        "url": "https://b.s3.amazonaws.com/k?X-Amz-Signature=s", "b64_identity": encoded,
        "timestamp": "2021-07-13T07:16:44.1Z", "request_id": "r", "size": 12,
        "cluster_name": "12345678-aaaa-eeee-ffff-000000000000",
        "metadata": {"custom_metadata": {"gathering_time": "2021-07-13 07:16:44+02:00"}}}
    put("ingress", "whole", b"\0" + json.dumps(message).encode())
    put("ingress", "list", b"\0[1, -2.5e3, \"\\u00e4\\ud83d\\ude00\", null, true, {}]")
    put("ingress", "found-list-beyond-doubles", b"\0[1e999, \"\\ud800\"]")
    put("ingress", "deep", b"\0" + b"[" * 130)
    put("ingress", "identity", b"\1" + json.dumps(identity).encode())
    put("ingress", "number", b"\1" + b'{"identity":{"internal":{"org_id":42},"account_number":-1}}')
    texts = [b"https://h/", b"2021-07-13T07:16:44Z", b"2021-W28-2T07:16", b"1" * 32, b"r"]
    put("ingress", "texts", b"\2" + b"".join(bytes([len(t)]) + t for t in texts))
    put("ingress", "base64", b"\3" + encoded.encode())
    put("ingress", "breaks", b"\3" + "\n".join(encoded[i:i + 20] for i in range(0, len(encoded), 20)).encode())


def urls():
    cases = [
        b"https://bucket.s3.us-east-1.amazonaws.com/a/b%2F~c?X-Amz-Signature=a+b#f",
        b"https://s3.dualstack.eu-west-1.amazonaws.com/bucket/key", b"HTTPS://B.S3.AmazonAWS.com.:443/k",
        b"https://u:p@b.s3.amazonaws.com/k", b"https://169.254.169.254?x.s3.amazonaws.com/a",
        b"http://[::ffff:10.0.0.1]:80/x", b"http://0x7f000001/x", b"http://2130706433/x",
        b"http://10.1.2.3:8080/x", b"http://1.1.1.1/x", b"https://h.example:0/x", b"file:///etc/passwd",
        b"http://h.example/../x", b"https://b.s3.amazonaws.com/%2e%2e/k", b"/relative", b"h:443",
    ]
    for number, case in enumerate(cases):
        put("url_policy", f"{number:02}", bytes([case.startswith(b"http:")]) + case)


def documents():
    condition = {"type": "Degraded", "status": "True", "reason": "R", "message": "m",
                 "lastTransitionTime": "2021-07-12T21:20:38Z"}
    bodies = [
        {"metadata": {"name": "a", "namespace": "openshift-x", "labels": {"k": "v"}},
         "spec": {"replicas": 1, "unschedulable": True, "taints": [{"key": "k", "effect": "NoSchedule"}],
                  "managementState": "Unmanaged", "logLevel": "Debug", "storage": {"emptyDir": {}}},
         "status": {"conditions": [condition], "phase": "Failed", "replicas": 0,
                    "containerStatuses": [{"name": "c", "ready": False, "restartCount": 99,
                                           "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}},
        {"items": [{"metadata": {"name": "a"}, "status": {"conditions": [condition]}}]},
        [{"labels": {"alertname": "X", "severity": "critical"}, "state": "firing"}],
        {"a": "1", "b": ["x", None, 7, {}]},
    ]
    texts = [json.dumps(body).encode() for body in bodies]
    texts += [b"up{a=\"b\",c=\"d\"} 1 1626160604000\nALERTS{alertname=\"X\",alertstate=\"firing\"} 1\n",
              b"2021-07-13T07:16:44Z E0713 07:16:44.1 1 x.go:1] failed\n", b"a:\n  b: [1, 2]\n- c\n", b"{", b""]
    # Every text under every few names: the fuzzer does the rest.
    for number, text in enumerate(texts):
        row = b"".join(struct.pack("<HH", place * 37 + number * 5, len(text)) + text for place in range(6))
        put("documents", f"{number}", b"\1" + row)


for make in (archives, blocks, messages, urls, documents):
    make()
