"""The usage journal on disk: what was admitted or settled is told once, whoever is killed and whatever is away."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from django.db import OperationalError
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.stream_relay import TokenUsage
from gateway.metering import spool
from gateway.metering.meter import Meter, RequestRecord
from gateway.metering.spool import Spool, SpoolReader
from inference.usage import LOST
from tests.support.waiting import eventually

WRITER = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from gateway.metering.spool import Spool
journal = Spool(Path(sys.argv[1]), segment_bytes=2000)
for number in range({count}):
    request = f"r{{number}}"
    journal.admit(request, f'["a","{{request}}"]\\n'.encode())
    if number % 5:
        journal.finish_usage(request, f'["s","{{request}}"]\\n'.encode())
print("written", flush=True)
time.sleep(60)
"""


class Store:
    """Keeps rows by request id; `away` makes it fail like Postgres that cannot be reached."""

    def __init__(self):
        self.rows, self.inserts, self.keys, self.away = {}, 0, {}, False
        self.closed = threading.Event()

    def insert(self, rows):
        if self.away:
            raise OperationalError("away")
        self.inserts += len(rows)
        for admission, settlement in rows:
            self.rows.setdefault(admission[1], (admission, settlement))

    def touch_keys(self, used):
        self.keys |= used

    def close(self):
        self.closed.set()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "spool"


def record(**fields) -> RequestRecord:
    return RequestRecord(tenant_id="t", model_id="m", model_name="demo", route="chat", stream=True, **fields)


def lines(request_id: str) -> tuple[bytes, bytes]:
    return f'["a","{request_id}"]\n'.encode(), f'["s","{request_id}"]\n'.encode()


def read_all(reader: SpoolReader, sealed_below: int) -> list[str]:
    found = []
    while pairs := reader.settled_pairs(sealed_below):
        found += [admission[1] for admission, _settlement in pairs]
    return found


def test_a_request_comes_out_once_it_is_settled(root):
    store = Store()
    meter = Meter(root, store)
    meter.start()
    one, two = record(key_id="k"), record()
    for entry in (one, two):
        meter.admit(entry)
    one.status, one.http_status, one.usage = "ok", 200, TokenUsage(5, 7, 2)
    meter.finish_usage(one)
    eventually(lambda: one.request_id in store.rows)
    admission, settlement = store.rows[one.request_id]
    assert admission == one.admission()
    assert settlement == one.settlement()
    assert two.request_id not in store.rows
    assert store.keys == {"k": one.started_at}
    meter.finish_usage(two)
    meter.stop()
    assert two.request_id in store.rows
    assert not list(root.iterdir())


def test_records_wait_on_disk_while_postgres_is_away(root):
    store = Store()
    store.away = True
    meter = Meter(root, store)
    meter.start()
    entries = [record() for _ in range(50)]
    for entry in entries:
        meter.admit(entry)
        meter.finish_usage(entry)
    meter.stop(timeout=5)
    assert store.rows == {}
    store.away = False
    successor = Meter(root, store)
    successor.start()
    eventually(lambda: len(store.rows) == 50)
    successor.stop()
    assert set(store.rows) == {entry.request_id for entry in entries}
    assert not list(root.iterdir())


def test_what_a_killed_process_had_admitted_is_settled_as_lost(root):
    process = start_writer(root, 100)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    store = Store()
    meter = Meter(root, store)
    meter.start()
    eventually(lambda: len(store.rows) == 100)
    lost = {request for request, (_admission, settlement) in store.rows.items() if LOST in settlement}
    assert lost == {f"r{number}" for number in range(0, 100, 5)}
    meter.stop()
    assert not list(root.iterdir())


def test_a_living_process_journal_is_left_alone(root):
    process = start_writer(root, 10)
    try:
        assert list(spool.orphan_folders(root)) == []
    finally:
        process.kill()
        process.wait(10)
    assert len(list(spool.orphan_folders(root))) == 1


def start_writer(root, count: int) -> subprocess.Popen:
    code = WRITER.format(path=[path for path in sys.path if path], count=count)
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    return process


def test_two_successors_at_once_count_nothing_twice(root):
    process = start_writer(root, 200)
    process.kill()
    process.wait(10)
    store = Store()
    meters = [Meter(root, store) for _ in range(3)]
    for meter in meters:
        meter.start()
    eventually(lambda: len(store.rows) == 200)
    for meter in meters:
        meter.stop()
    assert store.inserts == 200


def test_segments_are_deleted_once_read_and_open_requests_are_carried_on(root):
    journal = Spool(root, segment_bytes=200)
    reader = SpoolReader(journal.folder)
    early_admission, early_end = lines("early")
    journal.admit("early", early_admission)
    for number in range(100):
        admission, end = lines(f"r{number}")
        journal.admit(f"r{number}", admission)
        journal.finish_usage(f"r{number}", end)
    assert journal.segment > 5
    assert sorted(read_all(reader, journal.segment)) == sorted(f"r{number}" for number in range(100))
    reader.discard()
    assert [path.name for path in journal.folder.glob("*.jsonl")] == [f"{journal.segment:08d}.jsonl"]
    journal.close()
    successor = SpoolReader(journal.folder)
    read_all(successor, successor.end)
    assert list(successor.open) == ["early"]
    assert early_end not in (journal.folder / f"{journal.segment:08d}.jsonl").read_bytes()


@given(cut=st.integers(0, 400))
def test_a_journal_cut_anywhere_is_read_up_to_the_last_whole_line(cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    data = b"".join(line for number in range(10) for line in lines(f"r{number}"))
    (folder / "00000001.jsonl").write_bytes(data[:cut])
    reader = SpoolReader(folder)
    found = read_all(reader, reader.end)
    whole = data[:cut].rpartition(b"\n")[0].split(b"\n")
    assert found == [f"r{number}" for number in range(10) if lines(f"r{number}")[1].strip() in whole]


def test_lines_that_are_no_records_are_passed_over(root):
    journal = Spool(root)
    admission, end = lines("r1")
    for line in (b"\x00\xff\n", b"[]\n", b"5\n", b'["s","unknown"]\n', b"{}\n", admission, end):
        journal._append(line)
    assert read_all(SpoolReader(journal.folder), journal.segment) == ["r1"]


class FullDisk:
    """os.write as it is when the disk fills up: a few bytes, then none, until there is room again."""

    def __init__(self, monkeypatch, room: int):
        self.room, self._write = room, os.write
        monkeypatch.setattr(spool.os, "write", self)

    def __call__(self, descriptor, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, data[: self.room])
        self.room -= written
        return written


def test_a_full_disk_is_ridden_out_in_memory(root, monkeypatch):
    journal = Spool(root)
    disk = FullDisk(monkeypatch, room=30)
    for number in range(20):
        admission, end = lines(f"r{number}")
        journal.admit(f"r{number}", admission)
        journal.finish_usage(f"r{number}", end)
    disk.room = 10**9
    admission, end = lines("last")
    journal.admit("last", admission)
    journal.finish_usage("last", end)
    found = read_all(SpoolReader(journal.folder), journal.segment)
    assert found == [*(f"r{number}" for number in range(20)), "last"]
    assert journal.lost == 0


def test_beyond_the_memory_kept_for_it_losses_are_counted(root, monkeypatch):
    journal = Spool(root, backlog_bytes=100)
    FullDisk(monkeypatch, room=0)
    for number in range(50):
        journal.admit(f"r{number}", lines(f"r{number}")[0])
    assert 0 < journal.lost < 50


def test_the_day_is_that_of_the_admission():
    assert record(started_at=86_399.9).admission()[2] == 0
    assert record(started_at=86_400.1).admission()[2] == 1


def test_stopping_does_not_wait_for_ever(root):
    class Stuck(Store):
        def insert(self, rows):
            self.closed.wait(20)

    store = Stuck()
    meter = Meter(root, store)
    meter.start()
    entry = record()
    meter.admit(entry)
    meter.finish_usage(entry)
    time.sleep(0.6)
    meter.stop(timeout=0.2)
    assert any(root.iterdir())
    store.closed.set()
