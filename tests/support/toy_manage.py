"""A manage.py with toy services, to test the launcher: it is copied beside a copy of the launcher.

TOY_WORKER chooses what the worker does: stay, crash once, ignore SIGTERM, or leave a grandchild behind.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent / "platform"))

from launcher import up
from launcher.start_errors import CannotStart

RECORD = {
    "username": "admin",
    "password": "toy-password",
    "tenant": "default",
    "api_key": "sk-serai-toy",
    "model": "toy",
}
DATA = Path(os.environ.get("SERAI_DATA", "."))


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_arguments):
        return


def web(fd: str) -> None:
    listener = socket.socket(fileno=int(fd))
    server = HTTPServer(listener.getsockname(), Health, bind_and_activate=False)
    server.socket = listener
    server.serve_forever()


def scheduler() -> None:
    time.sleep(600)


def worker() -> None:
    kind = os.environ.get("TOY_WORKER", "stay")
    if kind == "crash" and not (DATA / "crashed").exists():
        (DATA / "crashed").touch()
        sys.exit(3)
    if kind == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "grandchild":  # in a session of its own, as an engine's shim is
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(f"worker works ({kind})", flush=True)
    time.sleep(600)


def engine(kind: str) -> int:
    while kind == "wait" and not (DATA / "go-on").exists():
        time.sleep(0.05)
    if kind == "1":
        print("no luck", flush=True)
    return int(kind == "1")


def first_run(base_url: str, *options: str) -> None:
    """TOY_FIRST=0: a later start."""
    shown, first = "--with-secrets" in options, os.environ.get("TOY_FIRST", "1") == "1"
    record = {**RECORD, "base_url": base_url, "console_url": f"{base_url}/console/", "first": first}
    record["record_file"] = str(DATA / "first-run.json")
    record["login_link"] = f"{base_url}/console/enter/toy" if shown else None
    hidden = {} if shown and first else {"password": None, "api_key": None}
    print(json.dumps({**record, **hidden, "has_operator": os.environ.get("TOY_OPERATOR", "1") == "1"}))


def run(name: str, *arguments: str) -> int:
    if name == "up":
        return up.main(arguments)
    if name == "migrate":
        return int(os.environ.get("TOY_MIGRATE", "0"))
    if name == "engine":
        return engine(os.environ.get("TOY_ENGINE", "0"))
    {"web": web, "worker": worker, "scheduler": scheduler, "first_run": first_run}[name](*arguments[1:])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(run(*sys.argv[1:]))
    except CannotStart as problem:
        sys.exit(f"serai: {problem}")
