"""What a worker samples: its host, its GPUs, its engines; and what becomes of it while the database is away."""

import socketserver
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import pytest
from django.db import OperationalError
from django.utils import timezone

from accounts.models import ConfigurationValue
from inference.models import Device, InstanceState, Node
from models_app.models import Model
from monitoring.figures import samples
from monitoring.figures import sampling as node_sampling
from monitoring.figures.catalogue import BOUNDS, METRICS, MetricSubject
from monitoring.figures.meters import CounterIncreases
from monitoring.figures.sampling import NodeSampler
from monitoring.models import Sample, Series
from node_agent import folders, sampling
from node_agent.sampling import Sampling
from tests.support import instance_rows

ENGINE_PAGE = """
vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_waiting{engine="0"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:prompt_tokens_total{engine="0"} %(prompt)d.0
vllm:generation_tokens_total{engine="0"} 0.0
vllm:time_to_first_token_seconds_bucket{le="0.06"} %(quick)d.0
vllm:time_to_first_token_seconds_bucket{le="0.5"} %(all)d.0
vllm:time_to_first_token_seconds_bucket{le="+Inf"} %(all)d.0
vllm:time_to_first_token_seconds_sum %(sum)f
vllm:time_to_first_token_seconds_count %(all)d.0
"""


def page(prompt: int = 0, quick: int = 0, slow: int = 0) -> str:
    numbers = {"prompt": prompt, "quick": quick, "all": quick + slow, "sum": quick * 0.05 + slow * 0.4}
    return ENGINE_PAGE % numbers


class EngineSocket:
    """An engine that answers with `text`, or not at all."""

    def __init__(self, path):
        self.text = page()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if engine.text is None:
                    return
                body = engine.text.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self):
                return "socket"

            def log_message(self, *_arguments):
                pass

        path.parent.mkdir(parents=True, exist_ok=True)
        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def node(store):
    return instance_rows.node()


@pytest.fixture
def ours(tenant) -> Model:
    return Model.objects.create(tenant=tenant, name="ours")


@pytest.fixture
def engine(node, ours):
    """A ready engine on a socket, known since just now."""
    instance = instance_rows.instance(ours, InstanceState.READY, ready_at=timezone.now() + timedelta(seconds=1))
    answering = EngineSocket(folders.socket_of(instance.pk))
    yield answering
    answering.server.shutdown()
    answering.server.server_close()


def take(sampler: NodeSampler, node: Node) -> None:
    """What the two threads of the worker do, in one."""
    sampler.sample(node)
    sampler.write(node)


def values(metric: str, **key) -> list[float]:
    rows = Sample.objects.filter(series__metric=metric, **{f"series__{name}": value for name, value in key.items()})
    return list(rows.order_by("at").values_list("value", flat=True))


def names() -> set[str]:
    return set(Series.objects.values_list("metric", flat=True))


def of(*subjects: MetricSubject) -> set[str]:
    return {name for name, metric in METRICS.items() if metric.subject in subjects}


def test_the_host_is_measured_on_every_machine(node):
    sampler = NodeSampler()
    take(sampler, node)
    take(sampler, node)
    assert names() - of(MetricSubject.GPU) == of(MetricSubject.HOST)
    assert len(values("memory_percent", node_id=node.pk)) == 2
    assert 0 < values("memory_percent")[0] <= 100
    node.refresh_from_db()
    assert node.live.keys() == {"cpu_percent", "memory_percent", "memory_used", "disk_percent", "timestamp"}


def test_gpus_are_measured_as_far_as_they_tell(node, nvml):
    for index in range(2):
        Device.objects.create(node=node, kind="cuda", index=index, name="GPU", total_bytes=1, usable_bytes=1)
    take(NodeSampler(), node)
    assert values("gpu_utilization") == [78]
    assert values("gpu_memory_percent", device="cuda:1") == [25]
    assert of(MetricSubject.GPU) <= names()
    first, second = Device.objects.filter(kind="cuda").order_by("index")
    process = {"pid": 2**22, "name": "", "memory_usage": 1024}
    assert first.live["processes"] == [process]
    assert (first.live["power_usage"], first.live["power_limit"], first.live["cuda_version"]) == (350, 450, "12.2")
    assert (second.live["temperature"], second.live["processes"]) == (None, [])


def test_engines_are_measured_in_common_words(node, ours, engine):
    sampler = NodeSampler()
    take(sampler, node)  # from now on it knows the instance
    for text in (page(), page(prompt=100, quick=2, slow=1), page(prompt=130, quick=2, slow=1)):
        engine.text = text
        take(sampler, node)
    assert values("engine_running", model_id=ours.pk, node_id=node.pk, tenant_id=ours.tenant_id) == [3, 3, 3]
    assert values("engine_kv_usage") == [25, 25, 25]
    assert values("engine_prompt_tokens") == [0, 100, 30]
    (ttft,) = Sample.objects.filter(series__metric="engine_ttft")
    assert (round(ttft.value, 3), ttft.count) == (0.5, 3)
    assert {BOUNDS[place]: count for place, count in enumerate(ttft.buckets) if count} == {0.06: 2, 0.5: 1}


def test_a_missed_answer_loses_nothing(node, engine):
    sampler = NodeSampler()
    for text in (page(), page(prompt=10), None, "nonsense", page(prompt=35)):
        engine.text = text
        take(sampler, node)
    assert values("engine_prompt_tokens") == [10, 25]


def test_the_tokens_of_an_adopted_engine_count_from_its_adoption(node, engine):
    """What it made before may have been counted already, by the worker before."""
    running_since = timezone.now() - timedelta(hours=1)
    node.instances.update(ready_at=running_since)
    sampler = NodeSampler()
    for tokens in (0, 1000, 1010):
        engine.text = page(prompt=tokens)
        take(sampler, node)
    assert values("engine_prompt_tokens") == [10]


def test_a_counter_that_falls_began_anew():
    increases = CounterIncreases()
    rises = [increases.since_last("key", value) for value in (100, 130, 20, 25)]
    assert rises == [None, 30, 20, 5]
    assert CounterIncreases().since_last("key", 7, from_zero=True) == 7


def test_samples_wait_while_the_database_is_away(node, monkeypatch):
    sampler = NodeSampler()

    def away(_samples):
        raise OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(samples, "write_samples", away)
        for _ in range(3):
            with pytest.raises(OperationalError):
                take(sampler, node)
    assert values("memory_percent") == []
    take(sampler, node)
    assert len(values("memory_percent")) == 4


def test_no_more_samples_wait_than_fit(node, monkeypatch, caplog):
    monkeypatch.setattr(node_sampling, "MAX_BUFFERED", 10)
    sampler = NodeSampler()
    with monkeypatch.context() as patch:
        patch.setattr(samples, "write_samples", lambda _samples: (_ for _ in ()).throw(OperationalError))
        for _ in range(3):
            with pytest.raises(OperationalError):
                take(sampler, node)
    sampler.write(node)
    assert 10 <= Sample.objects.count() < 20  # those of the first time were on their way already
    assert "dropped" in caplog.text


class Counting:
    """A sampler that counts; the database is away from it until `away` is cleared."""

    def __init__(self):
        self.measured, self.written = threading.Semaphore(0), threading.Semaphore(0)
        self.away = threading.Event()

    def sample(self, _node) -> None:
        self.measured.release()

    def write(self, _node) -> None:
        if self.away.is_set():
            raise OperationalError
        self.written.release()


@pytest.fixture
def counting(monkeypatch):
    sampler = Counting()
    monkeypatch.setattr(sampling, "_samplers", [sampler])
    return sampler


@pytest.fixture
def interval(store):
    return ConfigurationValue.objects.create(key="gpu_monitor_interval", value=1)


@pytest.fixture
def threads(node, counting, interval):
    running_threads = Sampling(lambda: node)
    running_threads.start()
    yield running_threads
    running_threads.stop()


def set_interval(row: ConfigurationValue, seconds: int) -> None:
    row.value = seconds
    row.save()


def test_the_interval_of_the_configuration_is_in_force_without_a_restart(counting, interval, threads):
    assert counting.measured.acquire(timeout=30)
    set_interval(interval, 3600)
    while counting.measured.acquire(timeout=4):  # those that were under way
        pass
    set_interval(interval, 1)
    for _ in range(3):
        assert counting.measured.acquire(timeout=30)


def test_measuring_does_not_wait_for_the_database(counting, threads):
    counting.away.set()
    for _ in range(3):
        assert counting.measured.acquire(timeout=30)
    counting.away.clear()
    assert counting.written.acquire(timeout=30)
