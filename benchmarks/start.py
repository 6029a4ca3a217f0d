"""Time from a cold request to the first token: through the running product, and with vLLM started by hand.

Both serve the first tenant's demo model with the same options; by hand means vLLM's own module and environment, with
a request over a Unix socket as soon as it is healthy. They alternate, each alone on the machine. Times in seconds.
"""

import http.client
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError

from benchmarks import CannotMeasure
from inference.models import Instance
from node_agent.probes import UnixConnection

COLUMNS = {"first_token_s": "first token s", "ready_s": "ready s"}
QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
BY_HAND = ["-m", "vllm.entrypoints.openai.api_server"]
PLAIN = {"PATH", "HOME", "LANG", "VLLM_CACHE_ROOT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS"}
START_TIMEOUT = 600.0
POLL_INTERVAL = 0.02


class RunningProduct:
    """The product that runs on this data folder."""

    def __init__(self):
        try:
            record = json.loads((settings.DATA_DIR / "first-run.json").read_text())
        except OSError:
            raise CannotMeasure("Starts are measured on a running product: python3 manage.py up.") from None
        self.address, self.model = record["base_url"].removeprefix("http://"), record["model"]
        self._headers = {"Authorization": f"Bearer {record['api_key']}", "Content-Type": "application/json"}

    def cold_request(self) -> dict:
        begun = time.monotonic()
        _wait_for_token(http.client.HTTPConnection(self.address, timeout=START_TIMEOUT), self.model, self._headers)
        return {"first_token_s": time.monotonic() - begun, "ready_s": None}

    def stop(self) -> None:
        self._call("POST", f"/api/models/{self.model}/stop", {"force": True})
        _wait_until(lambda: self._call("GET", f"/api/models/{self.model}")["status"] not in ("running", "stopping"))

    def launch(self) -> dict:
        """Command line and environment with which its agent last started the model."""
        try:
            rows = Instance.objects.filter(served_name=self.model, launch__isnull=False)
            launch = rows.order_by("-created_at").values_list("launch", flat=True).first()
        except DatabaseError:
            launch = None
        if launch is None:
            raise CannotMeasure("The product's database does not know how the model was started.")
        return launch

    def _call(self, verb: str, path: str, body: dict | None = None) -> dict:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request(verb, path, json.dumps(body) if body else None, self._headers)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        connection.close()
        if reply.status != 200:
            raise CannotMeasure(f"{verb} {path}: {answer.get('message')}")
        return answer


def run(*, seconds: float, rounds: int, report: Callable[[str], None]) -> dict:
    """Medians over `rounds`; `seconds` has no meaning here. Raises CannotMeasure."""
    product = RunningProduct()
    product.stop()
    samples: dict[str, list[dict]] = {"serai": [], "by hand": []}
    for number in range(rounds):
        report(f"serai, round {number + 1} of {rounds}")
        samples["serai"].append(product.cold_request())
        product.stop()
        report(f"by hand, round {number + 1} of {rounds}")
        samples["by hand"].append(start_by_hand(product.launch(), product.model))
    rows = {name: _median(found) for name, found in samples.items()}
    ratio = rows["serai"]["first_token_s"] / rows["by hand"]["first_token_s"]
    return {
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "samples": samples,
        "scenarios": {"cold start": rows},
        "ratios": {"first_token_to_by_hand": round(ratio, 3)},
    }


def start_by_hand(launch: dict, model: str) -> dict:
    with tempfile.TemporaryDirectory(prefix="serai-bench-") as name:
        socket = Path(name) / "engine.sock"
        command, environment = by_hand(launch, socket)
        begun = time.monotonic()
        with subprocess.Popen(
            command, env=environment, cwd=name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                _wait_until(lambda: _is_healthy(socket, server))
                ready = time.monotonic() - begun
                _wait_for_token(UnixConnection(socket, START_TIMEOUT), model, {"Content-Type": "application/json"})
                return {"first_token_s": time.monotonic() - begun, "ready_s": ready}
            finally:
                server.terminate()


def by_hand(launch: dict, socket: Path) -> tuple[list[str], dict[str, str]]:
    """The same options for vLLM's own module, without what the product adds to make it start faster."""
    python, options = launch["argv"][0], launch["argv"][launch["argv"].index("--model") :]
    options[options.index("--uds") + 1] = str(socket)
    return [python, *BY_HAND, *options], {name: launch["env"][name] for name in PLAIN if name in launch["env"]}


def _is_healthy(socket: Path, server: subprocess.Popen) -> bool:
    if server.poll() is not None:
        raise CannotMeasure(f"vLLM by hand ended with {server.returncode}.")
    connection = UnixConnection(socket, 5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _wait_for_token(connection: http.client.HTTPConnection, model: str, headers: dict[str, str]) -> None:
    """Send a streamed chat request and return at its first token."""
    body = json.dumps({"model": model, "stream": True, **QUESTION})
    connection.request("POST", "/v1/chat/completions", body, headers)
    reply = connection.getresponse()
    if reply.status != 200:
        raise CannotMeasure(f"The chat was answered with {reply.status}: {reply.read(500).decode(errors='replace')}")
    while line := reply.readline():
        if line.startswith(b"data: {") and _has_text(json.loads(line[6:])):
            break
    connection.close()


def _has_text(chunk: dict) -> bool:
    return any(choice["delta"].get("content") for choice in chunk.get("choices", ()))


def _wait_until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not check():
        if time.monotonic() > deadline:
            raise CannotMeasure(f"Nothing was ready within {START_TIMEOUT:.0f} s.")
        time.sleep(POLL_INTERVAL)


def _median(samples: list[dict]) -> dict:
    figures = {name: [sample[name] for sample in samples] for name in COLUMNS}
    return {name: None if None in found else round(statistics.median(found), 2) for name, found in figures.items()}
