"""The whole product, started by `manage.py up` once per test process, and users of its public interfaces."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.browser_page import blank_page
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
UP_TIMEOUT = 120
SERVERS = ("DATABASE_URL", "REDIS_URL")  # the product has its own, not the tests'
ADAPTERS = "tests.fakes.fake_aware_engine.FakeAwareEngine,engines.llamacpp.LlamaCppEngine"


@dataclass
class Person:
    """A caller with a credential; `get`, `post` and others are those of httpx."""

    name: str
    client: httpx.Client
    credential: str
    tenant: str = ""

    def __getattr__(self, verb):
        return getattr(self.client, verb)


@dataclass
class LiveProduct:
    """A running `up`: its address, its first-run record, the users created in it."""

    base_url: str
    record: dict
    data: Path
    process: subprocess.Popen
    people: list = field(default_factory=list)

    def client(self, credential: str | None = None, **headers) -> httpx.Client:
        if credential:
            headers["Authorization"] = f"Bearer {credential}"
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=60)

    def login(self, username: str, password: str) -> str:
        reply = self.client().post("/api/auth/token", json={"username": username, "password": password})
        assert reply.status_code == 200, reply.text
        return reply.json()["access_token"]

    @property
    def operator(self) -> Person:
        token = self.login(self.record["username"], self.record["password"])
        return Person("operator", self.client(token), token)

    def manage(self, *arguments: str, timeout: float = 120) -> str:
        """What `manage.py` with these arguments prints; it finds the product's servers by the data folder."""
        environment = {name: value for name, value in os.environ.items() if name not in SERVERS}
        environment |= {"SERAI_DATA": str(self.data), "SERAI_NO_VENV": "1"}
        command = [sys.executable, str(ROOT / "manage.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, done.stderr[-2000:] or done.stdout[-2000:]
        return done.stdout

    def install_engine(self, name: str) -> None:
        """Instant if it is there. Once it returns, the product can start the engine."""
        self.manage("engine", "install", name, timeout=1800)

    def tenant(self, slug: str) -> "LiveTenant":
        reply = self.operator.post("/api/tenants", json={"slug": slug, "name": slug.title()})
        assert reply.status_code == 201, reply.text
        return LiveTenant(self, slug)


@dataclass
class LiveTenant:
    product: LiveProduct
    slug: str

    def person(self, role: str) -> Person:
        """A new user with this role in this tenant only."""
        name, password = f"{role}-{uuid.uuid4().hex[:8]}", f"pass-{uuid.uuid4().hex}"
        headers = {"Serai-Tenant": self.slug}
        fields = {"username": name, "password": password, "role": role}
        reply = self.product.operator.post("/api/members", json=fields, headers=headers)
        assert reply.status_code == 201, reply.text
        token = self.product.login(name, password)
        return Person(name, self.product.client(token), token, self.slug)

    def key(self, **fields) -> Person:
        """An API key of this tenant; by default with all scopes of a key."""
        fields = {
            "name": "test",
            "role": "owner",
            "scopes": ["read", "inference", "training", "models", "monitoring"],
        } | fields
        reply = self.product.operator.post("/api/keys", json=fields, headers={"Serai-Tenant": self.slug})
        assert reply.status_code == 201, reply.text
        secret = reply.json()["secret"]
        person = Person("key", self.product.client(secret), secret, self.slug)
        person.key_id = reply.json()["id"]
        return person

    def fake_model(self, name: str | None = None, **fields) -> str:
        """A model of this tenant that runs on the fake engine; `behaviour` are its switches. Returns the name."""
        name = name or f"fake-{uuid.uuid4().hex[:8]}"
        behaviour = fields.pop("behaviour", {})
        body = {
            "name": name, "framework": "vllm", "tags": ["fake"], "description": json.dumps(behaviour), "mode": "Chat",
            "config": {"model_path": "serai-demo"},
        } | fields  # fmt: skip
        reply = self.product.operator.post("/api/models", json=body, headers={"Serai-Tenant": self.slug})
        assert reply.status_code == 201, reply.text
        return name


@contextmanager
def running(data: Path, *arguments: str, **more: str) -> Iterator[LiveProduct]:
    """`up` on this data folder and a free port, ended by a signal; `more` are variables of its environment."""
    environment = {name: value for name, value in os.environ.items() if name not in SERVERS}
    environment |= {
        "SERAI_DATA": str(data), "SERAI_PORT": "0", "SERAI_NO_VENV": "1", "SERAI_SKIP_ENGINE_INSTALL": "1",
        "SERAI_ENGINE_ADAPTERS": ADAPTERS, "SERAI_FIRST_BYTE_TIMEOUT": "5",
        "SERAI_IDLE_TIMEOUT": "5", "SERAI_TRAINER": "tests.support.agent_jobs.trainer",
        "SERAI_TOKEN_COUNTER": "tests.support.agent_jobs.counter", **more,
    }  # fmt: skip
    with (data.parent / f"{data.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "up", *arguments],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield _wait_until_up(data, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_until_up(data: Path, process: subprocess.Popen) -> LiveProduct:
    record, log = data / "first-run.json", data.parent / f"{data.name}.log"

    def healthy() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        if not record.exists():
            return False
        try:
            return httpx.get(json.loads(record.read_text())["base_url"] + "/health").status_code == 200
        except (httpx.TransportError, ValueError):
            return False

    eventually(healthy, UP_TIMEOUT)
    found = json.loads(record.read_text())
    product = LiveProduct(found["base_url"], found, data, process)
    eventually(lambda: "agent: node" in log.read_text(), 30)  # starts are placed only on a node with a heartbeat
    return product


@pytest.fixture(scope="session")
def app_page() -> Iterator[str]:
    """The origin of a page on another site, which the product's CORS setting allows."""
    with blank_page() as origin:
        yield origin


@pytest.fixture(scope="session")
def product(app_page) -> Iterator[LiveProduct]:
    with (
        tempfile.TemporaryDirectory(prefix="serai-up-") as folder,
        running(Path(folder) / "data", SERAI_CORS_ORIGINS=app_page) as started,
    ):
        yield started


@pytest.fixture(scope="session")
def acme(product) -> LiveTenant:
    """The tenant that owns the rows of the tests."""
    return product.tenant(f"acme-{uuid.uuid4().hex[:6]}")


@pytest.fixture(scope="session")
def globex(product) -> LiveTenant:
    """Another tenant, whose users must not see anything of acme."""
    return product.tenant(f"globex-{uuid.uuid4().hex[:6]}")


@pytest.fixture(scope="session")
def owner(acme) -> Person:
    return acme.person("owner")


@pytest.fixture(scope="session")
def member(acme) -> Person:
    return acme.person("member")


@pytest.fixture(scope="session")
def viewer(acme) -> Person:
    return acme.person("viewer")


@pytest.fixture(scope="session")
def key(acme) -> Person:
    return acme.key()


@pytest.fixture(scope="session")
def stranger(globex) -> Person:
    """An owner of another tenant: must never see anything of acme."""
    return globex.person("owner")


@pytest.fixture
def operator(product) -> Person:
    return product.operator
