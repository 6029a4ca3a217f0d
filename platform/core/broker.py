"""Connections to Valkey (or Redis). Valkey is disposable: every caller continues without it."""

from functools import cache

import redis
import redis.asyncio
from django.conf import settings

TIMEOUT = 2.0  # seconds; a caller that waits longer continues without the broker
UNAVAILABLE = (redis.RedisError, OSError)


@cache
def client() -> redis.Redis:
    """For threads; every call has a timeout. Raises one of UNAVAILABLE."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)


def async_client(timeout: float | None = TIMEOUT) -> redis.asyncio.Redis:
    """For one event loop; the caller closes it. A subscriber sets no timeout: silence is its normal state."""
    return redis.asyncio.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=timeout,
        socket_connect_timeout=TIMEOUT,
        socket_keepalive=True,
        health_check_interval=15,
    )
