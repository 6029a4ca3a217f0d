"""Models end and begin anew around streams, over three web processes and the fake engine: no stream is broken."""

import signal
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.live.test_lifecycle import becomes, finished, info, status
from tests.support import live_adapters
from tests.support.live_product import running
from tests.support.waiting import eventually

CLIENTS = 20
OUTAGE_SECONDS = 10  # longer than a gateway may be silent before it counts as such


@pytest.fixture(scope="module")
def trio():
    """A product with three web processes on one address."""
    with tempfile.TemporaryDirectory(prefix="trio-") as folder, running(Path(folder) / "data", "--web", "3") as started:
        yield started


@pytest.fixture(scope="module")
def tenant(trio):
    return trio.tenant("acme")


@pytest.fixture(scope="module")
def key(tenant):
    return tenant.key()


def web_processes(product) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(product.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it waits to be reaped
            if "--fd" in child.cmdline():
                found.append(child)
    return found


def answers(person) -> bool:
    try:
        return person.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def stream(person, model, tokens: int, interval: float, begun: threading.Event | None = None) -> str:
    """The outcome of one stream: `whole`, or what came instead. Its connection is its own, so any process gets it.

    `begun` tells that its first words have come: until then it may wait for a start, which a stop would end.
    """
    text = f"[[token_interval={interval}]]"
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": tokens}
    with person.stream(
        "POST", "/v1/chat/completions", json=body, headers={"connection": "close"}, timeout=120
    ) as reply:
        events = ""
        for piece in reply.iter_text():
            events += piece
            if begun:
                begun.set()
    if reply.status_code == 200 and events.endswith("data: [DONE]\n\n"):
        return "whole"
    return f"{reply.status_code}: {events[-300:]}"


class Crowd:
    """Clients that stream one after the other until they are sent home."""

    def __init__(self, person, model: str):
        self._person, self._model = person, model
        self._enough = threading.Event()
        self.outcomes: Counter[str] = Counter()

    def stream_on(self) -> None:
        while not self._enough.is_set():
            self.outcomes[stream(self._person, self._model, tokens=30, interval=0.03)] += 1

    def be_answered(self) -> None:
        """Until each client has had an answer, by which it streams again."""
        enough = self.outcomes.total() + 2 * CLIENTS
        eventually(lambda: self.outcomes.total() >= enough, 120)

    @contextmanager
    def at_work(self):
        with ThreadPoolExecutor(CLIENTS) as pool:
            working = [pool.submit(self.stream_on) for _client in range(CLIENTS)]
            try:
                eventually(lambda: self.outcomes.total() >= CLIENTS, 60)
                yield
                enough = self.outcomes.total() + CLIENTS
                eventually(lambda: self.outcomes.total() >= enough, 60)
            finally:
                self._enough.set()
            for future in working:
                future.result()


def task_of(person, reply) -> dict:
    assert reply.status_code == 200, reply.text
    return eventually(lambda: finished(person, reply.json()["task_id"]), 120)


def test_no_stream_breaks_while_its_model_is_restarted_stopped_and_scaled(trio, tenant, key):
    assert len(web_processes(trio)) == 3
    model = tenant.fake_model(wait_timeout=120)
    crowd = Crowd(key, model)
    with crowd.at_work():
        for _round in range(3):
            for verb in ("restart", "stop", "start"):
                assert task_of(key, key.post(f"/api/models/{model}/{verb}"))["status"] == "succeeded"
                crowd.be_answered()  # who still waits when a stop comes is told of the stop
        for count in (3, 1, 2):
            assert key.patch(f"/api/models/{model}", json={"replicas": count}).status_code == 200
            eventually(lambda count=count: info(key, model)["replicas"] == {"wanted": count, "ready": count}, 60)
        assert task_of(key, key.post(f"/api/models/{model}/restart"))["status"] == "succeeded"
    assert set(crowd.outcomes) == {"whole"}, crowd.outcomes


def test_no_stream_breaks_while_an_adapters_name_moves_between_versions_and_its_base_is_restarted(trio, tenant, key):
    """One slot only: every move lets go of one version, in all three processes, and loads the other."""
    config = {"model_path": "serai-demo", "enable_lora": True, "max_loras": 1, "max_cpu_loras": 1}
    base = tenant.fake_model(wait_timeout=120, config=config)
    versions = [live_adapters.save_version(trio, tenant.slug, base, "facts") for _version in range(2)]
    crowd = Crowd(key, "facts")
    key.post("/api/adapters/facts/publish").raise_for_status()
    with crowd.at_work():
        for _round in range(2):
            for verb, number in (("rollback", 1), ("publish", 2)):
                key.post(f"/api/adapters/facts/{verb}", json={"version": number}).raise_for_status()
                eventually(lambda version=versions[number - 1]: answered_by(key, "facts") == version, 60)
        assert task_of(key, key.post(f"/api/models/{base}/restart"))["status"] == "succeeded"
        crowd.be_answered()
    assert set(crowd.outcomes) == {"whole"}, crowd.outcomes


def answered_by(person, model) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Who?"}]}
    reply = person.post("/v1/chat/completions", json=body, timeout=120)
    return reply.json()["choices"][0]["message"]["content"].split()[0]


def test_requests_that_come_during_draining_wait_for_the_next_run(tenant, key):
    model = tenant.fake_model(wait_timeout=120)
    begun = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(stream, key, model, 60, 0.1, begun)
        assert begun.wait(120)
        restart = key.post(f"/api/models/{model}/restart")
        eventually(lambda: status(key, model) == "stopping")
        late = pool.submit(stream, key, model, 3, 0.0)
        assert (first.result(), late.result()) == ("whole", "whole")
    assert task_of(key, restart)["status"] == "succeeded"


def test_force_does_not_wait_for_streams(tenant, key):
    model = tenant.fake_model()
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(stream, key, model, 4000, 0.1, begun)
        assert begun.wait(120)
        task = task_of(key, key.post(f"/api/models/{model}/stop", json={"force": True, "timeout": 3600}))
        assert task["status"] == "succeeded"
        assert "engine_unavailable" in endless.result()


@contextmanager
def frozen(processes: list[psutil.Process]):
    for process in processes:
        process.suspend()
    yield
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # the first ones that go on may have ended it
            process.resume()


def postgres_processes(product) -> list[psutil.Process]:
    found = psutil.Process(product.process.pid).children(recursive=True)
    return [process for process in found if process.name() == "postgres"]


def test_an_outage_of_postgres_ends_no_engine_under_a_stream(trio, tenant, key):
    """When it is back, all gateways have long been silent: that is no proof that they have let go."""
    model = tenant.fake_model()
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(stream, key, model, 250, 0.1, begun)
        assert begun.wait(120)
        stop = key.post(f"/api/models/{model}/stop")
        eventually(lambda: status(key, model) == "stopping")
        with frozen(postgres_processes(trio)):
            time.sleep(OUTAGE_SECONDS)
        assert long.result() == "whole"
    assert task_of(key, stop)["status"] == "succeeded"


def test_a_gateway_that_was_killed_with_streams_in_flight_holds_nobody_up(trio, tenant, key):
    model = tenant.fake_model()
    with ThreadPoolExecutor(6) as pool:
        for _stream in range(6):
            pool.submit(stream, key, model, 4000, 0.1).add_done_callback(lambda future: future.exception())
        eventually(lambda: info(key, model)["pending_requests"] == 6)
        for process in web_processes(trio):
            process.send_signal(signal.SIGKILL)
    eventually(lambda: len(web_processes(trio)) == 3 and answers(key), 60)
    key.post(f"/api/models/{model}/stop", json={"timeout": 3600})
    becomes(key, model, "stopped", 60)
