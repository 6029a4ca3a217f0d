"""Many clients stream while models are restarted, scaled and evicted and the stores are killed: `verify streams`."""

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from verification.product import VerifiedProduct, eventually

SERVED, GUESTS = "served", ("left", "right")
GUEST_SHARE = 5  # one client of so many
SLOTS = 3  # instances at a time: two replicas, and one slot for two models
TOKENS = 30
ENGINE = "--interval 0.1"
RETRY_INTERVAL = 1.0


class StreamingClients:
    """Clients that send one stream after another: most to the served model, the guests to two models in turn."""

    def __init__(self, product: VerifiedProduct, clients: int):
        self._product = product
        self._guests = max(1, clients // GUEST_SHARE)
        self._regulars = max(1, clients - self._guests)
        self._is_over = threading.Event()
        self.outcomes: dict[str, Counter] = {name: Counter() for name in (SERVED, *GUESTS)}

    def run_during(self, work: Callable[[], dict]) -> dict:
        with ThreadPoolExecutor(self._regulars + 1) as pool:
            clients = [pool.submit(self._stream_until_over) for _client in range(self._regulars)]
            clients.append(pool.submit(self._stream_as_guests))
            try:
                eventually(lambda: self.outcomes[SERVED]["whole"] >= self._regulars)
                result = work()
                self._wait_for_another_stream()
            finally:
                self._is_over.set()
            for client in clients:
                client.result()
        return result

    def _wait_for_another_stream(self) -> None:
        for outcomes in self.outcomes.values():
            eventually(partial(_has_whole, outcomes, outcomes["whole"] + 1))

    def _stream_until_over(self) -> None:
        while not self._is_over.is_set():
            self._stream(SERVED)

    def _stream_as_guests(self) -> None:
        """All guests end on one model before they use the other, which then replaces it."""
        with ThreadPoolExecutor(self._guests) as pool:
            while not self._is_over.is_set():
                for model in GUESTS:
                    list(pool.map(self._stream, [model] * self._guests))

    def _stream(self, model: str) -> None:
        outcome = self._product.stream(model, TOKENS)
        self.outcomes[model][outcome] += 1
        if outcome == "refused":
            time.sleep(RETRY_INTERVAL)


def _has_whole(outcomes: Counter, count: int) -> bool:
    return outcomes["whole"] >= count


def run(folder: Path, _servers: None, options: argparse.Namespace) -> dict:
    """`_servers` is not used: the product starts its own servers."""
    product = VerifiedProduct(folder)
    try:
        product.wait_until_up()
        return _run_clients(product, options.clients)
    finally:
        product.end()


def _run_clients(product: VerifiedProduct, clients: int) -> dict:
    product.request("PUT", "/api/config", {"max_concurrent_models": SLOTS})
    for name, replicas in ((SERVED, 2), *((name, 1) for name in GUESTS)):
        fields = {"name": name, "framework": "vllm", "description": ENGINE, "mode": "Chat", "wait_timeout": 180}
        files = {"config": {"model_path": "serai-demo"}, "replicas": replicas}
        product.request("POST", "/api/models", fields | files)
    product.run_task("start", SERVED)
    streaming, begun = StreamingClients(product, clients), time.monotonic()
    tasks = streaming.run_during(lambda: _inject_faults(product))
    seconds = time.monotonic() - begun
    violations = _find_violations(product, streaming, tasks)
    return {
        "clients": clients,
        "seconds": round(seconds, 1),
        "streams": {name: dict(outcomes) for name, outcomes in streaming.outcomes.items()},
        "tasks": tasks,
        "broken": violations,
    }


def _inject_faults(product: VerifiedProduct) -> dict[str, str]:
    """Three rounds of restart, stop, start and scaling: without a fault, without Valkey, without Postgres."""
    outcomes = {}
    for when, fault in (
        ("", None),
        (", Valkey lost", product.lose_valkey),
        (", Postgres lost", product.lose_postgres),
    ):
        if fault:
            fault()
        for verb in ("restart", "stop", "start"):
            outcomes[verb + when] = product.run_task(verb, SERVED)
        for replicas in (1, 2):
            _scale(product, replicas)
        print(f"{len(outcomes)} of 9 tasks done", file=sys.stderr, flush=True)
    return outcomes


def _scale(product: VerifiedProduct, replicas: int) -> None:
    """Requested once: a replica without room, while both guest models are busy, starts when one of them is idle."""
    product.request("PATCH", f"/api/models/{SERVED}", {"replicas": replicas})
    eventually(lambda: _ready_replicas(product, SERVED) == replicas)


def _ready_replicas(product: VerifiedProduct, model: str) -> int:
    return product.request("GET", f"/api/models/{model}")["replicas"]["ready"]


def _find_violations(product: VerifiedProduct, streaming: StreamingClients, tasks: dict[str, str]) -> list[str]:
    """Broken streams, tasks that did not succeed, instances with more than one engine."""
    wrong = [
        f"{count} x {model}: {outcome}"
        for model, outcomes in streaming.outcomes.items()
        for outcome, count in outcomes.items()
        if outcome.startswith("broken")
    ]
    wrong += [f"{task}: {status}" for task, status in tasks.items() if status != "succeeded"]
    engines = product.engines()
    wrong += [f"{instance} has {count} engines" for instance, count in engines.items() if count > 1]
    ready = sum(_ready_replicas(product, model) for model in (SERVED, *GUESTS))
    return wrong + ([f"{ready} instances are ready and {len(engines)} engines run"] if ready != len(engines) else [])
