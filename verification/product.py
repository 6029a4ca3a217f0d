"""A whole product in its own folder, started by `manage.py up`, with user actions and faults."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import redis

from launcher import run_state
from launcher.data_folder import ROOT

UP_TIMEOUT = 180
WAIT_TIMEOUT = 180
WEB_PROCESSES = 3
FINAL_STATUSES = ("succeeded", "failed")


class VerifiedProduct:
    """A running `up` in its own folder; requests are sent as its operator."""

    def __init__(self, folder: Path):
        self.data, self._log = folder / "data", folder / "up.log"
        command = [sys.executable, str(ROOT / "manage.py"), "up", "--port", "0", "--web", str(WEB_PROCESSES)]
        environment = os.environ | {"SERAI_DATA": str(self.data)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def wait_until_up(self) -> None:
        eventually(lambda: "agent: node" in self._log.read_text() and "Address" in self._log.read_text(), UP_TIMEOUT)
        record = json.loads((self.data / "first-run.json").read_text())
        self.address, self._key = urlsplit(record["base_url"]).netloc, record["api_key"]
        login = {"username": record["username"], "password": record["password"]}
        self._token = self._request("POST", "/api/auth/token", login, credential="")[1]["access_token"]

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def request(self, method: str, path: str, body: dict | None = None) -> dict:
        """Send a request as the operator; repeat it while the database is down. Raises ValueError for a 4xx reply."""
        deadline = time.monotonic() + WAIT_TIMEOUT
        while True:
            status, reply = self._request(method, path, body, credential=self._token)
            if status < 400:
                return reply
            if status < 500 or time.monotonic() > deadline:
                raise ValueError(f"{method} {path}: {status} {reply}")
            time.sleep(0.5)

    def run_task(self, verb: str, model: str) -> str:
        """Returns the final status of the task."""
        path = f"/api/tasks/{self.request('POST', f'/api/models/{model}/{verb}', {})['task_id']}"
        eventually(lambda: self.request("GET", path)["status"] in FINAL_STATUSES)
        return self.request("GET", path)["status"]

    def stream(self, model: str, tokens: int) -> str:
        """The outcome of one stream: `whole`, `refused` (503 with Retry-After before the first byte) or `broken: …`."""
        body = {"model": model, "messages": [{"role": "user", "content": "go on"}], "stream": True,
                "max_tokens": tokens}  # fmt: skip
        connection = http.client.HTTPConnection(self.address, timeout=WAIT_TIMEOUT)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), self._headers(self._key))
            reply = connection.getresponse()
            text = reply.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return f"broken: {error!r}"
        finally:
            connection.close()
        if reply.status == 503 and reply.headers["Retry-After"]:
            return "refused"
        whole = reply.status == 200 and text.endswith("data: [DONE]\n\n")
        return "whole" if whole else f"broken: {reply.status} {text[-200:]}"

    def store(self, name: str) -> psutil.Process:
        """The process of Valkey, or the main process of Postgres."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return next(process for process in found if process.name().startswith(name))

    def lose_valkey(self) -> None:
        url = run_state.load(self.data)["servers"]["REDIS_URL"]
        redis.Redis.from_url(url).flushall()
        self.store("valkey").kill()

    def lose_postgres(self) -> None:
        """Immediate shutdown, which drops the connections of its clients."""
        self.store("postgres").send_signal(signal.SIGQUIT)

    def engines(self) -> Counter:
        """Number of engine processes by instance."""
        found = [process for process in psutil.process_iter(["cmdline"]) if "--uds" in (process.info["cmdline"] or [])]
        marks = [process.environ() for process in found if process.is_running()]
        return Counter(env["SERAI_INSTANCE"] for env in marks if env.get("SERAI_DATA_FOLDER") == str(self.data))

    def _request(self, method: str, path: str, body: dict | None, credential: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection(self.address, timeout=WAIT_TIMEOUT)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, self._headers(credential))
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            return 503, {"error": repr(error)}
        finally:
            connection.close()

    def _headers(self, credential: str) -> dict:
        bearer = {"Authorization": f"Bearer {credential}"} if credential else {}
        return {"Content-Type": "application/json", "Connection": "close", "Serai-Tenant": "default", **bearer}


def eventually(check: Callable[[], bool], seconds: float = WAIT_TIMEOUT) -> None:
    """Wait until `check` is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"It did not come true within {seconds} s.")
        time.sleep(0.2)
