"""Health checks of the engine API (`/api/v1/health`). They are public: no names, addresses or error texts."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil
import redis
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from core.times import utc_timestamp
from gateway.asgi import gateway
from inference.instances import gateway_reports
from inference.models import Node

REDIS_TIMEOUT = 1.0
UP, DOWN = "UP", "DOWN"


@dataclass(frozen=True)
class ComponentHealth:
    up: bool
    details: dict = field(default_factory=dict)

    @property
    def status(self) -> str:
        return UP if self.up else DOWN


def check_components() -> dict[str, ComponentHealth]:
    """All components by name. Workers and the queue are read from the database, so they are down when it is."""
    database = _database()
    return {
        "gateway": _gateway(),
        "coordinator": _coordinator() if database.up else ComponentHealth(False),
        "redis": _redis(),
        "database": database,
    }


def overall_status(components: dict[str, ComponentHealth]) -> str:
    return UP if all(component.up for component in components.values()) else DOWN


def _gateway() -> ComponentHealth:
    """The data plane of this process: whether it has the configuration to serve, and how long the process has run."""
    started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
    uptime = datetime.now(UTC) - started
    details = {"startTime": utc_timestamp(started), "uptime": _duration(int(uptime.total_seconds()))}
    return ComponentHealth(gateway.can_serve, details)


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s"


def _coordinator() -> ComponentHealth:
    """Machines that can run models, and requests that wait for a model to start; `maxSize` is the limit per model."""
    total, healthy = Node.objects.count(), Node.objects.online().count()
    waiting = sum(sum(heartbeat.waiting.values()) for heartbeat in gateway_reports.read_reports().heartbeats)
    details = {
        "workers": {"total": total, "healthy": healthy, "unhealthy": total - healthy},
        "queue": {"pendingTasks": waiting, "maxSize": settings.GATEWAY_QUEUE_LIMIT},
    }
    return ComponentHealth(healthy > 0, details)


def _database() -> ComponentHealth:
    def select_one() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    return _timed(select_one, (DatabaseError, InterfaceError))


def _redis() -> ComponentHealth:
    timeouts = {"socket_timeout": REDIS_TIMEOUT, "socket_connect_timeout": REDIS_TIMEOUT}
    with redis.Redis.from_url(settings.REDIS_URL, **timeouts) as client:
        return _timed(client.ping, redis.RedisError)


def _timed(probe: Callable[[], object], failures: type[Exception] | tuple[type[Exception], ...]) -> ComponentHealth:
    started_at = time.monotonic()
    try:
        probe()
    except failures:
        return ComponentHealth(False, {"connected": False})
    return ComponentHealth(True, {"latencyMs": round((time.monotonic() - started_at) * 1000), "connected": True})
