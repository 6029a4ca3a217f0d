"""Readiness checks of servers. Each returns within about a second and never raises."""

import http.client
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

ReadinessCheck = Callable[[], bool]


def http_ok(host: str, port: int, path: str) -> ReadinessCheck:
    """True if GET `path` returns 200."""

    def check() -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=1)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return check


def postgres_accepts(program: Path, host: str, port: int, role: str) -> ReadinessCheck:
    """`program` is pg_isready: unlike a connection, it writes no line to the log of a starting server."""
    command = [str(program), "-q", "-t", "1", "-h", host, "-p", str(port), "-U", role, "-d", role]
    return lambda: subprocess.run(command, capture_output=True).returncode == 0


def valkey_answers(host: str, port: int, password: str) -> ReadinessCheck:
    def check() -> bool:
        try:
            return _ping(host, port, password).endswith(b"+PONG\r\n")
        except OSError:
            return False

    return check


def _ping(host: str, port: int, password: str) -> bytes:
    replies = b""
    with socket.create_connection((host, port), timeout=1) as connection:
        connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        while replies.count(b"\r\n") < 2 and (part := connection.recv(256)):
            replies += part
    return replies
