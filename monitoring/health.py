"""Whether each part of the platform answers, as the engine document tells it. Public: no names, addresses, errors."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil
import redis
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from gateway.asgi import gateway
from inference.instances import gateway_reports
from inference.models import Node

REDIS_SECONDS = 1.0
UP, DOWN = "UP", "DOWN"


@dataclass(frozen=True)
class Component:
    up: bool
    details: dict = field(default_factory=dict)

    @property
    def word(self) -> str:
        return UP if self.up else DOWN


def check() -> dict[str, Component]:
    """Every component by name. Workers and queue are known from the database only."""
    database = _database()
    return {
        "gateway": _gateway(),
        "coordinator": _coordinator() if database.up else Component(False),
        "redis": _redis(),
        "database": database,
    }


def overall(components: dict[str, Component]) -> str:
    return UP if all(component.up for component in components.values()) else DOWN


def _gateway() -> Component:
    """This process's data plane: whether it knows enough to serve, and since when the process runs."""
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    uptime = datetime.now(UTC) - started
    details = {"startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ"), "uptime": _duration(int(uptime.total_seconds()))}
    return Component(gateway.can_serve, details)


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s"


def _coordinator() -> Component:
    """Machines that can run models, and requests that wait for one to start; `maxSize` is the limit per model."""
    total, healthy = Node.objects.count(), Node.objects.alive().count()
    waiting = sum(sum(beat.waiting.values()) for beat in gateway_reports.read().beats)
    details = {
        "workers": {"total": total, "healthy": healthy, "unhealthy": total - healthy},
        "queue": {"pendingTasks": waiting, "maxSize": settings.GATEWAY_QUEUE_LIMIT},
    }
    return Component(healthy > 0, details)


def _database() -> Component:
    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    return _timed(ask, (DatabaseError, InterfaceError))


def _redis() -> Component:
    limits = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
    with redis.Redis.from_url(settings.REDIS_URL, **limits) as client:
        return _timed(client.ping, redis.RedisError)


def _timed(ask: Callable[[], object], failures: type[Exception] | tuple[type[Exception], ...]) -> Component:
    begun = time.monotonic()
    try:
        ask()
    except failures:
        return Component(False, {"connected": False})
    return Component(True, {"latencyMs": round((time.monotonic() - begun) * 1000), "connected": True})
