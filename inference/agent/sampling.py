"""Takes figures of this machine at the configured interval, in a thread. Apps above register what is to be taken."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from django.db import DatabaseError, InterfaceError, close_old_connections

from accounts import configuration
from core.periodic import Level, Periodic
from inference.models import Node

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how soon a new interval is in force


class Sampler(Protocol):
    def sample(self, node: Node) -> None:
        """Measure now. May raise what the database raises; what was measured is the sampler's to keep until then."""


_samplers: list[Sampler] = []


def register(sampler: Sampler) -> None:
    _samplers.append(sampler)


class Sampling(threading.Thread):
    """`node` gives this machine's row, None until the agent has registered it."""

    def __init__(self, node: Callable[[], Node | None]):
        super().__init__(name="sampling", daemon=True)
        self._node = node
        self._loop = Periodic("sampling", Level.HIGH, configuration.current().gpu_monitor_interval)
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        sampled_at = float("-inf")
        while not self._stopping.wait(LOOK_SECONDS):
            node, now = self._node(), time.monotonic()
            if node and now - sampled_at >= configuration.current().gpu_monitor_interval - LOOK_SECONDS / 2:
                sampled_at, self._loop.interval = now, configuration.current().gpu_monitor_interval
                with self._loop.turn():
                    self._sample(node)

    def _sample(self, node: Node) -> None:
        for sampler in _samplers:
            try:
                sampler.sample(node)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("sampling: the database is away (%s); samples are kept", type(error).__name__)
            finally:
                close_old_connections()
