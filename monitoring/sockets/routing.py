"""The WebSocket routes."""

from channels.routing import URLRouter
from django.urls import path, re_path

from monitoring.sockets.consumers import MonitorConsumer

NOT_FOUND = 4404


async def no_such_socket(scope, receive, send):
    await receive()
    await send({"type": "websocket.close", "code": NOT_FOUND})


sockets = URLRouter(
    [
        path("ws/monitor", MonitorConsumer.as_asgi()),  # type: ignore[arg-type, list-item]  # stubs know HTTP views only
        re_path("", no_such_socket),  # type: ignore[list-item]  # stubs know HTTP views only
    ]
)
