"""What engines hold, what others hold, and what an ended engine leaves behind; the engine is fake, the shim real."""

import time
import uuid
from dataclasses import dataclass, field

import psutil
import pytest

from accounts.models import Installation
from core.units import GIB, MIB
from engines import registry
from engines.base import MemoryEstimate
from inference.models import Device, Instance, MemoryPeak
from inference.placement import memory_peaks
from inference.serving import services
from models_app.models import Model
from node_agent import device_memory, devices, folders, shims
from node_agent.agent import Agent
from node_agent.devices import DeviceReading
from node_agent.shim.proc import descendants

WAIT, LEFT = 30, 4 * GIB


@dataclass
class Board:
    """The devices of a machine as a test wants them: a GPU, whose processes are told or not, and main memory."""

    has_gpu: bool = True
    used: int = 1 * GIB
    unowned: int = 1 * GIB
    holders: dict[int, int] = field(default_factory=dict)
    left_by: list[int] = field(default_factory=list)  # processes whose end leaves LEFT bytes behind

    def read(self) -> list[DeviceReading]:
        left = LEFT if self.left_by and not any(map(psutil.pid_exists, self.left_by)) else 0
        gpu = DeviceReading(
            "cuda", 0, "GPU", 16 * GIB, 15 * GIB, self.used, bytes_by_pid=self.holders, unowned=self.unowned + left
        )
        main = DeviceReading("cpu", 0, "CPUs", 64 * GIB, 60 * GIB, 20 * GIB, cores=8)
        return [gpu, main] if self.has_gpu else [main]


@pytest.fixture
def board(monkeypatch) -> Board:
    made = Board()
    monkeypatch.setattr(devices, "read_devices", made.read)
    return made


@pytest.fixture
def agent(db, settings, monkeypatch, board):
    monkeypatch.setattr("node_agent.agent.MEASURE_INTERVAL", 0)  # at each look
    settings.ENGINE_ADAPTERS = ["tests.fakes.fake_aware_engine.FakeAwareEngine"]
    registry.engines.cache_clear()
    Installation.objects.get_or_create(defaults={"cluster_id": uuid.uuid4()})
    made = Agent()
    made.tick()
    yield made
    for instance in Instance.objects.all():
        state = shims.read(folders.folder_of(instance.pk))
        if shims.is_running(state):
            shims.request_stop(folders.folder_of(instance.pk), state, 0)
        until(lambda state=state: not shims.is_running(state))
    registry.engines.cache_clear()


@pytest.fixture
def running(agent, tenant) -> Instance:
    """An engine on the GPU, ready and measured."""
    model = Model.objects.create(tenant=tenant, name="m", tags=["fake"], config={"model_path": "serai-demo"})
    services.start(model)
    return becomes(agent, "ready")


def until(check):
    deadline = time.monotonic() + WAIT
    while not (value := check()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def becomes(agent, state, also=lambda instance: True) -> Instance:
    def look():
        agent.tick()
        instance = Instance.objects.get()
        return instance if instance.state == state and also(instance) else None

    return until(look)


def is_measured(agent) -> Instance:
    return becomes(agent, "ready", lambda instance: instance.memory_bytes is not None)


def gpu() -> Device:
    return Device.objects.get(kind="cuda")


def engine_pids(instance) -> list[int]:
    state = shims.read(folders.folder_of(instance.pk))
    return [process.pid for process in descendants(state.shim_pid)]


def test_what_an_engine_holds_on_its_gpu_is_measured_by_its_processes(agent, board, running):
    board.used, board.holders = 6 * GIB, dict.fromkeys(engine_pids(running), 2 * GIB) | {2**22: 3 * GIB}
    found = becomes(agent, "ready", lambda instance: instance.memory_bytes == 2 * GIB)
    assert found.peak_bytes >= 2 * GIB
    assert (gpu().used_bytes, gpu().foreign_bytes) == (6 * GIB, 4 * GIB)


def test_where_the_driver_knows_no_processes_an_engine_holds_its_claim(agent, board, running):
    claim = running.reservations.get().bytes
    assert is_measured(agent).memory_bytes == claim
    assert gpu().foreign_bytes == 1 * GIB - claim


@pytest.fixture
def no_gpu(board):
    board.has_gpu = False


def test_in_main_memory_the_pages_of_the_tree_count(no_gpu, agent, running):
    found = is_measured(agent)
    assert found.placement["device_kind"] == "cpu"
    assert 4 * MIB < found.memory_bytes < 200 * MIB
    cpu = Device.objects.get(kind="cpu")
    assert cpu.foreign_bytes == cpu.used_bytes - found.memory_bytes


def test_a_stop_is_told_when_the_memory_is_back(agent, board, running):
    is_measured(agent)
    board.left_by = engine_pids(running)  # the driver keeps it for a while after the process has gone
    services.stop(running.model)
    until(lambda: (agent.tick(), not engine_pids(running))[1])
    agent.tick()
    assert Instance.objects.get().state == "draining"
    assert Device.objects.get(kind="cuda").suspect == ""
    board.left_by = []
    becomes(agent, "stopped")
    assert gpu().reserved_bytes == 0


def test_memory_that_does_not_come_back_makes_the_device_suspect_and_life_goes_on(
    agent, board, running, monkeypatch, settings
):
    is_measured(agent)
    monkeypatch.setattr(device_memory, "RELEASE_TIMEOUT", 0.1)
    board.left_by = engine_pids(running)
    services.stop(running.model)
    becomes(agent, "stopped")
    assert "4.0 GiB" in gpu().suspect
    services.start(running.model)
    assert Instance.objects.get(state="pending").placement["device_kind"] == "cpu"  # not on that GPU


def test_a_suspicion_ends_by_itself_when_the_memory_is_back(agent, board, running, monkeypatch):
    is_measured(agent)
    monkeypatch.setattr(device_memory, "RELEASE_TIMEOUT", 0.1)
    board.left_by = engine_pids(running)
    services.stop(running.model)
    becomes(agent, "stopped")
    assert gpu().suspect
    board.left_by = []
    until(lambda: (agent.tick(), not gpu().suspect)[1])


def test_a_small_remainder_is_no_reason_for_suspicion(agent, board, running):
    is_measured(agent)
    board.unowned += 100 * MIB
    services.stop(running.model)
    becomes(agent, "stopped")
    assert gpu().suspect == ""


def test_the_next_start_claims_what_the_last_one_was_seen_to_take(agent, board, running):
    estimated = running.reservations.get().bytes
    board.holders = dict.fromkeys(engine_pids(running), 2 * GIB)
    becomes(agent, "ready", lambda instance: instance.memory_bytes == 2 * GIB)
    services.stop(running.model)
    becomes(agent, "stopped")
    services.start(running.model)
    again = Instance.objects.get(state="pending")
    assert estimated < 1 * GIB
    assert (again.reservations.get().bytes, again.placement["source"]) == (2 * GIB, "recorded peak")


def test_a_peak_is_of_one_way_to_run_and_never_shrinks(running):
    digest = running.placement["digest"]
    memory_peaks.record_peak(running, 3 * GIB)
    memory_peaks.record_peak(running, 2 * GIB)
    assert memory_peaks.recorded_peak(running.model, "cuda", digest) == 3 * GIB
    assert memory_peaks.recorded_peak(running.model, "cpu", digest) is None
    assert MemoryPeak.objects.count() == 1


@pytest.mark.parametrize(("option", "differs"), [({"max_num_seqs": 4}, True), ({"temperature": 0.2}, False)])
def test_only_options_that_memory_depends_on_make_another_way_to_run(tenant, option, differs):
    estimate = MemoryEstimate(weights=1, overhead=1, kv_cache=1)
    before, after = (Model(tenant=tenant, config={"n_ctx": 256} | more) for more in ({}, option))
    assert (
        memory_peaks.configuration_digest(before, estimate, 1) != memory_peaks.configuration_digest(after, estimate, 1)
    ) == differs
