"""Health checks of the engine API (`/api/v1/health`). They are public: no names, addresses or error texts."""

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
    """All components by name. Workers and the queue are read from the database, so they are down when it is."""
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
    """The data plane of this process: whether it has the configuration to serve, and how long the process has run."""
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    uptime = datetime.now(UTC) - started
    details = {"startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ"), "uptime": _duration(int(uptime.total_seconds()))}
    return Component(gateway.can_serve, details)


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s"


def _coordinator() -> Component:
    """Machines that can run models, and requests that wait for a model to start; `maxSize` is the limit per model."""
    total, healthy = Node.objects.count(), Node.objects.alive().count()
    waiting = sum(sum(heartbeat.waiting.values()) for heartbeat in gateway_reports.read().beats)
    details = {
        "workers": {"total": total, "healthy": healthy, "unhealthy": total - healthy},
        "queue": {"pendingTasks": waiting, "maxSize": settings.GATEWAY_QUEUE_LIMIT},
    }
    return Component(healthy > 0, details)


def _database() -> Component:
    def select_one() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    return _timed(select_one, (DatabaseError, InterfaceError))


def _redis() -> Component:
    timeouts = {"socket_timeout": REDIS_SECONDS, "socket_connect_timeout": REDIS_SECONDS}
    with redis.Redis.from_url(settings.REDIS_URL, **timeouts) as client:
        return _timed(client.ping, redis.RedisError)


def _timed(probe: Callable[[], object], failures: type[Exception] | tuple[type[Exception], ...]) -> Component:
    started_at = time.monotonic()
    try:
        probe()
    except failures:
        return Component(False, {"connected": False})
    return Component(True, {"latencyMs": round((time.monotonic() - started_at) * 1000), "connected": True})
