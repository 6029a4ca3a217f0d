"""The cost of the data plane: mock engine and load generator in C, compared with nginx's proxy_pass."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import CannotMeasure

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-serai-benchmark"
MESSAGES = [{"role": "user", "content": "A question of about two hundred tokens. " * 25}]
STREAM = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 512; keepalive_requests 1000000; }}
  server {{ listen 127.0.0.1:{port} backlog=1024;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    location / {{ proxy_pass http://engine; }} }}
}}
"""


@dataclass(frozen=True)
class GatewayScenario:
    """`first_us`, `interval_us` and `tokens` set the pace of the engine."""

    name: str
    connections: int
    stream: bool = False
    first_us: int = 0
    interval_us: int = 0
    tokens: int = 0

    @property
    def offered(self) -> float:
        """Events per second that the engine offers: tokens, end, usage and [DONE] of each stream."""
        return self.connections * (self.tokens + 3) / ((self.first_us + self.tokens * self.interval_us) / 1e6)


SCENARIOS = [
    GatewayScenario("json c=1", 1),
    GatewayScenario("json c=64", 64),
    GatewayScenario("stream c=1", 1, True, 1000, 1000, 8),
    GatewayScenario("stream 256 x 50/s", 256, True, 20_000, 20_000, 100),
]


COLUMNS = {
    "requests_s": "req/s", "p50_us": "p50 us", "p99_us": "p99 us", "first_event_us": "first event us",
    "events_s": "events/s",
    "events_share": "of offered", "cpu_us": "CPU us", "memory_mb": "MB", "errors": "errors",
}  # fmt: skip


def run(*, seconds: float, rounds: int, report: Callable[[str], None]) -> dict:
    """Medians over `rounds` for each scenario and target. Raises CannotMeasure without a C compiler."""
    with tempfile.TemporaryDirectory(prefix="serai-bench-") as name:
        folder = Path(name)
        for program in ("mock_engine", "load"):
            _compile(program, folder)
        results = {scenario.name: _run_scenario(scenario, folder, seconds, rounds, report) for scenario in SCENARIOS}
    return {
        "seconds": seconds,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "scenarios": results,
        "ratios": ratios(results),
    }


def ratios(results: dict) -> dict:
    """The ratios for which docs/performance.md sets targets."""
    busy, streams, one = results["json c=64"], results["stream 256 x 50/s"], results["json c=1"]
    found = {"events_to_direct": round(streams["gateway"]["events_s"] / streams["direct"]["events_s"], 3)}
    if "nginx" in busy:
        found["cpu_per_request_to_nginx"] = round(busy["gateway"]["cpu_us"] / busy["nginx"]["cpu_us"], 2)
    found["added_p50_us"] = round(one["gateway"]["p50_us"] - one["direct"]["p50_us"], 1)
    found["added_first_event_us"] = round(
        results["stream c=1"]["gateway"]["first_event_us"] - results["stream c=1"]["direct"]["first_event_us"], 1
    )
    return found


def _run_scenario(scenario: GatewayScenario, folder: Path, seconds: float, rounds: int, report) -> dict:
    """Targets alternate within a round, so that a drift of the machine affects all of them."""
    samples: dict[str, list[dict]] = {}
    with _engine(scenario, folder) as engine:
        for number in range(rounds):
            for name, start in _targets(folder, engine):
                report(f"{scenario.name}, {name}, round {number + 1} of {rounds}")
                with start as (port, process):
                    samples.setdefault(name, []).append(_measure(scenario, port, process, folder, seconds))
    return {name: _median(found) for name, found in samples.items()}


def _targets(folder: Path, engine: int) -> Iterator[tuple]:
    yield "direct", _direct(engine)
    yield "gateway", _gateway(folder, engine)
    if nginx := shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        yield "nginx", _nginx(nginx, folder, engine)


def _measure(scenario: GatewayScenario, port: int, process, folder: Path, seconds: float) -> dict:
    body = json.dumps(
        {"model": "bench", "messages": MESSAGES, **(STREAM if scenario.stream else {})}, separators=(",", ":")
    )
    _load(folder, port, scenario.connections, min(seconds, 1), body)  # warms up, and is not counted
    before = _cpu(process)
    found = _load(folder, port, scenario.connections, seconds, body)
    spent = _cpu(process) - before
    units = found["events"] if scenario.stream else found["requests"]
    return {
        "errors": found["errors"],
        "requests_s": found["requests"] / found["seconds"],
        "p50_us": found["latency_us"]["p50"],
        "p99_us": found["latency_us"]["p99"],
        "first_event_us": found["first_event_us"]["p50"],
        "events_s": found["events"] / found["seconds"],
        "events_share": found["events"] / found["seconds"] / scenario.offered if scenario.stream else None,
        "cpu_us": spent * 1e6 / units if process and units else None,
        "memory_mb": _memory(process),
    }


def _median(samples: list[dict]) -> dict:
    def middle(values):
        return None if None in values else round(statistics.median(values), 3)

    found = {name: middle([sample[name] for sample in samples]) for name in samples[0]}
    return found | {"errors": sum(sample["errors"] for sample in samples)}


def _load(folder: Path, port: int, connections: int, seconds: float, body: str) -> dict:
    command = [str(folder / "load"), str(port), str(connections), str(seconds), KEY, body]
    return json.loads(subprocess.check_output(command, timeout=seconds + 30))


def _cpu(process: psutil.Process | None) -> float:
    """Seconds that the target and its children have used so far."""
    if process is None:
        return 0.0
    members = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in members)


def _memory(process: psutil.Process | None) -> float | None:
    if process is None:
        return None
    return sum(member.memory_full_info().pss for member in [process, *process.children(recursive=True)]) / 1e6


def _compile(program: str, folder: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotMeasure("A C compiler is needed: apt-get install gcc libc6-dev.")
    source = ROOT / "benchmarks" / "native" / f"{program}.c"
    subprocess.run([compiler, "-O2", "-o", folder / program, source], check=True, capture_output=True)


@contextmanager
def _engine(scenario: GatewayScenario, folder: Path) -> Iterator[int]:
    port = _free_port()
    pace = (scenario.first_us, scenario.interval_us, scenario.tokens)
    with _started([folder / "mock_engine", port, *pace], port):
        yield port


@contextmanager
def _direct(engine: int):
    yield engine, None


@contextmanager
def _gateway(folder: Path, engine: int):
    port = _free_port()
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.target", port, f"http://127.0.0.1:{engine}", KEY, spool]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "SERAI_DATA": str(folder),
    }  # fmt: skip
    with _started(command, port, env=environment) as process:
        yield port, process


@contextmanager
def _nginx(nginx: str, folder: Path, engine: int):
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, engine=engine, port=port))
    with _started([nginx, "-p", folder, "-c", config], port) as process:
        yield port, process


@contextmanager
def _started(command: list, port: int, **options) -> Iterator[psutil.Process]:
    process = subprocess.Popen([str(argument) for argument in command], stderr=subprocess.DEVNULL, **options)
    try:
        _wait_for(port, process, name=str(command[0]))
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(port: int, process: subprocess.Popen, *, name: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotMeasure(f"{name} did not start.") from None
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
