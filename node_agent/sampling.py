"""Samples this machine at the configured interval, in two threads. Apps above register their samplers."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from accounts import configuration
from core.periodic import LoopSeverity, Periodic
from inference.models import Node

logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0  # a changed interval takes effect within this time
STOP_TIMEOUT = 5.0


class Sampler(Protocol):
    def sample(self, node: Node) -> None:
        """Measure now and buffer the result. Never waits for the database."""

    def write(self, node: Node) -> None:
        """Write the buffered results. May wait for the database and raise its errors."""


_samplers: list[Sampler] = []


def register(sampler: Sampler) -> None:
    _samplers.append(sampler)


class Sampling:
    """Two threads: one measures on a clock, the other writes. `node` returns this machine's row, or None."""

    def __init__(self, node: Callable[[], Node | None]):
        self._node = node
        self._measuring = Periodic("sampling", LoopSeverity.HIGH, POLL_INTERVAL)
        self._writing = Periodic("sample writer", LoopSeverity.HIGH, POLL_INTERVAL)
        self._stopping = threading.Event()
        self._measured = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (("sampling", self._measure), ("samples", self._write))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._measured.set()
        for thread in self._threads:
            thread.join(STOP_TIMEOUT)

    def _measure(self) -> None:
        sampled_at = float("-inf")
        while not self._stopping.wait(POLL_INTERVAL):
            node, now, interval = self._node(), time.monotonic(), configuration.current().gpu_monitor_interval
            if node and now - sampled_at >= interval - POLL_INTERVAL / 2:
                sampled_at = now
                self._measuring.interval = self._writing.interval = interval
                with self._measuring.turn():
                    for sampler in _samplers:
                        sampler.sample(node)
                self._measured.set()
        self._measuring.end()

    def _write(self) -> None:
        while not self._stopping.is_set():
            self._measured.wait()
            self._measured.clear()
            if node := self._node():
                with self._writing.turn():
                    self._write_all(node)
        self._writing.end()
        connection.close()

    def _write_all(self, node: Node) -> None:
        for sampler in _samplers:
            close_old_connections()
            try:
                sampler.write(node)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("sampling: the database is away (%s); samples are kept", type(error).__name__)
