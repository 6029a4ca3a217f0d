"""The web server: `manage.py web`. Under `up` it takes over a socket that is already bound."""

import argparse
import os
import socket
from collections.abc import Sequence

import uvicorn

from core.asgi_server import shutdown

SHUTDOWN_TIMEOUT = 20


class WebServer(uvicorn.Server):
    """Waits for open replies, but first ends event streams, which do not end by themselves."""

    def handle_exit(self, sig, frame) -> None:
        shutdown.begin()
        super().handle_exit(sig, frame)


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    server = WebServer(
        uvicorn.Config(
            "config.asgi:application",
            host=options.host,
            port=options.port,
            loop="uvloop",
            http="httptools",
            lifespan="on",
            ws_per_message_deflate=False,  # events are small, and one compressor per socket takes much memory
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
        )
    )
    server.run([socket.socket(fileno=options.fd)] if options.fd is not None else None)
    return 0 if server.started else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="manage.py web", description="Serve the console and both APIs.")
    parser.add_argument("--host", default=os.environ.get("SERAI_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("SERAI_PORT", "8000"))
    parser.add_argument("--fd", type=int, help="a bound socket to serve instead, inherited from the supervisor")
    return parser
