#!/usr/bin/env python3
"""A hub for tests: writes and fsyncs what it receives before it acknowledges.

    hub.py (--broker HOST:PORT | --port PORT) --dir DIR [--key-file FILE] [--ack-key-id ID]
    hub.py summary --dir DIR

Follows docs/specs/fleet.md, which says what each step is for. In DIR:

    records.jsonl      one line per record, each once: {"path", "epoch", "seq", "record"}; fsynced before the acknowledgement
    skips.jsonl        {"path", "epoch", "oldest_seq"}: numbers below it that are not there will not come; fsynced likewise
    duplicates.jsonl   {"path", "epoch", "seq"} of records that came again
    key, key.pub       the ed25519 key that acknowledgements are signed with, base64
"""

import argparse
import base64
import json
import os
import re
import signal
import sys
from pathlib import Path

BATCH_LIMIT_BYTES = 64 * 1024
KINDS = {"interval", "agent", "rollup", "gap"}
TOPIC = re.compile(r"mast/v1((?:/[a-z0-9._-]{1,64}){4})/m/metrics")
EPOCH = re.compile(r"[0-9a-f]{16}")
GAPS_LIMIT = 64


class Malformed(Exception):
    """A message that breaks the contract. It is said loudly and not acknowledged."""


def is_number(value):
    return type(value) is int and 0 <= value < 1 << 64


def read_batch(payload):
    """The batch in a message on …/m/metrics, checked as far as the hub relies on it."""

    def need(condition, problem):
        if not condition:
            raise Malformed(problem)

    need(len(payload) <= BATCH_LIMIT_BYTES, f"{len(payload)} bytes")
    try:
        batch = json.loads(payload)
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from error
    need(isinstance(batch, dict), "not an object")
    wanted = {"v", "epoch", "oldest_seq", "first_seq", "last_seq", "codec", "records"}
    need(set(batch) == wanted, f"members {sorted(batch)}")
    need(batch["v"] == 1 and batch["codec"] == "json", "unknown version or codec")
    need(isinstance(batch["epoch"], str) and EPOCH.fullmatch(batch["epoch"]), "epoch is not 16 hex digits")
    need(all(is_number(batch[key]) for key in ("oldest_seq", "first_seq", "last_seq")), "a number is none")
    records = batch["records"]
    need(isinstance(records, list) and 1 <= len(records) <= 64, "wanted 1 to 64 records")
    need(all(isinstance(r, dict) and set(r) == {"seq", "record"} and is_number(r["seq"]) for r in records), "bad record")
    seqs = [record["seq"] for record in records]
    need(all(a < b for a, b in zip(seqs, seqs[1:])), "records are not in order")
    need(batch["oldest_seq"] <= batch["first_seq"] == seqs[0], "first_seq is not the first record's")
    need(batch["last_seq"] == seqs[-1], "last_seq is not the last record's")
    for record in (entry["record"] for entry in records):
        need(isinstance(record, dict) and record.get("v") == 1 and set(record) == {"v", "body"}, "bad record")
        body = record["body"]
        need(isinstance(body, dict) and len(body) == 1 and set(body) <= KINDS, "unknown kind of record")
    return batch


def explained(record):
    """The ranges of other numbers that a record explains, and whether it holds their sums."""
    (kind, body), = record["body"].items()
    if kind not in ("rollup", "gap"):
        return [], False
    return [*body.get("earlier", []), [body["first_seq"], body["last_seq"]]], kind == "rollup"


class Stream:
    """What the hub has of one (path, epoch)."""

    def __init__(self):
        self.seqs = set()
        self.upto_seq = None
        self.highest = 0

    def skip_to(self, oldest_seq):
        """What is below and not here will not come. True if that is news."""
        if self.upto_seq is not None and oldest_seq - 1 <= self.upto_seq:
            return False
        self.upto_seq = oldest_seq - 1 if oldest_seq else 0
        self.advance()
        return True

    def add(self, seq):
        self.seqs.add(seq)
        self.highest = max(self.highest, seq)

    def advance(self):
        while self.upto_seq + 1 in self.seqs:
            self.upto_seq += 1

    def gaps(self):
        """Ranges missing above upto_seq, the lowest few."""
        gaps, expected = [], self.upto_seq + 1
        for seq in sorted(seq for seq in self.seqs if seq > self.upto_seq):
            if seq > expected:
                gaps.append([expected, seq - 1])
            expected = seq + 1
        return gaps[:GAPS_LIMIT]


class Ledger:
    """The files in DIR."""

    def __init__(self, directory, writable=True):
        self.directory = directory
        self.streams = {}
        self.files = {}
        for line in self.lines("skips.jsonl", writable):
            self.stream(line).skip_to(line["oldest_seq"])
        for line in self.lines("records.jsonl", writable):
            self.stream(line).add(line["seq"])
        for stream in self.streams.values():
            if stream.upto_seq is not None:
                stream.advance()

    def stream(self, line):
        return self.streams.setdefault((line["path"], line["epoch"]), Stream())

    def lines(self, name, repair=False):
        """The lines of a file. A last one without an end was never acknowledged; with `repair` it is cut off."""
        path = self.directory / name
        if not path.exists():
            return
        whole = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                yield json.loads(line)
        if repair and whole < path.stat().st_size:
            os.truncate(path, whole)

    def append(self, name, lines, durable):
        if not lines:
            return
        if name not in self.files:
            self.files[name] = (self.directory / name).open("ab")
            sync_directory(self.directory)
        file = self.files[name]
        file.write(b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines))
        file.flush()
        if durable:
            os.fsync(file.fileno())

    def take(self, path, batch):
        """Puts a batch on stable storage, and returns its stream."""
        name = {"path": path, "epoch": batch["epoch"]}
        stream = self.stream(name)
        new = [entry for entry in batch["records"] if entry["seq"] not in stream.seqs]
        again = [entry for entry in batch["records"] if entry["seq"] in stream.seqs]
        self.append("records.jsonl", [name | entry for entry in new], durable=True)
        for entry in new:
            stream.add(entry["seq"])
        if stream.skip_to(batch["oldest_seq"]):
            self.append("skips.jsonl", [name | {"oldest_seq": batch["oldest_seq"]}], durable=True)
        stream.advance()
        self.append("duplicates.jsonl", [name | {"seq": entry["seq"]} for entry in again], durable=False)
        return stream

    def summary(self):
        records, duplicates = {}, {}
        for line in self.lines("records.jsonl"):
            records.setdefault((line["path"], line["epoch"]), {})[line["seq"]] = line["record"]
        for line in self.lines("duplicates.jsonl"):
            key = (line["path"], line["epoch"])
            duplicates[key] = duplicates.get(key, 0) + 1
        return {"boxes": [self.summarise(key, records[key], duplicates.get(key, 0)) for key in sorted(records)]}

    def summarise(self, key, records, duplicates):
        explained_seqs, superseded = set(), set()
        for record in records.values():
            ranges, has_sums = explained(record)
            for first, last in ranges:
                explained_seqs.update(range(first, last + 1))
                if has_sums:
                    superseded.update(range(first, last + 1))
        known = explained_seqs | set(records)
        first, last = min(known), max(known)
        by_model, others = {}, 0
        for seq, record in records.items():
            if seq in superseded:
                continue
            (kind, body), = record["body"].items()
            sums = {"interval": lambda: [body], "rollup": lambda: body["models"]}.get(kind, list)()
            for entry in sums:
                by_model[entry["model"]] = by_model.get(entry["model"], 0) + entry["counters"]["requests"]
            others += body["others"]["requests"] if kind == "rollup" else 0
        path, epoch = key
        return {
            "path": path,
            "epoch": epoch,
            "first_seq": first,
            "upto_seq": self.streams[key].upto_seq,
            "contiguous": len(known) == last - first + 1,
            "duplicates": duplicates,
            "records": len(records),
            "requests_total": sum(by_model.values()) + others,
            "by_model": by_model,
        }


def sync_directory(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_key(directory, key_file):
    """The private key, made at the first start; its public half goes to key.pub."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key_file = key_file or directory / "key"
    if not key_file.exists():
        made = base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw())
        descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(made + b"\n")
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(key_file.read_text().strip()))
    public = directory / "key.pub.new"
    public.write_text(base64.b64encode(key.public_key().public_bytes_raw()).decode() + "\n")
    public.rename(directory / "key.pub")
    return key


def sign(key, key_id, topic, body):
    """The envelope of everything a hub publishes."""
    text = json.dumps(body, separators=(",", ":"))
    sig = key.sign(b"mast/v1\0" + topic.encode() + b"\0" + text.encode())
    return json.dumps({"key_id": key_id, "sig": base64.b64encode(sig).decode(), "body": text})


def serve(host, port, directory, key_file, key_id):
    import paho.mqtt.client as mqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    directory.mkdir(parents=True, exist_ok=True)
    key = load_key(directory, key_file)
    ledger = Ledger(directory)

    def on_connect(client, userdata, flags, reason, properties):
        if reason.is_failure:
            print(f"hub: the broker refused: {reason}", file=sys.stderr, flush=True)
            return
        client.subscribe("mast/v1/+/+/+/+/m/#", qos=1)

    def on_subscribe(client, userdata, mid, reasons, properties):
        if any(reason.is_failure for reason in reasons):
            print(f"hub: the subscription was refused: {reasons}", file=sys.stderr, flush=True)
            return
        print("ready", flush=True)

    def on_message(client, userdata, message):
        topic = TOPIC.fullmatch(message.topic)
        try:
            if not topic:
                raise Malformed("unknown topic")
            batch = read_batch(message.payload)
        except Malformed as problem:
            print(f"hub: MALFORMED on {message.topic}: {problem}: {message.payload[:200]!r}", file=sys.stderr, flush=True)
            return
        path = topic.group(1)[1:]
        stream = ledger.take(path, batch)
        ack = {"v": 1, "epoch": batch["epoch"], "upto_seq": stream.upto_seq, "gaps": stream.gaps()}
        ack_topic = f"mast/v1/{path}/ack"
        client.publish(ack_topic, sign(key, key_id, ack_topic, ack), qos=1)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"mast-hub-{key_id}", protocol=mqtt.MQTTv5)
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.reconnect_delay_set(min_delay=0.1, max_delay=2)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 24 * 3600
    properties.MaximumPacketSize = 256 * 1024
    client.connect_async(host, port, keepalive=15, clean_start=False, properties=properties)
    client.loop_forever(retry_first_connection=True)


def main():
    if sys.argv[1:2] == ["summary"]:
        parser = argparse.ArgumentParser(prog="hub.py summary")
        parser.add_argument("--dir", type=Path, required=True)
        directory = parser.parse_args(sys.argv[2:]).dir
        print(json.dumps(Ledger(directory, writable=False).summary(), indent=2))
        return
    parser = argparse.ArgumentParser(prog="hub.py", description=__doc__.splitlines()[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--broker", metavar="HOST:PORT")
    where.add_argument("--port", type=int, help="of a broker on this machine")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--ack-key-id", default="hub-1")
    arguments = parser.parse_args()
    host, port = "127.0.0.1", arguments.port
    if arguments.broker:
        host, _, port = arguments.broker.rpartition(":")
    # Everything acknowledged is on disk already: there is nothing to finish.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    serve(host, int(port), arguments.dir, arguments.key_file, arguments.ack_key_id)


if __name__ == "__main__":
    main()
