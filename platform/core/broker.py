"""Connections to Valkey (or Redis), which is disposable: whoever asks it for something lives on without an answer."""

from functools import cache

import redis
import redis.asyncio
from django.conf import settings

PATIENCE = 2.0  # seconds: what waits longer for a broker does without it
UNAVAILABLE = (redis.RedisError, OSError)


@cache
def client() -> redis.Redis:
    """For threads; every call is bounded by PATIENCE. Raises one of UNAVAILABLE."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)


def async_client(timeout: float | None = PATIENCE) -> redis.asyncio.Redis:
    """For one event loop; to be closed by the caller. A subscriber asks for no timeout: silence is its normal state."""
    return redis.asyncio.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=timeout,
        socket_connect_timeout=PATIENCE,
        socket_keepalive=True,
        health_check_interval=15,
    )
