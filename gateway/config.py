"""The data plane's settings, gathered once: code in the hot path reads attributes, not Django's settings."""

from dataclasses import dataclass

from django.conf import settings


@dataclass(slots=True, frozen=True)
class GatewayConfig:
    """Sizes are in bytes, times in seconds. `reply_timeout` is for replies that are not streamed."""

    pepper: bytes
    salt_key: bytes
    anonymous: str = ""
    max_body: int = 16 * 1024 * 1024
    body_timeout: float = 60
    connect_timeout: float = 2
    first_byte_timeout: float = 120
    idle_timeout: float = 30
    reply_timeout: float = 600
    total_timeout: float = 1800
    send_timeout: float = 60
    queue_limit: int = 256

    @classmethod
    def from_settings(cls) -> "GatewayConfig":
        return cls(
            pepper=settings.KEY_PEPPER,
            salt_key=settings.CACHE_SALT_KEY,
            anonymous=settings.ANONYMOUS_TENANT,
            max_body=settings.GATEWAY_MAX_BODY,
            body_timeout=settings.GATEWAY_SEND_TIMEOUT,
            connect_timeout=settings.GATEWAY_CONNECT_TIMEOUT,
            first_byte_timeout=settings.GATEWAY_FIRST_BYTE_TIMEOUT,
            idle_timeout=settings.GATEWAY_IDLE_TIMEOUT,
            reply_timeout=settings.GATEWAY_REPLY_TIMEOUT,
            total_timeout=settings.GATEWAY_TOTAL_TIMEOUT,
            send_timeout=settings.GATEWAY_SEND_TIMEOUT,
            queue_limit=settings.GATEWAY_QUEUE_LIMIT,
        )
