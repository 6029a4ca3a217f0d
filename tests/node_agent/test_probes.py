"""When engines are asked how they are: at once while they start, at the configured pace later, alone if one hangs."""

import json
import shutil
import socketserver
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from node_agent import probes
from node_agent.probes import Probes
from tests.support.waiting import eventually

NEVER = 3600.0  # seconds: no second question within a test
SOON = 0.01


class ProbedEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A server on a Unix socket that counts what it is asked; `status` is its answer, None for no answer at all."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(str(folder / "engine.sock"), Answers)
        self.asked: Counter[str] = Counter()
        self.status: int | None = 200
        self.silence = threading.Event()


class Answers(BaseHTTPRequestHandler):
    def address_string(self):
        return "unix"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked[self.path] += 1
        if self.server.status is None:
            self.server.silence.wait()
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def engine(folder: Path):
    server = ProbedEngine(folder)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.silence.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="p-"))  # tmp_path may be too long for a socket
    yield path
    shutil.rmtree(path)


@pytest.fixture
def changed():
    return threading.Event()


@pytest.fixture
def asking(changed):
    made = Probes(on_change=changed.set)
    yield made
    made.close()


def look(asking, folder, every=NEVER, metrics_every=NEVER, run=("instance-1", 1)):
    return asking.poll_run(*run, folder, "/health", every, metrics_every)


def tells(changed: threading.Event) -> None:
    """The next change; there is one more with each, a first answer included."""
    assert changed.wait(30)
    changed.clear()


def test_a_starting_engine_is_seen_ready_without_another_look(asking, changed, folder):
    probe = look(asking, folder, every=SOON)
    tells(changed)
    with engine(folder):
        tells(changed)
        assert probe.healthy is True


def test_an_engine_that_ends_before_it_was_ready_is_told_of_at_once(asking, changed, folder):
    probe = look(asking, folder, every=SOON)
    tells(changed)
    (folder / "state.json").write_text(json.dumps({"phase": "exited"}))
    tells(changed)
    assert probe.ended


def test_a_ready_engine_is_asked_for_its_health_at_the_given_pace(asking, folder):
    with engine(folder) as server:
        look(asking, folder, metrics_every=SOON)
        eventually(lambda: server.asked["/metrics"] >= 5)
        assert server.asked["/health"] == 1


def test_a_shorter_interval_holds_at_once(asking, folder):
    with engine(folder) as server:
        probe = look(asking, folder)
        eventually(lambda: probe.healthy)
        look(asking, folder, every=SOON)
        eventually(lambda: server.asked["/health"] >= 5)


def test_an_engine_that_did_not_answer_well_is_asked_again_sooner(asking, changed, folder, monkeypatch):
    monkeypatch.setattr(probes, "FAILURE_INTERVAL", SOON)
    with engine(folder) as server:
        server.status = 503
        probe = look(asking, folder)
        tells(changed)
        assert probe.unhealthy_for() > 0
        server.status = 200
        tells(changed)
        assert probe.healthy is True
        assert probe.unhealthy_for() == 0


def test_metrics_that_cannot_be_read_let_the_health_be_asked_for(asking, folder):
    with engine(folder) as server:
        probe = look(asking, folder, metrics_every=SOON)
        eventually(lambda: probe.healthy)
        server.status = 500
        eventually(lambda: probe.healthy is False)


def test_a_hung_engine_keeps_no_other_from_being_asked(asking, folder):
    other = folder / "other"
    other.mkdir()
    with engine(folder) as hung, engine(other):
        hung.status = None
        look(asking, folder, every=SOON)
        eventually(lambda: hung.asked["/health"] == 1)
        probe = look(asking, other, run=("instance-2", 1))
        eventually(lambda: probe.healthy)
        assert hung.asked["/health"] == 1


def test_what_was_known_of_an_earlier_run_does_not_count_for_the_next(asking, folder):
    with engine(folder):
        first = look(asking, folder)
        eventually(lambda: first.healthy)
    assert look(asking, folder, run=("instance-1", 2)).healthy is not True
